"""What a network makes of samples that it did not learn from: `Scores`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


@dataclass(frozen=True, slots=True)
class Scores:
    """What a network makes of samples that it did not learn from, all voxels together."""

    loss: float
    """Mean of all samples."""

    accuracy: float
    """Part of the voxels, or cases, whose class is right; or, where classes overlap, all of
    whose classes are."""

    dice: dict[str, float | None]
    """Of each class, over all voxels; None where it neither is nor was found anywhere."""

    @classmethod
    def of(cls, sums: torch.Tensor, counts: torch.Tensor, classes: Sequence[str]) -> Self:
        """Make scores of sums.

        Args:
            sums: (4,), of the losses and how many samples; how many voxels are right, and of all.
            counts: (3, classes): voxels that are of the class and found so, are, are found so.
            classes: their names.
        """
        both, true, found = counts.tolist()
        dice = {
            name: 2 * i / (t + f) if t + f else None
            for name, i, t, f in zip(classes, both, true, found, strict=True)
        }
        loss, samples, right, voxels = sums.tolist()
        return cls(
            loss / samples if samples else math.nan, right / voxels if voxels else math.nan, dice
        )

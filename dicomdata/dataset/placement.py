"""Where patches lie in a stack: anywhere, on a grid, or about voxels of chosen classes.

A place is the first voxel of a patch, (slice, row, column) of the stack. Along an axis where the
stack is smaller than the patch there is one place only: before the stack's first voxel, so that
the padding is symmetric, as MONAI's `SpatialPad` has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import starmap
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dicomdata.dataset.positions import ANY_CLASS
from dicomdata.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicomdata.dataset.positions import LabelPositions
    from dicomdata.stack import Stack

    Triple = tuple[int, int, int]


class Placement(Protocol):
    """Draws where a patch lies. Small, frozen, picklable, and without a state."""

    def check(self, stack: Stack) -> None:
        """Make sure that patches of a stack can be drawn.

        Raises:
            ConfigError: if not; names the stack.
        """
        ...

    def draw(self, stack: Stack, size: Triple, generator: np.random.Generator) -> Triple:
        """Give the first voxel of a patch of `size`; all randomness is the generator's."""
        ...


@dataclass(frozen=True, slots=True)
class UniformPatches:
    """Every place within the stack is equally likely, as in MONAI's `RandSpatialCrop`."""

    def check(self, stack: Stack) -> None:
        """Accept any stack."""

    def draw(self, stack: Stack, size: Triple, generator: np.random.Generator) -> Triple:
        """Give the first voxel of a patch."""
        s, r, c = (
            centred(length, wanted)
            if wanted >= length
            else int(generator.integers(length - wanted, endpoint=True))
            for length, wanted in zip(stack.shape, size, strict=True)
        )
        return s, r, c


@dataclass(frozen=True, slots=True, kw_only=True)
class GridPatches:
    """All windows that cover a stack, for inference: those of MONAI's `sliding_window_inference`.

    Raises:
        ConfigError: if the overlap is not a part of a patch.
    """

    overlap: float = 0.25
    """Part of a patch that it shares with the next, along each axis; from 0, below 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"overlap={self.overlap}: expected 0 or more, and less than 1")

    def axes(self, shape: Triple, size: Triple) -> tuple[range | list[int], ...]:
        """Give where windows begin, along each axis: every combination is one.

        The last of an axis is moved back, to end with the stack.
        """
        return tuple(starmap(self._starts, zip(shape, size, strict=True)))

    def count(self, shape: Triple, size: Triple) -> int:
        """Count the windows that cover a stack."""
        return math.prod(map(len, self.axes(shape, size)))

    def place(self, shape: Triple, size: Triple, number: int) -> Triple:
        """Give the first voxel of a window; columns change quickest with its number."""
        axes = self.axes(shape, size)
        indices = np.unravel_index(number, tuple(map(len, axes)))
        s, r, c = (axis[int(index)] for axis, index in zip(axes, indices, strict=True))
        return s, r, c

    def _starts(self, length: int, size: int) -> list[int]:
        if size >= length:
            return [centred(length, size)]
        step = max(int(size * (1 - self.overlap)), 1)
        count = math.ceil((length - size) / step) + 1
        return [min(number * step, length - size) for number in range(count)]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BalancedPatches:
    """Patches about voxels of chosen classes: as often of each as is asked for.

    A class is drawn first, then one of its voxels: the patch's centre, unless the patch had to be
    moved to lie within the stack. As MONAI's `RandCropByLabelClasses`, and with `foreground` as
    `RandCropByPosNegLabel`; the labels are looked at once, when the index is made.

    A class that a stack has not leaves its share to the others.

    Raises:
        ConfigError: if both `weights` and `foreground` are given, or weights are no weights.
    """

    index: LabelPositions
    """Where the classes are, in each stack."""

    weights: Mapping[int, float] | None = None
    """How often each class, relative to the others; None: all classes of the index alike."""

    foreground: float | None = None
    """Part of the patches about any class but 0, every voxel alike, also where classes overlap; the
    rest is about class 0. MONAI's pos / (pos + neg)."""

    def __post_init__(self) -> None:
        if self.weights is not None and self.foreground is not None:
            raise ConfigError("weights and foreground: expected one of them, got both")
        if self.foreground is not None and not 0 <= self.foreground <= 1:
            raise ConfigError(f"foreground={self.foreground}: expected a part, 0 to 1")
        if self.weights is not None:
            self._check_weights(self.weights)

    def check(self, stack: Stack) -> None:
        """Make sure that the index knows the stack, and a voxel to draw.

        Raises:
            ConfigError: if it was made of other stacks, or of a grid of another shape; if the
                stack has none of the classes that have a weight.
        """
        labels = self.index.of(stack)
        if not any(self._shares(labels.counts).values()):
            present = ", ".join(map(str, sorted({*labels.counts} - {ANY_CLASS}))) or "none"
            raise ConfigError(
                f"stack {stack.id}: no voxel of any class that patches are wanted of; it has "
                f"classes {present}: leave it out, or give one of them a weight"
            )

    def draw(self, stack: Stack, size: Triple, generator: np.random.Generator) -> Triple:
        """Give the first voxel of a patch."""
        labels = self.index.of(stack)
        shares = self._shares(labels.counts)
        label = _drawn(shares, generator)
        places = labels.positions[label]
        flat = int(places[generator.integers(len(places))])
        centre = np.unravel_index(flat, stack.shape)
        s, r, c = (
            about(int(at), length, wanted)
            for at, length, wanted in zip(centre, stack.shape, size, strict=True)
        )
        return s, r, c

    def _check_weights(self, weights: Mapping[int, float]) -> None:
        if not all(0 <= weight < math.inf for weight in weights.values()) or not any(
            weights.values()
        ):
            raise ConfigError(f"weights={dict(weights)}: expected 0 or more, and one above 0")
        if unknown := sorted(set(weights) - set(self.index.classes)):
            raise ConfigError(
                f"weights: no voxel of class {', '.join(map(str, unknown))} in any stack; the "
                f"index has {', '.join(map(str, self.index.classes))}"
            )

    def _shares(self, counts: Mapping[int, int]) -> dict[int, float]:
        """Give the weight of each class that a stack has."""
        if self.foreground is None:
            weights = self.weights
            return {
                label: 1 if weights is None else weights.get(label, 0)
                for label in counts
                if label != ANY_CLASS
            }
        if ANY_CLASS in counts:
            # Voxels of two classes are no likelier than others.
            counts = {label: counts[label] for label in (ANY_CLASS, 0) if label in counts}
        voxels = sum(count for label, count in counts.items() if label)
        return {
            label: self.foreground * count / voxels if label else 1 - self.foreground
            for label, count in counts.items()
        }


def centred(length: int, size: int) -> int:
    """Give where a patch begins that is larger than its axis: half of what is missing before it.

    0 where it is not larger.
    """
    return min(-((size - length) // 2), 0)


def about(centre: int, length: int, size: int) -> int:
    """Give where a patch begins whose centre is a voxel, moved to lie within the axis."""
    if size >= length:
        return centred(length, size)
    return min(max(centre - size // 2, 0), length - size)


def _drawn(shares: Mapping[int, float], generator: np.random.Generator) -> int:
    """Draw one of several classes by their shares."""
    ends = np.cumsum(list(shares.values()))
    # Right of equal ends: a share of 0 is never drawn.
    chosen = int(np.searchsorted(ends, generator.random() * ends[-1], side="right"))
    return list(shares)[chosen]

"""Masks that took long to compute, kept packed for when they are wanted again."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dicomdata.labels import Mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicomdata.labels import LabelFinding, Segment, Verdict
    from dicomdata.stack import Stack

MOST_BYTES = 2**28
"""What kept masks may take together: one of a whole CT takes some hundred kilobytes, packed."""


@dataclass(frozen=True, slots=True)
class _Packed:
    """A mask, but for its stack: bits of its voxels, compressed."""

    bits: bytes
    shape: tuple[int, ...]
    segments: tuple[Segment, ...]
    verdict: Verdict
    findings: tuple[LabelFinding, ...]
    path: str

    @classmethod
    def of(cls, mask: Mask) -> _Packed:
        # The fastest: masks are mostly runs of one bit.
        bits = zlib.compress(np.packbits(mask.voxels).tobytes(), level=1)
        shape = mask.voxels.shape
        return cls(bits, shape, mask.segments, mask.verdict, mask.findings, mask.path)

    def unpack(self, stack: Stack) -> Mask:
        packed = np.frombuffer(zlib.decompress(self.bits), np.uint8)
        count = int(np.prod(self.shape))
        voxels = np.unpackbits(packed, count=count).view(np.bool_).reshape(self.shape)
        return Mask(voxels, self.segments, stack, self.verdict, self.findings, self.path)


@dataclass(slots=True, eq=False)
class KeptMasks:
    """Gives the masks of a function, and computes none twice while there is room for it.

    Fractions are not kept: they do not pack.
    """

    read: Callable[[Stack], Mask]
    """Gives the mask of a stack."""

    max_bytes: int = MOST_BYTES
    """Room for what is kept."""

    _kept: dict[str, _Packed] = field(default_factory=dict)

    def __call__(self, stack: Stack) -> Mask:
        """Give the mask of a stack, computed now or before.

        Raises:
            DicomDataError: if it cannot be read.
        """
        kept = self._kept.get(stack.id)
        if kept is not None:
            return kept.unpack(stack)
        mask = self.read(stack)
        if mask.voxels.dtype == np.bool_:
            packed = _Packed.of(mask)
            if (
                sum(len(each.bits) for each in self._kept.values()) + len(packed.bits)
                <= self.max_bytes
            ):
                self._kept[stack.id] = packed
        return mask

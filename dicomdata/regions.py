"""Boxes of voxels: which part of a volume to read.

A region is in voxel indices (slice, row, column) of a `Stack`, half-open, as
Python's slices are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_ALL = slice(None)


def _whole() -> slice:
    return _ALL


@dataclass(frozen=True, slots=True)
class Region:
    """A box of voxels: one step-less Python slice along each axis of the array.

    Negative and missing ends mean what they mean in Python; ends beyond the
    volume are cut to it.
    """

    slices: slice = field(default_factory=_whole)
    """Along the normal, in slices."""

    rows: slice = field(default_factory=_whole)
    """Down the columns, in rows."""

    columns: slice = field(default_factory=_whole)
    """Along the rows, in columns."""

    def __hash__(self) -> int:
        return hash(tuple((axis.start, axis.stop, axis.step) for axis in self.axes))

    @property
    def axes(self) -> tuple[slice, slice, slice]:
        """The three slices, in the order of the array's axes."""
        return self.slices, self.rows, self.columns

    def within(self, shape: tuple[int, int, int]) -> tuple[range, range, range]:
        """Give the indices of the box inside a volume of `shape`, one range an axis.

        Raises:
            ValueError: if a slice has a step, or the box is empty.
        """
        ranges = tuple(
            range(*axis.indices(length)) for axis, length in zip(self.axes, shape, strict=True)
        )
        if any(indices.step != 1 for indices in ranges):
            raise ValueError(f"a region has no steps, got {self}")
        if not all(ranges):
            raise ValueError(f"{self} holds no voxel of a volume of shape {shape}")
        return ranges[0], ranges[1], ranges[2]

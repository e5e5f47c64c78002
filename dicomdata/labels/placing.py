"""Onto the grid of a Stack: which voxel of it each voxel of a label is, told by affines alone.

A label lies on the grid of its stack where each of its voxel centres is one of the stack's, in
whatever order, and whether it covers all of them or a part: then it is copied, exactly. Where the
centres are others it can only be resampled, which is done where that was asked for, and said.
Arrays and indices are (slice, row, column), affines map them to LPS mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from dicomdata.labels.records import VerdictKind

    Triple = tuple[int, int, int]

SAME_CENTRE = 0.1
"""Distance between voxel centres that is rounding, in voxels: .7031 mm written for .703125 comes to
.02 over 512 columns, and the next voxel is ten times as far."""

THICKER = 1.5
"""Slices that one plane of a label stands for, from which on it is of thicker slices: the next
whole number is 2, and spacing is stated with all kinds of errors."""

_AXES = ("slices", "rows", "columns")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a box of label voxels lies on a grid, voxel for voxel."""

    axes: Triple
    """Which axis of the label runs along the slices, the rows and the columns of the grid."""

    flipped: tuple[bool, bool, bool]
    """Whether it runs the other way."""

    start: Triple
    """The voxel of the grid that the first voxel becomes once axes are turned; may be outside."""

    shape: Triple
    """Of the label, once its axes are turned."""

    grid: Triple
    """Shape of the grid."""

    offset: float
    """Furthest that a voxel centre lies from the one it became, in voxels."""

    @property
    def kind(self) -> VerdictKind:
        """Tell a label that is the grid, voxel for voxel, from one that was turned or is a part."""
        return "same_grid" if not self.differences else "reindexed"

    @property
    def differences(self) -> tuple[str, ...]:
        """What was done to bring the label onto the grid, in words; empty where nothing was."""
        return self._describe(_AXES)

    @property
    def plane_differences(self) -> tuple[str, ...]:
        """The same of one plane among several: along the axis it is thin in, it is any part."""
        thin = self.axes.index(0)
        return self._describe([name for axis, name in enumerate(_AXES) if axis != thin])

    @property
    def slices_touched(self) -> range:
        """Which slices of the grid it lies on."""
        inside = self.overlap()
        return range(0) if inside is None else range(inside[1][0].start, inside[1][0].stop)

    def _describe(self, parts: Sequence[str]) -> tuple[str, ...]:
        """Say what is different, and along which axes of `parts` it is a part."""
        words = []
        if self.axes != (0, 1, 2):
            words.append(f"axes in the order {', '.join(_AXES[axis] for axis in self.axes)}")
        if any(self.flipped):
            turned = [name for name, flip in zip(_AXES, self.flipped, strict=True) if flip]
            words.append(f"flipped along {' and '.join(turned)}")
        for name, first, length, whole in zip(
            _AXES, self.start, self.shape, self.grid, strict=True
        ):
            if name in parts and (first, length) != (0, whole):
                words.append(f"{name} {first} to {first + length - 1} of {whole}")
        return tuple(words)

    def turn(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """View label voxels (..., slices, rows, columns) with their axes as those of the grid."""
        before = voxels.ndim - 3
        turned = voxels.transpose(*range(before), *(before + axis for axis in self.axes))
        back = tuple(before + axis for axis in range(3) if self.flipped[axis])
        view: NDArray[Any] = np.flip(turned, back)
        return view

    def overlap(self) -> tuple[tuple[slice, slice, slice], tuple[slice, slice, slice]] | None:
        """Give the box of the turned label and that of the grid which are the same voxels.

        None where the label lies wholly beside the grid.
        """
        first = [max(start, 0) for start in self.start]
        last = [
            min(start + length, whole)
            for start, length, whole in zip(self.start, self.shape, self.grid, strict=True)
        ]
        if any(begin >= end for begin, end in zip(first, last, strict=True)):
            return None
        within = [begin - start for begin, start in zip(first, self.start, strict=True)]
        lengths = [end - begin for begin, end in zip(first, last, strict=True)]
        return _box(within, lengths), _box(first, lengths)

    def copy(self, voxels: NDArray[Any], out: NDArray[Any]) -> int:
        """Copy label voxels onto the grid; what is 0 leaves the grid as it is.

        Args:
            voxels: (..., slices, rows, columns) of the label.
            out: (..., slices, rows, columns) of the grid, written to.

        Returns:
            How many voxels that are not 0 lie outside the grid, and were left out.
        """
        turned = self.turn(voxels)
        inside = self.overlap()
        there = int(np.count_nonzero(turned))
        if inside is None:
            return there
        source, target = inside
        part = turned[(..., *source)]
        box = out[(..., *target)]
        np.copyto(box, part, where=part != 0)
        return there - int(np.count_nonzero(part))


def place(
    affine: NDArray[np.float64],
    shape: Sequence[int],
    grid_affine: NDArray[np.float64],
    grid_shape: Sequence[int],
) -> Placement | None:
    """Find where a label lies on a grid, if its voxel centres are centres of the grid.

    Along an axis of one voxel the step of the label does not count.

    Args:
        affine: (4, 4), (slice, row, column, 1) of the label -> LPS mm.
        shape: of the label.
        grid_affine: (4, 4), the same of the grid.
        grid_shape: of the grid.

    Returns:
        None where a centre is off by more than `SAME_CENTRE`.
    """
    to_grid = np.linalg.inv(grid_affine) @ affine
    matrix = _signed_permutation(to_grid[:3, :3], shape)
    if matrix is None:
        return None
    lengths = np.array(shape)
    middle = (lengths - 1) / 2
    start = np.rint(to_grid[:3, :3] @ middle + to_grid[:3, 3] - matrix @ middle)
    corners = np.array(list(product(*((0, length - 1) for length in shape))), np.float64).T
    away = to_grid[:3, :3] @ corners + to_grid[:3, 3:] - (matrix @ corners + start[:, None])
    offset = float(np.abs(away).max())
    if not offset <= SAME_CENTRE:
        return None
    axes = np.abs(matrix).argmax(axis=1)
    flipped = matrix.sum(axis=1) < 0
    # Of a flipped axis, the last voxel comes first.
    first = start - np.where(flipped, lengths[axes] - 1, 0)
    return Placement(
        _triple(axes),
        cast("Any", tuple(flipped.tolist())),
        _triple(first),
        _triple(lengths[axes]),
        _triple(grid_shape),
        offset,
    )


def count_outside(
    voxels: NDArray[Any],
    affine: NDArray[np.float64],
    grid_affine: NDArray[np.float64],
    grid_shape: Sequence[int],
) -> int:
    """Count the voxels (slices, rows, columns) that are not 0 and have their centre off a grid."""
    to_grid = np.linalg.inv(grid_affine) @ affine
    places = to_grid[:3, :3] @ np.nonzero(voxels) + to_grid[:3, 3:]
    lengths = np.array(grid_shape).reshape(3, 1)
    # Half a voxel, and what rounding adds.
    beyond = (places < -0.5 - SAME_CENTRE) | (places > lengths - 0.5 + SAME_CENTRE)
    return int(np.count_nonzero(beyond.any(axis=0)))


def _box(first: Sequence[int], lengths: Sequence[int]) -> tuple[slice, slice, slice]:
    slices, rows, columns = (
        slice(begin, begin + length) for begin, length in zip(first, lengths, strict=True)
    )
    return slices, rows, columns


def _triple(numbers: Iterable[Any]) -> Triple:
    slices, rows, columns = (int(number) for number in numbers)
    return slices, rows, columns


def _signed_permutation(
    steps: NDArray[np.float64], shape: Sequence[int]
) -> NDArray[np.float64] | None:
    """Round the steps of a label, in voxels of the grid, to one axis each; None if they are not.

    A step along an axis of one voxel leads nowhere: it takes the axis that is left.
    """
    rounded = np.zeros((3, 3))
    long = [axis for axis in range(3) if shape[axis] > 1]
    for axis in long:
        step = np.rint(steps[:, axis])
        if np.abs(step).sum() != 1:
            return None
        rounded[:, axis] = step
    for axis in set(range(3)) - set(long):
        free = np.flatnonzero(np.abs(rounded).sum(axis=1) == 0)
        # Of several that are left, the one it points along most.
        along = max(free, key=lambda each: abs(steps[each, axis]), default=None)
        if along is None:
            return None
        rounded[along, axis] = 1.0
    if (np.abs(rounded).sum(axis=1) != 1).any():
        return None
    return rounded

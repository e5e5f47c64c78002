"""Slices of a repaired stack: filled, interpolated between frames, shifted within their plane.

What is done is planned in `stack.repair`; here it is done to voxels, in float32.
"""

from __future__ import annotations

import math
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import RescaleError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from numpy.typing import NDArray

    from dicomdata.stack import Stack

    Plane = NDArray[np.float32]
    ReadPlanes = Callable[[list[int], range], Generator[Plane, None, None]]
    """(frames, rows) -> output units of those rows of each frame, all columns."""

_INT16 = np.iinfo(np.int16)

_WHOLE = 1e-4
"""Pixels by which a shift may miss a whole number and count as one: 0.1 micrometre."""


def resample(
    stack: Stack, box: tuple[range, range, range], read: ReadPlanes, out: NDArray[Any], fill: float
) -> None:
    """Write a box of a repaired stack into `out`, of the shape of the box.

    Args:
        stack: with `sampling`, `shear` or both.
        box: slices, rows and columns of its grid.
        read: gives frames in output units, one after the other; asked once.
        out: float32, or int16 where all that comes out is whole and fits.
        fill: what lies where no frame does.

    Raises:
        RescaleError: if `out` is int16 and a voxel is not whole or does not fit.
    """
    slices, rows, columns = box
    every = stack.sampling or tuple(map(float, range(stack.shape[0])))
    places = [every[number] for number in slices]
    frames, needed = _needed_frames(places), _needed_rows(stack, slices, rows)
    with closing(read(frames, needed)) as coming:
        planes = _Planes(zip(frames, coming, strict=True))
        for k, (number, place) in enumerate(zip(slices, places, strict=True)):
            if place is None:
                plane = np.full((len(rows), len(columns)), fill, np.float32)
            else:
                row, column = stack.shear.at(number) if stack.shear else (0.0, 0.0)
                plane = _shifted(planes.at(place), needed.start + row, rows, fill)
                plane = _shifted(plane.T, column, columns, fill).T
            out[k] = _as_int16(plane) if out.dtype == np.int16 else plane


class _Planes:
    """Frames in output units, each read once, for slices that are asked for in order."""

    def __init__(self, coming: Iterator[tuple[int, Plane]]) -> None:
        self._coming = coming
        self._kept: dict[int, Plane] = {}

    def at(self, place: float) -> Plane:
        """Give the frame at `place`, or what lies between two, linearly."""
        below = math.floor(place)
        self._kept = {index: plane for index, plane in self._kept.items() if index >= below}
        plane, share = self._frame(below), place - below
        return plane + (self._frame(below + 1) - plane) * share if share else plane

    def _frame(self, index: int) -> Plane:
        while index not in self._kept:
            number, plane = next(self._coming)
            self._kept[number] = plane
        return self._kept[index]


def _needed_frames(places: list[float | None]) -> list[int]:
    """Give the frames that slices at some places are made of, in order."""
    known = [place for place in places if place is not None]
    return sorted({math.floor(place) for place in known} | {math.ceil(place) for place in known})


def _needed_rows(stack: Stack, slices: range, rows: range) -> range:
    """Give the rows of the frames that a box of the grid is made of."""
    height = stack.frames[0].kind.rows
    if stack.shear is None:
        return rows
    shifts = [stack.shear.at(number)[0] for number in (slices[0], slices[-1])]
    first = min(max(math.floor(rows.start - max(shifts)), 0), height - 1)
    # One row more: what lies between two rows needs both.
    return range(first, max(min(math.ceil(rows.stop - min(shifts)) + 1, height), first + 1))


def _shifted(plane: Plane, offset: float, wanted: range, fill: float) -> Plane:
    """Resample the rows of a plane, whose first lies at `offset`, at whole numbers, linearly."""
    at = wanted.start - offset
    base = math.floor(at + _WHOLE)
    share = at - base
    blends = share > _WHOLE
    # Output row i lies between rows base + i and base + i + 1 of the plane.
    first = max(-base, 0)
    stop = min(len(plane) - base - blends, len(wanted))
    if not blends and (first, stop) == (0, len(wanted)):
        return plane[base : base + stop]
    shifted: Plane = np.full((len(wanted), plane.shape[1]), fill, np.float32)
    if stop > first:
        low = plane[base + first : base + stop]
        high = plane[base + first + blends : base + stop + blends]
        shifted[first:stop] = low + (high - low) * share if blends else low
    return shifted


def _as_int16(plane: Plane) -> NDArray[np.int16]:
    """Give voxels that are whole and fit as int16.

    Raises:
        RescaleError: if one is not, or does not.
    """
    fits = np.isfinite(plane).all() and _INT16.min <= plane.min() and plane.max() <= _INT16.max
    if not (fits and np.array_equal(plane, np.rint(plane))):
        raise RescaleError("int16: interpolated voxels are not whole, or do not fit: read float32")
    return plane.astype(np.int16)

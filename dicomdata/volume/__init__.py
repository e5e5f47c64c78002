"""A Stack -> its voxels in output units, on a grid: `read_volume`, and the `Volume` it gives.

Each file is opened once; of native frames only the rows of the region are read, of compressed
ones only the frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import RescaleError
from dicomdata.geometry import lps_to_ras
from dicomdata.pixels import check_claim, read_stored
from dicomdata.regions import Region
from dicomdata.volume.resampling import resample
from dicomdata.volume.units import fill_value, write_output

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from dicomdata.header import Frame
    from dicomdata.stack import Stack

_DTYPES = (np.dtype(np.float32), np.dtype(np.int16))


@dataclass(frozen=True, eq=False, slots=True)
class Volume:
    """Voxels in output units on the grid of a Stack, or on a box of it."""

    voxels: NDArray[Any]
    """(slices, rows, columns), float32 or int16, in `unit`."""

    unit: str
    """"HU", "BQML", a Rescale Type, or "stored"."""

    valid: NDArray[np.bool_]
    """(slices,): whether the slice was measured, rather than filled in."""

    stack: Stack
    """Where it comes from."""

    region: Region = field(default_factory=Region)
    """Which box of the stack it is."""

    @property
    def affine_lps(self) -> NDArray[np.float64]:
        """(4, 4), read-only: (slice, row, column, 1) of `voxels` -> LPS mm."""
        affine = self.stack.affine_lps.copy()
        corner = [axis.start for axis in self.region.within(self.stack.shape)]
        affine[:3, 3] += affine[:3, :3] @ corner
        affine.flags.writeable = False
        return affine

    @property
    def affine_ras(self) -> NDArray[np.float64]:
        """(4, 4), read-only: (slice, row, column, 1) of `voxels` -> RAS mm."""
        return lps_to_ras(self.affine_lps)


def read_volume(
    stack: Stack,
    region: Region | None = None,
    *,
    dtype: DTypeLike = np.float32,
    padding: float | str | None = None,
) -> Volume:
    """Read a stack, or a box of it, in output units: HU for CT.

    Args:
        stack: what to read.
        region: which box; the whole by default. Only its bytes are read.
        dtype: float32, or int16 where every voxel is whole and fits.
        padding: what padded voxels become, instead of what the stack's policy says: "air",
            "keep" or a number.

    Raises:
        FileError: if a file cannot be read.
        StaleError: if a file or the catalog has changed since the stack was planned.
        PixelError: if a frame is cut short, undecodable, or contradicts its header.
        RescaleError: if int16 is asked for and a voxel is not whole or does not fit.
        ValueError: if the region is empty, or `dtype` is another.
    """
    out_type = np.dtype(dtype)
    if out_type not in _DTYPES:
        raise ValueError(f"dtype must be float32 or int16, got {out_type}")
    box = region or Region()
    slices, rows, columns = ranges = box.within(stack.shape)
    fill = stack.padding if padding is None else padding
    frames = stack.frames
    # Before memory is asked for: a header may claim anything.
    for frame in frames if stack.sampling else frames[slices.start : slices.stop]:
        check_claim(frame)
    # Not zeros: numpy's fresh pages are touched once, when the values are written.
    voxels = np.empty((len(slices), len(rows), len(columns)), out_type)
    if stack.sampling or stack.shear:
        _resample(stack, ranges, voxels, fill)
    else:
        for k, number in enumerate(slices):
            _read_frame(frames[number], (rows, columns), voxels[k], stack.unit, fill)
    return Volume(voxels, stack.unit, stack.valid[slices.start : slices.stop], stack, box)


def _read_frame(
    frame: Frame, box: tuple[range, range], out: NDArray[Any], unit: str, padding: float | str
) -> None:
    """Write rows and columns of a frame into `out`, in output units."""
    rows, columns = box
    stored = read_stored(frame, rows)[:, columns.start : columns.stop]
    try:
        write_output(stored, out, frame.kind, unit=unit, padding=padding)
    except RescaleError as error:
        raise RescaleError(f"{frame.path}: {error}") from error


def _resample(
    stack: Stack, box: tuple[range, range, range], voxels: NDArray[Any], padding: float | str
) -> None:
    """Write a box of a repaired stack into `voxels`."""
    frames = stack.frames

    def read(index: int, rows: range) -> NDArray[np.float32]:
        plane = np.empty((len(rows), columns.stop - columns.start), np.float32)
        _read_frame(frames[index], (rows, columns), plane, stack.unit, padding)
        return plane

    # A shift along the rows needs columns beyond those of the box.
    columns = range(frames[0].kind.columns) if stack.shear else box[2]
    within = range(box[2].start - columns.start, box[2].stop - columns.start)
    try:
        fill = fill_value(frames[0].kind, stack.unit, padding)
        resample(stack, (box[0], box[1], within), read, voxels, fill)
    except RescaleError as error:
        raise RescaleError(f"{frames[0].path}: {error}") from error

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
from dicomdata.pixels import read_stored
from dicomdata.regions import Region
from dicomdata.volume.units import write_output

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

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
    slices, rows, columns = box.within(stack.shape)
    fill = stack.padding if padding is None else padding
    # Not zeros: numpy's fresh pages are touched once, when the values are written.
    voxels = np.empty((len(slices), len(rows), len(columns)), out_type)
    frames = stack.frames
    for k, number in enumerate(slices):
        frame = frames[number]
        stored = read_stored(frame, rows)[:, columns.start : columns.stop]
        try:
            write_output(stored, voxels[k], frame.kind, unit=stack.unit, padding=fill)
        except RescaleError as error:
            raise RescaleError(f"{frame.path}: {error}") from error
    return Volume(voxels, stack.unit, np.ones(len(slices), np.bool_), stack, box)

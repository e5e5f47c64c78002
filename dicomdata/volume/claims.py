"""What a NIfTI, MetaImage or NRRD file says of itself, and whether it can be so."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import GeometryError, HeaderError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAME_CORNER = 0.1
"""Distance of corners that is rounding: two affines that differ by less are the same, in voxels."""

MOST_INFLATED = 1032
"""Bytes that deflate makes of one at most: a header that claims more lies."""


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What one file holds."""

    path: str
    """The file, absolute."""

    files: tuple[str, ...]
    """It, and the one its voxels are in where that is another."""

    shape: tuple[int, int, int]
    """(slices, rows, columns)."""

    layers: int
    """Volumes one above the other, of a segmentation whose segments overlap; 1 otherwise."""

    dtype: np.dtype[Any]
    """Type of the voxels as they will be given."""

    affine_lps: NDArray[np.float64]
    """(4, 4): (slice, row, column, 1) -> LPS mm."""

    text: dict[str, str]
    """What else it says, by key."""


def check_header(header: FileHeader, *, most_inflated: int) -> None:
    """Refuse what cannot be, before memory is asked for.

    Args:
        header: what a file says.
        most_inflated: bytes of voxels that a byte of the file can hold: 1 if it is not compressed.

    Raises:
        HeaderError: if it claims more voxels than the file can hold.
        GeometryError: if its axes are no three directions.
    """
    claimed = header.layers * int(np.prod(header.shape, dtype=object)) * header.dtype.itemsize
    there = sum(os.path.getsize(each) for each in header.files)
    if not 0 < claimed <= there * most_inflated:
        raise HeaderError(f"{header.path}: claims {claimed} bytes of voxels in a file of {there}")
    affine = header.affine_lps
    if not (np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 0):
        raise GeometryError(
            f"{header.path}: its axes are no three directions: {affine[:3, :3].tolist()}"
        )
    affine.flags.writeable = False


def corners_of(affine: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Give the eight corners of a grid, (3, 8), LPS mm."""
    ends = np.array(np.meshgrid(*((0, length - 1) for length in shape))).reshape(3, -1)
    corners: NDArray[np.float64] = affine[:3, :3] @ ends + affine[:3, 3:]
    return corners

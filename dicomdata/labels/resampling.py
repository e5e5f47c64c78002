"""A label on another grid than its stack's: nearest voxel, or linear between fractions.

Used only where it was asked for. Where the label's own voxels end, nothing is labelled.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_TIE = 1e-6
"""Voxels by which the lower of two equally near centres is preferred: rounding must not alternate
between them from voxel to voxel."""


def resample(
    voxels: NDArray[Any],
    affine: NDArray[np.float64],
    grid_affine: NDArray[np.float64],
    grid_shape: Sequence[int],
) -> tuple[NDArray[Any], float]:
    """Give a label on another grid.

    Args:
        voxels: (segments, slices, rows, columns): whole numbers and bool take the nearest voxel,
            floats what lies between the eight around them.
        affine: (4, 4), (slice, row, column, 1) of the label -> LPS mm.
        grid_affine: (4, 4), the same of the grid wanted.
        grid_shape: of the grid wanted.

    Returns:
        (segments, *grid_shape) in the type of `voxels`; and the furthest that a centre of the
        grid within the label lies from the nearest of the label, in voxels of the label.
    """
    to_label = np.linalg.inv(affine) @ grid_affine
    lengths = np.array(voxels.shape[1:]).reshape(3, 1, 1)
    out = np.zeros((len(voxels), *grid_shape), voxels.dtype)
    rows, columns = np.meshgrid(*(np.arange(n) for n in grid_shape[1:]), indexing="ij")
    furthest = 0.0
    for number, plane in enumerate(out.swapaxes(0, 1)):
        places = np.stack([np.full(rows.shape, number), rows, columns])
        places = np.tensordot(to_label[:3, :3], places, 1) + to_label[:3, 3].reshape(3, 1, 1)
        nearest = np.floor(places + (0.5 - _TIE)).astype(np.int64)
        inside = ((nearest >= 0) & (nearest < lengths)).all(axis=0)
        if not inside.any():
            continue
        furthest = max(furthest, float(np.abs(places - nearest)[:, inside].max()))
        if np.issubdtype(voxels.dtype, np.floating):
            plane[:, inside] = _between(voxels, places[:, inside])
        else:
            plane[:, inside] = voxels[:, *nearest[:, inside]]
    return out, furthest


def _between(voxels: NDArray[Any], places: NDArray[np.float64]) -> NDArray[Any]:
    """Interpolate voxels (segments, slices, rows, columns) at places (3, n), linearly."""
    last = np.array(voxels.shape[1:]).reshape(3, 1) - 1
    held = np.clip(places, 0, last)
    low = np.minimum(held.astype(np.int64), np.maximum(last - 1, 0))
    share = held - low
    values = np.zeros((len(voxels), places.shape[1]))
    for corner in product((0, 1), repeat=3):
        step = np.array(corner).reshape(3, 1)
        weight = np.where(step == 1, share, 1 - share).prod(axis=0)
        values += weight * voxels[:, *np.minimum(low + step, last)]
    return values.astype(voxels.dtype)

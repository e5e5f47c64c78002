"""How far two masks' surfaces lie apart, in mm.

The surface of a mask is its voxels of which a neighbour across a face is not of it; voxels at the
border of the grid are surface, for nothing is labelled beyond. Its points are their centres, put
into the patient by the affine: distances are real mm on anisotropic, oblique and leaning grids
alike, found by a k-d tree rather than by a distance transform, which knows right angles only.

Along an axis of one voxel there is no surface: in a stack of one slice, distances are in its plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDING_MM = 1e-6
"""What the arithmetic of an affine may add to a distance that is as long as the tolerance."""


@dataclass(frozen=True, slots=True)
class SurfaceDistances:
    """From each surface point of either mask to the nearest of the other."""

    mean_mm: float
    """Over the points of both surfaces."""

    hausdorff_mm: float
    """The largest."""

    hausdorff95_mm: float
    """The 95th percentile of each direction, and of these the larger."""

    within: float | None
    """Share of the points of both surfaces that are within the tolerance: surface Dice."""


def compare_surfaces(
    label: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    affine_lps: NDArray[np.float64],
    *,
    tolerance_mm: float | None = None,
) -> SurfaceDistances:
    """Measure how far the surfaces of two masks lie apart; neither may be empty.

    Args:
        label: (slices, rows, columns).
        prediction: of the same shape.
        affine_lps: (4, 4), (slice, row, column, 1) -> LPS mm.
        tolerance_mm: distance that is no error; None measures no `within`.
    """
    from scipy.spatial import KDTree  # a quarter of a second, for who compares surfaces

    trees = [KDTree(surface_points(each, affine_lps)) for each in (label, prediction)]
    there = trees[1].query(trees[0].data)[0]
    back = trees[0].query(trees[1].data)[0]
    both = np.concatenate([there, back])
    near = None if tolerance_mm is None else float(np.mean(both <= tolerance_mm + ROUNDING_MM))
    return SurfaceDistances(
        mean_mm=float(both.mean()),
        hausdorff_mm=float(both.max()),
        hausdorff95_mm=max(float(np.percentile(way, 95)) for way in (there, back)),
        within=near,
    )


def surface_points(
    voxels: NDArray[np.bool_], affine_lps: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Give the centres of the voxels at the surface of a mask, (n, 3) LPS mm.

    Args:
        voxels: (slices, rows, columns).
        affine_lps: (4, 4), (slice, row, column, 1) -> LPS mm.
    """
    first, box = _box(voxels)
    inner = box.copy()
    for axis, length in enumerate(voxels.shape):
        if length == 1:
            continue
        # A voxel stays inside where both neighbours along the axis are of the mask.
        before, after = _steps(axis)
        inner[before] &= box[after]
        inner[after] &= box[before]
        inner[_end(axis, 0)] = False
        inner[_end(axis, -1)] = False
    places = np.argwhere(box & ~inner) + first
    points: NDArray[np.float64] = places @ affine_lps[:3, :3].T + affine_lps[:3, 3]
    return points


def _box(voxels: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Cut a mask to what is not empty: where that begins, and the voxels."""
    planes: NDArray[np.bool_] = np.any(voxels, axis=0)
    slices: NDArray[np.bool_] = np.any(voxels, axis=(1, 2))
    along = (slices, np.any(planes, axis=1), np.any(planes, axis=0))
    ends = [np.flatnonzero(each)[[0, -1]] for each in along]
    box = voxels[tuple(slice(low, high + 1) for low, high in ends)]
    return np.array([low for low, _ in ends]), box


def _steps(axis: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Give all but the last, and all but the first, along an axis."""
    every = [slice(None)] * 3
    before, after = every.copy(), every.copy()
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    return tuple(before), tuple(after)


def _end(axis: int, index: int) -> tuple[Any, ...]:
    every: list[Any] = [slice(None)] * 3
    every[axis] = index
    return tuple(every)

"""How far two masks' surfaces lie apart, in mm.

The surface of a mask is its voxels of which a neighbour across a face is not of it; voxels at the
border of the grid are surface, for nothing is labelled beyond. Its points are their centres, put
into the patient by the affine: distances are real mm on anisotropic, oblique and leaning grids
alike, found by a k-d tree rather than by a distance transform, which knows right angles only.

Means and percentiles are of these points, each counting once, as everybody has them. A share of the
surface is a matter of its area: it is taken of the pieces that `surfels` gives.

Along an axis of one voxel there is no surface: in a stack of one slice, distances are in its plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.evaluate.surfels import crop, surface_elements

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDING_MM = 1e-6
"""What the arithmetic of an affine may add to a distance that is as long as the tolerance."""

_LEAF = 64
"""Points that a tree compares one by one. Fewer are no faster where surfaces are close, and three
times slower where one lies deep inside the other, as far from all of it."""


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
    """Share of the area of both surfaces that is within the tolerance: surface Dice."""


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
    there, back = _apart(*(surface_points(each, affine_lps) for each in (label, prediction)))
    both = np.concatenate([there, back])
    near = None if tolerance_mm is None else _share(label, prediction, affine_lps, tolerance_mm)
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
    first, box = crop(voxels)
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
    # A grid of one voxel has no outline; the voxel stands for it.
    places = np.argwhere(box & ~inner if voxels.size > 1 else box) + first
    points: NDArray[np.float64] = places @ affine_lps[:3, :3].T + affine_lps[:3, 3]
    return points


def _share(
    label: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    affine_lps: NDArray[np.float64],
    tolerance_mm: float,
) -> float:
    """Give the share of the area of both surfaces that is within a distance of the other."""
    places, areas = zip(
        *(surface_elements(each, affine_lps) for each in (label, prediction)), strict=True
    )
    area = np.concatenate(areas)
    # A grid of one voxel, in both: no surface, and nothing of it is far.
    if not len(area):
        return 1.0
    near = np.concatenate(_apart(*places)) <= tolerance_mm + ROUNDING_MM
    return float(area[near].sum() / area.sum())


def _apart(
    one: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the distance of each point to the nearest of the others, of one and of the other."""
    from scipy.spatial import KDTree  # a quarter of a second, for who compares surfaces

    first, second = (KDTree(points, leafsize=_LEAF) for points in (one, other))
    return second.query(one)[0], first.query(other)[0]


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

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
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy.spatial import KDTree

ROUNDING_MM = 1e-6
"""What the arithmetic of an affine may add to a distance that is as long as the tolerance."""

_LEAF = 64
"""Points that a tree compares one by one. Fewer are no faster where surfaces are close, and three
times slower where one lies deep inside the other, as far from all of it."""

_DEEP = 4
"""How many of its own radii away a leaf is deep inside, or outside, the other surface: as many
as it takes for the points in question to lie about one way."""

_MANY = 2000
"""Points in question of a leaf above which comparing all pairs is faster than a search for each."""

_PAIRS = 2**22
"""Distances in memory at once: 32 MB."""


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
    one, other = _trees(*places)
    # How far those are that are farther is of no interest, and takes longest to find.
    reach = tolerance_mm + ROUNDING_MM
    near = np.concatenate([
        theirs.query(ours.data, distance_upper_bound=np.nextafter(reach, np.inf))[0] <= reach
        for ours, theirs in ((one, other), (other, one))
    ])  # fmt: skip
    return float(area[near].sum() / area.sum())


def _apart(
    one: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the distance of each point to the nearest of the others, of one and of the other."""
    first, second = _trees(one, other)
    return _nearest(first, second), _nearest(second, first)


def _trees(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[KDTree, KDTree]:
    from scipy.spatial import KDTree  # a quarter of a second, for who compares surfaces

    return KDTree(one, leafsize=_LEAF), KDTree(other, leafsize=_LEAF)


def _nearest(points: KDTree, others: KDTree) -> NDArray[np.float64]:
    """Give the distance of each point to the nearest of others, in the order of the points.

    Deep inside a surface all of it is about as far, and a search looks at nearly every point. So
    there each leaf is looked at as a whole: if its middle is d from the nearest, and its own points
    within r of the middle, then none of these is nearest to what is beyond d + 2 r of it.
    """
    from scipy.spatial.distance import cdist

    leaves = list(_leaves(points))
    first = np.cumsum([0, *map(len, leaves[:-1])])
    ordered = points.data[np.concatenate(leaves)]
    low, high = (each.reduceat(ordered, first, axis=0) for each in (np.minimum, np.maximum))
    middles, radii = (low + high) / 2, np.linalg.norm(high - low, axis=1) / 2
    depths = others.query(middles)[0]
    found = np.empty(points.n)
    alone = []
    for leaf, middle, radius, depth in zip(leaves, middles, radii, depths, strict=True):
        reach = depth + 2 * radius + ROUNDING_MM
        near = others.query_ball_point(middle, reach) if depth > _DEEP * radius else ()
        if len(near) < _MANY:
            alone.append(leaf)
            continue
        near = others.data[near]
        for part in np.array_split(leaf, 1 + len(leaf) * len(near) // _PAIRS):
            found[part] = cdist(points.data[part], near).min(axis=1)
    for leaf in [np.concatenate(alone)] if alone else []:
        found[leaf] = others.query(points.data[leaf])[0]
    return found


def _leaves(tree: KDTree) -> Iterator[NDArray[np.intp]]:
    """Give the numbers of the points in each leaf of a tree."""
    left = [tree.tree]
    while left:
        node = left.pop()
        if isinstance(node, tree.leafnode):
            yield node.idx
        else:
            left += [node.less, node.greater]


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

"""The surface of a mask as small flat pieces with areas, for what is a share of a surface.

Counting voxels instead would weigh a face across slices of 5 mm as much as one of 0.7 mm beside
it. The pieces are those of marching cubes: one in each cell between eight voxel centres of which
some are in the mask and some are not, with the middle of the cell as its place. Surface Dice was
defined on them (Nikolov et al., 2018, arXiv:1809.04430), and here they lean with the grid.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Corner: TypeAlias = tuple[int, ...]

CORNERS: tuple[Corner, ...] = tuple(product((0, 1), repeat=3))
"""Of a cell, (slice, row, column); corner i is bit 7 - i of its code."""

FULL = 255
"""Code of a cell whose eight corners are all in the mask."""

_TRIANGLES = 4
"""Of the pieces in one cell; two of the corners it cuts off may lie apart."""

_DECIMALS = 9
"""To which areas on the unit cube are compared: they differ by hundredths or by rounding."""


def surface_elements(
    voxels: NDArray[np.bool_], affine_lps: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give places, (n, 3) LPS mm, and areas, (n,) mm2, of the pieces of a mask's surface.

    Nothing is in the mask beyond the grid; but along an axis of one voxel it goes on for ever, so
    that in a stack of one slice areas are lengths of the outline times the slice's thickness.

    Args:
        voxels: (slices, rows, columns).
        affine_lps: (4, 4), (slice, row, column, 1) -> LPS mm.
    """
    first, box = crop(voxels)
    flat = tuple(length == 1 for length in voxels.shape)
    cells, codes = [], []
    for number, plane in enumerate(_codes(box, flat)):
        rows, columns = np.nonzero((plane != 0) & (plane != FULL))
        cells.append(np.stack([np.full_like(rows, number), rows, columns], axis=1))
        codes.append(plane[rows, columns])
    # Cell (i, j, k) lies between voxels (i - 1, j - 1, k - 1) and (i, j, k).
    middles = np.concatenate(cells) + first - 0.5
    points: NDArray[np.float64] = middles @ affine_lps[:3, :3].T + affine_lps[:3, 3]
    return points, areas(affine_lps)[np.concatenate(codes)]


def areas(affine_lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the area of the surface in a cell by its code, (256,) mm2."""
    steps = affine_lps[:3, :3]
    # How a linear map moves vectors that stand for areas.
    moved = _pieces() @ (np.linalg.det(steps) * np.linalg.inv(steps))
    total: NDArray[np.float64] = np.linalg.norm(moved, axis=2).sum(axis=1)
    return total


def crop(voxels: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Cut a mask that is not empty to what is in it: where that begins, and a view of the voxels.

    Args:
        voxels: (slices, rows, columns).
    """
    first, box = [], voxels
    for axis in range(voxels.ndim):
        others = tuple(each for each in range(voxels.ndim) if each != axis)
        low, high = np.flatnonzero(np.any(box, axis=others))[[0, -1]]
        first.append(low)
        box = box[(slice(None),) * axis + (slice(low, high + 1),)]
    return np.array(first), box


def _codes(voxels: NDArray[np.bool_], flat: tuple[bool, ...]) -> Iterator[NDArray[np.uint8]]:
    """Give the codes of the cells between each two slices, from below the first on."""
    squares = (_squares(plane, flat[1:]) for plane in voxels)
    if flat[0]:
        yield from (_appended(each, each, bits=4) for each in squares)
        return
    nothing = below = np.zeros(1, np.uint8)
    for above in squares:
        yield _appended(below, above, bits=4)
        below = above
    yield _appended(below, nothing, bits=4)


def _squares(plane: NDArray[np.bool_], flat: tuple[bool, ...]) -> NDArray[np.uint8]:
    """Give the four bits of each square of voxels of a slice, and of those over its border."""
    around = plane.astype(np.uint8)
    for axis, goes_on in enumerate(flat):
        width = [(0, 0), (0, 0)]
        width[axis] = (0, 1) if goes_on else (1, 1)
        around = np.pad(around, width, mode="edge" if goes_on else "constant")
    pairs = _appended(around[:, :-1], around[:, 1:], bits=1)
    return _appended(pairs[:-1], pairs[1:], bits=2)


def _appended(codes: NDArray[np.uint8], more: NDArray[np.uint8], *, bits: int) -> NDArray[np.uint8]:
    """Give codes with so many bits more behind theirs."""
    longer: NDArray[np.uint8] = np.bitwise_or(np.left_shift(codes, bits), more)
    return longer


@cache
def _pieces() -> NDArray[np.float64]:
    """Give the triangles in a unit cell by its code, as area times normal, (256, n, 3)."""
    found = np.zeros((FULL + 1, _TRIANGLES, 3))
    for code in range(1, FULL // 2 + 1):
        inside = {corner for i, corner in enumerate(CORNERS) if code >> (7 - i) & 1}
        # Whichever are fewer are cut off; that leaves the others joined.
        fewer = inside if len(inside) <= len(CORNERS) // 2 else set(CORNERS) - inside
        triangles = np.concatenate([_cut_off(part) for part in _joined(fewer)])
        found[[code, FULL - code], : len(triangles)] = triangles
    return found


def _joined(corners: set[Corner]) -> Iterator[set[Corner]]:
    """Sort corners into those that edges of the cell join."""
    left = set(corners)
    while left:
        part: set[Corner] = set()
        todo = {min(left)}
        while todo:
            part |= todo
            todo = {near for corner in todo for near in _neighbours(corner)} & left - part
        left -= part
        yield part


def _neighbours(corner: Corner) -> list[Corner]:
    """Give the corners at the other ends of the three edges of one."""
    return [(*corner[:axis], 1 - corner[axis], *corner[axis + 1 :]) for axis in range(3)]


def _cut_off(part: set[Corner]) -> NDArray[np.float64]:
    """Give the triangles that cut off corners which edges join, as area times normal, (n, 3).

    They go through the middles of all edges that lead away. Where these are in no plane, there are
    several ways; the largest surface of triangles round one middle is what everybody's table has.
    """
    away = [
        (np.array(corner) + near) / 2
        for corner in sorted(part)
        for near in _neighbours(corner)
        if near not in part
    ]
    loop = [away.pop(0)]
    while away:
        # The next is on a face of the cell with the last.
        shared = [bool(np.any((each == loop[-1]) & (each != 0.5))) for each in away]
        loop.append(away.pop(shared.index(True)))
    fans = []
    for first in range(len(loop)):
        rays = np.roll(loop, -first, axis=0)[1:] - loop[first]
        fans.append(np.cross(rays[:-1], rays[1:]) / 2)
    return max(fans, key=lambda fan: round(float(np.linalg.norm(fan, axis=1).sum()), _DECIMALS))

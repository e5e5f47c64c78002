"""Contours -> voxels of one slice: which pixel centres lie within, by one rule.

**The rule**, for reading and for writing: a pixel belongs to a contour if its centre lies inside,
or on the line itself (an inclusive edge). Contours of one slice are combined by exclusive or, so
that one within another is a hole; the centres on a hole's own line belong to the hole. A keyhole,
one line that goes inwards, round a hole, and back along itself, is the same as two contours. Where
several lines meet in one centre, it belongs to the region: nothing is cut along a shared edge.

Points are (row, column) in pixels of the slice, pixel centres at whole numbers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Points = NDArray[np.float64]
    _Key = tuple[int, ...]

ON_LINE = 0.01
"""Distance from a line that is on it, in pixels: coordinates are written with two or three decimals
of a millimetre."""

_SAME_POINT = 1e-4
"""Pixels within which two points of a line are one: a keyhole comes back to where it left."""


class Filled(NamedTuple):
    """The pixels of one simple closed line, in a box of the slice."""

    row: int
    """First row of the box; may lie outside the slice."""

    column: int
    """First column of the box; may lie outside the slice."""

    inside: NDArray[np.bool_]
    """(rows, columns) of the box: centres within the line, and not on it."""

    on_line: NDArray[np.bool_]
    """(rows, columns) of the box: centres on the line."""

    folded: int
    """Centres that the line goes round twice, as where it crosses itself: they are not inside."""

    def box(self, top: int, left: int) -> tuple[slice, slice]:
        """Give where it lies in a larger box that begins at row `top` and column `left`."""
        row, column = self.row - top, self.column - left
        rows, columns = self.inside.shape
        return slice(row, row + rows), slice(column, column + columns)


class Region(NamedTuple):
    """The pixels of contours, in a box of the slice; it may reach out of it, and have no pixel."""

    row: int
    """First row of the box."""

    column: int
    """First column of the box."""

    pixels: NDArray[np.bool_]
    """(rows, columns) of the box."""

    crossed: int
    """Pixels within two lines of which neither holds the other, or within one line twice. There
    exclusive or leaves out what both enclose, which may not be what was meant."""

    on_holes: int
    """Pixels on the line of a hole, left out. Who draws a hole through the pixels around it, rather
    than through its own or between them, meant them to be in."""


def fill(contours: Iterable[Points], shape: tuple[int, int]) -> Region:
    """Give the pixels of closed contours (points, 2) of one slice, combined by exclusive or.

    Args:
        contours: each of one point or more, which need not be repeated at the end.
        shape: (rows, columns) of the slice: further out than that on each side nothing is filled.
    """
    parts, spikes = [], []
    for contour in contours:
        lines, there_and_back = part_line(contour)
        parts += [_fill_line(line, shape) for line in lines]
        spikes += [_fill_line(line, shape) for line in there_and_back]
    everything = [part for part in (*parts, *spikes) if part.inside.size]
    if not everything:
        return Region(0, 0, np.zeros((0, 0), np.bool_), 0, 0)
    top = min(part.row for part in everything)
    left = min(part.column for part in everything)
    bottom = max(part.row + part.inside.shape[0] for part in everything)
    right = max(part.column + part.inside.shape[1] for part in everything)
    within, lines_met, visited = np.zeros((3, bottom - top, right - left), np.int32)
    for part in parts:
        box = part.box(top, left)
        within[box] += part.inside
        lines_met[box] += part.on_line
    for part in spikes:
        visited[part.box(top, left)] += part.on_line
    region = (lines_met > 1) | ((within + lines_met) % 2 == 1)
    # A line that goes out and comes back the same way encloses nothing, and is a line of pixels.
    region |= (visited > 0) & (within + lines_met == 0)
    # Lines that lie apart, as most do, cannot cross.
    crossed = _count_crossings(parts) if within.max() > 1 else 0
    crossed += sum(part.folded for part in parts)
    on_holes = int(np.count_nonzero((lines_met == 1) & (within % 2 == 1)))
    return Region(top, left, region, crossed, on_holes)


def _count_crossings(parts: Sequence[Filled]) -> int:
    """Count the pixels within two lines of which neither holds the other."""
    crossed = 0
    for one, other in combinations([part for part in parts if part.inside.any()], 2):
        top, left = max(one.row, other.row), max(one.column, other.column)
        bottom = min(part.row + part.inside.shape[0] for part in (one, other))
        right = min(part.column + part.inside.shape[1] for part in (one, other))
        if top >= bottom or left >= right:
            continue
        first, second = (
            part.inside[
                top - part.row : bottom - part.row, left - part.column : right - part.column
            ]
            for part in (one, other)
        )
        both = int(np.count_nonzero(first & second))
        if both not in {0, np.count_nonzero(one.inside), np.count_nonzero(other.inside)}:
            crossed += both
    return crossed


def part_line(contour: Points) -> tuple[list[Points], list[Points]]:
    """Part a closed line (points, 2) into simple ones, and stretches that it goes there and back.

    That turns a keyhole into its outer and its inner line.
    """
    keys = [tuple(key) for key in np.rint(contour / _SAME_POINT).astype(np.int64).tolist()]
    if len(set(keys)) == len(keys):
        return [contour], []
    places = dict(zip(keys, contour, strict=True))
    steps = [(a, b) for a, b in pairwise([*keys, keys[0]]) if a != b]
    left = Counter(steps)
    spikes = []
    for a, b in steps:
        if left[a, b] and left[b, a]:
            left[a, b] -= 1
            left[b, a] -= 1
            spikes.append(np.array([places[a], places[b]]))
    # Who goes the same way round twice means it once.
    loops = {frozenset(loop): loop for loop in _loops([step for step in steps if left[step]])}
    lines = [np.array([places[key] for key in loop]) for loop in loops.values()]
    # All points are one.
    return (lines, spikes) if steps else ([contour[:1]], [])


def _loops(steps: Sequence[tuple[_Key, _Key]]) -> list[list[_Key]]:
    """Follow steps until a point comes again; what lies between is a loop."""
    onwards: dict[_Key, list[_Key]] = defaultdict(list)
    for a, b in reversed(steps):
        onwards[a].append(b)
    loops = []
    for start in [a for a, _ in steps]:
        path = [start]
        while onwards[path[-1]]:
            following = onwards[path[-1]].pop()
            if following in path:
                begin = path.index(following)
                loops.append(path[begin:])
                del path[begin + 1 :]
            else:
                path.append(following)
    return loops


def _fill_line(line: Points, shape: tuple[int, int]) -> Filled:
    """Find the pixels within one simple closed line, and those on it."""
    low = np.maximum(np.ceil(line.min(axis=0) - ON_LINE), np.negative(shape)).astype(np.int64)
    high = np.minimum(np.floor(line.max(axis=0) + ON_LINE), np.multiply(shape, 2))
    size = np.maximum(high.astype(np.int64) + 1 - low, 0)
    if not size.all():
        empty = np.zeros((0, 0), np.bool_)
        return Filled(0, 0, empty, empty, 0)
    begin = line - low
    end = np.roll(begin, -1, axis=0)
    on_line = _on_line(begin, end, size)
    turns = _turns(begin, end, size)
    turns[on_line] = 0
    inside = turns % 2 == 1
    folded = int(np.count_nonzero(turns)) - int(np.count_nonzero(inside))
    return Filled(int(low[0]), int(low[1]), inside, on_line, folded)


def _turns(begin: Points, end: Points, size: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count how often a closed line goes round each pixel of a box: within if odd.

    By the sides to its left, those that go down less those that go up.
    """
    first = np.ceil(np.minimum(begin[:, 0], end[:, 0]))
    last = np.ceil(np.maximum(begin[:, 0], end[:, 0])) - 1
    side, rows = _each_whole(first, last, size[0])
    start, step = begin[side], (end - begin)[side]
    crossing = start[:, 1] + (rows - start[:, 0]) / step[:, 0] * step[:, 1]
    # From the next pixel on; those at the right are to the left of nothing.
    onwards = np.clip(np.floor(crossing) + 1, 0, size[1]).astype(np.int64)
    turns = np.zeros((size[0], size[1] + 1), np.int64)
    np.add.at(turns, (rows, onwards), np.sign(step[:, 0]).astype(np.int64))
    return np.cumsum(turns, axis=1)[:, :-1]


def _on_line(begin: Points, end: Points, size: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Find the pixels of a box whose centres lie on the sides of a line."""
    found = np.zeros(size, np.bool_)
    step = end - begin
    steep = np.abs(step[:, 0]) >= np.abs(step[:, 1])
    for along, sides in ((0, steep), (1, ~steep)):
        # Along the axis it advances most, a side meets each row or column next to one pixel.
        starts, steps = begin[sides], step[sides]
        ends = starts + steps
        first = np.ceil(np.minimum(starts[:, along], ends[:, along]) - ON_LINE)
        last = np.floor(np.maximum(starts[:, along], ends[:, along]) + ON_LINE)
        side, whole = _each_whole(first, last, size[along])
        start, advance = starts[side], steps[side]
        length = np.where(advance[:, along] == 0, 1, advance[:, along])
        across = start[:, 1 - along] + (whole - start[:, along]) / length * advance[:, 1 - along]
        pixel = np.empty((len(whole), 2))
        pixel[:, along], pixel[:, 1 - along] = whole, np.rint(across)
        near = _distance(pixel, start, advance) <= ON_LINE
        near &= ((pixel >= 0) & (pixel < size)).all(axis=1)
        found[tuple(pixel[near].astype(np.int64).T)] = True
    return found


def _each_whole(
    first: NDArray[np.float64], last: NDArray[np.float64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the whole numbers from first to last of each side, within a box: which side, which."""
    begin = np.clip(first, 0, size).astype(np.int64)
    count = np.maximum(np.clip(last, -1, size - 1).astype(np.int64) + 1 - begin, 0)
    side = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(side)) - np.repeat(np.cumsum(count) - count, count)
    return side, begin[side] + number


def _distance(points: Points, start: Points, step: Points) -> NDArray[np.float64]:
    """Give the distance of points from sides, each from its own."""
    squared = np.maximum((step**2).sum(axis=1), np.finfo(np.float64).tiny)
    share = np.clip(((points - start) * step).sum(axis=1) / squared, 0, 1)
    distance: NDArray[np.float64] = np.linalg.norm(points - start - share[:, None] * step, axis=1)
    return distance

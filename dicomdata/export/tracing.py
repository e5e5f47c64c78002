"""Pixels of one slice -> contours around them, along the edges of pixels.

Contours run between pixels, half a pixel from every centre, so that no centre lies on a line and
every reader that asks which centres lie within finds the same pixels again, whatever it makes of
edges. A hole has a contour of its own.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Corner = tuple[int, int]

_TURNS = {
    (0, 1): ((1, 0), (0, 1), (-1, 0)),
    (1, 0): ((0, -1), (1, 0), (0, 1)),
    (0, -1): ((-1, 0), (0, -1), (1, 0)),
    (-1, 0): ((0, 1), (-1, 0), (0, -1)),
}
"""Direction (rows, columns) -> where to go on: right, straight ahead, left. Going right first keeps
to the same pixel, where two touch in a corner only."""


def trace(plane: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Give the contours around the pixels of a slice (rows, columns).

    Returns:
        Of each contour its corners, (corners, 2): row and column, pixel centres at whole numbers.
        Combined by exclusive or they hold the pixels, and nothing else.
    """
    ways = _ways(plane)
    contours = []
    while ways:
        start, directions = next(iter(ways.items()))
        # Begin anywhere; corners are where the way turns.
        contours.append(np.array(_follow(ways, start, directions[0])) - 0.5)
    return contours


def _ways(plane: NDArray[np.bool_]) -> dict[Corner, list[Corner]]:
    """Give the directions in which a line leaves each corner of pixels, pixels to its right.

    Corner (r, c) is that between pixels r - 1 and r, c - 1 and c.
    """
    padded = np.pad(plane, 1).astype(np.int8)
    below, right = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    ways: dict[Corner, list[Corner]] = defaultdict(list)
    for sides, begin, direction in (
        (below == 1, (0, 0), (0, 1)),
        (below == -1, (0, 1), (0, -1)),
        (right == -1, (0, 0), (1, 0)),
        (right == 1, (1, 0), (-1, 0)),
    ):
        for row, column in np.argwhere(sides).tolist():
            ways[row + begin[0], column + begin[1]].append(direction)
    return dict(ways)


def _follow(ways: dict[Corner, list[Corner]], start: Corner, direction: Corner) -> list[Corner]:
    """Follow a line until it is back, taking it away; give where it turns."""
    corners: list[Corner] = []
    at, heading = start, (0, 0)
    while True:
        ways[at].remove(direction)
        if not ways[at]:
            del ways[at]
        if direction != heading:
            corners.append(at)
        at, heading = (at[0] + direction[0], at[1] + direction[1]), direction
        if at == start:
            return corners
        direction = next(turn for turn in _TURNS[heading] if turn in ways[at])

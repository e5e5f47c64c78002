"""Which pixels lie within contours: the inclusive edge, holes, keyholes, and lines that meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon
from numpy.testing import assert_array_equal

from dicomdata.labels.contours import fill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SHAPE = (20, 20)


def filled(*contours: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
    """Fill contours of a slice of 20 x 20."""
    top, left, box, *_ = fill([np.array(contour, float) for contour in contours], SHAPE)
    slice_ = np.zeros(SHAPE, bool)
    if box.size:
        slice_[top : top + box.shape[0], left : left + box.shape[1]] = box
    return slice_


def square(low: float, high: float) -> list[tuple[float, float]]:
    return [(low, low), (low, high), (high, high), (high, low)]


def test_a_square_through_pixel_centres_holds_them() -> None:
    region = filled(square(2, 5))

    assert region.sum() == 16
    assert region[2:6, 2:6].all()


def test_a_square_along_pixel_edges_holds_what_it_encloses() -> None:
    region = filled(square(1.5, 5.5))

    assert region.sum() == 16
    assert region[2:6, 2:6].all()


@pytest.mark.parametrize("shift", [0, -0.5])
def test_a_contour_within_another_is_a_hole(shift: float) -> None:
    grown = 1 if shift else 0
    outer, inner = square(shift, 9 + grown + shift), square(3 + shift, 6 + grown + shift)

    region = filled(outer, inner)

    assert region.sum() == 84
    assert not region[3:7, 3:7].any()
    assert_array_equal(filled(inner, outer), region)


@pytest.mark.parametrize("shift", [0, -0.5])
def test_a_keyhole_is_a_hole(shift: float) -> None:
    grown = 1 if shift else 0
    outer, inner = square(shift, 9 + grown + shift), square(3 + shift, 6 + grown + shift)
    # Round the outside, in to the hole, round it the other way, and back out the same way.
    keyhole = [*outer, outer[0], inner[0], *reversed(inner), outer[0]]

    assert_array_equal(filled(keyhole), filled(outer, inner))


def test_an_island_in_a_hole_is_there_again() -> None:
    region = filled(square(0, 12), square(2, 10), square(4, 8))

    assert region.sum() == 169 - 81 + 25


def test_contours_that_share_an_edge_are_not_cut_along_it() -> None:
    left = [(0, 0), (9, 0), (9, 4), (0, 4)]
    right = [(0, 4), (9, 4), (9, 9), (0, 9)]

    assert filled(left, right).sum() == 100


def test_one_point_is_one_pixel_and_two_are_a_line() -> None:
    assert_array_equal(np.argwhere(filled([(3, 4)])), [(3, 4)])
    assert filled([(3, 4), (3, 7)]).sum() == 4
    assert filled([(3.5, 4.5)]).sum() == 0


def test_a_bridge_that_is_a_line_holds_its_pixels() -> None:
    # Two squares on one line that goes from one to the other and back.
    line = [(2, 2), (5, 2), (5, 5), (3, 5), (3, 10), (2, 10), (2, 14), (5, 14), (5, 10), (3, 10),
            (3, 5), (2, 5)]  # fmt: skip

    region = filled(line)

    assert region[3, 5:11].all()
    assert region.sum() == 16 + 4 + 20


def test_points_that_were_rounded_are_still_on_the_line() -> None:
    rng = np.random.default_rng(3)
    rounded = np.array(square(2, 5)) + rng.uniform(-0.005, 0.005, (4, 2))

    assert filled([tuple(point) for point in rounded]).sum() == 16


def test_what_is_outside_the_slice_is_given_beside_it() -> None:
    top, left, box, *_ = fill([np.array(square(-3, 1), float)], SHAPE)

    assert (top, left, box.shape) == (-3, -3, (5, 5))
    assert box.all()


def test_an_absurd_contour_takes_no_memory() -> None:
    top, left, box, *_ = fill([np.array(square(-1e9, 1e9), float)], SHAPE)

    assert (top, left) == (-20, -20)
    assert box.shape == (61, 61)
    assert box.all()


@given(st.integers(0, 2**32 - 1), st.integers(3, 12))
def test_any_contour_holds_the_centres_that_another_library_says(seed: int, corners: int) -> None:
    # Turning around a middle, a line of any radii never crosses itself.
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = rng.uniform(1, 9, corners)
    points = 10 + radii[:, None] * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    centres = np.argwhere(np.ones(SHAPE))

    # Just within and just beyond the line, a centre on it is in one and not in the other.
    polygon = Polygon(np.vstack([points, points[:1]]), closed=True)
    grown, shrunk = (
        polygon.contains_points(centres, radius=radius).reshape(SHAPE) for radius in (0.02, -0.02)
    )
    region = filled([tuple(point) for point in points])

    assert (region & ~(grown | shrunk)).sum() == 0
    assert (grown & shrunk & ~region).sum() == 0

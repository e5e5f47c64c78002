"""Label voxels onto the voxels of a grid: copied where the centres are the same, else refused."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from dicomdata.labels.placing import Placement, place
from dicomdata.labels.resampling import resample

GRID = np.array([[0.0, 0.0, 0.5, -10], [0.0, 0.8, 0.0, -20], [2.5, 0.0, 0.0, -30], [0, 0, 0, 1]])
SHAPE = (5, 4, 6)


def found(affine: np.ndarray, shape: tuple[int, ...]) -> Placement:
    placement = place(affine, shape, GRID, SHAPE)
    assert placement is not None
    return placement


def moved(*steps: float) -> np.ndarray:
    """Give the grid's affine begun at another voxel."""
    affine = GRID.copy()
    affine[:3, 3] += GRID[:3, :3] @ steps
    return affine


def test_the_grid_itself_is_the_same_grid() -> None:
    placement = found(GRID, SHAPE)

    assert placement.kind == "same_grid"
    assert placement.differences == ()
    assert placement.offset == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product((False, True), repeat=3)))
def test_every_order_and_direction_of_axes_is_undone(
    order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    voxels = np.arange(1, 121).reshape(SHAPE)
    turned = np.flip(voxels.transpose(order), tuple(axis for axis in range(3) if flips[axis]))
    to_grid = np.zeros((4, 4))
    to_grid[3, 3] = 1
    for axis, (along, flip) in enumerate(zip(order, flips, strict=True)):
        to_grid[along, axis] = -1 if flip else 1
        to_grid[along, 3] = SHAPE[along] - 1 if flip else 0
    out = np.zeros(SHAPE, int)

    placement = found(GRID @ to_grid, turned.shape)

    assert placement.copy(turned, out) == 0
    assert_array_equal(out, voxels)
    plain = order == (0, 1, 2) and not any(flips)
    assert placement.kind == ("same_grid" if plain else "reindexed")


def test_a_box_within_the_grid_goes_to_its_place() -> None:
    voxels = np.arange(1, 9).reshape(2, 2, 2)
    out = np.zeros(SHAPE, int)

    placement = found(moved(3, 1, 4), (2, 2, 2))

    assert placement.copy(voxels, out) == 0
    assert_array_equal(out[3:, 1:3, 4:], voxels)
    assert out.sum() == voxels.sum()
    assert placement.differences == (
        "slices 3 to 4 of 5",
        "rows 1 to 2 of 4",
        "columns 4 to 5 of 6",
    )


def test_what_lies_outside_is_counted_and_never_wrapped() -> None:
    voxels = np.ones((2, 4, 6), bool)
    out = np.zeros(SHAPE, bool)

    below = found(moved(-1, 0, 0), (2, 4, 6)).copy(voxels, out)

    assert below == 24
    assert_array_equal(out.sum(axis=(1, 2)), [24, 0, 0, 0, 0])


def test_what_lies_wholly_beside_the_grid_leaves_it_empty() -> None:
    out = np.zeros(SHAPE, bool)

    assert found(moved(0, -4, 0), SHAPE).copy(np.ones(SHAPE, bool), out) == 120
    assert not out.any()


def test_spacing_that_was_rounded_is_the_same_grid() -> None:
    fine = np.diag([1.0, 0.703125, 0.703125, 1.0])
    rounded = np.diag([1.0, 0.7031, 0.7031, 1.0])

    placement = place(rounded, (10, 512, 512), fine, (10, 512, 512))

    # 0.000025 mm over 511 columns.
    assert placement is not None
    assert placement.kind == "same_grid"
    assert placement.offset == pytest.approx(511 * 0.000025 / 0.703125, abs=1e-6)


def test_spacing_that_adds_up_to_a_voxel_is_another_grid() -> None:
    coarse = np.diag([1.0, 0.7, 0.7, 1.0])

    assert place(coarse, (10, 512, 512), np.diag([1.0, 0.703125, 0.703125, 1]), SHAPE) is None


@pytest.mark.parametrize("steps", [(0.5, 0, 0), (0, 0.2, 0), (0, 0, -0.3)])
def test_centres_between_centres_are_another_grid(steps: tuple[float, ...]) -> None:
    assert place(moved(*steps), SHAPE, GRID, SHAPE) is None


def test_every_second_voxel_is_another_grid() -> None:
    assert place(GRID @ np.diag([2.0, 1, 1, 1]), (2, 4, 6), GRID, SHAPE) is None


def test_one_plane_lies_where_it_is_whatever_its_nominal_step() -> None:
    plane = moved(3, 0, 0)
    plane[:3, 0] = (0, 0, 7.77)

    placement = found(plane, (1, 4, 6))

    assert placement.start == (3, 0, 0)


def test_a_plane_along_another_axis_goes_there() -> None:
    # A sagittal plane through column 2: its rows run along the slices.
    affine = np.eye(4)
    affine[:3, 0] = (9.9, 0, 0)
    affine[:3, 1] = GRID[:3, 0]
    affine[:3, 2] = GRID[:3, 1]
    affine[:3, 3] = GRID[:3, 3] + 2 * GRID[:3, 2]
    out = np.zeros(SHAPE, bool)

    placement = found(affine, (1, 5, 4))

    assert placement.copy(np.ones((1, 5, 4), bool), out) == 0
    assert_array_equal(out.sum(axis=(0, 1)), [0, 0, 20, 0, 0, 0])


def test_resampling_takes_the_nearest_voxel() -> None:
    fine = np.arange(1, 241).reshape(1, 10, 4, 6)
    half = GRID @ np.diag([0.5, 1, 1, 1])

    out, offset = resample(fine, half, GRID, SHAPE)

    assert_array_equal(out[0], fine[0, ::2])
    assert offset == pytest.approx(0, abs=1e-9)


def test_resampling_labels_nothing_beyond_the_label() -> None:
    out, _ = resample(np.ones((1, 2, 4, 6), bool), moved(1.4, 0, 0), GRID, SHAPE)

    assert_array_equal(out[0, :, 0, 0], [False, True, True, False, False])


def test_of_two_voxels_equally_near_always_the_lower_is_taken() -> None:
    between = GRID @ np.diag([2.0, 1, 1, 1])
    between[:3, 3] -= GRID[:3, 0]

    out, offset = resample(np.arange(1, 4)[None, :, None, None], between, GRID, (5, 1, 1))

    # Slices -1, 1 and 3 of the grid.
    assert_array_equal(out.ravel(), [1, 2, 2, 3, 3])
    assert offset == pytest.approx(0.5)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_fractions_are_interpolated_as_a_plane_is(k: float, r: float, c: float) -> None:
    corners = np.array(list(product((0, 1), repeat=3)), float)
    voxels = (corners @ (0.5, 0.25, 0.125)).reshape(1, 2, 2, 2)
    at = np.eye(4)
    at[:3, 3] = (k, r, c)

    out, _ = resample(voxels, np.eye(4), at, (1, 1, 1))

    assert out.ravel()[0] == pytest.approx(0.5 * k + 0.25 * r + 0.125 * c)

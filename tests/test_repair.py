"""Repairs: gaps filled, spacing made even, tilted stacks made upright; and what stays known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dicomdata as dd
from dicomdata.testing.phantoms import ramp, write_series
from dicomdata.testing.strategies import orientations, regions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Planned = Callable[..., dd.StackPlan]

LEAN = math.radians(20)
TILTED: dict[str, Any] = {
    "orientation": (1, 0, 0, 0, math.cos(LEAN), -math.sin(LEAN)),
    "step": (0.0, 0.0, 5.0),
}


def axial(depths: Sequence[float]) -> dict[str, Any]:
    return {"positions": [(-10.0, -20.0, z) for z in depths]}


def first_voxels(volume: dd.Volume) -> list[float]:
    """The first voxel of each slice: by `ramp`, -24 HU and 24 more a slice."""
    return [float(plane[0, 0]) for plane in volume.voxels]


# --- gaps -----------------------------------------------------------------------------------------


def test_a_gap_is_filled_with_air_that_is_not_valid(tmp_path: Path, planned: Planned) -> None:
    # G8: SimpleITK and MONAI stretch the spacing to 3.125 mm, others close the gap.
    write_series(tmp_path, **axial([0, 2.5, 5, 10, 12.5]))

    (stack,) = planned(tmp_path, dd.Policy(gap="repair")).stacks
    volume = dd.read_volume(stack)

    assert first_voxels(volume) == [-24, 0, 24, -1024, 48, 72]
    assert (volume.voxels[3] == -1024).all()
    assert volume.valid.tolist() == [True, True, True, False, True, True]
    assert (volume.affine_lps @ (5, 0, 0, 1))[2] == 12.5
    assert stack.slice_numbers == (0, 1, 2, 4, 5)


def test_a_gap_may_be_filled_with_what_lies_between(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, **axial([0, 2.5, 10, 12.5]))

    (stack,) = planned(tmp_path, dd.Policy(gap="repair", fill="interpolate")).stacks
    volume = dd.read_volume(stack)

    assert first_voxels(volume) == [-24, 0, 8, 16, 24, 48]
    assert volume.valid.tolist() == [True, True, False, False, True, True]


def test_a_gap_is_a_finding_with_its_slice_numbers(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, **axial([0, 2.5, 5, 10, 12.5]))

    (stack,) = planned(tmp_path, dd.Policy(gap="repair")).stacks
    (rejection,) = planned(tmp_path).rejected

    (finding,) = stack.findings
    assert (finding.kind, finding.amount, finding.unit, finding.where) == ("gap", 1, "frames", (3,))
    error = rejection.error
    assert isinstance(error, dd.GeometryError)
    assert (error.finding, error.where) == ("gap", (3,))


def test_a_stack_of_which_most_is_missing_is_not_repaired(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, **axial([0, 200, 202.5, 205]))

    (rejection,) = planned(tmp_path, dd.Policy.lenient()).rejected

    assert "not repaired, 4 frames are too few for 83" in str(rejection)


def test_padding_decides_what_a_gap_holds(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, **axial([0, 2.5, 5, 10]))

    (stack,) = planned(tmp_path, dd.Policy(gap="repair", padding=-2000)).stacks
    (other,) = planned(tmp_path, dd.Policy(gap="repair", padding=math.nan)).stacks

    assert first_voxels(dd.read_volume(stack)) == [-24, 0, 24, -2000, 48]
    assert np.isnan(dd.read_volume(other).voxels[3]).all()
    assert first_voxels(dd.read_volume(stack, padding="air")) == [-24, 0, 24, -1024, 48]


def test_several_volumes_are_told_apart_before_one_is_repaired(
    tmp_path: Path, planned: Planned
) -> None:
    # Two passes that touch: one lattice with a hole, if nobody asks the Acquisition Number.
    depths = [0, 2.5, 5, 10, 12.5, 15]
    write_series(tmp_path, **axial(depths), extra={"AcquisitionNumber": lambda k: 1 + (k > 2)})

    plan = planned(tmp_path, dd.Policy.lenient())

    assert {stack.shape[0] for stack in plan.stacks} <= {3, 7}
    for stack in plan.stacks:
        assert dd.read_volume(stack).valid.sum() == len(stack.paths)


# --- variable spacing -----------------------------------------------------------------------------


def test_variable_spacing_is_resampled_to_the_finest(tmp_path: Path, planned: Planned) -> None:
    # G9: 1 mm three times, then 2 mm three times.
    write_series(tmp_path, **axial([0, 1, 2, 3, 5, 7, 9]))

    (stack,) = planned(tmp_path, dd.Policy(variable_spacing="repair")).stacks
    volume = dd.read_volume(stack)

    assert stack.spacing == (1.0, 0.8, 0.5)
    assert first_voxels(volume) == [-24, 0, 24, 48, 60, 72, 84, 96, 108, 120]
    assert np.flatnonzero(~volume.valid).tolist() == [4, 6, 8]
    np.testing.assert_allclose(volume.affine_lps @ (9, 0, 0, 1), (-10, -20, 9, 1), atol=1e-9)


def test_frames_between_slices_are_accounted_for(tmp_path: Path, planned: Planned) -> None:
    # 0.75 and 2.25 mm lie on no slice of the 1 mm lattice: they only help to resample.
    write_series(tmp_path, **axial([0, 1, 2.4, 4]))

    plan = planned(tmp_path, dd.Policy(variable_spacing="repair"))  # which checks the account

    (stack,) = plan.stacks
    assert stack.slice_numbers == (0, 1, None, 4)
    assert {row.outcome for row in plan.outcomes} == {"used"}


# --- tilt -----------------------------------------------------------------------------------------


def test_an_upright_stack_is_left_as_it_is(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path)

    (stack,) = planned(tmp_path).stacks

    assert dd.untilt(stack) is stack


def test_untilting_puts_every_voxel_where_its_frame_says(tmp_path: Path, planned: Planned) -> None:
    # G6. Rows hold a straight line in space, so that interpolation along them is exact.
    slices, rows, columns = 6, 40, 3
    k, r, _ = np.indices((slices, rows, columns))
    write_series(tmp_path, stored=(k * 100 + r * 10).astype(np.uint16), **TILTED)
    (stack,) = planned(tmp_path).stacks

    upright = dd.untilt(stack)
    volume = dd.read_volume(upright)

    step, row, column, _ = (np.array(axis) for axis in upright.affine_columns)
    assert abs(step @ row) < 1e-9
    assert abs(step @ column) < 1e-9
    assert upright.spacing == pytest.approx(stack.spacing)
    # What a voxel of the grid should hold: through space into the tilted stack's own indices.
    grid = np.stack([*np.indices(upright.shape), np.ones(upright.shape)], axis=-1)
    own = grid @ (np.linalg.inv(stack.affine_lps) @ upright.affine_lps).T
    inside = (own[..., 1] >= -1e-6) & (own[..., 1] <= rows - 1 + 1e-6)
    expected = np.where(inside, own[..., 0] * 100 + own[..., 1] * 10 - 1024, -1024)
    np.testing.assert_allclose(volume.voxels, expected, atol=2e-3)
    assert volume.valid.all()


def test_a_policy_can_untilt(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, **TILTED)
    (stack,) = planned(tmp_path).stacks

    (upright,) = planned(tmp_path, dd.Policy(tilt="repair")).stacks

    by_hand = dd.untilt(stack)
    assert (upright.id, upright.fingerprint) == (by_hand.id, by_hand.fingerprint)
    assert upright.affine_columns == by_hand.affine_columns
    assert (upright.id, upright.fingerprint) != (stack.id, stack.fingerprint)
    assert [finding.kind for finding in upright.findings] == ["tilt"]


def test_a_shift_by_whole_pixels_keeps_every_value(tmp_path: Path, planned: Planned) -> None:
    # Two rows of 0.8 mm a slice, and one column of 0.5 mm back.
    write_series(tmp_path, step=(-0.5, 1.6, 2.5), shape=(3, 4, 6))
    (stack,) = planned(tmp_path).stacks
    expected = dd.read_volume(stack, dtype=np.int16).voxels

    volume = dd.read_volume(dd.untilt(stack), dtype=np.int16)

    assert volume.voxels.shape == (3, 8, 8)
    for number in range(3):
        down, back = 2 * number, 2 - number
        box = volume.voxels[number, down : down + 4, back : back + 6]
        np.testing.assert_array_equal(box, expected[number])
    assert (volume.voxels != -1024).sum() == expected.size


def test_interpolated_voxels_are_no_int16(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, **TILTED)
    (stack,) = planned(tmp_path, dd.Policy(tilt="repair")).stacks

    with pytest.raises(dd.RescaleError, match="not whole"):
        dd.read_volume(stack, dtype=np.int16)


# --- any repair -----------------------------------------------------------------------------------


REPAIRED = [
    {**axial([0, 2.5, 5, 10, 12.5])},
    {**axial([0, 1, 2, 3, 5, 7, 9])},
    {**TILTED, "shape": (5, 12, 6)},
    {"positions": [(0, 1.1 * k, 2.5 * k) for k in (0, 1, 2, 4, 5)]},
]


@pytest.mark.parametrize("fields", REPAIRED, ids=["gap", "variable", "tilt", "gap-tilt"])
@given(data=st.data())
def test_a_region_of_a_repaired_stack_is_that_part_of_it(
    data: st.DataObject,
    fields: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    planned: Planned,
) -> None:
    folder = tmp_path_factory.mktemp("series")
    write_series(folder, **fields)
    policy = dd.Policy(gap="repair", variable_spacing="repair", tilt="repair", fill="interpolate")
    (stack,) = planned(folder, policy).stacks
    whole = dd.read_volume(stack)
    region = data.draw(regions(stack.shape))

    part = dd.read_volume(stack, region)

    box = region.slices, region.rows, region.columns
    np.testing.assert_allclose(part.voxels, whole.voxels[box], rtol=0, atol=1e-3)
    np.testing.assert_array_equal(part.valid, whole.valid[region.slices])


@pytest.mark.parametrize("fields", REPAIRED, ids=["gap", "variable", "tilt", "gap-tilt"])
def test_reversing_a_repaired_stack_reverses_its_slices(
    fields: dict[str, Any], tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path, **fields)
    policy = dd.Policy(gap="repair", variable_spacing="repair", tilt="repair")
    (stack,) = planned(tmp_path, policy).stacks
    volume = dd.read_volume(stack)

    turned = dd.read_volume(stack.reversed())

    np.testing.assert_allclose(turned.voxels, volume.voxels[::-1], atol=1e-3)
    np.testing.assert_array_equal(turned.valid, volume.valid[::-1])
    last = stack.shape[0] - 1
    np.testing.assert_allclose(
        turned.affine_lps @ (last, 0, 0, 1), volume.affine_lps @ (0, 0, 0, 1), atol=1e-9
    )


@given(orientation=orientations(), lean=st.floats(-25, 25), towards=st.floats(0, math.pi))
def test_untilting_keeps_the_place_of_slice_zero_and_loses_no_pixel(
    orientation: tuple[float, ...],
    lean: float,
    towards: float,
    tmp_path_factory: pytest.TempPathFactory,
    planned: Planned,
) -> None:
    row, column = np.reshape(np.array(orientation), (2, 3))
    within = math.cos(towards) * row + math.sin(towards) * column
    step = 2.5 * (np.cross(row, column) + math.tan(math.radians(lean)) * within)
    folder = tmp_path_factory.mktemp("series")
    write_series(folder, orientation=orientation, step=tuple(step), shape=(4, 5, 6))
    (stack,) = planned(folder).stacks

    upright = dd.untilt(stack)

    corners = [(k, r, c, 1) for k in (0, 3) for r in (0, 4) for c in (0, 5)]
    inverse = np.linalg.inv(upright.affine_lps)
    for corner in corners:
        index = (inverse @ stack.affine_lps @ corner)[:3]
        assert (index >= -1e-3).all()
        assert (index <= np.array(upright.shape) - 1 + 1e-3).all()


def test_a_repaired_volume_comes_back_from_a_cache(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path / "series", **axial([0, 2.5, 5, 10, 12.5]))
    (stack,) = planned(tmp_path / "series", dd.Policy(gap="repair")).stacks
    cache = dd.DiskCache(tmp_path / "cache", max_bytes="1 MB")
    dataset = dd.VolumeDataset([stack], cache=cache)

    first, second = dataset[0], dataset[0]

    np.testing.assert_array_equal(first["image"], second["image"])
    assert cache.statistics().hits == 1


def test_frames_without_a_place_make_a_stack_where_that_is_accepted(
    tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path, shape=(1, 4, 6), positions=[None])
    stored = ramp((1, 4, 6))

    plan = planned(tmp_path, dd.Policy.lenient())
    (refused,) = planned(tmp_path).findings

    (stack,) = plan.stacks
    assert [finding.kind for finding in stack.findings] == ["position_missing"]
    assert stack.spacing[1:] == (0.8, 0.5)
    np.testing.assert_array_equal(dd.read_volume(stack).voxels, stored - 1024.0)
    assert (refused.kind, refused.choice) == ("position_missing", "reject")

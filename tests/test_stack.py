"""Series to stacks, trap by trap: what other readers get wrong, and what they refuse needlessly.

Most of these are tiny CT series of 4 x 6 pixels on which SimpleITK, MONAI, dcm2niix, highdicom and
others were run; the comments say who fails. Each is right here, or refused by name.
"""

from __future__ import annotations

import csv
import math
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import dicomdata as dd
from dicomdata.testing.phantoms import Each, SeriesPhantom, phantom_uid, ramp, write_series

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Planned = Callable[..., dd.StackPlan]

CORONAL = (1, 0, 0, 0, 0, -1)
COS, SIN = math.cos(math.radians(20)), math.sin(math.radians(20))


def axial(depths: Sequence[float], *, x: Sequence[float] | float = -10.0) -> dict[str, Any]:
    """Positions of axial slices at the given heights."""
    xs = [x] * len(depths) if isinstance(x, int | float) else x
    return {"positions": [(x, -20.0, z) for x, z in zip(xs, depths, strict=True)]}


def kinds(stack: dd.Stack) -> set[str]:
    return {finding.kind for finding in stack.findings}


def first_voxels(stack: dd.Stack) -> list[float]:
    """The first voxel of each slice: by `ramp`, -24 HU and 24 more a slice."""
    return [float(slice_[0, 0]) for slice_ in dd.read_volume(stack).voxels]


def only_refusal(plan: dd.StackPlan, finding: str) -> str:
    """The text of the one rejection, which is for `finding` and concerns every file."""
    assert plan.stacks == ()
    (rejection,) = plan.rejected
    assert isinstance(rejection.error, dd.GeometryError)
    assert rejection.error.finding == finding
    assert {row.outcome for row in plan.outcomes} == {"rejected"}
    assert {row.reason for row in plan.outcomes} == {str(rejection)}
    return str(rejection)


# --- order ----------------------------------------------------------------------------------------


def test_instance_numbers_say_nothing_about_order(tmp_path: Path, planned: Planned) -> None:
    # T1, G1: MONAI's PydicomReader sorts by them; dicom2nifti misses files.
    write_series(tmp_path, instance_number=Each(3, 1, 5, 2, 4))

    (stack,) = planned(tmp_path).stacks

    assert first_voxels(stack) == [-24, 0, 24, 48, 72]
    assert stack.spacing == (2.5, 0.8, 0.5)


def test_a_series_without_instance_numbers_is_a_volume(tmp_path: Path, planned: Planned) -> None:
    # T19: MONAI's PydicomReader and dicom2nifti refuse.
    write_series(tmp_path, instance_number=None)

    (stack,) = planned(tmp_path).stacks

    assert first_voxels(stack) == [-24, 0, 24, 48, 72]


def test_positions_outrank_slice_locations(tmp_path: Path, planned: Planned) -> None:
    # G2: scripts that sort by Slice Location turn the volume over.
    write_series(tmp_path, shape=(3, 4, 6), slice_location=Each(7.5, 2.5, 0))

    (stack,) = planned(tmp_path).stacks

    assert first_voxels(stack) == [-24, 0, 24]
    assert "slice_location" in kinds(stack)


def test_slice_locations_that_count_the_other_way_are_no_disagreement(
    tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path, slice_location=lambda k: 100 - 2.5 * k)

    (stack,) = planned(tmp_path).stacks

    assert "slice_location" not in kinds(stack)


def test_feet_first_changes_nothing(tmp_path: Path, planned: Planned) -> None:
    # G19: the position decides, Patient Position flips nothing.
    write_series(tmp_path, extra={"PatientPosition": "FFS"}, instance_number=lambda k: 5 - k)

    (stack,) = planned(tmp_path).stacks

    assert first_voxels(stack) == [-24, 0, 24, 48, 72]
    assert stack.affine_lps[2, 0] == 2.5


def test_a_negative_spacing_between_slices_is_ignored(tmp_path: Path, planned: Planned) -> None:
    # T15, G17: itk 5.4.7 and SimpleITK 2.4.0 mirror the volume.
    write_series(tmp_path, spacing_between_slices=-2.5)

    (stack,) = planned(tmp_path).stacks

    assert first_voxels(stack) == [-24, 0, 24, 48, 72]
    np.testing.assert_array_equal(stack.affine_lps[:3, 0], (0, 0, 2.5))


def test_thick_slices_that_overlap_are_as_far_apart_as_they_are(
    tmp_path: Path, planned: Planned
) -> None:
    # G18: readers that take Slice Thickness make the patient twice as long.
    write_series(tmp_path, slice_thickness=5)

    (stack,) = planned(tmp_path).stacks

    assert stack.spacing[0] == 2.5


# --- axes -----------------------------------------------------------------------------------------


def test_the_first_pixel_spacing_is_between_rows(tmp_path: Path, planned: Planned) -> None:
    # T14, G5: MONAI Deploy swaps them.
    write_series(tmp_path, pixel_spacing=(0.8, 0.5))

    (stack,) = planned(tmp_path).stacks

    np.testing.assert_array_equal(stack.affine_lps[:3, 1], (0, 0.8, 0))
    np.testing.assert_array_equal(stack.affine_lps[:3, 2], (0.5, 0, 0))
    assert stack.shape == (5, 4, 6)


def test_an_oblique_stack_is_spaced_along_its_normal(tmp_path: Path, planned: Planned) -> None:
    # G3: the step in z alone would be 2.4148.
    write_series(
        tmp_path, orientation=(0.9659258, 0, -0.2588190, 0, 1, 0), shape=(3, 4, 6),
        origin=(10, 20, 30), step=2.5,
    )  # fmt: skip

    (stack,) = planned(tmp_path).stacks

    assert stack.spacing[0] == pytest.approx(2.5, abs=1e-6)
    np.testing.assert_allclose(
        [(stack.affine_lps @ (k, 0, 0, 1))[:3] for k in range(3)],
        [(10, 20, 30), (10.6470, 20, 32.4148), (11.2941, 20, 34.8296)],
        atol=1e-4,
    )
    assert "tilt" not in kinds(stack)


def test_a_sagittal_stack_ascends_along_its_normal(tmp_path: Path, planned: Planned) -> None:
    # G4: those who sort by z put the slices in any order.
    write_series(
        tmp_path, orientation=(0, 1, 0, 0, 0, -1), positions=[(x, 0, 0) for x in (0, 2.5, 5)]
    )

    (stack,) = planned(tmp_path).stacks

    assert [frame.position[0] for frame in stack.frames if frame.position] == [5, 2.5, 0]
    assert first_voxels(stack) == [24, 0, -24]
    assert stack.spacing[0] == 2.5
    np.testing.assert_array_equal(stack.affine_lps[:3, 0], (-2.5, 0, 0))


def test_a_tilted_gantry_shears_the_affine(tmp_path: Path, planned: Planned) -> None:
    # T3, G6: SimpleITK and MONAI's ITKReader are 6.9 mm off at the last slice.
    write_series(tmp_path, orientation=(1, 0, 0, 0, COS, -SIN), origin=(0, 0, 0), step=(0, 0, 5))

    (stack,) = planned(tmp_path).stacks

    np.testing.assert_allclose((stack.affine_lps @ (4, 0, 0, 1))[:3], (0, 0, 20), atol=1e-9)
    assert stack.spacing[0] == pytest.approx(4.6985, abs=1e-4)
    (finding,) = (finding for finding in stack.findings if finding.kind == "tilt")
    assert finding.amount == pytest.approx(20.0)


def test_a_tilt_that_only_the_header_claims_is_none(tmp_path: Path, planned: Planned) -> None:
    # G7: GDCM refuses; others lean what stands upright.
    write_series(tmp_path, extra={"GantryDetectorTilt": "20"})

    (stack,) = planned(tmp_path).stacks

    assert "tilt" not in kinds(stack)
    assert "gantry_detector_tilt" in kinds(stack)
    np.testing.assert_array_equal(stack.affine_lps[:3, 0], (0, 0, 2.5))


def test_a_tilt_may_be_forbidden(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, orientation=(1, 0, 0, 0, COS, -SIN), origin=(0, 0, 0), step=(0, 0, 5))

    plan = planned(tmp_path, dd.Policy(tilt="reject"))

    assert "20.00 degrees" in only_refusal(plan, "tilt")


def test_noise_in_the_orientation_is_one_volume(tmp_path: Path, planned: Planned) -> None:
    # iop, G20: highdicom and dicom-numpy refuse.
    noise = np.random.default_rng(0).uniform(-1e-4, 1e-4, (5, 6))
    write_series(tmp_path, orientation=Each(*np.add(noise, (1, 0, 0, 0, 1, 0)).tolist()))

    (stack,) = planned(tmp_path).stacks

    assert stack.shape == (5, 4, 6)
    np.testing.assert_allclose(
        stack.affine_lps[:3, :3], [(0, 0, 0.5), (0, 0.8, 0), (2.5, 0, 0)], atol=3e-4
    )


def test_cosines_of_other_lengths_do_not_stretch_the_pixels(
    tmp_path: Path, planned: Planned
) -> None:
    # G21: who multiplies cosines as they are gets another pixel size.
    write_series(tmp_path, orientation=(1.0002, 0, 0, 0, 0.9998, 0), step=(0, 0, 2.5))

    (stack,) = planned(tmp_path).stacks

    np.testing.assert_allclose(stack.spacing, (2.5, 0.8, 0.5), rtol=1e-12)


def test_ras_is_lps_with_x_and_y_turned(tmp_path: Path, planned: Planned) -> None:
    # G32.
    write_series(tmp_path, origin=(1, 2, 3))

    (stack,) = planned(tmp_path).stacks

    np.testing.assert_array_equal(
        stack.affine_ras, [[0, 0, -0.5, -1], [0, -0.8, 0, -2], [2.5, 0, 0, 3], [0, 0, 0, 1]]
    )


# --- lattices -------------------------------------------------------------------------------------


def test_a_missing_slice_is_refused_with_its_number(tmp_path: Path, planned: Planned) -> None:
    # T10, G8: SimpleITK and MONAI stretch the rest to 3.125 mm, others close the gap.
    write_series(tmp_path, **axial([0, 2.5, 5, 10, 12.5]))

    text = only_refusal(planned(tmp_path), "gap")

    assert "1 missing slice(s) at number 3" in text
    assert "2.5 mm" in text


def test_spacings_that_vary_are_refused(tmp_path: Path, planned: Planned) -> None:
    # G9: gaps of 1 mm three times, then of 2 mm three times.
    write_series(tmp_path, **axial([0, 1, 2, 3, 5, 7, 9]))

    plan = planned(tmp_path)

    assert plan.stacks == ()
    (rejection,) = plan.rejected
    assert isinstance(rejection.error, dd.GeometryError)
    assert rejection.error.finding in {"gap", "variable_spacing"}


def test_spacings_that_drift_are_refused(tmp_path: Path, planned: Planned) -> None:
    # G12: dicom2nifti accepts.
    depths = np.round(np.cumsum([2.5 + 0.005 * k for k in range(40)]), 3).tolist()
    write_series(tmp_path, **axial(depths))

    assert "2.505 to 2.695 mm" in only_refusal(planned(tmp_path), "variable_spacing")


@pytest.mark.parametrize(
    ("spacing", "count", "decimals"),
    [
        pytest.param(0.625, 20, 1, id="jit, G10: highdicom refuses, dcm2niix is 4 % short"),
        pytest.param(0.625, 400, 1, id="the same over a whole body"),
        pytest.param(4 / 3, 12, 2, id="G11"),
    ],
)
def test_positions_that_were_rounded_are_a_lattice(
    spacing: float, count: int, decimals: int, tmp_path: Path, planned: Planned
) -> None:
    depths = [round(spacing * k, decimals) for k in range(count)]
    positions = [("0.0", "0.0", f"{depth:.{decimals}f}") for depth in depths]
    write_series(tmp_path, stored=ramp((count, 1, 2)), positions=positions)

    (stack,) = planned(tmp_path).stacks

    assert stack.spacing[0] == pytest.approx(spacing, abs=1.1e-3)
    last = (stack.affine_lps @ (count - 1, 0, 0, 1))[2]
    assert last == pytest.approx(spacing * (count - 1), abs=10**-decimals)
    assert "uneven" not in kinds(stack)


def test_positions_a_little_off_are_accepted_and_reported(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, **axial([0, 2.5, 5, 7.66, 10, 12.5, 15]))

    (stack,) = planned(tmp_path).stacks

    (finding,) = (finding for finding in stack.findings if finding.kind == "uneven")
    assert finding.amount == pytest.approx(0.137, abs=0.01)
    assert "mm off" in finding.text


def test_a_step_sideways_is_a_jump(tmp_path: Path, planned: Planned) -> None:
    # shift, G22: SimpleITK and MONAI make it 3.2 mm apart.
    write_series(tmp_path, **axial([0, 2.5, 5, 7.5, 10, 12.5], x=[0, 0, 0, 10, 10, 10]))

    assert "sideways" in only_refusal(planned(tmp_path), "jump")


def test_pictures_side_by_side_at_one_depth_are_no_stack(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, **axial([0, 0, 0], x=[0, 300, 600]))

    assert "side by side" in only_refusal(planned(tmp_path), "jump")


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_slices_are_a_volume(count: int, tmp_path: Path, planned: Planned) -> None:
    # dicom2nifti wants four.
    write_series(tmp_path, shape=(count, 4, 6))

    (stack,) = planned(tmp_path).stacks

    assert stack.shape == (count, 4, 6)
    assert ("single_slice" in kinds(stack)) == (count == 1)


@pytest.mark.parametrize(
    ("header", "step"),
    [({"spacing_between_slices": 3, "slice_thickness": 5}, 3), ({"slice_thickness": 5}, 5),
     ({"slice_thickness": None}, 1), ({"slice_thickness": "0"}, 1),
     ({"spacing_between_slices": -3, "slice_thickness": 5}, 5)],
)  # fmt: skip
def test_the_step_of_a_single_slice_is_nominal(
    header: dict[str, Any], step: float, tmp_path: Path, planned: Planned
) -> None:
    # G28.
    write_series(tmp_path, shape=(1, 4, 6), **header)

    (stack,) = planned(tmp_path).stacks

    assert stack.spacing == (step, 0.8, 0.5)
    (finding,) = stack.findings
    assert finding.kind == "single_slice"
    assert f"{step} mm is nominal" in finding.text


# --- values of the position -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "position",
    [("-23.924833297729492", " -20 ", "1.5\0"), ("-2.3924833297729492e1", "-20.", "+1.5")],
)
def test_numbers_are_read_as_written_however_long(
    position: tuple[str, str, str], tmp_path: Path, planned: Planned
) -> None:
    # G24: strict validators refuse more than 16 characters.
    write_series(tmp_path, positions=[position])

    (stack,) = planned(tmp_path).stacks

    assert stack.frames[0].position == (-23.924833297729492, -20.0, 1.5)


@pytest.mark.parametrize(
    ("header", "element"),
    [
        pytest.param({"positions": [("1,5", "0", "0")]}, "(0020,0032)", id="G25 decimal comma"),
        pytest.param({"positions": [("nan", "0", "0")]}, "(0020,0032)", id="nan"),
        pytest.param({"positions": [("0", "inf", "0")]}, "(0020,0032)", id="inf"),
        pytest.param({"positions": [("0", "0")]}, "(0020,0032)", id="two numbers"),
        pytest.param({"positions": [("0", "0", "0", "0")]}, "(0020,0032)", id="four numbers"),
        pytest.param({"positions": [("1_000", "0", "0")]}, "(0020,0032)", id="a Python number"),
        pytest.param({"positions": [None]}, "(0020,0032)", id="no position"),
        pytest.param({"positions": [""]}, "(0020,0032)", id="an empty position"),
        pytest.param({"orientation": None}, "(0020,0037)", id="no orientation"),
        pytest.param({"orientation": (0, 0, 0, 0, 0, 0)}, "(0020,0037)", id="no direction"),
        pytest.param({"orientation": (1, 0, 0, 0, 1)}, "(0020,0037)", id="five cosines"),
        pytest.param({"pixel_spacing": None}, "(0028,0030)", id="no spacing"),
        pytest.param({"pixel_spacing": ""}, "(0028,0030)", id="G26 an empty spacing"),
        pytest.param({"pixel_spacing": ("nan", "1")}, "(0028,0030)", id="G26 nan spacing"),
        pytest.param({"pixel_spacing": ("0", "0")}, "(0028,0030)", id="spacing of zero"),
        pytest.param({"pixel_spacing": ("-1", "1")}, "(0028,0030)", id="negative spacing"),
        pytest.param({"pixel_spacing": "1"}, "(0028,0030)", id="one spacing"),
    ],
)
def test_a_place_that_is_none_is_refused_by_file_and_element(
    header: dict[str, Any], element: str, tmp_path: Path, planned: Planned
) -> None:
    (path,) = write_series(tmp_path, **{"positions": [(0, 0, 0)], **header})

    (row,) = planned(tmp_path).outcomes

    assert row.outcome == "rejected"
    assert element in row.reason
    assert str(path) in row.reason


def test_of_three_pixel_spacings_the_first_two_count(tmp_path: Path, planned: Planned) -> None:
    # G26.
    write_series(tmp_path, pixel_spacing=("0.8", "0.5", "3"))

    (stack,) = planned(tmp_path).stacks

    assert stack.spacing == (2.5, 0.8, 0.5)


def test_a_detector_spacing_alone_is_refused_by_name_or_reported(
    tmp_path: Path, planned: Planned
) -> None:
    # G27: Imager Pixel Spacing is that of the detector, not of the patient.
    write_series(tmp_path, pixel_spacing=None, extra={"ImagerPixelSpacing": ("0.2", "0.2")})

    plan = planned(tmp_path)

    if plan.stacks:
        assert any("Imager Pixel Spacing" in finding.text for finding in plan.stacks[0].findings)
    else:
        assert all("Pixel Spacing (0028,0030)" in row.reason for row in plan.outcomes)


def test_directions_that_are_not_upright_on_each_other_are_refused(
    tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path, orientation=(1, 0, 0, 0.5, 0.8, 0), step=(0, 0, 2.5))

    plan = planned(tmp_path)

    assert plan.stacks == ()
    assert "orthogonal" in plan.outcomes[0].reason


# --- what does not belong -------------------------------------------------------------------------


def test_a_localizer_inside_a_series_is_set_aside(tmp_path: Path, planned: Planned) -> None:
    # T18, G16: SimpleITK makes the slices 16.7 mm apart, MONAI puts it first.
    phantom = SeriesPhantom()
    write_series(tmp_path, phantom)
    (path,) = write_series(
        tmp_path, phantom.only(0), orientation=CORONAL, sop_instance_uid="1.2.3", seed="survey",
        file_names=["survey"],
    )  # fmt: skip

    plan = planned(tmp_path)

    (stack,) = plan.stacks
    assert first_voxels(stack) == [-24, 0, 24, 48, 72]
    (row,) = (row for row in plan.outcomes if row.outcome != "used")
    assert (row.path, row.outcome, row.stack) == (str(path), "localizer", stack.id)
    assert "orientation" in row.reason


def test_a_localizer_may_be_forbidden(tmp_path: Path, planned: Planned) -> None:
    phantom = SeriesPhantom()
    write_series(tmp_path, phantom)
    write_series(tmp_path, phantom.only(0), orientation=CORONAL, file_names=["survey"])

    plan = planned(tmp_path, dd.Policy(localizer="reject"))

    assert len(plan.stacks) == 1
    assert [row.outcome for row in plan.outcomes].count("rejected") == 1


@pytest.mark.parametrize(
    ("header", "trait"),
    [
        pytest.param({"pixel_spacing": (0.9, 0.9)}, "Pixel Spacing", id="frac"),
        pytest.param({"stored": [ramp((1, 8, 6))[0]]}, "matrix", id="shape"),
        pytest.param({"bits_stored": 12}, "pixel format", id="bits"),
        pytest.param({"signed": True}, "pixel format", id="sign"),
        pytest.param({"photometric_interpretation": "MONOCHROME1"}, "Photometric", id="inverted"),
    ],
)
def test_one_odd_slice_within_a_series_leaves_a_gap_and_is_not_mixed_in(
    header: dict[str, Any], trait: str, tmp_path: Path, planned: Planned
) -> None:
    # frac, shape, G23: others crop it in, drop it, or pretend it were alike.
    phantom = SeriesPhantom()
    paths = write_series(tmp_path, phantom)
    write_series(tmp_path, phantom.only(2), overwrite=True, **header)

    plan = planned(tmp_path)

    assert plan.stacks == ()
    assert {row.outcome for row in plan.outcomes} == {"rejected"}
    (odd,) = (row for row in plan.outcomes if row.path == str(paths[2]))
    assert trait in odd.reason
    assert all("gap" in row.reason for row in plan.outcomes if row is not odd)


def test_one_odd_slice_at_the_end_is_set_aside(tmp_path: Path, planned: Planned) -> None:
    phantom = SeriesPhantom()
    paths = write_series(tmp_path, phantom)
    write_series(tmp_path, phantom.only(4), overwrite=True, pixel_spacing=(0.9, 0.9))

    plan = planned(tmp_path)

    (stack,) = plan.stacks
    assert stack.shape == (4, 4, 6)
    (row,) = (row for row in plan.outcomes if row.outcome != "used")
    assert (row.path, row.outcome) == (str(paths[4]), "localizer")


def test_pixel_spacings_rounded_otherwise_are_one(tmp_path: Path, planned: Planned) -> None:
    spacings = [("0.703125", "0.703125"), ("0.7031", "0.7031")] * 2
    write_series(tmp_path, shape=(4, 4, 6), pixel_spacing=Each(*spacings))

    (stack,) = planned(tmp_path).stacks

    assert stack.shape == (4, 4, 6)
    assert stack.spacing[1] == pytest.approx(0.703125, rel=1e-3)


def test_two_halves_of_a_series_of_two_sizes_are_two_stacks(
    tmp_path: Path, planned: Planned
) -> None:
    phantom = SeriesPhantom(shape=(4, 4, 6))
    write_series(tmp_path, phantom)
    write_series(
        tmp_path, phantom, stored=ramp((4, 8, 6)), origin=(-10, -20, 100),
        file_names=lambda k: f"other {k}", sop_instance_uid=lambda k: f"1.2.{k}",
    )  # fmt: skip

    plan = planned(tmp_path)

    assert sorted(stack.shape for stack in plan.stacks) == [(4, 4, 6), (4, 8, 6)]
    assert plan.rejected == ()


def test_colour_is_refused_by_name(tmp_path: Path, planned: Planned) -> None:
    write_series(
        tmp_path, stored=np.zeros((3, 4, 6, 3), "u1"), photometric_interpretation="RGB",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
    )  # fmt: skip

    assert "Samples per Pixel (0028,0002) is 3" in only_refusal(planned(tmp_path), "not_a_volume")


def test_a_mosaic_is_refused_by_name(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, image_type=("ORIGINAL", "PRIMARY", "M", "MOSAIC"), modality="MR")

    assert "mosaic" in only_refusal(planned(tmp_path), "not_a_volume")


def test_a_modality_lut_sequence_that_is_cut_short_is_refused_by_name(
    tmp_path: Path, planned: Planned
) -> None:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence as DicomSequence

    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4, 0, 16], "HU"
    table.add_new("LUTData", "OW", bytes(6))
    write_series(
        tmp_path, slope=None, intercept=None,
        extra={"ModalityLUTSequence": DicomSequence([table])},
    )  # fmt: skip

    plan = planned(tmp_path)

    assert plan.stacks == ()
    assert "(0028,3006)" in plan.outcomes[0].reason


# --- one position twice ---------------------------------------------------------------------------


def test_a_slice_written_twice_is_used_once(tmp_path: Path, planned: Planned) -> None:
    # T4, G13: SimpleITK falls back to the order of file names.
    phantom = SeriesPhantom()
    write_series(tmp_path, phantom)
    write_series(
        tmp_path, phantom.only(2), sop_instance_uid="1.2.3", instance_number=77,
        file_names=["again"],
    )  # fmt: skip

    plan = planned(tmp_path)

    (stack,) = plan.stacks
    assert first_voxels(stack) == [-24, 0, 24, 48, 72]
    (row,) = (row for row in plan.outcomes if row.outcome != "used")
    assert (row.outcome, row.stack) == ("duplicate", stack.id)
    assert "duplicate" in kinds(stack)


def test_a_whole_series_copied_into_another_folder_is_used_once(
    tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "copy")

    plan = planned(tmp_path)

    (stack,) = plan.stacks
    assert stack.shape == (5, 4, 6)
    assert [row.outcome for row in plan.outcomes].count("duplicate") == 5


def test_the_same_instance_uid_on_every_slice_proves_nothing(
    tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path, sop_instance_uid="1.2.3")

    (stack,) = planned(tmp_path).stacks

    assert first_voxels(stack) == [-24, 0, 24, 48, 72]


def test_the_same_pixels_meaning_other_values_contradict_each_other(
    tmp_path: Path, planned: Planned
) -> None:
    phantom = SeriesPhantom()
    write_series(tmp_path, phantom)
    write_series(tmp_path, phantom.only(2), slope="2", file_names=["again"])

    plan = planned(tmp_path)

    assert "Rescale Slope" in only_refusal(plan, "repeated_position")


def test_duplicates_may_be_forbidden(tmp_path: Path, planned: Planned) -> None:
    phantom = SeriesPhantom()
    write_series(tmp_path, phantom)
    write_series(tmp_path, phantom.only(2), file_names=["again"])

    plan = planned(tmp_path, dd.Policy(duplicate="reject"))

    only_refusal(plan, "duplicate")


def write_phases(folder: Path, **later: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Write two phases at the same positions, the second with `later`; give their HU."""
    phantom = SeriesPhantom(file_names=lambda k: f"early {k}")
    second = ramp((5, 4, 6)) + np.uint16(500)
    write_series(folder, phantom)
    write_series(
        folder, phantom, stored=second, file_names=lambda k: f"late {k}",
        sop_instance_uid=lambda k: phantom_uid("late", k), **later,
    )  # fmt: skip
    return ramp((5, 4, 6)) - 1024.0, second - 1024.0


@pytest.mark.parametrize(
    "later",
    [
        pytest.param({"extra": {"TemporalPositionIdentifier": "2"}}, id="only the second says so"),
        pytest.param({"extra": {"AcquisitionNumber": "2"}}, id="Acquisition Number"),
        pytest.param({"instance_number": lambda k: 6 + k}, id="runs of Instance Number"),
        pytest.param({"extra": {"ContentTime": "120000"}}, id="Content Time"),
        pytest.param({}, id="nothing"),
    ],
)
def test_two_phases_are_two_volumes_or_refused_and_never_mixed(
    later: dict[str, Any], tmp_path: Path, planned: Planned
) -> None:
    # ph, G14: most readers interleave ten slices 1.11 mm apart.
    truth = write_phases(tmp_path, **later)

    plan = planned(tmp_path)

    if not plan.stacks:
        only_refusal(plan, "repeated_position")
        return
    volumes = [dd.read_volume(stack).voxels for stack in plan.stacks]
    assert len(volumes) == 2
    for expected in truth:
        assert any(np.array_equal(voxels, expected) for voxels in volumes)


def test_phases_told_apart_by_nothing_are_refused_whatever_their_uids(
    tmp_path: Path, planned: Planned
) -> None:
    # Both number their slices 1 to 5, and the order of UIDs or names is chance.
    phantom = SeriesPhantom()
    for name in ("one", "two"):
        write_series(
            tmp_path / name, phantom, stored=ramp((5, 4, 6)) + np.uint16(len(name) * ord(name[0])),
            sop_instance_uid=lambda k, name=name: phantom_uid(name, k),
        )  # fmt: skip

    plan = planned(tmp_path)

    only_refusal(plan, "repeated_position")


def test_two_overlapping_passes_are_two_volumes_or_refused(
    tmp_path: Path, planned: Planned
) -> None:
    # pass, G15: eight readers interleave them at 2.08 mm.
    phantom = SeriesPhantom(file_names=lambda k: f"one {k}", extra={"AcquisitionNumber": "1"})
    write_series(tmp_path, phantom, **axial([0, 2.5, 5, 7.5, 10]))
    write_series(
        tmp_path, phantom, file_names=lambda k: f"two {k}", extra={"AcquisitionNumber": "2"},
        sop_instance_uid=lambda k: f"1.2.{k}", **axial([8.75, 11.25, 13.75, 16.25, 18.75]),
    )  # fmt: skip

    plan = planned(tmp_path)

    assert len(plan.stacks) in {0, 2}
    for stack in plan.stacks:
        assert stack.spacing[0] == 2.5
        assert first_voxels(stack) == [-24, 0, 24, 48, 72]
    assert plan.stacks or {row.outcome for row in plan.outcomes} == {"rejected"}


def test_many_acquisition_numbers_within_one_good_volume_are_one_volume(
    tmp_path: Path, planned: Planned
) -> None:
    write_series(
        tmp_path, extra=lambda k: {"AcquisitionNumber": str(k), "ContentTime": f"12000{k}"}
    )

    (stack,) = planned(tmp_path).stacks

    assert stack.shape == (5, 4, 6)


# --- several series, patients, frames of reference ------------------------------------------------


def test_two_series_in_one_folder_are_two_stacks(tmp_path: Path, planned: Planned) -> None:
    # T11: SimpleITK reads the first, MONAI's PydicomReader interleaves.
    write_series(tmp_path, shape=(3, 4, 6), seed="one")
    write_series(tmp_path, shape=(5, 4, 6), seed="two", origin=(-10, -20, -31))

    plan = planned(tmp_path)

    assert sorted(stack.shape[0] for stack in plan.stacks) == [3, 5]


def test_a_series_spread_over_folders_is_one_stack(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, file_names=lambda k: f"{k % 2}/deep/{k}")

    (stack,) = planned(tmp_path).stacks

    assert stack.shape == (5, 4, 6)


def test_one_series_uid_of_two_patients_never_merges(tmp_path: Path, planned: Planned) -> None:
    phantom = SeriesPhantom(shape=(4, 4, 6))
    write_series(tmp_path / "a", phantom, patient_id="A")
    write_series(tmp_path / "b", phantom, patient_id="B", origin=(-10, -20, -20))

    plan = planned(tmp_path)

    assert {stack.patient_id for stack in plan.stacks} == {"A", "B"}
    assert [stack.shape[0] for stack in plan.stacks] == [4, 4]
    assert len({stack.id for stack in plan.stacks}) == 2


def test_folders_whose_series_uid_was_stripped_are_series(tmp_path: Path, planned: Planned) -> None:
    for name in ("a", "b"):
        write_series(tmp_path / name, shape=(3, 4, 6), series_instance_uid=None, seed=name)

    plan = planned(tmp_path)

    assert [stack.shape[0] for stack in plan.stacks] == [3, 3]
    assert len({stack.id for stack in plan.stacks}) == 2


def test_two_frames_of_reference_within_one_stack_are_refused(
    tmp_path: Path, planned: Planned
) -> None:
    # forx, G23: nearly everyone merges them, though places in them cannot be compared.
    write_series(tmp_path, frame_of_reference_uid=Each("1.1", "1.2", "1.1", "1.2", "1.1"))

    text = only_refusal(planned(tmp_path), "mixed_frame_of_reference")

    assert "2 Frame of Reference UIDs" in text


def test_two_frames_of_reference_that_lie_apart_are_two_stacks(
    tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path, shape=(6, 4, 6), frame_of_reference_uid=Each(*["1.1"] * 3, *["1.2"] * 3))

    plan = planned(tmp_path)

    assert {(stack.frame_of_reference_uid, stack.shape[0]) for stack in plan.stacks} == {
        ("1.1", 3), ("1.2", 3),
    }  # fmt: skip


def test_a_frame_of_reference_for_every_slice_is_a_habit_of_the_archive(
    tmp_path: Path, planned: Planned
) -> None:
    write_series(
        tmp_path,
        frame_of_reference_uid=lambda k: f"1.2.{k}",
        study_instance_uid=lambda k: f"1.3.{k}",
    )

    (stack,) = planned(tmp_path).stacks

    assert stack.shape == (5, 4, 6)
    assert {"frame_of_reference_scattered", "study_scattered"} <= kinds(stack)


# --- functions over one, and the plan -------------------------------------------------------------


def test_over_one_series_the_reason_is_raised(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, **axial([0, 2.5, 5, 10, 12.5]))
    (series,) = planned(tmp_path).catalog.series

    with pytest.raises(dd.GeometryError, match="gap: 1 missing") as caught:
        dd.stack_series(series)

    assert caught.value.finding == "gap"


def test_over_one_series_its_stacks_are_given(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path)
    plan = planned(tmp_path)

    stacks = dd.stack_series(plan.catalog.series[0])

    assert tuple(stacks) == plan.stacks


@pytest.mark.parametrize(
    "settings",
    [{"tilt": "repair me"}, {"gap": "accept"}, {"jump": "accept"}, {"padding": "water"},
     {"padding": True}, {"duplicate": None}],
)  # fmt: skip
def test_a_policy_that_cannot_be_kept_cannot_be_made(settings: dict[str, Any]) -> None:
    with pytest.raises(dd.ConfigError, match=next(iter(settings))):
        dd.Policy(**settings)


def test_an_id_names_what_is_in_a_stack_not_where_it_lies(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path / "here")
    write_series(tmp_path / "there", file_names=lambda k: f"x{k}")

    (here,), (there,) = (planned(tmp_path / name).stacks for name in ("here", "there"))

    assert here.id == there.id
    assert here.fingerprint != there.fingerprint


def test_every_stack_of_a_plan_has_an_id_of_its_own(tmp_path: Path, planned: Planned) -> None:
    # The same instances, encoded anew: the same UIDs and places, other bytes.
    phantom = SeriesPhantom(shape=(3, 16, 16))
    write_series(tmp_path / "plain", phantom)
    write_series(tmp_path / "packed", phantom, transfer_syntax_uid="1.2.840.10008.1.2.5")

    plan = planned(tmp_path)

    ids = [stack.id for stack in plan.stacks]
    assert len(ids) == len(set(ids))


def test_copies_of_instances_in_another_pixel_format_have_an_id_of_their_own(
    tmp_path: Path, planned: Planned
) -> None:
    stored = ramp((5, 4, 6))
    write_series(tmp_path / "signed", stored=stored.astype(np.int16))
    write_series(tmp_path / "unsigned", stored=stored, bits_stored=12)

    signed, unsigned = planned(tmp_path).stacks

    assert signed.sop_instance_uids == unsigned.sop_instance_uids
    assert signed.id != unsigned.id


def test_items_are_plain_strings_and_numbers(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path)
    plan = planned(tmp_path)

    (item,) = plan.items(image="ct")

    (stack,) = plan.stacks
    assert item["ct"] == f"{tmp_path}/{stack.id}.dcmseries"
    assert item["fingerprint"] == stack.fingerprint
    assert item["patient_id"] == "PHANTOM"
    assert all(type(value) in {str, int, float} for value in item.values())


def test_the_account_is_a_table_too(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path / "archive")
    (tmp_path / "archive" / "notes,\n1.txt").write_text("text")
    outcomes = planned(tmp_path / "archive").outcomes

    table = outcomes.to_pandas()
    outcomes.to_csv(tmp_path / "outcomes.csv")

    assert table["outcome"].value_counts().to_dict() == {"used": 5, "not DICOM": 1}
    assert table["slice_number"].dropna().tolist() == [row.slice_number for row in outcomes
                                                       if row.outcome == "used"]  # fmt: skip
    with (tmp_path / "outcomes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [row.path for row in outcomes]


def test_what_was_not_selected_is_accounted_for(
    tmp_path: Path, planned: Planned, accounted: Callable[[dd.StackPlan], None]
) -> None:
    write_series(tmp_path, seed="ct")
    write_series(tmp_path, seed="mr", modality="MR")

    plan = dd.plan_stacks(planned(tmp_path).catalog.select(modality="MR"))

    accounted(plan)
    outcomes = [row.outcome for row in plan.outcomes]
    assert (outcomes.count("used"), outcomes.count("not selected")) == (5, 5)


def test_a_stack_knows_its_instances(tmp_path: Path, planned: Planned) -> None:
    phantom = replace(SeriesPhantom(), seed="known")
    paths = write_series(tmp_path, phantom)

    (stack,) = planned(tmp_path).stacks

    assert stack.paths == tuple(map(str, paths))
    assert stack.sop_instance_uids == tuple(phantom_uid("known", "instance", k) for k in range(5))
    assert stack.series_instance_uid == phantom_uid("known", "series")
    assert stack.study_instance_uid == phantom_uid("known", "study")
    assert stack.frame_of_reference_uid == phantom_uid("known", "frame")
    assert (stack.modality, stack.patient_id, stack.unit) == ("CT", "PHANTOM", "HU")


def test_a_plan_and_a_stack_are_shown_in_one_line(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path / "series", **axial([0, 2.5, 5]))

    plan = planned(tmp_path)

    assert repr(plan) == "StackPlan(1 stacks of 1 series, 0 rejected)"
    (stack,) = plan.stacks
    shown = f"Stack('{stack.id}', 3 x 4 x 6, 2.5 x 0.8 x 0.5 mm, 'HU')"
    assert repr(stack) == shown


def test_what_is_no_stack_is_refused_by_name(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path / "series")
    plan: Any = planned(tmp_path)
    folder: Any = "series"

    with pytest.raises(dd.ConfigError, match=r"expected a stack, of plan\.stacks"):
        dd.read_volume(folder)
    with pytest.raises(dd.ConfigError, match=r"expected the stacks of a plan, plan\.stacks"):
        dd.VolumeDataset(plan)
    with pytest.raises(dd.ConfigError, match=r"expected the stacks of a plan, plan\.stacks"):
        dd.PatchDataset(plan, (2, 2, 2))

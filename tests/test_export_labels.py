"""What is written as SEG and RTSTRUCT is read back bit for bit: by us, and by highdicom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import dicomdata as dd
from dicomdata.export.tracing import trace
from dicomdata.labels.contours import fill
from dicomdata.testing.enhanced import EnhancedPhantom, write_enhanced
from dicomdata.testing.phantoms import Each, SeriesPhantom, write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[[Path], dd.StackPlan]

SHAPE = (5, 4, 6)


def plan_of(folder: Path, **policy: Any) -> dd.StackPlan:
    return dd.plan_stacks(dd.scan(folder, progress=False), dd.Policy(**policy))


def clean(folder: Path) -> dd.StackPlan:
    write_series(folder)
    return plan_of(folder)


def oblique(folder: Path) -> dd.StackPlan:
    write_series(folder, orientation=(0.9659258, 0, -0.2588190, 0, 1, 0), origin=(10, 20, 30))
    return plan_of(folder)


def tilted(folder: Path) -> dd.StackPlan:
    write_series(folder, orientation=(1, 0, 0, 0, 0.9396926, -0.3420201), step=(0, 0, 5.0))
    return plan_of(folder)


def untilted(folder: Path) -> dd.StackPlan:
    tilted(folder)
    return plan_of(folder, tilt="repair")


def gapped(folder: Path) -> dd.StackPlan:
    write_series(folder, positions=[(-10, -20, z) for z in (0, 2.5, 5, 10, 12.5)])
    return plan_of(folder, gap="repair")


def uneven(folder: Path) -> dd.StackPlan:
    # 0.625 mm written with one decimal.
    write_series(folder, positions=[(-10, -20, round(0.625 * k, 1)) for k in range(5)])
    return plan_of(folder)


def two_phases(folder: Path) -> dd.StackPlan:
    write_series(
        folder, positions=[(-10, -20, 2.5 * (k % 3)) for k in range(6)],
        extra={"TemporalPositionIdentifier": Each(1, 1, 1, 2, 2, 2)},
    )  # fmt: skip
    return plan_of(folder)


def multi_frame(folder: Path) -> dd.StackPlan:
    write_enhanced(folder, EnhancedPhantom(order=(2, 0, 3, 1, 4)))
    return plan_of(folder)


def phases_in_one_file(folder: Path) -> dd.StackPlan:
    series = SeriesPhantom(
        positions=[(-10, -20, 2.5 * (k % 3)) for k in range(6)],
        extra={"TemporalPositionIndex": Each(1, 1, 1, 2, 2, 2)},
    )
    write_enhanced(folder, EnhancedPhantom(series=series))
    return plan_of(folder)


def without_frame_of_reference(folder: Path) -> dd.StackPlan:
    write_series(folder, frame_of_reference_uid=None)
    return plan_of(folder)


def single_slice(folder: Path) -> dd.StackPlan:
    write_series(folder, shape=(1, 4, 6))
    return plan_of(folder)


def one_uid_for_all(folder: Path) -> dd.StackPlan:
    write_series(folder, sop_instance_uid="1.2.3")
    return plan_of(folder)


SERIES = [
    clean, oblique, tilted, untilted, gapped, uneven, two_phases, multi_frame, phases_in_one_file,
    without_frame_of_reference, single_slice, one_uid_for_all,
]  # fmt: skip


def draw(stack: dd.Stack, seed: int = 0) -> np.ndarray:
    """Label voxels at random: two segments that overlap, holes, and pixels that meet in corners."""
    random = np.random.default_rng(seed).random((2, *stack.shape))
    return np.array(random > 0.5)


@pytest.mark.parametrize("write", SERIES, ids=lambda write: write.__name__)
def test_a_segmentation_is_read_back_bit_for_bit(tmp_path: Path, write: Write) -> None:
    for number, stack in enumerate(write(tmp_path / "images").stacks):
        drawn = draw(stack, number)

        dd.write_segmentation(tmp_path / "seg.dcm", drawn, stack, ["Lung", "Nodule"])

        mask = dd.read_segmentation(tmp_path / "seg.dcm", stack)
        assert_array_equal(mask.voxels, drawn)
        assert mask.names == ("Lung", "Nodule")
        assert mask.verdict.kind == "same_grid"
        assert_array_equal(by_highdicom(tmp_path / "seg.dcm", stack), drawn)


def by_highdicom(path: Path, stack: dd.Stack) -> np.ndarray:
    """Let highdicom read a segmentation: slices by the images they name, others by their place."""
    segmentation = hd.seg.segread(path)
    read = np.zeros((segmentation.number_of_segments, *stack.shape), bool)
    options: dict[str, Any] = {
        "ignore_spatial_locations": True,
        "assert_missing_frames_are_empty": True,
    }
    by_place = set(np.flatnonzero(~stack.valid).tolist())
    for frame, number in zip(stack.frames, stack.slice_numbers, strict=True):
        uid = frame.sop_instance_uid
        if number is None:
            continue
        if frame.kind.sop_class_uid.startswith("1.2.840.10008.5.1.4.1.1.2.1"):
            pixels = segmentation.get_pixels_by_source_frame(uid, [frame.number + 1], **options)
        elif stack.sop_instance_uids.count(uid) == 1:
            pixels = segmentation.get_pixels_by_source_instance([uid], **options)
        else:
            by_place.add(number)
            continue
        read[:, number] = np.moveaxis(pixels[0], 2, 0)
    for missing in sorted(by_place):
        place = stack.affine_lps @ (missing, 0, 0, 1)
        for index, group in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
            position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
            if np.allclose(position, place[:3], atol=1e-6):
                segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
                read[segment - 1, missing] = segmentation.get_stored_frame(index + 1)
    return read


@pytest.mark.parametrize("write", SERIES, ids=lambda write: write.__name__)
def test_a_structure_set_is_read_back_bit_for_bit(tmp_path: Path, write: Write) -> None:
    for number, stack in enumerate(write(tmp_path / "images").stacks):
        drawn = draw(stack, number)

        dd.write_structures(tmp_path / "rt.dcm", drawn, stack, ["Lung", "Nodule"])

        mask = dd.read_structures(tmp_path / "rt.dcm", stack)
        assert_array_equal(mask.voxels, drawn)
        assert mask.names == ("Lung", "Nodule")
        assert mask.verdict.kind == "same_grid"
        assert {each.kind for each in mask.findings} <= {
            "overlap", "unmeasured_slices", "frame_of_reference_missing",
        }  # fmt: skip


@pytest.mark.parametrize("write", SERIES, ids=lambda write: write.__name__)
def test_labels_find_the_stack_they_were_written_for(tmp_path: Path, write: Write) -> None:
    plan = write(tmp_path)
    for number, stack in enumerate(plan.stacks):
        dd.write_segmentation(tmp_path / f"{number}.seg.dcm", draw(stack), stack, ["A", "B"])
        dd.write_structures(tmp_path / f"{number}.rt.dcm", draw(stack), stack, ["A", "B"])

    again = dd.plan_stacks(plan.catalog.refresh(progress=False), plan.policy)
    found = dd.find_labels(again)

    assert [each.id for each in again.stacks] == [each.id for each in plan.stacks]
    assert [(match.path, match.kind, match.stack.id) for match in found.matches] == [
        (str(tmp_path / f"{number}.{kind}.dcm"), name, stack.id)
        for number, stack in enumerate(plan.stacks)
        for kind, name in (("rt", "RTSTRUCT"), ("seg", "SEG"))
    ]


def test_a_frame_names_the_very_image_it_was_made_from(tmp_path: Path) -> None:
    (stack,) = multi_frame(tmp_path / "images").stacks
    mask = np.zeros(stack.shape, bool)
    mask[3, 1, 2] = True

    dd.write_segmentation(tmp_path / "seg.dcm", mask, stack, ["Lung"])

    header = pydicom.dcmread(tmp_path / "seg.dcm")
    (group,) = header.PerFrameFunctionalGroupsSequence
    (source,) = group.DerivationImageSequence[0].SourceImageSequence
    assert source.ReferencedSOPInstanceUID == stack.sop_instance_uids[3]
    # Frames are stored in the order 2, 0, 3, 1, 4.
    assert source.ReferencedFrameNumber == 3
    assert source.SpatialLocationsPreserved == "YES"
    (series,) = header.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == stack.series_instance_uid
    assert len(series.ReferencedInstanceSequence) == 1
    assert header.StudyInstanceUID == stack.study_instance_uid
    assert header.PatientID == stack.patient_id


def test_names_get_the_codes_of_the_standard(tmp_path: Path) -> None:
    (stack,) = clean(tmp_path / "images").stacks
    own = dd.Segment(9, "Mine", dd.Code("1", "99X", "One"), dd.Code("2", "99X", "Two"))

    dd.write_segmentation(
        tmp_path / "seg.dcm", np.zeros((3, *SHAPE), bool), stack, ["Spinal cord", "Whatsit", own]
    )

    known, unknown, given_ = dd.read_segmentation(tmp_path / "seg.dcm", stack).segments
    assert known.type == dd.Code("2748008", "SCT", "Spinal cord")
    assert known.category == dd.Code("91723000", "SCT", "Anatomical Structure")
    assert unknown.type is not None
    assert unknown.type.scheme == "99DICOMDATA"
    assert unknown.type.meaning == "Whatsit"
    assert (given_.number, given_.category, given_.type) == (3, own.category, own.type)


def test_fractions_are_written_in_255_steps(tmp_path: Path) -> None:
    (stack,) = clean(tmp_path / "images").stacks
    steps = np.arange(120, dtype=np.float32).reshape(SHAPE) / np.float32(255)

    dd.write_segmentation(tmp_path / "seg.dcm", steps, stack, ["Lung"])

    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack)
    assert_array_equal(mask.voxels[0], steps)
    assert hd.seg.segread(tmp_path / "seg.dcm").segmentation_type.value == "FRACTIONAL"


def test_a_map_of_numbers_is_written_as_its_segments(tmp_path: Path) -> None:
    (stack,) = clean(tmp_path / "images").stacks
    numbers = np.arange(120).reshape(SHAPE) % 3

    dd.write_segmentation(tmp_path / "seg.dcm", numbers, stack, ["One", "Two"])

    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack)
    assert_array_equal(mask.labelmap(), numbers)


def test_a_mask_that_was_read_is_written_as_it_is(tmp_path: Path) -> None:
    (stack,) = clean(tmp_path / "images").stacks
    dd.write_segmentation(tmp_path / "one.dcm", draw(stack), stack, ["Lung", "Liver"])
    mask = dd.read_segmentation(tmp_path / "one.dcm", stack)

    dd.write_segmentation(tmp_path / "two.dcm", mask, stack)
    dd.write_structures(tmp_path / "rt.dcm", mask, stack)

    for again in (
        dd.read_segmentation(tmp_path / "two.dcm", stack),
        dd.read_structures(tmp_path / "rt.dcm", stack),
    ):
        assert_array_equal(again.voxels, mask.voxels)
        assert again.names == mask.names
    assert dd.read_segmentation(tmp_path / "two.dcm", stack).segments == mask.segments


@pytest.mark.parametrize("shape", [(4, 2, 3), (4, 1, 7), (4, 3, 5), (4, 11, 13), (4, 8, 8)])
def test_frames_that_end_within_a_byte_are_written_and_read(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    write_series(tmp_path / "images", shape=shape)
    (stack,) = plan_of(tmp_path / "images").stacks
    drawn = draw(stack)
    drawn[:, :, 0, 0] = True

    dd.write_segmentation(tmp_path / "seg.dcm", drawn, stack, ["A", "B"])

    assert_array_equal(dd.read_segmentation(tmp_path / "seg.dcm", stack).voxels, drawn)
    # pydicom unpacks all frames at once: segment by segment, slice by slice.
    frames = pydicom.dcmread(tmp_path / "seg.dcm").pixel_array
    assert_array_equal(frames.reshape(drawn.shape), drawn)


def test_nothing_labelled_is_written_too(tmp_path: Path) -> None:
    (stack,) = clean(tmp_path / "images").stacks
    nothing = np.zeros(SHAPE, bool)

    dd.write_segmentation(tmp_path / "seg.dcm", nothing, stack, ["Lung"])
    dd.write_structures(tmp_path / "rt.dcm", nothing, stack, ["Lung"])

    for mask in (
        dd.read_segmentation(tmp_path / "seg.dcm", stack),
        dd.read_structures(tmp_path / "rt.dcm", stack),
    ):
        assert not mask.voxels.any()
        assert [each.kind for each in mask.findings] == ["empty"]


@pytest.mark.parametrize(
    ("mask", "segments", "words"),
    [
        (np.zeros((4, 4, 6), bool), ["Lung"], "expected 1 segments of shape (5, 4, 6)"),
        (np.zeros((2, *SHAPE), bool), ["Lung"], "expected 1 segments of shape (5, 4, 6)"),
        (np.full(SHAPE, 1.5), ["Lung"], "must be from 0 to 1"),
        (np.full(SHAPE, np.nan), ["Lung"], "must be from 0 to 1"),
        (np.full(SHAPE, 2), ["Lung"], "must be from 0 to 1"),
        (np.full(SHAPE, 3), ["One", "Two"], "must hold the numbers 0 to 2, got 0 to 3"),
        (np.zeros(SHAPE, bool), None, "segments must be named"),
        (np.zeros((0, *SHAPE), bool), [], "no segment to write"),
        (np.zeros(SHAPE, bool), ["a" * 65], "1 to 64 characters"),
        (np.zeros(SHAPE, bool), [""], "1 to 64 characters"),
    ],
)
def test_what_is_no_mask_of_the_stack_is_refused(
    tmp_path: Path, mask: np.ndarray, segments: list[str] | None, words: str
) -> None:
    (stack,) = clean(tmp_path / "images").stacks

    for write in (dd.write_segmentation, dd.write_structures):
        with pytest.raises(dd.LabelError) as caught:
            write(tmp_path / "label.dcm", mask, stack, segments)
        assert words in str(caught.value)
    assert list(tmp_path.glob("label*")) == []


def test_a_mask_of_another_stack_is_refused(tmp_path: Path) -> None:
    (stack,) = clean(tmp_path / "images").stacks
    dd.write_segmentation(tmp_path / "seg.dcm", draw(stack), stack, ["A", "B"])
    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack)

    with pytest.raises(dd.LabelError, match="not on the grid of"):
        dd.write_segmentation(tmp_path / "two.dcm", mask, stack.reversed())


def test_an_image_is_never_replaced(tmp_path: Path) -> None:
    (stack,) = clean(tmp_path / "images").stacks

    for write in (dd.write_segmentation, dd.write_structures):
        with pytest.raises(dd.LabelError, match="is not to be replaced"):
            write(stack.paths[0], np.zeros(SHAPE, bool), stack, ["Lung"])


def test_a_volume_in_another_format_has_no_images_to_refer_to(tmp_path: Path) -> None:
    (stack,) = clean(tmp_path / "images").stacks
    dd.write_segmentation(tmp_path / "seg.dcm", draw(stack), stack, ["A", "B"])
    dd.write_volume(tmp_path / "ct.nii.gz", dd.read_volume(stack))
    volume = dd.open_volume(tmp_path / "ct.nii.gz")

    mask = dd.read_segmentation(tmp_path / "seg.dcm", volume)
    assert_array_equal(mask.voxels, draw(stack))
    assert mask.findings[0].kind == "frame_of_reference_missing"
    with pytest.raises(dd.LabelError, match="write_volume writes masks that refer to nothing"):
        dd.write_segmentation(tmp_path / "two.dcm", draw(stack), volume, ["A", "B"])


def test_fractions_have_no_contours(tmp_path: Path) -> None:
    (stack,) = clean(tmp_path / "images").stacks

    with pytest.raises(dd.LabelError, match="whole voxels"):
        dd.write_structures(tmp_path / "rt.dcm", np.full(SHAPE, 0.5), stack, ["Lung"])


def test_a_reversed_stack_gets_its_slices_where_they_are(tmp_path: Path) -> None:
    (stack,) = clean(tmp_path / "images").stacks
    drawn = draw(stack)

    dd.write_segmentation(tmp_path / "seg.dcm", drawn[:, ::-1], stack.reversed(), ["A", "B"])

    assert_array_equal(dd.read_segmentation(tmp_path / "seg.dcm", stack).voxels, drawn)
    turned = dd.read_segmentation(tmp_path / "seg.dcm", stack.reversed())
    assert_array_equal(turned.voxels, drawn[:, ::-1])


def test_planes_are_written_where_their_images_are(tmp_path: Path) -> None:
    (stack,) = uneven(tmp_path / "images").stacks

    dd.write_segmentation(tmp_path / "seg.dcm", np.ones(stack.shape, bool), stack, ["Lung"])

    header = pydicom.dcmread(tmp_path / "seg.dcm")
    places = sorted(
        float(group.PlanePositionSequence[0].ImagePositionPatient[2])
        for group in header.PerFrameFunctionalGroupsSequence
    )
    assert_allclose(places, [0, 0.6, 1.2, 1.9, 2.5], atol=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
def test_any_plane_is_traced_and_filled_again(seed: int, share: float) -> None:
    plane = np.random.default_rng(seed).random((7, 9)) < share

    top, left, box, *_ = fill(trace(plane), (7, 9))

    again = np.zeros((7, 9), bool)
    if box.size:
        again[top : top + box.shape[0], left : left + box.shape[1]] = box
    assert_array_equal(again, plane)


def test_a_square_is_four_corners_along_the_edges_of_pixels() -> None:
    plane = np.zeros((8, 8), bool)
    plane[2:6, 2:6] = True

    (contour,) = trace(plane)

    assert sorted(map(tuple, contour.tolist())) == [(1.5, 1.5), (1.5, 5.5), (5.5, 1.5), (5.5, 5.5)]


def test_pixels_that_meet_in_a_corner_are_traced_apart() -> None:
    plane = np.zeros((4, 4), bool)
    plane[1, 1] = plane[2, 2] = True

    assert [len(contour) for contour in trace(plane)] == [4, 4]

"""DICOM Segmentations onto their stacks: written by highdicom, and then as odd as real ones are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_array_equal
from pydicom.pixels.utils import pack_bits
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

import dicomdata as dd
from dicomdata.testing.phantoms import Each, phantom_uid, write_series

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Plan = Callable[..., dd.StackPlan]

STUDY = dict.fromkeys(
    (
        *("StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
        *("PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    ),
    "",
)
"""What highdicom wants to copy from images."""

SHAPE = (6, 4, 6)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A clean CT of six slices of 4 x 6, with what highdicom needs."""
    write_series(tmp_path / "ct", shape=SHAPE, extra=STUDY)
    return tmp_path / "ct"


def only_stack(folder: Path) -> dd.Stack:
    (stack,) = dd.plan_stacks(dd.scan(folder, progress=False)).stacks
    return stack


def describe(number: int) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        number, f"part {number}", codes.SCT.Tissue, codes.SCT.Lung, "MANUAL"
    )


def write(
    path: Path, stack: dd.Stack, voxels: np.ndarray, kind: str = "BINARY", **options: Any
) -> pydicom.Dataset:
    """Write segments (slices, rows, columns, segments) by highdicom, and give them for changes."""
    count = voxels.shape[3] if voxels.ndim == 4 else int(voxels.max())
    segmentation = hd.seg.Segmentation(
        source_images=[pydicom.dcmread(source) for source in stack.paths],
        pixel_array=voxels,
        segmentation_type=kind,
        segment_descriptions=[describe(number) for number in range(1, count + 1)],
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="X",
        manufacturer_model_name="X",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    segmentation.save_as(path)
    return pydicom.dcmread(path)


def boxes(*ranges: tuple[int, int]) -> np.ndarray:
    """Give one segment a range of slices, each a box of two rows and three columns of its own."""
    voxels = np.zeros((*SHAPE, len(ranges)), np.uint8)
    for index, (first, last) in enumerate(ranges):
        voxels[first : last + 1, 1:3, index : index + 3, index] = 1
    return voxels


def in_order(voxels: np.ndarray) -> np.ndarray:
    """Give (slices, rows, columns, segments) as masks are: segments first."""
    return np.moveaxis(voxels, 3, 0)


def test_segments_of_few_slices_lie_where_they_were_drawn(images: Path, tmp_path: Path) -> None:
    stack = only_stack(images)
    drawn = boxes((1, 2), (4, 5))
    write(tmp_path / "seg.dcm", stack, drawn)

    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack)

    assert mask.voxels.dtype == np.bool_
    assert_array_equal(mask.voxels, in_order(drawn))
    assert mask.names == ("part 1", "part 2")
    assert mask.segments[0].type == dd.Code("39607008", "SCT", "Lung")
    assert mask.verdict.kind == "same_grid"
    assert mask.verdict.text == "4 frames on 4 of 6 slices"
    assert mask.findings == ()


def test_segments_may_have_unequal_numbers_of_frames(images: Path, tmp_path: Path) -> None:
    stack = only_stack(images)
    drawn = boxes((0, 1), (3, 5))
    write(tmp_path / "seg.dcm", stack, drawn)

    assert_array_equal(dd.read_segmentation(tmp_path / "seg.dcm", stack).voxels, in_order(drawn))


def test_a_segment_may_be_named_once_for_all_frames(images: Path, tmp_path: Path) -> None:
    stack = only_stack(images)
    drawn = boxes((2, 3))

    header = write(tmp_path / "seg.dcm", stack, drawn)

    assert "SegmentIdentificationSequence" in header.SharedFunctionalGroupsSequence[0]
    assert_array_equal(dd.read_segmentation(tmp_path / "seg.dcm", stack).voxels, in_order(drawn))


def turned(header: pydicom.Dataset, stack: dd.Stack) -> None:
    """Write the same planes with rows and columns running the other way."""
    shared = header.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
    far = stack.affine_lps[:3, 1:3] @ (stack.shape[1] - 1, stack.shape[2] - 1)
    for group in header.PerFrameFunctionalGroupsSequence:
        plane = group.PlanePositionSequence[0]
        plane.ImagePositionPatient = [
            float(x) for x in np.array(plane.ImagePositionPatient, float) + far
        ]
    frames = header.pixel_array.reshape(-1, *stack.shape[1:])
    header.PixelData = pack_bits(np.ascontiguousarray(frames[:, ::-1, ::-1]))


def test_another_orientation_is_indexed_back_exactly(images: Path, tmp_path: Path) -> None:
    stack = only_stack(images)
    drawn = boxes((1, 2), (4, 5))
    header = write(tmp_path / "seg.dcm", stack, drawn)
    turned(header, stack)
    header.save_as(tmp_path / "turned.dcm")

    mask = dd.read_segmentation(tmp_path / "turned.dcm", stack)

    assert_array_equal(mask.voxels, in_order(drawn))
    assert mask.verdict.kind == "reindexed"
    assert mask.verdict.text == "4 frames on 4 of 6 slices; flipped along rows and columns"


def test_planes_across_the_slices_are_indexed_back_exactly(images: Path, tmp_path: Path) -> None:
    # Sagittal planes of axial images: their rows run along the slices, one plane a column.
    stack = only_stack(images)
    drawn = np.random.default_rng(4).random(SHAPE) > 0.5
    write(
        tmp_path / "seg.dcm", stack,
        drawn.transpose(2, 0, 1)[..., None].astype(np.uint8),
        plane_orientation=hd.PlaneOrientationSequence("PATIENT", (0, 1, 0, 0, 0, 1)),
        plane_positions=positions(stack, *((0, 0, column) for column in range(6))),
        pixel_measures=hd.PixelMeasuresSequence((2.5, 0.8), 0.5, 0.5),
    )  # fmt: skip

    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack)

    assert_array_equal(mask.voxels[0], drawn)
    assert mask.verdict.kind == "reindexed"
    assert mask.verdict.text == (
        "6 frames on 6 of 6 slices; axes in the order rows, columns, slices"
    )


def positions(stack: dd.Stack, *corners: Sequence[float]) -> list[hd.PlanePositionSequence]:
    affine = stack.affine_lps
    return [
        hd.PlanePositionSequence("PATIENT", (affine[:3, :3] @ corner + affine[:3, 3]).tolist())
        for corner in corners
    ]


def measures(*spacing: float) -> hd.PixelMeasuresSequence:
    return hd.PixelMeasuresSequence(spacing, 2.5, 2.5)


def test_a_box_within_the_image_comes_to_its_place(images: Path, tmp_path: Path) -> None:
    stack = only_stack(images)
    box = np.ones((2, 2, 4, 1), np.uint8)
    write(
        tmp_path / "seg.dcm", stack, box,
        plane_positions=positions(stack, (3, 1, 2), (4, 1, 2)), pixel_measures=measures(0.8, 0.5),
    )  # fmt: skip

    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack)

    assert mask.verdict.kind == "reindexed"
    assert mask.verdict.text.endswith("columns 2 to 5 of 6; rows 1 to 2 of 4")
    assert_array_equal(np.argwhere(mask.voxels[0])[[0, -1]], [[3, 1, 2], [4, 2, 5]])
    assert mask.voxels.sum() == 16


def test_what_lies_outside_the_image_is_told_and_left_out(images: Path, tmp_path: Path) -> None:
    stack = only_stack(images)
    box = np.ones((2, 4, 6, 1), np.uint8)
    write(
        tmp_path / "seg.dcm", stack, box,
        plane_positions=positions(stack, (-1, 0, 0), (0, 0, 0)), pixel_measures=measures(0.8, 0.5),
    )  # fmt: skip

    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack)

    assert_array_equal(mask.voxels[0].sum(axis=(1, 2)), [24, 0, 0, 0, 0, 0])
    assert [(each.kind, each.amount) for each in mask.findings] == [("outside", 24)]


def test_a_label_that_lies_wholly_outside_is_refused(images: Path, tmp_path: Path) -> None:
    stack = only_stack(images)
    write(
        tmp_path / "seg.dcm", stack, np.ones((1, 4, 6, 1), np.uint8),
        plane_positions=positions(stack, (20, 0, 0)), pixel_measures=measures(0.8, 0.5),
    )  # fmt: skip

    with pytest.raises(dd.LabelError, match="all 24 voxels lie outside the stack"):
        dd.read_segmentation(tmp_path / "seg.dcm", stack)


@pytest.mark.parametrize("off", [(0.4, 0, 0), (0, 0.5, 0), (0, 0, 0.2)])
def test_other_voxel_centres_are_refused_by_name(
    images: Path, tmp_path: Path, off: tuple[float, float, float]
) -> None:
    stack = only_stack(images)
    write(
        tmp_path / "seg.dcm", stack, np.ones((1, 4, 6, 1), np.uint8),
        plane_positions=positions(stack, np.add((2, 0, 0), off).tolist()),
        pixel_measures=measures(0.8, 0.5),
    )  # fmt: skip

    with pytest.raises(dd.LabelError, match=r"frame 0 lies on other voxels .*resample=True"):
        dd.read_segmentation(tmp_path / "seg.dcm", stack)


def test_other_voxel_centres_are_resampled_where_that_is_asked_for(
    images: Path, tmp_path: Path
) -> None:
    stack = only_stack(images)
    fine = np.zeros((2, 8, 12, 1), np.uint8)
    fine[:, 2:4, 4:8] = 1
    # Each pixel of the image is four of the label.
    write(
        tmp_path / "seg.dcm", stack, fine,
        plane_positions=positions(stack, (1, -0.25, -0.25), (2, -0.25, -0.25)),
        pixel_measures=measures(0.4, 0.25),
    )  # fmt: skip

    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack, resample=True)

    assert mask.verdict.kind == "resampled"
    assert mask.verdict.offset == pytest.approx(0.5)
    truth = np.zeros(SHAPE, bool)
    truth[1:3, 1, 2:4] = True
    assert_array_equal(mask.voxels[0], truth)


def test_resampling_does_not_fill_planes_that_were_left_out(images: Path, tmp_path: Path) -> None:
    stack = only_stack(images)
    header = write(
        tmp_path / "seg.dcm", stack, np.ones((2, 4, 6, 1), np.uint8),
        plane_positions=positions(stack, (0, 0.2, 0), (4, 0.2, 0)),
        pixel_measures=measures(0.8, 0.5),
    )  # fmt: skip
    shared = header.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence[0].SpacingBetweenSlices = 2.5
    header.save_as(tmp_path / "seg.dcm")

    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack, resample=True)

    # Spacing Between Slices says that three planes lie between the two.
    assert_array_equal(mask.voxels[0].any(axis=(1, 2)), [True, False, False, False, True, False])


def test_a_label_of_thicker_slices_does_not_leave_stripes(images: Path, tmp_path: Path) -> None:
    stack = only_stack(images)
    # Slices twice as thick, whose places are those of every second slice.
    thick = [(-10.0, -20.0, -30.0 + 5 * k) for k in range(3)]
    write_series(
        tmp_path / "thick", shape=(3, 4, 6), positions=thick, seed="thick",
        frame_of_reference_uid=stack.frame_of_reference_uid, extra=STUDY,
    )  # fmt: skip
    drawn = np.zeros((3, 4, 6, 1), np.uint8)
    drawn[:2, 1] = 1
    write(tmp_path / "seg.dcm", only_stack(tmp_path / "thick"), drawn)

    with pytest.raises(dd.LabelError, match=r"its planes are 2\.00 slices of stack .* apart"):
        dd.read_segmentation(tmp_path / "seg.dcm", stack)
    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack, resample=True)

    # Planes at slices 0 and 2; of two equally near, the lower one.
    assert_array_equal(mask.voxels[0].sum(axis=(1, 2)), [6, 6, 6, 6, 0, 0])
    assert mask.verdict.kind == "resampled"


def test_a_fraction_is_a_share_of_the_maximum(images: Path, tmp_path: Path) -> None:
    stack = only_stack(images)
    shares = np.zeros((*SHAPE, 1))
    shares[2, 1, 1] = 128 / 255
    shares[2, 1, 2] = 1
    write(tmp_path / "seg.dcm", stack, shares, "FRACTIONAL")

    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack)

    assert mask.voxels.dtype == np.float32
    assert mask.voxels[0, 2, 1, 1] == pytest.approx(0.50196, abs=5e-6)
    assert mask.voxels.max() == 1
    assert mask.labelmap()[2, 1].tolist() == [0, 1, 1, 0, 0, 0]


def test_a_label_map_is_parted_into_its_segments(images: Path, tmp_path: Path) -> None:
    stack = only_stack(images)
    numbers = np.zeros(SHAPE, np.uint8)
    numbers[1, 0, :3] = 1
    numbers[4, 2:, 4:] = 3
    write(tmp_path / "seg.dcm", stack, numbers, "LABELMAP")

    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack)

    assert_array_equal(mask.voxels, [numbers == 1, numbers == 2, numbers == 3])
    assert_array_equal(mask.labelmap(), numbers)
    assert [str(each) for each in mask.findings] == ["empty: 'part 2' has no voxel in the stack"]


def test_overlapping_segments_stay_whole_and_are_told(images: Path, tmp_path: Path) -> None:
    stack = only_stack(images)
    drawn = boxes((1, 3), (2, 4))
    write(tmp_path / "seg.dcm", stack, drawn)

    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack)

    assert_array_equal(mask.voxels, in_order(drawn))
    # Two slices of two rows and two columns.
    assert [(each.kind, each.amount) for each in mask.findings] == [("overlap", 8)]
    with pytest.raises(dd.LabelError, match="'part 2' shares 8 voxels with those before it"):
        mask.labelmap()
    assert_array_equal(np.unique(mask.labelmap(overlap="last")), [0, 1, 2])


def test_another_frame_of_reference_is_refused_by_name(images: Path, tmp_path: Path) -> None:
    stack = only_stack(images)
    header = write(tmp_path / "seg.dcm", stack, boxes((1, 2)))
    header.FrameOfReferenceUID = "1.2.3"
    header.save_as(tmp_path / "seg.dcm")

    with pytest.raises(dd.LabelError, match=r"another Frame of Reference UID .*got 1\.2\.3"):
        dd.read_segmentation(tmp_path / "seg.dcm", stack)


def test_a_label_follows_its_image_where_rounding_moved_that(tmp_path: Path) -> None:
    # 0.625 mm written with one decimal: gaps of 0.6 and 0.7 mm, as much as a sixth of a voxel off.
    places = [(-10, -20, round(0.625 * k, 1)) for k in range(6)]
    write_series(tmp_path / "ct", shape=SHAPE, positions=places, extra=STUDY)
    stack = only_stack(tmp_path / "ct")
    drawn = boxes((0, 5))
    write(tmp_path / "seg.dcm", stack, drawn)

    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack)

    assert_array_equal(mask.voxels, in_order(drawn))
    assert mask.verdict.kind == "same_grid"


def test_of_two_phases_each_gets_what_was_drawn_on_it(tmp_path: Path) -> None:
    twice = [(-10, -20, 2.5 * (k % 3)) for k in range(6)]
    write_series(
        tmp_path / "ct", positions=twice, stored=1000 + np.arange(144).reshape(6, 4, 6),
        bits_allocated=16, extra={**STUDY, "TemporalPositionIdentifier": Each(1, 1, 1, 2, 2, 2)},
    )  # fmt: skip
    first, second = dd.plan_stacks(dd.scan(tmp_path / "ct", progress=False)).stacks
    drawn = np.zeros((3, 4, 6, 1), np.uint8)
    drawn[1, :2] = 1
    other = np.zeros((3, 4, 6, 1), np.uint8)
    other[2, 3] = 1
    header = write(tmp_path / "one.dcm", first, drawn)
    beside = write(tmp_path / "two.dcm", second, other)

    assert_array_equal(dd.read_segmentation(tmp_path / "one.dcm", first).voxels, in_order(drawn))
    with pytest.raises(dd.LabelError, match="drawn on other volumes of series"):
        dd.read_segmentation(tmp_path / "one.dcm", second)

    header.PerFrameFunctionalGroupsSequence += beside.PerFrameFunctionalGroupsSequence
    header.NumberOfFrames = 2
    # A frame of 24 bits is three bytes, and the value is padded to an even length.
    header.PixelData = header.PixelData[:3] + beside.PixelData[:3]
    header.save_as(tmp_path / "both.dcm")
    both = dd.read_segmentation(tmp_path / "both.dcm", second)
    assert_array_equal(both.voxels, in_order(other))
    assert [(each.kind, each.amount) for each in both.findings] == [("other_stack", 1)]


def test_two_frames_of_one_segment_at_one_place_are_refused(images: Path, tmp_path: Path) -> None:
    stack = only_stack(images)
    header = write(tmp_path / "seg.dcm", stack, boxes((1, 2)))
    first, second = header.PerFrameFunctionalGroupsSequence
    second.PlanePositionSequence = first.PlanePositionSequence
    header.save_as(tmp_path / "seg.dcm")

    with pytest.raises(dd.LabelError, match="frames 0 and 1 are of one segment at one place"):
        dd.read_segmentation(tmp_path / "seg.dcm", stack)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h.__delattr__("PixelData"), "Pixel Data (7FE0,0010) is missing"),
        (lambda h: h.__setattr__("PixelData", h.PixelData[:2]), "cannot hold 4 x 6 x 2"),
        (lambda h: h.__setattr__("SegmentationType", "X"), "(0062,0001) must be BINARY"),
        (lambda h: h.__setattr__("SegmentSequence", []), "(0062,0002) describes no segment"),
        (
            lambda h: h.SegmentSequence[0].__setattr__("SegmentNumber", 7),
            "is of segment 1, which Segment Sequence (0062,0002) does not describe: it has [7]",
        ),
        (lambda h: h.PerFrameFunctionalGroupsSequence.pop(), "(0028,0008) is 2, and Per-Frame"),
        (
            lambda h: [
                h.PerFrameFunctionalGroupsSequence[1].__delattr__(f"{name}Sequence")
                for name in ("PlanePosition", "DerivationImage")
            ],
            "frame 1: Image Position (Patient) (0020,0032) is missing",
        ),
        (
            lambda h: h.SharedFunctionalGroupsSequence[0].__delattr__("PixelMeasuresSequence"),
            "frame 0: Pixel Spacing (0028,0030) is missing",
        ),
        (lambda h: h.__setattr__("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"), "not that of a seg"),
    ],
)
def test_a_file_that_does_not_say_what_it_must_is_refused_by_name(
    images: Path, tmp_path: Path, change: Callable[[pydicom.Dataset], None], words: str
) -> None:
    stack = only_stack(images)
    header = write(tmp_path / "seg.dcm", stack, boxes((1, 2)))
    change(header)
    header.save_as(tmp_path / "seg.dcm")

    with pytest.raises(dd.LabelError) as caught:
        dd.read_segmentation(tmp_path / "seg.dcm", stack)

    assert words in str(caught.value)
    assert str(tmp_path / "seg.dcm") in str(caught.value)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"])
def test_compressed_fractions_are_read(tmp_path: Path, syntax: str) -> None:
    # JPEG 2000 is not encoded below 32 x 32.
    write_series(tmp_path / "ct", shape=(2, 32, 32), extra=STUDY)
    stack = only_stack(tmp_path / "ct")
    shares = np.round(np.random.default_rng(1).random((2, 32, 32, 1)) * 255) / 255
    write(tmp_path / "seg.dcm", stack, shares, "FRACTIONAL", transfer_syntax_uid=syntax)

    mask = dd.read_segmentation(tmp_path / "seg.dcm", stack)

    assert_array_equal(np.rint(mask.voxels * 255), np.rint(in_order(shares) * 255))


def test_the_frame_of_reference_may_be_any_of_scattered_ones(tmp_path: Path) -> None:
    uids = [phantom_uid("scattered", k) for k in range(6)]
    write_series(tmp_path / "ct", shape=SHAPE, frame_of_reference_uid=Each(*uids), extra=STUDY)
    stack = only_stack(tmp_path / "ct")
    mask = np.zeros(SHAPE, bool)
    mask[2:4, 1] = True
    dd.write_segmentation(tmp_path / "seg.dcm", mask, stack, ["Lung"])

    assert_array_equal(dd.read_segmentation(tmp_path / "seg.dcm", stack).voxels[0], mask)


@pytest.mark.parametrize(
    ("folder", "name", "box"),
    [
        ("dcmqi/ct24_classic", "dcmqi_24x38x3", ((1, 0, 4), (1, 19, 23))),
        ("dcmqi/ct24_enhanced", "dcmqi_24x38x3", ((1, 0, 4), (1, 19, 23))),
        ("dcmqi/ct_3slice", "dcmqi_liver", ((0, 145, 79), (2, 366, 350))),
    ],
)
def test_real_segmentations_are_what_their_nrrd_twins_are(
    corpus: Path, expected: dict[str, Any], folder: str, name: str, box: tuple[Any, Any]
) -> None:
    known = expected["seg"][name]
    sitk = pytest.importorskip("SimpleITK")
    stack = only_stack(corpus / folder)

    mask = dd.read_segmentation(corpus / known["file"], stack)

    assert [[each.number, each.name] for each in mask.segments] == known["segments"]
    assert mask.voxels.sum() == known["hd_sum"][0]
    assert mask.verdict.kind == "same_grid"
    places = np.argwhere(mask.voxels[0])
    assert_array_equal([places.min(axis=0), places.max(axis=0)], box)
    (twin,) = (corpus / known["file"]).parent.glob("*.nrrd")
    assert_array_equal(mask.voxels[0], sitk.GetArrayFromImage(sitk.ReadImage(str(twin))) == 1)


@pytest.mark.parametrize("kind", ["binary", "binary_fractional"])
def test_real_segmentations_of_highdicom_have_their_sum(
    corpus: Path, expected: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    known = expected["seg"][f"highdicom_seg_image_ct_{kind}"]
    affine = np.array(known["hd_affine_lps"])
    header = pydicom.dcmread(corpus / known["file"])
    # Its images are no volume: 161 slices lie between the third and the fourth.
    write_series(
        tmp_path / "ct",
        stored=np.zeros((4, 16, 16), np.uint16),
        positions=[tuple(affine[:3, 3] + k * affine[:3, 0]) for k in range(4)],
        pixel_spacing=(affine[1, 1], affine[0, 2]),
        frame_of_reference_uid=header.FrameOfReferenceUID,
    )
    stack = only_stack(tmp_path / "ct")

    mask = dd.read_segmentation(corpus / known["file"], stack)

    assert mask.names == ("first segment",)
    assert mask.voxels.sum() == known["hd_sum"][0]
    assert not mask.voxels[0, 0].any()


def test_a_real_label_of_another_patient_is_refused(corpus: Path) -> None:
    stack = only_stack(corpus / "dcmqi" / "ct_3slice")

    with pytest.raises(dd.LabelError, match="another Frame of Reference UID"):
        dd.read_segmentation(corpus / "_seg" / "dcmqi_24x38x3" / "label.seg", stack)

"""Labels as other programs write them: what they leave out, pad, number and name in their own way.

Segmentations and structure sets are written here element by element, so that no writer's habits
are taken for the standard. What the oddities are known from is said beside them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.testing import assert_array_equal
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

import dicomdata as dd
from dicomdata.testing.phantoms import write_series

# Typed in part only: what they make is what others read.
nib: Any = nibabel
sitk: Any = SimpleITK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE = (6, 5, 7)
"""Planes of 35 pixels: no whole number of bytes, one bit each."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> dd.Stack:
    return only_stack(tmp_path_factory.mktemp("ct"))


def only_stack(folder: Path, **fields: Any) -> dd.Stack:
    write_series(folder, **{"shape": SHAPE, **fields})
    (stack,) = dd.plan_stacks(dd.scan(folder, progress=False)).stacks
    return stack


@pytest.fixture
def drawn() -> NDArray[np.bool_]:
    """Two segments that overlap, with unequal numbers of planes, (segments, *SHAPE)."""
    voxels = np.random.default_rng(3).random((2, *SHAPE)) < 0.5
    voxels[0, 4:] = voxels[1, :2] = False
    return voxels


def item(**elements: Any) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def as_file(header: pydicom.Dataset) -> pydicom.Dataset:
    """Give a header what makes a file of it."""
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    return header


def packed(frames: Iterable[NDArray[np.bool_]]) -> bytes:
    """Pack frames of single bits, one right behind the other."""
    bits = np.concatenate([frame.ravel() for frame in frames])
    return np.packbits(bits, bitorder="little").tobytes()


def even(content: bytes) -> bytes:
    return content + b"\0" * (len(content) % 2)


def segmentation(stack: dd.Stack, drawn: NDArray[np.bool_]) -> pydicom.Dataset:
    """Make a segmentation of single bits: a frame for each plane that is not empty, and no more.

    It names no source images, no dimensions, and nothing that reading could do without.
    """
    places = np.argwhere(drawn.any(axis=(2, 3))).tolist()
    affine = stack.affine_lps
    header = item(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4",
        SOPInstanceUID="1.2.3.4",
        Modality="SEG",
        FrameOfReferenceUID=stack.frame_of_reference_uid,
        SegmentationType="BINARY",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        Rows=drawn.shape[2],
        Columns=drawn.shape[3],
        BitsAllocated=1,
        BitsStored=1,
        HighBit=0,
        PixelRepresentation=0,
        NumberOfFrames=len(places),
        SegmentSequence=[
            item(SegmentNumber=number, SegmentLabel=f"part {number}")
            for number in range(1, len(drawn) + 1)
        ],
        SharedFunctionalGroupsSequence=[
            item(
                PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
                PixelMeasuresSequence=[item(PixelSpacing=[0.8, 0.5])],
            )
        ],
        PerFrameFunctionalGroupsSequence=[
            item(
                SegmentIdentificationSequence=[item(ReferencedSegmentNumber=segment + 1)],
                PlanePositionSequence=[
                    item(ImagePositionPatient=(affine @ (number, 0, 0, 1))[:3].tolist())
                ],
            )
            for segment, number in places
        ],
        PixelData=even(packed(drawn[segment, number] for segment, number in places)),
    )
    header["PixelData"].VR = "OB"
    return as_file(header)


def save(header: pydicom.Dataset, folder: Path) -> Path:
    header.save_as(folder / "label.dcm", enforce_file_format=True)
    return folder / "label.dcm"


def frames_of(header: pydicom.Dataset) -> list[NDArray[np.bool_]]:
    bits = np.unpackbits(np.frombuffer(header.PixelData, np.uint8), bitorder="little")
    size = header.Rows * header.Columns
    return [
        bits[i * size : (i + 1) * size].reshape(header.Rows, header.Columns).astype(np.bool_)
        for i in range(header.NumberOfFrames)
    ]


def in_whole_bytes(header: pydicom.Dataset) -> None:
    frames = np.array(frames_of(header), np.uint8)
    header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
    header.PixelData = even(frames.tobytes())


def compressed(header: pydicom.Dataset) -> None:
    in_whole_bytes(header)
    header.compress(RLELossless)


def fraction_of_255(header: pydicom.Dataset) -> None:
    # What OHIF writes where it compresses: a fraction that is all or nothing.
    in_whole_bytes(header)
    header.SegmentationType, header.MaximumFractionalValue = "FRACTIONAL", 255
    header.PixelData = bytes(255 * value for value in header.PixelData)


def deflated(header: pydicom.Dataset) -> None:
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def implicit(header: pydicom.Dataset) -> None:
    header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def all_of_each_frame(header: pydicom.Dataset) -> None:
    (shared,) = header.SharedFunctionalGroupsSequence
    for group in header.PerFrameFunctionalGroupsSequence:
        group.update(shared)
    del header.SharedFunctionalGroupsSequence


def empty_ones_beside_shared(header: pydicom.Dataset) -> None:
    for group in header.PerFrameFunctionalGroupsSequence:
        group.PixelMeasuresSequence = [item(SliceThickness=1)]
        group.PlaneOrientationSequence = []


def backwards(header: pydicom.Dataset) -> None:
    header.PixelData = even(packed(frames_of(header)[::-1]))
    groups = header.PerFrameFunctionalGroupsSequence
    header.PerFrameFunctionalGroupsSequence = list(groups)[::-1]


def odd_length(header: pydicom.Dataset) -> None:
    header.PixelData = header.PixelData[: math.ceil(header.NumberOfFrames * 35 / 8)]


def ascii_zero(header: pydicom.Dataset) -> None:
    # What highdicom fills up with.
    odd_length(header)
    header.PixelData += b"0" * (len(header.PixelData) % 2)


def rounded(header: pydicom.Dataset) -> None:
    plane = header.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = ["1.0000", "1e-5", "-0", "-2E-05", ".99999", "0.0"]


def spacing_too_large(header: pydicom.Dataset) -> None:
    # Planes that lie on neighbouring slices cannot be as far apart as that.
    header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = 12.5


@pytest.mark.parametrize(
    "change",
    [
        *(in_whole_bytes, compressed, fraction_of_255, deflated, implicit, all_of_each_frame),
        *(empty_ones_beside_shared, backwards, odd_length, ascii_zero, rounded),
        spacing_too_large,
    ],
)
def test_a_segmentation_comes_to_its_voxels_however_it_is_written(
    stack: dd.Stack,
    drawn: NDArray[np.bool_],
    tmp_path: Path,
    change: Callable[[pydicom.Dataset], None],
) -> None:
    header = segmentation(stack, drawn)
    change(header)

    mask = dd.read_segmentation(save(header, tmp_path), stack)

    assert_array_equal(mask.voxels, drawn)
    assert mask.verdict.kind == "same_grid"


def test_a_segmentation_without_file_meta_is_read(
    stack: dd.Stack, drawn: NDArray[np.bool_], tmp_path: Path
) -> None:
    header = segmentation(stack, drawn)
    del header.file_meta
    header.save_as(tmp_path / "bare.dcm", implicit_vr=True, little_endian=True)

    mask = dd.read_segmentation(tmp_path / "bare.dcm", stack)

    assert_array_equal(mask.voxels, drawn)


@pytest.mark.parametrize("by", ["frame", "segment"])
def test_bits_that_begin_anew_with_each_frame_or_segment_are_refused(
    stack: dd.Stack, drawn: NDArray[np.bool_], tmp_path: Path, by: str
) -> None:
    # Older versions of dcmqi did it by frame, of dcmjs by segment.
    drawn[1, -1, -1] = True
    header = segmentation(stack, drawn)
    groups = [header.PerFrameFunctionalGroupsSequence[i] for i in range(header.NumberOfFrames)]
    of_segment = [
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber for group in groups
    ]
    frames = frames_of(header)
    first = of_segment.index(2)
    parts = [[frame] for frame in frames] if by == "frame" else [frames[:first], frames[first:]]
    header.PixelData = even(b"".join(packed(part) for part in parts))

    with pytest.raises(dd.LabelError, match=r"frames of 35 bits do not follow each other"):
        dd.read_segmentation(save(header, tmp_path), stack)


def test_compressed_pixels_without_a_transfer_syntax_are_refused(
    stack: dd.Stack, drawn: NDArray[np.bool_], tmp_path: Path
) -> None:
    header = segmentation(stack, drawn)
    compressed(header)
    path = save(header, tmp_path)
    content = path.read_bytes()
    bare = tmp_path / "bare.dcm"
    length = int.from_bytes(content[140:144], "little")
    bare.write_bytes(content[144 + length :])

    with pytest.raises(dd.LabelError, match=r"no Transfer Syntax UID \(0002,0010\) says how"):
        dd.read_segmentation(bare, stack)


def test_numbers_of_segments_may_have_gaps_and_any_order(
    stack: dd.Stack, drawn: NDArray[np.bool_], tmp_path: Path
) -> None:
    header = segmentation(stack, drawn)
    for part in header.SegmentSequence:
        part.SegmentNumber = {1: 300, 2: 7}[part.SegmentNumber]
    for group in header.PerFrameFunctionalGroupsSequence:
        (which,) = group.SegmentIdentificationSequence
        which.ReferencedSegmentNumber = {1: 300, 2: 7}[which.ReferencedSegmentNumber]

    mask = dd.read_segmentation(save(header, tmp_path), stack)

    assert [each.number for each in mask.segments] == [7, 300]
    assert_array_equal(mask.of("part 1"), drawn[0])
    assert_array_equal(mask.of("part 2"), drawn[1])


def test_a_segment_with_the_number_of_the_background_is_not_lost_in_a_map(
    stack: dd.Stack, drawn: NDArray[np.bool_], tmp_path: Path
) -> None:
    header = segmentation(stack, drawn[:1])
    header.SegmentSequence[0].SegmentNumber = 0
    for group in header.PerFrameFunctionalGroupsSequence:
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 0

    mask = dd.read_segmentation(save(header, tmp_path), stack)

    with pytest.raises(dd.LabelError, match="'part 1' has the number 0: expected 1 to 65535"):
        mask.labelmap()
    chosen = dd.select_segments(mask, {"part": "part 1"})
    assert_array_equal(chosen.labelmap(), drawn[0])


def test_names_may_hold_any_letter_and_a_backslash(
    stack: dd.Stack, drawn: NDArray[np.bool_], tmp_path: Path
) -> None:
    header = segmentation(stack, drawn)
    header.SpecificCharacterSet = "ISO_IR 192"
    header.SegmentSequence[0].SegmentLabel = "Größe 肝 "
    header.SegmentSequence[1].SegmentLabel = "GTV\\CTV"

    assert dd.read_segmentation(save(header, tmp_path), stack).names == ("Größe 肝", "GTV\\CTV")


def sources_named(header: pydicom.Dataset, stack: dd.Stack, **elements: Any) -> None:
    """Let each frame name the image at its place, and say nothing of its position."""
    for group in header.PerFrameFunctionalGroupsSequence:
        (plane,) = group.PlanePositionSequence
        depth = float(plane.ImagePositionPatient[2]) - float(stack.affine_lps[2, 3])
        uid = stack.sop_instance_uids[round(depth / stack.spacing[0])]
        source = item(ReferencedSOPInstanceUID=uid, **elements)
        group.DerivationImageSequence = [item(SourceImageSequence=[source])]
        del group.PlanePositionSequence


def test_frames_without_a_position_lie_on_the_images_they_name(
    stack: dd.Stack, drawn: NDArray[np.bool_], tmp_path: Path
) -> None:
    # As some web viewers write label maps.
    header = segmentation(stack, drawn)
    sources_named(header, stack)

    mask = dd.read_segmentation(save(header, tmp_path), stack)

    assert_array_equal(mask.voxels, drawn)
    (told,) = [each for each in mask.findings if each.kind == "placed_by_image"]
    assert told.amount == header.NumberOfFrames


def of_other_size(header: pydicom.Dataset) -> None:
    header.Rows, header.Columns = header.Columns, header.Rows


def of_other_spacing(header: pydicom.Dataset) -> None:
    header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.5, 0.5]


def of_other_orientation(header: pydicom.Dataset) -> None:
    plane = header.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]


def of_two_images(header: pydicom.Dataset) -> None:
    first, second = (
        header.PerFrameFunctionalGroupsSequence[i].DerivationImageSequence[0] for i in (0, 1)
    )
    first.SourceImageSequence = [*first.SourceImageSequence, *second.SourceImageSequence]


def of_places_that_moved(header: pydicom.Dataset) -> None:
    group = header.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    group.SourceImageSequence[0].SpatialLocationsPreserved = "NO"


@pytest.mark.parametrize(
    "change",
    [of_other_size, of_other_spacing, of_other_orientation, of_two_images, of_places_that_moved],
)
def test_frames_that_could_lie_elsewhere_on_an_image_are_refused(
    stack: dd.Stack,
    drawn: NDArray[np.bool_],
    tmp_path: Path,
    change: Callable[[pydicom.Dataset], None],
) -> None:
    header = segmentation(stack, drawn)
    sources_named(header, stack)
    change(header)

    with pytest.raises(dd.LabelError, match=r"Image Position \(Patient\) \(0020,0032\) is missing"):
        dd.read_segmentation(save(header, tmp_path), stack)


# --- structure sets -------------------------------------------------------------------------------


def contour(stack: dd.Stack, number: float, corners: Sequence[tuple[float, float]]) -> Any:
    places = np.array([(number, row, column) for row, column in corners])
    points = places @ stack.affine_lps[:3, :3].T + stack.affine_lps[:3, 3]
    return item(
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourData=[f"{x:.10g}" for x in points.ravel()],
    )


def square(low: float, high: float) -> list[tuple[float, float]]:
    return [(low, low), (low, high), (high, high), (high, low)]


def structures(stack: dd.Stack, regions: dict[str, list[Any]]) -> pydicom.Dataset:
    uid = stack.frame_of_reference_uid
    header = item(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3",
        SOPInstanceUID="1.2.3.4",
        Modality="RTSTRUCT",
        SpecificCharacterSet="ISO_IR 192",
        StructureSetROISequence=[
            item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=uid)
            for number, name in enumerate(regions, 1)
        ],
        ROIContourSequence=[
            item(ReferencedROINumber=number, ContourSequence=contours)
            for number, contours in enumerate(regions.values(), 1)
        ],
    )
    return as_file(header)


def test_a_region_on_few_slices_is_as_sparse_as_it_was_drawn(
    stack: dd.Stack, tmp_path: Path
) -> None:
    # No contour names its image; another region shows that slices were not skipped.
    header = structures(
        stack,
        {
            "dense": [contour(stack, number, square(1, 2)) for number in range(4)],
            "sparse": [contour(stack, number, square(1, 3)) for number in (0, 3)],
        },
    )

    mask = dd.read_structures(save(header, tmp_path), stack)

    assert mask.of("sparse").sum(axis=(1, 2)).tolist() == [9, 0, 0, 9, 0, 0]


def test_one_plane_among_thick_ones_is_as_thick_as_they_are(
    stack: dd.Stack, tmp_path: Path
) -> None:
    header = structures(
        stack,
        {
            "thick": [contour(stack, number, square(1, 2)) for number in (0, 2, 4)],
            "small": [contour(stack, 2, square(1, 3))],
        },
    )
    path = save(header, tmp_path)

    with pytest.raises(dd.LabelError, match="are 2 slices of stack"):
        dd.read_structures(path, stack)
    mask = dd.read_structures(path, stack, resample=True)

    assert mask.of("small").any(axis=(1, 2)).tolist() == [False, True, True, True, False, False]


def test_what_a_line_goes_round_twice_is_told(stack: dd.Stack, tmp_path: Path) -> None:
    # Round a square, and on round a smaller one within it.
    corners = [*square(-0.5, 4.5), (-0.4, -0.4), (-0.4, 2.6), (2.6, 2.6), (2.6, -0.4)]
    header = structures(stack, {"part": [contour(stack, 1, corners)]})

    mask = dd.read_structures(save(header, tmp_path), stack)

    assert mask.voxels.sum() == 25 - 9
    assert [(each.kind, each.amount) for each in mask.findings] == [("crossing", 9)]


def test_a_contour_that_was_traced_twice_is_not_hollow(stack: dd.Stack, tmp_path: Path) -> None:
    header = structures(stack, {"part": [contour(stack, 1, [*square(0, 4), *square(0, 4)])]})

    assert dd.read_structures(save(header, tmp_path), stack).voxels.sum() == 25


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_squares_within_squares_come_and_go(stack: dd.Stack, tmp_path: Path, count: int) -> None:
    # Sides of 9, 7, 5, 3 and 1 pixels, of which those in the slice are seen.
    edges = [square(-2.5 + i, 6.5 - i) for i in range(count)]
    header = structures(stack, {"part": [contour(stack, 1, each) for each in edges]})

    mask = dd.read_structures(save(header, tmp_path), stack, outside="drop")

    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    depth = np.minimum(np.minimum(rows + 3, 7 - rows), np.minimum(columns + 3, 7 - columns))
    assert_array_equal(mask.voxels[0, 1], np.clip(depth, 0, count) % 2 == 1)


@pytest.mark.parametrize("spoil", [lambda t: t + " \0", lambda t: t + "\\", lambda t: t + "\\\0"])
def test_contour_data_may_end_in_padding(
    stack: dd.Stack, tmp_path: Path, spoil: Callable[[str], str]
) -> None:
    part = contour(stack, 1, square(1, 3))
    text = "\\".join(str(number) for number in part.ContourData)
    del part.ContourData
    part.add_new(0x30060050, "OB", spoil(text).encode())

    mask = dd.read_structures(save(structures(stack, {"part": [part]}), tmp_path), stack)

    assert mask.voxels.sum() == 9


def test_contour_data_with_a_number_missing_is_refused(stack: dd.Stack, tmp_path: Path) -> None:
    # Three of them, so that what is left are points again.
    part = contour(stack, 1, [*square(1, 3), (0, 2)])
    text = "\\".join(["", "", "", *(str(number) for number in part.ContourData[3:])])
    del part.ContourData, part.NumberOfContourPoints
    part.add_new(0x30060050, "OB", text.encode())

    with pytest.raises(dd.LabelError, match="is no list of numbers"):
        dd.read_structures(save(structures(stack, {"part": [part]}), tmp_path), stack)


def test_numbers_and_names_of_regions_may_be_any(stack: dd.Stack, tmp_path: Path) -> None:
    boxes = {f"{high}": [contour(stack, high, square(1, high))] for high in (2, 3, 4)}
    header = structures(stack, boxes)
    named = zip(header.StructureSetROISequence, header.ROIContourSequence, strict=True)
    for (region, drawn), number, name in zip(
        named, (40, 0, 70000), ("Größe\\肝", "", "a b"), strict=True
    ):
        region.ROINumber = drawn.ReferencedROINumber = number
        region.ROIName = name
    header.ROIContourSequence = list(header.ROIContourSequence)[::-1]

    mask = dd.read_structures(save(header, tmp_path), stack)

    assert mask.names == ("0", "Größe\\肝", "a b")
    assert mask.voxels.sum(axis=(1, 2, 3)).tolist() == [9, 4, 16]
    with pytest.raises(dd.LabelError, match="'0' has the number 0: expected 1 to 65535"):
        mask.labelmap()


# --- files of voxels ------------------------------------------------------------------------------


def nifti(path: Path, voxels: NDArray[Any], affine_lps: NDArray[np.float64]) -> Path:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps[:, [2, 1, 0, 3]]
    nib.save(nib.Nifti1Image(np.ascontiguousarray(voxels.transpose(2, 1, 0)), affine), path)
    return path


@pytest.mark.parametrize(
    ("origin", "resample"), [(-4.0, False), (-4.0, True), (-3.2, False), (-3.2, True)]
)
def test_a_mirrored_label_is_refused_even_where_it_nearly_fits(
    tmp_path: Path, origin: float, resample: bool
) -> None:
    # Of eight columns, 1 mm apart from -4 to 3: mirrored, they are from -3 to 4.
    stack = only_stack(
        tmp_path / "ct", shape=(4, 8, 8), origin=(origin, origin, 0.0), pixel_spacing=(1, 1)
    )
    labels = np.zeros(stack.shape, np.uint8)
    labels[1:3, 3:5, 2:5] = 1
    mirrored = np.diag([-1.0, -1.0, 1.0, 1.0]) @ stack.affine_lps

    with pytest.raises(dd.LabelError, match="x and y negated, as where RAS is taken for LPS"):
        dd.read_label_file(
            nifti(tmp_path / "label.nii", labels, mirrored), stack, resample=resample
        )


def slicer(path: Path, stack: dd.Stack, layers: NDArray[np.uint8], **fields: str) -> Path:
    """Write layers (slices, rows, columns, layers) as a segmentation of 3D Slicer."""
    image = sitk.GetImageFromArray(layers, isVector=layers.ndim == 4)
    affine = stack.affine_lps[:, [2, 1, 0, 3]]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    for key, value in fields.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path))
    return path


def test_older_segmentations_of_slicer_have_a_layer_for_each_segment(
    stack: dd.Stack, drawn: NDArray[np.bool_], tmp_path: Path
) -> None:
    layers = np.moveaxis(drawn, 0, -1).astype(np.uint8)
    named = {"Segment0_Name": "Liver", "Segment1_Name": "Body"}
    values = {"Segment0_LabelValue": "1", "Segment1_LabelValue": "1"}

    for fields in (named, named | values):
        mask = dd.read_label_file(slicer(tmp_path / "a.seg.nrrd", stack, layers, **fields), stack)

        assert_array_equal(mask.of("Liver"), drawn[0])
        assert_array_equal(mask.of("Body"), drawn[1])
    one = slicer(tmp_path / "b.seg.nrrd", stack, layers[..., 0], Segment0_Name="Liver")
    assert_array_equal(dd.read_label_file(one, stack).of("Liver"), drawn[0])


def test_two_segments_of_slicer_with_one_value_are_refused(
    stack: dd.Stack, drawn: NDArray[np.bool_], tmp_path: Path
) -> None:
    fields = {f"Segment{i}_{key}": "1" for i in (0, 1) for key in ("LabelValue", "Name")}
    path = slicer(tmp_path / "a.seg.nrrd", stack, drawn[0].astype(np.uint8), **fields)

    with pytest.raises(dd.LabelError, match="'1' and '1' are both the value 1 of layer 0"):
        dd.read_label_file(path, stack)


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"PatientID,y\nP1,1.0\nP2,0.0\nP3,\n", {"P1": 1, "P2": 0}),
        (b"PatientID,y\nP1,1\nP1,1.0\n", {"P1": 1}),
        (b"PatientID,y\nP1\0,1\n P2 \0,2\n", {"P1": 1, "P2": 2}),
        (b'PatientID,y\n"=""001""",1\n', {"001": 1}),
        (b"sep=;\r\nPatientID;y\r\nP1;1\r\n", {"P1": 1}),
        (b'PatientID;"size, mm, max";y\nP1;3;1\n', {"P1": 1}),
        ("PatientID\ty\nP1\t1\n".encode("utf-16"), {"P1": 1}),
        (b"PatientID,y\nP1,1\n  \n,\n", {"P1": 1}),
        (b"PatientID,y\nP1,True\nP2,FALSE\n", {"P1": 1, "P2": 0}),
        (b"PatientID,y\nP1,#N/A\nP2,<NA>\nP3,1\n", {"P3": 1}),
    ],
    ids=[
        *("whole with a point", "1 is 1.0", "padded", "formula", "sep", "commas in names"),
        *("two bytes a letter", "empty lines", "truth", "not available"),
    ],
)
def test_tables_are_what_spreadsheets_meant(
    tmp_path: Path, content: bytes, expected: dict[str, int]
) -> None:
    (tmp_path / "cases.csv").write_bytes(content)

    values = dd.read_case_labels(tmp_path / "cases.csv", "y").values

    assert values == expected
    assert {type(value) for value in values.values()} == {int}


def test_keys_that_a_spreadsheet_has_cut_are_told(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("PatientID,y\n1.23457E+11,1\n")

    (finding,) = dd.read_case_labels(tmp_path / "cases.csv", "y").findings

    assert finding.startswith("shortened: 1 keys look like numbers that a spreadsheet has cut")


def test_labels_with_a_decimal_comma_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("PatientID;y\nP1;0,5\nP2;1\n")

    with pytest.raises(dd.LabelError, match="labels with a comma, as '0,5'"):
        dd.read_case_labels(tmp_path / "cases.csv", "y")

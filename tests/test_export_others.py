"""What is written is read by others: by readers made here from the standard, highdicom, nibabel.

Nothing of the package reads in the first part: where a voxel lies is worked out from the file
alone (PS3.3 A.51, C.7.6.16, C.8.8.6), and compared with where the stack says that it is.
"""

from __future__ import annotations

import os
import resource
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - as everyone calls it
from matplotlib.path import Path as Outline
from numpy.testing import assert_allclose, assert_array_equal
from pydicom import uid
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

import dicomdata as dd
from dicomdata.export.segmentation import code_of
from dicomdata.testing.enhanced import write_enhanced
from dicomdata.testing.phantoms import Each, SeriesPhantom, write_series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Write = Callable[[Path], dd.StackPlan]

SHAPE = (5, 4, 6)


class Placed(NamedTuple):
    """Voxels and where they are, as predictions have them; torch need not be imported for it."""

    voxels: NDArray[Any]
    affine_lps: NDArray[np.float64]


# --- readers made from the standard ---------------------------------------------------------------


def read_frames(path: Path) -> Iterator[tuple[int, NDArray[np.float64], NDArray[Any]]]:
    """Give of each frame of a SEG: segment, (row, column, 1) -> LPS mm, and stored values."""
    header = pydicom.dcmread(path)
    shared = header.SharedFunctionalGroupsSequence[0]
    cosines = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(
        float
    )
    down, along = (float(x) for x in shared.PixelMeasuresSequence[0].PixelSpacing)
    size, count = header.Rows * header.Columns, int(header.NumberOfFrames)
    if header.file_meta.TransferSyntaxUID.is_encapsulated:
        stored = header.pixel_array
    elif header.BitsAllocated == 1:
        bits = np.unpackbits(np.frombuffer(header.PixelData, np.uint8), bitorder="little")
        stored = bits[: count * size]
    else:
        words = np.frombuffer(header.PixelData, f"<u{header.BitsAllocated // 8}")
        stored = words[: count * size]
    planes = stored.reshape(count, header.Rows, header.Columns)
    for group, plane in zip(header.PerFrameFunctionalGroupsSequence, planes, strict=True):
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        named = group.get("SegmentIdentificationSequence")
        place = np.column_stack([cosines[1] * down, cosines[0] * along, corner])
        yield (named[0].ReferencedSegmentNumber if named else 0), place, plane


def segments_by_standard(path: Path, stack: dd.Stack, count: int) -> NDArray[Any]:
    """Lay a SEG on the grid of a stack by where each labelled pixel lies."""
    read = np.zeros((count, *stack.shape), np.uint8)
    to_grid = np.linalg.inv(stack.affine_lps)
    for segment, place, plane in read_frames(path):
        rows, columns = np.nonzero(plane)
        points = place @ np.stack([rows, columns, np.ones(len(rows))])
        at = (to_grid @ np.vstack([points, np.ones(len(rows))]))[:3]
        whole = np.rint(at).astype(int)
        assert_allclose(at, whole, atol=0.12)
        numbers = [segment - 1] * len(rows) if segment else plane[rows, columns] - 1
        read[(numbers, *whole)] = 1 if not segment else plane[rows, columns]
    return read


def structures_by_standard(path: Path, stack: dd.Stack) -> NDArray[np.bool_]:
    """Fill an RTSTRUCT by matplotlib: a pixel whose centre is inside, by exclusive or."""
    header = pydicom.dcmread(path)
    read = np.zeros((len(header.StructureSetROISequence), *stack.shape), bool)
    to_grid = np.linalg.inv(stack.affine_lps)
    rows, columns = np.mgrid[: stack.shape[1], : stack.shape[2]]
    centres = np.column_stack([rows.ravel(), columns.ravel()])
    for region in header.ROIContourSequence:
        for contour in region.get("ContourSequence", ()):
            points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
            assert len(points) == contour.NumberOfContourPoints
            at = np.column_stack([points, np.ones(len(points))]) @ to_grid.T
            number = round(float(at[:, 0].mean()))
            assert_allclose(at[:, 0], number, atol=0.12)
            inside = Outline(at[:, 1:3]).contains_points(centres).reshape(stack.shape[1:])
            read[region.ReferencedROINumber - 1, number] ^= inside
    return read


# --- every kind of stack --------------------------------------------------------------------------


def plan_of(folder: Path, **policy: Any) -> dd.StackPlan:
    return dd.plan_stacks(dd.scan(folder, progress=False), dd.Policy(**policy))


def series(**fields: Any) -> Write:
    """Give what writes and plans a series; `policy` is how it is planned."""
    policy = fields.pop("policy", {})

    def write(folder: Path) -> dd.StackPlan:
        write_series(folder, **fields)
        return plan_of(folder, **policy)

    return write


def enhanced(**fields: Any) -> Write:
    def write(folder: Path) -> dd.StackPlan:
        write_enhanced(folder, **fields)
        return plan_of(folder)

    return write


def duplicated(folder: Path) -> dd.StackPlan:
    whole = SeriesPhantom()
    write_series(folder, whole)
    write_series(folder, whole.only(2), file_names=["again"], sop_instance_uid="1.2.3")
    return plan_of(folder)


def along(*depths: float) -> list[tuple[float, float, float]]:
    return [(-10.0, -20.0, depth) for depth in depths]


OBLIQUE = (0.8, 0.36, -0.48, -0.6, 0.48, -0.64)
"""Turned about two axes, so that no cosine is 0 or 1."""

TOMOGRAM = {
    "ImageType": ("ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"),
    "FrameIncrementPointer": [0x00540080],
    "SliceVector": [1, 2, 3, 4, 5],
}


def nuclear(folder: Path) -> dd.StackPlan:
    place = Dataset()
    place.ImagePositionPatient = [-10, -20, -30]
    place.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    write_enhanced(
        folder,
        modality="NM",
        sop_class_uid=uid.NuclearMedicineImageStorage,
        functional_groups=False,
        positions=[None] * 5,
        orientation=None,
        spacing_between_slices="-2.5",
        extra={**TOMOGRAM, "DetectorInformationSequence": [place]},
    )
    return plan_of(folder)


KINDS: dict[str, Write] = {
    "clean": series(),
    "oblique MR": series(modality="MR", orientation=OBLIQUE, pixel_spacing=(0.9375, 0.46875)),
    "sagittal": series(orientation=(0, 1, 0, 0, 0, -1)),
    "tilted": series(orientation=(1, 0, 0, 0, 0.9396926, -0.3420201), step=(0, 0, 5.0)),
    "untilted": series(
        orientation=(1, 0, 0, 0, 0.9396926, -0.3420201),
        step=(0, 0, 5.0),
        policy={"tilt": "repair"},
    ),
    "gapped": series(positions=along(0, 2.5, 5, 10, 12.5), policy={"gap": "repair"}),
    "variable": series(
        positions=along(0, 1, 2, 4, 6, 8), policy={"variable_spacing": "repair"}
    ),
    "phases": series(
        positions=along(0, 2.5, 5) * 2,
        extra={"TemporalPositionIdentifier": Each(1, 1, 1, 2, 2, 2)},
    ),
    "echoes": series(
        modality="MR", positions=along(0, 2.5, 5) * 2, extra={"EchoTime": Each(5, 5, 5, 9, 9, 9)}
    ),
    "studies": series(study_instance_uid=Each("1.2.1", "1.2.1", "1.2.2", "1.2.2", "1.2.3")),
    "frames of reference": series(frame_of_reference_uid=Each("1.1", "1.2", "1.3", "1.4", "1.5")),
    "enhanced MR": enhanced(modality="MR", order=(2, 0, 3, 1, 4)),
    "enhanced PET": enhanced(modality="PT", order=(4, 3, 2, 1, 0)),
    "enhanced phases": enhanced(
        series=SeriesPhantom(
            positions=along(0, 2.5, 5) * 2,
            extra={"TemporalPositionIndex": Each(1, 1, 1, 2, 2, 2)},
        )
    ),
    "nuclear": nuclear,
    "duplicated": duplicated,
    "single slice": series(shape=(1, 4, 6)),
    "jpeg 2000": series(transfer_syntax_uid=uid.JPEG2000Lossless),
    "off by rounding": series(positions=along(0, 0.6, 1.2, 1.9, 2.5)),
    "far away": series(origin=(-1234.5678901, 987.65432109, -3210.123456789)),
    "nothing said": series(
        frame_of_reference_uid=None,
        study_instance_uid=None,
        series_instance_uid=None,
        patient_id=None,
    ),
}  # fmt: skip


def draw(stack: dd.Stack, seed: int = 0) -> NDArray[np.bool_]:
    """Label voxels at random: two segments that overlap, holes, and pixels that meet in corners."""
    random = np.random.default_rng(seed).random((2, *stack.shape))
    return np.array(random > 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_others_find_each_voxel_where_it_is(tmp_path: Path, kind: str) -> None:
    plan = KINDS[kind](tmp_path / "images")

    assert plan.stacks
    for stack in (*plan.stacks, *(each.reversed() for each in plan.stacks)):
        drawn = draw(stack)
        dd.write_segmentation(tmp_path / "seg.dcm", drawn, stack, ["A", "B"])
        dd.write_structures(tmp_path / "rt.dcm", drawn, stack, ["A", "B"])

        assert_array_equal(segments_by_standard(tmp_path / "seg.dcm", stack, 2), drawn)
        assert_array_equal(structures_by_standard(tmp_path / "rt.dcm", stack), drawn)
        for mask in (
            dd.read_segmentation(tmp_path / "seg.dcm", stack),
            dd.read_structures(tmp_path / "rt.dcm", stack),
        ):
            assert_array_equal(mask.voxels, drawn)
            assert mask.verdict.kind == "same_grid"
            assert mask.stack is stack


@pytest.mark.corpus("volume", largest=60_000)
def test_others_find_each_voxel_of_real_series(
    tmp_path: Path, corpus: Path, entry: dict[str, Any]
) -> None:
    for stack in plan_of(corpus / entry["id"], gap="repair", variable_spacing="repair").stacks[:1]:
        drawn = draw(stack)
        dd.write_segmentation(tmp_path / "seg.dcm", drawn, stack, ["A", "B"])
        assert_array_equal(segments_by_standard(tmp_path / "seg.dcm", stack, 2), drawn)
        assert_array_equal(dd.read_segmentation(tmp_path / "seg.dcm", stack).voxels, drawn)


@pytest.mark.parametrize("kind", ["clean", "oblique MR", "sagittal", "enhanced MR", "single slice"])
def test_highdicom_puts_a_segmentation_where_the_stack_is(tmp_path: Path, kind: str) -> None:
    (stack,) = KINDS[kind](tmp_path / "images").stacks
    drawn = draw(stack)
    drawn[:, :, 0, 0] = True

    dd.write_segmentation(tmp_path / "seg.dcm", drawn, stack, ["A", "B"])

    volume = hd.seg.segread(tmp_path / "seg.dcm").get_volume(rtol=1e-4)
    index = np.argwhere(volume.array)
    points = index[:, :3] @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    segment, *place = np.nonzero(drawn)
    expected = np.array(place).T @ stack.affine_lps[:3, :3].T + stack.affine_lps[:3, 3]
    assert_allclose(
        sorted(map(tuple, np.column_stack([index[:, 3], points]).round(4).tolist())),
        sorted(map(tuple, np.column_stack([segment, expected]).round(4).tolist())),
        atol=1e-3,
    )


@pytest.mark.parametrize("compress", [False, True])
def test_a_label_map_is_one_frame_a_slice(tmp_path: Path, compress: bool) -> None:
    (stack,) = KINDS["clean"](tmp_path / "images").stacks
    numbers = np.arange(120).reshape(SHAPE) % 4

    dd.write_segmentation(
        tmp_path / "map.dcm", numbers, stack, ["A", "B", "C"], kind="labelmap", compress=compress
    )

    assert_array_equal(dd.read_segmentation(tmp_path / "map.dcm", stack).labelmap(), numbers)
    held = np.array([numbers == each for each in (1, 2, 3)])
    by_standard = segments_by_standard(tmp_path / "map.dcm", stack, 3)
    assert_array_equal(by_standard > 0, held)
    theirs = hd.seg.segread(tmp_path / "map.dcm")
    assert theirs.segmentation_type.value == "LABELMAP"
    volume = theirs.get_volume(combine_segments=True)
    assert_array_equal(volume.array[::-1] if volume.affine[2, 0] < 0 else volume.array, numbers)


def test_three_hundred_segments_are_a_label_map_of_sixteen_bits(tmp_path: Path) -> None:
    (stack,) = series(shape=(2, 10, 20))(tmp_path / "images").stacks
    numbers = np.arange(400).reshape(2, 10, 20) % 301
    names = [f"part {number}" for number in range(1, 301)]

    for compress in (False, True):
        dd.write_segmentation(
            tmp_path / "map.dcm", numbers, stack, names, kind="labelmap", compress=compress
        )
        assert pydicom.dcmread(tmp_path / "map.dcm").BitsAllocated == 16
        mask = dd.read_segmentation(tmp_path / "map.dcm", stack)
        assert_array_equal(mask.labelmap(), numbers)


def test_what_a_label_map_cannot_hold_is_refused(tmp_path: Path) -> None:
    (stack,) = KINDS["clean"](tmp_path / "images").stacks
    for mask, words in (
        (draw(stack) * 0.5, "whole voxels, not fractions"),
        (np.ones((2, *SHAPE), bool), "'B' overlaps"),
    ):
        with pytest.raises(dd.LabelError, match=words):
            dd.write_segmentation(tmp_path / "m.dcm", mask, stack, ["A", "B"], kind="labelmap")
    with pytest.raises(dd.LabelError, match="cannot be compressed"):
        dd.write_segmentation(tmp_path / "m.dcm", draw(stack), stack, ["A", "B"], compress=True)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "images"]


def test_fractions_are_compressed_without_loss(tmp_path: Path) -> None:
    (stack,) = KINDS["clean"](tmp_path / "images").stacks
    steps = np.arange(120, dtype=np.float32).reshape(SHAPE) / np.float32(255)

    dd.write_segmentation(tmp_path / "seg.dcm", steps, stack, ["A"], compress=True)

    header = pydicom.dcmread(tmp_path / "seg.dcm")
    assert header.file_meta.TransferSyntaxUID == uid.RLELossless
    assert_array_equal(dd.read_segmentation(tmp_path / "seg.dcm", stack).voxels[0], steps)


# --- what is taken over from images, and what is not ----------------------------------------------

BAD = {
    "PatientBirthDate": "1950/01/01",
    "PatientSex": "male",
    "StudyDate": "yesterday",
    "StudyTime": "25:61",
    "StudyID": "a study ID that is far too long for it",
    "AccessionNumber": "an accession number that is too long",
    "SeriesNumber": "2147483647",
}


def write_both(folder: Path, stack: dd.Stack, **options: Any) -> list[Dataset]:
    """Write a SEG and an RTSTRUCT of a random mask, and give what pydicom reads."""
    drawn = draw(stack)
    paths = [folder / "seg.dcm", folder / "rt.dcm"]
    dd.write_segmentation(paths[0], drawn, stack, ["A", "B"], **options)
    dd.write_structures(paths[1], drawn, stack, ["A", "B"], **options)
    assert_array_equal(dd.read_segmentation(paths[0], stack).voxels, drawn)
    assert_array_equal(dd.read_structures(paths[1], stack).voxels, drawn)
    return [pydicom.dcmread(path) for path in paths]


def test_values_without_a_form_are_left_empty(tmp_path: Path) -> None:
    (stack,) = series(extra=BAD)(tmp_path / "images").stacks

    for header in write_both(tmp_path, stack):
        assert [header[name].value for name in ("PatientBirthDate", "PatientSex")] == ["", ""]
        assert [header[name].value for name in ("StudyDate", "StudyTime")] == ["", ""]
        assert header.PatientID == "PHANTOM"
        assert header.SeriesNumber == 100


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen".encode("latin-1")),
        ("ISO_IR 192", "Müller^Jürgen=山田^太郎".encode()),
        (
            DataElement(0x00080005, "CS", ["", "ISO 2022 IR 87"]),
            b"Yamada^Tarou=\033$B;3ED\033(B^\033$BB@O:\033(B",
        ),
    ],
)
def test_names_in_any_alphabet_are_kept(
    tmp_path: Path, charset: str | DataElement, name: bytes
) -> None:
    written = DataElement(0x00100010, "UN", name)
    (stack,) = series(extra={"SpecificCharacterSet": charset, "PatientName": written})(
        tmp_path / "images"
    ).stacks
    before = pydicom.dcmread(stack.paths[0]).PatientName

    for header in write_both(tmp_path, stack):
        assert str(header.PatientName) == str(before)
        assert header.SpecificCharacterSet == "ISO_IR 192"


def test_nothing_of_a_patient_is_copied_but_who_it_is(tmp_path: Path) -> None:
    said = {
        "PatientName": "Doe^Jane",
        "PatientAddress": "1 Long Road",
        "PatientComments": "likes tea",
        "OtherPatientIDs": "OTHER-1",
        "PatientTelephoneNumbers": "5550199",
        "IssuerOfPatientID": "HOSPITAL",
        "PatientIdentityRemoved": "NO",
        "InstitutionName": "St Elsewhere",
        "PhysiciansOfRecord": "House^G",
        0x00090010: DataElement(0x00090010, "LO", "HOUSEKEEPING"),
        0x00091001: DataElement(0x00091001, "LO", "secret"),
    }
    (stack,) = series(extra=said)(tmp_path / "images").stacks

    for header in write_both(tmp_path, stack):
        text = str(header)
        assert not any(
            each in text
            for each in (
                "Road",
                "tea",
                "OTHER-1",
                "5550199",
                "Elsewhere",
                "House",
                "secret",
                "HOUSEKEEPING",
            )
        )
        assert header.PatientName == "Doe^Jane"
        assert header.IssuerOfPatientID == "HOSPITAL"
        assert header.PatientIdentityRemoved == "NO"


def test_wrong_vrs_of_a_patient_are_no_obstacle(tmp_path: Path) -> None:
    odd = {
        0x00100020: DataElement(0x00100020, "IS", "12345"),
        0x00100030: DataElement(0x00100030, "LO", "19500101"),
        0x00100040: DataElement(0x00100040, "UN", b"F "),
        0x00200010: DataElement(0x00200010, "DS", "7"),
    }
    (stack,) = series(extra=odd, patient_id=None)(tmp_path / "images").stacks

    for header in write_both(tmp_path, stack):
        assert (header.PatientID, header.PatientBirthDate) == ("12345", "19500101")
        assert (header.PatientSex, header.StudyID) == ("F", "7")
        assert (header["PatientID"].VR, header["PatientBirthDate"].VR) == ("LO", "DA")


def test_images_of_other_studies_are_said_to_be(tmp_path: Path) -> None:
    (stack,) = KINDS["studies"](tmp_path / "images").stacks

    segmentation, structures = write_both(tmp_path, stack)

    def uids(series_: Dataset, keyword: str) -> list[str]:
        return [each.ReferencedSOPInstanceUID for each in series_[keyword].value]

    named = stack.sop_instance_uids
    assert segmentation.StudyInstanceUID == structures.StudyInstanceUID == "1.2.1"
    (own,) = segmentation.ReferencedSeriesSequence
    assert uids(own, "ReferencedInstanceSequence") == list(named[:2])
    others = segmentation.StudiesContainingOtherReferencedInstancesSequence
    assert [each.StudyInstanceUID for each in others] == ["1.2.2", "1.2.3"]
    assert uids(others[0].ReferencedSeriesSequence[0], "ReferencedInstanceSequence") == list(
        named[2:4]
    )
    (frame,) = structures.ReferencedFrameOfReferenceSequence
    studies = frame.RTReferencedStudySequence
    assert [each.ReferencedSOPInstanceUID for each in studies] == ["1.2.1", "1.2.2", "1.2.3"]
    plan = dd.plan_stacks(dd.scan(tmp_path, progress=False))
    assert {match.stack.id for match in dd.find_labels(plan).matches} == {stack.id}


def test_what_is_drawn_on_lossy_images_says_so(tmp_path: Path) -> None:
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": "10"}
    (stack,) = series(extra=lossy)(tmp_path / "images").stacks

    segmentation, _ = write_both(tmp_path, stack)

    assert segmentation.LossyImageCompression == "01"


def test_every_writing_makes_an_object_of_its_own(tmp_path: Path) -> None:
    (stack,) = KINDS["clean"](tmp_path / "images").stacks

    objects = [*write_both(tmp_path, stack), *write_both(tmp_path, stack)]

    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({each[name].value for each in objects}) == 4
    assert {each.StudyInstanceUID for each in objects} == {stack.study_instance_uid}


def test_what_is_said_of_a_label_is_in_the_file(tmp_path: Path) -> None:
    (stack,) = KINDS["clean"](tmp_path / "images").stacks

    segmentation, structures = write_both(
        tmp_path, stack, algorithm="threshold", description="Bones of the hand"
    )

    assert segmentation.SeriesDescription == structures.SeriesDescription == "Bones of the hand"
    (segment, _) = segmentation.SegmentSequence
    assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == (
        "AUTOMATIC",
        "threshold",
    )
    (region, _) = structures.StructureSetROISequence
    assert region.ROIGenerationAlgorithm == "AUTOMATIC"
    colours = [tuple(each.ROIDisplayColor) for each in structures.ROIContourSequence]
    assert len(set(colours)) == 2
    segmentation, structures = write_both(tmp_path, stack, algorithm=None)
    assert segmentation.SegmentSequence[0].SegmentAlgorithmType == "MANUAL"
    assert structures.StructureSetROISequence[0].ROIGenerationAlgorithm == "MANUAL"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"algorithm": " "}, "algorithm's name is empty"),
        ({"algorithm": "a" * 65}, "algorithm's name must have"),
        ({"description": "one\\two"}, "description must have"),
        ({"description": "one\ntwo"}, "description must have"),
    ],
)
def test_what_no_element_can_hold_is_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    (stack,) = KINDS["clean"](tmp_path / "images").stacks

    for write in (dd.write_segmentation, dd.write_structures):
        with pytest.raises(dd.LabelError, match=words):
            write(tmp_path / "label.dcm", draw(stack), stack, ["A", "B"], **options)


@pytest.mark.parametrize("name", ["__class__", "__init__", "dir", "trait names", "Lung tumour"])
def test_a_name_is_never_taken_for_something_of_python(name: str) -> None:
    assert code_of(name).scheme == "99DICOMDATA"


def test_a_lesion_is_no_structure(tmp_path: Path) -> None:
    (stack,) = KINDS["clean"](tmp_path / "images").stacks

    dd.write_segmentation(tmp_path / "seg.dcm", draw(stack), stack, ["Nodule", "Liver"])

    nodule, liver = dd.read_segmentation(tmp_path / "seg.dcm", stack).segments
    assert nodule.category == dd.Code("49755003", "SCT", "Morphologically Abnormal Structure")
    assert liver.category == dd.Code("91723000", "SCT", "Anatomical Structure")


def test_long_codes_have_elements_of_their_own(tmp_path: Path) -> None:
    (stack,) = KINDS["clean"](tmp_path / "images").stacks
    long = dd.Segment(1, "A", type=dd.Code("12345678901234567890", "SCT", "Something"))
    address = dd.Segment(2, "B", type=dd.Code("http://x.org/a", "XX", "Something"))

    dd.write_segmentation(tmp_path / "seg.dcm", draw(stack), stack, [long, address])

    one, two = dd.read_segmentation(tmp_path / "seg.dcm", stack).segments
    assert (one.type, two.type) == (long.type, address.type)


def test_a_contour_may_have_thousands_of_corners(tmp_path: Path) -> None:
    # Explicit VRs have 16 bits for the length of a contour: 65535 characters.
    (stack,) = series(shape=(1, 3, 3001))(tmp_path / "images").stacks
    comb = np.zeros(stack.shape, bool)
    comb[0, 1:] = True
    comb[0, 1, ::2] = False

    dd.write_structures(tmp_path / "rt.dcm", comb, stack, ["Comb"])

    assert_array_equal(dd.read_structures(tmp_path / "rt.dcm", stack).voxels[0], comb)
    assert_array_equal(structures_by_standard(tmp_path / "rt.dcm", stack)[0], comb)
    (region,) = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence
    assert max(len(each.ContourData) for each in region.ContourSequence) > 12_000


# --- masks that are none of this stack's ----------------------------------------------------------


class _Meta(np.ndarray):
    """As a MetaTensor, it is (x, y, z), and knows where it lies."""

    affine = np.eye(4)


def test_an_array_with_a_grid_of_its_own_is_not_taken_for_the_stacks(tmp_path: Path) -> None:
    (stack,) = series(shape=(4, 4, 4))(tmp_path / "images").stacks
    prediction = np.zeros((1, 4, 4, 4), bool).view(_Meta)
    placed = Placed(np.zeros((4, 4, 4), np.uint8), stack.affine_lps)

    for mask in (prediction, placed):
        with pytest.raises(dd.LabelError, match="a grid of its own: to_mask lays"):
            dd.write_segmentation(tmp_path / "seg.dcm", mask, stack, ["A"])  # type: ignore[arg-type]
    for odd in (np.array(["a"]), np.array(None), np.zeros(4, complex)):
        with pytest.raises(dd.LabelError, match="a mask holds numbers"):
            dd.write_segmentation(tmp_path / "seg.dcm", odd, stack, ["A"])
    with pytest.raises(dd.LabelError, match="a list of names"):
        dd.write_segmentation(tmp_path / "seg.dcm", np.zeros((4, 4, 4), bool), stack, "A")


def test_a_mask_of_another_patient_on_the_same_grid_is_refused(tmp_path: Path) -> None:
    ours, theirs = (
        series(patient_id=name, seed=name)(tmp_path / name).stacks[0] for name in ("one", "two")
    )
    dd.write_segmentation(tmp_path / "seg.dcm", draw(ours), ours, ["A", "B"])
    mask = dd.read_segmentation(tmp_path / "seg.dcm", ours)

    for write in (dd.write_segmentation, dd.write_structures):
        with pytest.raises(dd.LabelError, match="not on the grid of"):
            write(tmp_path / "other.dcm", mask, theirs)


# --- a disk that refuses --------------------------------------------------------------------------


def test_what_the_disk_refuses_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (stack,) = KINDS["clean"](tmp_path / "images").stacks
    drawn = draw(stack)
    (tmp_path / "folder.dcm").mkdir()
    before = sorted(os.listdir(tmp_path))

    for name in ("missing/label.dcm", "folder.dcm", "a" * 300):
        for write in (dd.write_segmentation, dd.write_structures):
            with pytest.raises(dd.FileError, match="cannot be written: "):
                write(tmp_path / name, drawn, stack, ["A", "B"])
    assert sorted(os.listdir(tmp_path)) == before
    assert os.listdir(tmp_path / "folder.dcm") == []


def test_a_disk_that_is_full_midway_keeps_what_was_there(tmp_path: Path) -> None:
    (stack,) = series(shape=(5, 64, 64))(tmp_path / "images").stacks
    for write in (dd.write_segmentation, dd.write_structures):
        write(tmp_path / "label.dcm", np.ones(stack.shape, bool), stack, ["A"])
        before = (tmp_path / "label.dcm").read_bytes()

        with no_file_larger_than(1000), pytest.raises(dd.FileError, match="File too large"):
            write(tmp_path / "label.dcm", np.ones(stack.shape, bool), stack, ["A"])

        assert (tmp_path / "label.dcm").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["images", "label.dcm"]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Let the system refuse to write more, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- NIfTI, MetaImage and NRRD --------------------------------------------------------------------

SUFFIXES = [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"]


def points_by_others(path: Path) -> list[list[float]]:
    """Give where the labelled voxels of a file are by nibabel or SimpleITK, LPS mm."""
    if ".nii" in path.name.lower():
        image: Any = nib.load(path)
        index = np.argwhere(np.asanyarray(image.dataobj))
        ras = index @ image.affine[:3, :3].T + image.affine[:3, 3]
        return sorted((ras * (-1, -1, 1)).tolist())
    placed: Any = sitk.ReadImage(str(path))
    index = np.argwhere(sitk.GetArrayFromImage(placed))[:, ::-1]
    return sorted(list(placed.TransformIndexToPhysicalPoint(each)) for each in index.tolist())


@pytest.mark.parametrize("kind", ["oblique MR", "untilted"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_voxels_of_a_volume_file_are_where_the_stack_has_them(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    (stack,) = KINDS[kind](tmp_path / "images").stacks
    drawn = draw(stack)[0]

    dd.write_volume(tmp_path / f"label{suffix}", Placed(drawn, stack.affine_lps))

    found = points_by_others(tmp_path / f"label{suffix}")
    index = np.argwhere(drawn)
    expected = index @ stack.affine_lps[:3, :3].T + stack.affine_lps[:3, 3]
    distances = np.linalg.norm(np.array(found)[:, None] - expected[None], axis=2)
    assert len(found) == len(index)
    assert distances.min(axis=0).max() < 1e-3
    assert distances.min(axis=1).max() < 1e-3


def overlapping(folder: Path) -> dd.Mask:
    (stack,) = KINDS["clean"](folder / "images").stacks
    dd.write_segmentation(folder / "seg.dcm", draw(stack), stack, ["Lung", "Nodule"])
    return dd.read_segmentation(folder / "seg.dcm", stack)


def test_segments_that_overlap_are_layers_in_nrrd(tmp_path: Path) -> None:
    mask = overlapping(tmp_path)

    dd.write_volume(tmp_path / "both.seg.nrrd", mask, compress=True)

    again = dd.read_label_file(tmp_path / "both.seg.nrrd", mask.stack)
    assert_array_equal(again.voxels, mask.voxels)
    assert again.names == mask.names
    layers = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "both.seg.nrrd")))
    assert_array_equal(np.moveaxis(layers, 3, 0) > 0, mask.voxels)


def test_segments_that_overlap_have_no_place_in_other_formats(tmp_path: Path) -> None:
    mask = overlapping(tmp_path)

    for suffix in (".nii.gz", ".mha"):
        with pytest.raises(dd.LabelError, match=r"segments overlap.*\.nrrd has layers"):
            dd.write_volume(tmp_path / f"both{suffix}", mask)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_volume_is_written_whole_or_not_at_all(tmp_path: Path, suffix: str) -> None:
    # SimpleITK's NIfTI leaves half a file on a full disk, and says nothing.
    noise = np.random.default_rng(0).integers(0, 2000, (5, 64, 64)).astype(np.int16)
    volume = Placed(noise, np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]]))
    path = tmp_path / f"volume{suffix}"
    dd.write_volume(path, volume)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}

    for limit in (50, 20_000):
        with no_file_larger_than(limit), pytest.raises(dd.FileError, match="cannot be written"):
            dd.write_volume(path, volume)
    with pytest.raises(dd.FileError, match="No such file or directory"):
        dd.write_volume(tmp_path / "missing" / f"volume{suffix}", volume)

    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_an_image_is_not_replaced_by_its_own_mask(tmp_path: Path) -> None:
    (stack,) = KINDS["clean"](tmp_path / "images").stacks
    path = tmp_path / "CT.NII.GZ"
    dd.write_volume(path, dd.read_volume(stack))
    file = dd.open_volume(path)
    dd.write_volume(tmp_path / "label.nii", Placed(draw(stack)[0], stack.affine_lps))
    mask = dd.read_label_file(tmp_path / "label.nii", file)

    for volume in (mask, dd.read_volume(file)):
        with pytest.raises(dd.LabelError, match="is not to be replaced"):
            dd.write_volume(path, volume)

    assert_array_equal(dd.read_volume(dd.open_volume(path)).voxels, dd.read_volume(stack).voxels)


def test_a_probability_is_written_as_it_is(tmp_path: Path) -> None:
    (stack,) = KINDS["oblique MR"](tmp_path / "images").stacks
    shares = np.random.default_rng(0).random(stack.shape, np.float32)

    dd.write_volume(tmp_path / "lung.nii.gz", Placed(shares, stack.affine_lps))

    image: Any = nib.load(tmp_path / "lung.nii.gz")
    assert_array_equal(np.asanyarray(image.dataobj).T, shares)


def test_a_hundred_segments_take_little_more_memory_than_their_map(tmp_path: Path) -> None:
    # One above the other they would be a hundred times as large.
    (stack,) = series(shape=(20, 128, 128))(tmp_path / "images").stacks
    numbers = np.repeat(np.arange(20 * 128 * 16) % 101, 8).reshape(stack.shape).astype(np.uint8)
    names = [f"part {number}" for number in range(1, 101)]

    tracemalloc.start()
    dd.write_segmentation(
        tmp_path / "seg.dcm", numbers, stack, names, kind="labelmap", algorithm=None
    )
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 15 * numbers.nbytes

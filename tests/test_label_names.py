"""Segments by what they are called: one name and one number for what people call differently."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

import dicomdata as dd
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Read = Callable[..., dd.Mask]

SHAPE = (5, 4, 6)


@pytest.fixture
def named(tmp_path: Path) -> dd.Mask:
    """Four segments of one slice each."""
    write_series(tmp_path, shape=SHAPE)
    (stack,) = dd.plan_stacks(dd.scan(tmp_path, progress=False)).stacks
    voxels = np.zeros((4, *SHAPE), np.bool_)
    for i in range(4):
        voxels[i, i] = True
    names = ("Lung_L", "lung right", "GTV 1", "Couch")
    segments = tuple(dd.Segment(i + 3, name) for i, name in enumerate(names))
    return dd.Mask(voxels, segments, stack, dd.Verdict("same_grid", 0.0, ""), (), "plan.dcm")


def test_segments_are_chosen_by_regular_expressions(named: dd.Mask) -> None:
    chosen = dd.select_segments(named, {"tumour": "GTV ?[0-9]*", "lung": "(?i)lung.*"})

    assert [(segment.number, segment.name) for segment in chosen.segments] == [
        (1, "tumour"),
        (2, "lung"),
    ]
    np.testing.assert_array_equal(chosen.of("lung"), named.voxels[0] | named.voxels[1])
    assert [str(finding) for finding in chosen.findings] == [
        "joined: 'lung' is 'Lung_L', 'lung right'",
        "left_out: not asked for: 'Couch'",
    ]


def test_a_segment_that_is_missing_is_refused_empty_or_left_out(named: dd.Mask) -> None:
    patterns = {"heart": "(?i)heart", "tumour": "GTV.*"}

    with pytest.raises(dd.LabelError, match=r"plan\.dcm: no segment is 'heart'; it has 'Lung_L', "):
        dd.select_segments(named, patterns)
    empty = dd.select_segments(named, patterns, missing="empty")
    fewer = dd.select_segments(named, patterns, missing="drop")

    assert empty.voxels.sum(axis=(1, 2, 3)).tolist() == [0, 24]
    assert [(segment.number, segment.name) for segment in fewer.segments] == [(2, "tumour")]
    assert all("missing: no segment is 'heart'" in map(str, m.findings) for m in (empty, fewer))


def test_what_names_do_not_decide_is_refused(named: dd.Mask) -> None:
    with pytest.raises(dd.LabelError, match="'GTV 1' fits the patterns of 'a' and of 'b'"):
        dd.select_segments(named, {"a": "GTV.*", "b": ".*1"})
    with pytest.raises(dd.LabelError, match="segments that nothing asks for: 'GTV 1', 'Couch'"):
        dd.select_segments(named, {"lung": "(?i)lung.*"}, others="error")
    with pytest.raises(dd.ConfigError, match="is no regular expression"):
        dd.select_segments(named, {"lung": "(lung"})


# --- read by name ---------------------------------------------------------------------------------

NAMES = ("Lung_L", "Heart", "lung right", "Couch")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> dd.Stack:
    """A clean CT, with what highdicom needs."""
    folder = tmp_path_factory.mktemp("ct")
    extra = dict.fromkeys(
        ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "PatientBirthDate", "PatientSex",
         "ReferringPhysicianName"), "",
    )  # fmt: skip
    write_series(folder, shape=SHAPE, extra=extra)
    (stack,) = dd.plan_stacks(dd.scan(folder, progress=False)).stacks
    return stack


def boxes() -> NDArray[np.bool_]:
    """Four segments which all touch, and the second lies over the first."""
    voxels = np.zeros((4, *SHAPE), np.bool_)
    voxels[0, 1:4, 0:2, 1:4] = True
    voxels[1, 2:4, 1:3, 2:5] = True
    voxels[2, 0:2, 2:4, 3:6] = True
    voxels[3, :, 3, :2] = True
    return voxels


def write_dicom(path: Path, stack: dd.Stack, kind: str) -> Read:
    if kind == "RTSTRUCT":
        dd.write_structures(path, boxes(), stack, NAMES)
        return dd.read_structures
    shares = boxes() * np.array([1, 0.5, 0.25, 1], np.float32)[:, None, None, None]
    voxels = shares if kind == "FRACTIONAL" else boxes()
    dd.write_segmentation(path, voxels, stack, NAMES)
    return dd.read_segmentation


def write_labelmap(path: Path, stack: dd.Stack) -> Read:
    descriptions = [
        hd.seg.SegmentDescription(number, name, codes.SCT.Tissue, codes.SCT.Lung, "MANUAL")
        for number, name in enumerate(NAMES, 1)
    ]
    hd.seg.Segmentation(
        source_images=[pydicom.dcmread(each) for each in stack.paths],
        pixel_array=flat(),
        segmentation_type="LABELMAP",
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="X",
        manufacturer_model_name="X",
        software_versions="1",
        device_serial_number="1",
    ).save_as(path)
    return dd.read_segmentation


def write_nifti(path: Path, stack: dd.Stack) -> Read:
    affine = stack.affine_ras[:, (2, 1, 0, 3)]
    nibabel.save(nibabel.Nifti1Image(flat().T, affine), path)  # type: ignore[no-untyped-call]

    def read(path: Path, stack: dd.Stack, **how: Any) -> dd.Mask:
        return dd.read_label_file(path, stack, names=dict(enumerate(NAMES, 1)), **how)

    return read


def flat() -> NDArray[np.uint8]:
    """Give the segments as numbers; the last wins."""
    numbers = np.zeros(SHAPE, np.uint8)
    for number, voxels in enumerate(boxes(), 1):
        numbers[voxels] = number
    return numbers


@pytest.fixture(scope="module", params=["BINARY", "FRACTIONAL", "RTSTRUCT", "LABELMAP", "NIfTI"])
def label(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stack: dd.Stack
) -> tuple[Read, Path]:
    """A label of four segments, and what reads it."""
    folder = tmp_path_factory.mktemp("label")
    if request.param == "NIfTI":
        return write_nifti(folder / "label.nii", stack), folder / "label.nii"
    path = folder / "label.dcm"
    if request.param == "LABELMAP":
        return write_labelmap(path, stack), path
    return write_dicom(path, stack, request.param), path


@pytest.mark.parametrize(
    ("segments", "missing"),
    [
        ({"lung": "(?i)lung.*"}, "error"),
        ({"couch": "Couch", "heart": "Heart"}, "error"),
        ({"right": "lung right", "all else": "Heart|Couch"}, "error"),
        ({"spleen": "Spleen", "heart": "Heart"}, "empty"),
        ({"spleen": "Spleen", "heart": "Heart"}, "drop"),
        ({"spleen": "Spleen"}, "empty"),
        ({"spleen": "Spleen"}, "drop"),
        ({name: ".*" if name == "Heart" else "none" for name in NAMES[:2]}, "drop"),
    ],
)
def test_reading_by_name_is_reading_all_and_choosing(
    stack: dd.Stack, label: tuple[Read, Path], segments: dict[str, str], missing: Any
) -> None:
    read, path = label

    by_name = read(path, stack, segments=segments, missing=missing)

    chosen = dd.select_segments(read(path, stack), segments, missing=missing)
    assert by_name.segments == chosen.segments
    np.testing.assert_array_equal(by_name.voxels, chosen.voxels)
    assert by_name.voxels.dtype == chosen.voxels.dtype
    assert by_name.verdict.kind == chosen.verdict.kind
    told = {"missing", "joined", "left_out"}
    assert [each for each in by_name.findings if each.kind in told] == [
        each for each in chosen.findings if each.kind in told
    ]


def test_names_alone_choose_segments_in_their_order(
    stack: dd.Stack, label: tuple[Read, Path]
) -> None:
    read, path = label

    mask = read(path, stack, segments=["Couch", "Lung_L"])

    assert [(each.number, each.name) for each in mask.segments] == [(1, "Couch"), (2, "Lung_L")]
    every = read(path, stack)
    np.testing.assert_array_equal(mask.voxels, [every.of("Couch"), every.of("Lung_L")])


def test_what_is_asked_for_and_not_there_is_refused(
    stack: dd.Stack, label: tuple[Read, Path]
) -> None:
    read, path = label

    with pytest.raises(dd.LabelError, match=r"no segment is 'lung'; it has 'Lung_L', 'Heart', "):
        read(path, stack, segments=["lung"])
    with pytest.raises(dd.ConfigError, match="expected a list of different names"):
        read(path, stack, segments="Heart")
    with pytest.raises(dd.ConfigError, match="expected a list of different names"):
        read(path, stack, segments=["Heart", "Heart"])


def test_resampling_by_name_is_resampling_all_and_choosing(tmp_path: Path, stack: dd.Stack) -> None:
    write_series(
        tmp_path / "fine", shape=(5, 8, 12), pixel_spacing=(0.4, 0.25), seed="fine",
        frame_of_reference_uid=stack.frame_of_reference_uid,
    )  # fmt: skip
    (other,) = dd.plan_stacks(dd.scan(tmp_path / "fine", progress=False)).stacks
    read = write_dicom(tmp_path / "label.dcm", stack, "FRACTIONAL")

    by_name = read(tmp_path / "label.dcm", other, segments={"heart": "Heart"}, resample=True)

    every = read(tmp_path / "label.dcm", other, resample=True)
    assert by_name.verdict.kind == "resampled"
    np.testing.assert_array_equal(by_name.of("heart"), every.of("Heart"))
    nothing = read(tmp_path / "label.dcm", other, segments=["A"], missing="empty", resample=True)
    assert not nothing.voxels.any()


def test_frames_that_nobody_asked_for_are_not_decoded(tmp_path: Path, stack: dd.Stack) -> None:
    path = tmp_path / "label.dcm"
    write_dicom(path, stack, "FRACTIONAL")
    header = pydicom.dcmread(path)
    frames = np.frombuffer(header.PixelData, np.uint8).reshape(-1, *SHAPE[1:]).copy()
    groups = header.PerFrameFunctionalGroupsSequence
    for frame, group in zip(frames, groups, strict=True):
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber != 2:
            frame[:] = 255
    # Beyond what any frame may hold: who decodes it is told.
    header.MaximumFractionalValue = 254
    frames[frames == 128] = 127
    header.PixelData = frames.tobytes()
    header.save_as(path)

    mask = dd.read_segmentation(path, stack, segments=["Heart"])

    np.testing.assert_array_equal(mask.voxels[0] > 0, boxes()[1])
    with pytest.raises(dd.LabelError, match="must be from 0 to 254"):
        dd.read_segmentation(path, stack)


@pytest.mark.parametrize("kind", ["BINARY", "RTSTRUCT"])
def test_segments_that_nobody_asked_for_take_no_memory(tmp_path: Path, kind: str) -> None:
    shape, count = (10, 64, 64), 20
    write_series(tmp_path / "ct", shape=shape)
    (stack,) = dd.plan_stacks(dd.scan(tmp_path / "ct", progress=False)).stacks
    voxels = np.zeros((count, *shape), np.bool_)
    for number in range(count):
        voxels[number, number // 2, 4:8, number : number + 3] = True
    names = [f"part {number}" for number in range(count)]
    write = dd.write_segmentation if kind == "BINARY" else dd.write_structures
    write(tmp_path / "label.dcm", voxels, stack, names)
    read: Read = dd.read_segmentation if kind == "BINARY" else dd.read_structures
    one = voxels[0].nbytes

    def peak(**how: Any) -> int:
        read(tmp_path / "label.dcm", stack, **how)  # what is loaded once is loaded now
        tracemalloc.start()
        mask = read(tmp_path / "label.dcm", stack, **how)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert used > mask.voxels.nbytes
        return used

    # The records of the file, and what one segment takes while it is laid, are the same in both.
    assert peak() - peak(segments=["part 3"]) > (count - 3) * one

"""RT Structure Sets onto their stacks: holes, edges, oblique planes, and what lies on no slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_array_equal
from pydicom.uid import ExplicitVRLittleEndian

import dicomdata as dd
from dicomdata.labels.roi import parse_structures
from dicomdata.testing.phantoms import Each, write_series

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SHAPE = (4, 14, 16)
OBLIQUE = {
    "orientation": (0.9659258, 0, -0.2588190, 0, 1, 0),
    "origin": (10.0, 20.0, 30.0),
}


def only_stack(folder: Path, **fields: Any) -> dd.Stack:
    write_series(folder, **{"shape": SHAPE, **fields})
    (stack,) = dd.plan_stacks(dd.scan(folder, progress=False)).stacks
    return stack


def item(**elements: Any) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def contour(
    points: np.ndarray, kind: str = "CLOSED_PLANAR", image: str = "", **elements: Any
) -> pydicom.Dataset:
    made = item(
        ContourGeometricType=kind,
        NumberOfContourPoints=len(points),
        ContourData=[f"{x:.10g}" for x in np.ravel(points)],
        **elements,
    )
    if image:
        made.ContourImageSequence = [
            item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=image)
        ]
    return made


def write(
    path: Path, uid: str, regions: dict[str, Sequence[pydicom.Dataset]], **elements: Any
) -> Path:
    """Write a structure set with the contours of each region, by hand."""
    header = item(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3",
        SOPInstanceUID="1.2.3.4",
        Modality="RTSTRUCT",
        StructureSetROISequence=[
            item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=uid)
            for number, name in enumerate(regions, 1)
        ],
        ROIContourSequence=[
            item(ReferencedROINumber=number, ContourSequence=list(contours))
            for number, contours in enumerate(regions.values(), 1)
        ],
        **elements,
    )
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.save_as(path, enforce_file_format=True)
    return path


def at(stack: dd.Stack, number: float, corners: Sequence[tuple[float, float]]) -> np.ndarray:
    """Give (row, column) corners on a slice as points, LPS mm."""
    affine = stack.affine_lps
    places = np.array([(number, row, column) for row, column in corners], float)
    return np.array(places @ affine[:3, :3].T + affine[:3, 3])


def square(low: float, high: float) -> list[tuple[float, float]]:
    return [(low, low), (low, high), (high, high), (high, low)]


@pytest.mark.parametrize("fields", [{}, OBLIQUE], ids=["axial", "oblique"])
def test_an_edge_through_pixel_centres_is_inclusive(tmp_path: Path, fields: dict[str, Any]) -> None:
    stack = only_stack(tmp_path / "ct", **fields)
    path = write(
        tmp_path / "rt.dcm", stack.frame_of_reference_uid,
        {"square": [contour(at(stack, 1, square(2, 5)))]},
    )  # fmt: skip

    mask = dd.read_structures(path, stack)

    truth = np.zeros(SHAPE, bool)
    truth[1, 2:6, 2:6] = True
    assert_array_equal(mask.voxels, truth[None])
    assert mask.verdict.kind == "same_grid"
    assert mask.segments == (dd.Segment(1, "square"),)
    assert mask.findings == ()


def test_a_contour_within_another_is_a_hole(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct")
    inwards = [(3.0, 3.0), (6.0, 3.0), (6.0, 6.0), (3.0, 6.0), (3.0, 3.0)]
    keyhole = [*square(0, 9), (0, 0), *inwards, (0, 0)]
    path = write(
        tmp_path / "rt.dcm", stack.frame_of_reference_uid,
        {
            "two": [contour(at(stack, 2, square(0, 9))), contour(at(stack, 2, square(3, 6)))],
            "keyhole": [contour(at(stack, 2, keyhole))],
        },
    )  # fmt: skip

    mask = dd.read_structures(path, stack)

    assert mask.of("two").sum() == 84
    assert_array_equal(mask.of("keyhole"), mask.of("two"))
    # Four by four pixels have twelve around them.
    assert [(each.kind, each.amount) for each in mask.findings] == [
        ("hole_edge", 12),
        ("hole_edge", 12),
        ("overlap", 84),
    ]


@pytest.mark.parametrize("number", [-1, 4])
def test_contours_outside_the_stack_are_told_and_never_wrapped(tmp_path: Path, number: int) -> None:
    stack = only_stack(tmp_path / "ct")
    path = write(
        tmp_path / "rt.dcm", stack.frame_of_reference_uid,
        {"part": [contour(at(stack, k, square(2, 5))) for k in (number, 1)]},
    )  # fmt: skip

    mask = dd.read_structures(path, stack)

    assert_array_equal(mask.voxels[0].sum(axis=(1, 2)), [0, 16, 0, 0])
    assert [str(each) for each in mask.findings] == [
        "outside: 1 contours of 'part' lie outside the stack: left out"
    ]


def test_a_structure_set_wholly_outside_is_refused(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct")
    path = write(
        tmp_path / "rt.dcm", stack.frame_of_reference_uid,
        {"part": [contour(at(stack, 40, square(2, 5)))]},
    )  # fmt: skip

    with pytest.raises(dd.LabelError, match="all 1 contours lie outside the stack"):
        dd.read_structures(path, stack)


def test_what_reaches_beyond_the_rows_is_told(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct")
    path = write(
        tmp_path / "rt.dcm", stack.frame_of_reference_uid,
        {"part": [contour(at(stack, 1, square(-2, 1)))]},
    )  # fmt: skip

    mask = dd.read_structures(path, stack)

    assert mask.voxels.sum() == 4
    assert [(each.kind, each.amount, each.unit) for each in mask.findings] == [
        ("outside", 12, "voxels")
    ]


def test_another_frame_of_reference_is_refused_by_name(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct")
    path = write(tmp_path / "rt.dcm", "1.2.3", {"part": [contour(at(stack, 1, square(2, 5)))]})

    with pytest.raises(dd.LabelError, match=r"another Frame of Reference UID .*got 1\.2\.3"):
        dd.read_structures(path, stack)
    # It names no images that could count for more.
    with pytest.raises(dd.LabelError, match=r"another Frame of Reference UID"):
        dd.read_structures(path, stack, by_images=True)


def test_images_may_count_for_more_than_a_made_up_frame_of_reference(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct")
    drawn = contour(at(stack, 1, square(2, 5)), image=stack.sop_instance_uids[1])
    path = write(tmp_path / "rt.dcm", "1.2.3", {"part": [drawn]})

    mask = dd.read_structures(path, stack, by_images=True)

    assert mask.voxels.sum() == 16
    assert [each.kind for each in mask.findings] == ["frame_of_reference_disagrees"]


def test_points_and_open_lines_are_told_and_left_out(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct")
    line = at(stack, 1, square(2, 5))
    path = write(
        tmp_path / "rt.dcm", stack.frame_of_reference_uid,
        {
            "organ": [contour(line)],
            "marker": [contour(line[:1], "POINT"), contour(line, "OPEN_PLANAR")],
        },
    )  # fmt: skip

    mask = dd.read_structures(path, stack)

    assert mask.of("organ").sum() == 16
    assert mask.of("marker").sum() == 0
    assert [each.kind for each in mask.findings] == ["point", "open_contour", "empty"]


def test_a_contour_between_slices_is_refused_or_resampled(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct")
    path = write(
        tmp_path / "rt.dcm", stack.frame_of_reference_uid,
        {"part": [contour(at(stack, k, square(2, 5))) for k in (0.7, 1.2, 1.7)]},
    )  # fmt: skip

    with pytest.raises(dd.LabelError, match=r"contour 0 lies between slices, at 0\.70"):
        dd.read_structures(path, stack)
    mask = dd.read_structures(path, stack, resample=True)

    # 0.7 and 1.2 are both nearest to slice 1, which is drawn once.
    assert_array_equal(mask.voxels[0].sum(axis=(1, 2)), [0, 16, 16, 0])
    assert mask.verdict.kind == "resampled"
    assert mask.verdict.offset == pytest.approx(0.3)
    assert [(each.kind, each.amount) for each in mask.findings] == [("between_slices", 1)]


def test_contours_of_thicker_slices_do_not_leave_stripes(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct", shape=(6, 14, 16))
    path = write(
        tmp_path / "rt.dcm", stack.frame_of_reference_uid,
        {"part": [contour(at(stack, k, square(2, 5))) for k in (1, 3)]},
    )  # fmt: skip

    with pytest.raises(dd.LabelError, match=r"2 slices of stack .* apart"):
        dd.read_structures(path, stack)
    mask = dd.read_structures(path, stack, resample=True)

    assert_array_equal(mask.voxels[0].sum(axis=(1, 2)), [16, 16, 16, 16, 16, 0])
    assert mask.verdict.kind == "resampled"
    assert mask.verdict.offset == pytest.approx(1)


def test_contours_drawn_on_every_second_image_are_as_sparse_as_that(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct")
    drawn = [contour(at(stack, k, square(2, 5)), image=stack.sop_instance_uids[k]) for k in (1, 3)]
    path = write(tmp_path / "rt.dcm", stack.frame_of_reference_uid, {"part": drawn})

    mask = dd.read_structures(path, stack)

    assert_array_equal(mask.voxels[0].sum(axis=(1, 2)), [0, 16, 0, 16])


def test_a_contour_across_slices_is_refused(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct")
    points = at(stack, 1, square(2, 5))
    points[:2] += 2 * stack.affine_lps[:3, 0]
    path = write(tmp_path / "rt.dcm", stack.frame_of_reference_uid, {"part": [contour(points)]})

    with pytest.raises(dd.LabelError, match="lies across slices"):
        dd.read_structures(path, stack, resample=True)


def test_contours_follow_their_image_where_rounding_moved_that(tmp_path: Path) -> None:
    places = [(-10, -20, round(0.625 * k, 1)) for k in range(6)]
    stack = only_stack(tmp_path / "ct", shape=(6, 14, 16), positions=places)
    first = at(stack, 0, square(2, 5))
    # The grid begins where the fit does, not at the first position.
    first[:, 2] -= stack.affine_lps[2, 3]
    points = [np.add(first, place * np.array([0, 0, 1])) for place in np.array(places)]
    path = write(
        tmp_path / "rt.dcm", stack.frame_of_reference_uid,
        {"part": [contour(each) for each in points]},
    )  # fmt: skip

    mask = dd.read_structures(path, stack)

    assert_array_equal(mask.voxels[0].sum(axis=(1, 2)), [16] * 6)


def test_a_contour_that_names_another_image_lies_where_its_points_are(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct")
    wrong = contour(at(stack, 1, square(2, 5)), image=stack.sop_instance_uids[3])
    path = write(tmp_path / "rt.dcm", stack.frame_of_reference_uid, {"part": [wrong]})

    mask = dd.read_structures(path, stack)

    assert_array_equal(mask.voxels[0].sum(axis=(1, 2)), [0, 16, 0, 0])
    assert [each.kind for each in mask.findings] == ["reference_disagrees"]


def test_a_contour_written_twice_is_there_once(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct")
    twice = [contour(at(stack, 1, square(2, 5)))] * 2
    path = write(tmp_path / "rt.dcm", stack.frame_of_reference_uid, {"part": twice})

    mask = dd.read_structures(path, stack)

    assert mask.voxels.sum() == 16
    assert [each.kind for each in mask.findings] == ["repeated_contour"]


def test_contours_that_cross_are_told(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct")
    crossing = [contour(at(stack, 1, square(*each))) for each in ((1.5, 6.5), (4.5, 9.5))]
    path = write(tmp_path / "rt.dcm", stack.frame_of_reference_uid, {"part": crossing})

    mask = dd.read_structures(path, stack)

    # Five by five each, of which two by two lie in both.
    assert mask.voxels.sum() == 50 - 8
    assert [(each.kind, each.amount) for each in mask.findings] == [("crossing", 4)]


def test_of_two_phases_each_gets_the_contours_drawn_on_it(tmp_path: Path) -> None:
    twice = [(-10, -20, 2.5 * (k % 3)) for k in range(6)]
    write_series(
        tmp_path / "ct", shape=(6, 14, 16), positions=twice,
        extra={"TemporalPositionIdentifier": Each(1, 1, 1, 2, 2, 2)},
    )  # fmt: skip
    first, second = dd.plan_stacks(dd.scan(tmp_path / "ct", progress=False)).stacks
    drawn = [
        contour(at(stack, number, square(2, 5)), image=stack.sop_instance_uids[number])
        for stack, number in ((first, 0), (second, 2))
    ]
    path = write(tmp_path / "rt.dcm", first.frame_of_reference_uid, {"part": drawn})

    for stack, truth in ((first, [16, 0, 0]), (second, [0, 0, 16])):
        mask = dd.read_structures(path, stack)
        assert_array_equal(mask.voxels[0].sum(axis=(1, 2)), truth)
        assert [(each.kind, each.amount) for each in mask.findings] == [("other_stack", 1)]


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"NumberOfContourPoints": 5}, "(3006,0046) is 5, and Contour Data (3006,0050) holds 4"),
        (
            {"ContourGeometricType": "CLOSED"},
            "(3006,0042) must be one of CLOSEDPLANAR_XOR, CLOSED_",
        ),
        ({"ContourData": ["1", "2"]}, "must be points of three numbers, got 2"),
        ({"ContourData": ["1", "2", "nan"]}, "must be points of three numbers, got 3"),
    ],
)
def test_contours_that_are_not_what_they_claim_are_refused(
    tmp_path: Path, elements: dict[str, Any], words: str
) -> None:
    stack = only_stack(tmp_path / "ct")
    bad = contour(at(stack, 1, square(2, 5)))
    with pydicom.config.disable_value_validation():
        bad.update(item(**elements))
        path = write(tmp_path / "rt.dcm", stack.frame_of_reference_uid, {"part": [bad]})

    with pytest.raises(dd.LabelError) as caught:
        dd.read_structures(path, stack)

    assert words in str(caught.value)
    assert "ROI 1 ('part'), contour 0" in str(caught.value)


def test_a_structure_set_without_regions_is_refused(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct")
    path = write(tmp_path / "rt.dcm", stack.frame_of_reference_uid, {})

    with pytest.raises(dd.LabelError, match=r"\(3006,0020\) names no region"):
        dd.read_structures(path, stack)


def test_a_segmentation_is_no_structure_set(tmp_path: Path) -> None:
    stack = only_stack(tmp_path / "ct")

    with pytest.raises(dd.LabelError, match="not that of a structure set"):
        dd.read_structures(stack.paths[0], stack)


@pytest.mark.parametrize("name", ["rt", "non_existent_reference_rt", "invalid_reference_rt"])
def test_real_structure_sets_hold_their_contours(
    corpus: Path, expected: dict[str, Any], name: str
) -> None:
    known = expected["rtstruct"][f"rtutils_phantom/{name}.dcm"]
    (stack,) = dd.plan_stacks(dd.scan(corpus / "rtutils" / "ge_phantom_2", progress=False)).stacks

    # rt-utils makes a frame of reference up; the other writer uses that of the images.
    mask = dd.read_structures(corpus / known["file"], stack, by_images=name == "rt")

    assert mask.names == tuple(roi["name"] for roi in known["rois"])
    regions = parse_structures(str(corpus / known["file"])).regions
    assert [
        (len(region.contours), sum(len(each.points) for each in region.contours))
        for region in regions
    ] == [(roi["n_contours"], roi["n_points"]) for roi in known["rois"]]
    left_out = sum(sum(z not in (60.0, 65.0) for z in roi["zs"]) for roi in known["rois"])
    assert sum(each.kind == "outside" for each in mask.findings) == left_out
    affine = stack.affine_lps
    pixel = stack.spacing[1] * stack.spacing[2]
    for region, voxels in zip(regions, mask.voxels, strict=True):
        # One line within another is a hole, and its area is less than that of the outer one.
        areas = sorted(_area(each.points) for each in region.contours if each.points[0, 2] == 60)
        outer, holes = areas[-1], sum(areas[:-1])
        assert voxels[0].sum() == pytest.approx((outer - holes) / pixel, rel=0.03)
    for roi, voxels in zip(known["rois"], mask.voxels, strict=True):
        places = np.argwhere(voxels) @ affine[:3, :3].T + affine[:3, 3]
        (left, top, _), (right, bottom, _) = roi["bbox"]
        assert (places[:, :2] >= (left - 0.01, top - 0.01)).all()
        assert (places[:, :2] <= (right + 0.01, bottom + 0.01)).all()
        if other := roi.get("rtutils_mask"):
            # rt-utils rounds corners to pixels and draws the line as well: half a pixel all round.
            per_slice = voxels.sum(axis=(1, 2))
            assert (per_slice <= other["per_slice"]).all()
            grown = [_grown(plane).sum() for plane in voxels]
            assert (np.array(grown) >= other["per_slice"]).all()


def _area(points: np.ndarray) -> float:
    """Give the area within points (points, 3) of an axial plane, mm2, by Gauss's formula."""
    x, y = points[:, 0], points[:, 1]
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _grown(plane: np.ndarray) -> np.ndarray:
    """Add the eight neighbours of every pixel."""
    grown = plane.copy()
    for down in (-1, 0, 1):
        for along in (-1, 0, 1):
            grown |= np.roll(plane, (down, along), axis=(0, 1))
    return grown

"""NIfTI, MetaImage and NRRD: labels by their affines, volumes where stacks stand, and back."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

import dicomdata as dd
from dicomdata.testing.contracts import CacheContract
from dicomdata.testing.phantoms import write_series
from dicomdata.testing.strategies import series_phantoms
from dicomdata.volume.files import read_voxels

# Typed in part only: what it makes is what others read.
nib: Any = nibabel
sitk: Any = SimpleITK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Planned = Callable[..., dd.StackPlan]

FORMATS = [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"]

SHAPE = (5, 4, 6)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> dd.Stack:
    """An axial CT, 5 x 4 x 6 voxels of 2.5 x 0.8 x 0.5 mm, first voxel at (-10, -20, -30)."""
    folder = tmp_path_factory.mktemp("stack")
    write_series(folder)
    (stack,) = dd.plan_stacks(dd.scan(folder, progress=False)).stacks
    return stack


@pytest.fixture
def labels() -> NDArray[np.uint8]:
    """Two structures and nothing else, (slices, rows, columns); no two voxels in a row alike."""
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[1, 1:3, 2:5] = 1
    drawn[2, 0, 0] = 1
    drawn[4, 3, 1:] = 2
    return drawn


def save_nifti(
    path: Path, voxels: NDArray[Any], affine_lps: NDArray[np.float64], codes: Any = (1, 1)
) -> Path:
    """Write (slices, rows, columns) with nibabel, which wants (i, j, k) and RAS."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps[:, [2, 1, 0, 3]]
    image = nib.Nifti1Image(np.ascontiguousarray(voxels.transpose(2, 1, 0)), affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    nib.save(image, path)
    return path


def reoriented(
    voxels: NDArray[Any], affine: NDArray[np.float64], axes: Sequence[int], flips: Sequence[bool]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Store an array in another order of its axes, and give the affine that goes with it."""
    turned = voxels.transpose(*axes)
    moved = affine[:, [*axes, 3]].copy()
    for axis, flip in enumerate(flips):
        if flip:
            moved[:3, 3] += moved[:3, axis] * (turned.shape[axis] - 1)
            moved[:3, axis] *= -1
            turned = np.flip(turned, axis)
    return turned, moved


def shifted(affine: NDArray[np.float64], *millimetres: float) -> NDArray[np.float64]:
    moved = affine.copy()
    moved[:3, 3] += millimetres
    return moved


def flat(mask: dd.Mask) -> NDArray[np.uint16]:
    return mask.labelmap()


# --- labels, by affine ----------------------------------------------------------------------------


@given(
    st.permutations(range(3)),
    st.tuples(*[st.booleans()] * 3),
    st.sampled_from([".nii", ".mha", ".nrrd"]),
)
def test_a_label_comes_to_its_voxels_however_it_is_stored(
    stack: dd.Stack,
    tmp_path_factory: pytest.TempPathFactory,
    axes: list[int],
    flips: tuple[bool, ...],
    suffix: str,
) -> None:
    drawn = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    voxels, affine = reoriented(drawn, stack.affine_lps, axes, flips)
    path = tmp_path_factory.mktemp("label") / f"label{suffix}"
    if suffix == ".nii":
        save_nifti(path, voxels, affine)
    else:
        image = sitk.GetImageFromArray(np.ascontiguousarray(voxels))
        steps = affine[:3, 2::-1]
        lengths = np.linalg.norm(steps, axis=0)
        image.SetSpacing(lengths.tolist())
        image.SetDirection((steps / lengths).ravel().tolist())
        image.SetOrigin(affine[:3, 3].tolist())
        sitk.WriteImage(image, str(path))

    mask = dd.read_label_file(path, stack)

    np.testing.assert_array_equal(flat(mask), drawn)
    untouched = axes == [0, 1, 2] and not any(flips)
    assert mask.verdict.kind == ("same_grid" if untouched else "reindexed")
    assert mask.names == ("1", "2")


@given(series_phantoms(slices=(2, 4), tilted=False))
def test_a_label_on_any_oblique_stack_is_found(
    tmp_path_factory: pytest.TempPathFactory, phantom: Any
) -> None:
    folder = tmp_path_factory.mktemp("oblique")
    write_series(folder / "ct", phantom)
    (stack,) = dd.plan_stacks(dd.scan(folder / "ct", progress=False)).stacks
    drawn = np.random.default_rng(2).integers(0, 3, stack.shape).astype(np.uint8)
    drawn[0, 0, 0] = 1

    # As dcm2niix stores it: rows from bottom to top.
    voxels, affine = reoriented(drawn, stack.affine_lps, (0, 1, 2), (False, True, False))
    mask = dd.read_label_file(save_nifti(folder / "label.nii", voxels, affine), stack)

    np.testing.assert_array_equal(flat(mask), drawn)


def test_a_label_with_flipped_rows_is_not_mirrored(
    stack: dd.Stack, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    voxels, affine = reoriented(labels, stack.affine_lps, (0, 1, 2), (False, True, False))

    mask = dd.read_label_file(save_nifti(tmp_path / "label.nii.gz", voxels, affine), stack)

    np.testing.assert_array_equal(flat(mask), labels)
    assert mask.verdict.text == "flipped along rows"


def test_spacing_that_was_rounded_is_the_same_grid(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path / "ct", shape=(2, 256, 256), pixel_spacing=(0.703125, 0.703125))
    (stack,) = planned(tmp_path / "ct").stacks
    drawn = np.zeros(stack.shape, np.uint8)
    drawn[:, 200:, 200:] = 1
    rounded = stack.affine_lps.copy()
    rounded[0, 2] = rounded[1, 1] = 0.7031
    coarse = rounded.copy()
    coarse[0, 2] = 0.7036

    mask = dd.read_label_file(save_nifti(tmp_path / "a.nii", drawn, rounded), stack)

    np.testing.assert_array_equal(flat(mask), drawn)
    assert mask.verdict.kind == "same_grid"
    assert 0.005 < mask.verdict.offset < 0.01
    with pytest.raises(
        dd.LabelError, match=r"0\.7036 mm apart, expected 2\.5 x 0\.70312 x 0\.70312"
    ):
        dd.read_label_file(save_nifti(tmp_path / "b.nii", drawn, coarse), stack)


@pytest.mark.parametrize(
    ("signs", "told"),
    [
        ((-1, -1, 1), "it would fit with x and y negated, as where RAS is taken for LPS"),
        ((-1, 1, 1), "it would fit with x negated"),
        ((1, -1, 1), "it would fit with y negated"),
        ((1, 1, -1), "it would fit with z negated"),
    ],
)
def test_a_mirrored_label_is_refused_by_name(
    stack: dd.Stack,
    labels: NDArray[np.uint8],
    tmp_path: Path,
    signs: tuple[int, int, int],
    told: str,
) -> None:
    path = save_nifti(tmp_path / "label.nii", labels, np.diag([*signs, 1.0]) @ stack.affine_lps)

    for resample in (False, True):
        with pytest.raises(dd.LabelError, match=told):
            dd.read_label_file(path, stack, resample=resample)


def test_a_label_without_the_affine_of_its_image_is_refused(
    stack: dd.Stack, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = save_nifti(tmp_path / "label.nii", labels, np.eye(4))

    with pytest.raises(dd.LabelError, match=r"label\.nii: lies on other voxels than stack"):
        dd.read_label_file(path, stack)


def test_a_label_of_another_place_is_refused(
    stack: dd.Stack, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = save_nifti(tmp_path / "label.nii", labels, shifted(stack.affine_lps, 0, 0, 25.0))

    with pytest.raises(dd.LabelError, match="lies wholly outside stack"):
        dd.read_label_file(path, stack, outside="drop")


def test_a_label_partly_outside_is_refused_unless_that_is_to_be_dropped(
    stack: dd.Stack, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = save_nifti(tmp_path / "label.nii", labels, shifted(stack.affine_lps, 0, 0, 2.5))

    with pytest.raises(dd.LabelError, match=r"partly outside stack .*: 5 voxels of '2'"):
        dd.read_label_file(path, stack)
    mask = dd.read_label_file(path, stack, outside="drop")

    np.testing.assert_array_equal(mask.of("1")[1:], labels[:-1] == 1)
    assert [finding.kind for finding in mask.findings] == ["outside", "empty"]
    assert mask.verdict.text == "slices 1 to 5 of 5"


def test_a_larger_grid_with_nothing_outside_is_fine(
    stack: dd.Stack, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    larger = np.pad(labels, ((2, 0), (1, 3), (0, 1)))
    affine = shifted(stack.affine_lps, 0, -0.8, -5.0)

    mask = dd.read_label_file(save_nifti(tmp_path / "label.nii", larger, affine), stack)

    np.testing.assert_array_equal(flat(mask), labels)
    assert mask.findings == ()


def test_a_part_of_the_stack_is_laid_where_it_was_cut(
    stack: dd.Stack, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    affine = shifted(stack.affine_lps, 2 * 0.5, 0.8, 2.5)
    path = save_nifti(tmp_path / "label.nii", labels[1:, 1:, 2:], affine)

    mask = dd.read_label_file(path, stack)

    expected = labels.copy()
    expected[0], expected[:, 0], expected[:, :, :2] = 0, 0, 0
    np.testing.assert_array_equal(flat(mask), expected)


def test_other_voxels_are_resampled_only_where_that_is_asked_for(
    stack: dd.Stack, tmp_path: Path
) -> None:
    drawn = np.random.default_rng(3).integers(0, 3, (9, 7, 8)).astype(np.uint8)
    affine = stack.affine_lps @ np.diag([0.5, 0.6, 0.7, 1])
    affine = shifted(affine, 0.11, 0.13, 0.17)
    path = save_nifti(tmp_path / "label.nii", drawn, affine)

    with pytest.raises(dd.LabelError, match="resample=True takes the nearest"):
        dd.read_label_file(path, stack)
    mask = dd.read_label_file(path, stack, resample=True, outside="drop")

    grid = sitk.Image([6, 4, 5], sitk.sitkUInt8)
    grid.SetSpacing((0.5, 0.8, 2.5))
    grid.SetOrigin((-10, -20, -30))
    nearest = sitk.Resample(
        sitk.ReadImage(str(path)), grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0
    )
    np.testing.assert_array_equal(flat(mask), sitk.GetArrayFromImage(nearest))
    assert mask.verdict.kind == "resampled"


# --- labels, by value -----------------------------------------------------------------------------


def test_values_have_names(stack: dd.Stack, labels: NDArray[np.uint8], tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "label.nii", labels, stack.affine_lps)

    mask = dd.read_label_file(path, stack, names={2: "node", 1: "lung", 7: "heart"})

    assert mask.names == ("lung", "node", "heart")
    assert [segment.number for segment in mask.segments] == [1, 2, 7]
    np.testing.assert_array_equal(mask.of("node"), labels == 2)
    assert [str(finding) for finding in mask.findings] == [
        "empty: 'heart' has no voxel in the stack"
    ]
    with pytest.raises(dd.LabelError, match=r"the values \[2\] have no name: expected \[1\]"):
        dd.read_label_file(path, stack, names={1: "lung"})


def test_a_label_with_nothing_in_it_says_so(stack: dd.Stack, tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "label.nii", np.zeros(SHAPE, np.uint8), stack.affine_lps)

    mask = dd.read_label_file(path, stack)

    assert mask.voxels.shape == (0, *SHAPE)
    assert [str(finding) for finding in mask.findings] == ["empty: nothing is labelled"]


@pytest.mark.parametrize(
    ("voxels", "told"),
    [
        (np.full(SHAPE, 0.5, np.float32), r"expected whole numbers, one a segment, found 0\.5"),
        (np.full(SHAPE, -1, np.int16), "expected values of a label, 0 to 65535, found -1 to -1"),
        (np.full(SHAPE, np.nan, np.float32), "found nan to nan"),
        (np.arange(5 * 30 * 30, dtype=np.int16).reshape(5, 30, 30), "an image, and no label"),
    ],
)
def test_what_is_no_label_is_refused(
    stack: dd.Stack, tmp_path: Path, voxels: NDArray[Any], told: str
) -> None:
    path = save_nifti(tmp_path / "label.nii", voxels, stack.affine_lps)

    with pytest.raises(dd.LabelError, match=told):
        dd.read_label_file(path, stack)


def test_whole_numbers_in_floating_point_are_a_label(
    stack: dd.Stack, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = save_nifti(tmp_path / "label.nii", labels.astype(np.float64), stack.affine_lps)

    np.testing.assert_array_equal(flat(dd.read_label_file(path, stack)), labels)


def test_a_label_that_was_stored_with_a_scale_is_a_label(
    stack: dd.Stack, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = save_nifti(tmp_path / "label.nii", labels * np.uint8(100), stack.affine_lps)
    head = bytearray(path.read_bytes())
    struct.pack_into("<2f", head, 112, 0.01, 0.0)  # scl_slope, scl_inter: 0.01 is none in binary
    path.write_bytes(head)

    np.testing.assert_array_equal(flat(dd.read_label_file(path, stack)), labels)


def test_a_picture_in_colour_is_no_label(stack: dd.Stack, tmp_path: Path) -> None:
    path = write_slicer(tmp_path / "a.nrrd", np.ones((*SHAPE, 3), np.uint8), "comment:=colour")

    with pytest.raises(dd.LabelError, match="3 values a voxel, as of a colour: no label"):
        dd.read_label_file(path, stack)


def write_slicer(path: Path, voxels: NDArray[np.uint8], text: str) -> Path:
    """Write an NRRD by hand as 3D Slicer does: (slices, rows, columns, layers)."""
    slices, rows, columns, layers = voxels.shape
    header = f"""NRRD0004
type: unsigned char
dimension: 4
space: left-posterior-superior
sizes: {layers} {columns} {rows} {slices}
space directions: none (0.5,0,0) (0,0.8,0) (0,0,2.5)
kinds: list domain domain domain
encoding: raw
space origin: (-10,-20,-30)
{text}

"""
    path.write_bytes(header.encode() + voxels.tobytes())
    return path


def test_layers_of_a_slicer_segmentation_may_overlap(
    stack: dd.Stack, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    other = np.zeros(SHAPE, np.uint8)
    other[1] = 1
    told = [(0, 1, "lung"), (0, 2, "node"), (1, 1, "body")]
    text = "\n".join(
        f"Segment{i}_Layer:={layer}\nSegment{i}_LabelValue:={value}\nSegment{i}_Name:={name}"
        for i, (layer, value, name) in enumerate(told)
    )
    path = write_slicer(tmp_path / "a.seg.nrrd", np.stack([labels, other], -1), text)

    mask = dd.read_label_file(path, stack)

    assert mask.names == ("lung", "node", "body")
    np.testing.assert_array_equal(mask.of("lung"), labels == 1)
    np.testing.assert_array_equal(mask.of("body"), other == 1)
    assert [str(finding) for finding in mask.findings] == [
        "overlap: 6 voxels are in more than one segment"
    ]
    with pytest.raises(dd.LabelError, match="has layers"):
        dd.read_label_file(path, stack, names={1: "lung"})


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_mask_that_is_written_comes_back(
    stack: dd.Stack, labels: NDArray[np.uint8], tmp_path: Path, suffix: str
) -> None:
    source = save_nifti(tmp_path / "label.nii", labels, stack.affine_lps)
    mask = dd.read_label_file(source, stack, names={1: "lung", 2: "node"})

    dd.write_volume(tmp_path / f"again{suffix}", mask)

    again = dd.read_label_file(tmp_path / f"again{suffix}", stack)
    np.testing.assert_array_equal(again.voxels, mask.voxels)
    assert again.verdict.kind == "same_grid"
    assert again.names == (("lung", "node") if suffix == ".nrrd" else ("1", "2"))


@pytest.mark.parametrize("number", [0, 2**16])
def test_a_segment_whose_number_no_value_can_be_is_not_written(
    stack: dd.Stack, labels: NDArray[np.uint8], tmp_path: Path, number: int
) -> None:
    segments = dd.Segment(number, "body"), dd.Segment(1, "lung")
    verdict = dd.Verdict("same_grid", 0.0, "")
    overlapping = dd.Mask(np.stack([labels > 0, labels == 1]), segments, stack, verdict)

    with pytest.raises(dd.LabelError, match=f"'body' has the number {number}"):
        dd.write_volume(tmp_path / "mask.nrrd", overlapping)


def test_the_background_is_no_segment(
    stack: dd.Stack, labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = save_nifti(tmp_path / "label.nii", labels, stack.affine_lps)
    text = "Segment0_Layer:=0\nSegment0_LabelValue:=0\nSegment0_Name:=air"
    slicer = write_slicer(tmp_path / "a.seg.nrrd", labels[..., None], text)

    with pytest.raises(dd.LabelError, match="'air' is the value 0"):
        dd.read_label_file(path, stack, names={0: "air", 1: "lung", 2: "node"})
    with pytest.raises(dd.LabelError, match="'air' is the value 0"):
        dd.read_label_file(slicer, stack)


# --- volumes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "orientation", [(1, 0, 0, 0, 1, 0), (0.6, 0, -0.8, 0, 1, 0), (0, 1, 0, 0, 0, -1)]
)
def test_a_volume_that_is_written_comes_back(
    tmp_path: Path, planned: Planned, suffix: str, orientation: tuple[float, ...]
) -> None:
    write_series(tmp_path / "ct", orientation=orientation)
    (stack,) = planned(tmp_path / "ct").stacks
    volume = dd.read_volume(stack)
    path = tmp_path / f"volume{suffix}"

    dd.write_volume(path, volume)

    file = dd.open_volume(path)
    np.testing.assert_allclose(file.affine_lps, stack.affine_lps, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(whole(file), volume.voxels)
    assert (file.unit, file.shape) == ("HU", stack.shape)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.voxels)
    corner = image.TransformIndexToPhysicalPoint((5, 3, 4))
    np.testing.assert_allclose(corner, (stack.affine_lps @ (4, 3, 5, 1))[:3], rtol=0, atol=1e-4)


def whole(file: dd.VolumeFile, dtype: str = "f4") -> NDArray[Any]:
    slices, rows, columns = map(range, file.shape)
    return read_voxels(file, (slices, rows, columns), np.dtype(dtype))


@given(st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_a_nifti_volume_lies_where_nibabel_says(
    stack: dd.Stack,
    tmp_path_factory: pytest.TempPathFactory,
    axes: list[int],
    flips: tuple[bool, ...],
) -> None:
    voxels = np.arange(120, dtype=np.int16).reshape(SHAPE)
    turned, affine = reoriented(voxels, stack.affine_lps, axes, flips)
    path = save_nifti(tmp_path_factory.mktemp("nifti") / "volume.nii", turned, affine)

    file = dd.open_volume(path)

    # Every voxel at its place, and slices ascend along the normal.
    image = nib.load(path)
    ijk = np.argwhere(np.asarray(image.dataobj) >= 0)
    values = np.asarray(image.dataobj)[tuple(ijk.T)]
    expected = nib.affines.apply_affine(image.affine, ijk)[np.argsort(values)]
    ours = whole(file)
    skr = np.argwhere(ours >= 0)
    found = nib.affines.apply_affine(file.affine_ras, skr)[np.argsort(ours[tuple(skr.T)])]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    slices, rows, columns, _ = file.affine_columns
    assert np.cross(columns, rows) @ slices > 0


def test_a_box_is_a_part_of_the_whole(stack: dd.Stack, tmp_path: Path) -> None:
    voxels = np.arange(120, dtype=np.int16).reshape(SHAPE)
    # Left-handed: slices are turned around.
    turned, affine = reoriented(voxels, stack.affine_lps, (0, 1, 2), (True, False, False))
    for suffix in (".nii", ".nii.gz"):
        file = dd.open_volume(save_nifti(tmp_path / f"v{suffix}", turned, affine))
        box = (range(1, 3), range(1, 4), range(2, 6))

        part = read_voxels(file, box, np.dtype("i2"))

        assert file.turned
        np.testing.assert_array_equal(part, voxels[1:3, 1:4, 2:6])
        assert part.flags.writeable


def test_a_file_that_is_named_by_its_series_is_of_it(stack: dd.Stack, tmp_path: Path) -> None:
    voxels = np.zeros(SHAPE, np.int16)
    named = save_nifti(tmp_path / "1.3.6.1.4.1.14519.5.2.1.nii.gz", voxels, stack.affine_lps)
    other = save_nifti(tmp_path / "case.7.nii.gz", voxels, stack.affine_lps)

    assert dd.open_volume(named).series_instance_uid == "1.3.6.1.4.1.14519.5.2.1"
    assert dd.open_volume(other).series_instance_uid == ""
    told = dd.open_volume(other, unit="HU", patient_id="P7", modality="CT")
    assert (told.unit, told.patient_id, told.modality) == ("HU", "P7", "CT")
    assert pickle.loads(pickle.dumps(told)) == told


def test_a_file_that_has_changed_is_not_read(stack: dd.Stack, tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "v.nii", np.zeros(SHAPE, np.int16), stack.affine_lps)
    file = dd.open_volume(path)

    save_nifti(path, np.ones(SHAPE, np.int32), stack.affine_lps)

    with pytest.raises(dd.StaleError, match=r"v\.nii: the file has changed since it was opened"):
        whole(file)
    assert dd.open_volume(path).fingerprint != file.fingerprint


def test_int16_is_given_where_nothing_is_lost(stack: dd.Stack, tmp_path: Path) -> None:
    whole_numbers: NDArray[Any] = np.full(SHAPE, -1024.0)
    halves = whole_numbers + 0.5
    large: NDArray[Any] = np.full(SHAPE, 40000, np.uint16)
    files = [
        dd.open_volume(save_nifti(tmp_path / f"{i}.nii", voxels, stack.affine_lps))
        for i, voxels in enumerate([whole_numbers, halves, large])
    ]

    assert whole(files[0], "i2").dtype == np.int16
    for file in files[1:]:
        with pytest.raises(dd.RescaleError, match="are not whole or do not fit int16"):
            whole(file, "i2")
    assert (whole(files[2]) == 40000).all()


def test_a_scaled_nifti_is_in_output_units(stack: dd.Stack, tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "v.nii", np.full(SHAPE, 7, np.int16), stack.affine_lps)
    head = bytearray(path.read_bytes())
    struct.pack_into("<2f", head, 112, 0.5, -3.0)  # scl_slope, scl_inter
    path.write_bytes(head)

    assert (whole(dd.open_volume(path)) == 0.5).all()
    assert (nib.load(path).get_fdata() == 0.5).all()


# --- what says where it lies ----------------------------------------------------------------------


def test_a_nifti_with_sform_alone_is_placed_by_it(stack: dd.Stack, tmp_path: Path) -> None:
    # ITK takes the spacing from pixdim, which nothing keeps true: here it is 1 mm.
    path = save_nifti(tmp_path / "v.nii", np.zeros(SHAPE, np.int16), stack.affine_lps, (1, 0))
    head = bytearray(path.read_bytes())
    struct.pack_into("<3f", head, 80, 1, 1, 1)
    path.write_bytes(head)

    file = dd.open_volume(path)

    np.testing.assert_allclose(file.affine_lps, stack.affine_lps, rtol=0, atol=1e-5)
    np.testing.assert_allclose(file.spacing, (2.5, 0.8, 0.5), rtol=1e-6)


def test_sform_and_qform_that_contradict_each_other_are_refused(
    stack: dd.Stack, tmp_path: Path
) -> None:
    path = save_nifti(tmp_path / "v.nii", np.zeros(SHAPE, np.int16), stack.affine_lps)
    head = bytearray(path.read_bytes())
    struct.pack_into("<f", head, 268, 30.0)  # qoffset_x

    path.write_bytes(head)
    with pytest.raises(
        dd.GeometryError, match=r"sform and qform contradict each other: corners .* 20"
    ):
        dd.open_volume(path)

    # An atlas by sform: then the scanner's coordinates are those of qform.
    struct.pack_into("<h", head, 254, 4)
    path.write_bytes(head)
    assert dd.open_volume(path).affine_lps[0, 3] == -30.0


def test_a_file_that_does_not_say_where_it_lies_is_refused(stack: dd.Stack, tmp_path: Path) -> None:
    voxels = np.zeros(SHAPE, np.int16)
    nowhere = save_nifti(tmp_path / "v.nii", voxels, stack.affine_lps, (0, 0))
    (tmp_path / "v.nrrd").write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 6 4 5\nspacings: 1 1 1\nendian: little\n"
        b"encoding: raw\n\n" + voxels.tobytes()
    )
    (tmp_path / "v.mha").write_bytes(
        b"ObjectType = Image\nNDims = 3\nDimSize = 6 4 5\nElementSpacing = 1 1 1\n"
        b"ElementType = MET_SHORT\nElementDataFile = LOCAL\n" + voxels.tobytes()
    )

    for path in (nowhere, tmp_path / "v.nrrd", tmp_path / "v.mha"):
        with pytest.raises(dd.GeometryError, match="it does not say where it lies"):
            dd.open_volume(path)


def test_other_spaces_of_nrrd_are_turned_or_refused(tmp_path: Path) -> None:
    def write(space: str) -> Path:
        path = tmp_path / f"{space}.nrrd"
        path.write_bytes(
            f"NRRD0004\ntype: short\ndimension: 3\nspace: {space}\nsizes: 6 4 5\n"
            f"space directions: (0.5,0,0) (0,0.8,0) (0,0,2.5)\nkinds: domain domain domain\n"
            f"endian: little\nencoding: raw\nspace origin: (1,2,3)\n\n".encode()
            + np.zeros(SHAPE, np.int16).tobytes()
        )
        return path

    file = dd.open_volume(write("right-anterior-superior"))

    np.testing.assert_array_equal(
        file.affine_ras[:3], [[0, 0, 0.5, 1], [0, 0.8, 0, 2], [2.5, 0, 0, 3]]
    )
    with pytest.raises(dd.GeometryError, match="found scanner-xyz"):
        dd.open_volume(write("scanner-xyz"))


def test_a_sheared_nifti_keeps_its_shear(stack: dd.Stack, tmp_path: Path) -> None:
    sheared = stack.affine_lps.copy()
    sheared[1, 0] = 0.9
    path = save_nifti(tmp_path / "v.nii", np.zeros(SHAPE, np.int16), sheared, (1, 0))

    file = dd.open_volume(path)

    np.testing.assert_allclose(file.affine_lps, sheared, rtol=0, atol=1e-5)
    assert [str(finding) for finding in file.findings] == ["tilt: slices lean by 19.80 degrees"]
    np.testing.assert_allclose(file.spacing, (2.5, 0.8, 0.5), rtol=1e-6)
    with pytest.raises(dd.GeometryError, match="cannot be untilted"):
        read_voxels(dd.untilt(file), (range(1), range(1), range(1)), np.dtype("f4"))  # type: ignore[arg-type]


def test_what_is_not_finite_stays_so(stack: dd.Stack, tmp_path: Path) -> None:
    voxels = np.zeros(SHAPE, np.float32)
    voxels[0, 0, :3] = np.nan, np.inf, -np.inf

    file = dd.open_volume(save_nifti(tmp_path / "v.nii", voxels, stack.affine_lps))

    np.testing.assert_array_equal(whole(file), voxels)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".mhd", ".nrrd"])
def test_a_bit_that_was_flipped_in_a_compressed_file_is_an_error(
    stack: dd.Stack, tmp_path: Path, suffix: str
) -> None:
    voxels = np.random.default_rng(1).integers(0, 99, (5, 30, 30)).astype(np.int16)
    path = tmp_path / f"v{suffix}"
    dd.write_volume(path, dd.PlacedVoxels(voxels, stack.affine_lps), compress=True)
    data = path if suffix != ".mhd" else tmp_path / "v.zraw"
    content = data.read_bytes()
    np.testing.assert_array_equal(whole(dd.open_volume(path)), voxels)

    # In the first voxels, the last ones, and the checksum itself.
    for place in (len(content) // 2, -30, -6 if suffix in {".nii.gz", ".nrrd"} else -2):
        flipped = bytearray(content)
        flipped[place] ^= 1
        data.write_bytes(flipped)
        os.utime(data, ns=(place % 997, place % 997))  # clocks of file systems are coarse
        with pytest.raises(dd.FileError, match=r"cannot be read|cut short"):
            whole(dd.open_volume(path))


def test_big_endian_and_nifti_2_are_read_too(stack: dd.Stack, tmp_path: Path) -> None:
    voxels = np.arange(120, dtype=np.int16).reshape(SHAPE)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ stack.affine_lps[:, [2, 1, 0, 3]]
    plain = np.ascontiguousarray(voxels.transpose(2, 1, 0))
    swapped = nib.Nifti1Image(plain, affine, nib.Nifti1Header(endianness=">"))
    nib.save(swapped, tmp_path / "big.nii")
    nib.save(nib.Nifti2Image(plain, affine), tmp_path / "two.nii")

    for name in ("two.nii", "big.nii"):
        file = dd.open_volume(tmp_path / name)
        np.testing.assert_allclose(file.affine_lps, stack.affine_lps, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(whole(file), voxels)


def test_lengths_in_metres_become_millimetres(stack: dd.Stack, tmp_path: Path) -> None:
    metres = stack.affine_lps.copy()
    metres[:3] /= 1000
    path = save_nifti(tmp_path / "v.nii", np.zeros(SHAPE, np.int16), metres)
    head = bytearray(path.read_bytes())
    head[123] = 1
    path.write_bytes(head)

    file = dd.open_volume(path)

    np.testing.assert_allclose(file.affine_lps, stack.affine_lps, rtol=0, atol=1e-5)


# --- damaged, and malicious -----------------------------------------------------------------------


METAIMAGE = (
    "NDims = 3\nDimSize = 6 4 5\nOffset = 0 0 0\nElementType = MET_SHORT\n"
    "ElementDataFile = {name}\n"
)
NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nsizes: 6 4 5\nencoding: raw\nendian: little\n"
    "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
    "space origin: (0,0,0)\ndata file: {name}\n"
)


@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nhdr", ".nrrd"])
def test_a_header_reads_no_file_but_the_one_beside_it(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(240))
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "link.raw").symlink_to(tmp_path / "secret")
    head = METAIMAGE if suffix.startswith(".m") else NRRD
    for name in (
        "../secret",
        str(tmp_path / "secret"),
        "LIST",
        "v%02d.raw 1 5 1",
        "none.raw",
        "link.raw",
    ):
        path = tmp_path / "below" / f"v{suffix}"
        path.write_text(head.format(name=name))
        with pytest.raises((dd.HeaderError, dd.FileError), match=rf"v\{suffix}"):
            dd.open_volume(path)


@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nhdr", ".nrrd"])
def test_the_file_of_its_voxels_is_part_of_a_volume(tmp_path: Path, suffix: str) -> None:
    path, voxels = tmp_path / f"v{suffix}", tmp_path / "v.raw"
    voxels.write_bytes(np.arange(120, dtype="<i2").tobytes())
    head = METAIMAGE if suffix.startswith(".m") else NRRD
    path.write_text(head.format(name="v.raw"))

    opened = dd.open_volume(path)
    read = dd.read_volume(opened)
    voxels.write_bytes(bytes(242))

    np.testing.assert_array_equal(read.voxels.ravel(), np.arange(120))
    assert [each[0] for each in opened.files] == [str(path), str(voxels)]
    with pytest.raises(dd.StaleError, match=r"v\.raw"):
        dd.read_volume(opened)


def test_a_file_that_is_named_where_nobody_looks_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.raw").write_bytes(bytes(240))
    folder = tmp_path / "below"
    folder.mkdir()
    local = METAIMAGE.format(name="LOCAL")
    hidden = {
        # What MetaImage takes for a line, or a separator, and a parser may not.
        "colon.mha": local.replace("Element", "ElementDataFile : ../secret.raw\nElement", 1),
        "return.mha": local.replace("NDims", "ElementDataFile = ../secret.raw\rNDims", 1),
        "long.mha": "Comment = " + "x" * 2**20 + "\n" + local.replace("LOCAL", "../secret.raw"),
        "long.nrrd": NRRD.format(name="../secret.raw").replace("type", "#" * 2**20 + "\ntype", 1),
    }

    for name, text in hidden.items():
        (folder / name).write_text(text, newline="")

        with pytest.raises((dd.HeaderError, dd.FileError, dd.GeometryError), match=name):
            dd.open_volume(folder / name)


def test_letters_that_are_no_utf_8_are_passed_over(stack: dd.Stack, tmp_path: Path) -> None:
    path = tmp_path / "v.mha"
    dd.write_volume(path, dd.read_volume(stack))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"DimSize", b"M\xfcller = J\xf6rg\nDimSize"))

    assert dd.open_volume(path).unit == "HU"


def test_a_header_that_claims_too_much_is_refused_before_memory_is_asked_for(
    tmp_path: Path,
) -> None:
    (tmp_path / "v.mha").write_bytes(
        b"ObjectType = Image\nNDims = 3\nDimSize = 60000 60000 6000\nOffset = 0 0 0\n"
        b"ElementSpacing = 1 1 1\nElementType = MET_SHORT\nElementDataFile = LOCAL\n" + bytes(100)
    )

    with pytest.raises(dd.HeaderError, match="claims 43200000000000 bytes of voxels in a file of"):
        dd.open_volume(tmp_path / "v.mha")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_is_cut_short_is_an_error(stack: dd.Stack, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    dd.write_volume(path, dd.read_volume(stack))
    data = path if suffix != ".mhd" else tmp_path / "v.raw"
    data.write_bytes(data.read_bytes()[:-40])

    with pytest.raises(dd.DicomDataError, match=rf"v{suffix}: (cannot be read|cut|exp)"):
        whole(dd.open_volume(path))


@pytest.mark.parametrize(
    "content",
    [b"", b"no volume at all" * 100, gzip.compress(b"nothing")],
    ids=["empty", "text", "packed"],
)
@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_no_volume_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"v{suffix}").write_bytes(content)

    with pytest.raises(dd.DicomDataError, match=r"v\."):
        dd.open_volume(tmp_path / f"v{suffix}")


def test_what_is_no_volume_of_three_axes_is_refused(stack: dd.Stack, tmp_path: Path) -> None:
    affine = np.eye(4)
    nib.save(nib.Nifti1Image(np.zeros((6, 4, 5, 2), np.int16), affine), tmp_path / "time.nii")
    nib.save(nib.Nifti1Image(np.zeros((6, 4), np.int16), affine), tmp_path / "flat.nii")

    with pytest.raises(dd.HeaderError, match="expected a volume of three axes, found 4"):
        dd.open_volume(tmp_path / "time.nii")
    with pytest.raises(dd.HeaderError, match="expected a volume of three axes, found 2"):
        dd.open_volume(tmp_path / "flat.nii")
    with pytest.raises(dd.HeaderError, match=r"notes\.txt: expected a file named \.nii"):
        dd.open_volume(tmp_path / "notes.txt")
    with pytest.raises(dd.FileError, match=r"none\.nii: no such file"):
        dd.open_volume(tmp_path / "none.nii")


# --- writing --------------------------------------------------------------------------------------


def test_a_tilted_stack_is_not_written_before_it_is_straight(
    tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path / "ct", step=(0.0, 0.9, 2.5))
    (stack,) = planned(tmp_path / "ct").stacks

    with pytest.raises(dd.GeometryError, match=r"v\.nrrd: the axes .* untilt the stack first"):
        dd.write_volume(tmp_path / "v.nrrd", dd.read_volume(stack))
    dd.write_volume(tmp_path / "v.nrrd", dd.read_volume(dd.untilt(stack)))

    assert dd.open_volume(tmp_path / "v.nrrd").shape == dd.untilt(stack).shape


def test_a_box_of_a_volume_is_written_where_it_lies(stack: dd.Stack, tmp_path: Path) -> None:
    part = dd.read_volume(stack, dd.Region(slices=slice(2, 4), columns=slice(3, None)))

    dd.write_volume(tmp_path / "v.mha", part, compress=True)

    file = dd.open_volume(tmp_path / "v.mha")
    np.testing.assert_array_equal(file.affine_lps, part.affine_lps)
    np.testing.assert_array_equal(whole(file), part.voxels)


@pytest.mark.parametrize(
    ("dtype", "written"),
    [("?", "u1"), ("f2", "f4"), ("i8", "i4"), ("u8", "u4"), (">i2", "i2"), ("f8", "f8")],
)
def test_predictions_are_written_in_types_that_others_read(
    stack: dd.Stack, tmp_path: Path, dtype: str, written: str
) -> None:
    voxels = np.ones(SHAPE, dtype)

    dd.write_volume(tmp_path / "v.nii", dd.PlacedVoxels(voxels, stack.affine_lps))

    stored = np.asarray(nib.load(tmp_path / "v.nii").dataobj)
    assert stored.dtype == np.dtype(written)
    assert (stored == 1).all()


def test_numbers_that_do_not_fit_are_not_written(stack: dd.Stack, tmp_path: Path) -> None:
    arrays: list[NDArray[Any]] = [np.full(SHAPE, 2**40), np.ones(SHAPE, np.complex64)]
    for voxels in arrays:
        with pytest.raises(dd.HeaderError, match=r"do not fit int32|cannot be written"):
            dd.write_volume(tmp_path / "v.nii", dd.PlacedVoxels(voxels, stack.affine_lps))
    assert not (tmp_path / "v.nii").exists()


def test_only_what_others_can_read_is_written(stack: dd.Stack, tmp_path: Path) -> None:
    volume = dd.read_volume(stack)

    with pytest.raises(dd.HeaderError, match=r"v\.dcm: expected a name that ends in \.nii"):
        dd.write_volume(tmp_path / "v.dcm", volume)
    with pytest.raises(dd.FileError, match="cannot be written"):
        dd.write_volume(tmp_path / "none" / "v.nii", volume)
    assert list(tmp_path.iterdir()) == []


# --- the corpus -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "name"),
    [("ct24_classic", "dcmqi_24x38x3/label.nrrd"), ("ct_3slice", "dcmqi_liver/liver_seg.nrrd")],
)
def test_real_nrrd_labels_are_their_twins_in_dicom(
    corpus: Path, expected: dict[str, Any], planned: Planned, images: str, name: str
) -> None:
    told = expected["seg"][name.split("/", maxsplit=1)[0]]
    (stack,) = planned(corpus / "dcmqi" / images).stacks

    mask = dd.read_label_file(corpus / "_seg" / name, stack, names={1: "Liver"})

    twin = dd.read_segmentation(corpus / told["file"], stack)
    np.testing.assert_array_equal(mask.voxels, twin.voxels)
    assert (mask.names, mask.verdict.kind) == (twin.names, "same_grid")
    assert mask.voxels.sum() == told["hd_sum"][0]


# --- where stacks stand ---------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, planned: Planned) -> list[dd.VolumeFile]:
    """Two volumes of 5 x 4 x 6 voxels, HU, one of them with its voxels in a file of its own."""
    files = []
    for name, suffix in (("P1", ".nii.gz"), ("P2", ".mhd")):
        write_series(tmp_path / name, patient_id=name, seed=name)
        (stack,) = planned(tmp_path / name).stacks
        dd.write_volume(tmp_path / f"{name}{suffix}", dd.read_volume(stack))
        files.append(dd.open_volume(tmp_path / f"{name}{suffix}", patient_id=name, modality="CT"))
    return files


@pytest.mark.parametrize("window", [None, (-1000.0, 400.0)])
def test_a_file_is_read_as_a_stack_is(
    files: list[dd.VolumeFile], tmp_path: Path, planned: Planned, window: Any
) -> None:
    (stack,) = planned(tmp_path / "P1").stacks
    box = dd.Region(slices=slice(1, 4), columns=slice(-2, None))

    for file in files:
        for region in (None, box):
            found = dd.read_volume(file, region, window=window)
            expected = dd.read_volume(stack, region, window=window)
            np.testing.assert_array_equal(found.voxels, expected.voxels)
            np.testing.assert_allclose(found.affine_lps, expected.affine_lps, rtol=0, atol=1e-5)
            assert (found.unit, found.voxels.dtype) == (expected.unit, expected.voxels.dtype)
            assert found.valid.all()
        assert dd.read_volume(file, dtype=np.int16).voxels.dtype == np.int16


def test_a_file_is_a_sample_and_a_patch(files: list[dd.VolumeFile]) -> None:
    volumes = pickle.loads(pickle.dumps(dd.VolumeDataset(files)))
    patches = dd.PatchDataset(files, (2, 4, 4), where=dd.GridPatches())
    padded = dd.PatchDataset(files, (8, 8, 8))

    assert volumes[0]["image"].shape == (1, 6, 4, 5)
    assert [volumes[i]["patient_id"] for i in range(2)] == ["P1", "P2"]
    assert volumes[1]["unit"] == "HU"
    whole = dd.read_volume(files[0]).voxels
    np.testing.assert_array_equal(
        patches[0]["image"][0].permute(2, 1, 0).numpy(), whole[:2, :4, :4]
    )
    assert float(padded[0]["image"].min()) == -1024.0


class TestVolumeFilesOnDisk(CacheContract):
    """The contract of caches, with volume files where the stacks stand."""

    # These look at single slices of DICOM, which lie in files of their own.
    test_a_box_of_a_repaired_stack_tells_which_slices_were_measured: Any = None
    test_a_box_of_files_that_changed_is_not_cut_from_the_kept_volume: Any = None
    test_a_file_that_changed_is_not_served_from_the_cache: Any = None
    test_a_file_that_is_gone_is_missed: Any = None

    def make(self, folder: Path) -> dd.VolumeCache:
        return dd.DiskCache(folder)

    @pytest.fixture
    def make_stack(self, tmp_path: Path) -> Callable[..., dd.Stack]:
        def make(name: str = "series", policy: dd.Policy | None = None, **changes: Any) -> dd.Stack:
            write_series(tmp_path / name, seed=name, **changes)
            catalog = dd.scan(tmp_path / name, progress=False)
            (stack,) = dd.plan_stacks(catalog, policy).stacks
            dd.write_volume(tmp_path / f"{name}.mha", dd.read_volume(stack))
            return dd.open_volume(tmp_path / f"{name}.mha")

        return make


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_was_replaced_is_not_taken_from_a_cache(
    files: list[dd.VolumeFile], which: int
) -> None:
    file, cache = files[which], dd.MemoryCache()
    box = dd.Region(slices=slice(2, 4))
    cache.get(file, dd.read_volume)
    cache.get(file, dd.read_volume, box)

    os.utime(file.files[-1][0], ns=(1, 1))

    for region in (None, box):
        with pytest.raises(dd.StaleError, match="has changed since it was opened"):
            cache.get(file, dd.read_volume, region)

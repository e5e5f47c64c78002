"""Labels beside images: the same grid, the same box, read once where a cache keeps them.

Those of several files are one; classes that overlap are channels.
"""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.transforms import Compose, RandFlipd, Spacingd
from pydicom.config import disable_value_validation

import dicomdata as dd
from dicomdata.dataset import SampleIndex
from dicomdata.dataset.positions import ANY_CLASS
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Planned = Callable[..., dd.StackPlan]

SHAPE = (9, 12, 14)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, planned: Planned) -> dd.StackPlan:
    """One CT whose voxels all differ."""
    archive = tmp_path_factory.mktemp("archive")
    write_series(archive, shape=SHAPE)
    return planned(archive)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, planned: Planned) -> dd.StackPlan:
    """Two CTs of one patient."""
    archive = tmp_path_factory.mktemp("two")
    for number in range(2):
        write_series(archive / str(number), shape=SHAPE, series_instance_uid=f"1.2.{number}")
    return planned(archive)


def bright(stack: dd.Stack) -> NDArray[Any]:
    """Label what has an even number as 1 and the brightest half as 2: told by the image alone."""
    values = dd.read_volume(stack).voxels.astype(np.int64)
    return np.where(values > 700, 2, values % 2).astype(np.uint8)


def write_label(plan: dd.StackPlan, path: Path) -> None:
    (stack,) = plan.stacks
    label = bright(stack)
    segments = np.stack([label == 1, label == 2])
    dd.write_segmentation(path, segments, stack, ["Odd", "Bright"])


SEGMENTS = {"odd": "(?i)odd", "bright": "Bright"}


def as_label(image: torch.Tensor) -> torch.Tensor:
    values = image.as_subclass(torch.Tensor).long()
    return torch.where(values > 700, 2, values % 2)


def test_a_sample_has_image_and_label_on_one_grid(plan: dd.StackPlan) -> None:
    (sample,) = dd.VolumeDataset(plan.stacks, labels=bright)

    image, label = sample["image"], sample["label"]
    assert label.dtype == torch.int16
    assert torch.equal(label.as_tensor().long(), as_label(image))
    assert torch.equal(label.affine, image.affine)
    assert label.meta["unit"] == "label"


@pytest.mark.parametrize("cached", [False, True])
def test_image_and_label_are_cut_by_the_same_box(
    plan: dd.StackPlan, tmp_path: Path, cached: bool
) -> None:
    cache = dd.MemoryCache("10 MB") if cached else None
    write_label(plan, tmp_path / "label.dcm")
    labels = dd.LabelFiles.find(plan, SEGMENTS, folder=tmp_path)
    patches = dd.PatchDataset(plan.stacks, (4, 5, 6), labels=labels, cache=cache)

    for epoch in range(8):
        sample = patches[SampleIndex(0, seed=1, epoch=epoch)]

        assert torch.equal(sample["label"].as_tensor().long(), as_label(sample["image"]))
        assert torch.equal(sample["label"].affine, sample["image"].affine)


def test_padding_is_of_no_class(plan: dd.StackPlan) -> None:
    patches = dd.PatchDataset(plan.stacks, (13, 12, 14), labels=bright)

    sample = patches[0]

    ((first, end), _, _) = sample["patch_valid"].tolist()
    label = sample["label"].as_tensor()
    assert label.shape == (1, 14, 12, 13)
    assert not label[..., :first].any()
    assert not label[..., end:].any()
    assert torch.equal(label[..., first:end].long(), as_label(sample["image"][..., first:end]))


def test_one_transform_turns_both(plan: dd.StackPlan) -> None:
    flip = RandFlipd(["image", "label"], prob=1, spatial_axis=0)

    (sample,) = dd.VolumeDataset(plan.stacks, flip, labels=bright)

    assert torch.equal(sample["label"].as_tensor().long(), as_label(sample["image"]))


def test_what_is_written_to_a_label_changes_no_other_sample(plan: dd.StackPlan) -> None:
    (stack,) = plan.stacks
    kept = bright(stack)
    dataset = dd.VolumeDataset(plan.stacks, labels=lambda _: kept)

    dataset[0]["label"].zero_()

    assert dataset[0]["label"].any()


def test_a_cache_reads_a_label_file_once(plan: dd.StackPlan, tmp_path: Path) -> None:
    write_label(plan, tmp_path / "label.dcm")
    labels = dd.LabelFiles.find(plan, SEGMENTS, folder=tmp_path)
    cache = dd.MemoryCache("10 MB")
    patches = dd.PatchDataset(plan.stacks, (4, 5, 6), labels=labels, cache=cache, per_visit=3)

    for _ in range(3):
        _ = patches[0]

    assert cache.statistics().fills == 1  # the label: of the image, boxes were read
    assert cache.statistics().hits == 8


def test_a_label_that_was_replaced_is_read_anew(plan: dd.StackPlan, tmp_path: Path) -> None:
    path = tmp_path / "label.dcm"
    write_label(plan, path)
    labels = dd.LabelFiles.find(plan, {"odd": "Odd"}, folder=tmp_path)
    dataset = dd.VolumeDataset(plan.stacks, labels=labels, cache=dd.MemoryCache("10 MB"))
    before = dataset[0]["label"].sum()

    dd.write_segmentation(path, np.ones(SHAPE, bool), plan.stacks[0], ["Odd"])
    os.utime(path, ns=(1, 1))

    assert before < dataset[0]["label"].sum() == np.prod(SHAPE)


def test_a_label_is_read_anew_when_the_file_of_its_voxels_was_replaced(
    plan: dd.StackPlan, tmp_path: Path
) -> None:
    (stack,) = plan.stacks
    path = tmp_path / "label.mhd"
    dd.write_volume(path, dd.PlacedVoxels((bright(stack) == 2).astype(np.uint8), stack.affine_lps))
    labels = dd.LabelFiles({stack.id: (("file", str(path)),)}, {"bright": "1"})
    dataset = dd.VolumeDataset([stack], labels=labels, cache=dd.DiskCache(tmp_path / "cache"))
    before = dataset[0]["label"].sum()

    voxels = np.zeros(SHAPE, np.uint8)
    voxels[4, 5, 6] = 1
    path.with_suffix(".raw").write_bytes(voxels.tobytes())
    os.utime(path.with_suffix(".raw"), ns=(0, 0))

    assert before > 1
    assert dataset[0]["label"].sum() == 1


def test_label_files_are_found_by_a_table(plan: dd.StackPlan, tmp_path: Path) -> None:
    (stack,) = plan.stacks
    # (column, row, slice), RAS: as NIfTI has it.
    affine = stack.affine_ras[:, (2, 1, 0, 3)]
    nibabel.save(nibabel.Nifti1Image(bright(stack).T, affine), tmp_path / "label.nii.gz")  # type: ignore[no-untyped-call]
    (tmp_path / "labels.csv").write_text("PatientID,path\nPHANTOM,label.nii.gz\n")

    table = dd.read_case_labels(tmp_path / "labels.csv", "path")
    labels = dd.LabelFiles.from_table(plan, table, {"odd": "1", "bright": "2"})

    sample = dd.VolumeDataset(plan.stacks, labels=labels)[0]
    assert torch.equal(sample["label"].as_tensor().long(), as_label(sample["image"]))


def test_a_dataset_with_labels_goes_to_workers(plan: dd.StackPlan, tmp_path: Path) -> None:
    write_label(plan, tmp_path / "label.dcm")
    labels = dd.LabelFiles.find(plan, SEGMENTS, folder=tmp_path)
    dataset = dd.VolumeDataset(plan.stacks, labels=labels, cache=dd.MemoryCache("10 MB"))

    copy = pickle.loads(pickle.dumps(dataset))

    assert torch.equal(copy[0]["label"].as_tensor(), dataset[0]["label"].as_tensor())


# --- several labels of one stack ------------------------------------------------------------------


def box(*ranges: tuple[int, int]) -> NDArray[np.bool_]:
    """Give what is within (first, end) along slices, rows and columns."""
    voxels = np.zeros(SHAPE, np.bool_)
    voxels[tuple(slice(*each) for each in ranges)] = True
    return voxels


LIVER = box((1, 5), (2, 8), (3, 9))
TUMOUR = box((3, 6), (4, 10), (5, 12))
"""Which shares voxels with the liver."""

ORGANS = {"liver": "(?i)liver", "tumour": "GTV|tumour"}


def write_seg(plan: dd.StackPlan, path: Path, voxels: NDArray[Any], name: str, **when: str) -> None:
    """Write a segmentation of one segment, with other elements than it would have."""
    dd.write_segmentation(path, voxels, plan.stacks[0], [name])
    change(path, **when)


def write_rt(plan: dd.StackPlan, path: Path, voxels: NDArray[Any], name: str, **when: str) -> None:
    dd.write_structures(path, voxels, plan.stacks[0], [name])
    change(path, **when)


def change(path: Path, **elements: str) -> None:
    header = pydicom.dcmread(path)
    with disable_value_validation():  # of times as they were written before 1993
        for keyword, value in elements.items():
            setattr(header, keyword, value)
    header.save_as(path)


def test_a_segmentation_for_each_organ_is_one_label(plan: dd.StackPlan, tmp_path: Path) -> None:
    (stack,) = plan.stacks
    spleen = box((0, 2), (0, 2), (0, 2))
    for name, voxels in {"Liver": LIVER, "Spleen": spleen, "Couch": TUMOUR}.items():
        write_seg(plan, tmp_path / f"{name}.dcm", voxels, name)

    labels = dd.LabelFiles.find(plan, {"spleen": "Spleen", "liver": "Liver"}, folder=tmp_path)

    mask = labels.read(stack)
    assert [(each.number, each.name) for each in mask.segments] == [(1, "spleen"), (2, "liver")]
    np.testing.assert_array_equal(mask.voxels, [spleen, LIVER])
    np.testing.assert_array_equal(labels(stack), spleen + 2 * LIVER)
    assert mask.verdict.kind == "same_grid"
    assert mask.findings == ()
    assert f"{tmp_path / 'Couch.dcm'}: has none of the classes" in labels.findings


def test_segmentations_and_structure_sets_are_one_label(plan: dd.StackPlan, tmp_path: Path) -> None:
    write_seg(plan, tmp_path / "liver.dcm", LIVER, "Liver")
    write_rt(plan, tmp_path / "gtv.dcm", TUMOUR, "GTV")
    how: Any = {"folder": tmp_path, "kind": ("SEG", "RTSTRUCT"), "overlap": "last"}

    labels = dd.LabelFiles.find(plan, ORGANS, **how)

    np.testing.assert_array_equal(labels(plan.stacks[0]), np.where(TUMOUR, 2, LIVER))
    mask = labels.read(plan.stacks[0])
    shared = int(np.count_nonzero(LIVER & TUMOUR))
    assert [(each.kind, each.amount) for each in mask.findings] == [("overlap", shared)]


def test_of_two_readers_none_is_believed_unasked(plan: dd.StackPlan, tmp_path: Path) -> None:
    write_seg(plan, tmp_path / "ann.dcm", LIVER, "Liver")
    write_seg(plan, tmp_path / "bob.dcm", TUMOUR, "liver")

    found = dd.LabelFiles.find(plan, ORGANS, folder=tmp_path)

    with pytest.raises(dd.LabelError, match=r"ann\.dcm and .*bob\.dcm: each has a 'liver'"):
        found(plan.stacks[0])
    # Who makes the mapping himself is told when the label is read.
    stack = plan.stacks[0]
    files: Any = {stack.id: tuple(("SEG", str(tmp_path / f"{who}.dcm")) for who in ("ann", "bob"))}
    with pytest.raises(dd.LabelError, match=r"ann\.dcm and .*bob\.dcm: each has a 'liver'"):
        dd.LabelFiles(files, {"liver": "(?i)liver"})(stack)


def test_what_contradicts_itself_is_the_label_of_no_stack_and_of_no_other(
    two: dd.StackPlan, tmp_path: Path
) -> None:
    contradicted, other = two.stacks
    for name, stack in {"ann": contradicted, "bob": contradicted, "eve": other}.items():
        dd.write_segmentation(tmp_path / f"{name}.dcm", LIVER, stack, ["Liver"])

    labels = dd.LabelFiles.find(two, {"liver": "Liver"}, folder=tmp_path)

    np.testing.assert_array_equal(labels(other), LIVER)
    assert [labels.has(stack) for stack in two.stacks] == [False, True]
    with pytest.raises(dd.LabelError, match=r"ann\.dcm and .*bob\.dcm: each has a 'li") as caught:
        labels(contradicted)
    assert str(caught.value).startswith(f"stack {contradicted.id}: ")
    assert labels.refused == {contradicted.id: str(caught.value)}
    assert str(caught.value) in labels.findings


def test_a_file_of_two_stacks_is_the_label_of_neither(two: dd.StackPlan, tmp_path: Path) -> None:
    one, other = two.stacks
    save_nifti(one, tmp_path / "label.nii", LIVER)
    for name, text in {
        "patient": f"PatientID,path\n{one.patient_id},label.nii\n",
        "series": f"SeriesInstanceUID,path\n{other.series_instance_uid},label.nii\n",
    }.items():
        (tmp_path / f"{name}.csv").write_text(text)
    by_patient, by_series = (
        dd.read_case_labels(tmp_path / f"{name}.csv", "path") for name in ("patient", "series")
    )

    doubtful = dd.LabelFiles.from_table(two, by_patient, {"liver": "1"})
    clear = dd.LabelFiles.from_table(two, [by_series, by_series], {"liver": "1"})

    assert [doubtful.has(stack) for stack in two.stacks] == [False, False]
    told = f"stack {other.id}: .*label.nii would be the label of 2 stacks, {one.id} and {other.id}"
    with pytest.raises(dd.LabelError, match=told):
        doubtful(other)
    # A file that is named twice is one label.
    np.testing.assert_array_equal(clear(other), LIVER)


# --- a file for each class ------------------------------------------------------------------------


def save_nifti(stack: dd.Stack, path: Path, voxels: NDArray[Any]) -> None:
    # (column, row, slice), RAS: as NIfTI has it.
    affine = stack.affine_ras[:, (2, 1, 0, 3)]
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.uint8).T, affine), path)  # type: ignore[no-untyped-call]


def columns_of(folder: Path, **files: str) -> dict[str, dd.CaseLabels]:
    """Write a table of a file for each class, and read it."""
    text = f"PatientID,{','.join(files)}\nPHANTOM,{','.join(files.values())}\n"
    (folder / "files.csv").write_text(text)
    return {name: dd.read_case_labels(folder / "files.csv", name) for name in files}


def test_a_file_of_ones_for_each_class_is_one_label(plan: dd.StackPlan, tmp_path: Path) -> None:
    (stack,) = plan.stacks
    spleen = box((6, 9), (0, 4), (0, 4))
    save_nifti(stack, tmp_path / "liver.nii.gz", LIVER)
    save_nifti(stack, tmp_path / "spleen.nii.gz", 255 * spleen)
    save_nifti(stack, tmp_path / "no kidney.nii.gz", np.zeros(SHAPE))
    files = {"liver": "liver.nii.gz", "kidney": "no kidney.nii.gz", "spleen": "spleen.nii.gz"}

    labels = dd.LabelFiles.from_table(plan, columns_of(tmp_path, **files))

    assert labels.read(stack).names == ("liver", "kidney", "spleen")
    np.testing.assert_array_equal(labels(stack), LIVER + 3 * spleen)


def test_a_file_of_ones_alone_is_its_class(plan: dd.StackPlan, tmp_path: Path) -> None:
    save_nifti(plan.stacks[0], tmp_path / "s.nii.gz", LIVER)

    labels = dd.LabelFiles.from_table(plan, columns_of(tmp_path, **{"liver (both)": "s.nii.gz"}))

    assert labels.read(plan.stacks[0]).names == ("liver (both)",)
    np.testing.assert_array_equal(labels(plan.stacks[0]), LIVER)


def test_classes_of_files_may_be_parts_of_one(plan: dd.StackPlan, tmp_path: Path) -> None:
    (stack,) = plan.stacks
    save_nifti(stack, tmp_path / "a.nii", LIVER)
    save_nifti(stack, tmp_path / "b.nii", TUMOUR)
    columns = columns_of(tmp_path, lobe_upper="a.nii", lobe_lower="b.nii")

    labels = dd.LabelFiles.from_table(plan, columns, {"lung": "lobe_.*"}, several="union")
    twice = dd.LabelFiles.from_table(plan, columns, {"lung": "lobe_.*"})

    with pytest.raises(dd.LabelError, match="each has a 'lung' of one stack"):
        twice(stack)
    np.testing.assert_array_equal(labels(stack), LIVER | TUMOUR)


def test_a_file_of_one_class_that_has_two_values_is_refused(
    plan: dd.StackPlan, tmp_path: Path
) -> None:
    save_nifti(plan.stacks[0], tmp_path / "two.nii", bright(plan.stacks[0]))
    labels = dd.LabelFiles.from_table(plan, columns_of(tmp_path, liver="two.nii"))

    with pytest.raises(dd.LabelError, match=r"two\.nii: has 2 segments, '1', '2': expected one"):
        labels(plan.stacks[0])


def test_one_file_for_two_classes_is_refused(plan: dd.StackPlan, tmp_path: Path) -> None:
    save_nifti(plan.stacks[0], tmp_path / "one.nii", LIVER)
    labels = dd.LabelFiles.from_table(plan, columns_of(tmp_path, liver="one.nii", spleen="one.nii"))

    with pytest.raises(dd.LabelError, match=r"one\.nii would be 'liver' and 'spleen'"):
        labels(plan.stacks[0])


def test_a_stack_that_lacks_the_file_of_a_class_lacks_the_class(
    two: dd.StackPlan, tmp_path: Path
) -> None:
    one, other = two.stacks
    for number, stack in enumerate(two.stacks):
        save_nifti(stack, tmp_path / f"liver{number}.nii", LIVER)
    save_nifti(other, tmp_path / "spleen1.nii", box((6, 9), (0, 4), (0, 4)))
    rows = (
        "SeriesInstanceUID,liver,spleen",
        f"{one.series_instance_uid},liver0.nii,",
        f"{other.series_instance_uid},liver1.nii,spleen1.nii",
    )
    (tmp_path / "files.csv").write_text("\n".join(rows))
    columns = {
        name: dd.read_case_labels(tmp_path / "files.csv", name) for name in ("liver", "spleen")
    }

    labels = dd.LabelFiles.from_table(two, columns)

    assert labels(other).max() == 2
    assert [labels.has(stack) for stack in two.stacks] == [False, True]
    with pytest.raises(dd.LabelError, match=r"liver0\.nii: no segment is 'spleen'; it has 'liver'"):
        labels(one)
    empty = dd.LabelFiles.from_table(two, columns, missing="empty")
    np.testing.assert_array_equal(empty(one), LIVER)


def test_of_two_readers_both_may_be_believed(plan: dd.StackPlan, tmp_path: Path) -> None:
    write_seg(plan, tmp_path / "ann.dcm", LIVER, "Liver")
    write_seg(plan, tmp_path / "bob.dcm", TUMOUR, "liver")
    how: Any = {"folder": tmp_path, "missing": "empty", "several": "union"}

    mask = dd.LabelFiles.find(plan, ORGANS, **how).read(plan.stacks[0])

    np.testing.assert_array_equal(mask.voxels, [LIVER | TUMOUR, np.zeros(SHAPE)])
    assert [each.kind for each in mask.findings] == ["missing", "joined"]


@pytest.mark.parametrize(
    ("ann", "bob"),
    [
        ({"ContentDate": "20240301", "ContentTime": "120000"}, {"ContentDate": "20240229"}),
        ({"ContentTime": "093000"}, {"ContentTime": "0929"}),
        ({"ContentTime": "120000.5"}, {"ContentTime": "120000.25"}),
        ({"ContentTime": "12:00:01"}, {"ContentTime": "120000.9"}),
    ],
)
def test_of_two_readers_the_newest_may_be_believed(
    plan: dd.StackPlan, tmp_path: Path, ann: dict[str, str], bob: dict[str, str]
) -> None:
    day = {"ContentDate": "20240229"}
    write_seg(plan, tmp_path / "ann.dcm", LIVER, "Liver", **{**day, **ann})
    write_seg(plan, tmp_path / "bob.dcm", TUMOUR, "liver", **{**day, **bob})
    segments = {"liver": "(?i)liver"}

    labels = dd.LabelFiles.find(plan, segments, folder=tmp_path, several="newest")

    mask = labels.read(plan.stacks[0])
    np.testing.assert_array_equal(mask.of("liver"), LIVER)
    (finding,) = mask.findings
    assert finding.kind == "newest"
    assert "ann.dcm, which is newer than that of" in finding.text


def test_a_structure_set_has_a_date_of_its_own(plan: dd.StackPlan, tmp_path: Path) -> None:
    write_seg(plan, tmp_path / "liver.dcm", LIVER, "Liver", ContentDate="20240301")
    when = {"StructureSetDate": "20240302", "ContentDate": "20200101"}
    write_rt(plan, tmp_path / "rt.dcm", TUMOUR, "Liver", **when)
    how: Any = {"folder": tmp_path, "kind": ("SEG", "RTSTRUCT"), "several": "newest"}

    labels = dd.LabelFiles.find(plan, {"liver": "Liver"}, **how)

    np.testing.assert_array_equal(labels(plan.stacks[0]), TUMOUR)


@pytest.mark.parametrize(
    ("bob", "told"),
    [
        ({}, "neither is newer"),
        ({"ContentTime": "1200"}, "neither is newer"),
        ({"ContentTime": ""}, "neither is newer"),
        ({"ContentDate": ""}, r"bob\.dcm: does not say when it was made"),
        ({"TimezoneOffsetFromUTC": "+0100"}, "which is the newest cannot be told"),
    ],
)
def test_which_of_two_is_newer_is_never_guessed(
    plan: dd.StackPlan, tmp_path: Path, bob: dict[str, str], told: str
) -> None:
    when = {"ContentDate": "20240229", "ContentTime": "120000"}
    write_seg(plan, tmp_path / "ann.dcm", LIVER, "Liver", **when)
    write_seg(plan, tmp_path / "bob.dcm", TUMOUR, "liver", **{**when, **bob})
    segments = {"liver": "(?i)liver"}

    labels = dd.LabelFiles.find(plan, segments, folder=tmp_path, several="newest")

    with pytest.raises(dd.LabelError, match=told):
        labels(plan.stacks[0])


def test_a_class_that_no_label_has_is_missing(plan: dd.StackPlan, tmp_path: Path) -> None:
    write_seg(plan, tmp_path / "liver.dcm", LIVER, "Liver")
    write_seg(plan, tmp_path / "couch.dcm", TUMOUR, "Couch")

    labels = dd.LabelFiles.find(plan, ORGANS, folder=tmp_path)

    with pytest.raises(dd.LabelError, match=r"liver\.dcm: no segment is 'tumour'; it has 'Liver'"):
        labels(plan.stacks[0])
    with pytest.raises(dd.LabelError, match=r"'spleen' in .*couch\.dcm or .*liver\.dcm; found are"):
        dd.LabelFiles.find(plan, {"spleen": "Spleen"}, folder=tmp_path)(plan.stacks[0])


def test_a_label_of_something_else_stands_in_nobodys_way(
    plan: dd.StackPlan, tmp_path: Path
) -> None:
    write_seg(plan, tmp_path / "liver.dcm", LIVER, "Liver")
    write_seg(plan, tmp_path / "couch.dcm", TUMOUR, "Couch")
    header = pydicom.dcmread(tmp_path / "couch.dcm")
    measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = [0.3, 0.3]  # on voxels of its own
    header.save_as(tmp_path / "couch.dcm")

    labels = dd.LabelFiles.find(plan, {"liver": "Liver"}, folder=tmp_path)

    np.testing.assert_array_equal(labels(plan.stacks[0]), LIVER)


def test_fractions_and_whole_voxels_are_joined_as_fractions(
    plan: dd.StackPlan, tmp_path: Path
) -> None:
    write_seg(plan, tmp_path / "liver.dcm", LIVER, "Liver")
    dd.write_segmentation(
        tmp_path / "tumour.dcm", TUMOUR * np.float32(0.4), plan.stacks[0], ["tumour"]
    )

    mask = dd.LabelFiles.find(plan, ORGANS, folder=tmp_path).read(plan.stacks[0])

    assert mask.voxels.dtype == np.float32
    np.testing.assert_array_equal(mask.of("liver"), LIVER)
    np.testing.assert_allclose(mask.of("tumour"), TUMOUR * 0.4, atol=1e-7)


def test_a_file_by_two_names_is_one_label(plan: dd.StackPlan, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    write_series(archive, shape=SHAPE)
    write_seg(plan, archive / "liver.dcm", LIVER, "Liver")
    both = dd.plan_stacks(dd.scan(archive, progress=False))
    (tmp_path / "other").symlink_to(archive)

    labels = dd.LabelFiles.find(both, {"liver": "Liver"}, folder=tmp_path / "other")

    assert [len(each) for each in labels.files.values()] == [1]


def test_a_table_for_each_organ_is_one_label(plan: dd.StackPlan, tmp_path: Path) -> None:
    (stack,) = plan.stacks
    affine = stack.affine_ras[:, (2, 1, 0, 3)]
    for value, voxels in ((1, LIVER), (2, box((0, 1), (0, 3), (0, 3)))):
        image = nibabel.Nifti1Image((value * voxels).astype(np.uint8).T, affine)  # type: ignore[no-untyped-call]
        nibabel.save(image, tmp_path / f"{value}.nii")
    (tmp_path / "labels.csv").write_text("PatientID,one,two\nPHANTOM,1.nii,2.nii\n")

    tables = [dd.read_case_labels(tmp_path / "labels.csv", each) for each in ("one", "two")]
    labels = dd.LabelFiles.from_table(plan, tables, {"spleen": "2", "liver": "1"})

    assert labels.read(stack).voxels.sum(axis=(1, 2, 3)).tolist() == [9, LIVER.sum()]


def test_a_label_partly_outside_is_not_learned_from_unasked(
    plan: dd.StackPlan, tmp_path: Path
) -> None:
    (stack,) = plan.stacks
    write_seg(plan, tmp_path / "liver.dcm", LIVER, "Liver")
    fewer = write_series(tmp_path / "fewer", shape=(3, *SHAPE[1:]))
    stack = dd.plan_stacks(dd.scan(fewer[0].parent, progress=False)).stacks[0]
    files: Any = {stack.id: (("SEG", str(tmp_path / "liver.dcm")),)}
    segments = {"liver": "Liver"}

    with pytest.raises(dd.LabelError, match=r"partly outside stack .*: \d+ voxels of 'Liver'"):
        dd.LabelFiles(files, segments)(stack)
    label = dd.LabelFiles(files, segments, outside="drop")(stack)

    np.testing.assert_array_equal(label, LIVER[:3])


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
@pytest.mark.parametrize("said", ["frame of reference", "images", ""])
def test_parts_outside_are_told_of_a_label_that_says_whose_it_is(
    plan: dd.StackPlan, tmp_path: Path, kind: str, said: str
) -> None:
    path = tmp_path / "liver.dcm"
    (write_seg if kind == "SEG" else write_rt)(plan, path, LIVER, "Liver")
    read = dd.read_segmentation if kind == "SEG" else dd.read_structures
    header = pydicom.dcmread(path)
    if said != "frame of reference":
        forget(header, "FrameOfReferenceUID", "ReferencedFrameOfReferenceUID")
    if said != "images":
        forget(header, "DerivationImageSequence", "ContourImageSequence")
    header.save_as(path)
    fewer = tmp_path / "fewer"
    write_series(fewer, shape=(3, *SHAPE[1:]))
    (stack,) = dd.plan_stacks(dd.scan(fewer, progress=False)).stacks

    with pytest.raises(dd.LabelError, match="partly outside stack"):
        read(path, stack, outside="reject")
    told = read(path, stack, outside="drop")

    np.testing.assert_array_equal(told.voxels[0], LIVER[:3])
    assert "outside" in {finding.kind for finding in told.findings}
    if said:
        assert read(path, stack).findings == told.findings
    else:
        with pytest.raises(dd.LabelError, match="partly outside stack"):
            read(path, stack)


def forget(header: pydicom.Dataset, *keywords: str) -> None:
    """Take elements out of a file, wherever they are."""

    def take_out(item: pydicom.Dataset, element: pydicom.DataElement) -> None:
        if element.keyword in keywords:
            del item[element.tag]

    header.walk(take_out)


# --- classes that overlap -------------------------------------------------------------------------


@pytest.fixture
def overlapping(plan: dd.StackPlan, tmp_path: Path) -> dd.LabelFiles:
    """A liver with a tumour in it, that reaches beyond it."""
    path = tmp_path / "both.dcm"
    dd.write_segmentation(path, np.stack([LIVER, TUMOUR]), plan.stacks[0], ["Liver", "GTV"])
    return dd.LabelFiles.find(plan, ORGANS, folder=tmp_path, overlap="channels")


def test_classes_that_overlap_are_channels(plan: dd.StackPlan, overlapping: dd.LabelFiles) -> None:
    (sample,) = dd.VolumeDataset(plan.stacks, labels=overlapping)

    label, image = sample["label"], sample["image"]
    assert label.shape == (2, 14, 12, 9)
    assert label.dtype == torch.uint8
    np.testing.assert_array_equal(label.numpy().transpose(0, 3, 2, 1), [LIVER, TUMOUR])
    assert torch.equal(label.affine, image.affine)
    assert label.meta.keys() == image.meta.keys()
    assert {key for key in image.meta if str(label.meta[key]) != str(image.meta[key])} == {"unit"}


def test_one_class_is_one_channel(plan: dd.StackPlan, tmp_path: Path) -> None:
    write_seg(plan, tmp_path / "liver.dcm", LIVER, "Liver")
    how: Any = {"folder": tmp_path, "overlap": "channels"}
    labels = dd.LabelFiles.find(plan, {"liver": "Liver"}, **how)

    (sample,) = dd.VolumeDataset(plan.stacks, labels=labels)

    assert sample["label"].shape == (1, 14, 12, 9)
    assert sample["label"].dtype == torch.uint8
    np.testing.assert_array_equal(sample["label"][0].numpy().T, LIVER)


@pytest.mark.parametrize("cached", [False, True])
def test_channels_are_cut_and_padded_as_images_are(
    plan: dd.StackPlan, overlapping: dd.LabelFiles, cached: bool
) -> None:
    whole = np.zeros((2, 11, 12, 14), np.uint8)
    whole[:, 1:10] = LIVER, TUMOUR
    cache = dd.MemoryCache("10 MB") if cached else None
    patches = dd.PatchDataset(plan.stacks, (11, 5, 6), labels=overlapping, cache=cache)

    for epoch in range(4):
        sample = patches[SampleIndex(0, seed=1, epoch=epoch)]

        _, row, column = sample["patch_start"].tolist()
        label = sample["label"].numpy().transpose(0, 3, 2, 1)
        np.testing.assert_array_equal(label, whole[:, :, row : row + 5, column : column + 6])
        assert torch.equal(sample["label"].affine, sample["image"].affine)


def test_a_cache_keeps_channels_and_numbers_apart(
    plan: dd.StackPlan, overlapping: dd.LabelFiles
) -> None:
    cache = dd.MemoryCache("10 MB")
    last = dd.LabelFiles(overlapping.files, ORGANS, overlap="last")

    # Twice: the second time out of the cache.
    for _ in range(2):
        channels = dd.VolumeDataset(plan.stacks, labels=overlapping, cache=cache)[0]["label"]
        numbers = dd.VolumeDataset(plan.stacks, labels=last, cache=cache)[0]["label"]

        np.testing.assert_array_equal(channels.numpy().transpose(0, 3, 2, 1), [LIVER, TUMOUR])
        np.testing.assert_array_equal(numbers[0].numpy().T, np.where(TUMOUR, 2, LIVER))
    assert cache.statistics().fills == 3


def test_monai_turns_channels_and_image_alike(
    plan: dd.StackPlan, overlapping: dd.LabelFiles
) -> None:
    keys = ["image", "label"]
    transform = Compose(
        [
            RandFlipd(keys, prob=1, spatial_axis=(0, 2)),
            Spacingd(keys, (0.5, 0.5, 2.5), mode=("bilinear", "nearest")),
        ]
    )

    (sample,) = dd.VolumeDataset(plan.stacks, transform, labels=overlapping)

    image, label = sample["image"], sample["label"]
    assert label.shape == (2, *image.shape[1:])
    assert label.shape != (2, 14, 12, 9)
    torch.testing.assert_close(label.affine, image.affine)
    assert sorted(label.unique().tolist()) == [0, 1]
    # Millimetres cubed of each class are what they were, but for the edge.
    for channel, drawn in zip(label, (LIVER, TUMOUR), strict=True):
        before = drawn.sum() * np.prod(plan.stacks[0].spacing)
        after = float(channel.sum()) * 0.5 * 0.5 * 2.5
        assert after == pytest.approx(before, rel=0.3)


def test_channels_make_a_batch(plan: dd.StackPlan, overlapping: dd.LabelFiles) -> None:
    dataset = pickle.loads(pickle.dumps(dd.VolumeDataset(plan.stacks, labels=overlapping)))

    batch = dd.collate([dataset[0], dataset[0]])

    assert batch["label"].shape == (2, 2, 14, 12, 9)
    np.testing.assert_array_equal(batch["label"][1].numpy().transpose(0, 3, 2, 1), [LIVER, TUMOUR])


def test_fifteen_classes_may_overlap_and_no_more(plan: dd.StackPlan, tmp_path: Path) -> None:
    (stack,) = plan.stacks
    voxels = np.zeros((15, *SHAPE), np.bool_)
    voxels[:, 1:3] = True
    voxels[14, 4] = True
    names = [f"class {number}" for number in range(1, 17)]
    dd.write_segmentation(tmp_path / "all.dcm", voxels, stack, names[:15])
    files: Any = {stack.id: (("SEG", str(tmp_path / "all.dcm")),)}
    how: Any = {"overlap": "channels"}

    labels = dd.LabelFiles(files, dict(zip(names[:15], names[:15], strict=True)), **how)
    (sample,) = dd.VolumeDataset(plan.stacks, labels=labels)

    np.testing.assert_array_equal(sample["label"].numpy().transpose(0, 3, 2, 1), voxels)
    with pytest.raises(dd.ConfigError, match=r"16 classes .* at most 15, .* is 'class 16'"):
        dd.LabelFiles(files, dict(zip(names, names, strict=True)), **how)


def test_labels_of_ones_own_may_overlap(plan: dd.StackPlan) -> None:
    class Both:
        channels = 2

        def __call__(self, stack: dd.Stack, /) -> dd.Mask:
            segments = (dd.Segment(1, "liver"), dd.Segment(2, "tumour"))
            voxels = np.stack([LIVER, TUMOUR])
            return dd.Mask(voxels, segments, stack, dd.Verdict("same_grid", 0, ""))

    (sample,) = dd.VolumeDataset(plan.stacks, labels=Both())

    np.testing.assert_array_equal(sample["label"].numpy().transpose(0, 3, 2, 1), [LIVER, TUMOUR])


def test_a_bit_of_no_class_is_refused(plan: dd.StackPlan) -> None:
    class Wrong:
        channels = 2

        def __call__(self, stack: dd.Stack, /) -> NDArray[Any]:
            return np.full(stack.shape, 4, np.uint8)

    dataset = dd.VolumeDataset(plan.stacks, labels=Wrong())

    with pytest.raises(dd.LabelError, match="has the number 4: expected bits of 2 classes"):
        dataset[0]


def test_a_voxel_of_two_classes_is_a_place_of_both(
    plan: dd.StackPlan, overlapping: dd.LabelFiles, tmp_path: Path
) -> None:
    (stack,) = plan.stacks

    index = dd.LabelPositions.of_masks(plan.stacks, overlapping)

    index.save(tmp_path / "index")
    for each in (index, dd.LabelPositions.load(tmp_path / "index")):
        labels = each.of(stack)
        assert each.classes == (0, 1, 2)
        for number, drawn in {1: LIVER, 2: TUMOUR, ANY_CLASS: LIVER | TUMOUR}.items():
            assert labels.positions[number].tolist() == np.flatnonzero(drawn).tolist()
            assert labels.counts[number] == drawn.sum()
        assert labels.counts[0] == np.sum(~(LIVER | TUMOUR))


def test_foreground_is_any_class_and_every_voxel_alike(
    plan: dd.StackPlan, overlapping: dd.LabelFiles
) -> None:
    (stack,) = plan.stacks
    index = dd.LabelPositions.of_masks(plan.stacks, overlapping)
    generator = np.random.default_rng(7)
    either, both = LIVER | TUMOUR, LIVER & TUMOUR

    where = dd.BalancedPatches(index=index, foreground=1)
    drawn = [where.draw(stack, (1, 1, 1), generator) for _ in range(2000)]

    assert all(either[place] for place in drawn)
    share = both.sum() / either.sum()
    # Four standard deviations; were a voxel of two classes likelier, it would be twelve.
    assert np.mean([both[place] for place in drawn]) == pytest.approx(share, abs=0.035)


def test_classes_that_overlap_have_weights_of_their_own(
    plan: dd.StackPlan, overlapping: dd.LabelFiles
) -> None:
    (stack,) = plan.stacks
    index = dd.LabelPositions.of_masks(plan.stacks, overlapping, classes=[0, 2])
    generator = np.random.default_rng(7)

    only = dd.BalancedPatches(index=index, weights={2: 1})
    foreground = dd.BalancedPatches(index=index, foreground=1)

    for where in (only, foreground):
        assert all(TUMOUR[where.draw(stack, (1, 1, 1), generator)] for _ in range(50))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (np.zeros((9, 12, 13), np.uint8), r"its label has shape \(9, 12, 13\): expected \(9, 12"),
        (np.zeros(SHAPE), "its label is of float64: expected whole numbers or bool"),
        (np.full(SHAPE, -1), "its label has classes -1 to -1: expected 0 to 32767"),
        (np.full(SHAPE, 40000), "its label has classes 40000 to 40000: expected 0 to 32767"),
    ],
)
def test_what_is_no_label_is_refused(plan: dd.StackPlan, label: Any, told: str) -> None:
    dataset = dd.VolumeDataset(plan.stacks, labels=lambda _: label)

    with pytest.raises(dd.LabelError, match=told):
        dataset[0]


def test_a_stack_without_label_is_refused(plan: dd.StackPlan) -> None:
    dataset = dd.VolumeDataset(plan.stacks, labels=dd.LabelFiles({}, SEGMENTS))

    with pytest.raises(dd.LabelError, match="has no label"):
        dataset[0]


def test_classes_must_be_named(plan: dd.StackPlan) -> None:
    with pytest.raises(dd.ConfigError, match="expected a name and a pattern for each class"):
        dd.LabelFiles({}, {})


def test_image_and_label_need_two_names(plan: dd.StackPlan) -> None:
    with pytest.raises(dd.ConfigError, match="expected two names"):
        dd.VolumeDataset(plan.stacks, labels=bright, label="image")

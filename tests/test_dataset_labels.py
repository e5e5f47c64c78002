"""Labels beside images: the same grid, the same box, read once where a cache keeps them."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import RandFlipd

import dicomdata as dd
from dicomdata.dataset import SampleIndex
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Planned = Callable[..., dd.StackPlan]

SHAPE = (9, 12, 14)


@pytest.fixture
def plan(tmp_path: Path, planned: Planned) -> dd.StackPlan:
    """One CT whose voxels all differ."""
    write_series(tmp_path / "archive", shape=SHAPE)
    return planned(tmp_path / "archive")


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


def test_of_two_labels_of_one_stack_none_is_chosen(plan: dd.StackPlan, tmp_path: Path) -> None:
    write_label(plan, tmp_path / "one.dcm")
    write_label(plan, tmp_path / "two.dcm")

    with pytest.raises(dd.LabelError, match="has two labels of kind SEG"):
        dd.LabelFiles.find(plan, SEGMENTS, folder=tmp_path)


def test_classes_must_be_named(plan: dd.StackPlan) -> None:
    with pytest.raises(dd.ConfigError, match="expected a name and a pattern for each class"):
        dd.LabelFiles({}, {})


def test_image_and_label_need_two_names(plan: dd.StackPlan) -> None:
    with pytest.raises(dd.ConfigError, match="expected two names"):
        dd.VolumeDataset(plan.stacks, labels=bright, label="image")

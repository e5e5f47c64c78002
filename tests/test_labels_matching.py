"""Which label belongs to which stack: by the images it names, and what belongs to none is told."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest

import dicomdata as dd
from dicomdata.testing.phantoms import Each, write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def plan_of(folder: Path) -> dd.StackPlan:
    return dd.plan_stacks(dd.scan(folder, progress=False))


def label(stack: dd.Stack, path: Path) -> Path:
    """Label one voxel of every slice of a stack."""
    mask = np.zeros(stack.shape, bool)
    mask[:, 1, 2] = True
    dd.write_segmentation(path, mask, stack, ["Lung"])
    return path


def test_each_label_finds_the_stack_it_was_drawn_on(tmp_path: Path) -> None:
    for seed in ("one", "two"):
        write_series(tmp_path / seed, seed=seed, patient_id=seed)
    first, second = plan_of(tmp_path).stacks
    label(first, tmp_path / "two" / "a.dcm")
    label(second, tmp_path / "one" / "b.dcm")

    plan = plan_of(tmp_path)
    found = dd.find_labels(plan)

    assert [(match.path, match.stack.id) for match in found.matches] == [
        (str(tmp_path / "one" / "b.dcm"), second.id),
        (str(tmp_path / "two" / "a.dcm"), first.id),
    ]
    assert {(match.kind, match.by, match.images) for match in found.matches} == {
        ("SEG", "images", 5)
    }
    assert found.unmatched == ()
    (match,) = found.of(plan.stacks[0])
    assert match.read().voxels.sum() == 5


def test_labels_may_lie_in_another_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "ct")
    (tmp_path / "labels").mkdir()
    plan = plan_of(tmp_path / "ct")
    path = label(plan.stacks[0], tmp_path / "labels" / "a.dcm")

    assert dd.find_labels(plan).matches == ()
    assert [each.path for each in dd.find_labels(plan, tmp_path / "labels").matches] == [str(path)]


def test_of_two_phases_the_one_that_was_drawn_on_is_found(tmp_path: Path) -> None:
    twice = [(-10, -20, 2.5 * (k % 3)) for k in range(6)]
    write_series(
        tmp_path, positions=twice, extra={"TemporalPositionIdentifier": Each(1, 1, 1, 2, 2, 2)}
    )
    _, second = plan_of(tmp_path).stacks
    label(second, tmp_path / "seg.dcm")

    (match,) = dd.find_labels(plan_of(tmp_path)).matches

    assert match.stack.id == second.id
    assert match.images == 3


def changed(path: Path, change: Callable[[pydicom.Dataset], object]) -> None:
    header = pydicom.dcmread(path)
    change(header)
    header.save_as(path)


def forget_images(header: pydicom.Dataset) -> None:
    for keyword in ("ReferencedSeriesSequence", "SourceImageSequence"):
        header.pop(keyword, None)
    for group in header.PerFrameFunctionalGroupsSequence:
        group.DerivationImageSequence = []


def test_a_label_that_names_no_image_belongs_to_the_only_stack_of_its_frame_of_reference(
    tmp_path: Path,
) -> None:
    write_series(tmp_path / "ct")
    path = label(plan_of(tmp_path).stacks[0], tmp_path / "seg.dcm")
    changed(path, forget_images)

    (match,) = dd.find_labels(plan_of(tmp_path)).matches

    assert match.by == "frame_of_reference"
    assert match.read().voxels.sum() == 5


def test_of_two_stacks_in_one_frame_of_reference_none_is_guessed(tmp_path: Path) -> None:
    place: dict[str, Any] = {"frame_of_reference_uid": "1.2.3"}
    for seed in ("one", "two"):
        write_series(tmp_path / seed, seed=seed, **place)
    path = label(plan_of(tmp_path).stacks[0], tmp_path / "seg.dcm")
    changed(path, forget_images)

    found = dd.find_labels(plan_of(tmp_path))

    assert found.matches == ()
    (rejection,) = found.unmatched
    assert rejection.subject == str(path)
    assert "2 stacks of the plan have its patient and frame of reference" in str(rejection)


def test_a_label_of_images_that_are_elsewhere_is_told(tmp_path: Path) -> None:
    for seed in ("one", "two"):
        write_series(tmp_path / seed, seed=seed)
    first, _ = plan_of(tmp_path).stacks
    path = label(first, tmp_path / "two" / "seg.dcm")
    shutil.rmtree(tmp_path / "one" if str(tmp_path / "one") in first.paths[0] else tmp_path / "two")

    found = dd.find_labels(plan_of(tmp_path))

    assert found.matches == ()
    assert [each.subject for each in found.unmatched] == [str(path)]
    assert f"{first.series_instance_uid}, of which the plan has none" in str(found.unmatched[0])


def test_names_of_images_that_changed_leave_the_series(tmp_path: Path) -> None:
    write_series(tmp_path / "ct")
    path = label(plan_of(tmp_path).stacks[0], tmp_path / "seg.dcm")

    def rename(header: pydicom.Dataset) -> None:
        forget = pydicom.Dataset()
        forget.SeriesInstanceUID = header.ReferencedSeriesSequence[0].SeriesInstanceUID
        forget_images(header)
        header.ReferencedSeriesSequence = [forget]

    changed(path, rename)

    (match,) = dd.find_labels(plan_of(tmp_path)).matches
    assert (match.by, match.images) == ("series", 0)


@pytest.mark.parametrize(
    ("folder", "label", "kind", "images"),
    [
        ("dcmqi/ct24_classic", "_seg/dcmqi_24x38x3/label.seg", "SEG", 3),
        ("dcmqi/ct_3slice", "_seg/dcmqi_liver/liver.dcm", "SEG", 3),
        # Its two contours are drawn on one of two images.
        ("rtutils/ge_phantom_2", "_rt/rtutils_phantom/rt.dcm", "RTSTRUCT", 1),
    ],
)
def test_real_labels_find_their_images(
    corpus: Path, folder: str, label: str, kind: str, images: int
) -> None:
    plan = plan_of(corpus / folder)

    found = dd.find_labels(plan, (corpus / label).parent)

    match = next(each for each in found.matches if each.path == str(corpus / label))
    assert (match.kind, match.by, match.images) == (kind, "images", images)


def test_real_labels_of_other_images_are_told(corpus: Path) -> None:
    plan = plan_of(corpus / "dcmqi" / "ct24_classic")

    found = dd.find_labels(plan, corpus / "_seg" / "dcmqi_liver")

    assert found.matches == ()
    assert len(found.unmatched) == 1

"""The whole line, from a folder to batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from monai.transforms import Compose, RandSpatialCropd, ScaleIntensityRanged

from dicomdata.cache import DiskCache
from dicomdata.errors import CatalogError, DicomDataWarning
from dicomdata.pipeline import batches
from dicomdata.stack import Policy
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three CT of different length, one MR, and what else lies about."""
    root = tmp_path / "archive"
    for number in range(3):
        write_series(
            root / "ct", seed=f"{number}", patient_id=f"P{number}", shape=(5 + number, 8, 8)
        )
    write_series(root / "mr", seed="mr", modality="MR")
    (root / "notes.txt").write_text("to whom it may concern")
    return root


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_becomes_batches(workers: int, archive: Path, tmp_path: Path) -> None:
    transform = Compose(
        [
            ScaleIntensityRanged("image", -100, 500, 0, 1),
            RandSpatialCropd("image", (4, 4, 4), random_size=False),
        ]
    )

    line = batches(
        archive,
        modality="CT",
        transform=transform,
        cache=DiskCache(tmp_path / "cache"),
        batch_size=2,
        workers=workers,
        progress=False,
    )

    assert len(line) == 2
    for _ in range(2):
        epoch = list(line)
        assert [batch["image"].shape for batch in epoch] == [(2, 1, 4, 4, 4), (1, 1, 4, 4, 4)]
        assert {name for batch in epoch for name in batch["patient_id"]} == {"P0", "P1", "P2"}


def test_every_step_can_be_looked_at(archive: Path) -> None:
    line = batches(archive, min_slices=6, progress=False)

    assert len(line.catalog) == 4
    assert len(line.plan.stacks) == len(line.dataset) == len(line.loader) == 2
    assert {row.outcome for row in line.plan.outcomes} == {"used", "not selected", "not DICOM"}


def test_the_catalog_is_kept_where_it_is_asked_for(archive: Path, tmp_path: Path) -> None:
    for _ in range(2):
        batches(archive, catalog=tmp_path / "ct.catalog", progress=False)

    assert (tmp_path / "ct.catalog").is_file()


def test_shuffled_batches_hold_every_volume_once(archive: Path) -> None:
    torch.manual_seed(1)
    line = batches(archive, modality="CT", shuffle=True, progress=False)

    epochs = [[batch["patient_id"][0] for batch in line] for _ in range(4)]

    assert all(sorted(epoch) == ["P0", "P1", "P2"] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_what_was_left_out_is_warned_of(archive: Path) -> None:
    write_series(archive / "gap", seed="gap", positions=[(0, 0, z) for z in (0, 2, 4, 8)])

    with pytest.warns(DicomDataWarning, match="gap") as caught:
        line = batches(archive, policy=Policy(), progress=False)

    assert [warning.filename for warning in caught] == [__file__]
    assert len(line.plan.rejected) == 1


def test_a_column_that_does_not_exist_is_told_first() -> None:
    with pytest.raises(CatalogError, match="no column"):
        batches("/no/such/folder", modalty="CT")

"""What `scripts/train.py` refuses, in one line that names it; and what it leaves out aloud."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from trainings import refused, unvalidated

import dicomdata as dd

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    import pytest
    from trainings import Configure

pytest_plugins = ["training_fixtures"]


def test_a_run_that_is_there_is_not_overwritten(
    train: ModuleType, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(epochs=1)
    train.main(["--config", str(config)])

    told = refused(train, capsys, "--config", config)

    assert "last.pt: a run is there: --resume goes on with it" in told


def test_a_folder_that_cannot_be_made_is_told_by_name(
    train: ModuleType, configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").touch()

    told = refused(train, capsys, "--config", configure(folder=str(tmp_path / "taken")))

    assert "taken: no folder: File exists" in told


def test_a_run_is_not_resumed_with_another_split_catalog_or_setting(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    train.main(["--config", str(configure(epochs=1))])
    plan = dd.plan_stacks(dd.open_catalog(tmp_path / "run" / "archive.catalog"))
    other = dd.make_split(plan, {"train": 0.6, "val": 0.4}, seed=5, balanced=True)
    assert other.fingerprint != dd.Split.load(archive / "split.json").fingerprint
    other.save(tmp_path / "other.json")
    data = {"archive": str(archive / "archive"), "split": str(archive / "split.json")}
    some = ["P0", "P1", "P2", "P3"]
    changed: dict[str, dict[str, Any]] = {
        "trained with another split": {"data": {**data, "split": str(tmp_path / "other.json")}},
        "trained with another catalog": {"data": {**data, "select": {"patient_id": some}}},
        'another setting of optimizer: {"_target_": "Adam", "lr": 0.01}': {
            "optimizer": {"_target_": "Adam", "lr": 0.02}
        },
    }  # fmt: skip

    for expected, changes in changed.items():
        told = refused(train, capsys, "--config", configure(epochs=2, **changes), "--resume")

        assert expected in told


def test_a_checkpoint_that_holds_code_is_refused(
    train: ModuleType, configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    (tmp_path / "run").mkdir()
    torch.save({"format": Harm()}, tmp_path / "run" / "last.pt")

    told = refused(train, capsys, "--config", configure(), "--resume")

    assert "last.pt: no checkpoint" in told
    assert not (tmp_path / "harm").exists()


def test_a_stack_without_label_is_refused_or_left_out_aloud(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rows = (archive / "cases.csv").read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join(rows[:-1]).replace(",P", f",{archive}/P"))
    labels = {
        "kind": "files", "table": str(tmp_path / "some.csv"), "column": "path",
        "segments": {"organ": "1"},
    }  # fmt: skip
    data = {"archive": str(archive / "archive"), "split": str(archive / "split.json")}

    assert "stacks have no label" in refused(train, capsys, "--config", configure(labels=labels))
    config = configure(labels=labels, data={**data, "unlabelled": "drop"}, epochs=1)
    assert train.main(["--config", str(config)]) == 0
    assert "1 of " in capsys.readouterr().err


def test_a_stack_with_two_contradicting_labels_has_none_and_the_others_theirs(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    stack = dd.plan_stacks(dd.scan(archive / "archive" / "0", progress=False)).stacks[0]
    again = np.zeros(stack.shape, np.bool_)
    again[:2] = True
    (tmp_path / "seg").mkdir()
    dd.write_segmentation(tmp_path / "seg" / "again.dcm", again, stack, ["Organ"])
    for path in (archive / "seg").iterdir():
        (tmp_path / "seg" / path.name).write_bytes(path.read_bytes())
    labels = {"kind": "SEG", "folder": str(tmp_path / "seg"), "segments": {"organ": "Organ"}}
    data = unvalidated(archive, "all.json")

    told = refused(train, capsys, "--config", configure(labels=labels, data=data))
    config = configure(labels=labels, data={**data, "unlabelled": "drop"}, epochs=1)
    assert train.main(["--config", str(config)]) == 0

    why = f"stack {stack.id}: "
    for line in (told, capsys.readouterr().err):
        assert "1 of 5 stacks have no label" in line
        assert why in line
        assert "P0.dcm" in line
        assert "each has a 'organ' of one stack" in line


def test_a_network_of_other_classes_is_refused(
    train: ModuleType, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    network = {
        "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 1,
        "channels": [2, 4], "strides": [2],
    }  # fmt: skip

    told = refused(train, capsys, "--config", configure(network=network))

    assert "network UNet: its output is (2, 1, 8, 8, 4), expected (2, 2, 8, 8, 4)" in told


def test_a_loss_that_is_no_number_ends_the_run(
    train: ModuleType, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(train, capsys, "--config", configure(optimizer={"_target_": "SGD", "lr": 1e38}))

    assert "the loss is nan, of " in told


def test_int16_that_a_transform_has_made_float_is_refused(
    train: ModuleType, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(train, capsys, "--config", configure(upload="int16"))

    assert "upload: int16 was asked for, and a transform has made torch.float32" in told

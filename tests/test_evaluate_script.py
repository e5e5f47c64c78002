"""`scripts/evaluate.py`: predictions of files and of a checkpoint, scored; refusals by name."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

import dicomdata as dd
from dicomdata.config import load_settings
from dicomdata.config.training import TrainingSettings
from dicomdata.testing.phantoms import write_series
from dicomdata.training import Checkpoint, build

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

SHAPE = (4, 8, 8)
PATIENTS = 3


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The program, as a module, which finds the training's beside it."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        path = SCRIPTS / "evaluate.py"
        spec = importlib.util.spec_from_file_location("evaluate_script", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["evaluate_script"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


def organ(first: int = 2) -> NDArray[np.bool_]:
    voxels = np.zeros(SHAPE, np.bool_)
    voxels[1:3, 2:6, first : first + 4] = True
    return voxels


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients labelled by SEG; and predictions, shifted by 0, 1 and 2 of 4 columns."""
    folder = tmp_path_factory.mktemp("evaluation")
    for number in range(PATIENTS):
        write_series(
            folder / "archive" / str(number), seed=str(number), shape=SHAPE,
            patient_id=f"P{number}",
        )  # fmt: skip
    plan = dd.plan_stacks(dd.scan(folder / "archive", progress=False))
    for name in ("labels", "predictions"):
        (folder / name).mkdir()
    for number, stack in enumerate(sorted(plan.stacks, key=lambda stack: stack.patient_id)):
        dd.write_segmentation(folder / f"labels/{number}.dcm", organ(), stack, ["Organ"])
        found = organ(2 + number)
        dd.write_segmentation(folder / f"predictions/{number}.dcm", found, stack, ["Organ"])
    dd.make_split(plan, {"train": 0.5, "val": 0.5}, seed=1, balanced=True).save(
        folder / "split.json"
    )
    return folder


def configure(archive: Path, folder: Path, **changes: Any) -> Path:
    told: dict[str, Any] = {
        "data": {"archive": str(archive / "archive"), "split": str(archive / "split.json")},
        "labels": {
            "kind": "SEG", "folder": str(archive / "labels"),
            "segments": {"organ": "(?i)organ ?1?"},
        },
        "network": {
            "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
            "channels": [2, 4], "strides": [2],
        },
        "loss": {"_target_": "DiceCELoss"},
        "folder": str(folder / "run"),
        "device": "cpu",
        "workers": 0,
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**told, **changes}))
    return path


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def checkpoint_of(config: Path, split: dd.Split) -> None:
    """Write one as a training would, of a network that has learned nothing."""
    settings = load_settings(config, TrainingSettings)
    network = build(settings.network, "network")
    Path(settings.folder).mkdir()
    Checkpoint(
        {"network": network.state_dict()}, {}, {}, {"split": split.fingerprint}, settings.decisive
    ).save(Path(settings.folder) / "best.pt")


def run(program: ModuleType, *arguments: object) -> int:
    status = program.main([str(each) for each in arguments])
    assert isinstance(status, int)
    return status


def test_predictions_in_a_folder_are_found_and_scored(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(archive, tmp_path)
    scored: dict[str, float] = {}

    for part in ("train", "val"):
        status = run(
            program, "--config", config, "--predictions", archive / "predictions", "--part", part,
            "--out", tmp_path / part, "--by", "manufacturer", "--worst", 1,
        )  # fmt: skip
        assert status == 0
        scored |= {row["patient_id"]: float(row["dice"]) for row in rows_of(tmp_path / part)}
        assert "data:image/png" in (tmp_path / part / "scores.html").read_text()

    assert scored == {"P0": 1.0, "P1": 0.75, "P2": 0.5}
    assert "organ: Dice" in capsys.readouterr().out


def test_a_prediction_that_is_not_there_is_told_and_not_scored(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(archive, tmp_path)
    (tmp_path / "none").mkdir()

    status = run(program, "--config", config, "--predictions", tmp_path / "none")

    assert status == 1
    assert "no prediction in the folder" in capsys.readouterr().out
    assert all(row["error"] for row in rows_of(tmp_path / "run" / "evaluation"))


def test_a_prediction_of_another_name_is_not_scored_as_missed(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(archive, tmp_path)
    (tmp_path / "named").mkdir()
    plan = dd.plan_stacks(dd.scan(archive / "archive", progress=False))
    for number, stack in enumerate(plan.stacks):
        dd.write_segmentation(tmp_path / f"named/{number}.dcm", organ(), stack, ["Liver"])

    status = run(program, "--config", config, "--predictions", tmp_path / "named")

    assert status == 1
    assert "no segment is 'organ'; not asked for: 'Liver'" in capsys.readouterr().out


def test_files_of_class_numbers_are_called_by_their_stacks(
    program: ModuleType, archive: Path, tmp_path: Path
) -> None:
    config = configure(archive, tmp_path)
    (tmp_path / "files").mkdir()
    for stack in dd.plan_stacks(dd.scan(archive / "archive", progress=False)).stacks:
        classes = dd.Volume(organ(3).astype(np.int16), "stored", stack.valid, stack)
        dd.write_volume(tmp_path / "files" / f"{stack.id}.nii.gz", classes)

    status = run(program, "--config", config, "--predictions", tmp_path / "files")

    assert status == 0
    assert {row["dice"] for row in rows_of(tmp_path / "run" / "evaluation")} == {"0.75"}


@pytest.mark.parametrize("patches", [None, {"size": [4, 4, 4], "overlap": 0.5}])
def test_the_network_of_a_checkpoint_predicts_and_is_scored(
    program: ModuleType, archive: Path, tmp_path: Path, patches: dict[str, Any] | None
) -> None:
    config = configure(archive, tmp_path, patches=patches)
    checkpoint_of(config, dd.Split.load(archive / "split.json"))

    status = run(program, "--config", config, "--save", tmp_path / "saved")

    assert status == 0
    rows = rows_of(tmp_path / "run" / "evaluation")
    assert {row["segment"] for row in rows} == {"organ"}
    assert {row["grid"] for row in rows} == {"same_grid"}
    # What was saved scores the same when it is read back.
    run(program, "--config", config, "--predictions", tmp_path / "saved", "--out", tmp_path / "b")
    again = [(row["case"], row["dice"], row["prediction_ml"]) for row in rows_of(tmp_path / "b")]
    assert again == [(row["case"], row["dice"], row["prediction_ml"]) for row in rows]


def test_a_checkpoint_of_another_split_is_refused(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(archive, tmp_path)
    plan = dd.plan_stacks(dd.scan(archive / "archive", progress=False))
    other = dd.make_split(plan, {"train": 0.6, "val": 0.4}, seed=5, balanced=True)
    kept = dd.Split.load(archive / "split.json")
    turned = dd.Split(
        other.seed, other.shares,
        tuple(
            type(group)(**{**{name: getattr(group, name) for name in group.__slots__},
                           "part": "val" if group.part == "train" else "train"})
            for group in kept.groups
        ),
        other.catalog_fingerprint,
    )  # fmt: skip
    checkpoint_of(config, turned)

    assert run(program, "--config", config) == 2
    assert "trained with another split" in capsys.readouterr().err
    assert run(program, "--config", config, "--other-split") == 0


def test_a_checkpoint_of_other_settings_is_refused(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint_of(configure(archive, tmp_path), dd.Split.load(archive / "split.json"))

    status = run(program, "--config", configure(archive, tmp_path, window=[-1000, 400]))

    assert status == 2
    assert "another setting of window" in capsys.readouterr().err

"""`scripts/train.py`: the same losses after a kill, disjoint samples on ranks, refusals by name."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest
import torch
import yaml

import dicomdata as dd
from dicomdata.config import load_settings
from dicomdata.config.training import TrainingSettings
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    Configure = Callable[..., Path]

PROJECT = Path(__file__).resolve().parents[1]
SCRIPT = PROJECT / "scripts" / "train.py"

SHAPE = (8, 16, 16)
PATIENTS = 5

KILLING = '''
"""A loss that ends its process, once, at the call of a number."""
import os, signal
from monai.losses import DiceCELoss

class KillingLoss(DiceCELoss):
    def __init__(self, at=0, flag="", signal="SIGKILL", **options):
        super().__init__(**options)
        self.at, self.flag, self.signal, self.calls = at, flag, signal, 0

    def forward(self, output, label):
        self.calls += 1
        if self.calls == self.at and not os.path.exists(self.flag):
            open(self.flag, "w").close()
            os.kill(os.getpid(), getattr(signal, self.signal))
        return super().forward(output, label)
'''


@pytest.fixture(scope="module")
def train() -> ModuleType:
    """The program, as a module: workers find its classes by name."""
    spec = importlib.util.spec_from_file_location("train", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five patients with a bright cube each, labelled by SEG, NIfTI and a table; and a split."""
    folder = tmp_path_factory.mktemp("training")
    for number in range(PATIENTS):
        stored = np.random.default_rng(number).integers(900, 1100, SHAPE).astype(np.uint16)
        stored[2:6, 3 + number : 8 + number, 4:10] += 500
        write_series(
            folder / "archive" / str(number), seed=str(number), stored=stored,
            patient_id=f"P{number}",
        )  # fmt: skip
    plan = dd.plan_stacks(dd.scan(folder / "archive", progress=False))
    rows = ["PatientID,path,stage"]
    (folder / "seg").mkdir()
    for number, stack in enumerate(plan.stacks):
        mask = dd.read_volume(stack).voxels > 250
        name = stack.patient_id
        dd.write_segmentation(folder / "seg" / f"{name}.dcm", mask, stack, ["Organ"])
        affine = stack.affine_ras[:, (2, 1, 0, 3)]
        image = nibabel.Nifti1Image(mask.astype(np.uint8).T, affine)  # type: ignore[no-untyped-call]
        nibabel.save(image, folder / f"{name}.nii.gz")
        rows.append(f"{name},{name}.nii.gz,{'early' if number % 2 else 'late'}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    split = dd.make_split(plan, {"train": 0.6, "val": 0.4}, seed=1, balanced=True)
    split.save(folder / "split.json")
    (folder / "killing.py").write_text(KILLING)
    return folder


@pytest.fixture
def configure(archive: Path, tmp_path: Path) -> Configure:
    """Write a file of settings: a small segmentation from SEG, but for what is said."""

    def write(name: str = "config.yaml", **changes: Any) -> Path:
        settings: dict[str, Any] = {
            "data": {"archive": str(archive / "archive"), "split": str(archive / "split.json")},
            "labels": {
                "kind": "SEG", "folder": str(archive / "seg"), "segments": {"organ": "Organ"}
            },
            "network": {
                "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
                "channels": [4, 8], "strides": [2], "dropout": 0.2,
            },
            "loss": {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True},
            "optimizer": {"_target_": "Adam", "lr": 0.01},
            "patches": {"size": [4, 8, 8], "per_visit": 2, "foreground": 0.5},
            "window": [-200, 600],
            "transforms": [
                {"_target_": "RandFlipd", "keys": ["image", "label"], "prob": 0.5,
                 "spatial_axis": 0},
                {"_target_": "RandGaussianNoised", "keys": "image", "prob": 1.0, "std": 0.05},
            ],
            "folder": str(tmp_path / "run"),
            "epochs": 2, "batch_size": 1, "workers": 0, "device": "cpu", "seed": 3,
            "checkpoint_every": 2, "cache": {"kind": "memory", "max_bytes": "10 MB"},
        }  # fmt: skip
        path = tmp_path / name
        path.write_text(yaml.safe_dump(settings | changes))
        return path

    return write


def lines(folder: Path | str, kind: str, name: str = "log.jsonl") -> list[dict[str, Any]]:
    told = [json.loads(line) for line in (Path(folder) / name).read_text().splitlines()]
    return [line for line in told if line["kind"] == kind]


def losses(folder: Path | str) -> list[float]:
    return [line["loss"] for line in lines(folder, "step")]


def refused(train: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the program; give the one line in which it refuses."""
    capsys.readouterr()
    assert train.main(list(map(str, arguments))) == 2
    return capsys.readouterr().err.splitlines()[-1]


# --- a run ----------------------------------------------------------------------------------------


def test_a_training_leaves_checkpoints_and_a_log(
    train: ModuleType, configure: Configure, tmp_path: Path
) -> None:
    status = train.main(["--config", str(configure(validation_transforms=[]))])

    assert status == 0
    assert {"last.pt", "best.pt", "log.jsonl"} <= set(os.listdir(tmp_path / "run"))
    steps, epochs = lines(tmp_path / "run", "step"), lines(tmp_path / "run", "epoch")
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in epochs] == [0, 1]
    for line in epochs:
        own = [step["loss"] for step in steps if step["epoch"] == line["epoch"]]
        assert math.isclose(line["loss"], sum(own) / len(own))
        assert set(line["scores"]["dice"]) == {"background", "organ"}


def test_a_training_learns_where_the_organ_is(
    train: ModuleType, configure: Configure, tmp_path: Path
) -> None:
    network = {
        "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
        "channels": [4, 8], "strides": [2], "norm": None,
    }  # fmt: skip
    optimizer = {"_target_": "Adam", "lr": 0.03}

    train.main(["--config", str(configure(
        network=network, optimizer=optimizer, epochs=20, transforms=[], checkpoint_every=100,
        validate_every=20,
    ))])  # fmt: skip

    assert lines(tmp_path / "run", "epoch")[-1]["scores"]["dice"]["organ"] > 0.8


def test_a_run_that_was_killed_in_mid_epoch_goes_on_with_the_same_losses(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(str(archive))
    loss = {
        "_target_": "killing.KillingLoss", "at": 6, "flag": str(tmp_path / "killed"),
        "to_onehot_y": True, "softmax": True,
    }  # fmt: skip
    data = {"archive": str(archive / "archive"), "split": str(archive / "split.json")}
    # Nothing is validated, so that the sixth call is the sixth step: the last of epoch 1.
    options: dict[str, Any] = {"loss": loss, "data": {**data, "validate_on": None}, "epochs": 3}
    killed = configure(**options)
    command = [sys.executable, str(SCRIPT), "--config", str(killed), "--allow", "killing"]
    environment = {**os.environ, "PYTHONPATH": str(archive)}

    done = subprocess.run(command, env=environment, capture_output=True, check=False)

    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(losses(tmp_path / "run")) == 5
    whole = configure("whole.yaml", **options, folder=str(tmp_path / "whole"))
    assert train.main(["--config", str(whole), "--allow", "killing"]) == 0
    assert train.main(["--config", str(killed), "--allow", "killing", "--resume"]) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "run")) == 9
    means = [
        [line["loss"] for line in lines(tmp_path / name, "epoch")] for name in ("run", "whole")
    ]
    assert means[0] == pytest.approx(means[1], rel=1e-12)


def test_a_run_that_ended_before_its_validation_validates_once(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(str(archive))
    # The checkpoint is of the third step, the last of its epoch; the fourth call is a validation.
    loss = {
        "_target_": "killing.KillingLoss", "at": 4, "flag": str(tmp_path / "killed"),
        "signal": "SIGINT", "to_onehot_y": True, "softmax": True,
    }  # fmt: skip
    options: dict[str, Any] = {"loss": loss, "checkpoint_every": 3}
    ended = configure(**options)
    assert train.main(["--config", str(ended), "--allow", "killing"]) == 130
    assert len(losses(tmp_path / "run")) == 3

    assert train.main(["--config", str(ended), "--allow", "killing", "--resume"]) == 0

    whole = configure("whole.yaml", **options, folder=str(tmp_path / "whole"))
    assert train.main(["--config", str(whole), "--allow", "killing"]) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    epochs = [lines(tmp_path / name, "epoch") for name in ("run", "whole")]
    assert [line["scores"] for line in epochs[0]] == [line["scores"] for line in epochs[1]]
    assert len(epochs[0]) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_extended_is_the_longer_run(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path, workers: int
) -> None:
    options = {
        "scheduler": {"_target_": "StepLR", "step_size": 1, "gamma": 0.5},
        "data": {
            "archive": str(archive / "archive"), "split": str(archive / "split.json"),
            "validate_on": None,
        },
    }  # fmt: skip
    short = configure(epochs=1, workers=workers, **options)
    assert train.main(["--config", str(short)]) == 0
    longer = configure(epochs=3, workers=workers, **options)
    assert train.main(["--config", str(longer), "--resume"]) == 0

    whole = configure("whole.yaml", epochs=3, **options, folder=str(tmp_path / "whole"))
    assert train.main(["--config", str(whole)]) == 0

    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    rates = [line["learning_rate"] for line in lines(tmp_path / "run", "epoch")]
    assert rates == [0.01, 0.005, 0.0025]


# --- two ranks ------------------------------------------------------------------------------------


def test_two_ranks_see_disjoint_samples_and_together_all_for_any_number_of_workers(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path
) -> None:
    # Of the smaller part, so that each rank has one stack of two: "repeat" gives none twice.
    data = {
        "archive": str(archive / "archive"), "split": str(archive / "split.json"),
        "train": "val", "validate_on": None,
    }  # fmt: skip
    config = configure(data=data, workers=1, epochs=2)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
        str(SCRIPT), "--config", str(config),
    ]  # fmt: skip

    done = subprocess.run(command, capture_output=True, check=False, text=True)

    assert done.returncode == 0, done.stderr
    ranks = [lines(tmp_path / "run", "step", name) for name in ("log.jsonl", "log.rank1.jsonl")]
    stacks = dd.Split.load(archive / "split.json").stacks(
        dd.plan_stacks(dd.open_catalog(tmp_path / "run" / "archive.catalog")), "val"
    )
    for epoch in range(2):
        seen = [
            {name.split(" at ")[0] for line in rank if line["epoch"] == epoch
             for name in line["samples"]}
            for rank in ranks
        ]  # fmt: skip
        assert not seen[0] & seen[1]
        assert seen[0] | seen[1] == {stack.id for stack in stacks}
    # Alone, without workers: the same patches of the same stacks.
    alone = configure("alone.yaml", data=data, epochs=2, folder=str(tmp_path / "alone"))
    assert train.main(["--config", str(alone)]) == 0
    together = {
        (line["epoch"], name) for rank in ranks for line in rank for name in line["samples"]
    }
    one = {
        (line["epoch"], name) for line in lines(tmp_path / "alone", "step")
        for name in line["samples"]
    }  # fmt: skip
    assert together == one


# --- other labels ---------------------------------------------------------------------------------


def test_label_files_give_the_same_losses_as_segmentations(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path
) -> None:
    labels = {
        "kind": "files", "table": str(archive / "cases.csv"), "column": "path",
        "segments": {"organ": "1"},
    }  # fmt: skip
    assert train.main(["--config", str(configure(epochs=1))]) == 0

    files = configure("files.yaml", labels=labels, epochs=1, folder=str(tmp_path / "files"))
    assert train.main(["--config", str(files)]) == 0

    assert losses(tmp_path / "files") == losses(tmp_path / "run")


def test_cases_are_classified_by_a_table(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path
) -> None:
    labels = {
        "kind": "cases", "table": str(archive / "cases.csv"), "column": "stage",
        "classes": ["early", "late"],
    }  # fmt: skip
    network = {
        "_target_": "monai.networks.nets.Classifier", "in_shape": [1, 16, 16, 8], "classes": 2,
        "channels": [2, 4], "strides": [2, 2],
    }  # fmt: skip
    loss = {"_target_": "CrossEntropyLoss"}
    pad = {"_target_": "ResizeWithPadOrCropd", "keys": "image", "spatial_size": [16, 16, 8]}

    config = configure(
        labels=labels, network=network, loss=loss, patches=None, transforms=[pad],
        validation_transforms=[pad], batch_size=2,
    )  # fmt: skip

    assert train.main(["--config", str(config)]) == 0
    assert 0 <= lines(tmp_path / "run", "epoch")[-1]["accuracy"] <= 1


# --- what is refused ------------------------------------------------------------------------------


def test_a_run_that_is_there_is_not_overwritten(
    train: ModuleType, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(epochs=1)
    train.main(["--config", str(config)])

    told = refused(train, capsys, "--config", config)

    assert "last.pt: a run is there: --resume goes on with it" in told


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


def test_a_network_of_other_classes_is_refused(
    train: ModuleType, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    network = {
        "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 1,
        "channels": [2, 4], "strides": [2],
    }  # fmt: skip

    told = refused(train, capsys, "--config", configure(network=network))

    assert "network: its output is (2, 1, 8, 8, 4), expected (2, 2, 8, 8, 4)" in told


def test_a_loss_that_is_no_number_ends_the_run(
    train: ModuleType, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(train, capsys, "--config", configure(optimizer={"_target_": "SGD", "lr": 1e38}))

    assert "the loss is nan, of " in told


def test_tensorboard_is_written_where_it_is_installed_and_asked_for_by_name_where_not(
    train: ModuleType, configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(epochs=1, tensorboard=True)

    if importlib.util.find_spec("tensorboard") is None:
        assert "pip install dicomdata[training]" in refused(train, capsys, "--config", config)
    else:
        assert train.main(["--config", str(config)]) == 0
        assert list((tmp_path / "run" / "tensorboard").iterdir())


# --- the settings that are shipped ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [path.name for path in (PROJECT / "configs").glob("*.yaml") if path.stem != "demo"]
)
def test_the_settings_that_are_shipped_are_valid(train: ModuleType, name: str) -> None:
    settings = load_settings(PROJECT / "configs" / name, TrainingSettings)

    ranks = train.Ranks(0, 1, torch.device("cpu"))
    assert train.make_learner(settings, ranks, ()).classes == settings.labels.class_names
    for transforms in (settings.transforms, settings.validation_transforms):
        assert len(train.build_transforms(transforms).transforms) == len(transforms)

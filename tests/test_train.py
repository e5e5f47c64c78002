"""`scripts/train.py`: the same losses after a kill, disjoint samples on ranks, refusals by name."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from launching import Launcher

import dicomdata as dd
from dicomdata.config import load_settings
from dicomdata.config.training import TrainingSettings
from dicomdata.testing.phantoms import write_series
from dicomdata.training import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    Configure = Callable[..., Path]

PROJECT = Path(__file__).resolve().parents[1]
SCRIPT = PROJECT / "scripts" / "train.py"

SHAPE = (8, 16, 16)
PATIENTS = 5

KILLING = '''
"""A loss that sends its process a signal, once, at the call of a number."""
import os, signal
from monai.losses import DiceCELoss

class KillingLoss(DiceCELoss):
    def __init__(self, at=0, flag="", signal="SIGKILL", rank="0", **options):
        super().__init__(**options)
        self.at, self.flag, self.signal, self.calls = at, flag, signal, 0
        self.mine = os.environ.get("RANK", "0") == rank

    def forward(self, output, label):
        self.calls += 1
        if self.mine and self.calls == self.at and not os.path.exists(self.flag):
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
    everyone = tuple(replace(group, part="train") for group in split.groups)
    replace(split, groups=everyone).save(folder / "all.json")
    (folder / "killing.py").write_text(KILLING)
    return folder


@pytest.fixture(scope="module")
def launcher(archive: Path) -> Iterator[Launcher]:
    """Starts the program in processes of its own."""
    with Launcher(archive) as started:
        yield started


def settings_of(archive: Path, folder: Path) -> dict[str, Any]:
    """A small segmentation from SEG."""
    return {
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
        "folder": str(folder / "run"),
        "epochs": 2, "batch_size": 1, "workers": 0, "device": "cpu", "seed": 3,
        "checkpoint_every": 2, "cache": {"kind": "memory", "max_bytes": "10 MB"},
    }  # fmt: skip


@pytest.fixture
def configure(archive: Path, tmp_path: Path) -> Configure:
    """Write a file of settings: those of `settings_of`, but for what is said."""

    def write(name: str = "config.yaml", **changes: Any) -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(settings_of(archive, tmp_path) | changes))
        return path

    return write


def killing(folder: Path, *, at: int, **options: str) -> dict[str, Any]:
    """A loss that sends a signal at the call of a number."""
    return {
        "_target_": "killing.KillingLoss", "at": at, "flag": str(folder / "sent"),
        "to_onehot_y": True, "softmax": True, **options,
    }  # fmt: skip


HALVING = {"_target_": "StepLR", "step_size": 1, "gamma": 0.5}

KILLING_ALLOWED = ("--allow", "killing")


def unvalidated(archive: Path, split: str = "split.json") -> dict[str, Any]:
    return {
        "archive": str(archive / "archive"), "split": str(archive / split), "validate_on": None
    }  # fmt: skip


def means(folder: Path) -> list[float]:
    return [line["loss"] for line in lines(folder, "epoch")]


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


@pytest.fixture(scope="module")
def whole(
    launcher: Launcher, archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """What runs leave that nobody ends: three epochs without validation, and two with."""
    runs: dict[str, dict[str, Any]] = {
        "unvalidated": {"data": unvalidated(archive), "epochs": 3},
        "validated": {"scheduler": HALVING},
    }
    folders = {}
    for name, changes in runs.items():
        folder = tmp_path_factory.mktemp(name)
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(settings_of(archive, folder) | changes))
        assert launcher.start("--config", path).statuses == [0]
        folders[name] = folder / "run"
    return folders


@pytest.mark.parametrize(
    ("asked", "status", "left"), [("SIGKILL", -9, 4), ("SIGTERM", 143, 6), ("SIGINT", 130, 6)]
)
def test_a_run_that_was_ended_in_mid_epoch_goes_on_with_the_same_losses(
    launcher: Launcher, configure: Configure, archive: Path, tmp_path: Path,
    whole: dict[str, Path], asked: str, status: int, left: int,
) -> None:  # fmt: skip
    # Nothing is validated, so that the sixth call is the sixth step: the last of epoch 1.
    loss = killing(tmp_path, at=6, signal=asked)
    options = {"loss": loss, "data": unvalidated(archive), "epochs": 3}
    workers = 0 if asked == "SIGKILL" else 1

    done = launcher.start("--config", configure(**options, workers=workers), *KILLING_ALLOWED)

    assert done.statuses == [status], done.told
    # Who is asked ends the step, and leaves a checkpoint of it.
    assert Checkpoint.load(tmp_path / "run" / "last.pt").progress["step"] == left
    assert (f"train: stopped by {asked}: --resume goes on" in done.told) == (status > 0)
    done = launcher.start("--config", configure(**options), *KILLING_ALLOWED, "--resume")
    assert done.statuses == [0], done.told
    assert losses(tmp_path / "run") == losses(whole["unvalidated"])
    assert len(losses(tmp_path / "run")) == 9
    assert means(tmp_path / "run") == pytest.approx(means(whole["unvalidated"]), rel=1e-12)


@pytest.mark.parametrize("asked", ["SIGKILL", "SIGTERM"])
def test_a_run_that_was_ended_in_a_validation_validates_once(
    launcher: Launcher, configure: Configure, tmp_path: Path, whole: dict[str, Path], asked: str
) -> None:
    # Three steps are an epoch; the fourth call is of the first validation.
    options = {
        "loss": killing(tmp_path, at=4, signal=asked), "checkpoint_every": 100,
        "scheduler": HALVING,
    }  # fmt: skip
    ended = configure(**options)
    launcher.start("--config", ended, *KILLING_ALLOWED)
    assert len(losses(tmp_path / "run")) == 3
    assert not lines(tmp_path / "run", "epoch")

    assert launcher.start("--config", ended, *KILLING_ALLOWED, "--resume").statuses == [0]

    assert losses(tmp_path / "run") == losses(whole["validated"])
    assert lines(tmp_path / "run", "epoch") == lines(whole["validated"], "epoch")
    assert len(lines(tmp_path / "run", "epoch")) == 2


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

RANK_LOGS = ("log.jsonl", "log.rank1.jsonl")


@pytest.fixture(scope="module")
def together(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks of torchrun make of five stacks in two epochs, with a worker each."""
    folder = tmp_path_factory.mktemp("together")
    path = folder / "config.yaml"
    data = unvalidated(archive, split="all.json")
    settings = settings_of(archive, folder) | {"data": data, "workers": 1}
    path.write_text(yaml.safe_dump(settings))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
        str(SCRIPT), "--config", str(path),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_two_ranks_see_disjoint_samples_and_together_all(together: Path) -> None:
    known = dd.plan_stacks(dd.open_catalog(together / "archive.catalog")).stacks

    for epoch in range(2):
        visits = [
            [line["samples"][0].split(" at ")[0] for line in lines(together, "step", name)
             if line["epoch"] == epoch]
            for name in RANK_LOGS
        ]  # fmt: skip

        assert [len(each) for each in visits] == [3, 3]
        assert {*visits[0], *visits[1]} == {stack.id for stack in known}
        # Of five, one is given twice, so that both have as many steps: the first, at the end.
        assert {*visits[0]} & {*visits[1]} == {visits[0][0]}
        assert visits[1][-1] == visits[0][0]


@pytest.mark.parametrize("workers", [0, 2])
def test_two_ranks_see_the_same_for_any_number_of_workers(
    launcher: Launcher, configure: Configure, archive: Path, tmp_path: Path, together: Path,
    workers: int,
) -> None:  # fmt: skip
    config = configure(data=unvalidated(archive, split="all.json"), workers=workers)

    assert launcher.start("--config", config, ranks=2).statuses == [0, 0]

    for name in RANK_LOGS:
        assert lines(tmp_path / "run", "step", name) == lines(together, "step", name)


@pytest.mark.parametrize(
    ("rank", "asked", "statuses"),
    [("1", "SIGKILL", [-9, -9]), ("1", "SIGTERM", [143, 143])],
)
def test_two_ranks_of_which_one_was_ended_go_on_with_the_same_losses(
    launcher: Launcher, configure: Configure, archive: Path, tmp_path: Path, together: Path,
    rank: str, asked: str, statuses: list[int],
) -> None:  # fmt: skip
    # The fifth step of six, after the checkpoint of the fourth.
    loss = killing(tmp_path, at=5, signal=asked, rank=rank)
    options = {"loss": loss, "data": unvalidated(archive, split="all.json")}

    done = launcher.start("--config", configure(**options), *KILLING_ALLOWED, ranks=2)

    assert done.statuses == statuses, done.told
    resumed = configure(**options, workers=2)
    done = launcher.start("--config", resumed, *KILLING_ALLOWED, "--resume", ranks=2)
    assert done.statuses == [0, 0], done.told
    for name in RANK_LOGS:
        assert lines(tmp_path / "run", "step", name) == lines(together, "step", name)
    assert means(tmp_path / "run") == pytest.approx(means(together), rel=1e-12)


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


# --- classes that overlap, several outputs, int16 -------------------------------------------------

TINY_UNET: dict[str, Any] = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
    "channels": [4, 8], "strides": [2],
}  # fmt: skip


@pytest.mark.parametrize(
    ("segments", "loss"),
    [
        # The organ's bright middle is a class within the organ.
        ({"organ": "Organ", "core": "Core"}, {"_target_": "DiceFocalLoss", "gamma": 0.0}),
        ({"core": "Core"}, {"_target_": "DiceCELoss"}),
    ],
)
def test_classes_that_overlap_are_learned_in_channels(
    train: ModuleType, configure: Configure, nested: Path, tmp_path: Path,
    segments: dict[str, str], loss: dict[str, Any],
) -> None:  # fmt: skip
    labels = {"kind": "SEG", "folder": str(nested), "segments": segments, "overlap": "channels"}
    config = configure(
        labels=labels, loss={**loss, "sigmoid": True}, transforms=[], epochs=10,
        network={**TINY_UNET, "out_channels": len(segments), "norm": None},
        optimizer={"_target_": "Adam", "lr": 0.03}, checkpoint_every=100, validate_every=10,
    )  # fmt: skip

    assert train.main(["--config", str(config)]) == 0

    scores = lines(tmp_path / "run", "epoch")[-1]["scores"]
    assert set(scores["dice"]) == set(segments)
    assert scores["dice"]["core"] > 0.5


@pytest.fixture(scope="module")
def nested(archive: Path) -> Path:
    """Segmentations of which one class lies within the other."""
    folder = archive / "nested"
    folder.mkdir()
    plan = dd.plan_stacks(dd.scan(archive / "archive", progress=False))
    for stack in plan.stacks:
        organ = dd.read_volume(stack).voxels > 250
        core = organ.copy()
        core[:3] = False
        masks = np.stack([organ, core])
        dd.write_segmentation(folder / f"{stack.patient_id}.dcm", masks, stack, ["Organ", "Core"])
    return folder


def test_a_network_of_several_outputs_learns_from_all_of_them(
    train: ModuleType, configure: Configure, tmp_path: Path
) -> None:
    network = {
        "_target_": "DynUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
        "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2],
        "filters": [2, 4, 8], "deep_supervision": True, "deep_supr_num": 1,
    }  # fmt: skip
    loss = {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True}
    deep = {"_target_": "DeepSupervisionLoss", "loss": loss}

    assert train.main(["--config", str(configure(network=network, loss=deep, epochs=1))]) == 0

    assert len(losses(tmp_path / "run")) == 3
    assert set(lines(tmp_path / "run", "epoch")[0]["scores"]["dice"]) == {"background", "organ"}


def test_int16_that_is_made_float32_on_the_device_gives_the_same_losses(
    train: ModuleType, configure: Configure, tmp_path: Path
) -> None:
    flip = {"_target_": "RandFlipd", "keys": ["image", "label"], "prob": 0.5, "spatial_axis": 0}
    # Larger than the volumes: padding is windowed too.
    patches = {"size": [12, 8, 20], "foreground": 0.5}
    options = {"transforms": [flip], "patches": patches}
    assert train.main(["--config", str(configure(**options))]) == 0

    whole = configure("int16.yaml", **options, upload="int16", folder=str(tmp_path / "int16"))
    assert train.main(["--config", str(whole)]) == 0

    assert losses(tmp_path / "int16") == losses(tmp_path / "run")
    assert lines(tmp_path / "int16", "epoch") == lines(tmp_path / "run", "epoch")


def test_int16_that_a_transform_has_made_float_is_refused(
    train: ModuleType, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(train, capsys, "--config", configure(upload="int16"))

    assert "upload: int16 was asked for, and a transform has made torch.float32" in told


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("upload", ["float32", "int16"])
def test_the_same_script_trains_on_a_gpu_from_pinned_memory(
    train: ModuleType, configure: Configure, tmp_path: Path, upload: str
) -> None:
    options = {"transforms": [], "precision": "float32", "workers": 2, "upload": upload}
    here = configure(**options, epochs=1)
    assert train.main(["--config", str(here)]) == 0
    there = configure(
        "gpu.yaml", **options, epochs=1, device="cuda", folder=str(tmp_path / "gpu")
    )  # fmt: skip

    assert train.main(["--config", str(there)]) == 0

    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "run"), rel=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_come_in_pinned_memory_where_there_is_a_gpu(
    train: ModuleType, configure: Configure
) -> None:
    settings = load_settings(configure(), TrainingSettings)
    with train.join_ranks("cuda") as ranks:
        loader = train.make_loader(settings, ranks, [], None)

    assert loader.pin_memory


# --- what is refused ------------------------------------------------------------------------------


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
    assert train.make_learner(settings, ranks, ()).targets.classes == settings.labels.class_names
    for transforms in (settings.transforms, settings.validation_transforms):
        assert len(train.build_transforms(transforms).transforms) == len(transforms)

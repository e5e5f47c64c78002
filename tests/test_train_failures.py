"""`scripts/train.py` where something breaks, moves or changes: told in one line, by name."""

from __future__ import annotations

import gc
import json
import multiprocessing
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.data import DataLoader
from trainings import KILLING_ALLOWED, killing, lines, losses, refused, unvalidated

import dicomdata as dd
from dicomdata.testing.phantoms import write_series
from dicomdata.training import Checkpoint, NamedSamples, claim_folder, is_named, one_line

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from launching import Launcher
    from prepared_python import PreparedPython
    from trainings import Configure

pytest_plugins = ["training_fixtures"]

# --- what breaks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_transform_that_fails_is_told_with_its_stack_and_cause(
    train: ModuleType, configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    workers: int,
) -> None:  # fmt: skip
    failing = {"_target_": "Resized", "keys": "image", "spatial_size": [4, 4]}
    config = configure(transforms=[failing], workers=workers)

    told = refused(train, capsys, "--config", config)

    catalog = dd.open_catalog(tmp_path / "run" / "archive.catalog")
    first = told.removeprefix("train: stack ").split(": ")[0]
    assert first in {stack.id for stack in dd.plan_stacks(catalog).stacks}
    assert ": transform Resized: ValueError: len(spatial_size) must be" in told
    assert "Traceback" not in told
    assert train.main(["--config", str(config), "--traceback"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "in apply_transform" in shown


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stack_that_is_gone_in_mid_training_ends_it_by_name(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, workers: int,
) -> None:  # fmt: skip
    shutil.copytree(archive / "archive", tmp_path / "archive")
    (tmp_path / "removing.py").write_text(
        "import shutil\nfrom monai.losses import DiceCELoss\n\n\n"
        "class RemovingLoss(DiceCELoss):\n"
        "    def __init__(self, folder, **options):\n"
        "        super().__init__(**options)\n"
        "        self.folder = folder\n\n"
        "    def forward(self, output, label):\n"
        "        shutil.rmtree(self.folder, ignore_errors=True)\n"
        "        return super().forward(output, label)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    loss = {
        "_target_": "removing.RemovingLoss", "to_onehot_y": True, "softmax": True,
        "folder": str(tmp_path / "archive"),
    }  # fmt: skip
    data = {**unvalidated(archive, "all.json"), "archive": str(tmp_path / "archive")}
    config = configure(data=data, loss=loss, workers=workers, cache={"kind": "none"})

    told = refused(train, capsys, "--config", config, "--allow", "removing")

    assert told.startswith(f"train: {tmp_path}/archive/")
    assert "Traceback" not in told
    assert 1 <= len(losses(tmp_path / "run")) < 10


def test_a_worker_that_is_killed_is_told_and_the_run_goes_on_later(
    launcher: Launcher, configure: Configure, archive: Path, tmp_path: Path
) -> None:
    lethal = {"_target_": "killing.KillingTransform", "flag": str(tmp_path / "sent")}
    config = configure(transforms=[lethal], data=unvalidated(archive), workers=1)

    done = launcher.start("--config", config, *KILLING_ALLOWED)

    assert done.statuses == [2], done.told
    told = done.told.splitlines()[-1]
    assert told.startswith("train: DataLoader worker (pid")
    assert told.endswith("out of memory, most often; --resume goes on from the last checkpoint")
    done = launcher.start("--config", config, *KILLING_ALLOWED, "--resume")
    assert done.statuses == [0], done.told
    assert [line["step"] for line in lines(tmp_path / "run", "step")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("size", [[4, 4, 4], [4, 4]])
def test_no_worker_is_left_whether_a_run_ends_well_or_not(
    train: ModuleType, configure: Configure, size: list[int]
) -> None:
    # The second is no size of three axes. Workers heed no SIGTERM, by which Python would end them.
    resized = {"_target_": "Resized", "keys": ["image", "label"], "spatial_size": size,
               "mode": "nearest"}  # fmt: skip
    config = configure(transforms=[resized], validation_transforms=[resized], workers=1, epochs=1)
    before = set(multiprocessing.active_children())
    gc.disable()
    try:
        status = train.main(["--config", str(config)])
        left = set(multiprocessing.active_children()) - before
    finally:
        gc.enable()

    assert status == (0 if len(size) == 3 else 2)
    assert not left


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    prepared_python: PreparedPython, tmp_path: Path
) -> None:
    killed = """
import os, signal
import torch
from dicomdata.training import Checkpoint

Checkpoint({"weight": torch.zeros(1000)}, {}, {}, {}).save("last.pt")
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
Checkpoint({"weight": torch.ones(1000)}, {}, {}, {}).save("last.pt")
"""

    done = prepared_python.run(killed, folder=tmp_path)

    assert done.returncode == -9, done.stderr
    assert len(list(tmp_path.glob("last.pt*"))) == 2
    assert Checkpoint.load(tmp_path / "last.pt").state["weight"].sum() == 0


# --- what changes between runs --------------------------------------------------------------------


def test_two_runs_at_once_in_one_folder_are_refused(
    launcher: Launcher, configure: Configure, tmp_path: Path
) -> None:
    config = configure(epochs=1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt.01234567.partial").touch()  # the other run is writing it

    with claim_folder(tmp_path / "run"):
        done = launcher.start("--config", config)

    assert done.statuses == [2], done.told
    assert "run: another run is at work there, process " in done.told
    assert (tmp_path / "run" / "last.pt.01234567.partial").exists()
    assert launcher.start("--config", config).statuses == [0]


def test_a_killed_run_does_not_keep_its_folder(
    launcher: Launcher, configure: Configure, archive: Path, tmp_path: Path
) -> None:
    # Its worker outlives it for seconds.
    loss = killing(tmp_path, at=4)
    config = configure(loss=loss, data=unvalidated(archive), workers=1)
    assert launcher.start("--config", config, *KILLING_ALLOWED).statuses == [-9]

    done = launcher.start("--config", config, *KILLING_ALLOWED, "--resume")

    assert done.statuses == [0], done.told


def test_an_archive_that_has_moved_is_the_same_archive(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path
) -> None:
    for name in ("archive", "seg"):
        shutil.copytree(archive / name, tmp_path / "before" / name)
    data = {**unvalidated(archive), "archive": str(tmp_path / "before" / "archive")}
    labels = {
        "kind": "SEG", "folder": str(tmp_path / "before" / "seg"), "segments": {"organ": "Organ"}
    }  # fmt: skip
    assert train.main(["--config", str(configure(data=data, labels=labels, epochs=1))]) == 0
    (tmp_path / "before").rename(tmp_path / "after")

    moved = json.loads(json.dumps([data, labels]).replace("/before/", "/after/"))
    config = configure(data=moved[0], labels=moved[1], epochs=2)

    assert train.main(["--config", str(config), "--resume"]) == 0
    assert len(losses(tmp_path / "run")) == 6


def test_fewer_epochs_than_are_done_are_told(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = unvalidated(archive)
    assert train.main(["--config", str(configure(epochs=2, data=data))]) == 0
    before = (tmp_path / "run" / "log.jsonl").read_text()
    capsys.readouterr()

    fewer = configure(epochs=1, data=data)

    assert train.main(["--config", str(fewer), "--resume"]) == 0
    assert "2 epochs are done already, and epochs is 1: nothing is left" in capsys.readouterr().err
    assert (tmp_path / "run" / "log.jsonl").read_text() == before


def test_a_checkpoint_of_another_format_is_refused_by_it(tmp_path: Path) -> None:
    torch.save({"format": "dicomdata training 0", "weights": {}}, tmp_path / "last.pt")

    with pytest.raises(dd.ConfigError, match="is 'dicomdata training 0', expected 'dicomdata tra"):
        Checkpoint.load(tmp_path / "last.pt")


def test_patients_who_came_or_went_since_the_split_are_told(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(archive / "archive", tmp_path / "archive")
    write_series(tmp_path / "archive" / "new", seed="new", patient_id="P9")
    shutil.rmtree(tmp_path / "archive" / "0")
    data = {"archive": str(tmp_path / "archive"), "split": str(archive / "split.json")}

    told = refused(train, capsys, "--config", configure(data=data))

    assert "1 series of unknown patients came, and are in no part" in told
    assert "1 series are gone" in told


# --- classes --------------------------------------------------------------------------------------


def test_a_label_of_a_case_that_is_no_class_is_named(
    train: ModuleType, configure: Configure, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {
        "kind": "cases", "table": str(archive / "cases.csv"), "column": "stage",
        "classes": ["early", "advanced"],
    }  # fmt: skip

    told = refused(train, capsys, "--config", configure(labels=labels, patches=None))

    assert "cases.csv: labels that are no class: late; expected early, advanced" in told


@pytest.mark.parametrize("overlap", ["reject", "channels"])
def test_a_class_that_no_sample_had_is_told_after_the_first_epoch(
    train: ModuleType, configure: Configure, archive: Path, capsys: pytest.CaptureFixture[str],
    overlap: str,
) -> None:  # fmt: skip
    labels: dict[str, Any] = {
        "kind": "SEG", "folder": str(archive / "seg"), "missing": "empty", "overlap": overlap,
        "segments": {"organ": "Organ", "tumour": "Tumour"},
    }  # fmt: skip
    count = 2 if overlap == "channels" else 3
    network = {
        "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": count,
        "channels": [2, 4], "strides": [2],
    }  # fmt: skip
    loss = {"_target_": "DiceLoss", "sigmoid": True, "to_onehot_y": overlap == "reject"}
    patches = {"size": [8, 16, 16]}
    config = configure(
        labels=labels, network=network, loss=loss, patches=patches, data=unvalidated(archive)
    )

    assert train.main(["--config", str(config)]) == 0

    told = [line for line in capsys.readouterr().err.splitlines() if "no sample" in line]
    assert told == ["train: no sample of epoch 0 had any of: tumour"]


# --- the parts ------------------------------------------------------------------------------------


class Failing:
    """A transform of somebody else: not of MONAI, and of no kind of error in particular."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        raise KeyError(f"no mask in {sorted(sample)[:1]}\nand more")


def test_a_window_of_a_grid_that_fails_is_of_its_stack(stacks: list[dd.Stack]) -> None:
    grid = dd.PatchDataset(stacks, (None, 4, 4), where=dd.GridPatches(), transform=Failing())
    samples = NamedSamples(grid)
    each = len(grid) // len(stacks)

    for number, stack in enumerate(stacks):
        for window in (number * each, (number + 1) * each - 1):
            with pytest.raises(dd.ConfigError) as caught:
                samples[window]

            assert str(caught.value).startswith(f"stack {stack.id}: KeyError: ")
            assert "\n" not in str(caught.value)


def test_what_a_worker_adds_to_an_error_is_taken_off(stacks: list[dd.Stack]) -> None:
    samples = NamedSamples(dd.VolumeDataset(stacks, Failing()))
    loader = DataLoader(samples, batch_size=None, num_workers=1)

    with pytest.raises(dd.ConfigError) as caught:
        next(iter(loader))

    assert "Traceback" in str(caught.value)
    assert one_line(caught.value).startswith(f"stack {stacks[0].id}: KeyError: ")
    assert one_line(dd.PixelError("a.dcm: cut short")) == "a.dcm: cut short"
    assert is_named(caught.value)
    assert not is_named(RuntimeError("CUDA out of memory"))

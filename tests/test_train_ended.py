"""`scripts/train.py` ended and resumed: the losses of the run that nobody ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from trainings import (
    HALVING,
    KILLING_ALLOWED,
    killing,
    lines,
    losses,
    means,
    settings_of,
    unvalidated,
)

from dicomdata.training import Checkpoint

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from launching import Launcher
    from trainings import Configure

pytest_plugins = ["training_fixtures"]


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

"""`scripts/train.py` under torchrun: disjoint samples, together all, the same when it goes on."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
import yaml
from monai.transforms import Compose
from torch.utils.data import DataLoader
from trainings import KILLING_ALLOWED, SCRIPT, killing, lines, means, settings_of, unvalidated

import dicomdata as dd
from dicomdata.config import load_settings
from dicomdata.config.training import TrainingSettings
from dicomdata.training import Checkpoint, Ranks, Records

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from launching import Launcher
    from trainings import Configure

pytest_plugins = ["training_fixtures"]

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


def test_two_ranks_validate_the_network_that_is_saved(
    train: ModuleType, launcher: Launcher, configure: Configure, archive: Path, tmp_path: Path
) -> None:
    # Each rank has seen other samples, so that its own statistics of normalisation are others.
    network = settings_of(archive, tmp_path)["network"] | {"norm": "batch"}
    config = configure(network=network, epochs=1, batch_size=2)
    assert launcher.start("--config", config, ranks=2).statuses == [0, 0]
    (told,) = lines(tmp_path / "run", "epoch")

    settings, ranks = load_settings(config, TrainingSettings), Ranks(0, 1, torch.device("cpu"))
    learner = train.make_learner(settings, ranks, ())
    learner.load_state_dict(Checkpoint.load(tmp_path / "run" / "last.pt").state)
    with Records(tmp_path, ranks) as records:
        task = train.find_task(settings, ranks, records)
    watched = train.make_dataset(settings, task, None, Compose([]))
    scores = learner.validate(DataLoader(watched, batch_size=2, collate_fn=dd.collate))

    assert scores.loss == pytest.approx(told["validation_loss"], rel=1e-5)
    assert scores.dice == pytest.approx(told["scores"]["dice"])

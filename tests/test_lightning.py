"""`StackDataModule`: Lightning's trainer sees the samples that our own loop sees."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandGaussianNoised
from torch.utils.data import DataLoader

import dicomdata as dd
from dicomdata.errors import ConfigError, DicomDataWarning
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Planned = Callable[..., dd.StackPlan]

lightning = pytest.importorskip("pytorch_lightning")

from pytorch_lightning.callbacks import ModelCheckpoint  # noqa: E402 - where it is installed

from dicomdata.lightning import StackDataModule  # noqa: E402

pytestmark = [
    # It counts the cores, and tells to start a worker on each.
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    # It has not followed PyTorch yet.
    pytest.mark.filterwarnings(
        "ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"
    ),
    # A run that goes on writes beside the checkpoint that it goes on from.
    pytest.mark.filterwarnings(
        "ignore:Checkpoint directory .* exists and is not empty:UserWarning"
    ),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

SEED = 7
WINDOW = (-100.0, 100.0)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory, planned: Planned) -> tuple[dd.Stack, ...]:
    """Five volumes."""
    root = tmp_path_factory.mktemp("archive")
    for number in range(5):
        write_series(root / str(number), seed=str(number), intercept=-1000 + number)
    return planned(root).stacks


def noisy(stacks: tuple[dd.Stack, ...]) -> dd.VolumeDataset:
    """Give volumes that are others in each epoch: noise tells which."""
    return dd.VolumeDataset(stacks, Compose([RandGaussianNoised("image", 1.0, std=20.0)]))


Seen = list[tuple[str, float]]
"""Stack and sum of the voxels of each sample."""


def seen_in(batch: dict[str, Any]) -> Seen:
    sums = batch["image"].as_subclass(torch.Tensor).double().sum(dim=(1, 2, 3, 4))
    return list(zip(batch["stack"], sums.tolist(), strict=True))


def own_loop(dataset: dd.VolumeDataset, epochs: int = 2) -> Seen:
    """Give the samples of our own loop, batches of two."""
    sampler = dd.EpochSampler(dataset, seed=SEED)
    loader = DataLoader(dataset, batch_size=2, sampler=sampler, collate_fn=dd.collate)
    seen: Seen = []
    for _ in range(epochs):
        for batch in sampler.counted(loader):
            seen += seen_in(batch)
    return seen


class Watching(lightning.LightningModule):  # type: ignore[misc,name-defined]
    """A network of one number, which writes down what it is shown."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.stop_at = stop_at
        self.seen: dict[str, Seen] = {"train": [], "val": [], "test": [], "predict": []}
        self.images: list[torch.Tensor] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        if self.stop_at == self.global_step:
            raise KeyboardInterrupt
        self.images.append(batch["image"].as_subclass(torch.Tensor))
        self.seen["train"] += seen_in(batch)
        return self.weight * self.images[-1].float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class WatchingAll(Watching):
    """Looks at the other stages, too."""

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.seen["val"] += seen_in(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.seen["test"] += seen_in(batch)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen["predict"] += seen_in(batch)
        return self.weight


def new_trainer(folder: Path, *callbacks: Any, **options: Any) -> Any:
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(each, ModelCheckpoint) for each in callbacks),
        "default_root_dir": folder,
        "callbacks": list(callbacks),
        "num_sanity_val_steps": 0,
    }
    return lightning.Trainer(**{**settings, **options})


def every_step(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)


class Saving(lightning.Callback):  # type: ignore[misc,name-defined]
    """Saves a checkpoint at one kind of moment, each under its step."""

    def __init__(self, moment: str, folder: Path) -> None:
        def save(trainer: Any, *_: Any) -> None:
            trainer.save_checkpoint(folder / f"{moment}-{trainer.global_step}.ckpt")

        setattr(self, moment, save)


# --- samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fit_sees_the_samples_of_our_own_loop(
    workers: int, tmp_path: Path, stacks: tuple[dd.Stack, ...]
) -> None:
    dataset = noisy(stacks)
    data = StackDataModule(dataset, batch_size=2, seed=SEED, workers=workers)
    network = Watching()

    new_trainer(tmp_path).fit(network, datamodule=data)

    assert network.seen["train"] == own_loop(dataset)
    assert network.seen["train"][:5] != network.seen["train"][5:]


def test_int16_images_become_windowed_ones_on_the_device(
    tmp_path: Path, stacks: tuple[dd.Stack, ...]
) -> None:
    whole = dd.VolumeDataset(stacks, dtype=np.int16)
    data = StackDataModule(whole, batch_size=5, seed=SEED, window=WINDOW)
    network = Watching()

    new_trainer(tmp_path, max_epochs=1).fit(network, datamodule=data)

    assert network.seen["train"] == own_loop(dd.VolumeDataset(stacks, window=WINDOW), epochs=1)
    assert network.images[0].dtype == torch.float32


def test_other_stages_see_each_sample_once_and_in_order(
    tmp_path: Path, stacks: tuple[dd.Stack, ...]
) -> None:
    dataset = dd.VolumeDataset(stacks)
    data = StackDataModule(
        dataset, dataset, dataset, dataset, batch_size=2, seed=SEED, eval_batch_size=2
    )
    network, trainer = WatchingAll(), new_trainer(tmp_path, max_epochs=1)

    trainer.fit(network, datamodule=data)
    trainer.test(network, datamodule=data, verbose=False)
    trainer.predict(network, datamodule=data)

    for stage in ("val", "test", "predict"):
        assert [name for name, _ in network.seen[stage]] == [stack.id for stack in stacks]


def test_a_stage_without_a_dataset_is_refused_by_lightning(tmp_path: Path) -> None:
    data = StackDataModule(batch_size=2, seed=SEED)

    with pytest.raises(
        lightning.utilities.exceptions.MisconfigurationException, match="`test_dataloader"
    ):
        new_trainer(tmp_path).test(WatchingAll(), datamodule=data, verbose=False)


# --- going on where it was ------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_fit_that_was_stopped_goes_on_with_the_batches_that_were_left(
    step: int, workers: int, tmp_path: Path, stacks: tuple[dd.Stack, ...]
) -> None:
    # Epochs of three batches: after 3, one is over.
    dataset = noisy(stacks)
    stopped = Watching(stop_at=step)
    data = StackDataModule(dataset, batch_size=2, seed=SEED, workers=workers)
    with pytest.raises(SystemExit):  # that is how Lightning ends on Ctrl-C
        new_trainer(tmp_path, every_step(tmp_path)).fit(stopped, datamodule=data)

    resumed = Watching()
    data = StackDataModule(dataset, batch_size=2, seed=SEED, workers=workers)
    trainer = new_trainer(tmp_path, every_step(tmp_path))
    trainer.fit(resumed, datamodule=data, ckpt_path=tmp_path / f"step={step}.ckpt")

    assert stopped.seen["train"] + resumed.seen["train"] == own_loop(dataset)
    assert trainer.global_step == 6


@pytest.mark.parametrize(
    ("moment", "step"),
    [
        ("on_train_batch_start", 1),
        ("on_train_batch_end", 3),
        ("on_validation_end", 2),
        ("on_validation_end", 3),
        ("on_train_epoch_end", 3),
    ],
)
def test_whenever_a_checkpoint_is_saved_each_batch_is_learned_from_once(
    moment: str, step: int, tmp_path: Path, stacks: tuple[dd.Stack, ...]
) -> None:
    dataset = noisy(stacks)
    every = 2 if step == 2 else 1.0  # validations in the middle of an epoch, or at its end
    whole, resumed = WatchingAll(), WatchingAll()
    data = StackDataModule(dataset, dataset, batch_size=2, seed=SEED)
    trainer = new_trainer(tmp_path, Saving(moment, tmp_path), val_check_interval=every)
    trainer.fit(whole, datamodule=data)

    data = StackDataModule(dataset, dataset, batch_size=2, seed=SEED)
    trainer = new_trainer(tmp_path, val_check_interval=every)
    trainer.fit(resumed, datamodule=data, ckpt_path=tmp_path / f"{moment}-{step}.ckpt")

    assert resumed.seen["train"] == whole.seen["train"][2 * step - step // 3 :]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_epochs_of_which_a_trainer_takes_a_part_go_on_like_whole_ones(
    step: int, tmp_path: Path, stacks: tuple[dd.Stack, ...]
) -> None:
    dataset, whole, resumed = noisy(stacks), Watching(), Watching()
    options = {"limit_train_batches": 2, "max_epochs": 3}
    data = StackDataModule(dataset, batch_size=2, seed=SEED)
    saving = Saving("on_train_batch_end", tmp_path)
    new_trainer(tmp_path, saving, **options).fit(whole, datamodule=data)

    data = StackDataModule(dataset, batch_size=2, seed=SEED)
    before = tmp_path / f"on_train_batch_end-{step}.ckpt"
    new_trainer(tmp_path, **options).fit(resumed, datamodule=data, ckpt_path=before)

    assert resumed.seen["train"] == whole.seen["train"][2 * step :]


@pytest.mark.parametrize("step", [2, 3, 4])
def test_steps_go_on_where_steps_have_ended(
    step: int, tmp_path: Path, stacks: tuple[dd.Stack, ...]
) -> None:
    # Lightning takes the epoch as over that `max_steps` has cut, and counts on within it.
    dataset, networks = noisy(stacks), [Watching(), Watching(), Watching()]
    for network, limit in zip(networks, (step, step + 3, 9), strict=True):
        trainer = new_trainer(tmp_path, max_epochs=None, max_steps=limit)
        data = StackDataModule(dataset, batch_size=2, seed=SEED)
        before = tmp_path / "before.ckpt" if network is not networks[0] else None
        trainer.fit(network, datamodule=data, ckpt_path=before)
        trainer.save_checkpoint(tmp_path / "before.ckpt")

    seen = [each for network in networks for each in network.seen["train"]]
    assert seen == own_loop(dataset, epochs=3)


def test_an_epoch_that_was_cut_is_over_for_epochs_that_follow(
    tmp_path: Path, stacks: tuple[dd.Stack, ...]
) -> None:
    dataset, networks = noisy(stacks), [Watching(), Watching()]
    data = StackDataModule(dataset, batch_size=2, seed=SEED)
    trainer = new_trainer(tmp_path, max_epochs=None, max_steps=2)
    trainer.fit(networks[0], datamodule=data)
    trainer.save_checkpoint(tmp_path / "cut.ckpt")

    new_trainer(tmp_path).fit(networks[1], datamodule=data, ckpt_path=tmp_path / "cut.ckpt")

    assert networks[1].seen["train"] == own_loop(dataset)[5:]


def test_a_fit_goes_on_from_the_end_of_another(
    tmp_path: Path, stacks: tuple[dd.Stack, ...]
) -> None:
    dataset, networks = noisy(stacks), [Watching(), Watching()]
    data = StackDataModule(dataset, batch_size=2, seed=SEED)
    trainer = new_trainer(tmp_path, max_epochs=1)
    trainer.fit(networks[0], datamodule=data)
    trainer.save_checkpoint(tmp_path / "end.ckpt")

    new_trainer(tmp_path).fit(networks[1], datamodule=data, ckpt_path=tmp_path / "end.ckpt")

    assert networks[0].seen["train"] + networks[1].seen["train"] == own_loop(dataset)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 8}, "resumed under seed 8, and was at seed 7"),
        (
            {"batch_size": 1},
            "epoch 0 with batch_size=1, and was at batch_size=2",
        ),
    ],
)
def test_the_rest_of_another_epoch_is_refused_by_name(
    changed: dict[str, int], message: str, tmp_path: Path, stacks: tuple[dd.Stack, ...]
) -> None:
    dataset = dd.VolumeDataset(stacks)
    options: dict[str, Any] = {"batch_size": 2, "seed": SEED}
    trainer = new_trainer(tmp_path, Saving("on_train_batch_end", tmp_path), max_epochs=1)
    trainer.fit(Watching(), datamodule=StackDataModule(dataset, **options))

    data = StackDataModule(dataset, **{**options, **changed})

    with pytest.raises(ConfigError, match=message):
        new_trainer(tmp_path).fit(
            Watching(), datamodule=data, ckpt_path=tmp_path / "on_train_batch_end-1.ckpt"
        )


def test_a_checkpoint_that_is_tested_does_not_begin_the_next_fit_in_mid_epoch(
    tmp_path: Path, stacks: tuple[dd.Stack, ...]
) -> None:
    dataset = noisy(stacks)
    data = StackDataModule(dataset, test=dataset, batch_size=2, seed=SEED)
    saving = Saving("on_train_batch_end", tmp_path)
    new_trainer(tmp_path, saving).fit(Watching(), datamodule=data)
    network = Watching()

    new_trainer(tmp_path).test(
        WatchingAll(),
        datamodule=data,
        ckpt_path=tmp_path / "on_train_batch_end-1.ckpt",
        verbose=False,
    )
    new_trainer(tmp_path).fit(network, datamodule=data)

    assert network.seen["train"] == own_loop(dataset)


# --- ranks ----------------------------------------------------------------------------------------


class TwoRanks:
    """What a data module asks of a Trainer, on one of two ranks."""

    distributed_sampler_kwargs = {"num_replicas": 2, "rank": 1}  # noqa: RUF012 - Lightning's
    current_epoch = 0
    strategy = lightning.strategies.SingleDeviceStrategy("cpu")


def test_samples_that_ranks_share_unevenly_are_told(stacks: tuple[dd.Stack, ...]) -> None:
    dataset = dd.VolumeDataset(stacks)
    data = StackDataModule(dataset, dataset, predict=dataset, batch_size=2, seed=SEED)
    data.trainer = TwoRanks()

    with pytest.warns(DicomDataWarning, match="val: 5 samples for 2 ranks.* 1 are given twice"):
        val = data.val_dataloader()

    assert [int(index) for index in val.sampler] == [1, 3, 0]
    assert [int(index) for index in data.predict_dataloader().sampler] == [1, 3]


RANKS = """
import json, sys, warnings
import torch, pytorch_lightning, dicomdata as dd
from dicomdata.lightning import StackDataModule
warnings.simplefilter("ignore")

class Network(pytorch_lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []
    def training_step(self, batch, batch_idx):
        self.seen.append([self.current_epoch, *batch["stack"]])
        return self.weight * batch["image"].as_subclass(torch.Tensor).float().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)
    def on_train_end(self):
        with open(f"{sys.argv[2]}/rank{self.global_rank}.json", "w") as file:
            json.dump(self.seen, file)

if __name__ == "__main__":
    torch.set_num_threads(1)
    plan = dd.plan_stacks(dd.scan(sys.argv[1], progress=False))
    data = StackDataModule(dd.VolumeDataset(plan.stacks), batch_size=1, seed=7)
    trainer = pytorch_lightning.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )
    trainer.fit(Network(), datamodule=data)
"""


@pytest.mark.thorough
def test_two_ranks_share_an_epoch(tmp_path: Path) -> None:
    import json

    for number in range(4):
        write_series(tmp_path / "archive" / str(number), seed=str(number))
    program = tmp_path / "ranks.py"
    program.write_text(RANKS)

    subprocess.run(
        [sys.executable, program, tmp_path / "archive", tmp_path], check=True, timeout=300
    )

    seen = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for epoch in (0, 1):
        shares = [{name for number, name in share if number == epoch} for share in seen]
        assert [len(share) for share in shares] == [2, 2]
        assert shares[0].isdisjoint(shares[1])

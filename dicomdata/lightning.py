"""Datasets of stacks for a Lightning ``Trainer``: `StackDataModule`.

Needs the extra ``dicomdata[lightning]``. It is a data module of the Lightning that is imported
already, else of ``lightning``, else of ``pytorch_lightning``: the two do not take each other's.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from dicomdata.errors import ConfigError, DicomDataWarning
from dicomdata.loader import EpochSampler, collate, upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sized

    import torch
    from pytorch_lightning import LightningDataModule

    from dicomdata.loader.sampling import Tail
else:

    def _find_lightning() -> Any:
        names = ("lightning.pytorch", "pytorch_lightning")
        for name in sorted(names, key=lambda name: name not in sys.modules):
            try:
                return importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name not in {"lightning", *names}:
                    raise
        raise ConfigError("dicomdata.lightning: needs Lightning: install dicomdata[lightning]")

    LightningDataModule = _find_lightning().LightningDataModule


@dataclass(frozen=True, slots=True)
class Position:
    """Where a training is, as it is kept in Lightning's checkpoints."""

    seed: int
    """Of the order of epochs, and of random transforms."""

    epoch: int
    """The epoch that goes on, from 0."""

    batches: int
    """How many of its batches each rank has learned from."""

    cut: bool
    """Whether Lightning takes that epoch as over: `max_steps` ended it."""

    batch_size: int
    ranks: int
    samples: int
    """In the whole dataset."""


class StackDataModule(LightningDataModule):
    """Gives a Trainer the batches of this package: sampled by `EpochSampler`, sent by `upload`.

    Each rank gets its part of an epoch, in an order that seed and epoch alone decide, and random
    transforms draw the same for any number of workers. A run that goes on from one of Lightning's
    checkpoints, also from the middle of an epoch, gets the batches that were left.

        data = StackDataModule(train, val, batch_size=2, seed=7, workers=4)
        Trainer(max_epochs=10).fit(network, datamodule=data)
    """

    def __init__(  # noqa: PLR0913 - four datasets, and how they are loaded, by name
        self,
        train: Sized | None = None,
        val: Sized | None = None,
        test: Sized | None = None,
        predict: Sized | None = None,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        eval_batch_size: int = 1,
        window: tuple[float, float] | None = None,
        image: str = "image",
        collate_fn: Callable[[Any], Any] = collate,
    ) -> None:
        """Take datasets; nothing is read yet.

        Args:
            train: `VolumeDataset` or `PatchDataset`, or any other map-style dataset; shuffled.
            val: likewise, in its order; none, and there is no validation.
            test: likewise.
            predict: likewise.
            batch_size: samples that a rank learns from at once.
            seed: of the order of epochs, and of random transforms.
            workers: processes that make samples; they last from epoch to epoch.
            eval_batch_size: samples at once otherwise; volumes differ in shape.
            window: (low, high), which become 0 and 1 on the device: for int16 datasets.
            image: the key of the images in a batch.
            collate_fn: makes a batch of samples.
        """
        super().__init__()
        self.train, self.val, self.test, self.predict = train, val, test, predict
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.seed, self.workers = seed, workers
        self.window, self.image = window, image
        self.collate_fn = collate_fn
        self._resumed: Position | None = None
        self._loader: _TrainLoader | None = None
        for stage in ("train", "val", "test", "predict"):
            if getattr(self, stage) is None:
                # Lightning asks whether a method was overridden, and has words for those that are
                # missing.
                setattr(self, f"{stage}_dataloader", getattr(super(), f"{stage}_dataloader"))

    # --- loaders ----------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Any]:
        """Give the batches of the epoch that begins or goes on.

        Raises:
            ConfigError: if there is no such dataset, or the epoch that goes on was of others.
        """
        dataset = _given(self.train, "train")
        sampler = self._sampler(dataset, shuffle=True)
        self._loader = _TrainLoader(dataset, **self._options(sampler, self.batch_size))  # type: ignore[arg-type]
        self._loader.trainer = self.trainer
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            self._check(resumed, sampler, len(dataset))
            epoch, batches = resumed.epoch, resumed.batches
            if resumed.cut and not self.trainer.fit_loop.restarting:
                epoch, batches = epoch + 1, 0
            self._loader.resume(epoch, batches, seed=resumed.seed)
        elif self.trainer is not None:
            self._loader.go_to(self.trainer.current_epoch)
        return self._loader

    def val_dataloader(self) -> Any:
        """Give the batches to validate with; no loader where there is no such dataset."""
        return [] if self.val is None else self._in_order(self.val, "val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Give the batches to test with.

        Raises:
            ConfigError: if there is no such dataset.
        """
        return self._in_order(_given(self.test, "test"), "test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Give the batches to predict, each sample to one rank.

        Raises:
            ConfigError: if there is no such dataset.
        """
        return self._in_order(_given(self.predict, "predict"), "predict", tail="uneven")

    def _in_order(self, dataset: Sized, name: str, tail: Tail = "repeat") -> DataLoader[Any]:
        sampler = self._sampler(dataset, shuffle=False, tail=tail)
        spare = -len(dataset) % sampler.replicas
        if spare and tail == "repeat":
            warnings.warn(
                f"{name}: {len(dataset)} samples for {sampler.replicas} ranks, which must have as "
                f"many each: {spare} are given twice, and count twice in what is logged; "
                f"`dicomdata.evaluate` scores each once",
                DicomDataWarning,
                stacklevel=2,
            )
        return DataLoader(dataset, **self._options(sampler, self.eval_batch_size))  # type: ignore[arg-type]

    def _sampler(self, dataset: Sized, *, shuffle: bool, tail: Tail = "repeat") -> _RankSampler:
        ranks: dict[str, Any] = {}
        if self.trainer is not None:
            # Not of all processes: those that share a model by parts share its samples.
            given = self.trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
            ranks = {"replicas": given["num_replicas"], "rank": given["rank"]}
        return _RankSampler(dataset, seed=self.seed, shuffle=shuffle, tail=tail, **ranks)

    def _options(self, sampler: _RankSampler, batch_size: int) -> dict[str, Any]:
        """Give the options of a loader, by name: Lightning makes some loaders anew."""
        device = None if self.trainer is None else self.trainer.strategy.root_device
        return {
            "sampler": sampler,
            "batch_size": batch_size,
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "collate_fn": self.collate_fn,
            "pin_memory": device is not None and device.type == "cuda",
        }

    # --- batches ----------------------------------------------------------------------------------

    def transfer_batch_to_device(
        self,
        batch: Any,
        device: torch.device,
        dataloader_idx: int,  # noqa: ARG002 - Lightning's
    ) -> Any:
        """Send a batch as `upload` does.

        Raises:
            ConfigError: if there is a window, and no int16 image to take it of.
        """
        return upload(batch, device, window=self.window, image=self.image)

    # --- checkpoints ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Say where the training is, for Lightning's checkpoint: numbers, the same on all ranks."""
        if self.trainer is None or self._loader is None:
            return {}
        fit, sampler = self.trainer.fit_loop, self._loader.sampler
        running = fit.epoch_loop.batch_progress.current
        # A batch that was given but not learned from comes again.
        epoch, batches = sampler.epoch, self._loader.given - (running.ready - running.processed)
        if batches >= self.trainer.num_training_batches:
            epoch, batches = epoch + 1, 0
        epochs = fit.epoch_progress.current
        position = Position(
            seed=self.seed,
            epoch=epoch,
            batches=batches,
            cut=batches > 0 and epochs.started == epochs.processed,
            batch_size=self.batch_size,
            ranks=sampler.replicas,
            samples=len(self._loader.dataset),  # type: ignore[arg-type]
        )
        return asdict(position)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next training go on where another was; other uses of a checkpoint do not."""
        if self.trainer is not None and self.trainer.state.fn == "fit" and state_dict:
            self._resumed = Position(**state_dict)

    def _check(self, resumed: Position, sampler: _RankSampler, samples: int) -> None:
        """Make sure that batches mean what they did when they were counted.

        Raises:
            ConfigError: if not.
        """
        now = {"batch_size": self.batch_size, "ranks": sampler.replicas, "samples": samples}
        for name, number in now.items():
            was = getattr(resumed, name)
            if resumed.batches and was != number:
                raise ConfigError(
                    f"resumed after {resumed.batches} batches of epoch {resumed.epoch} with "
                    f"{name}={number}, and was at {name}={was}: the rest of that epoch would be "
                    f"another; go on from the end of an epoch"
                )


def _given(dataset: Sized | None, name: str) -> Sized:
    if dataset is None:
        raise ConfigError(f"{name}: StackDataModule was given no such dataset")
    return dataset


class _RankSampler(EpochSampler, DistributedSampler[int]):
    """An `EpochSampler` in which Lightning sees that each rank has its part already.

    Otherwise it would wrap it by a sampler that divides each part among all ranks once more.
    """

    def __len__(self) -> int:
        """Count the whole epoch: Lightning counts the batches that were done before it goes on."""
        return len(self._order())

    def set_epoch(self, epoch: int) -> None:
        """Stay: Lightning's count goes on with epochs that it has cut, or passes without a batch.

        Epochs of a training are counted by its loader, and a validation is the same in each.
        """


class _TrainLoader(DataLoader[Any]):
    """A loader that begins the next epoch when it is looped over again.

    It has a state, or Lightning would warn that it cannot be resumed. But that is empty: Lightning
    would give it back in the middle of an epoch alone. The data module sees to it.
    """

    sampler: _RankSampler
    _before = _taken = 0
    """Batches of the epoch that were done before it was resumed, and that were given since."""

    _just_resumed = False

    trainer: Any = None
    """Takes the batches, and may take fewer of an epoch than there are."""

    @property
    def given(self) -> int:
        """How many batches of the epoch were given to the trainer, before it was resumed too."""
        return self._before + self._taken

    def go_to(self, epoch: int, batches: int = 0, *, seed: int | None = None) -> None:
        """Go on after some batches of an epoch."""
        seed = self.sampler.seed if seed is None else seed
        done = batches * (self.batch_size or 1)
        self.sampler.load_state_dict({"seed": seed, "epoch": epoch, "done": done})
        self._before, self._taken = batches, 0

    def resume(self, epoch: int, batches: int, *, seed: int) -> None:
        """Go on where another training was.

        Raises:
            ConfigError: if its epochs were sampled under another seed.
        """
        self.go_to(epoch, batches, seed=seed)
        self._just_resumed = True

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self._taken:
            # With `max_steps`, Lightning goes on from the end of an epoch by one batch, and begins
            # anew: what is left of that epoch comes first.
            whole = len(self) if self.trainer is None else self.trainer.num_training_batches
            broken_off = self._just_resumed and self.given < whole
            self._just_resumed = False
            epoch = self.sampler.epoch
            self.go_to(*((epoch, self.given) if broken_off else (epoch + 1, 0)))
        return self._counted(super().__iter__())

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._taken += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Keep nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing."""

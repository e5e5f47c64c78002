"""Batches -> a network that has learned from them: the steps of an epoch.

All randomness of a step comes from seed, step and rank: dropout draws the same numbers in a run
that was resumed. That of samples comes from `EpochSampler`.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dicomdata.errors import DicomDataError
from dicomdata.training.stopping import StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.utils.data import DataLoader

    from dicomdata.loader import EpochSampler
    from dicomdata.training.learner import Learner
    from dicomdata.training.records import Records
    from dicomdata.training.stopping import StopRequest

_FLUSH_STEPS = 20
"""Steps whose losses a GPU keeps: to ask for each would let it wait for the processor."""

_FLUSH_S = 5.0
"""Seconds after which they are asked for in any case: whoever watches a slow run waits, too."""


def seed_step(seed: int, step: int, rank: int) -> None:
    """Let everything random begin anew, from these three numbers."""
    sequence = np.random.SeedSequence((seed, step, rank), spawn_key=(2,))
    entropy = int(sequence.generate_state(1)[0])
    random.seed(entropy)
    np.random.seed(entropy)  # noqa: NPY002 - what others draw from is the global state
    torch.manual_seed(entropy)


@dataclass(slots=True, eq=False)
class Loop:
    """Takes the steps of epochs, tells how they go, and has them kept."""

    learner: Learner
    loader: DataLoader[Any]
    """Of a dataset that is sampled by `sampler`."""

    sampler: EpochSampler
    records: Records
    seed: int
    """Of everything random in a step."""

    checkpoint_every: int
    """Steps between calls of the function that saves."""

    progress: dict[str, float] = field(
        default_factory=lambda: {"step": 0, "epoch_loss": 0.0, "epoch_steps": 0}
    )
    """How many steps were taken, and of the running epoch the sum of their losses and their number,
    both of all ranks; "best" is the lowest validation loss."""

    position: dict[str, int] = field(init=False)
    """Where the epoch is, as `EpochSampler.state_dict` says it: at its end until `end_epoch`."""

    _pending: list[tuple[int, torch.Tensor, list[str]]] = field(default_factory=list)
    _flushed: float = field(default_factory=time.monotonic)
    _present: torch.Tensor | None = None
    """Of each class, how many batches of an epoch had any of it; None where none is counted."""

    _covered: bool = False
    """Whether a whole epoch was looked at for its classes."""

    def __post_init__(self) -> None:
        self.position = self.sampler.state_dict()

    def restore(self, position: dict[str, int], progress: dict[str, float]) -> None:
        """Go to where a checkpoint was."""
        self.sampler.load_state_dict(position)
        self.position = position
        self.progress.update(progress)
        if not self.learner.ranks.first:
            self.progress.update(epoch_loss=0.0, epoch_steps=0)

    def run_epoch(self, save: Callable[[], None], stop: StopRequest) -> float:
        """Take the steps of an epoch, or of the rest of one; give its mean loss.

        Raises:
            DicomDataError: if a loss is no number; names the step and the samples.
            StoppedError: if any rank was asked to stop; what can be gone on with is saved.
        """
        epoch, ranks = self.sampler.epoch, self.learner.ranks
        self.learner.network.train()
        if not self._covered and not self.position["done"]:
            self._present = torch.zeros(len(self.learner.targets.classes), dtype=torch.float64)
        batches = self.sampler.counted(self.loader)
        for batch in self.records.track(batches, total=len(self.loader), what=f"epoch {epoch}"):
            step = int(self.progress["step"])
            seed_step(self.seed, step, ranks.rank)
            loss = self.learner.learn(batch)
            if self._present is not None:
                label = batch["label"].as_subclass(torch.Tensor)
                self._present += self.learner.targets.present(label)
            self.progress["step"] = step + 1
            self.position = self.sampler.state_dict()
            self._pending.append((step + 1, loss, _names(batch)))
            if ranks.device.type == "cpu" or self._is_time():
                self._flush(epoch)
            asked = stop.agreed(step + 1)
            if asked or (step + 1) % self.checkpoint_every == 0:
                self.share(epoch)
                save()
            if asked:
                raise StoppedError(asked)
        self._tell_classes(epoch)
        total, taken = self.share(epoch)
        return total / max(taken, 1)

    def end_epoch(self) -> None:
        """Go on to the next epoch: what a checkpoint holds from now on."""
        self.position = self.sampler.state_dict()
        self.progress.update(epoch_loss=0.0, epoch_steps=0)

    def share(self, epoch: int) -> tuple[float, float]:
        """Give sum and number of the losses of all ranks; the first keeps them."""
        self._flush(epoch)
        names = ("epoch_loss", "epoch_steps")
        own = torch.tensor([self.progress[name] for name in names], dtype=torch.float64)
        loss, taken = self.learner.ranks.total(own).tolist()
        first = self.learner.ranks.first
        self.progress.update(epoch_loss=loss if first else 0, epoch_steps=taken if first else 0)
        return loss, taken

    def _tell_classes(self, epoch: int) -> None:
        """Tell which classes no sample of an epoch had: nothing can be learned of them."""
        if self._present is None:
            return
        counts = self.learner.ranks.total(self._present).tolist()
        named = zip(self.learner.targets.classes, counts, strict=True)
        if absent := [name for name, count in named if not count]:
            self.records.say(f"no sample of epoch {epoch} had any of: {', '.join(absent)}")
        self._present, self._covered = None, True

    def _is_time(self) -> bool:
        late = time.monotonic() - self._flushed > _FLUSH_S
        return late or len(self._pending) >= _FLUSH_STEPS

    def _flush(self, epoch: int) -> None:
        """Write down the losses that the device has kept."""
        for step, loss, names in self._pending:
            value = float(loss)
            if not math.isfinite(value):
                raise DicomDataError(
                    f"step {step}: the loss is {value}, of {', '.join(names)}: nothing more can be "
                    f"learned from here"
                )
            self.progress["epoch_loss"] += value
            self.progress["epoch_steps"] += 1
            self.records.add_step(epoch=epoch, step=step, loss=value, samples=names)
        self._pending.clear()
        self._flushed = time.monotonic()


def _names(batch: dict[str, Any]) -> list[str]:
    """Say which stacks, and which patches of them, a batch is of."""
    starts = batch.get("patch_start")
    if starts is None:
        return list(batch["stack"])
    return [
        f"{stack} at {', '.join(map(str, start))}"
        for stack, start in zip(batch["stack"], starts.tolist(), strict=True)
    ]

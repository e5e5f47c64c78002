"""Batches -> a network that has learned from them: steps, epochs and validations.

All randomness of a step comes from seed, step and rank: dropout draws the same numbers in a run
that was resumed. That of samples comes from `EpochSampler`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dicomdata.errors import ConfigError, DicomDataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Self

    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.utils.data import DataLoader

    from dicomdata.loader import EpochSampler
    from dicomdata.training.ranks import Ranks
    from dicomdata.training.records import Records

Precision = Literal["float32", "bfloat16", "float16"]

_FLUSH_STEPS = 20
"""Steps whose losses a GPU keeps: to ask for each would let it wait for the processor."""


def choose_precision(
    wanted: Literal["auto", "float32", "bfloat16", "float16"], device: torch.device
) -> Precision:
    """Give what the network computes in: "auto" is 16 bits on a GPU, of the wider range if it can.

    Raises:
        ConfigError: if float16 is asked for without a GPU, where its small gradients get lost.
    """
    if device.type != "cuda":
        if wanted == "float16":
            raise ConfigError("precision: float16 needs a GPU; bfloat16 and float32 do not")
        return "float32" if wanted == "auto" else wanted
    if wanted != "auto":
        return wanted
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def seed_step(seed: int, step: int, rank: int) -> None:
    """Let everything random begin anew, from these three numbers."""
    sequence = np.random.SeedSequence((seed, step, rank), spawn_key=(2,))
    entropy = int(sequence.generate_state(1)[0])
    random.seed(entropy)
    np.random.seed(entropy)  # noqa: NPY002 - what others draw from is the global state
    torch.manual_seed(entropy)


@dataclass(slots=True, eq=False)
class Learner:
    """A network, and how it learns from one batch."""

    network: torch.nn.Module
    """On the device of `ranks`."""

    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    optimizer: Optimizer
    scheduler: LRScheduler | None
    """Changes the learning rate after an epoch."""

    ranks: Ranks
    classes: tuple[str, ...]
    """What the channels of an output are."""

    precision: Precision
    clip_gradient: float | None = None
    """Largest norm of a gradient."""

    _wrapped: torch.nn.Module = field(init=False)
    _scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        device = self.ranks.device
        scaled = self.precision == "float16"
        self._scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self._wrapped = self.network
        if self.ranks.count > 1:
            own = [device] if device.type == "cuda" else None
            self._wrapped = DistributedDataParallel(self.network, device_ids=own)

    def learn(self, batch: dict[str, Any]) -> torch.Tensor:
        """Take one step; give the loss, on the device."""
        image, label = self._upload(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss, _ = self._forward(self._wrapped, image, label)
        self._scaler.scale(loss).backward()
        if self.clip_gradient is not None:
            self._scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_gradient)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return loss.detach()

    def end_epoch(self, loss: float) -> None:
        """Change the learning rate, by the loss if the scheduler wants that."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(loss)
        elif self.scheduler is not None:
            self.scheduler.step()

    def validate(self, batches: Iterable[dict[str, Any]]) -> Scores:
        """Give the loss and the counts of all ranks' batches; nothing is learned."""
        counts = torch.zeros(3, len(self.classes), dtype=torch.float64)
        losses = torch.zeros(2, dtype=torch.float64)
        self.network.eval()
        # Not the wrapped one: ranks may have different numbers of batches here.
        with torch.inference_mode():
            for batch in batches:
                image, label = self._upload(batch)
                loss, output = self._forward(self.network, image, label)
                losses += torch.tensor([float(loss) * len(image), len(image)])
                counts += _count(output, label, len(self.classes)).cpu()
        self.network.train()
        return Scores.of(self.ranks.total(losses), self.ranks.total(counts), self.classes)

    def state_dict(self) -> dict[str, Any]:
        """Give the states of all parts."""
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.scheduler is not None:
            state["scheduler"] = self.scheduler.state_dict()
        return {**state, "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the states of all parts."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self._scaler.load_state_dict(state["scaler"])

    def _upload(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Bring image and label to the device, as plain tensors: one place costs less than two."""
        image, label = (
            batch[key].as_subclass(torch.Tensor).to(self.ranks.device, non_blocking=True)
            for key in ("image", "label")
        )
        return image.contiguous().float(), label.contiguous().long()

    def _forward(
        self, network: torch.nn.Module, image: torch.Tensor, label: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.ranks.device.type
        dtype = getattr(torch, self.precision)
        with torch.autocast(device, dtype, enabled=self.precision != "float32"):
            output = network(image)
            self._check(output, label)
        # Sums over many voxels are not for 16 bits.
        return self.loss(output.float(), label), output

    def _check(self, output: Any, label: torch.Tensor) -> None:
        """Make sure that the output is of the classes, voxel for voxel.

        Raises:
            ConfigError: if not: a loss may broadcast one to the other without a word.
        """
        expected = (len(label), len(self.classes), *label.shape[2:])
        if not isinstance(output, torch.Tensor) or tuple(output.shape) != expected:
            got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise ConfigError(
                f"network: its output is {got}, expected {expected}: a channel for each of the "
                f"classes {', '.join(self.classes)}"
            )


@dataclass(frozen=True, slots=True)
class Scores:
    """What a network makes of samples that it did not learn from, all voxels together."""

    loss: float
    """Mean of all samples."""

    accuracy: float
    """Part of the voxels, or cases, whose class is right."""

    dice: dict[str, float | None]
    """Of each class, over all voxels; None where it neither is nor was found anywhere."""

    @classmethod
    def of(cls, losses: torch.Tensor, counts: torch.Tensor, classes: Sequence[str]) -> Self:
        """Make scores of sums.

        Args:
            losses: (2,), sum of the losses, and of how many samples.
            counts: (3, classes): voxels that are of the class and found so, are, are found so.
            classes: their names.
        """
        both, true, found = counts.tolist()
        dice = {
            name: 2 * i / (t + f) if t + f else None
            for name, i, t, f in zip(classes, both, true, found, strict=True)
        }
        total = sum(true)
        return cls(
            float(losses[0] / losses[1]) if losses[1] else math.nan,
            sum(both) / total if total else math.nan,
            dice,
        )


def _count(output: torch.Tensor, label: torch.Tensor, classes: int) -> torch.Tensor:
    """Count (3, classes) what is right, what is true and what was found."""
    found = output.argmax(dim=1).flatten()
    true = label.flatten()
    return torch.stack(
        [
            torch.bincount(each, minlength=classes)[:classes]
            for each in (true[found == true], true, found)
        ]
    ).double()


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

    _pending: list[tuple[int, torch.Tensor, list[str]]] = field(default_factory=list)

    def run_epoch(self, save: Callable[[], None]) -> float:
        """Take the steps of an epoch, or of the rest of one; give its mean loss.

        Raises:
            DicomDataError: if a loss is no number; names the step and the samples.
        """
        epoch, ranks = self.sampler.epoch, self.learner.ranks
        self.learner.network.train()
        for batch in self.sampler.counted(self.loader):
            step = int(self.progress["step"])
            seed_step(self.seed, step, ranks.rank)
            loss = self.learner.learn(batch)
            self.progress["step"] = step + 1
            self._pending.append((step + 1, loss, _names(batch)))
            if ranks.device.type == "cpu" or len(self._pending) >= _FLUSH_STEPS:
                self._flush(epoch)
            if (step + 1) % self.checkpoint_every == 0:
                self.share(epoch)
                save()
        total, steps = self.share(epoch)
        self.progress.update(epoch_loss=0.0, epoch_steps=0)
        return total / max(steps, 1)

    def share(self, epoch: int) -> tuple[float, float]:
        """Give sum and number of the losses of all ranks; the first keeps them."""
        self._flush(epoch)
        names = ("epoch_loss", "epoch_steps")
        own = torch.tensor([self.progress[name] for name in names], dtype=torch.float64)
        loss, steps = self.learner.ranks.total(own).tolist()
        first = self.learner.ranks.first
        self.progress.update(epoch_loss=loss if first else 0, epoch_steps=steps if first else 0)
        return loss, steps

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


def _names(batch: dict[str, Any]) -> list[str]:
    """Say which stacks, and which patches of them, a batch is of."""
    starts = batch.get("patch_start")
    if starts is None:
        return list(batch["stack"])
    return [
        f"{stack} at {', '.join(map(str, start))}"
        for stack, start in zip(batch["stack"], starts.tolist(), strict=True)
    ]

"""A network, and how it learns from one batch: `Learner`."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dicomdata.errors import ConfigError, DicomDataError
from dicomdata.loader import upload
from dicomdata.training.samples import LOST_WORKER
from dicomdata.training.scores import Scores
from dicomdata.training.targets import check_activation, check_places

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from dicomdata.training.ranks import Ranks
    from dicomdata.training.targets import Targets

Precision = Literal["float32", "bfloat16", "float16"]


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


@dataclass(frozen=True, slots=True)
class Images:
    """In what form images come to a network, and what is left to be done to them there."""

    dtype: torch.dtype = torch.float32
    """As a dataset gives them: float32, or int16, which is half as much to copy."""

    window: tuple[float, float] | None = None
    """(low, high) that become 0 and 1 on the device; of int16 alone: other images have it behind
    them."""

    def check(self, image: torch.Tensor) -> None:
        """Refuse images of another type.

        Raises:
            ConfigError: if a transform has made int16 something else.
        """
        if self.dtype == torch.int16 and image.dtype != torch.int16:
            raise ConfigError(
                f"upload: int16 was asked for, and a transform has made {image.dtype} of the "
                f"images: leave out those that interpolate or change intensities, or say "
                f"upload: float32"
            )


@dataclass(slots=True, eq=False)
class Learner:
    """A network, and how it learns from one batch."""

    network: torch.nn.Module
    """On the device of `ranks`."""

    loss: torch.nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | None
    """Changes the learning rate after an epoch."""

    ranks: Ranks
    targets: Targets
    """What the channels of an output are."""

    precision: Precision
    clip_gradient: float | None = None
    """Largest norm of a gradient."""

    images: Images = field(default_factory=Images)

    _wrapped: torch.nn.Module = field(init=False)
    _scaler: torch.amp.GradScaler = field(init=False)
    _checked: bool = field(init=False, default=False)
    """Whether the first batch was looked at."""

    def __post_init__(self) -> None:
        self.targets.check_loss(self.loss)
        device = self.ranks.device
        scaled = self.precision == "float16"
        self._scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self._wrapped = self.network
        if self.ranks.count > 1:
            own = [device] if device.type == "cuda" else None
            self._wrapped = DistributedDataParallel(self.network, device_ids=own)

    def learn(self, batch: dict[str, Any]) -> torch.Tensor:
        """Take one step; give the loss, on the device.

        Raises:
            ConfigError: if network, loss, image and label do not go together.
        """
        image, label = self._upload(batch)
        self.optimizer.zero_grad(set_to_none=True)
        levels = self._forward(self._wrapped, image, label)
        if not self._checked:
            self._check_first(levels, image, label)
        loss = self._loss(levels, label)
        self._scaler.scale(loss).backward()
        if self.clip_gradient is not None:
            self._scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_gradient)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return loss.detach()

    def end_epoch(self, watched: float | None) -> None:
        """Change the learning rate.

        Args:
            watched: the loss that a scheduler may go by; None where this epoch has none, as
                epochs between validations: what goes by it waits.
        """
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if watched is not None:
                self.scheduler.step(watched)
        elif self.scheduler is not None:
            self.scheduler.step()

    def validate(self, batches: Iterable[dict[str, Any]]) -> Scores:
        """Give the loss and the counts of all ranks' batches; nothing is learned.

        Raises:
            ConfigError: if the network gives several outputs, or none of the classes.
        """
        classes = self.targets.classes
        counts = torch.zeros(3, len(classes), dtype=torch.float64)
        sums = torch.zeros(4, dtype=torch.float64)
        # Ranks have their own statistics of normalisation; saved are those of the first.
        self.ranks.take_first(self.network.buffers())
        self.network.eval()
        # Not the wrapped one: ranks may have different numbers of batches here.
        with torch.inference_mode():
            for batch in batches:
                image, label = self._upload(batch)
                output = self._evaluated(image, label)
                loss = float(self._loss([output], label))
                found, voxels = self.targets.count(output, label)
                sums += torch.tensor([loss * len(image), len(image), *voxels.tolist()])
                counts += found.cpu()
        self.network.train()
        return Scores.of(self.ranks.total(sums), self.ranks.total(counts), classes)

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
        # Empty where gradients were not scaled, as on a processor.
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])

    def _upload(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Bring image and label to the device, as plain tensors: one place costs less than two."""
        check_places(batch["image"], batch["label"])
        image, label = (batch[key].as_subclass(torch.Tensor) for key in ("image", "label"))
        self.images.check(image)
        self.targets.check_label(label, image)
        sent = upload(
            {"image": image, "label": label}, self.ranks.device, window=self.images.window
        )
        return sent["image"].contiguous().float(), sent["label"].contiguous()

    def _forward(
        self, network: torch.nn.Module, image: torch.Tensor, label: torch.Tensor
    ) -> list[torch.Tensor]:
        """Give the outputs, the whole one first."""
        dtype, name = getattr(torch, self.precision), type(self.network).__name__
        enabled = self.precision != "float32"
        with torch.autocast(self.ranks.device.type, dtype, enabled=enabled):
            with _told(f"network {name}, given {tuple(image.shape)}"):
                output = network(image)
            return self.targets.levels(output, label, name)

    def _evaluated(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Give what the network says in evaluation mode: one output."""
        levels = self._forward(self.network, image, label)
        if len(levels) > 1:
            raise ConfigError(
                f"network {type(self.network).__name__}: gives {len(levels)} outputs in evaluation "
                f"too, and nothing says which of them is meant: switch its deep supervision off"
            )
        return levels[0]

    def _loss(self, levels: list[torch.Tensor], label: torch.Tensor) -> torch.Tensor:
        # Sums over many voxels are not for 16 bits.
        plain = [each.float() for each in levels]
        wanted = self.targets.prepare(label, self.loss)
        shapes = f"of {tuple(levels[0].shape)} and labels {tuple(wanted.shape)}"
        with _told(f"loss {type(self.loss).__name__}, {shapes}"):
            loss: torch.Tensor = self.loss(plain if len(plain) > 1 else plain[0], wanted)
            if loss.ndim:
                raise ConfigError(
                    f"it is {tuple(loss.shape)}, expected one number: reduction: mean"
                )
        return loss

    def _check_first(
        self, levels: list[torch.Tensor], image: torch.Tensor, label: torch.Tensor
    ) -> None:
        """Look at the first batch for what would be found after hours, or never."""
        self._checked = True
        check_activation(self.loss, levels[0])
        self.targets.check_levels(self.loss, len(levels), type(self.network).__name__)
        if len(levels) > 1:
            self.network.eval()
            with torch.no_grad():
                self._evaluated(image, label)
            self.network.train()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Name what was refused by parts that others wrote."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        # PyTorch tells of a worker that has died wherever the program is at that time.
        if isinstance(error, DicomDataError) or str(error).startswith(LOST_WORKER):
            raise
        reason = next(iter(str(error).splitlines()), "")
        raise ConfigError(f"{what}: {type(error).__name__}: {reason}") from error

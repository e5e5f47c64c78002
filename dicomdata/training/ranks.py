"""The processes that train together: which of them this is, and what they agree on."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed

from dicomdata.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

_PATIENCE = timedelta(hours=12)
"""How long ranks wait for each other: the first may have to scan an archive."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of how many processes this is, and where it computes."""

    rank: int
    """From 0; the first writes checkpoints."""

    count: int
    """How many train together."""

    device: torch.device
    """Of this process."""

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all are here."""
        if self.count > 1:
            torch.distributed.barrier()

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Give the sum of what all ranks have, in each of them."""
        summed = values.to(self.device)
        if self.count > 1:
            torch.distributed.all_reduce(summed)
        return summed.cpu()

    def take_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Take what the first rank has, in place of each of them."""
        for tensor in tensors if self.count > 1 else ():
            torch.distributed.broadcast(tensor, 0)

    def highest(self, value: int) -> int:
        """Give the highest of what all ranks have, in each of them."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, device=self.device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return int(shared)


@contextmanager
def join_ranks(device: Literal["auto", "cpu", "cuda"] = "auto") -> Iterator[Ranks]:
    """Join the other processes that torchrun has started, if it has.

    Args:
        device: where to compute; "auto" is a GPU where there is one.

    Raises:
        ConfigError: if a GPU is asked for and there is none, or fewer than ranks on this machine.
    """
    count, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and not found:
        raise ConfigError("device: cuda was asked for, and PyTorch finds no GPU")
    if device == "cpu" or not found:
        chosen = torch.device("cpu")
    elif local < found:
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    else:
        raise ConfigError(f"rank {local} of this machine has no GPU of its own: it has {found}")
    if count == 1:
        yield Ranks(0, 1, chosen)
        return
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Ranks(torch.distributed.get_rank(), count, chosen)
    finally:
        torch.distributed.destroy_process_group()

"""The order of an epoch: shuffled, shared between ranks, and taken up again where it was left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch.distributed
from torch.utils.data import Sampler

from dicomdata.dataset import SampleIndex
from dicomdata.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sized

Tail = Literal["repeat", "drop", "uneven"]
"""What ranks do with the samples that do not divide evenly among them."""

_TAILS = ("repeat", "drop", "uneven")


class EpochSampler(Sampler[int]):
    """Gives each rank its samples of an epoch, in an order that seed and epoch alone decide.

    Its indices carry seed and epoch, so that `VolumeDataset` and `PatchDataset` make the same
    sample of them in any worker, under any start method, on any rank.

        sampler = EpochSampler(dataset, seed=7)
        loader = DataLoader(dataset, batch_size=2, num_workers=2, sampler=sampler)
        for epoch in range(sampler.epoch, 10):
            sampler.set_epoch(epoch)
            for batch in sampler.counted(loader):
                ...                         # sampler.state_dict() resumes after this batch
    """

    def __init__(  # noqa: PLR0913 - as DistributedSampler, by name
        self,
        dataset: Sized,
        *,
        seed: int = 0,
        shuffle: bool = True,
        replicas: int | None = None,
        rank: int | None = None,
        tail: Tail = "repeat",
    ) -> None:
        """Sample a dataset.

        Args:
            dataset: anything with a length.
            seed: of the run; the same on all ranks.
            shuffle: whether each epoch has an order of its own.
            replicas: how many ranks share an epoch; None asks torch.distributed.
            rank: which of them this is, from 0; None asks torch.distributed.
            tail: "repeat" gives some samples twice, so that all ranks have as many (as
                DistributedSampler does); "drop" leaves some out; "uneven" gives each sample once,
                and some ranks one more than others.

        Raises:
            ConfigError: if there is no such rank or tail.
        """
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        if replicas is None:
            replicas = torch.distributed.get_world_size() if together else 1
        if rank is None:
            rank = torch.distributed.get_rank() if together else 0
        if not 0 <= rank < replicas:
            raise ConfigError(f"rank {rank} of {replicas}: expected 0 to {replicas - 1}")
        if tail not in _TAILS:
            raise ConfigError(f"tail={tail!r}: expected {', '.join(map(repr, _TAILS))}")
        self.seed, self.shuffle = seed, shuffle
        self.replicas, self.rank, self.tail = replicas, rank, tail
        self.epoch = 0
        """Which epoch is sampled, from 0."""
        self._dataset = dataset
        self._start = self._done = 0

    def __len__(self) -> int:
        """How many samples this rank has in the epoch; of one that is resumed, in its rest."""
        return len(self._order()) - self._start

    def __iter__(self) -> Iterator[int]:
        for index in self._order()[self._start :]:
            yield SampleIndex(int(index), seed=self.seed, epoch=self.epoch)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; where a resumed one is at, if it is that."""
        if epoch != self.epoch:
            self.epoch, self._start, self._done = epoch, 0, 0

    def counted(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Give the batches of a loader that samples by this, and count their samples as done.

        A loader asks for indices long before it gives their batches: only who takes the batches
        knows how far an epoch is. At its end the sampler is at the beginning of the next.
        """
        batches = getattr(loader, "batch_sampler", None)
        size, whole = getattr(batches, "batch_size", 1), len(self._order())
        self._done = self._start
        for batch in loader:
            self._done = min(self._done + size, whole)
            yield batch
        self.set_epoch(self.epoch + 1)

    def state_dict(self) -> dict[str, int]:
        """Say where it is: plain numbers, the same on all ranks."""
        return {"seed": self.seed, "epoch": self.epoch, "done": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where another was, after the last batch that was counted.

        Raises:
            ConfigError: if it was sampled under another seed.
        """
        if state["seed"] != self.seed:
            raise ConfigError(f"resumed under seed {self.seed}, and was at seed {state['seed']}")
        self.epoch, self._start, self._done = state["epoch"], state["done"], state["done"]

    def _order(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Give the samples of this rank in the whole epoch."""
        count = len(self._dataset)
        order = np.arange(count)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(count)
        spare = -count % self.replicas
        if self.tail == "repeat" and count:
            order = np.concatenate((order, np.resize(order, spare)))
        elif self.tail == "drop":
            order = order[: count - count % self.replicas]
        return order[self.rank :: self.replicas]

"""Randomness that depends on seed, epoch and index alone: not on the worker, nor on what it did.

A sampler gives a dataset a `SampleIndex`, which says more than which sample; the dataset draws the
sample's random numbers from it. Plain numbers leave randomness as PyTorch and MONAI have it.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import SupportsIndex


class SampleIndex(int):
    """Which sample of a dataset, in which epoch and under which seed."""

    seed: int
    """Of the run."""

    epoch: int
    """From 0."""

    def __new__(cls, index: int, *, seed: int, epoch: int) -> Self:
        """Take an index and what its sample's randomness comes from."""
        made = super().__new__(cls, index)
        made.seed, made.epoch = seed, epoch
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (int(self), self.seed, self.epoch)

    @property
    def entropy(self) -> int:
        """A number of 32 bits, from all three."""
        sequence = np.random.SeedSequence((self.seed, self.epoch, int(self)))
        return int(sequence.generate_state(1)[0])

    def generator(self) -> np.random.Generator:
        """Give a generator of its own: always in the same state, and not that of a transform."""
        sequence = np.random.SeedSequence((self.seed, self.epoch, int(self)), spawn_key=(1,))
        return np.random.default_rng(sequence)


def _restored(index: int, seed: int, epoch: int) -> SampleIndex:
    return SampleIndex(index, seed=seed, epoch=epoch)


def generator_of(index: SupportsIndex) -> np.random.Generator:
    """Give what a sample draws from before it is transformed.

    A plain number says nothing of randomness. Then it comes from PyTorch's, which is seeded anew
    in each worker of each epoch, and by `torch.manual_seed` where there are none.
    """
    if isinstance(index, SampleIndex):
        return index.generator()
    return np.random.default_rng(int(torch.randint(2**63 - 1, ())))


@contextmanager
def seeded(transform: Callable[[Any], Any], entropy: int) -> Iterator[None]:
    """Let a transform draw from one number, and give everyone else their randomness back.

    MONAI's transforms have random states of their own; any other function draws from those of
    Python, NumPy or PyTorch, which the trainer may use too when there are no workers.
    """
    reseed = getattr(transform, "set_random_state", None)
    if reseed is not None:
        reseed(seed=entropy)
    # ruff: noqa: NPY002 - the global state is what a transform of someone else's may draw from
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(entropy)
    np.random.seed(entropy)
    torch.default_generator.manual_seed(entropy)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])

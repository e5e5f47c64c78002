"""To be asked to stop, by SIGTERM or SIGINT, and to do so where a run can go on later.

The first time, the running step is ended and a checkpoint is left; a second time ends the program
where it is. A cluster that takes a machine back sends SIGTERM, and kills half a minute later.
"""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

    from torch.utils.data import DataLoader

    from dicomdata.training.ranks import Ranks

_ASKING = (signal.SIGTERM, signal.SIGINT)

_AGREE_STEPS = 20
"""Steps between which ranks on GPUs ask each other: to do so lets a GPU wait for the processor."""


class StoppedError(Exception):
    """A run was asked to stop, and did; no error of anything."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number
        """Of the signal."""

    @property
    def status(self) -> int:
        """What the program exits with, as shells count signals: 143 of SIGTERM, 130 of SIGINT."""
        return 128 + self.number


@dataclass(slots=True, eq=False)
class StopRequest:
    """Whether a run was asked to stop."""

    ranks: Ranks
    number: int = field(default=0)
    """Of the signal; 0 where none came."""

    def check(self) -> None:
        """Stop here, if this rank was asked to.

        Raises:
            StoppedError: if so.
        """
        if self.number:
            raise StoppedError(self.number)

    def agreed(self, step: int) -> int:
        """Give the signal that any rank was sent, to all of them at the same step; 0 for none."""
        if self.ranks.count > 1 and self.ranks.device.type == "cuda" and step % _AGREE_STEPS:
            return 0
        return self.ranks.highest(self.number)

    def heed(self, number: int, _: FrameType | None) -> None:
        """Note a signal; the second one ends the program as it would without this.

        Raises:
            StoppedError: if it is the second.
        """
        if self.number:
            raise StoppedError(number)
        self.number = number
        print(  # noqa: T201 - a program's own voice
            f"train: {signal.Signals(number).name}: stops after this step, with a checkpoint; "
            f"again stops at once", file=sys.stderr, flush=True,
        )  # fmt: skip


@contextmanager
def heed_signals(ranks: Ranks) -> Iterator[StopRequest]:
    """Note signals that ask to stop, in place of what they do otherwise.

    Python lets the main thread alone do so: in another, nothing changes.
    """
    request = StopRequest(ranks)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.heed) for number in _ASKING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ended_workers(loaders: Iterable[DataLoader[Any]]) -> Iterator[None]:
    """End the persistent workers of loaders, whatever happens within.

    Otherwise Python would, when the program ends: by SIGTERM, which `leave_signals_to_parent` has
    them ignore, and would wait for them for ever.
    """
    try:
        yield
    finally:
        for loader in loaders:
            # PyTorch ends them in order when the iterator is freed, and an error, or a cycle that
            # waits for the garbage collector, may keep that.
            iterator, loader._iterator = loader._iterator, None  # noqa: SLF001
            if iterator is not None:
                iterator._shutdown_workers()  # type: ignore[attr-defined]  # noqa: SLF001


def leave_signals_to_parent(_: int) -> None:
    """Let a worker of a DataLoader go on when all processes are asked to stop.

    A terminal, and most clusters, send the signal to all of them: a worker that died of it would
    take with it the step that is to be ended. `ended_workers` ends them.
    """
    for number in _ASKING:
        signal.signal(number, signal.SIG_IGN)

"""What a cache knows of one process only: counts, and which thread fills what."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dicomdata.cache.background import Background
from dicomdata.cache.contract import CacheStatistics
from dicomdata.cache.opened import OpenFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dicomdata.cache.kept import Kept
    from dicomdata.cache.tally import Tally


@dataclass(slots=True)
class ProcessState:
    """State of a cache in one process: never pickled, and made anew after a fork.

    A lock that another thread holds while the process forks would stay held in the child for ever.
    """

    pid: int = field(default_factory=os.getpid)
    """The process."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held for moments only, never while a volume is read."""

    opened: OpenFiles = field(default_factory=OpenFiles)
    """The files of entries that were read from."""

    pending: dict[str, Kept] = field(default_factory=dict)
    """Volumes that are being written in the background, by their keys."""

    refused: set[str] = field(default_factory=set)
    """Keys that could not be filled in the background: who asks for them will be told why."""

    too_many: int = 0
    """Bytes for which there was no room on the disk."""

    background: Background = field(default_factory=Background)
    """What is done while callers go on."""

    tally: Tally | None = None
    """What it tells all processes that it counted; None where there are no others."""

    _turns: dict[str, threading.Lock] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)

    @property
    def current(self) -> ProcessState:
        """This state in the process that made it; a new one in a child that was forked since."""
        return self if self.pid == os.getpid() else ProcessState()

    @property
    def statistics(self) -> CacheStatistics:
        """The counts so far."""
        return CacheStatistics(**self._counts)

    def count(self, **amounts: int) -> None:
        """Add to fields of `CacheStatistics`."""
        with self.lock:
            for name, amount in amounts.items():
                self._counts[name] += amount

    @contextmanager
    def one_thread(self, key: str) -> Iterator[None]:
        """Let one thread at a time look for a key and fill it."""
        with self.lock:
            turn = self._turns.setdefault(key, threading.Lock())
        try:
            with turn:
                yield
        finally:
            with self.lock:
                self._turns.pop(key, None)

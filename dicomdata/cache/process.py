"""What a cache knows of one process only: counts, and which thread fills what."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dicomdata.cache.contract import CacheStatistics

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class ProcessState:
    """State of a cache in one process: never pickled, and made anew after a fork.

    A lock that another thread holds while the process forks would stay held in the child for ever.
    """

    pid: int = field(default_factory=os.getpid)
    """The process."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held for moments only, never while a volume is read."""

    verified: set[tuple[str, int, int]] = field(default_factory=set)
    """Entries on disk whose checksum was compared: key, inode, modification time in ns."""

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
            self._counts.update(amounts)

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

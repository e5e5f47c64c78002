"""What all processes did with the folder of a cache, added up in one file of it."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import fields
from multiprocessing.util import Finalize

from dicomdata.cache.contract import CacheStatistics

_NAMES = tuple(field.name for field in fields(CacheStatistics))

_RECORD = struct.Struct(f"<{len(_NAMES)}Q")
"""The file: the fields of `CacheStatistics`, in their order."""

_MOST_UNTOLD = 64
"""Hits that a process counts for itself before it tells them: to lock a file at each would cost
more than some of them do."""


class Tally:
    """Counts of one process, which are added to those of all: at the latest when it ends.

    A process that is killed takes its last hits with it. Where nothing can be written, nothing is
    added up.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._untold: Counter[str] = Counter()
        # Told when a worker ends, too, which runs nothing that was registered with `atexit`.
        Finalize(self, _add, (path, self._untold), exitpriority=0)

    def count(self, amounts: dict[str, int]) -> None:
        """Add counts; hits are told when there are some, all else at once."""
        with self._lock:
            for name, amount in amounts.items():
                self._untold[name] += amount
            if "hits" not in amounts or self._untold["hits"] >= _MOST_UNTOLD:
                _add(self._path, self._untold)

    def total(self) -> CacheStatistics:
        """Give what all processes have told, and this one has counted."""
        with self._lock:
            _add(self._path, self._untold)
        try:
            with open(self._path, "rb") as file:
                return CacheStatistics(**_parse(file.read()))
        except OSError:
            return CacheStatistics()


def _add(path: str, untold: Counter[str]) -> None:
    """Add counts to those in a file, and forget them."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            sums = Counter(_parse(os.pread(handle, _RECORD.size, 0)))
            sums.update(untold)
            os.pwrite(handle, _RECORD.pack(*(sums[name] for name in _NAMES)), 0)
        finally:
            os.close(handle)
    untold.clear()


def _parse(content: bytes) -> dict[str, int]:
    """Give counts as they lie in a file: none, in one that is new or cut short."""
    if len(content) != _RECORD.size:
        return {}
    return dict(zip(_NAMES, _RECORD.unpack(content), strict=True))

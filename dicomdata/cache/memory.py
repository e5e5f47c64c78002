"""Volumes kept in the memory of one process."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.cache.kept import Kept, keep
from dicomdata.cache.keys import cache_key, is_fresh, parse_bytes
from dicomdata.cache.process import ProcessState

if TYPE_CHECKING:
    from dicomdata.cache.contract import CacheStatistics, Read
    from dicomdata.stack import Stack
    from dicomdata.volume import Volume


class MemoryCache:
    """Keeps volumes in memory, the most recently used ones: a `VolumeCache` of one process.

    Whole numbers are kept as int16, so a CT takes half of its float32 size. Workers that are
    forked share what was kept before, and keep for themselves what they read after; a pickled
    cache is empty. To share among processes use `DiskCache`.
    """

    def __init__(self, max_bytes: int | str | None = None) -> None:
        """Keep at most `max_bytes`, a number or text such as "2 GB"; None keeps everything.

        Raises:
            CacheError: if `max_bytes` is no size.
        """
        self.max_bytes = parse_bytes(max_bytes)
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._state = ProcessState()

    def __repr__(self) -> str:
        return f"MemoryCache(max_bytes={self.max_bytes!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return MemoryCache, (self.max_bytes,)

    def get(self, stack: Stack, read: Read) -> Volume:
        """Return the volume of `stack`, calling `read` only where none is kept.

        Raises:
            CacheError: if `read` cannot be told from another function.
        """
        key = cache_key(stack, read)
        self._state = state = self._state.current
        if not is_fresh(stack):
            state.count(misses=1)
            return read(stack)
        with state.one_thread(key):
            kept = self._kept.get(key)
            if kept is None:
                state.count(misses=1)
                volume = read(stack)
                # A file may have been replaced while it was read.
                if is_fresh(stack):
                    self._keep(key, volume)
                return volume
        with state.lock:
            if key in self._kept:
                self._kept.move_to_end(key)
        state.count(hits=1)
        return kept.volume(stack)

    def statistics(self) -> CacheStatistics:
        """What it did in this process."""
        return self._state.current.statistics

    def _keep(self, key: str, volume: Volume) -> None:
        """Keep an entry, and let those go that were used least recently."""
        kept = keep(volume)
        size = kept.voxels.nbytes
        if self.max_bytes is not None and size > self.max_bytes:
            return
        if np.may_share_memory(kept.voxels, volume.voxels):
            kept = replace(kept, voxels=kept.voxels.copy())
        evictions = 0
        with self._state.lock:
            self._kept[key] = kept
            held = sum(each.voxels.nbytes for each in self._kept.values())
            while self.max_bytes is not None and held > self.max_bytes:
                _, left = self._kept.popitem(last=False)
                held -= left.voxels.nbytes
                evictions += 1
        self._state.count(fills=1, bytes=size, evictions=evictions)

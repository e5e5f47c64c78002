"""What every cache that keeps something does first: is it fresh, is it kept, else read it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from dicomdata.cache.keys import cache_key, is_fresh, parse_bytes, read_of
from dicomdata.cache.process import ProcessState

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicomdata.cache.contract import CacheStatistics, Read
    from dicomdata.regions import Region
    from dicomdata.stack import Stack
    from dicomdata.volume import Volume


class LookupCache(ABC):
    """A `VolumeCache` but for where its volumes lie: subclasses find them, and store them."""

    def __init__(self, max_bytes: int | str | None) -> None:
        """Keep at most `max_bytes`; None keeps everything."""
        self.max_bytes = parse_bytes(max_bytes)
        self._state = ProcessState()

    def get(self, stack: Stack, read: Read, region: Region | None = None) -> Volume:
        """Return the volume of `stack`, or a box of it, calling `read` only where none is kept.

        Raises:
            CacheError: if `read` cannot be told from another function, or cannot read a box.
            ValueError: if the region is empty.
        """
        key, wanted = cache_key(stack, read), read_of(read, region)
        self._state = self._state.current
        fresh = is_fresh(stack)
        volume = self._find(key, stack, region) if fresh else None
        if volume is not None:
            return volume
        if fresh and region is None:
            return self._fill(key, stack, read)
        self._state.count(misses=1)
        return wanted(stack)

    def statistics(self) -> CacheStatistics:
        """What it did in this process."""
        return self._state.current.statistics

    @abstractmethod
    def _find(self, key: str, stack: Stack, region: Region | None) -> Volume | None:
        """Give what is kept under a key, or a box of it, and count a hit; None if there is none."""

    @abstractmethod
    def _fill(self, key: str, stack: Stack, read: Read) -> Volume:
        """Read a volume and keep it, unless another thread or process did so just now."""

    def _find_or_read(
        self, key: str, stack: Stack, *, read: Read, store: Callable[[Volume], None]
    ) -> Volume:
        """Give what is kept, or read a volume and store it: for who alone may fill this key."""
        volume = self._find(key, stack, None)
        if volume is None:
            self._state.count(misses=1)
            volume = read(stack)
            # A file may have been replaced while it was read.
            if is_fresh(stack):
                store(volume)
        return volume

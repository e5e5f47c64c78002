"""What every cache that keeps something does first: is it fresh, is it kept, else read it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from dicomdata.cache.freshness import is_fresh
from dicomdata.cache.keys import cache_key, parse_bytes, read_of
from dicomdata.cache.process import ProcessState

if TYPE_CHECKING:
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
        fresh = is_fresh(stack, region)
        volume = self._find(key, stack, region) if fresh else None
        if volume is not None:
            return volume
        if fresh and region is None:
            return self._fill(key, stack, read)
        self._count(misses=1)
        if fresh:
            self._fill_later(key, stack, read)
        return wanted(stack)

    def warm(self, stack: Stack, read: Read) -> None:
        """Keep the volume of `stack`, if it is not kept: what `get` does, without giving it.

        Raises:
            CacheError: if it cannot be kept, or if `read` cannot be told from another function.
        """
        self.get(stack, read)

    def finish(self) -> None:
        """Wait until this process has kept all that it is to keep in the background."""
        self._state.current.background.finish()

    def statistics(self) -> CacheStatistics:
        """What it did in this process."""
        return self._state.current.statistics

    def _count(self, **amounts: int) -> None:
        """Count what was done."""
        self._state.count(**amounts)

    @abstractmethod
    def _find(self, key: str, stack: Stack, region: Region | None) -> Volume | None:
        """Give what is kept under a key, or a box of it, and count a hit; None if there is none."""

    @abstractmethod
    def _fill(self, key: str, stack: Stack, read: Read) -> Volume:
        """Read a volume and keep it, unless another thread or process did so just now."""

    @abstractmethod
    def _fill_later(self, key: str, stack: Stack, read: Read) -> None:
        """See to it that a volume is kept of which a box was asked for, if boxes are to do that."""

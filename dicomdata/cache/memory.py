"""Volumes kept in memory: in that of the machine, or of one process."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.cache.disk import DiskCache, Fill
from dicomdata.cache.freshness import is_fresh
from dicomdata.cache.kept import Kept, keep
from dicomdata.cache.keys import check_choice, parse_bytes
from dicomdata.cache.lookup import LookupCache
from dicomdata.cache.shared import SharedFolder, find_room, join_folder, share_folder
from dicomdata.errors import DicomDataWarning

if TYPE_CHECKING:
    from dicomdata.cache.contract import CacheStatistics, Read
    from dicomdata.regions import Region
    from dicomdata.stack import Stack
    from dicomdata.volume import Volume


class MemoryCache:
    """Keeps volumes in memory that all workers of the machine share: a `VolumeCache`.

    Volumes lie in shared memory (``/dev/shm``; where that is too small, in the folder for
    temporary files), each once, however many workers use it, under fork and under spawn. Whole
    numbers are kept as int16, so a CT takes half of its float32 size. `max_bytes` holds for all
    processes together.

    The memory belongs to the process that made the cache: it is given back when the cache is no
    longer used there, and when the process ends; that of a process that was killed, when the next
    `MemoryCache` is made. A pickled cache shares it as long as it is there, and else is an empty
    one of the same size.

    Processes that do not come from each other, such as the ranks of a training, share one by its
    name. It then belongs to all of them, and is given back by the last.

    Where no place has room, each process keeps volumes of its own, and a `DicomDataWarning` says
    so.
    """

    def __init__(
        self,
        max_bytes: int | str | None = None,
        *,
        name: str | None = None,
        fill: Fill = "wait",
    ) -> None:
        """Keep at most `max_bytes`, a number or text such as "2 GB".

        Args:
            max_bytes: None keeps what there is room for: a quarter of the memory that can be
                shared is left to others, such as DataLoader, which passes batches through it.
            name: what the ranks call the cache that they share, such as "training": those of one
                machine, one user, and one run of torchrun or one job of Slurm, if it is one. None
                is a cache of this process and of those that it makes.
            fill: when volumes are kept, as `DiskCache` has it.

        Raises:
            CacheError: if `max_bytes` is no size, or there is no such way to fill.
        """
        self.max_bytes = parse_bytes(max_bytes)
        self.name, self.fill = name, check_choice("fill", fill, Fill)
        room = find_room(self.max_bytes, name=name)
        if room is None:
            warnings.warn(
                f"no shared memory has room for {max_bytes or 'volumes'}: each process keeps its "
                f"own; in a container, give it more (docker --shm-size)",
                DicomDataWarning,
                stacklevel=2,
            )
        self._shared = None if room is None else share_folder(room, name)
        self._volumes = _volumes_in(self._shared, self.max_bytes, self.fill)

    def __repr__(self) -> str:
        return f"MemoryCache({self.max_bytes!r}, name={self.name!r}, fill={self.fill!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        shared = self._shared
        options = {"name": self.name, "fill": self.fill}
        shares = shared and (shared.path, shared.room)
        return _unpickle, (self.max_bytes, options, shares, self._volumes)

    def get(self, stack: Stack, read: Read, region: Region | None = None) -> Volume:
        """Return the volume of `stack`, or a box of it, calling `read` only where none is kept.

        Raises:
            CacheError: if `read` cannot be told from another function, or cannot read a box.
            ValueError: if the region is empty.
        """
        return self._volumes.get(stack, read, region)

    def warm(self, stack: Stack, read: Read) -> None:
        """Keep the volume of `stack`, unless it is kept: neither read then, nor looked through.

        Raises:
            CacheError: if it cannot be kept, or if `read` cannot be told from another function.
        """
        self._volumes.warm(stack, read)

    def finish(self) -> None:
        """Wait until this process has kept all that it is to keep in the background."""
        self._volumes.finish()

    def statistics(self) -> CacheStatistics:
        """What it did in this process."""
        return self._volumes.statistics()

    def totals(self) -> CacheStatistics:
        """What all processes that share it did with it, workers and ranks among them.

        A process tells its hits some at a time, and when it ends; one that is killed, not all.
        """
        volumes = self._volumes
        return volumes.totals() if isinstance(volumes, DiskCache) else volumes.statistics()


def _unpickle(
    max_bytes: int | None,
    options: dict[str, Any],
    shares: tuple[str, int] | None,
    volumes: LookupCache,
) -> MemoryCache:
    """Share the memory of the cache that was pickled, or start an empty one."""
    shared = join_folder(*shares) if shares else None
    if shares and shared is None:
        return MemoryCache(max_bytes, **options)
    cache = MemoryCache.__new__(MemoryCache)
    cache.__dict__.update(options, max_bytes=max_bytes, _shared=shared, _volumes=volumes)
    return cache


def _volumes_in(shared: SharedFolder | None, max_bytes: int | None, fill: Fill) -> LookupCache:
    if shared is None:
        return ProcessCache(max_bytes)
    return _SharedCache(shared.path, max_bytes or shared.room, fill=fill)


class _SharedCache(DiskCache):
    """Entries in a folder of memory, which is made and removed by the process that owns it."""

    _durable = False

    def _prepare(self) -> None:
        """Make nothing: a folder that is gone was given back, and stays gone."""


class ProcessCache(LookupCache):
    """Keeps volumes in the memory of one process, the most recently used ones: a `VolumeCache`.

    Workers that are forked share what was kept before, and keep for themselves what they read
    after; a pickled cache is empty.
    """

    def __init__(self, max_bytes: int | str | None = None) -> None:
        """Keep at most `max_bytes`, a number or text such as "2 GB"; None keeps everything.

        Raises:
            CacheError: if `max_bytes` is no size.
        """
        super().__init__(max_bytes)
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return ProcessCache, (self.max_bytes,)

    def _find(self, key: str, stack: Stack, region: Region | None) -> Volume | None:
        with self._state.lock:
            kept = self._kept.get(key)
            if kept is None or not kept.has(region, stack):
                return None
            self._kept.move_to_end(key)
        volume = kept.volume(stack, region)
        self._state.count(hits=1)
        return volume

    def _fill(self, key: str, stack: Stack, read: Read) -> Volume:
        with self._state.one_thread(key):
            volume = self._find(key, stack, None)
            if volume is None:
                self._state.count(misses=1)
                volume = read(stack)
                # A file may have been replaced while it was read.
                if is_fresh(stack):
                    self._keep(key, volume)
        return volume

    def _fill_later(self, key: str, stack: Stack, read: Read) -> None:
        """Keep nothing of which only boxes are wanted: each process would, for itself."""

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

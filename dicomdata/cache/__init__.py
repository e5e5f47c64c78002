"""Volumes kept between epochs: the contract, and the caches that keep it.

`VolumeCache` says what any cache does; `NoCache`, `MemoryCache` and `DiskCache` do it; `warm`
fills one ahead of training. `keys` tells entries apart, `freshness` when a source has changed,
`kept` what is kept of a volume or of what transforms made of it, `entry` how it lies on disk, in
the layouts of `raw` and `small`, `opened` what a process has open of it, `locks` who may write it,
`background` when, `shared` whose memory it is, `tally` what all did with it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from dicomdata.cache.contract import CacheStatistics, NoCache, VolumeCache
from dicomdata.cache.disk import DiskCache
from dicomdata.cache.inspection import CacheEntry
from dicomdata.cache.memory import MemoryCache
from dicomdata.catalog import track
from dicomdata.errors import DicomDataError, Rejection
from dicomdata.volume import read_volume
from dicomdata.volume.threads import thread_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dicomdata.cache.contract import Read
    from dicomdata.stack import Stack

__all__ = [
    "CacheEntry",
    "CacheStatistics",
    "DiskCache",
    "MemoryCache",
    "NoCache",
    "VolumeCache",
    "warm",
]


def warm(
    stacks: Iterable[Stack],
    cache: VolumeCache,
    *,
    read: Read = read_volume,
    workers: int | None = 1,
    progress: bool | None = None,
) -> tuple[Rejection, ...]:
    """Read the volumes that a cache has not, so that no epoch waits for them.

    What is kept already is left as it is, so a run that was killed goes on where it was.

    Args:
        stacks: what to keep.
        cache: where.
        read: how they will be asked for: `read_volume`, or a `functools.partial` of it.
        workers: volumes that are read at a time, each on a thread, and in memory: `read` must
            allow it, as `read_volume` does. None is one a processor, 4 at most.
        progress: draw a progress bar on stderr; None draws if that is a terminal.

    Returns:
        The stacks that could not be read or kept, and why, in the order of the stacks; nothing
        raises for a stack.

    Raises:
        ValueError: if `workers` is less than 1.
    """
    chosen = tuple(stacks)
    keep: Callable[[Stack, Read], Any] = getattr(cache, "warm", cache.get)

    def attempt(stack: Stack) -> Rejection | None:
        try:
            keep(stack, read)
        except DicomDataError as error:
            return Rejection(stack.id, error)
        return None

    pool = ThreadPoolExecutor(thread_count(workers))
    try:
        done = track(pool.map(attempt, chosen), total=len(chosen), show=progress, what="volumes")
        return tuple(rejection for rejection in done if rejection is not None)
    finally:
        # Who interrupts it waits for the volumes in hand, and for no others.
        pool.shutdown(cancel_futures=True)

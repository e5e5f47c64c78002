"""Volumes kept between epochs: the contract, and the caches that keep it.

`VolumeCache` says what any cache does; `NoCache`, `MemoryCache` and `DiskCache` do it; `warm`
fills one ahead of training. `keys` tells entries apart and knows when a source has changed,
`kept` what is kept of a volume, `entry` how it lies on disk, in the layouts of `raw` and `small`,
`locks` who may write it, `shared` whose memory it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicomdata.cache.contract import CacheStatistics, NoCache, VolumeCache
from dicomdata.cache.disk import DiskCache
from dicomdata.cache.inspection import CacheEntry
from dicomdata.cache.memory import MemoryCache
from dicomdata.catalog import track
from dicomdata.errors import DicomDataError, Rejection
from dicomdata.volume import read_volume

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    progress: bool | None = None,
) -> tuple[Rejection, ...]:
    """Read the volumes that a cache has not, so that no epoch waits for them.

    Args:
        stacks: what to keep.
        cache: where.
        read: how they will be asked for: `read_volume`, or a `functools.partial` of it.
        progress: draw a progress bar on stderr; None draws if that is a terminal.

    Returns:
        The stacks that could not be read, and why; nothing raises for a stack.
    """
    chosen = tuple(stacks)
    rejected = []
    for stack in track(chosen, total=len(chosen), show=progress, what="volumes"):
        try:
            cache.get(stack, read)
        except DicomDataError as error:
            rejected.append(Rejection(stack.id, error))
    return tuple(rejected)

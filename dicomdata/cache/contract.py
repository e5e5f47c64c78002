"""What every cache of volumes promises, and the cache that keeps nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from dicomdata.cache.keys import read_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicomdata.regions import Region
    from dicomdata.stack import Stack
    from dicomdata.volume import Volume

Read: TypeAlias = "Callable[..., Volume]"
"""`read_volume`, or a `functools.partial` of it with keyword arguments: called with a stack, and
with `region` where a box is wanted."""


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What one cache did in this process."""

    hits: int = 0
    """Volumes that were kept and boxes of them, given without reading a source file."""

    misses: int = 0
    """Volumes and boxes that had to be read."""

    fills: int = 0
    """Volumes that were read and then kept."""

    bytes: int = 0
    """Bytes that the fills put into the cache, as they lie there."""

    evictions: int = 0
    """Volumes that were dropped to make room."""


class VolumeCache(Protocol):
    """Keeps volumes by the stack they were read from, and by how they were read.

    Contract, checked for each cache by `dicomdata.testing.contracts.CacheContract`:

    * transparent: what `get` returns equals what `read` returns, dtype and every bit, and all
      that a `TransformedVolume` says;
    * sparing: a box is cut from the volume that is kept, and no more than the box is converted;
      where none is kept, the box alone is read, and nothing is kept unless the cache was told to;
    * safe: its voxels are the caller's own to write to, and the kept copy never changes;
    * fresh: where a source file changed since the stack was planned, `read` is called, which
      raises `StaleError` or gives the truth; neither is kept for the stack as it was;
    * whole: a process killed in mid-write leaves no entry, never half of one; a damaged entry
      is read anew, never served;
    * shared: threads and processes may use one cache at once; an entry is filled once;
    * bounded: what was used least recently leaves first;
    * modest: where nothing can be kept (a full or read-only disk), it reads, and warns once;
    * portable: it pickles, and holds no open file; an error of `read` passes through unchanged.
    """

    def get(self, stack: Stack, read: Read, region: Region | None = None) -> Volume:
        """Return the volume of `stack`, or a box of it, calling `read` only where none is kept.

        Args:
            stack: what is wanted.
            read: `read_volume` or a `functools.partial` of it; its name and its keyword arguments
                are part of what the volume is kept under.
            region: which box of the stack; all that `read` gives by default. Every box comes from
                the one volume that is kept. Where there is none, ``read(stack, region=region)``
                is returned.

        Raises:
            CacheError: if `read` cannot be told from another function: a lambda, or one that was
                defined inside a function or a script; or if a region is asked for and `read`
                takes none, or has one already.
            ValueError: if the region is empty.
        """
        ...


class NoCache:
    """Keeps nothing: every `get` reads."""

    def get(self, stack: Stack, read: Read, region: Region | None = None) -> Volume:
        """Read it anew."""
        return read_of(read, region)(stack)

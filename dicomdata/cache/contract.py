"""What every cache of volumes promises, and the cache that keeps nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicomdata.stack import Stack
    from dicomdata.volume import Volume

Read: TypeAlias = "Callable[[Stack], Volume]"
"""`read_volume`, or a `functools.partial` of it with keyword arguments."""


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What one cache did in this process."""

    hits: int = 0
    """Volumes that were kept, and given without reading a source file."""

    misses: int = 0
    """Volumes that had to be read."""

    fills: int = 0
    """Volumes that were read and then kept."""

    bytes: int = 0
    """Bytes that the fills put into the cache."""

    evictions: int = 0
    """Volumes that were dropped to make room."""


class VolumeCache(Protocol):
    """Keeps volumes by the stack they were read from, and by how they were read.

    Contract, checked for each cache by `dicomdata.testing.contracts.CacheContract`:

    * transparent: what `get` returns equals what `read` returns, dtype and every bit;
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

    def get(self, stack: Stack, read: Read) -> Volume:
        """Return the volume of `stack`, calling `read` only where none is kept.

        Args:
            stack: what is wanted.
            read: `read_volume` or a `functools.partial` of it; its name and its keyword arguments
                are part of what the volume is kept under.

        Raises:
            CacheError: if `read` cannot be told from another function: a lambda, or one that was
                defined inside a function or a script.
        """
        ...


class NoCache:
    """Keeps nothing: every `get` reads."""

    def get(self, stack: Stack, read: Read) -> Volume:
        """Read it anew."""
        return read(stack)

"""Volumes kept in a folder, for all processes, ranks and runs that share it."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dicomdata.cache.entry import (
    CHUNK,
    METADATA,
    DamagedEntryError,
    flush_folder,
    read_entry,
    write_entry,
)
from dicomdata.cache.kept import keep
from dicomdata.cache.keys import cache_key, is_fresh, parse_bytes
from dicomdata.cache.locks import acquire
from dicomdata.cache.process import ProcessState
from dicomdata.errors import CacheError, DicomDataWarning

if TYPE_CHECKING:
    from dicomdata.cache.contract import CacheStatistics, Read
    from dicomdata.stack import Stack
    from dicomdata.volume import Volume

_SUFFIX = ".zarr"
"""Ends the name of an entry, as zarr's own tools like it."""

_ABANDONED_S = 24 * 3600.0
"""Age at which a half-written entry is litter where no lock can tell: no fill takes a day."""

_complained: set[tuple[int, str]] = set()
"""Process and folder of each warning that was given."""


class DiskCache:
    """Keeps volumes in a folder: a `VolumeCache` that processes, ranks and runs share.

    Each entry is a zarr v3 array under ``<folder>/volumes``: filled by one process, published
    whole by a rename, checked by its checksum when a process first opens it. Voxels that are
    kept as they are given come as a copy-on-write map, whose pages all workers share.

    It is the name of a folder and a size: it pickles, and holds no open files.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int | str | None = None) -> None:
        """Keep volumes in `folder`, which is made when it is first needed.

        Args:
            folder: where; "~" is the home folder.
            max_bytes: how much to keep, a number or text such as "64 GB"; None keeps everything.

        Raises:
            CacheError: if `max_bytes` is no size, or the folder is a file.
        """
        self.folder = os.path.abspath(os.path.expanduser(os.fspath(folder)))
        self.max_bytes = parse_bytes(max_bytes)
        if os.path.exists(self.folder) and not os.path.isdir(self.folder):
            raise CacheError(f"{self.folder}: a cache needs a folder, and this is a file")
        self._state = ProcessState()

    def __repr__(self) -> str:
        return f"DiskCache({self.folder!r}, max_bytes={self.max_bytes!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return DiskCache, (self.folder, self.max_bytes)

    def get(self, stack: Stack, read: Read) -> Volume:
        """Return the volume of `stack`, calling `read` only where none is kept.

        Raises:
            CacheError: if `read` cannot be told from another function.
        """
        key = cache_key(stack, read)
        self._state = self._state.current
        if not is_fresh(stack):
            self._state.count(misses=1)
            return read(stack)
        volume = self._find(key, stack)
        return self._fill(key, stack, read) if volume is None else volume

    def statistics(self) -> CacheStatistics:
        """What it did in this process."""
        return self._state.current.statistics

    def _path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def _entry(self, key: str) -> str:
        return self._path("volumes", key + _SUFFIX)

    def _aside(self, key: str) -> str:
        """Name a folder for what is not an entry yet, or no longer."""
        return self._path("partial", f"{key}-{secrets.token_hex(4)}")

    def _find(self, key: str, stack: Stack) -> Volume | None:
        """Open the entry of a key, if there is one and it is whole."""
        try:
            volume = read_entry(self._entry(key), key, stack, self._state.verified)
        except (OSError, DamagedEntryError):
            return None
        self._state.count(hits=1)
        return volume

    def _fill(self, key: str, stack: Stack, read: Read) -> Volume:
        """Read a volume and keep it, unless another thread or process did so just now."""
        try:
            for name in ("volumes", "partial", "locks"):
                os.makedirs(self._path(name), exist_ok=True)
            lock = acquire(self._path("locks", key))
        except OSError as error:
            self._complain(error)
            self._state.count(misses=1)
            return read(stack)
        try:
            volume = self._find(key, stack)
            if volume is None:
                self._state.count(misses=1)
                volume = read(stack)
                # A file may have been replaced while it was read.
                if is_fresh(stack):
                    self._store(key, volume, alone=lock.held)
            return volume
        finally:
            lock.release()

    def _store(self, key: str, volume: Volume, *, alone: bool) -> None:
        """Keep a volume if there is room for it and the disk plays along."""
        kept = keep(volume)
        size = kept.voxels.nbytes
        if self.max_bytes is not None and size > self.max_bytes:
            return
        aside = self._aside(key)
        try:
            self._sweep(key, alone=alone)
            self._make_room(size)
            os.mkdir(aside)
            write_entry(aside, key, kept, volume)
            self._publish(aside, key)
            # Again: others may have filled theirs meanwhile.
            self._make_room(0)
        except OSError as error:
            self._complain(error)
        else:
            self._state.count(fills=1, bytes=size)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _publish(self, aside: str, key: str) -> None:
        """Give a written folder its name, in one step."""
        entry = self._entry(key)
        try:
            os.rename(aside, entry)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # A damaged entry, or one that another process wrote where there are no locks.
            self._drop(key)
            os.rename(aside, entry)
        flush_folder(os.path.dirname(entry))

    def _drop(self, key: str) -> bool:
        """Remove an entry, if no other process did; whoever has it open keeps it."""
        aside = self._aside(key)
        try:
            os.rename(self._entry(key), aside)
        except FileNotFoundError:
            return False
        shutil.rmtree(aside, ignore_errors=True)
        return True

    def _make_room(self, needed: int) -> None:
        """Drop entries, least recently used first, until `needed` more bytes fit."""
        if self.max_bytes is None:
            return
        folder = self._path("volumes")
        entries = sorted((*_use_and_size(folder, name), name) for name in os.listdir(folder))
        held = sum(size for _, size, _ in entries)
        for _, size, name in entries:
            if held + needed <= self.max_bytes:
                break
            self._state.count(evictions=self._drop(name.removesuffix(_SUFFIX)))
            held -= size

    def _sweep(self, key: str, *, alone: bool) -> None:
        """Remove what processes left behind that died while they filled an entry."""
        partial = os.listdir(self._path("partial"))
        owners = {name.partition("-")[0] for name in partial}
        for owner in owners.union(os.listdir(self._path("locks"))) - {key}:
            # The lock of a dead process is free; taking and releasing it removes its file.
            lock = acquire(self._path("locks", owner), patience_s=0)
            self._remove(partial, owner, dead=lock.held)
            lock.release()
        self._remove(partial, key, dead=alone)

    def _remove(self, partial: list[str], owner: str, *, dead: bool) -> None:
        """Remove half-written entries of a key, if nobody can still be writing them."""
        for name in partial:
            folder = self._path("partial", name)
            if name.startswith(f"{owner}-") and (dead or _age_s(folder) > _ABANDONED_S):
                shutil.rmtree(folder, ignore_errors=True)

    def _complain(self, error: OSError) -> None:
        """Say once in a process that nothing can be kept."""
        occasion = (os.getpid(), self.folder)
        if occasion not in _complained:
            _complained.add(occasion)
            warnings.warn(
                f"{self.folder}: volumes cannot be kept here, and are read from their files each "
                f"time: {error.strerror or error}",
                DicomDataWarning,
                stacklevel=4,
            )


def _use_and_size(folder: str, name: str) -> tuple[int, int]:
    """Tell when an entry was last used, in ns, and how many bytes it takes; 0 once it is gone."""
    used = size = 0
    for file in (METADATA, CHUNK):
        # Another process may drop the entry meanwhile; what is half gone leaves first.
        with suppress(OSError):
            status = os.stat(os.path.join(folder, name, file))
            size += status.st_size
            used = status.st_mtime_ns if file == METADATA else used
    return used, size


def _age_s(path: str) -> float:
    try:
        return time.time() - os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0

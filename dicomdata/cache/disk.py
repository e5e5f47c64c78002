"""Volumes kept in a folder, for all processes, ranks and runs that share it."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from dicomdata.cache.damage import DamagedEntryError
from dicomdata.cache.entry import (
    Layout,
    NewEntry,
    flush_folder,
    read_entry,
    use_and_size,
    write_entry,
)
from dicomdata.cache.inspection import CacheEntry, check_entries, list_entries
from dicomdata.cache.kept import keep
from dicomdata.cache.locks import acquire
from dicomdata.cache.lookup import LookupCache
from dicomdata.errors import CacheError, DicomDataWarning

if TYPE_CHECKING:
    from dicomdata.cache.contract import Read
    from dicomdata.errors import Rejection
    from dicomdata.regions import Region
    from dicomdata.stack import Stack
    from dicomdata.volume import Volume

_SUFFIX = ".zarr"
"""Ends the name of an entry, as zarr's own tools like it."""

FOLDERS = ("volumes", "partial", "locks")
"""In the folder of a cache: entries, entries in the making, and who makes which."""

_ABANDONED_S = 24 * 3600.0
"""Age at which a half-written entry is litter where no lock can tell: no fill takes a day."""

_complained: set[tuple[int, str]] = set()
"""Process and folder of each warning that was given."""


class DiskCache(LookupCache):
    """Keeps volumes in a folder: a `VolumeCache` that processes, ranks and runs share.

    Each entry is a zarr v3 array under ``<folder>/volumes``: filled by one process, published
    whole by a rename, checked by its checksum when a process first opens it. Voxels that are
    kept as they are given come as a copy-on-write map, whose pages all workers share.

    It is the name of a folder and a size: it pickles, and holds no open files.
    """

    _durable = True
    """Whether an entry must survive a power loss: written to the disk before it has its name."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        max_bytes: int | str | None = None,
        layout: Layout = "raw",
    ) -> None:
        """Keep volumes in `folder`, which is made when it is first needed.

        Args:
            folder: where; "~" is the home folder.
            max_bytes: how much to keep, a number or text such as "64 GB"; None keeps everything.
            layout: how new entries lie there; those that are there already are served, whatever
                theirs. "raw" is plain voxels, a map of which costs nothing to open and a box of
                which nothing but its copy; "small" is compressed chunks, 40 % of the bytes for a
                CT, to be decompressed each time.

        Raises:
            CacheError: if `max_bytes` is no size, there is no such layout, or the folder is a
                file.
        """
        self.folder = os.path.abspath(os.path.expanduser(os.fspath(folder)))
        super().__init__(max_bytes)
        if layout not in get_args(Layout):
            raise CacheError(f"layout={layout!r}: expected one of {', '.join(get_args(Layout))}")
        self.layout = layout
        if os.path.exists(self.folder) and not os.path.isdir(self.folder):
            raise CacheError(f"{self.folder}: a cache needs a folder, and this is a file")

    def __repr__(self) -> str:
        return f"DiskCache({self.folder!r}, {self.max_bytes!r}, {self.layout!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return DiskCache, (self.folder, self.max_bytes, self.layout)

    def entries(self) -> tuple[CacheEntry, ...]:
        """What is kept, by any process, the least recently used first; damaged ones left out."""
        return list_entries(self._path("volumes"))[0]

    def verify(self) -> tuple[Rejection, ...]:
        """Read all that is kept, compare the checksums, and give the entries that are damaged.

        None of them would be served: each is read anew when it is next asked for.
        """
        return check_entries(self._path("volumes"))

    def _path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def _entry(self, key: str) -> str:
        return self._path("volumes", key + _SUFFIX)

    def _aside(self, key: str) -> str:
        """Name a folder for what is not an entry yet, or no longer."""
        return self._path("partial", f"{key}-{secrets.token_hex(4)}")

    def _prepare(self) -> None:
        """Make the folders."""
        for name in FOLDERS:
            os.makedirs(self._path(name), exist_ok=True)

    def _find(self, key: str, stack: Stack, region: Region | None) -> Volume | None:
        """Open the entry of a key, if there is one that is whole and has the region."""
        try:
            volume = read_entry(
                self._entry(key), key, stack, verified=self._state.verified, region=region
            )
        except (OSError, DamagedEntryError):
            return None
        if volume is not None:
            self._state.count(hits=1)
        return volume

    def _fill(self, key: str, stack: Stack, read: Read) -> Volume:
        """Read a volume and keep it, unless another thread or process did so just now."""
        try:
            self._prepare()
            lock = acquire(self._path("locks", key))
        except OSError as error:
            self._complain(error)
            self._state.count(misses=1)
            return read(stack)
        try:
            store = partial(self._store, key, alone=lock.held)
            return self._find_or_read(key, stack, read=read, store=store)
        finally:
            lock.release()

    def _store(self, key: str, volume: Volume, *, alone: bool) -> None:
        """Keep a volume if there is room for it and the disk plays along."""
        kept = keep(volume)
        # How small an entry gets is known once it is written.
        least = kept.voxels.nbytes if self.layout == "raw" else 0
        if self.max_bytes is not None and least > self.max_bytes:
            return
        aside = self._aside(key)
        try:
            self._sweep(key, alone=alone)
            self._make_room(least)
            os.mkdir(aside)
            new = NewEntry(key, kept, volume, self.layout)
            write_entry(aside, new, durable=self._durable)
            size = use_and_size(aside)[1]
            if self.max_bytes is None or size <= self.max_bytes:
                self._make_room(size)
                self._publish(aside, key)
                # Again: others may have filled theirs meanwhile.
                self._make_room(0)
                self._state.count(fills=1, bytes=size)
        except OSError as error:
            self._complain(error)
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
        if self._durable:
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
        entries = sorted(
            (*use_and_size(os.path.join(folder, name)), name) for name in os.listdir(folder)
        )
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


def _age_s(path: str) -> float:
    try:
        return time.time() - os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0

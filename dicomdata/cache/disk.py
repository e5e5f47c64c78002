"""Volumes kept in a folder, for all processes, ranks and runs that share it."""

from __future__ import annotations

import errno
import math
import os
import secrets
import shutil
import time
import warnings
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from dicomdata.cache.damage import DamagedEntryError
from dicomdata.cache.entry import (
    CHUNK,
    Layout,
    NewEntry,
    check_entry,
    describe_entry,
    flush_folder,
    read_entry,
    use_and_size,
    write_entry,
)
from dicomdata.cache.freshness import is_fresh
from dicomdata.cache.inspection import CacheEntry, check_entries, list_entries
from dicomdata.cache.kept import keep
from dicomdata.cache.keys import cache_key, check_choice
from dicomdata.cache.locks import acquire
from dicomdata.cache.lookup import LookupCache
from dicomdata.cache.tally import Tally
from dicomdata.errors import CacheError, DicomDataError, DicomDataWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dicomdata.cache.contract import CacheStatistics, Read
    from dicomdata.errors import Rejection
    from dicomdata.regions import Region
    from dicomdata.stack import Stack
    from dicomdata.volume import Volume

_SUFFIX = ".zarr"
"""Ends the name of an entry, as zarr's own tools like it."""

FOLDERS = ("volumes", "partial", "locks")
"""In the folder of a cache: entries, entries in the making, and who makes which."""

Fill: TypeAlias = Literal["wait", "background"]
"""When volumes are written: before they are given, or while the caller goes on."""

_ABANDONED_S = 24 * 3600.0
"""Age at which a half-written entry is litter where no lock can tell: no fill takes a day."""

_complained: set[tuple[int, str]] = set()
"""Process and folder of each warning that was given."""


class DiskCache(LookupCache):
    """Keeps volumes in a folder: a `VolumeCache` that processes, ranks and runs share.

    Each entry is a zarr v3 array under ``<folder>/volumes``: filled by one process, published
    whole by a rename, checked by its checksum when a process of a machine first opens it since
    that was started. Voxels that are kept as they are given come as a copy-on-write map, whose
    pages all workers share.

    It is the name of a folder and a size: it pickles, and holds no open files.
    """

    _durable = True
    """Whether an entry must survive a power loss: written to the disk before it has its name."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        max_bytes: int | str | None = None,
        layout: Layout = "raw",
        *,
        fill: Fill = "wait",
    ) -> None:
        """Keep volumes in `folder`, which is made when it is first needed.

        Args:
            folder: where; "~" is the home folder.
            max_bytes: how much to keep, a number or text such as "64 GB"; None keeps everything.
            layout: how new entries lie there; those that are there already are served, whatever
                theirs. "raw" is plain voxels, a map of which costs nothing to open and a box of
                which nothing but its copy; "small" is compressed chunks, 40 % of the bytes for a
                CT, to be decompressed each time.
            fill: when volumes are written. "wait" gives a volume once it is kept, and keeps none
                of which a box is asked for. "background" gives it once it is read, and writes it
                meanwhile; and reads and writes all of a volume of which a box was asked for. One
                at a time: the next volume that is read waits for the one before. It goes on as
                long as the process lives; `finish` waits for it.

        Raises:
            CacheError: if `max_bytes` is no size, there is no such layout or way to fill, or the
                folder is a file.
        """
        self.folder = os.path.abspath(os.path.expanduser(os.fspath(folder)))
        super().__init__(max_bytes)
        self.layout = check_choice("layout", layout, Layout)
        self.fill = check_choice("fill", fill, Fill)
        # When this training began, in whatever process: copies have it too.
        self._since_ns = time.time_ns()
        if os.path.exists(self.folder) and not os.path.isdir(self.folder):
            raise CacheError(f"{self.folder}: a cache needs a folder, and this is a file")

    def __repr__(self) -> str:
        size_and_kind = f"{self.max_bytes!r}, {self.layout!r}, fill={self.fill!r}"
        return f"DiskCache({self.folder!r}, {size_and_kind})"

    def __reduce__(self) -> tuple[Any, ...]:
        made = partial(type(self), fill=self.fill), (self.folder, self.max_bytes, self.layout)
        return *made, {"_since_ns": self._since_ns}

    def entries(self) -> tuple[CacheEntry, ...]:
        """What is kept, by any process, the least recently used first; damaged ones left out."""
        return list_entries(self._path("volumes"))[0]

    def totals(self) -> CacheStatistics:
        """What all processes did with the folder since it was made, workers and ranks among them.

        A process tells its hits some at a time, and when it ends; one that is killed, not all.
        """
        return self._tally.total()

    def verify(self) -> tuple[Rejection, ...]:
        """Read all that is kept, compare the checksums, and give the entries that are damaged.

        None of them would be served: each is read anew when it is next asked for.
        """
        return check_entries(self._path("volumes"))

    @property
    def _tally(self) -> Tally:
        """What this process counts for all."""
        state = self._state = self._state.current
        if state.tally is None:
            state.tally = Tally(self._path("tally"))
        return state.tally

    def _count(self, **amounts: int) -> None:
        """Count for this process, and for all."""
        self._state.count(**amounts)
        self._tally.count(amounts)

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
        pending = self._state.pending.get(key)
        if pending is not None and pending.has(region, stack):
            self._count(hits=1)
            return pending.volume(stack, region)
        try:
            volume = read_entry(
                self._entry(key), key, stack, opened=self._state.opened, region=region
            )
        except (OSError, DamagedEntryError):
            return None
        if volume is not None:
            self._count(hits=1)
        return volume

    def warm(self, stack: Stack, read: Read) -> None:
        """Keep the volume of `stack`, unless it is kept: neither read then, nor looked through.

        Raises:
            CacheError: if it cannot be kept, or if `read` cannot be told from another function.
        """
        key = cache_key(stack, read)
        self._state = self._state.current
        try:
            self._prepare()
            lock = acquire(self._path("locks", key))
        except OSError as error:
            raise self._cannot_keep(stack, error.strerror or error) from error
        try:
            if is_fresh(stack) and self._has(key):
                return
            # Said before it is read: of a thousand volumes for a full disk, each would be.
            if self._free_bytes() < self._state.too_many:
                raise self._cannot_keep(stack, os.strerror(errno.ENOSPC))
            self._count(misses=1)
            entry = self._new_entry(key, read(stack))
            if not is_fresh(stack):
                raise self._cannot_keep(stack, "its files changed while they were read")
            if not self._store(entry, alone=lock.held):
                raise self._cannot_keep(stack, f"it is larger than {self.max_bytes} bytes")
        except OSError as error:
            if isinstance(error, DicomDataError):
                raise
            raise self._cannot_keep(stack, error.strerror or error) from error
        finally:
            lock.release()

    def _free_bytes(self) -> int:
        status = os.statvfs(self._path("volumes"))
        return status.f_bavail * status.f_frsize

    def _cannot_keep(self, stack: Stack, reason: object) -> CacheError:
        return CacheError(f"{self.folder}: stack {stack.id} cannot be kept: {reason}")

    def _has(self, key: str) -> bool:
        """Whether there is an entry of a key that looks whole."""
        try:
            describe_entry(self._entry(key), key)
            return os.path.exists(os.path.join(self._entry(key), CHUNK))
        except (OSError, DamagedEntryError):
            return False

    def _fill(self, key: str, stack: Stack, read: Read) -> Volume:
        """Read a volume and keep it, unless another thread or process did so just now."""
        self._tell_troubles()
        try:
            self._prepare()
            lock = acquire(self._path("locks", key))
        except OSError as error:
            self._complain(error)
            self._count(misses=1)
            return read(stack)
        with ExitStack() as cleaning:
            cleaning.callback(lock.release)
            volume = self._find(key, stack, None)
            if volume is not None:
                return volume
            self._count(misses=1)
            volume = read(stack)
            # A file may have been replaced while it was read.
            if not is_fresh(stack):
                return volume
            entry = self._new_entry(key, volume)
            if self.fill == "background":
                entry = _own(entry, volume)
                self._state.pending[key] = entry.kept
                cleaning.callback(self._state.pending.pop, key)
                self._hand_over(cleaning.pop_all(), partial(self._store, entry, alone=lock.held))
                return volume
            try:
                self._store(entry, alone=lock.held)
            except OSError as error:
                self._complain(error)
        return volume

    def _hand_over(self, cleaning: ExitStack, job: Callable[[], Any]) -> None:
        """Have a job done in the background, and then what is to be cleaned up."""
        try:
            self._state.background.hand_over(partial(_run_with, cleaning, job))
        except BaseException:
            # Interrupted while it waited: nobody else will.
            cleaning.close()
            raise

    def _fill_later(self, key: str, stack: Stack, read: Read) -> None:
        """Have a volume read and kept, if boxes are to be kept at all."""
        self._tell_troubles()
        if self.fill == "background" and key not in self._state.refused:
            self._state.background.ask_for(key, partial(self._fill_unseen, key, stack, read))

    def _fill_unseen(self, key: str, stack: Stack, read: Read) -> None:
        """Read a volume and keep it, unless another process does, or did."""
        self._prepare()
        lock = acquire(self._path("locks", key), patience_s=0)
        try:
            if lock.held and not self._is_whole(key):
                # Nobody need try again what fails, or finds no room.
                self._state.refused.add(key)
                if self._make_room(self._expected_bytes(stack.shape), self._since_ns):
                    volume = read(stack)
                    if is_fresh(stack):
                        entry = self._new_entry(key, volume)
                        if self._store(entry, alone=True, since_ns=self._since_ns):
                            self._state.refused.discard(key)
        finally:
            lock.release()

    def _is_whole(self, key: str) -> bool:
        """Whether there is an entry of a key, and no damage to it."""
        try:
            check_entry(self._entry(key), key)
        except (OSError, DamagedEntryError):
            return False
        return True

    def _expected_bytes(self, shape: Sequence[int]) -> int:
        """Guess what an entry will take: whole numbers, which compress as those of a CT do."""
        plain = math.prod(shape) * np.dtype(np.int16).itemsize
        return plain if self.layout == "raw" else plain * 2 // 5

    def _tell_troubles(self) -> None:
        """Say what went wrong in the background, and raise what nobody could expect."""
        for error in self._state.background.troubles():
            # A volume that cannot be read: who asks for what is wrong with it will be told.
            if isinstance(error, DicomDataError):
                continue
            if not isinstance(error, OSError):
                raise error
            self._complain(error, calls=4)

    def _new_entry(self, key: str, volume: Volume) -> NewEntry:
        kept = keep(volume)
        return NewEntry(key, kept, replace(volume, voxels=kept.voxels), self.layout)

    def _store(self, entry: NewEntry, *, alone: bool, since_ns: int | None = None) -> bool:
        """Keep a volume; False if there is no room for it.

        Args:
            entry: what to keep.
            alone: whether no other process can be writing it.
            since_ns: as `_make_room` has it.

        Raises:
            OSError: if the disk is full, or cannot be written.
        """
        key = entry.key
        # How small an entry gets is known once it is written.
        least = entry.kept.voxels.nbytes if self.layout == "raw" else 0
        aside = self._aside(key)
        try:
            self._sweep(key, alone=alone)
            if not self._make_room(least, since_ns):
                return False
            os.mkdir(aside)
            write_entry(aside, entry, durable=self._durable)
            size = use_and_size(aside)[1]
            if not self._make_room(size, since_ns):
                return False
            self._publish(aside, key)
            # Again: others may have filled theirs meanwhile.
            self._make_room(0)
            self._count(fills=1, bytes=size)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                self._state.too_many = self._expected_bytes(entry.kept.voxels.shape)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return True

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

    def _make_room(self, needed: int, since_ns: int | None = None) -> bool:
        """Drop entries, least recently used first, until `needed` more bytes fit.

        Args:
            needed: how many more bytes are to fit.
            since_ns: where what was used since then would have to go, nothing does.

        Returns:
            Whether they fit.
        """
        if self.max_bytes is None:
            return True
        if needed > self.max_bytes:
            return False
        folder = self._path("volumes")
        entries = sorted(
            (*use_and_size(os.path.join(folder, name)), name) for name in os.listdir(folder)
        )
        held = sum(size for _, size, _ in entries)
        if since_ns is not None:
            recent = sum(size for used, size, _ in entries if used >= since_ns)
            if recent + needed > self.max_bytes:
                return False
        for _, size, name in entries:
            if held + needed <= self.max_bytes:
                break
            self._count(evictions=self._drop(name.removesuffix(_SUFFIX)))
            held -= size
        return held + needed <= self.max_bytes

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

    def _complain(self, error: OSError, *, calls: int = 3) -> None:
        """Say once in a process that nothing can be kept, to who is that many calls up."""
        occasion = (os.getpid(), self.folder)
        if occasion not in _complained:
            _complained.add(occasion)
            warnings.warn(
                f"{self.folder}: volumes cannot be kept here, and are read from their files each "
                f"time: {error.strerror or error}",
                DicomDataWarning,
                stacklevel=calls + 1,
            )


def _run_with(cleaning: ExitStack, job: Callable[[], Any]) -> None:
    with cleaning:
        job()


def _own(entry: NewEntry, volume: Volume) -> NewEntry:
    """Give an entry whose voxels nobody else writes to: those of the volume are the caller's."""
    if not np.may_share_memory(entry.kept.voxels, volume.voxels):
        return entry
    kept = replace(entry.kept, voxels=entry.kept.voxels.copy())
    return replace(entry, kept=kept, volume=replace(entry.volume, voxels=kept.voxels))


def _age_s(path: str) -> float:
    try:
        return time.time() - os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0

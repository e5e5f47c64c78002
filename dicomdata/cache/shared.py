"""Folders in memory that processes share, and that go with the last process that owns them.

``/dev/shm/dicomdata-<user>/<name>`` is such a folder, readable by its user alone. Its owners, one
or the ranks of a training, share the lock ``<name>.lock`` beside it. The kernel lifts their locks
when they end, however they end; the last one that ends in order removes the folder, and whoever
makes the next folder removes those that nobody owns. Nobody can remove what another owns.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
import weakref
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from dicomdata.cache.disk import FOLDERS
from dicomdata.cache.locks import FileLock, acquire

if TYPE_CHECKING:
    from collections.abc import Sequence

_MEMORY = "/dev/shm"  # noqa: S108 - a folder of it is made with mode 0700, and checked
"""Where Linux keeps memory with names."""

_SHARE = 0.75
"""Of what is free, so much may be taken: DataLoader passes its batches through the same memory."""

_LEAST_ROOM = 2**30
"""Bytes below which a place is not worth it unless so few are asked for: ten CTs. Containers have
64 MiB of shared memory unless told otherwise."""

_LOCK = ".lock"

_RUN = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")
"""What tells one run's processes from another's: set by torchrun and by Slurm for all of them."""


@dataclass(frozen=True, slots=True)
class Room:
    """A place that has room."""

    place: str
    """The folder in which to make one."""

    bytes: int
    """How many may be taken of it."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class SharedFolder:
    """A folder that processes share, as long as its owner uses it."""

    path: str
    """Where it is; it has the folders of a cache in it."""

    room: int
    """Bytes that may be kept in it where no other bound is set."""


_owned: weakref.WeakValueDictionary[str, SharedFolder] = weakref.WeakValueDictionary()
"""The folders of this process: copies of a cache share one, and the last to go removes it."""


def find_room(
    needed: int | None, places: Sequence[str] = (), *, name: str | None = None
) -> Room | None:
    """Give the first place with room for `needed` bytes, or for a few volumes; None if none has.

    Args:
        needed: bytes; None where any number is welcome.
        places: folders to look at; shared memory and the folder for temporary files by default.
        name: of a folder that others may have made already: it has taken its room.
    """
    places = [
        place
        for place in places or (_MEMORY, tempfile.gettempdir())
        if os.path.isdir(place) and _is_private(_base(place))
    ]
    if name is not None:
        for place in places:
            if os.path.isdir(os.path.join(_base(place), _folder_name(name))):
                return Room(place, _free_bytes(place))
    for place in places:
        free = _free_bytes(place)
        if free >= (needed or _LEAST_ROOM):
            return Room(place, free)
    return None


def share_folder(room: Room, name: str | None = None) -> SharedFolder:
    """Make a folder of this process, after removing those whose owners have died.

    It goes when nothing refers to what is returned, and when the process ends; one that has a
    name, when it does so in the last process that shares the folder of this name.

    Args:
        room: where.
        name: what other processes call it; None for a folder of this one.
    """
    base = _base(room.place)
    _sweep(base)
    path = os.path.join(base, _folder_name(name))
    if path in _owned:
        return _owned[path]
    # Locked before it is there: what is there and not locked is litter.
    lock = acquire(path + _LOCK, shared=True)
    for part in FOLDERS:
        os.makedirs(os.path.join(path, part), mode=0o700, exist_ok=True)
    folder = SharedFolder(path, _agreed_room(path, room.bytes))
    weakref.finalize(folder, _remove, path, lock, os.getpid())
    _owned[path] = folder
    return folder


def join_folder(path: str, room: int) -> SharedFolder | None:
    """Give the folder at a path, which this process or another owns; None if it is gone."""
    there = SharedFolder(path, room) if os.path.isdir(path) else None
    return _owned.get(path, there)


def _folder_name(name: str | None) -> str:
    """Name a folder: by its process; or by its name, and the run which that is part of.

    Processes of other runs may have the same name for theirs. What they keep in one folder is told
    apart, but they would drop each other's volumes.
    """
    if name is None:
        return f"{os.getpid()}-{secrets.token_hex(4)}"
    run = [os.environ.get(variable, "") for variable in _RUN]
    return blake2b(repr((name, run)).encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _agreed_room(path: str, room: int) -> int:
    """Give how many bytes may be kept in a folder: what its first owner says."""
    note = os.path.join(path, "room")
    # A link to nowhere is made whole, or not at all.
    with suppress(FileExistsError):
        os.symlink(str(room), note)
    return int(os.readlink(note))


def _free_bytes(place: str) -> int:
    """Give how many bytes of a place may be taken."""
    status = os.statvfs(place)
    return int(status.f_bavail * status.f_frsize * _SHARE)


def _base(place: str) -> str:
    return os.path.join(place, f"dicomdata-{os.getuid()}")


def _is_private(base: str) -> bool:
    """Whether a folder is there, or can be made, that is this user's and readable by nobody else.

    Its name can be guessed, and its parent is open to all: another user may have made it.
    """
    try:
        os.makedirs(base, mode=0o700, exist_ok=True)
        status = os.lstat(base)
    except OSError:
        return False
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return mine and not status.st_mode & 0o077


def _sweep(base: str) -> None:
    """Remove the folders of owners that have died: their locks are free."""
    for name in {name.removesuffix(_LOCK) for name in os.listdir(base)}:
        path = os.path.join(base, name)
        lock = acquire(path + _LOCK, patience_s=0)
        if lock.held:
            shutil.rmtree(path, ignore_errors=True)
        lock.release()


def _remove(path: str, lock: FileLock, owner: int) -> None:
    """Give the memory back; a child that was forked leaves that to its parent."""
    if os.getpid() != owner:
        return
    alone = lock.take_over()
    if alone.held:
        shutil.rmtree(path, ignore_errors=True)
    alone.release()

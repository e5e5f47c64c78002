"""What a process knows of the files of voxels it read from: which it checked, and their pages.

A file that was checked once is not checked again by this process; nor by another of this machine
until it is started anew, which the file `MARK` beside it says: the checksum of a volume takes as
long as reading it, and workers of a `DataLoader` may live for an epoch only.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

Stamp: TypeAlias = tuple[int, int, int, int]
"""Tells a file from any other, and from itself when it was written to: inode, bytes, and when it
and its inode changed, in ns."""

MARK = "checked"
"""Beside the voxels: which file was checked, since when this machine runs."""

_BOOT = "/proc/sys/kernel/random/boot_id"
"""Where Linux tells one start of the machine from another."""

_SETTLED_NS = 2 * 10**9
"""Age from which a file's times tell all later writes: some file systems count in whole seconds."""

_MOST_OPEN = 64
"""Files whose pages stay mapped: as many as the stacks whose frames are remembered."""


@dataclass(slots=True, eq=False)
class OpenFile:
    """What is known of one file, as long as it stays the same."""

    path: str
    """Where it is."""

    stamp: Stamp
    """Which file it is."""

    checked: bool = False
    """Whether its checksum was compared in this process."""

    pages: NDArray[Any] | None = None
    """All of it, mapped read-only; None where it is not mapped."""

    def needs_check(self) -> bool:
        """Whether no process compared its checksum since the machine was started."""
        if not self.checked:
            self.checked = self._marked() == self._mark()
        return not self.checked

    def note_check(self) -> None:
        """Remember that its checksum was compared, and tell the other processes."""
        self.checked = True
        mark = self._mark()
        # A file that was changed a moment ago could change again, and its times stay the same.
        if mark and time.time_ns() - max(self.stamp[2:]) > _SETTLED_NS:
            with suppress(OSError), open(self._mark_path, "wb") as file:
                file.write(mark)

    @property
    def _mark_path(self) -> str:
        return os.path.join(os.path.dirname(self.path), MARK)

    def _mark(self) -> bytes:
        boot = _boot()
        return f"{boot} {self.stamp}\n".encode() if boot else b""

    def _marked(self) -> bytes | None:
        try:
            with open(self._mark_path, "rb", buffering=0) as file:
                return file.read() or None
        except OSError:
            return None


@dataclass(slots=True, eq=False)
class OpenFiles:
    """The files that a process read from last; what was dropped by any process is let go."""

    _files: OrderedDict[str, OpenFile] = field(default_factory=OrderedDict)
    _looks: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def known(self, file: IO[bytes]) -> OpenFile:
        """Give what is known of an open file: nothing, if it is not the one of before."""
        stamp = _stamp_of(os.fstat(file.fileno()))
        with self._lock:
            found = self._files.pop(file.name, None)
            if found is None or found.stamp != stamp:
                found = OpenFile(file.name, stamp)
            self._files[file.name] = found
            self._looks += 1
            if self._looks % _MOST_OPEN == 0:
                self._let_go()
        return found

    def _let_go(self) -> None:
        """Unmap the files that are gone, whose room would stay taken, and the oldest of too many.

        Only now and then: it is one stat a file.
        """
        for path, known in list(self._files.items()):
            try:
                there = _stamp_of(os.stat(path)) == known.stamp
            except OSError:
                there = False
            if not there:
                self._files.pop(path, None)
        while len(self._files) > _MOST_OPEN:
            self._files.popitem(last=False)


def _stamp_of(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=1)
def _boot() -> str:
    try:
        with open(_BOOT, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""

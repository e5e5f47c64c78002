"""One writer at a time, across threads and processes: a lock that ends with its process."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from dataclasses import dataclass

PATIENCE_S = 600.0
"""A holder that takes longer has hung: whoever waits then reads for itself."""

_LONGEST_NAP_S = 0.05
"""Between two looks at a lock that is held; a fill takes about as long, or more."""

_BUSY = frozenset({errno.EWOULDBLOCK, errno.EACCES})
"""What flock says of a lock that is held; on NFS, also EACCES."""


@dataclass(frozen=True, slots=True)
class FileLock:
    """A lock file and whether this thread holds it; `release` it."""

    path: str
    """The file; it goes when the lock is released."""

    handle: int | None
    """Its descriptor; None where the lock is not held."""

    shared: bool = False
    """Whether others may hold it too, who share it."""

    @property
    def held(self) -> bool:
        """Whether no other thread or process holds it.

        False where others held it for too long, or the file system has no locks: what it
        protects must then be harmless when done twice.
        """
        return self.handle is not None

    def release(self) -> None:
        """Let others have it."""
        if self.handle is None:
            return
        # Unlinked while held: whoever waits for it finds out, and makes another.
        if not self.shared:
            with suppress(OSError):
                os.unlink(self.path)
        # By hand, not by close alone: a child forked meanwhile has the file open too.
        with suppress(OSError):
            fcntl.flock(self.handle, fcntl.LOCK_UN)
        os.close(self.handle)

    def take_over(self) -> FileLock:
        """Give the lock to this thread alone; one that is not held where others share it still."""
        if self.handle is None:
            return self
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # In trying it was lost: of two who try at once, the second has it.
            self.release()
            return FileLock(self.path, None)
        return FileLock(self.path, self.handle)


def acquire(path: str, *, patience_s: float = PATIENCE_S, shared: bool = False) -> FileLock:
    """Lock the file at `path`, waiting for others as long as that is sensible.

    The kernel releases it when the process ends, however it ends.

    Args:
        path: the file, which is made if it is not there.
        patience_s: how long to wait for others.
        shared: whether to hold it beside others who share it, against who wants it alone.

    Raises:
        OSError: if the file cannot be made.
    """
    deadline, nap = time.monotonic() + patience_s, 0.001
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno not in _BUSY or time.monotonic() >= deadline:
                return FileLock(path, None)
            time.sleep(nap)
            nap = min(2 * nap, _LONGEST_NAP_S)
            continue
        if _is_at(handle, path):
            return FileLock(path, handle, shared)
        os.close(handle)


def _is_at(handle: int, path: str) -> bool:
    """Whether an open file is still the one at `path`, not one that was unlinked since."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False

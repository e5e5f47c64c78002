"""One run a folder: of two that write the same checkpoints, neither would be left."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dicomdata.errors import ConfigError, FileError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "run.lock"
"""The file that is locked; it says who did so last, and stays."""

_BUSY = frozenset({errno.EAGAIN, errno.EACCES})
"""What a lock says that another process has."""


@contextmanager
def claim_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes from training in a folder, as long as this one lives.

    A lock of the process itself (`lockf`), which its children do not inherit: workers outlive a
    killed run by seconds, and are not to keep it from being resumed.

    Raises:
        ConfigError: if another process trains there; says which.
        FileError: if the folder cannot be written to.
    """
    path = os.path.join(folder, NAME)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: str | os.PathLike[str]) -> None:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _BUSY:
            return  # a file system without locks: to refuse would be to train nowhere
        who = os.read(handle, 200).decode(errors="replace").strip()
        raise ConfigError(
            f"{os.fspath(folder)}: another run is at work there, {who or 'just begun'}: wait for "
            f"it, or take another folder"
        ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

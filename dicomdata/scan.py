"""Folders -> the headers of all files below them, in parallel, failures kept.

`find_files` walks, `read_headers` reads; neither ever raises for a file, and every file that
`find_files` gives comes out of `read_headers` exactly once: as an `Instance` or as the error
that says why not.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import Event
from typing import TYPE_CHECKING

from dicomdata.errors import DicomDataError, FileError
from dicomdata.header import read_instance

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping
    from concurrent.futures import Future

    from dicomdata.header import Instance

_BATCH = 64
"""Files handed to a thread at once: enough to make the hand-over cheap, few enough to stop soon."""

_AHEAD = 4
"""Batches in flight for each thread."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file under a root, as the walk saw it."""

    path: str
    """Absolute path; bytes that are no UTF-8 are kept as Python's surrogates."""

    size: int = 0
    """Bytes."""

    mtime_ns: int = 0
    """Modification time, ns."""

    error: FileError | None = None
    """Why it will not be opened: a link, a pipe, a folder that cannot be listed."""


@dataclass(frozen=True, slots=True)
class ReadFile:
    """What became of one found file."""

    file: FoundFile
    """As the walk saw it."""

    result: Instance | DicomDataError
    """Its header, or why there is none."""


def find_files(root: str | os.PathLike[str]) -> Iterator[FoundFile]:
    """Walk a folder and all below it, in the order of names; gives each file once.

    Symbolic links are not followed: a link to a folder inside the root leads where the walk goes
    anyway (and may be a loop), and a link out of the root leaves it. Both are given with an error,
    but for the harmless first.

    Raises:
        FileError: if the root itself is no folder that can be listed.
    """
    top = os.path.abspath(root)
    try:
        entries = _listed(top)
    except OSError as error:
        raise FileError(f"{top}: cannot be listed: {error.strerror}") from error
    real = os.path.realpath(top)
    folders = deque([entries])
    while folders:
        below = []
        for entry in folders.popleft():
            if _is_folder(entry):
                try:
                    below.append(_listed(entry.path))
                except OSError as error:
                    yield FoundFile(entry.path, error=_unlisted(entry.path, error))
            elif (file := _found(entry, real)) is not None:
                yield file
        # Depth first, so that a folder's files stay together.
        folders.extendleft(reversed(below))


def read_headers(
    files: Iterable[FoundFile], *, keep: Mapping[str, int], workers: int
) -> Generator[ReadFile, None, None]:
    """Read the header of each file on `workers` threads; results come as they are ready.

    Threads, not processes: they hide the waiting for cold and remote disks, pickle nothing, and
    Ctrl-C ends them within one file. Closing the iterator stops the reading.
    """
    source = iter(files)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="dicomdata-header")
    stop = Event()
    pending: deque[Future[list[ReadFile]]] = deque()
    try:
        while True:
            while len(pending) < workers * _AHEAD and (batch := list(islice(source, _BATCH))):
                pending.append(pool.submit(_read_batch, batch, keep, stop))
            if not pending:
                return
            yield from pending.popleft().result()
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _read_batch(batch: list[FoundFile], keep: Mapping[str, int], stop: Event) -> list[ReadFile]:
    # Once told to stop nobody takes the results, so that half a batch is no loss.
    return [ReadFile(file, _read_one(file, keep)) for file in batch if not stop.is_set()]


def _read_one(file: FoundFile, keep: Mapping[str, int]) -> Instance | DicomDataError:
    if file.error is not None:
        return file.error
    try:
        return read_instance(file.path, keep=keep)
    except DicomDataError as error:
        return error


def _listed(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _unlisted(path: str, error: OSError) -> FileError:
    return FileError(f"{path}: the folder cannot be listed: {error.strerror}")


def _found(entry: os.DirEntry[str], top: str) -> FoundFile | None:
    """Describe what is no folder; None for a link to a folder inside the root."""
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        inside = os.path.commonpath([top, target]) == top
        if inside and os.path.isdir(target):
            return None
        where = "read where it lies" if inside else "out of the root: not followed"
        if not os.path.exists(target):
            where = "broken: what it points to does not exist"
        return FoundFile(entry.path, error=FileError(f"{entry.path}: a symbolic link, {where}"))
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        return FoundFile(
            entry.path, error=FileError(f"{entry.path}: cannot be read: {error.strerror}")
        )
    if not stat.S_ISREG(status.st_mode):
        return FoundFile(entry.path, error=FileError(f"{entry.path}: not a regular file"))
    return FoundFile(entry.path, status.st_size, status.st_mtime_ns)

"""The files that frames lie in: opened once, held against the scan, asked for early if cold."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, Self

from dicomdata.errors import DicomDataError, FileError, StaleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dicomdata.header import Frame

_AHEAD = 16
"""Frames that the system is asked for before their turn, once a read had to wait for the disk: on
one that has to be waited for this is as good as eight threads."""

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""O_NONBLOCK: a pipe that took the file's place would hang for ever."""

_MOST_OPEN = 2 * _AHEAD
"""Files that may be open before those are closed that are not near: many at once costs less."""

_NOWAIT = getattr(os, "RWF_NOWAIT", None)
"""Asks to read only what is in memory already. Not every system has it."""

_WOULD_WAIT = {errno.EAGAIN, errno.EOPNOTSUPP}
"""What such a read says of bytes that are not in memory, or of a disk that cannot tell."""


class Span(NamedTuple):
    """Bytes that will be read."""

    offset: int
    """Where they begin in the file."""

    length: int
    """How many they are; 0 is all up to the end."""


class FrameFiles:
    """Files that are open while their frames are read; for one thread, and never over a fork.

    A file is opened when its turn comes and closed some frames after it: the frames of one file
    share one opening of it. As soon as one read has to wait for the disk, those that come next are
    opened and asked for ahead of time, so that the disk is at work meanwhile; of what is in memory
    nothing is asked, which would take as long as reading it.
    """

    def __init__(
        self, frames: Sequence[Frame] = (), span: Callable[[Frame], Span] | None = None
    ) -> None:
        """Announce what will be read: all of it, in this order; or nothing.

        Args:
            frames: one for each time a file will be asked for.
            span: tells what will be read of one.
        """
        self._coming = frames
        self._span = span
        self._turn = 0
        self._asked = 0
        self._waits = _NOWAIT is None
        self._open: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_all_but(())

    def fill(self, frame: Frame, begin: int, memory: memoryview) -> int:
        """Fill memory from a place in a frame's file; give how many bytes there were.

        Raises:
            FileError: if the file cannot be read.
            StaleError: if it has changed since it was scanned.
        """
        try:
            self._turn += 1
            if not self._waits and _is_in_memory(self._checked(frame), memory, begin):
                return len(memory)
            self._ask_ahead()
            return os.preadv(self._checked(frame), [memory], begin)
        except OSError as error:
            raise _told(error, frame) from error

    def read(self, frame: Frame) -> bytes:
        """Give the bytes of a frame, fewer where its file ends.

        Raises:
            FileError, StaleError: as `fill`.
        """
        with self.opened(frame) as descriptor:
            return os.pread(descriptor, frame.length, frame.offset)

    def head(self, frame: Frame, count: int) -> bytes:
        """Give the first bytes of a frame that was just read.

        Raises:
            FileError: if the file cannot be read.
        """
        try:
            return os.pread(self._descriptor(frame.path), count, frame.offset)
        except OSError as error:
            raise _told(error, frame) from error

    @contextmanager
    def opened(self, frame: Frame) -> Iterator[int]:
        """Give the descriptor of a frame's file, once it is known to be the one that was scanned.

        Raises:
            FileError: if it cannot be opened, or what is done with it fails.
            StaleError: if it has changed.
        """
        try:
            self._turn += 1
            self._ask_ahead()
            yield self._checked(frame)
        except OSError as error:
            if isinstance(error, DicomDataError):
                raise
            raise _told(error, frame) from error

    def _checked(self, frame: Frame) -> int:
        """Give the descriptor of a frame's file, held against the scan."""
        descriptor = self._descriptor(frame.path)
        status = os.fstat(descriptor)
        if status.st_size != frame.size or status.st_mtime_ns != frame.mtime_ns:
            raise StaleError(
                f"{frame.path}: the file has changed since it was scanned: refresh the catalog"
            )
        return descriptor

    def _ask_ahead(self) -> None:
        """Ask the system for what comes next; what cannot be opened is told when its turn comes."""
        self._waits = True
        first = max(self._asked, self._turn - 1)
        for frame in self._coming[first : self._turn - 1 + _AHEAD]:
            self._asked = first = first + 1
            with suppress(OSError):
                _will_need(self._descriptor(frame.path), self._span_of(frame))

    def _span_of(self, frame: Frame) -> Span:
        return Span(frame.offset, frame.length) if self._span is None else self._span(frame)

    def _descriptor(self, path: str) -> int:
        descriptor = self._open.get(path)
        if descriptor is not None:
            return descriptor
        if len(self._open) >= _MOST_OPEN:
            near = self._coming[max(self._turn - 1, 0) : self._asked]
            self._close_all_but([frame.path for frame in near])
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError as error:
            if error.errno != errno.EMFILE or not self._open:
                raise
            # No more may be open: then those that were opened early wait for their turn.
            self._close_all_but(())
            descriptor = os.open(path, _FLAGS)
        self._open[path] = descriptor
        return descriptor

    def _close_all_but(self, wanted: Sequence[str]) -> None:
        for path in self._open.keys() - set(wanted):
            os.close(self._open.pop(path))


def _is_in_memory(descriptor: int, memory: memoryview, begin: int) -> bool:
    """Fill memory without waiting for the disk; tell whether all could be filled."""
    try:
        return os.preadv(descriptor, [memory], begin, _NOWAIT or 0) == len(memory)
    except OSError as error:
        if error.errno not in _WOULD_WAIT:
            raise
        return False


def _will_need(descriptor: int, span: Span) -> None:
    # Not every system has it, and none has to follow it.
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, span.offset, span.length, os.POSIX_FADV_WILLNEED)


def _told(error: OSError, frame: Frame) -> FileError:
    return FileError(f"{frame.path}: cannot be read: {error.strerror}")

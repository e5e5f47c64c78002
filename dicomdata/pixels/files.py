"""The files that frames lie in: asked for early, opened once, held against the scan."""

from __future__ import annotations

import errno
import os
from collections import deque
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Self

from dicomdata.errors import DicomDataError, FileError, StaleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dicomdata.header import Frame

_AHEAD = 16
"""Frames that the system is asked for before their turn. On a disk that has to be waited for this
is as good as eight threads, and in warm memory it costs nothing that can be measured."""

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""O_NONBLOCK: a pipe that took the file's place would hang for ever."""

_MOST_OPEN = 2 * _AHEAD
"""Files that may be open before those are closed that are not near: many at once costs less."""


class Span(NamedTuple):
    """Bytes that will be read."""

    path: str
    """The file, absolute."""

    offset: int
    """Where they begin."""

    length: int
    """How many they are; 0 is all up to the end."""


class FrameFiles:
    """Files that are open while their frames are read; for one thread, and never over a fork.

    A file is opened a few frames before its turn, so that the disk is at work meanwhile, and
    closed some frames after it: those of one file share one opening of it.
    """

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        """Announce what will be read: all of it, in this order; or nothing.

        Args:
            spans: one for each time a file will be asked for.
        """
        self._coming = iter(spans)
        self._asked: deque[str] = deque()
        self._open: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_all_but(())

    @contextmanager
    def opened(self, frame: Frame) -> Iterator[int]:
        """Give the descriptor of a frame's file, once it is known to be the one that was scanned.

        Raises:
            FileError: if it cannot be opened, or what is done with it fails.
            StaleError: if it has changed.
        """
        try:
            self._ask_ahead()
            descriptor = self._descriptor(frame.path)
            if len(self._open) > _MOST_OPEN:
                self._close_all_but((frame.path, *self._asked))
            status = os.fstat(descriptor)
            if (status.st_size, status.st_mtime_ns) != (frame.size, frame.mtime_ns):
                raise StaleError(
                    f"{frame.path}: the file has changed since it was scanned: refresh the catalog"
                )
            yield descriptor
        except OSError as error:
            if isinstance(error, DicomDataError):
                raise
            raise FileError(f"{frame.path}: cannot be read: {error.strerror}") from error

    def _ask_ahead(self) -> None:
        """Ask the system for what comes next; what cannot be opened is told when its turn comes."""
        for span in islice(self._coming, _AHEAD - len(self._asked)):
            self._asked.append(span.path)
            with suppress(OSError):
                _will_need(self._descriptor(span.path), span)
        if self._asked:
            self._asked.popleft()

    def _descriptor(self, path: str) -> int:
        if path not in self._open:
            try:
                self._open[path] = os.open(path, _FLAGS)
            except OSError as error:
                if error.errno != errno.EMFILE or not self._open:
                    raise
                # No more may be open: then those that were opened early wait for their turn.
                self._close_all_but(())
                self._open[path] = os.open(path, _FLAGS)
        return self._open[path]

    def _close_all_but(self, wanted: Iterable[str]) -> None:
        for path in self._open.keys() - set(wanted):
            os.close(self._open.pop(path))


def _will_need(descriptor: int, span: Span) -> None:
    # Not every system has it, and none has to follow it.
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, span.offset, span.length, os.POSIX_FADV_WILLNEED)

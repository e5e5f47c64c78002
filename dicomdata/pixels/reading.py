"""Frames -> stored values, one after the other: what reading a stack costs is decided here."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from dicomdata.pixels.decoding import decode, read_encoded
from dicomdata.pixels.files import FrameFiles, Span
from dicomdata.pixels.words import check_claim, inflate, inflated_rows, read_native, row_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from dicomdata.header import Frame

Pixels: TypeAlias = "Callable[[], NDArray[np.integer[Any]]]"
"""Gives the stored values of a frame that was read from its file, (rows, columns)."""


class FrameReader:
    """Reads frames one after the other; a context manager, for one thread, never over a fork.

    Each file is opened once while its frames are read. Plain words go through one piece of
    memory: what a frame of them gives holds until the next one is read.
    """

    def __init__(self, frames: Iterable[Frame] = (), rows: range | None = None) -> None:
        """Announce what will be read: all of it, in this order; or nothing.

        Args:
            frames: in the order in which they will be read.
            rows: which rows of them; all by default.
        """
        self._files = FrameFiles(_span(frame, rows) for frame in frames)
        self._memory = np.empty(0, np.uint8)
        self._inflated = ("", b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.__exit__()

    def read(self, frame: Frame, rows: range | None = None) -> Pixels:
        """Read a frame from its file; call what comes back for its stored values.

        Decoding is left to that call, which any thread may make. Of native frames, only `rows`
        are read.

        Args:
            frame: whose claim is checked already (`check_claim`), before memory was asked for.
            rows: which rows; all by default.

        Raises:
            FileError: if the file cannot be read.
            StaleError: if the file has changed since it was scanned.
            PixelError: if the pixels are cut short, or contradict the header; the call raises it
                too, if they are undecodable.
        """
        wanted = range(frame.kind.rows) if rows is None else rows
        if frame.kind.native:
            memory = self._memory_of(len(wanted) * row_bytes(frame.kind))
            stored = read_native(frame, wanted, self._files, memory)
        elif frame.offset < 0:  # deflated as a whole
            stored = inflated_rows(frame, wanted, self._inflated_words(frame))
        else:
            return partial(_decode, frame, wanted, read_encoded(frame, self._files))
        return lambda: stored

    def _inflated_words(self, frame: Frame) -> bytes:
        """Inflate a file once for all of its frames that follow each other."""
        stamp = f"{frame.path} {frame.size} {frame.mtime_ns}"
        if self._inflated[0] != stamp:
            self._inflated = (stamp, inflate(frame, self._files))
        return self._inflated[1]

    def _memory_of(self, count: int) -> NDArray[np.uint8]:
        if len(self._memory) < count:
            self._memory = np.empty(count, np.uint8)
        return self._memory[:count]


def read_stored(frame: Frame, rows: range | None = None) -> NDArray[np.integer[Any]]:
    """Read the stored values of a frame, shape (rows, columns), in their own integer type.

    Args:
        frame: which frame; its file must be as it was when it was scanned.
        rows: which rows; all by default. Of a native frame only these are read from disk.

    Raises:
        FileError: if the file cannot be read.
        StaleError: if the file has changed since it was scanned.
        PixelError: if the pixels are cut short, undecodable, or contradict the header.
    """
    check_claim(frame)
    with FrameReader() as reader:
        return reader.read(frame, rows)()


def _decode(frame: Frame, rows: range, encoded: Any) -> NDArray[np.integer[Any]]:
    return decode(encoded, frame)[rows.start : rows.stop]


def _span(frame: Frame, rows: range | None) -> Span:
    if frame.offset < 0:
        return Span(frame.path, 0, 0)
    if rows is None or not frame.kind.native:
        return Span(frame.path, frame.offset, frame.length)
    row = row_bytes(frame.kind)
    return Span(frame.path, frame.offset + rows.start * row, len(rows) * row)

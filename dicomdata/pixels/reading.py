"""Frames -> stored values, one after the other: what reading a stack costs is decided here."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from dicomdata.pixels.decoding import decode, read_encoded
from dicomdata.pixels.files import FrameFiles, Span
from dicomdata.pixels.words import check_claims, inflate, inflated_rows, read_bands, row_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from dicomdata.header import Frame, Kind

Pixels: TypeAlias = "Callable[[], NDArray[np.integer[Any]]]"
"""Gives the stored values of frames that were read from their files, (frames, rows, columns)."""

_PIECE = 2**19
"""Bytes of plain words that are read before they become float32, or bytes of it that they become:
they stay in a processor's own memory. Some rows of many slices, and of CT one whole slice."""

_FLOAT32 = 4
"""Bytes of what a word becomes."""


class FrameReader:
    """Reads a box of frames one after the other; a context manager.

    For one thread at a time, and never over a fork. Each file is opened once while its frames are
    read. Plain words go through one piece of memory: what comes of them holds until the next are
    read.
    """

    def __init__(
        self, frames: Sequence[Frame] = (), box: tuple[range, range] | None = None
    ) -> None:
        """Announce what `pieces` will read: all of it, in this order; or nothing.

        Args:
            frames: whose claims are checked already (`check_claims`), before memory was asked for.
            box: which rows and columns of them; all by default.
        """
        self._frames = frames
        self._box = box
        self._files = FrameFiles(frames, self._span)
        self._memory = np.empty(0, np.uint8)
        self._inflated = ("", b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.__exit__()

    def pieces(self) -> Iterator[tuple[slice, Pixels]]:
        """Read what was announced: plain words of one kind many frames at once, others one by one.

        Decoding is left to the call of what comes, which any thread may make.

        Yields:
            Which frames, and what gives their stored values.

        Raises:
            FileError: if a file cannot be read.
            StaleError: if a file has changed since it was scanned.
            PixelError: if pixels are cut short, or contradict the header; the call raises it
                too, if they are undecodable.
        """
        start = 0
        for kind, those in groupby(self._frames, lambda frame: frame.kind):
            stop = start + sum(1 for _ in those)
            step = self._at_once(kind)
            for first in range(start, stop, step):
                piece = slice(first, min(first + step, stop))
                yield piece, self.read(self._frames[piece], self._box)
            start = stop

    def read(self, frames: Sequence[Frame], box: tuple[range, range] | None = None) -> Pixels:
        """Read frames of one kind from their files: one, or several of plain words.

        Args:
            frames: whose claims are checked already.
            box: which rows and columns; all by default. Of native frames, only the rows are read.

        Raises:
            FileError, StaleError, PixelError: as `pieces`.
        """
        kind = frames[0].kind
        box = box or _whole(kind)
        if kind.native:
            memory = self._memory_of(len(frames) * len(box[0]) * row_bytes(kind))
            stored = read_bands(frames, box, self._files, memory)
            return lambda: stored
        (frame,) = frames
        if frame.offset < 0:  # deflated as a whole
            stored = inflated_rows(frame, box[0], self._inflated_words(frame))
            return lambda: _cut(stored, box[1])
        return partial(_decode, frame, box, read_encoded(frame, self._files))

    def _at_once(self, kind: Kind) -> int:
        if not kind.native:
            return 1
        rows, columns = self._box or _whole(kind)
        return max(_PIECE // (len(rows) * max(row_bytes(kind), _FLOAT32 * len(columns))), 1)

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

    def _span(self, frame: Frame) -> Span:
        if frame.offset < 0:
            return Span(0, 0)
        if self._box is None or not frame.kind.native:
            return Span(frame.offset, frame.length)
        rows, row = self._box[0], row_bytes(frame.kind)
        return Span(frame.offset + rows.start * row, len(rows) * row)


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
    check_claims([frame])
    every_row, columns = _whole(frame.kind)
    with FrameReader() as reader:
        stored: NDArray[np.integer[Any]] = reader.read(
            [frame], (every_row if rows is None else rows, columns)
        )()[0]
    return stored


def _whole(kind: Kind) -> tuple[range, range]:
    return range(kind.rows), range(kind.columns)


def _decode(frame: Frame, box: tuple[range, range], encoded: Any) -> NDArray[np.integer[Any]]:
    rows, columns = box
    return _cut(decode(encoded, frame)[rows.start : rows.stop], columns)


def _cut(stored: NDArray[np.integer[Any]], columns: range) -> NDArray[np.integer[Any]]:
    """Give columns of one frame, as (1, rows, columns)."""
    return stored[None, :, columns.start : columns.stop]

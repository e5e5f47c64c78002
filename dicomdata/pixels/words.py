"""Plain words -> stored values: by offset, in either byte order, deflated or not (PS3.5 8.1, A)."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import PixelError
from dicomdata.header import inflated_pixels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from dicomdata.header import Frame, Kind
    from dicomdata.pixels.files import FrameFiles

_ITEM = b"\xfe\xff\x00\xe0"
"""Begins every fragment of encapsulated pixels (PS3.5 A.4)."""

_MOST_PIXELS = 2**30
"""Pixels one frame may have: 32,768 x 32,768, 2 GiB of 16 bits."""

UNDOUBTED = 2**27
"""Bytes of a decoded frame that no few bytes are doubted to give: 8,192 x 8,192 of 16 bits. An
empty plane may shrink to nothing."""

DENSEST = 1000
"""Bytes that one byte of a larger frame may decode to; pictures of something stay below 100."""

_WIDTHS = (8, 16, 32)
"""Bits Allocated that are whole words."""

_KIND = attrgetter("kind")


def check_kind(frame: Frame) -> None:
    """Refuse what no frame of one quantity is, before anything is read or allocated.

    Raises:
        PixelError: naming the file and the element.
    """
    kind = frame.kind
    if kind.samples_per_pixel != 1:
        raise PixelError(
            f"{frame.path}: Samples per Pixel (0028,0002) is {kind.samples_per_pixel}, expected 1"
        )
    if kind.bits_allocated not in _WIDTHS:
        raise PixelError(
            f"{frame.path}: Bits Allocated (0028,0100) is {kind.bits_allocated}, "
            f"expected 8, 16 or 32"
        )
    if not 0 < kind.bits_stored <= kind.high_bit + 1 <= kind.bits_allocated:
        raise PixelError(
            f"{frame.path}: Bits Allocated {kind.bits_allocated}, Bits Stored {kind.bits_stored} "
            f"and High Bit {kind.high_bit} contradict each other"
        )
    if not 0 < kind.rows * kind.columns <= _MOST_PIXELS:
        raise PixelError(f"{frame.path}: {kind.rows} x {kind.columns} is beyond what is decoded")


def check_claims(frames: Iterable[Frame]) -> None:
    """Hold the size that frames claim against the bytes they have, without opening a file.

    Raises:
        PixelError: of the first frame that cannot hold what is claimed.
    """
    for kind, those in groupby(frames, _KIND):
        alike = list(those)
        check_kind(alike[0])
        native, frame_bytes = kind.native, kind.frame_bytes
        for frame in alike:
            held = min(frame.length, frame.size - frame.offset) if native else frame.length
            if native and held < frame_bytes:
                raise _cut_short(frame, held)
            if not native and frame_bytes > max(UNDOUBTED, DENSEST * held):
                raise PixelError(
                    f"{frame.path}: the pixels are {held} bytes, too few for "
                    f"{kind.rows} x {kind.columns}"
                )


def row_bytes(kind: Kind) -> int:
    """Give the bytes of one row of plain words."""
    return kind.columns * kind.bits_allocated // 8


def read_bands(
    frames: Sequence[Frame], box: tuple[range, range], files: FrameFiles, memory: NDArray[np.uint8]
) -> NDArray[np.integer[Any]]:
    """Read bands of rows of plain words into `memory`: one read of no more than the band a frame.

    Args:
        frames: native, and of one kind.
        box: which rows, and which columns of them come back.
        files: opens their files.
        memory: as many bytes as the bands have; what comes back may lie in it.

    Returns:
        (frames, rows, columns).

    Raises:
        FileError, StaleError: as `FrameFiles.fill`.
        PixelError: if the words are fewer, or far more, than the header says.
    """
    kind, (rows, columns) = frames[0].kind, box
    begin, band = rows.start * row_bytes(kind), len(rows) * row_bytes(kind)
    frame_bytes, places = kind.frame_bytes, memory.data
    for number, frame in enumerate(frames):
        place = places[number * band : (number + 1) * band]
        if kind.swapped_pairs:
            count = _fill_pairs(frame, begin, files, place)
        else:
            count = files.fill(frame, frame.offset + begin, place)
        if frame.length != frame_bytes:
            _check_excess(frame, files)
        if count != band:
            raise PixelError(f"{frame.path}: Pixel Data (7FE0,0010) could not be read to its end")
    stored = _as_words(memory, kind).reshape(len(frames), len(rows), kind.columns)
    return unpacked(stored[..., columns.start : columns.stop], kind, high_bit=kind.high_bit)


def inflate(frame: Frame, files: FrameFiles) -> bytes:
    """Read the words of all frames of a file that is deflated as a whole (PS3.5 A.5).

    Raises:
        FileError, StaleError: as `FrameFiles.opened`.
        HeaderError: if it cannot be inflated.
    """
    with (
        files.opened(frame) as descriptor,
        open(descriptor, "rb", buffering=0, closefd=False) as file,
    ):
        file.seek(0)
        return inflated_pixels(frame.path, file)


def inflated_rows(frame: Frame, rows: range, words: bytes) -> NDArray[np.integer[Any]]:
    """Give a band of rows of a frame, from the words of all frames of its file.

    Raises:
        PixelError: if the words are fewer, or far more, than the header says.
    """
    kind = frame.kind
    begin = frame.number * kind.frame_bytes
    words = words[begin : begin + kind.frame_bytes]
    if len(words) < kind.frame_bytes:
        raise _cut_short(frame, len(words))
    if frame.length - kind.frame_bytes >= max(kind.frame_bytes, 2):
        raise _too_long(frame)
    stored = _as_words(words, kind).reshape(kind.rows, kind.columns)
    return unpacked(stored[rows.start : rows.stop], kind, high_bit=kind.high_bit)


def unpacked(
    words: NDArray[np.integer[Any]], kind: Kind, *, high_bit: int
) -> NDArray[np.integer[Any]]:
    """Take Bits Stored ending at `high_bit`, sign-extended: the rest of the word is garbage.

    Words that may be written to are changed where they lie.
    """
    native = words.astype(words.dtype.newbyteorder("="), copy=False)
    above = kind.bits_allocated - 1 - high_bit
    unused = kind.bits_allocated - kind.bits_stored
    if not above and not unused:
        return native
    place = native if native.flags.writeable else np.empty_like(native)
    if native.dtype.kind == "u" and high_bit == kind.bits_stored - 1:
        np.bitwise_and(native, native.dtype.type(2**kind.bits_stored - 1), out=place)
        return place
    # Shifted out at the top, then back down; the right shift of signed words keeps the sign.
    np.left_shift(native, native.dtype.type(above), out=place)
    np.right_shift(place, native.dtype.type(unused), out=place)
    return place


def _check_excess(frame: Frame, files: FrameFiles) -> None:
    """Refuse more bytes than the header says a frame has."""
    more = frame.length - frame.kind.frame_bytes
    # One byte makes an odd length even (PS3.5 7.1.1), and a few are padding; as many again, or
    # fragments, tell of other pixels.
    if more > 1 and (more >= frame.kind.frame_bytes or files.head(frame, 4) == _ITEM):
        raise _too_long(frame)


def _cut_short(frame: Frame, held: int) -> PixelError:
    return PixelError(
        f"{frame.path}: Pixel Data (7FE0,0010) is cut short: "
        f"{held} bytes, expected {frame.kind.frame_bytes}"
    )


def _too_long(frame: Frame) -> PixelError:
    return PixelError(
        f"{frame.path}: Pixel Data (7FE0,0010) has {frame.length} bytes, "
        f"expected {frame.kind.frame_bytes} of plain words"
    )


def _fill_pairs(frame: Frame, begin: int, files: FrameFiles, place: memoryview) -> int:
    """Read bytes whose neighbours are swapped; pairs are counted from the first frame's first."""
    before = frame.number * frame.kind.frame_bytes
    first, last = before + begin, before + begin + len(place)
    even = first - first % 2
    pairs = np.empty((last + last % 2 - even) // 2, "u2")
    words = pairs.view(np.uint8)
    if files.fill(frame, frame.offset - before + even, words.data) != len(words):
        return 0
    pairs.byteswap(inplace=True)
    place[:] = words[first - even : last - even].data
    return len(place)


def _as_words(words: bytes | NDArray[np.uint8], kind: Kind) -> NDArray[np.integer[Any]]:
    order = ">" if kind.big_endian else "<"
    sign = "i" if kind.signed else "u"
    return np.frombuffer(words, f"{order}{sign}{kind.bits_allocated // 8}")

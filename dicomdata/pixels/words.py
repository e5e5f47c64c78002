"""Plain words -> stored values: by offset, in either byte order, deflated or not (PS3.5 8.1, A)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import PixelError
from dicomdata.header import inflated_pixels

if TYPE_CHECKING:
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


def check_claim(frame: Frame) -> None:
    """Hold the size that a frame claims against the bytes it has, without opening its file.

    Raises:
        PixelError: if they cannot hold what is claimed.
    """
    check_kind(frame)
    kind = frame.kind
    if kind.native:
        held = min(frame.length, frame.size - frame.offset)
        if held < kind.frame_bytes:
            raise _cut_short(frame, held)
    elif kind.frame_bytes > max(UNDOUBTED, DENSEST * frame.length):
        raise PixelError(
            f"{frame.path}: the pixels are {frame.length} bytes, too few for "
            f"{kind.rows} x {kind.columns}"
        )


def row_bytes(kind: Kind) -> int:
    """Give the bytes of one row of plain words."""
    return kind.columns * kind.bits_allocated // 8


def read_native(
    frame: Frame, rows: range, files: FrameFiles, memory: NDArray[np.uint8]
) -> NDArray[np.integer[Any]]:
    """Read a band of rows of plain words into `memory`: one read of no more than the band.

    Args:
        frame: whose pixels are native.
        rows: which rows.
        files: opens its file.
        memory: as many bytes as the band has; the words that come back may lie in it.

    Raises:
        FileError, StaleError: as `FrameFiles.opened`.
        PixelError: if the words are fewer, or far more, than the header says.
    """
    kind = frame.kind
    with files.opened(frame) as descriptor:
        _check_length(descriptor, frame)
        read = _read_pairs if kind.swapped_pairs else _read_bytes
        count = read(descriptor, frame, rows.start * row_bytes(kind), memory)
    if count != len(memory):
        raise PixelError(f"{frame.path}: Pixel Data (7FE0,0010) could not be read to its end")
    stored = _as_words(memory, kind).reshape(len(rows), kind.columns)
    return unpacked(stored, kind, high_bit=kind.high_bit)


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
    # Shifted out at the top, then back down; the right shift of signed words keeps the sign.
    place = native if native.flags.writeable else np.empty_like(native)
    np.left_shift(native, native.dtype.type(above), out=place)
    np.right_shift(place, native.dtype.type(unused), out=place)
    return place


def _check_length(descriptor: int, frame: Frame) -> None:
    """Hold the length of Pixel Data against what the header says of a frame."""
    frame_bytes = frame.kind.frame_bytes
    held = min(frame.length, frame.size - frame.offset)
    if held < frame_bytes:
        raise _cut_short(frame, held)
    more = frame.length - frame_bytes
    # One byte makes an odd length even (PS3.5 7.1.1), and a few are padding; as many again, or
    # fragments, tell of other pixels.
    if more > 1 and (more >= frame_bytes or os.pread(descriptor, 4, frame.offset) == _ITEM):
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


def _read_bytes(descriptor: int, frame: Frame, begin: int, memory: NDArray[np.uint8]) -> int:
    """Fill `memory` from a place in the frame; give how many bytes there were."""
    return os.preadv(descriptor, [memory.data], frame.offset + begin)


def _read_pairs(descriptor: int, frame: Frame, begin: int, memory: NDArray[np.uint8]) -> int:
    """Read bytes whose neighbours are swapped; pairs are counted from the first frame's first."""
    before = frame.number * frame.kind.frame_bytes
    first, last = before + begin, before + begin + len(memory)
    even = first - first % 2
    words = os.pread(descriptor, last + last % 2 - even, frame.offset - before + even)
    if len(words) != last + last % 2 - even:
        return 0
    swapped = np.frombuffer(words, "u2").byteswap().view(np.uint8)
    memory[:] = swapped[first - even : last - even]
    return len(memory)


def _as_words(words: bytes | NDArray[np.uint8], kind: Kind) -> NDArray[np.integer[Any]]:
    order = ">" if kind.big_endian else "<"
    sign = "i" if kind.signed else "u"
    return np.frombuffer(words, f"{order}{sign}{kind.bits_allocated // 8}")

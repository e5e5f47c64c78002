"""Frames -> stored values: native words by offset, codecs by Transfer Syntax UID.

Stored values are what the scanner meant: garbage beyond Bits Stored is gone, and the sign is
extended (PS3.5 8.1.1). Nothing here rescales.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dicomdata.errors import DicomDataError, FileError, PixelError, StaleError
from dicomdata.header import inflated_pixels, join_fragments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from dicomdata.header import Frame, Kind

_END_OF_IMAGE = b"\xff\xd9"
"""Ends every JPEG, JPEG-LS and JPEG 2000 codestream (EOI, EOC)."""

_ITEM = b"\xfe\xff\x00\xe0"
"""Begins every fragment of encapsulated pixels (PS3.5 A.4)."""

_LARGEST_FRAME = 2**31
"""Bytes one decoded frame may take: 32,768 x 32,768 of 16 bits."""


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
    kind = frame.kind
    if kind.frame_bytes > _LARGEST_FRAME:
        raise PixelError(f"{frame.path}: {kind.rows} x {kind.columns} is beyond what is decoded")
    wanted = range(kind.rows) if rows is None else rows
    if kind.native:
        with _opened(frame) as file:
            return _unpacked(_read_native(file, frame, wanted), kind, high_bit=kind.high_bit)
    if frame.offset < 0:
        return _unpacked(_read_deflated(frame, wanted), kind, high_bit=kind.high_bit)
    with _opened(frame) as file:
        encoded = _encapsulated_frame(file, frame)
    decoded = _decode(encoded, frame)[wanted.start : wanted.stop]
    # Codecs deliver values that end at bit 0, wherever High Bit was.
    return _unpacked(decoded, kind, high_bit=kind.bits_stored - 1)


@contextmanager
def _opened(frame: Frame) -> Iterator[BinaryIO]:
    """Open the file of a frame, once it is known to be the one that was scanned."""
    try:
        # O_NONBLOCK: a pipe that took the file's place would hang for ever.
        descriptor = os.open(frame.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if (status.st_size, status.st_mtime_ns) != (frame.size, frame.mtime_ns):
                raise StaleError(
                    f"{frame.path}: the file has changed since it was scanned: refresh the catalog"
                )
            yield file
    except OSError as error:
        if isinstance(error, DicomDataError):
            raise
        raise FileError(f"{frame.path}: cannot be read: {error.strerror}") from error


def _read_native(file: BinaryIO, frame: Frame, rows: range) -> NDArray[np.integer[Any]]:
    """Read a band of rows of plain words by offset."""
    kind = frame.kind
    held = min(frame.length, frame.size - frame.offset)
    if held < kind.frame_bytes:
        raise PixelError(
            f"{frame.path}: Pixel Data (7FE0,0010) is cut short: "
            f"{held} bytes, expected {kind.frame_bytes}"
        )
    more = frame.length - kind.frame_bytes
    # A few bytes more are padding; as many again, or fragments, tell of other pixels.
    if more >= kind.frame_bytes or (more > 1 and os.pread(file.fileno(), 4, frame.offset) == _ITEM):
        raise PixelError(
            f"{frame.path}: Pixel Data (7FE0,0010) has {frame.length} bytes, "
            f"expected {kind.frame_bytes} of plain words"
        )
    row_bytes = kind.columns * kind.bits_allocated // 8
    words = os.pread(file.fileno(), len(rows) * row_bytes, frame.offset + rows.start * row_bytes)
    if len(words) != len(rows) * row_bytes:
        raise PixelError(f"{frame.path}: Pixel Data (7FE0,0010) could not be read to its end")
    return _as_words(words, kind).reshape(len(rows), kind.columns)


def _read_deflated(frame: Frame, rows: range) -> NDArray[np.integer[Any]]:
    with _opened(frame) as file:
        words = inflated_pixels(frame.path, file)
    begin = frame.number * frame.kind.frame_bytes
    words = words[begin : begin + frame.kind.frame_bytes]
    if len(words) < frame.kind.frame_bytes:
        raise PixelError(
            f"{frame.path}: Pixel Data (7FE0,0010) is cut short: "
            f"{len(words)} bytes, expected {frame.kind.frame_bytes}"
        )
    whole = _as_words(words, frame.kind)
    return whole.reshape(frame.kind.rows, frame.kind.columns)[rows.start : rows.stop]


def _as_words(words: bytes, kind: Kind) -> NDArray[np.integer[Any]]:
    order = ">" if kind.big_endian else "<"
    sign = "i" if kind.signed else "u"
    return np.frombuffer(words, f"{order}{sign}{kind.bits_allocated // 8}")


def _unpacked(
    words: NDArray[np.integer[Any]], kind: Kind, *, high_bit: int
) -> NDArray[np.integer[Any]]:
    """Take Bits Stored ending at `high_bit`, sign-extended: the rest of the word is garbage."""
    native = words.astype(words.dtype.newbyteorder("="), copy=False)
    above = kind.bits_allocated - 1 - high_bit
    unused = kind.bits_allocated - kind.bits_stored
    if not above and not unused:
        return native
    # Shifted out at the top, then back down; the right shift of signed words keeps the sign.
    shifted: NDArray[np.integer[Any]] = native << native.dtype.type(above)
    shifted >>= native.dtype.type(unused)
    return shifted


def _encapsulated_frame(file: BinaryIO, frame: Frame) -> bytes:
    """Put the fragments of one compressed frame together."""
    encoded = os.pread(file.fileno(), frame.length, frame.offset)
    try:
        return join_fragments(encoded)
    except ValueError as error:
        raise PixelError(
            f"{frame.path}: the fragments of Pixel Data are damaged: {error}"
        ) from error


def _decode(encoded: bytes, frame: Frame) -> NDArray[np.integer[Any]]:
    """Decode one frame and hold the result against the header."""
    kind = frame.kind
    codec = _CODECS.get(kind.transfer_syntax_uid)
    if codec is None:
        raise PixelError(f"{frame.path}: no decoder for Transfer Syntax {kind.transfer_syntax_uid}")
    # Streams that were cut short may decode without a word, to grey or to noise.
    if codec is not _decode_rle and _END_OF_IMAGE not in encoded[-16:]:
        raise PixelError(f"{frame.path}: the compressed pixels are cut short: no end marker")
    try:
        decoded = codec(encoded, kind)
    # Each codec library has exceptions of its own.
    except Exception as error:
        raise PixelError(f"{frame.path}: the pixels cannot be decoded: {error}") from error
    if decoded.shape != (kind.rows, kind.columns):
        raise PixelError(
            f"{frame.path}: the pixels decode to shape {decoded.shape}, "
            f"the header says {(kind.rows, kind.columns)}"
        )
    if decoded.dtype.itemsize * 8 > kind.bits_allocated:
        raise PixelError(
            f"{frame.path}: the pixels decode to {decoded.dtype}, "
            f"Bits Allocated (0028,0100) is {kind.bits_allocated}"
        )
    if decoded.dtype.kind == "i" and not kind.signed and decoded.min() < 0:
        raise PixelError(
            f"{frame.path}: the pixels decode to negative values, "
            f"Pixel Representation (0028,0103) says they are unsigned"
        )
    if kind.lossy and (decoded.dtype.kind == "i") == kind.signed:
        # Lossy streams overshoot: 4097 in 12 bits is white, and must not wrap around to black.
        low = -(2 ** (kind.bits_stored - 1)) if kind.signed else 0
        decoded = decoded.clip(low, low + 2**kind.bits_stored - 1)
    width = f"{'i' if kind.signed else 'u'}{kind.bits_allocated // 8}"
    return decoded.astype(width, copy=False)


def _decode_rle(encoded: bytes, kind: Kind) -> NDArray[Any]:
    import imagecodecs

    word = np.dtype(f"<u{kind.bits_allocated // 8}")
    planes = np.frombuffer(imagecodecs.dicomrle_decode(encoded, word), word)
    return planes.reshape(kind.rows, kind.columns)


def _decode_jpeg(encoded: bytes, _kind: Kind) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.jpeg_decode(encoded))


def _decode_lossless_jpeg(encoded: bytes, _kind: Kind) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.ljpeg_decode(encoded))


def _decode_jpegls(encoded: bytes, _kind: Kind) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.jpegls_decode(encoded))


def _decode_jpeg2000(encoded: bytes, _kind: Kind) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.jpeg2k_decode(encoded))


def _decode_htj2k(encoded: bytes, _kind: Kind) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.htj2k_decode(encoded))


_CODECS: dict[str, Callable[[bytes, Kind], NDArray[Any]]] = {
    "1.2.840.10008.1.2.4.50": _decode_jpeg,  # baseline, 8 bits
    "1.2.840.10008.1.2.4.51": _decode_jpeg,  # extended, 12 bits
    "1.2.840.10008.1.2.4.57": _decode_lossless_jpeg,
    "1.2.840.10008.1.2.4.70": _decode_lossless_jpeg,  # first-order prediction
    "1.2.840.10008.1.2.4.80": _decode_jpegls,
    "1.2.840.10008.1.2.4.81": _decode_jpegls,  # near-lossless
    "1.2.840.10008.1.2.4.90": _decode_jpeg2000,  # lossless only
    "1.2.840.10008.1.2.4.91": _decode_jpeg2000,
    "1.2.840.10008.1.2.4.201": _decode_htj2k,  # lossless only
    "1.2.840.10008.1.2.4.202": _decode_htj2k,  # lossless, by resolution
    "1.2.840.10008.1.2.4.203": _decode_htj2k,
    "1.2.840.10008.1.2.5": _decode_rle,
}
"""Transfer Syntax UID -> its decoder (PS3.6 table A-1)."""

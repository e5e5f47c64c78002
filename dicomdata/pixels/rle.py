"""RLE Lossless: a frame as planes of bytes, each of them packed (PS3.5 G)."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from dicomdata.pixels.codestream import Codestream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dicomdata.header import Kind

_HEADER = struct.Struct("<16L")
"""Number of segments, and where up to 15 of them begin (PS3.5 G.5)."""


def read_rle_header(encoded: bytes, kind: Kind) -> Codestream:
    """Describe an RLE frame, whose size only the DICOM header knows.

    Raises:
        ValueError: if it has not as many segments as a word has bytes, or they do not lie in it.
    """
    _segments(encoded, kind.bits_allocated // 8)
    return Codestream(
        process="RLE",
        rows=kind.rows,
        columns=kind.columns,
        samples=1,
        precision=kind.bits_allocated,
        signed=False,
        lossless=True,
        begin=0,
        end=len(encoded),
    )


def decode_rle(encoded: bytes, stream: Codestream) -> NDArray[np.unsignedinteger]:
    """Unpack every segment, and put the words together: the highest byte comes first.

    Raises:
        ValueError: if a segment gives fewer or more bytes than there are pixels.
    """
    width, pixels = stream.precision // 8, stream.rows * stream.columns
    # Padding of zeros unpacks to zeros; a picture of another size is off by a row or a column.
    too_many = pixels + min(stream.rows, stream.columns)
    words, memory = np.zeros(pixels, f"u{width}"), np.empty(too_many, np.uint8)
    for number, segment in enumerate(_segments(encoded, width)):
        unpacked = _unpack(segment, memory)
        if not pixels <= len(unpacked) < too_many or unpacked[pixels:].any():
            raise ValueError(
                f"RLE segment {number + 1} of {width} unpacks to {len(unpacked)} bytes, "
                f"expected {pixels}"
            )
        if number:
            np.left_shift(words, 8, out=words)
        np.bitwise_or(words, unpacked[:pixels], out=words)
    return words.reshape(stream.rows, stream.columns)


def _unpack(segment: bytes, memory: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Unpack one segment into memory, or elsewhere if there is more of it."""
    import imagecodecs

    try:
        unpacked = imagecodecs.packbits_decode(segment, out=memory.data)
    except RuntimeError:
        unpacked = imagecodecs.packbits_decode(segment)
    return np.frombuffer(unpacked, np.uint8)


def _segments(encoded: bytes, width: int) -> list[bytes]:
    """Cut a frame into its segments, one for each byte of a word."""
    if len(encoded) < _HEADER.size:
        raise ValueError(f"they are cut short: {len(encoded)} bytes hold no RLE header")
    count, *offsets = _HEADER.unpack_from(encoded)
    if count != width:
        raise ValueError(f"they have {count} RLE segments, expected {width}: one a byte of a word")
    ends = [*offsets[:count], len(encoded)]
    if ends[0] < _HEADER.size or ends != sorted(set(ends)):
        raise ValueError(f"their RLE segments begin at {offsets[:count]} of {len(encoded)} bytes")
    return [encoded[begin:end] for begin, end in pairwise(ends)]

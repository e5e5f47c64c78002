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
    import imagecodecs

    width = stream.precision // 8
    planes = np.empty((stream.rows * stream.columns, width), "u1")
    for number, segment in enumerate(_segments(encoded, width)):
        unpacked = np.frombuffer(imagecodecs.packbits_decode(segment), "u1")
        # Padding of zeros unpacks to zeros; a picture of another size is off by a row or a column.
        padding = unpacked[len(planes) :]
        if len(padding) >= min(stream.rows, stream.columns) or padding.any():
            padding = padding[:0]
        if len(unpacked) - len(padding) != len(planes):
            raise ValueError(
                f"RLE segment {number + 1} of {width} unpacks to {len(unpacked)} bytes, "
                f"expected {len(planes)}"
            )
        planes[:, width - 1 - number] = unpacked[: len(planes)]
    return planes.view(f"<u{width}").reshape(stream.rows, stream.columns)


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

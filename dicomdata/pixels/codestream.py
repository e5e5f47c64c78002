"""What a compressed frame says of itself, read before anything is allocated for decoding it.

The markers of JPEG (ISO/IEC 10918-1 B), JPEG-LS (14495-1 C) and JPEG 2000 (15444-1 A) are walked
from the first to the one that ends the image; the compressed data between them is stepped over.
A stream without its end, or with another image behind it, is told from a whole one here: decoders
fill up what is missing with grey or noise, and leave what is too much.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Codestream:
    """One compressed image, as its own header describes it."""

    process: str
    """How it is compressed: "JPEG", "JPEG lossless", "JPEG-LS", "JPEG 2000" or "RLE"."""

    rows: int
    """Height of the picture."""

    columns: int
    """Width of the picture."""

    samples: int
    """Components: 1, or 3 for colour."""

    precision: int
    """Bits of a sample."""

    signed: bool
    """Whether samples have a sign; only JPEG 2000 knows of one."""

    lossless: bool
    """Whether it is compressed so that every bit comes back. JPEG 2000 that is may still have been
    thinned out."""

    begin: int
    """Where the image begins, bytes: a file format's wrapping may come before."""

    end: int
    """Where it ends; what comes after is padding."""


_JPEG, _JPEG2000 = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"
"""First bytes of an image: SOI and any marker; SOC and SIZ."""

_JP2 = b"\0\0\0\x0cjP  "
"""First bytes of a JP2 file, in which some writers leave the codestream (15444-1 I)."""

_SHORT = struct.Struct(">H")
_LONG = struct.Struct(">L")

_SOI, _EOI, _SOS, _RESTARTS = 0xD8, 0xD9, 0xDA, range(0xD0, 0xD8)
_PROCESSES = {
    0xC0: "JPEG",  # baseline
    0xC1: "JPEG",  # extended
    0xC2: "JPEG",  # progressive
    0xC3: "JPEG lossless",
    0xF7: "JPEG-LS",
}
"""Start of frame -> process; others (hierarchical, arithmetic) are not DICOM's."""

_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}

_NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Ends the compressed data of JPEG: a zero is stuffed behind any other FF but that of a restart."""

_NEXT_MARKER_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
"""As above, in JPEG-LS: a zero bit is."""

_SIZ, _COD, _COC, _SOT, _SOD, _EOC = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9


def read_codestream(encoded: bytes) -> Codestream:
    """Read the header of one compressed image, and find its end.

    Raises:
        ValueError: if it is no JPEG, JPEG-LS or JPEG 2000, is cut short, or is followed by more
            than padding.
    """
    begin = _skip_wrapping(encoded) if encoded.startswith(_JP2) else 0
    start = encoded[begin : begin + 4]
    if not start.startswith((_JPEG, _JPEG2000)):
        raise ValueError(f"they begin with the bytes {start.hex(' ') or '(none)'}: no image does")
    try:
        walk = _walk_jpeg if start.startswith(_JPEG) else _walk_jpeg2000
        stream = walk(encoded, begin)
    except (struct.error, IndexError) as error:
        raise ValueError("they are cut short: they end within their own header") from error
    after = encoded[stream.end :]
    if _JPEG in after or _JPEG2000 in after:
        raise ValueError(f"another image begins behind the first, which ends at byte {stream.end}")
    return stream


def _skip_wrapping(encoded: bytes) -> int:
    """Find the codestream among the boxes of a JP2 file."""
    offset = 0
    while offset + 8 <= len(encoded):
        length = _LONG.unpack_from(encoded, offset)[0]
        if encoded[offset + 4 : offset + 8] == b"jp2c":
            # A length of 1 is written in the 8 bytes that follow.
            return offset + (16 if length == 1 else 8)
        if length < 8:
            break
        offset += length
    raise ValueError("they are a JP2 file without a codestream")


def _walk_jpeg(encoded: bytes, begin: int) -> Codestream:
    """Walk the segments of JPEG or JPEG-LS up to the end of the image."""
    offset, stream = begin + 2, None
    scanned = False
    while True:
        marker, offset = _jpeg_marker(encoded, offset)
        if marker == _EOI:
            break
        if marker == _SOI:
            raise ValueError(f"another image begins within the first, at byte {offset - 2}")
        segment = offset
        offset += _SHORT.unpack_from(encoded, segment)[0]
        if marker in _FRAME_MARKERS:
            if stream is not None:
                raise ValueError("the image has two frame headers")
            stream = _read_frame_header(encoded, segment, marker, begin)
        elif marker == _SOS:
            if stream is None:
                raise ValueError("they have a scan before a frame header")
            scanned = True
            stream = replace(stream, lossless=_is_lossless(encoded, segment, stream))
            pattern = _NEXT_MARKER_LS if stream.process == "JPEG-LS" else _NEXT_MARKER
            found = pattern.search(encoded, offset)
            if found is None:
                raise ValueError("they are cut short: no end marker")
            offset = found.start()
    if stream is None or not scanned:
        raise ValueError("the image ends before it has begun")
    return replace(stream, end=offset)


def _jpeg_marker(encoded: bytes, offset: int) -> tuple[int, int]:
    """Read a marker, fill bytes before it included; give its code and what is behind it."""
    if offset >= len(encoded):
        raise ValueError("they are cut short: no end marker")
    if encoded[offset] != 0xFF:
        raise ValueError(f"no marker at byte {offset}, where one should be")
    while encoded[offset] == 0xFF:
        offset += 1
    return encoded[offset], offset + 1


def _read_frame_header(encoded: bytes, segment: int, marker: int, begin: int) -> Codestream:
    """Read a start of frame (10918-1 B.2.2, and the same in 14495-1 C.2.2)."""
    process = _PROCESSES.get(marker)
    if process is None:
        raise ValueError(f"they are JPEG of a process that is not decoded (SOF {marker:02X})")
    precision, rows, columns, samples = struct.unpack_from(">BHHB", encoded, segment + 2)
    return Codestream(
        process, rows, columns, samples, precision, signed=False, lossless=False, begin=begin, end=0
    )


def _is_lossless(encoded: bytes, segment: int, stream: Codestream) -> bool:
    """Read from a start of scan whether anything is lost (10918-1 B.2.3, 14495-1 C.2.3)."""
    components = encoded[segment + 2]
    first, _, approximation = struct.unpack_from(">BBB", encoded, segment + 3 + 2 * components)
    if stream.process == "JPEG-LS":
        # NEAR: by how much a sample may be off.
        return bool(first == 0)
    # A point transform leaves the lowest bits out.
    return stream.process == "JPEG lossless" and approximation % 16 == 0


def _walk_jpeg2000(encoded: bytes, begin: int) -> Codestream:
    """Walk the main header and the tile-parts up to the end of the codestream."""
    offset = begin + 2
    stream, lossless, tiles = None, True, 0
    while True:
        if offset + 2 > len(encoded):
            raise ValueError("they are cut short: no end marker")
        marker = _SHORT.unpack_from(encoded, offset)[0]
        if marker == _EOC:
            break
        segment = offset + 2
        after = segment + _SHORT.unpack_from(encoded, segment)[0]
        if marker == _SIZ:
            stream = _read_size(encoded, segment, begin)
        elif marker in (_COD, _COC):
            lossless &= _is_reversible(encoded, segment, marker)
        elif marker == _SOT:
            lossless &= _tile_is_reversible(encoded, after)
            after = _tile_end(encoded, offset)
            tiles += 1
        elif marker < 0xFF00:
            raise ValueError(f"no marker at byte {offset}, where one should be")
        offset = after
    if stream is None or not tiles:
        raise ValueError("the image ends before it has begun")
    return replace(stream, lossless=lossless, end=offset + 2)


def _read_size(encoded: bytes, segment: int, begin: int) -> Codestream:
    """Read the size of the image and its first component (15444-1 A.5.1)."""
    _, right, bottom, left, top, *_ = struct.unpack_from(">H8L", encoded, segment + 2)
    samples, depth, across, down = struct.unpack_from(">HBBB", encoded, segment + 36)
    if not (across and down):
        raise ValueError("their samples are no distance apart")
    rows = -(-bottom // down) - -(-top // down)
    columns = -(-right // across) - -(-left // across)
    return Codestream(
        process="JPEG 2000",
        rows=rows,
        columns=columns,
        samples=samples,
        precision=(depth & 0x7F) + 1,
        signed=depth > 0x7F,
        lossless=False,
        begin=begin,
        end=0,
    )


def _is_reversible(encoded: bytes, segment: int, marker: int) -> bool:
    """Read whether the wavelet is 5-3, of whole numbers, rather than 9-7 (15444-1 A.6.1, A.6.2)."""
    # COD: Lcod, Scod, SGcod (4 bytes), then SPcod; COC: Lcoc, component, Scoc, then the same.
    parameters = segment + (7 if marker == _COD else 4)
    return encoded[parameters + 4] == 1


def _tile_is_reversible(encoded: bytes, offset: int) -> bool:
    """Read whether a tile-part's own header, up to its data, says it is 9-7."""
    reversible = True
    while (marker := _SHORT.unpack_from(encoded, offset)[0]) != _SOD:
        if marker < 0xFF00:
            raise ValueError(f"no marker at byte {offset}, where one should be")
        if marker in (_COD, _COC):
            reversible &= _is_reversible(encoded, offset + 2, marker)
        offset += 2 + _SHORT.unpack_from(encoded, offset + 2)[0]
    return reversible


def _tile_end(encoded: bytes, offset: int) -> int:
    """Find where the tile-part that begins at `offset` ends (15444-1 A.4.2)."""
    length = _LONG.unpack_from(encoded, offset + 6)[0]
    if length == 0:
        # The last one may reach to the end, which is the last marker there is.
        end = encoded.rfind(b"\xff\xd9", offset)
        if end < 0:
            raise ValueError("they are cut short: no end marker")
        return end
    # 14 bytes: SOT's own 12, and SOD.
    if length < 14:
        raise ValueError(f"a tile-part claims {length} bytes")
    if offset + length > len(encoded):
        raise ValueError("they are cut short: a tile-part ends beyond them")
    return int(offset + length)

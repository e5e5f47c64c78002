"""One file -> the bytes of the elements we want, and where its pixels lie.

Two readers give the same answer: a walk over the elements for the common encodings (little
endian, with a preamble), which copies only what is wanted, and pydicom for everything else.
Neither reads pixels. Nothing here knows what an element means.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from dicomdata.errors import FileError, HeaderError, NotDicomError
from dicomdata.header.fragments import Span, frame_spans
from dicomdata.header.groups import frame_groups
from dicomdata.header.nested import (
    MOST_ITEMS,
    SEQUENCES,
    WANTED_IN_ITEMS,
    Item,
    items_by_pydicom,
)
from dicomdata.header.parsing import PIXEL_TAGS, UNDEFINED_LENGTH, Pixels, parse
from dicomdata.header.records import DEFLATED, EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    _Head = Callable[["_Reader", int], tuple[int, bool, int, int]]
    """(reader, offset) -> tag, is it a sequence, length, where the value begins."""

TRANSFER_SYNTAX_UID = 0x00020010
SPECIFIC_CHARACTER_SET = 0x00080005
NUMBER_OF_FRAMES = 0x00280008
DETECTORS, SHARED_GROUPS, FRAME_GROUPS = 0x00540022, 0x52009229, 0x52009230
"""What says where the frames of a multi-frame file lie: Detector Information Sequence of nuclear
medicine (PS3.3 C.8.4.11), Shared and Per-Frame Functional Groups Sequence (C.7.6.16)."""

_EXTENDED_OFFSETS = 0x7FE00001

_WINDOW = 16 * 1024
"""Bytes read at once: most headers end within them."""

_LARGEST_VALUE = 1024 * 1024
"""Bytes of the longest value kept; nothing we want comes near it."""

_DEEPEST_SEQUENCE = 32
"""Sequences within sequences: real files nest five deep, hostile ones hundreds."""

_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN",
                       b"UR", b"UT", b"UV"})  # fmt: skip
"""Value Representations whose length takes four bytes (PS3.5 7.1.2)."""

_SHORT_VRS = frozenset({b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS",
                        b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL",
                        b"US"})  # fmt: skip

_FIRST_TAG = 0x00040000
"""The main dataset begins with group 4 (DICOMDIR) or 8; what comes lower is not understood."""

_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_ITEM_END = b"\xfe\xff\x0d\xe0"

_EXPLICIT = struct.Struct("<HH2sH")
_IMPLICIT = struct.Struct("<HHL")
_LENGTH = struct.Struct("<L")


@dataclass(slots=True)
class Elements:
    """The wanted elements of one file, as written."""

    path: str
    """The file."""

    size: int
    """Bytes."""

    mtime_ns: int
    """Modification time, ns."""

    values: dict[int, bytes] = field(default_factory=dict)
    """Tag -> value as written. A sequence that is present has an empty value."""

    big_endian: bool = False
    """Whether binary numbers in `values` are big endian."""

    pixels: Pixels | None = None
    """Where the pixels are; None where the file has none."""

    spans: list[Span] = field(default_factory=list)
    """Of encapsulated pixels: where each frame's fragments are; empty where they are damaged."""

    shared: dict[int, bytes] = field(default_factory=dict)
    """Of a multi-frame file: the elements of the functional groups that all frames share."""

    items: dict[int, tuple[Item, ...]] = field(default_factory=dict)
    """Of the sequences that are read (`nested.SEQUENCES`): their items."""

    groups: list[dict[int, bytes]] = field(default_factory=list)
    """Of a multi-frame file: for each frame, the elements of its own functional groups."""

    @property
    def transfer_syntax_uid(self) -> str:
        """Transfer Syntax UID (0002,0010); implicit little endian where the file has no meta."""
        uid = self.values.get(TRANSFER_SYNTAX_UID, b"").strip(b" \0").decode("ascii", "replace")
        return uid or IMPLICIT_VR_LITTLE_ENDIAN

    @property
    def frame_count(self) -> int:
        """Number of Frames (0028,0008); 1 where there is none, or it is no number."""
        text = self.values.get(NUMBER_OF_FRAMES, b"").strip(b" \0").removeprefix(b"+")
        # An IS has 12 digits at most; Python refuses to read thousands.
        return max(int(text[:20]), 1) if text.isdigit() else 1


_ALWAYS = frozenset({NUMBER_OF_FRAMES, DETECTORS, SHARED_GROUPS, FRAME_GROUPS, _EXTENDED_OFFSETS})


class _UnusualError(Exception):
    """The walk met something that pydicom should look at."""


class _CutShortError(_UnusualError):
    """An element claims more bytes than the file has: damaged, or not the encoding it says."""


def read_elements(path: str, wanted: frozenset[int]) -> Elements:
    """Read the wanted elements of one file; opens it once, and reads no pixels.

    Args:
        path: any file.
        wanted: tags of the main dataset and of the file meta information.

    Raises:
        FileError: if it is not a regular file that can be read.
        NotDicomError: if it is not DICOM.
        HeaderError: if it is DICOM and its header is damaged.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would hang for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FileError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        return _read_open_file(path, descriptor, wanted)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _read_open_file(path: str, descriptor: int, wanted: frozenset[int]) -> Elements:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"{path}: not a regular file")
    if status.st_size == 0:
        raise NotDicomError(f"{path}: not DICOM: the file is empty")
    elements = Elements(path, status.st_size, status.st_mtime_ns)
    reader = _Reader(descriptor, status.st_size)
    wanted |= _ALWAYS
    try:
        _walk_file(reader, elements, wanted)
    except _UnusualError as unusual:
        elements = Elements(path, status.st_size, status.st_mtime_ns)
        _read_by_pydicom(reader, elements, wanted)
        if isinstance(unusual, _CutShortError) and elements.pixels is None:
            raise HeaderError(
                f"{path}: the header is cut short: the file ends within {unusual}"
            ) from None
    _locate_frames(reader, elements)
    return elements


class _Reader:
    """Bytes of an open file by offset, through one window, so that few reads are made."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        self._start = 0
        self._window = b""

    def at(self, offset: int, count: int) -> bytes:
        """Give `count` bytes from `offset`; fewer only at the end of the file."""
        begin = offset - self._start
        if begin < 0 or begin + count > len(self._window):
            self._start, begin = offset, 0
            self._window = os.pread(self.descriptor, max(count, _WINDOW), offset)
        return self._window[begin : begin + count]


def _walk_file(reader: _Reader, elements: Elements, wanted: frozenset[int]) -> None:
    """Fill `elements` from a little endian file with a preamble (PS3.10 7.1)."""
    if reader.at(128, 4) != b"DICM":
        raise _UnusualError
    offset = _walk_meta(reader, elements)
    syntax = elements.transfer_syntax_uid
    if TRANSFER_SYNTAX_UID not in elements.values or syntax in (EXPLICIT_VR_BIG_ENDIAN, DEFLATED):
        raise _UnusualError
    head = _implicit if syntax == IMPLICIT_VR_LITTLE_ENDIAN else _explicit
    last, before = max(*wanted, *PIXEL_TAGS), _FIRST_TAG - 1
    while offset < reader.size:
        element = head(reader, offset)
        tag, _, length, value = element
        if tag <= before:
            raise _UnusualError
        before = tag
        if tag in PIXEL_TAGS:
            elements.pixels = Pixels(tag, value, length)
        if tag >= last:
            return
        end = (
            _sequence_end(reader, value, head, depth=1)
            if length == UNDEFINED_LENGTH
            else (value + length)
        )
        if end > reader.size:
            raise _CutShortError(f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) at byte {offset}")
        if tag in (DETECTORS, SHARED_GROUPS, FRAME_GROUPS):
            # Sequences in sequences are pydicom's work.
            raise _UnusualError
        if tag in wanted:
            _keep(reader, elements, element, head)
        offset = end


def _walk_meta(reader: _Reader, elements: Elements) -> int:
    """Read the file meta information, always explicit little endian; give where it ends."""
    offset = 132
    while offset < reader.size and reader.at(offset, 2) == b"\x02\x00":
        tag, _, length, value = _explicit(reader, offset)
        if length > _LARGEST_VALUE:
            raise _UnusualError
        if value + length > reader.size:
            raise _CutShortError(f"the file meta information, at byte {offset}")
        elements.values[tag] = reader.at(value, length)
        offset = value + length
    return offset


def _explicit(reader: _Reader, offset: int) -> tuple[int, bool, int, int]:
    """Read the head of an explicit element: tag, is it a sequence, length, where its value is."""
    head = reader.at(offset, 12)
    if len(head) < 8:
        raise _CutShortError(f"the head of an element at byte {offset}")
    group, element, representation, length = _EXPLICIT.unpack_from(head)
    if representation in _SHORT_VRS:
        return group << 16 | element, False, length, offset + 8
    if representation not in _LONG_VRS or len(head) < 12:
        raise _UnusualError
    return (
        group << 16 | element,
        representation == b"SQ",
        _LENGTH.unpack_from(head, 8)[0],
        (offset + 12),
    )


def _implicit(reader: _Reader, offset: int) -> tuple[int, bool, int, int]:
    """Read the head of an implicit element; whether it is a sequence cannot be told."""
    head = reader.at(offset, 8)
    if len(head) < 8:
        raise _CutShortError(f"the head of an element at byte {offset}")
    group, element, length = _IMPLICIT.unpack_from(head)
    return group << 16 | element, False, length, offset + 8


def _keep(
    reader: _Reader, elements: Elements, element: tuple[int, bool, int, int], head: _Head
) -> None:
    """Copy what is wanted of the main dataset: a value, or the items of a sequence."""
    tag = element[0]
    elements.values[tag] = _value(reader, element)
    if tag in SEQUENCES:
        elements.items[tag] = tuple(islice(_items(reader, element, head), MOST_ITEMS))


def _value(reader: _Reader, element: tuple[int, bool, int, int]) -> bytes:
    """Copy a value; of a sequence, only that it is there."""
    _, is_sequence, length, value = element
    return b"" if is_sequence or length > _LARGEST_VALUE else reader.at(value, length)


def _sequence_end(
    reader: _Reader,
    offset: int,
    header: Callable[[_Reader, int], tuple[int, bool, int, int]],
    *,
    depth: int,
) -> int:
    """Find the end of a sequence of undefined length, stepping over its items (PS3.5 7.5)."""
    if depth > _DEEPEST_SEQUENCE:
        raise _UnusualError
    while offset < reader.size:
        tag, _, length, value = _implicit(reader, offset)
        if tag == _SEQUENCE_END:
            return value
        if tag != _ITEM:
            raise _UnusualError
        offset = value + length if length != UNDEFINED_LENGTH else value
        if length != UNDEFINED_LENGTH:
            continue
        while True:
            if reader.at(offset, 4) == _ITEM_END:
                offset += 8
                break
            _, _, length, value = header(reader, offset)
            offset = (
                _sequence_end(reader, value, header, depth=depth + 1)
                if length == UNDEFINED_LENGTH
                else value + length
            )
    raise _UnusualError


def _items(reader: _Reader, element: tuple[int, bool, int, int], head: _Head) -> Iterator[Item]:
    """Read the wanted elements of each item of a sequence (PS3.5 7.5)."""
    _, is_sequence, length, offset = element
    if head is _explicit and not is_sequence:
        raise _UnusualError
    open_end = length == UNDEFINED_LENGTH
    last = reader.size if open_end else offset + length
    while offset < last:
        tag, _, length, value = _implicit(reader, offset)
        if open_end and tag == _SEQUENCE_END:
            return
        stop = last if length == UNDEFINED_LENGTH else value + length
        if tag != _ITEM or stop > last:
            raise _UnusualError
        item, offset = _item(reader, head, range(value, stop), open_end=length == UNDEFINED_LENGTH)
        yield item
    if offset != last:
        raise _UnusualError


def _item(reader: _Reader, head: _Head, place: range, *, open_end: bool) -> tuple[Item, int]:
    """Read one item within `place`, up to its delimiter if it has an open end; say where it ends.

    Sequences in it are stepped over, so that their elements are never taken for its own.
    """
    item, offset, before = Item(), place.start, -1
    while offset < place.stop:
        if open_end and reader.at(offset, 4) == _ITEM_END:
            return item, offset + 8
        tag, is_sequence, length, value = element = head(reader, offset)
        representation = reader.at(offset + 4, 2)
        end = (
            _sequence_end(reader, value, head, depth=2)
            if length == UNDEFINED_LENGTH
            else value + length
        )
        if end > place.stop or tag <= before:
            raise _UnusualError
        if tag in WANTED_IN_ITEMS and not is_sequence:
            item.values[tag] = _value(reader, element)
            if head is _explicit and representation == b"SS":
                item.signed.add(tag)
        offset, before = end, tag
    if open_end:
        raise _UnusualError
    return item, offset


def _read_by_pydicom(reader: _Reader, elements: Elements, wanted: frozenset[int]) -> None:
    """Fill `elements` by pydicom: big endian, deflated, without preamble, or damaged."""
    if not _looks_like_dicom(reader):
        raise NotDicomError(f"{elements.path}: not DICOM: it does not begin as a DICOM file does")
    with os.fdopen(os.dup(reader.descriptor), "rb") as file:
        file.seek(0)
        parsed = parse(elements.path, file)
    try:
        elements.values = {tag: value for tag in wanted if (value := parsed.raw(tag)) is not None}
    # pydicom reads a value as it is looked at, and raises many kinds on damaged bytes.
    except Exception as error:
        raise HeaderError(f"{elements.path}: the header cannot be read: {error}") from error
    elements.values[TRANSFER_SYNTAX_UID] = parsed.transfer_syntax_uid.encode()
    elements.big_endian = not parsed.little_endian
    elements.pixels = parsed.pixels
    elements.items = items_by_pydicom(elements.path, parsed.dataset)
    elements.shared, elements.groups = frame_groups(elements.path, parsed)


def _locate_frames(reader: _Reader, elements: Elements) -> None:
    """Find the fragments of each frame of encapsulated pixels."""
    pixels = elements.pixels
    if pixels is None or pixels.offset < 0 or pixels.length != UNDEFINED_LENGTH:
        return
    table = elements.values.get(_EXTENDED_OFFSETS, b"")
    elements.spans = frame_spans(
        reader.at,
        pixels.offset,
        elements.size,
        count=elements.frame_count,
        extended=struct.unpack(f"<{len(table) // 8}Q", table[: len(table) // 8 * 8]),
    )


def _looks_like_dicom(reader: _Reader) -> bool:
    """Whether a file begins as DICOM does: "DICM", or an element of group 2 or 8."""
    if reader.at(128, 4) == b"DICM":
        return True
    head = reader.at(0, 8)
    if len(head) < 8:
        return False
    for order in "<>":
        group, element, length = struct.unpack(order + "HHL", head)
        if group in (0x0002, 0x0008) and element < 0x0100:
            return head[4:6] in _SHORT_VRS | _LONG_VRS or length <= 256
    return False

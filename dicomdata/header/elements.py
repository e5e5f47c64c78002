"""One file -> the bytes of the elements we want, and where its pixels lie.

Three readers give the same answer: a comparison with the layouts of files met before
(`templates`); a walk over the elements for the common encodings (little endian, with a preamble),
which copies only what is wanted; and pydicom for everything else. None reads pixels. Nothing here
knows what an element means.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from dicomdata.errors import FileError, HeaderError, NotDicomError
from dicomdata.header.fragments import Span, frame_spans
from dicomdata.header.groups import frame_groups
from dicomdata.header.nested import MOST_ITEMS, SEQUENCES, Item, items_by_pydicom
from dicomdata.header.parsing import PIXEL_TAGS, UNDEFINED_LENGTH, Pixels, parse
from dicomdata.header.records import DEFLATED, EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicomdata.header.templates import Template, Templates
from dicomdata.header.walk import (
    LARGEST_VALUE,
    LONG_VRS,
    META_AT,
    SHORT_VRS,
    CutShortError,
    Reader,
    UnusualError,
    explicit,
    implicit,
    items_of,
    value_of,
    walk,
)

if TYPE_CHECKING:
    from dicomdata.header.walk import Met

TRANSFER_SYNTAX_UID = 0x00020010
SPECIFIC_CHARACTER_SET = 0x00080005
NUMBER_OF_FRAMES = 0x00280008
DETECTORS, SHARED_GROUPS, FRAME_GROUPS = 0x00540022, 0x52009229, 0x52009230
"""What says where the frames of a multi-frame file lie: Detector Information Sequence of nuclear
medicine (PS3.3 C.8.4.11), Shared and Per-Frame Functional Groups Sequence (C.7.6.16)."""

_EXTENDED_OFFSETS = 0x7FE00001


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

    template: Template | None = field(default=None, compare=False)
    """What it was compared with, if it was not walked."""

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


_OF_MANY_FRAMES = frozenset({DETECTORS, SHARED_GROUPS, FRAME_GROUPS})

_ALWAYS = _OF_MANY_FRAMES | {TRANSFER_SYNTAX_UID, NUMBER_OF_FRAMES, _EXTENDED_OFFSETS}

_OPENED = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""How files are opened: opening a pipe that nobody writes to would hang for ever."""


def read_elements(path: str, wanted: frozenset[int], *, known: Templates | None = None) -> Elements:
    """Read the wanted elements of one file; opens it once, and reads no pixels.

    Args:
        path: any file.
        wanted: tags of the main dataset and of the file meta information.
        known: layouts to compare it with, learned for these tags; by default those of the files
            that this process read before.

    Raises:
        FileError: if it is not a regular file that can be read.
        NotDicomError: if it is not DICOM.
        HeaderError: if it is DICOM and its header is damaged.
    """
    try:
        descriptor = os.open(path, _OPENED)
    except OSError as error:
        raise FileError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        return _read_open_file(path, descriptor, wanted, known)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


@lru_cache(maxsize=8)
def _learned(wanted: frozenset[int]) -> tuple[frozenset[int], Templates]:
    """Give all tags to read for those that are wanted, and what was learned of files for them."""
    return wanted | _ALWAYS, Templates()


def _read_open_file(
    path: str, descriptor: int, wanted: frozenset[int], known: Templates | None
) -> Elements:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"{path}: not a regular file")
    if status.st_size == 0:
        raise NotDicomError(f"{path}: not DICOM: the file is empty")
    elements = Elements(path, status.st_size, status.st_mtime_ns)
    reader = Reader(descriptor, status.st_size)
    wanted, templates = _learned(wanted)
    templates = templates if known is None else known
    if (found := templates.find(reader)) is not None:
        elements.values, elements.items, elements.pixels, elements.template = found
    else:
        elements = _read_unknown(reader, elements, wanted, templates)
    _locate_frames(reader, elements)
    return elements


def _read_unknown(
    reader: Reader, elements: Elements, wanted: frozenset[int], templates: Templates
) -> Elements:
    """Fill `elements` by a walk, from which the templates learn, or else by pydicom."""
    try:
        trail = _walk_file(reader, elements, wanted)
    except UnusualError as unusual:
        elements = Elements(elements.path, elements.size, elements.mtime_ns)
        _read_by_pydicom(reader, elements, wanted)
        if isinstance(unusual, CutShortError) and elements.pixels is None:
            raise HeaderError(
                f"{elements.path}: the header is cut short: the file ends within {unusual}"
            ) from None
        return elements
    if elements.pixels is not None:
        templates.learn(reader, trail, elements.values, elements.items)
    return elements


def _walk_file(reader: Reader, elements: Elements, wanted: frozenset[int]) -> list[Met]:
    """Fill `elements` from a little endian file with a preamble (PS3.10 7.1).

    Returns:
        The elements met, up to the pixels.
    """
    if reader.at(128, 4) != b"DICM":
        raise UnusualError
    trail: list[Met] = []
    offset = _walk_meta(reader, elements, wanted, trail)
    syntax = elements.transfer_syntax_uid
    if TRANSFER_SYNTAX_UID not in elements.values or syntax in (EXPLICIT_VR_BIG_ENDIAN, DEFLATED):
        raise UnusualError
    head = implicit if syntax == IMPLICIT_VR_LITTLE_ENDIAN else explicit
    for value, met in walk(reader, offset, head, last=max(*wanted, *PIXEL_TAGS)):
        trail.append(met)
        (tag, is_sequence, length, _), content = met
        if tag in wanted:
            if tag in _OF_MANY_FRAMES:
                # Sequences in sequences are pydicom's work.
                raise UnusualError
            element = tag, is_sequence, length, value
            elements.values[tag] = value_of(reader, element, content)
            if tag in SEQUENCES:
                items = islice(items_of(reader, element, head), MOST_ITEMS)
                elements.items[tag] = tuple(items)
        elif tag in PIXEL_TAGS:
            elements.pixels = Pixels(tag, value, length)
    return trail


def _walk_meta(reader: Reader, elements: Elements, wanted: frozenset[int], trail: list[Met]) -> int:
    """Read the file meta information, always explicit little endian; say where it ends."""
    offset, before = META_AT, 0
    while offset < reader.size and reader.at(offset, 2) == b"\x02\x00":
        tag, is_sequence, length, value = reader.head(offset, explicit)
        if length > LARGEST_VALUE or tag <= before:
            raise UnusualError
        end = value + length
        if end > reader.size:
            raise CutShortError(f"the file meta information, at byte {offset}")
        content = reader.at(offset, end - offset)
        trail.append(((tag, is_sequence, length, 6 if value - offset == 8 else 8), content))
        if tag in wanted:
            elements.values[tag] = reader.at(value, length)
        offset, before = end, tag
    return offset


def _read_by_pydicom(reader: Reader, elements: Elements, wanted: frozenset[int]) -> None:
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


def _locate_frames(reader: Reader, elements: Elements) -> None:
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


def _looks_like_dicom(reader: Reader) -> bool:
    """Whether a file begins as DICOM does: "DICM", or an element of group 2 or 8."""
    if reader.at(128, 4) == b"DICM":
        return True
    head = reader.at(0, 8)
    if len(head) < 8:
        return False
    for order in "<>":
        group, element, length = struct.unpack(order + "HHL", head)
        if group in (0x0002, 0x0008) and element < 0x0100:
            return head[4:6] in SHORT_VRS | LONG_VRS or length <= 256
    return False

"""Stepping over the elements of an open file, without understanding them (PS3.5 7.1, 7.5).

Only little endian is walked; what is unusual is left to pydicom.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from dicomdata.header.nested import WANTED_IN_ITEMS, Item
from dicomdata.header.parsing import UNDEFINED_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Element = tuple[int, bool, int, int]
    """Tag, is it a sequence, length, where the value begins."""

    Head = Callable[["Reader", int], Element]
    """(reader, offset) -> the element that begins there."""

_WINDOW = 16 * 1024
"""Bytes read at once: most headers end within them."""

LARGEST_VALUE = 1024 * 1024
"""Bytes of the longest value kept; nothing we want comes near it."""

_DEEPEST_SEQUENCE = 32
"""Sequences within sequences: real files nest five deep, hostile ones hundreds."""

LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN",
                       b"UR", b"UT", b"UV"})  # fmt: skip
"""Value Representations whose length takes four bytes (PS3.5 7.1.2)."""

SHORT_VRS = frozenset({b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS",
                        b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL",
                        b"US"})  # fmt: skip

_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_ITEM_END = b"\xfe\xff\x0d\xe0"

_EXPLICIT = struct.Struct("<HH2sH")
_IMPLICIT = struct.Struct("<HHL")
_LENGTH = struct.Struct("<L")


class UnusualError(Exception):
    """The walk met something that pydicom should look at."""


class CutShortError(UnusualError):
    """An element claims more bytes than the file has: damaged, or not the encoding it says."""


class Reader:
    """Bytes of an open file by offset, through one window, so that few reads are made."""

    __slots__ = ("_start", "_window", "descriptor", "size")

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

    def load(self, offset: int) -> tuple[int, bytes]:
        """Give the bytes of a window that begins at `offset`, and that offset."""
        if offset != self._start or not self._window:
            self._start = offset
            self._window = os.pread(self.descriptor, _WINDOW, offset)
        return offset, self._window


def explicit(reader: Reader, offset: int) -> Element:
    """Read the head of an explicit element: tag, is it a sequence, length, where its value is."""
    head = reader.at(offset, 12)
    if len(head) < 8:
        raise CutShortError(f"the head of an element at byte {offset}")
    group, element, representation, length = _EXPLICIT.unpack_from(head)
    if representation in SHORT_VRS:
        return group << 16 | element, False, length, offset + 8
    if representation not in LONG_VRS or len(head) < 12:
        raise UnusualError
    return (
        group << 16 | element,
        representation == b"SQ",
        _LENGTH.unpack_from(head, 8)[0],
        (offset + 12),
    )


def implicit(reader: Reader, offset: int) -> Element:
    """Read the head of an implicit element; whether it is a sequence cannot be told."""
    head = reader.at(offset, 8)
    if len(head) < 8:
        raise CutShortError(f"the head of an element at byte {offset}")
    group, element, length = _IMPLICIT.unpack_from(head)
    return group << 16 | element, False, length, offset + 8


def sequence_end(reader: Reader, offset: int, head: Head, *, depth: int) -> int:
    """Find the end of a sequence of undefined length, stepping over its items (PS3.5 7.5)."""
    if depth > _DEEPEST_SEQUENCE:
        raise UnusualError
    while offset < reader.size:
        tag, _, length, value = implicit(reader, offset)
        if tag == _SEQUENCE_END:
            return value
        if tag != _ITEM:
            raise UnusualError
        offset = value + length if length != UNDEFINED_LENGTH else value
        if length != UNDEFINED_LENGTH:
            continue
        while True:
            if reader.at(offset, 4) == _ITEM_END:
                offset += 8
                break
            _, _, length, value = head(reader, offset)
            offset = (
                sequence_end(reader, value, head, depth=depth + 1)
                if length == UNDEFINED_LENGTH
                else value + length
            )
    raise UnusualError


def items_of(reader: Reader, element: Element, head: Head) -> Iterator[Item]:
    """Read the wanted elements of each item of a sequence (PS3.5 7.5)."""
    _, is_sequence, length, offset = element
    if head is explicit and not is_sequence:
        raise UnusualError
    open_end = length == UNDEFINED_LENGTH
    last = reader.size if open_end else offset + length
    while offset < last:
        tag, _, length, value = implicit(reader, offset)
        if open_end and tag == _SEQUENCE_END:
            return
        stop = last if length == UNDEFINED_LENGTH else value + length
        if tag != _ITEM or stop > last:
            raise UnusualError
        item, offset = _item(reader, head, range(value, stop), open_end=length == UNDEFINED_LENGTH)
        yield item
    if offset != last:
        raise UnusualError


def _item(reader: Reader, head: Head, place: range, *, open_end: bool) -> tuple[Item, int]:
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
            sequence_end(reader, value, head, depth=2)
            if length == UNDEFINED_LENGTH
            else value + length
        )
        if end > place.stop or tag <= before:
            raise UnusualError
        if tag in WANTED_IN_ITEMS and not is_sequence:
            item.values[tag] = value_of(reader, element)
            if head is explicit and representation == b"SS":
                item.signed.add(tag)
        offset, before = end, tag
    if open_end:
        raise UnusualError
    return item, offset


def value_of(reader: Reader, element: Element) -> bytes:
    """Copy a value; of a sequence, only that it is there."""
    _, is_sequence, length, value = element
    return b"" if is_sequence or length > LARGEST_VALUE else reader.at(value, length)

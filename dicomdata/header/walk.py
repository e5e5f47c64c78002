"""Stepping over the elements of an open file, without understanding them (PS3.5 7.1, 7.5).

Only little endian is walked; what is unusual is left to pydicom.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from dicomdata.header.nested import SEQUENCES, WANTED_IN_ITEMS, Item
from dicomdata.header.parsing import UNDEFINED_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Named = tuple[int, bool, int, int]
    """The head of an element: tag, is it a sequence, length, bytes before that length."""

    Element = tuple[int, bool, int, int]
    """An element in a file: tag, is it a sequence, length, where its value begins."""

    Met = tuple[Named, bytes]
    """An element of a header: its head, and all of its bytes; of a long one, those before its
    length."""

    Head = Callable[[bytes, int], Named]
    """(bytes, where in them) -> the head of the element that begins there."""

_WINDOW = 16 * 1024
"""Bytes read at once: most headers end within them."""

_LONGEST_COMPARED = 4096
"""Bytes of an element beyond which it is stepped over, not compared: pictures, private blobs."""

META_AT = 132
"""Where the file meta information begins, after the preamble and "DICM" (PS3.10 7.1)."""

_FIRST_TAG = 0x00040000
"""The main dataset begins with group 4 (DICOMDIR) or 8; what comes lower is not understood."""

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

LONGEST_HEAD = 12
"""Bytes of an element's head: eight, or twelve with a long length (PS3.5 7.1.2)."""

_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_ITEM_END = b"\xfe\xff\x0d\xe0"

_EXPLICIT = struct.Struct("<HH2sH").unpack_from
_IMPLICIT = struct.Struct("<HHL").unpack_from
_LENGTH = struct.Struct("<L").unpack_from


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

    def head(self, offset: int, head: Head) -> Element:
        """Read the head of the element at `offset`."""
        try:
            tag, is_sequence, length, named = head(self.at(offset, LONGEST_HEAD), 0)
        except struct.error:
            raise CutShortError(f"the head of an element at byte {offset}") from None
        return tag, is_sequence, length, offset + (12 if named == 8 else 8)

    def load(self, offset: int, least: int = 0) -> tuple[int, bytes]:
        """Give a window that begins at `offset`, of `least` bytes at least; and that offset."""
        if offset != self._start or len(self._window) < max(least, 1):
            self._start = offset
            self._window = os.pread(self.descriptor, max(least, _WINDOW), offset)
        return offset, self._window


def explicit(window: bytes, at: int) -> Named:
    """Read the head of an explicit element.

    Raises:
        struct.error: if the window ends within it.
    """
    group, element, representation, length = _EXPLICIT(window, at)
    if representation in SHORT_VRS:
        return group << 16 | element, False, length, 6
    if representation not in LONG_VRS:
        raise UnusualError
    return group << 16 | element, representation == b"SQ", _LENGTH(window, at + 8)[0], 8


def implicit(window: bytes, at: int) -> Named:
    """Read the head of an implicit element; whether it is a sequence cannot be told.

    Raises:
        struct.error: if the window ends within it.
    """
    group, element, length = _IMPLICIT(window, at)
    return group << 16 | element, False, length, 4


def walk(reader: Reader, offset: int, head: Head, *, last: int) -> Iterator[tuple[int, Met]]:
    """Step over the elements of the main dataset, up to `last` or the first one beyond it.

    Gives where each value begins, and what was met.

    Raises:
        CutShortError: if the file ends within an element.
        UnusualError: if elements do not ascend, or are not to be understood.
    """
    start, window = reader.load(offset)
    before, size_of_file = _FIRST_TAG - 1, reader.size
    while offset < size_of_file:
        at = offset - start
        if at + LONGEST_HEAD > len(window):
            start, window = reader.load(offset)
            at = 0
        try:
            tag, _, length, named = element = head(window, at)
        except struct.error:
            raise CutShortError(f"the head of an element at byte {offset}") from None
        if tag <= before:
            raise UnusualError
        before = tag
        value = offset + (12 if named == 8 else 8)
        if tag >= last:
            yield value, (element, window[at : at + named])
            return
        if length == UNDEFINED_LENGTH:
            end = sequence_end(reader, value, head, depth=1)
        else:
            end = value + length
        if end > size_of_file:
            raise CutShortError(f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) at byte {offset}")
        size = end - offset
        if size > _LONGEST_COMPARED and tag not in SEQUENCES:
            size = named
        elif at + size > len(window):
            start, window = reader.load(offset, size)
            at = 0
        yield value, (element, window[at : at + size])
        offset = end


def sequence_end(reader: Reader, offset: int, head: Head, *, depth: int) -> int:
    """Find the end of a sequence of undefined length, stepping over its items (PS3.5 7.5)."""
    if depth > _DEEPEST_SEQUENCE:
        raise UnusualError
    while offset < reader.size:
        tag, _, length, value = reader.head(offset, implicit)
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
            _, _, length, value = reader.head(offset, head)
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
        tag, _, length, value = reader.head(offset, implicit)
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
        tag, is_sequence, length, value = element = reader.head(offset, head)
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


def value_of(reader: Reader, element: Element, content: bytes = b"") -> bytes:
    """Copy a value; of a sequence, only that it is there.

    Args:
        reader: of the file.
        element: whose value it is.
        content: all of the element's bytes, or less than the value where they are not at hand.
    """
    _, is_sequence, length, value = element
    if is_sequence or length > LARGEST_VALUE:
        return b""
    if len(content) > length:
        return content[len(content) - length :]
    return reader.at(value, length)

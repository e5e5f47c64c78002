"""Where the frames of encapsulated Pixel Data lie: one pass over item headers (PS3.5 A.4).

Encapsulated pixels are a sequence of fragments after a table of offsets that may be empty. One
frame may take several fragments, and one fragment never holds two frames.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    ReadAt = Callable[[int, int], bytes]
    """(offset, count) -> bytes of the file; fewer at its end."""

_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_HEAD = struct.Struct("<HHL")

_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
"""First bytes of a JPEG or JPEG-LS image, and of a JPEG 2000 codestream: a frame begins here."""

_MOST_FRAGMENTS = 2**20
"""Fragments beyond which a file is not believed."""


class Span(NamedTuple):
    """Bytes of a file that hold the fragments of one frame, item headers included."""

    offset: int
    """The first item header."""

    length: int
    """Up to where the next frame begins."""


def frame_spans(
    read_at: ReadAt, begin: int, end: int, *, count: int, extended: Sequence[int] = ()
) -> list[Span]:
    """Find the fragments of each of `count` frames.

    Args:
        read_at: reads the file.
        begin: where the value of Pixel Data begins.
        end: where the file ends.
        count: Number of Frames (0028,0008).
        extended: Extended Offset Table (7FE0,0001), if there is one.

    Returns:
        One span a frame; empty if the fragments cannot be told apart, or are damaged.
    """
    head = read_at(begin, 8)
    if len(head) < 8 or _tag(head) != _ITEM:
        return []
    table_bytes = _HEAD.unpack(head)[2]
    # Some writers leave the table out: a table begins with the offset 0, an image with a marker.
    untabled = read_at(begin + 8, 4).startswith(_STARTS)
    first = begin if untabled else begin + 8 + table_bytes
    if count == 1:
        return [Span(first, end - first)] if first < end else []
    items = _items(read_at, first, end)
    offsets = list(extended)
    if not offsets and table_bytes == 4 * count and not untabled:
        offsets = list(struct.unpack(f"<{count}L", read_at(begin + 8, table_bytes)))
    starts = _believable([first + offset for offset in offsets], items, count)
    if not starts and len(items) == count:
        starts = [item.offset for item in items]
    if not starts:
        starts = [item.offset for item in items if _begins_image(read_at, item)]
    if len(starts) != count or starts[0] != first:
        return []
    ends = [*starts[1:], items[-1].offset + items[-1].length]
    return [Span(start, stop - start) for start, stop in zip(starts, ends, strict=True)]


def join_fragments(encoded: bytes) -> bytes:
    """Put the fragments in a frame's span together.

    Raises:
        ValueError: if an item is no item, or claims more bytes than there are.
    """
    parts, offset = [], 0
    while offset + 8 <= len(encoded):
        head = encoded[offset : offset + 8]
        if _tag(head) != _ITEM:
            break
        length = _HEAD.unpack(head)[2]
        offset += 8
        if offset + length > len(encoded):
            raise ValueError(f"a fragment of {length} bytes is cut short")
        parts.append(encoded[offset : offset + length])
        offset += length
    if not parts:
        raise ValueError("there is no fragment where a frame should begin")
    return b"".join(parts)


def _items(read_at: ReadAt, offset: int, end: int) -> list[Span]:
    """List the items up to the delimiter, headers included."""
    items: list[Span] = []
    while offset + 8 <= end and len(items) <= _MOST_FRAGMENTS:
        head = read_at(offset, 8)
        if len(head) < 8 or _tag(head) != _ITEM:
            break
        length = 8 + _HEAD.unpack(head)[2]
        items.append(Span(offset, length))
        offset += length
    return items


def _believable(starts: list[int], items: list[Span], count: int) -> list[int]:
    """Give where frames begin by a table, or nothing if it is not to be believed.

    One that is not in order, or points beside the items, is not: some writers leave it all zeros.
    """
    ordered = len(starts) == count and starts == sorted(set(starts))
    return starts if ordered and set(starts) <= {item.offset for item in items} else []


def _begins_image(read_at: ReadAt, item: Span) -> bool:
    return read_at(item.offset + 8, 4).startswith(_STARTS)


def _tag(head: bytes) -> int:
    group, element, _ = _HEAD.unpack(head)
    return int(group) << 16 | int(element)

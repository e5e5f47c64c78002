"""Layouts met before: a header like the last ones is compared with them, not walked.

Files of one series differ in a few elements: where a slice lies, its UID, its time. A `Template`
is learned from what the walk met in files of the same elements in the same encoding. It knows the
bytes between those that differ: whole elements, as they were in all files. Where a new file has
the same bytes there, and the same tag and encoding at each element that differs, the walk would
go from element to element as it did before; where anything is not the same, the file is walked.
So a template only ever says what the walk would say.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from dicomdata.header.nested import SEQUENCES, Item
from dicomdata.header.parsing import UNDEFINED_LENGTH, Pixels
from dicomdata.header.walk import LARGEST_VALUE, UnusualError, explicit, implicit, sequence_end

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from dicomdata.header.walk import Element, Head, Reader

_PIXEL_DATA = 0x7FE00010
_TRANSFER_SYNTAX_UID, _NUMBER_OF_FRAMES = 0x00020010, 0x00280008

_PINNED = SEQUENCES | {_TRANSFER_SYNTAX_UID, _NUMBER_OF_FRAMES}
"""Elements on which hangs how others are read, or whose inside is read: the same in all files."""

_MAGIC_AT = 128
"""Where "DICM" is; the preamble before it says nothing (PS3.10 7.1)."""

_LONGEST_COMPARED = 4096
"""Bytes of an element beyond which it is stepped over, not compared: pictures, private blobs."""

_MOST_COMPARED = 64 * 1024
"""Bytes of a header that a template keeps; a hostile one that has more is walked each time."""

_MOST_ELEMENTS = 2048
"""Elements of a header that is worth learning: real ones have a tenth."""

_MOST_TEMPLATES = 32
"""Templates kept: files of several scanners may take turns; what was long not met is forgotten."""

_SHORT, _WIDE, _PIXELS = range(3)
"""How a length is written: in two bytes, in four, and in the four at which the header ends."""


class Found(NamedTuple):
    """What the walk finds in a file."""

    values: dict[int, bytes]
    """Tag -> value as written."""
    items: dict[int, tuple[Item, ...]]
    """Of the sequences that are read."""
    pixels: Pixels
    """Where the pixels are."""


class Met(NamedTuple):
    """An element that the walk met."""

    offset: int
    """Where it begins."""
    element: Element
    """What its head says."""
    end: int
    """Where the next one begins."""
    implicit: bool
    """Whether its encoding is implicit."""


class _Place(NamedTuple):
    """An element of a template."""

    tag: int
    name: bytes
    """Its head, up to the length."""
    width: int
    """How its length is written."""
    copied: bool
    """Whether its value is wanted."""
    content: bytes | None
    """All of it, where it is the same in all files; None where it is not."""


class _Step(NamedTuple):
    """What is the same in all files up to an element that is not, and how to read that."""

    run: bytes
    """Whole elements, then the head of the one that differs, up to its length."""
    size: int
    """Bytes of the run."""
    tag: int
    """Of a value that is wanted; 0 of one that is stepped over."""
    width: int
    """How the length after the run is written."""


class Template:
    """Where the elements of like files lie, and which of their bytes are the same."""

    def __init__(self, places: Sequence[_Place], found: Found) -> None:
        differing = {place.tag for place in places if place.copied and place.content is None}
        self._places = places
        self._items = found.items
        self._values = {tag: raw for tag, raw in found.values.items() if tag not in differing}
        self._head: Head = implicit if len(places[-1].name) == 4 else explicit
        self._steps = tuple(_steps(places))

    def read(self, reader: Reader) -> Found | None:
        """Find what the walk would in a file that lies as these do; None in any other.

        Raises:
            UnusualError: in a file that the walk would not go through.
        """
        start, window = reader.load(0)
        at, last = _MAGIC_AT, len(window) - 4
        values = self._values.copy()
        length = 0
        for run, size, tag, width in self._steps:
            if at + size > last:
                start, window = reader.load(start + at)
                at, last = 0, len(window) - 4
                if size > last:
                    return None
            if not window.startswith(run, at):
                return None
            at += size
            if width == _SHORT:
                length = window[at] | window[at + 1] << 8
                at += 2
            else:
                length = int.from_bytes(window[at : at + 4], "little")
                at += 4
                if width == _PIXELS:
                    break
            if tag:
                inside = at + length <= last
                values[tag] = (
                    window[at : at + length] if inside else _beyond(reader, start + at, length)
                )
            elif length == UNDEFINED_LENGTH:
                at, length = sequence_end(reader, start + at, self._head, depth=1) - start, 0
            at += length
        return Found(values, self._items.copy(), Pixels(_PIXEL_DATA, start + at, length))

    def merged(self, places: Sequence[_Place], found: Found) -> Template | None:
        """Give the template of these files and one more; None where they are not alike."""
        if len(places) != len(self._places):
            return None
        merged = []
        for own, other in zip(self._places, places, strict=True):
            if own.name != other.name:
                return None
            same = own.content == other.content
            if not same and own.tag in _PINNED:
                return None
            merged.append(own if same else own._replace(content=None))
        return Template(merged, found)


class Templates:
    """The templates of the last files, for one set of wanted tags.

    Shared by threads without a lock: what is swapped is whole, and a template that gets lost
    between two threads is learned again.
    """

    def __init__(self) -> None:
        self._known: tuple[Template, ...] = ()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, reader: Reader) -> Found | None:
        """Find what the walk would, by the templates; None where the file must be walked."""
        known = self._known
        for number, template in enumerate(known):
            try:
                found = template.read(reader)
            except UnusualError:
                continue
            if found is not None:
                if number:
                    self._known = (template, *known[:number], *known[number + 1 :])
                return found
        return None

    def learn(self, reader: Reader, trail: Sequence[Met], found: Found) -> None:
        """Learn from a file that was walked up to its pixels."""
        tags = [met.element[0] for met in trail]
        ascending = all(before < after for before, after in pairwise(tags))
        if not ascending or tags[-1] != _PIXEL_DATA or len(tags) > _MOST_ELEMENTS:
            return
        places = [_place(reader, met, found.values) for met in trail]
        compared = sum(len(place.content or b"") for place in places)
        pinned = all(place.content is not None for place in places if place.tag in _PINNED)
        if compared > _MOST_COMPARED or not pinned or places[-1].width != _PIXELS:
            return
        known = self._known
        for number, template in enumerate(known):
            if (merged := template.merged(places, found)) is not None:
                self._known = (merged, *known[:number], *known[number + 1 :])
                return
        self._known = (Template(places, found), *known[: _MOST_TEMPLATES - 1])


def _beyond(reader: Reader, offset: int, length: int) -> bytes:
    """Give a value that does not lie in the window."""
    if length > LARGEST_VALUE:
        raise UnusualError
    return reader.at(offset, length)


def _place(reader: Reader, met: Met, wanted: Collection[int]) -> _Place:
    """Describe an element; what is long is only compared if it must be."""
    tag, is_sequence, _, value = met.element
    if met.implicit:
        width, named = _WIDE, 4
    elif value - met.offset == 8:
        width, named = _SHORT, 6
    else:
        width, named = _WIDE, 8
    if tag == _PIXEL_DATA and width == _WIDE:
        width = _PIXELS
    size = met.end - met.offset
    compared = size <= _LONGEST_COMPARED or (tag in _PINNED and size <= _MOST_COMPARED)
    return _Place(
        tag=tag,
        name=reader.at(met.offset, named),
        width=width,
        # Of a sequence it only counts that it is there.
        copied=tag in wanted and not is_sequence,
        content=reader.at(met.offset, size) if compared and tag != _PIXEL_DATA else None,
    )


def _steps(places: Sequence[_Place]) -> Iterator[_Step]:
    run = b"DICM"
    for place in places:
        if place.content is not None:
            run += place.content
            continue
        run += place.name
        yield _Step(run, len(run), place.tag if place.copied else 0, place.width)
        run = b""

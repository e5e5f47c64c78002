"""Layouts met before: a header like the last ones is compared with them, not walked.

Files of one series differ in a few elements: where a slice lies, its UID, its time. A `Template`
is learned from what the walk met in one file, and takes note of the elements that differ in the
others. It knows the bytes between those: whole elements, as they were in all files. Where a new
file has the same bytes there, and the same tag and encoding at each element that differs, the
walk would go from element to element as it did before; where anything is not the same, the file
is walked. So a template only ever says what the walk would say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dicomdata.header.nested import SEQUENCES
from dicomdata.header.parsing import UNDEFINED_LENGTH, Pixels
from dicomdata.header.walk import (
    LARGEST_VALUE,
    LONGEST_HEAD,
    META_AT,
    UnusualError,
    explicit,
    implicit,
    sequence_end,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicomdata.header.nested import Item
    from dicomdata.header.walk import Head, Met, Reader

    Values = dict[int, bytes]
    """Tag -> value as written."""

    Items = dict[int, tuple[Item, ...]]
    """Of the sequences that are read."""

    Found = tuple[Values, Items, Pixels, "Template"]
    """What the walk would find in a file, and the template that found it."""

_PIXEL_DATA, _META_GROUP = 0x7FE00010, 0x0002
_TRANSFER_SYNTAX_UID, _NUMBER_OF_FRAMES = 0x00020010, 0x00280008
_SPECIFIC_CHARACTER_SET = 0x00080005
_SERIES_INSTANCE_UID, _SERIES_TAG = 0x0020000E, b"\x20\x00\x0e\x00"

_PINNED = SEQUENCES | {_TRANSFER_SYNTAX_UID, _SPECIFIC_CHARACTER_SET, _NUMBER_OF_FRAMES,
                       _SERIES_INSTANCE_UID}  # fmt: skip
"""Elements that are the same in all files of a template: on them hangs how others are read, their
inside is read, or all that a series shares would differ with them."""

_MAGIC_AT = 128
"""Where "DICM" is; the preamble before it says nothing (PS3.10 7.1)."""

_MOST_COMPARED = 64 * 1024
"""Bytes of a header that a template keeps; a hostile one that has more is walked each time."""

_MOST_ELEMENTS = 2048
"""Elements of a header that is worth learning: real ones have a tenth."""

_MOST_SERIES = 64
"""Series whose templates are kept: several may take turns in a folder, and threads in an archive;
what was long not learned of is forgotten."""

_MOST_LAYOUTS = 4
"""Templates of one series: a scout beside the slices, an element that some of them lack."""

_SHORT, _WIDE, _PIXELS = range(3)
"""How a length is written: in two bytes, in four, and in the four at which the header ends."""


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

    def __init__(self, places: Sequence[Met], values: Values, items: Items) -> None:
        """Take the elements up to the pixels: all of one that is the same, the head of others.

        `values` and `items` are those of one of the files.
        """
        self._places = places
        self._items = items
        steps, run, differing = [], [b"DICM"], set()
        for (tag, is_sequence, _, named), content in places:
            run.append(content)
            if len(content) == named:
                differing.add(tag)
                # Of a sequence it only counts that it is there.
                wanted = tag if tag in values and not is_sequence else 0
                whole = b"".join(run)
                width = _SHORT if named == 6 else _PIXELS if tag == _PIXEL_DATA else _WIDE
                steps.append(_Step(whole, len(whole), wanted, width))
                run = []
        self._steps = tuple(steps)
        self._all_values = values
        self._values = {tag: raw for tag, raw in values.items() if tag not in differing}
        self._head: Head = implicit if places[-1][0][3] == 4 else explicit
        self.differing = frozenset(differing)
        """Tags of elements that are not the same in all files."""
        self.size = sum(step.size for step in steps)
        """Bytes that are compared."""
        self.made: dict[Any, Any] = {}
        """What others make of elements that are the same in all files, by a key of theirs."""

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
                start, window = reader.load(start + at, size + 4)
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
        return values, self._items, Pixels(_PIXEL_DATA, start + at, length), self

    def adapted(self, reader: Reader) -> Template | None:
        """Give the template of these files and one more; None where they are not alike.

        Raises:
            UnusualError: in a file that the walk would not go through.
        """
        start, window = reader.load(0)
        at, places = META_AT, []
        for place in self._places:
            element, content = place
            tag, _, _, named = element
            size = len(content)
            if at + size + LONGEST_HEAD > len(window):
                start, window = reader.load(start + at, size + LONGEST_HEAD)
                at = 0
            if size > named and window.startswith(content, at):
                places.append(place)
                at += size
                continue
            name = content[:named]
            # The walk expects no long values in the file meta information.
            pinned = tag in _PINNED or (tag >> 16 == _META_GROUP and named == 8)
            if pinned or not window.startswith(name, at):
                return None
            places.append((element, name))
            value = at + (12 if named == 8 else 8)
            length = int.from_bytes(window[at + named : value], "little")
            if tag == _PIXEL_DATA:
                break
            if length == UNDEFINED_LENGTH:
                value, length = sequence_end(reader, start + value, self._head, depth=1) - start, 0
            at = value + length
        return Template(places, self._all_values, self._items)


class Templates:
    """The templates of the last series, for one set of wanted tags.

    Shared by threads without a lock: what is swapped is whole, and a template that gets lost
    between two threads is learned again.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Template, ...]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def find(self, reader: Reader) -> Found | None:
        """Find what the walk would, by the templates; None where the file must be walked."""
        series = _series(reader)
        known = self._known.get(series, ())
        try:
            for template in known:
                if (found := template.read(reader)) is not None:
                    return found
            for template in known:
                adapted = template.adapted(reader)
                if adapted is not None and (found := adapted.read(reader)) is not None:
                    others = tuple(other for other in known if other is not template)
                    self._keep(series, (adapted, *others))
                    return found
        except UnusualError:
            pass
        return None

    def learn(self, reader: Reader, trail: Sequence[Met], values: Values, items: Items) -> None:
        """Learn from a file that was walked up to its pixels, and of what was found there."""
        (tag, _, _, named), _ = trail[-1]
        if tag != _PIXEL_DATA or named == 6 or len(trail) > _MOST_ELEMENTS:
            return
        template = Template(trail, values, items)
        if template.size <= _MOST_COMPARED and template.differing.isdisjoint(_PINNED):
            series = _series(reader)
            others = self._known.get(series, ())
            self._keep(series, (template, *others[: _MOST_LAYOUTS - 1]))

    def _keep(self, series: bytes, templates: tuple[Template, ...]) -> None:
        known = {other: kept for other, kept in self._known.items() if other != series}
        if len(known) >= _MOST_SERIES:
            del known[next(iter(known))]
        known[series] = templates
        self._known = known


def _series(reader: Reader) -> bytes:
    """Give what is most likely the Series Instance UID, to look for its templates first.

    Not parsed: bytes that only look like it, or lie in a sequence, lead to templates that do not
    match.
    """
    _, window = reader.load(0)
    at = window.find(_SERIES_TAG)
    if not 0 <= at < len(window) - LONGEST_HEAD:
        return b""
    length = window[at + 6] if window.startswith(b"UI", at + 4) else window[at + 4]
    return window[at : at + 8 + length]


def _beyond(reader: Reader, offset: int, length: int) -> bytes:
    """Give a value that does not lie in the window."""
    if length > LARGEST_VALUE:
        raise UnusualError
    return reader.at(offset, length)

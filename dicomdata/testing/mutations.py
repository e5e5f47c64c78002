"""Hypothesis strategies for files that are damaged, hostile, or only unusual: change one, read it.

    >>> @given(mutation=mutations(content))
    ... def test_my_reader(mutation, tmp_path_factory):
    ...     mutation.write(tmp_path_factory.mktemp("file") / "mutated")

`harmless` draws changes that leave a file legal DICOM (PS3.5, PS3.10) and its meaning as it was: a
reader has to give the same as before. `mutations` draws any change: a reader gives what the
changed header says, or a clean error.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

Pieces: TypeAlias = "tuple[bytes | int, ...]"
"""Content of a file; a number stands for so many zeros, which take no room on a disk."""

UNDEFINED: Final = 0xFFFFFFFF
"""Length of what ends at a delimiter (PS3.5 7.1.1)."""

_META_AT = 132
"""Where the file meta information begins, after the preamble and DICM (PS3.10 7.1)."""

_LONG = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
"""Value Representations whose length takes four bytes (PS3.5 7.1.2)."""

_VRS = (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"OB",
        b"OW", b"PN", b"SH", b"SL", b"SQ", b"SS", b"ST", b"TM", b"UI", b"UL", b"UN", b"US", b"UT",
        b"ZZ", b"\0\0", b"us")  # fmt: skip

_CLAIMED = (b"\xff\xff", b"\0\0", b"\1\0", b"\0\x80", b"\xff\x7f")
"""Words that Rows, Columns and the like may claim."""

_COUNTS = (b"1000000", b"0", b"-1", b"2", b"99999999999999999999", b" 1 ", b"\0\0", b"")
"""Strings that Number of Frames may claim."""

_MOST_ZEROS = 64 * 2**20
"""Bytes of the largest private element."""


class Element(NamedTuple):
    """Where an element of a file's top level lies."""

    tag: int
    """Group and element number."""

    begin: int
    """First byte of its tag."""

    value: int
    """First byte of its value."""

    length: int
    """As written, or `UNDEFINED`."""

    end: int
    """First byte of the next element."""

    length_at: int
    """Where its length is written: two bytes if `value - length_at` is 2, else four."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """A changed file."""

    name: str
    """What was changed, in words."""

    pieces: Pieces = field(repr=False)
    """What it holds now."""

    def write(self, path: Path) -> None:
        """Write the file; zeros become a hole."""
        with path.open("wb") as file:
            for piece in self.pieces:
                if isinstance(piece, int):
                    file.truncate(file.tell() + piece)
                    file.seek(piece, 1)
                else:
                    file.write(piece)

    @property
    def content(self) -> bytes:
        """The bytes of the file, zeros and all."""
        return b"".join(bytes(p) if isinstance(p, int) else p for p in self.pieces)


class Layout:
    """The elements of a file in little endian with a preamble: where each of them lies."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        syntax = b""
        self.meta: list[Element] = []
        offset = _META_AT
        while content[offset : offset + 2] == b"\2\0" and offset + 12 <= len(content):
            self.meta.append(self._element(offset, implicit=False))
            if self.meta[-1].tag == 0x00020010:
                syntax = content[self.meta[-1].value : self.meta[-1].end].strip(b" \0")
            offset = self.meta[-1].end
        self.begin = offset
        self.implicit = syntax == b"1.2.840.10008.1.2"
        self.understood = content[128:132] == b"DICM" and not syntax.endswith((b".2.2", b".1.99"))
        self.elements = list(self._walk()) if self.understood else []

    def _element(self, at: int, *, implicit: bool) -> Element:
        group, number = struct.unpack_from("<HH", self.content, at)
        if implicit:
            (length,), value, length_at = struct.unpack_from("<L", self.content, at + 4), at + 8, 4
        elif self.content[at + 4 : at + 6] in _LONG:
            (length,), value, length_at = struct.unpack_from("<L", self.content, at + 8), at + 12, 8
        else:
            (length,), value, length_at = struct.unpack_from("<H", self.content, at + 6), at + 8, 6
        return Element(group << 16 | number, at, value, length, value + length, at + length_at)

    def _walk(self) -> Iterator[Element]:
        """Give the elements before the pixels that are told by their length, and the pixels."""
        offset = self.begin
        while offset + 12 <= len(self.content):
            element = self._element(offset, implicit=self.implicit)
            if element.length == UNDEFINED and element.tag < 0x7FE00000:
                return
            yield element
            if element.tag >= 0x7FE00000:
                return
            offset = element.end

    def find(self, tag: int) -> Element | None:
        """Give the first element of a tag, file meta information included."""
        return next((each for each in self.meta + self.elements if each.tag == tag), None)

    def tag(self, tag: int) -> bytes:
        """Write a tag."""
        return struct.pack("<HH", tag >> 16, tag & 0xFFFF)

    def head(self, tag: int, vr: bytes, length: int) -> bytes:
        """Write the head of an element in the file's encoding."""
        if self.implicit:
            return self.tag(tag) + struct.pack("<L", length)
        if vr in _LONG:
            return self.tag(tag) + vr + struct.pack("<HL", 0, length)
        return self.tag(tag) + vr + struct.pack("<H", length)

    def with_inserted(self, tag: int, inserted: Sequence[bytes | int]) -> Pieces:
        """Put an element where its tag belongs."""
        at = next((e.begin for e in self.elements if e.tag > tag), len(self.content))
        return self.content[:at], *inserted, self.content[at:]

    def with_value(self, element: Element, value: bytes) -> bytes:
        """Give an element another value, and the length to match."""
        length = struct.pack("<H" if element.value - element.length_at == 2 else "<L", len(value))
        content = self.content
        return content[: element.length_at] + length + value + content[element.end :]


def nested(layout: Layout, tag: int, depth: int, *, defined: bool, ended: bool = True) -> bytes:
    """Write sequences within sequences, `depth` of them, each with one item.

    Args:
        layout: whose encoding is used.
        tag: of each sequence.
        depth: how many.
        defined: whether lengths are told, or delimiters end sequences and items.
        ended: whether the delimiters are there.
    """
    content = b""
    for _ in range(depth):
        if defined:
            item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(content)) + content
            content = layout.head(tag, b"SQ", len(item)) + item
            continue
        item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + content
        ends = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
        content = layout.head(tag, b"SQ", UNDEFINED) + item + (ends if ended else b"")
    return content


def icon(layout: Layout, *, defined: bool) -> bytes:
    """Write an Icon Image Sequence (0088,0200): a picture with a size and pixels of its own."""
    words = [(0x00280002, 1), (0x00280010, 2), (0x00280011, 3), (0x00280100, 8), (0x00280101, 8),
             (0x00280102, 7), (0x00280103, 0)]  # fmt: skip
    inside = b"".join(
        layout.head(tag, b"US", 2) + struct.pack("<H", word) for tag, word in words
    ) + (layout.head(0x7FE00010, b"OW", 6) + b"abcdef")
    if defined:
        item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(inside)) + inside
        return layout.head(0x00880200, b"SQ", len(item)) + item
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inside + b"\xfe\xff\x0d\xe0\0\0\0\0"
    return layout.head(0x00880200, b"SQ", UNDEFINED) + item + b"\xfe\xff\xdd\xe0\0\0\0\0"


def unknown(layout: Layout, tag: int, value: bytes) -> bytes:
    """Write a UN of undefined length, whose items are in implicit VR (PS3.5 6.2.2, note 2)."""
    element = layout.tag(0x00080100) + struct.pack("<L", len(value)) + value
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + element + b"\xfe\xff\x0d\xe0\0\0\0\0"
    return layout.head(tag, b"UN", UNDEFINED) + item + b"\xfe\xff\xdd\xe0\0\0\0\0"


def bomb(content: bytes, zeros: int) -> bytes:
    """Deflate a file in little endian, with so many zeros in a private element (PS3.5 A.5)."""
    layout = Layout(content)
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    syntax, pixels = layout.find(0x00020010), layout.elements[-1].begin
    uid = b"1.2.840.10008.1.2.1.99"
    meta = content[: layout.begin] if syntax is None else layout.with_value(syntax, uid)
    meta = meta[: Layout(meta).begin]
    head = content[layout.begin : pixels] + layout.head(0x00990010, b"OB", zeros)
    before = packer.compress(head + bytes(zeros % 2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush the same bytes mean the same again, however often.
    mebibyte = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    after = packer.compress(content[pixels:]) + packer.flush()
    return meta + before + mebibyte * (zeros // 2**20) + after


@st.composite
def harmless(draw: st.DrawFn, content: bytes) -> Mutation:
    """Draw a change that is legal and changes no meaning."""
    layout = Layout(content)
    if not layout.elements:
        return Mutation("nothing", (content,))
    name = draw(st.sampled_from(sorted(_ADDITIONS)))
    return Mutation(name, _ADDITIONS[name](draw, layout))


def _add_sequences(draw: st.DrawFn, layout: Layout) -> Pieces:
    depth, defined = draw(st.integers(1, 30)), draw(st.booleans())
    tag = draw(st.sampled_from([0x00081140, 0x00091001, 0x00321064, 0x00400275, 0x00991001]))
    return layout.with_inserted(tag, [nested(layout, tag, depth, defined=defined)])


def _add_icon(draw: st.DrawFn, layout: Layout) -> Pieces:
    return layout.with_inserted(0x00880200, [icon(layout, defined=draw(st.booleans()))])


def _add_unknown(draw: st.DrawFn, layout: Layout) -> Pieces:
    value = draw(st.binary(max_size=40)) * draw(st.sampled_from([1, 1, 600]))
    value += b" " * (len(value) % 2)
    tag = draw(st.sampled_from([0x00081115, 0x00091001, 0x00991001]))
    return layout.with_inserted(tag, [unknown(layout, tag, value)])


def _add_zeros(draw: st.DrawFn, layout: Layout) -> Pieces:
    """Put in a private element, maybe a huge one."""
    zeros = 2 * draw(st.integers(0, _MOST_ZEROS // 2))
    tag = draw(st.sampled_from([0x00090010, 0x00991001]))
    return layout.with_inserted(tag, [layout.head(tag, b"OB", zeros), zeros])


def _add_padding(draw: st.DrawFn, layout: Layout) -> Pieces:
    """Put Data Set Trailing Padding (FFFC,FFFC) behind the pixels (PS3.10 7.2)."""
    zeros = 2 * draw(st.integers(1, 500))
    return layout.content, layout.head(0xFFFCFFFC, b"OB", zeros), zeros


def _add_preamble(draw: st.DrawFn, layout: Layout) -> Pieces:
    """Use the preamble for something, as it may be (PS3.10 7.1)."""
    return draw(st.binary(min_size=128, max_size=128)), layout.content[128:]


_ADDITIONS: Final[dict[str, Callable[[st.DrawFn, Layout], Pieces]]] = {
    "sequences": _add_sequences,
    "icon": _add_icon,
    "unknown": _add_unknown,
    "zeros": _add_zeros,
    "padding": _add_padding,
    "preamble": _add_preamble,
}
"""Kinds of change that `harmless` draws."""


@st.composite
def mutations(draw: st.DrawFn, content: bytes) -> Mutation:
    """Draw one to three changes of any kind."""
    names = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        layout = Layout(content)
        known = sorted(_DAMAGES) if len(layout.elements) > 2 else ["cut", "flip", "words"]
        name = draw(st.sampled_from(known))
        content = _DAMAGES[name](draw, layout)
        names.append(name)
        if len(content) < _META_AT + 8:
            break
    return Mutation(", ".join(names), (content,))


def _flip(draw: st.DrawFn, layout: Layout) -> bytes:
    """Flip up to four bits of the header."""
    content = bytearray(layout.content)
    end = layout.elements[-1].value + 16 if layout.elements else len(content)
    for _ in range(draw(st.integers(1, 4))):
        content[draw(st.integers(_META_AT, min(end, len(content)) - 1))] ^= 1 << draw(
            st.integers(0, 7)
        )
    return bytes(content)


def _words(draw: st.DrawFn, layout: Layout) -> bytes:
    """Write a few bytes of anything somewhere."""
    content, patch = layout.content, draw(st.binary(min_size=1, max_size=8))
    at = draw(st.integers(_META_AT, len(content) - 1))
    return content[:at] + patch + content[at + len(patch) :]


def _cut(draw: st.DrawFn, layout: Layout) -> bytes:
    # Counted from the end, so that it shrinks to a small cut.
    return layout.content[: len(layout.content) - draw(st.integers(1, len(layout.content)))]


def _length(draw: st.DrawFn, layout: Layout) -> bytes:
    """Claim another length for an element."""
    element = draw(st.sampled_from(layout.meta + layout.elements))
    size = len(layout.content)
    claims = st.sampled_from([0, 1, 3, 0xFFFE, 0xFFFF, UNDEFINED, UNDEFINED - 1, 2**31, size])
    near = st.integers(-4, 8).map(lambda add: max(element.length + add, 0))
    length = draw(claims | near) & UNDEFINED
    if element.value - element.length_at == 2:
        written = struct.pack("<H", length & 0xFFFF)
    else:
        written = struct.pack("<L", length)
    at = element.length_at
    return layout.content[:at] + written + layout.content[at + len(written) :]


def _representation(draw: st.DrawFn, layout: Layout) -> bytes:
    """Claim another VR for an element."""
    element = draw(st.sampled_from(layout.elements))
    at, content = element.begin + 4, layout.content
    return content[:at] + draw(st.sampled_from(_VRS)) + content[at + 2 :]


def _order(draw: st.DrawFn, layout: Layout) -> bytes:
    """Swap two elements, write one twice, move it to another place, or take it away."""
    one = draw(st.sampled_from(layout.meta[1:] + layout.elements[:-1]))
    other = draw(st.sampled_from(layout.elements))
    first, second = sorted([one, other])
    content = layout.content
    written = [content[each.begin : each.end] for each in (first, second)]
    between = content[first.end : second.begin]
    swapped = draw(st.sampled_from([
        [written[1], between, written[0]], [*written[:1], between, written[1], written[0]],
        [between, *written[1:]], [between, written[1], written[0]],
        [written[0], written[0], between, written[1]],
    ]))  # fmt: skip
    if first == second:
        return content[: first.begin] + written[0] * 2 + content[first.end :]
    return content[: first.begin] + b"".join(swapped) + content[second.end :]


def _claim(draw: st.DrawFn, layout: Layout) -> bytes:
    """Claim a size that the file has not, in one to three elements."""
    chosen = [e for e in layout.elements if e.tag >> 16 == 0x0028 and e.length == 2]
    content = layout.content
    if draw(st.booleans()):
        count = draw(st.sampled_from(_COUNTS))
        tag = 0x00280008
        old = next((each for each in layout.elements if each.tag == tag), None)
        count += b" " * (len(count) % 2)
        if old is not None:
            return layout.with_value(old, count)
        pieces = layout.with_inserted(tag, [layout.head(tag, b"IS", len(count)) + count])
        content = b"".join(piece for piece in pieces if isinstance(piece, bytes))
        layout = Layout(content)
        chosen = [e for e in layout.elements if e.tag >> 16 == 0x0028 and e.length == 2]
    for element in draw(st.lists(st.sampled_from(chosen), max_size=3)) if chosen else []:
        word = draw(st.sampled_from(_CLAIMED) | st.binary(min_size=2, max_size=2))
        content = content[: element.value] + word + content[element.end :]
    return content


def _value(draw: st.DrawFn, layout: Layout) -> bytes:
    """Give an element another value."""
    element = draw(st.sampled_from(layout.meta[1:] + layout.elements[:-1]))
    numbers = st.floats(width=32).map(lambda number: repr(number).encode())
    known = st.sampled_from([b"", b"\0\0", b"\\", b"1\\2\\3", b"1,5", b"nan", b"1e400", b"1_0 "])
    value = draw(numbers | known | st.binary(max_size=24))
    return layout.with_value(element, value + b" " * (len(value) % 2))


def _sequences(draw: st.DrawFn, layout: Layout) -> bytes:
    """Put in sequences of any depth, with or without their delimiters."""
    tag = draw(st.sampled_from([0x00081140, 0x00091001, 0x00321064, 0x52009229, 0x52009230]))
    depth, defined = draw(st.integers(1, 300)), draw(st.booleans())
    content = nested(layout, tag, depth, defined=defined, ended=draw(st.booleans()))
    pieces = layout.with_inserted(tag, [content])
    return b"".join(piece for piece in pieces if isinstance(piece, bytes))


def _meta(draw: st.DrawFn, layout: Layout) -> bytes:
    """Damage the file meta information, or take it away."""
    content = layout.content
    without = content[:_META_AT] + content[layout.begin :]
    syntaxes = [b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2",
                b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.5", b"1.2.3"]  # fmt: skip
    syntax = next((each for each in layout.meta if each.tag == 0x00020010), None)
    choices = [
        without,
        without[_META_AT:],
        content[_META_AT:],
        content[:128] + b"DICX" + content[_META_AT:],
        content[:_META_AT] + b"\2\0\0\0UL\4\0\xff\xff\xff\xff" + content[_META_AT + 12 :],
        content[: layout.begin] * 2 + content[layout.begin :],
    ]
    if syntax is not None:
        choices += [layout.with_value(syntax, uid + b"\0" * (len(uid) % 2)) for uid in syntaxes]
    return draw(st.sampled_from(choices))


_DAMAGES: Final[dict[str, Callable[[st.DrawFn, Layout], bytes]]] = {
    "flip": _flip,
    "words": _words,
    "cut": _cut,
    "length": _length,
    "representation": _representation,
    "order": _order,
    "claim": _claim,
    "value": _value,
    "sequences": _sequences,
    "meta": _meta,
}
"""Kinds of damage that `mutations` draws."""

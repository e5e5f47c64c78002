"""The frames of a file: which there are, where each lies in the patient, and where in the file.

What a functional group of a frame says outranks what all frames share, and that the main dataset
(PS3.3 C.7.6.16). A file whose groups and pixels are not of the same frames is refused: nothing
tells which frame an item would belong to.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from dicomdata.header.parsing import UNDEFINED_LENGTH
from dicomdata.header.records import Frame, Kind, new_frame
from dicomdata.header.values import TAGS, Values, first_known

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicomdata.geometry import Vector
    from dicomdata.header.elements import Elements
    from dicomdata.header.values import Digits

_MOST_FRAMES = 2**16
"""Frames of a deflated file beyond which its header is not believed."""

_OF_ALL_OR_NONE = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "RescaleSlope",
    "RescaleIntercept",
)
"""What every frame must have if one does: it says where voxels lie, and what they mean."""

_DATE_DIGITS = 8
"""Digits of a date before a time of day (PS3.5 6.2, VR DT)."""


class Part(NamedTuple):
    """A part of a `Frame`: a field, or two that are made of one element."""

    keywords: tuple[str, ...]
    """Of all elements that it is made of."""
    decode: Callable[[Values], Any]
    """Makes it."""

    @property
    def tags(self) -> frozenset[int]:
        """Tags of the elements."""
        return frozenset(TAGS[keyword] for keyword in self.keywords)


def _place_of(own: Values) -> tuple[Vector | None, Digits]:
    return own.place("ImagePositionPatient") or (None, (0, 0, 0))


def _acquisition_number_of(own: Values) -> int | None:
    return first_known(own.word("FrameAcquisitionNumber"), own.integer("AcquisitionNumber"))


def _temporal_position_of(own: Values) -> int | None:
    number = own.double_word("TemporalPositionIndex")
    return first_known(number, own.integer("TemporalPositionIdentifier"))


def _trigger_time_of(own: Values) -> float | None:
    return first_known(own.double("NominalCardiacTriggerDelayTime"), own.number("TriggerTime"))


def _acquisition_time_of(own: Values) -> str:
    began = own.text("FrameAcquisitionDateTime") or own.text("FrameReferenceDateTime")
    return _time_of_day(began) or own.text("AcquisitionTime")


PARTS = (
    Part(("SOPInstanceUID",), lambda own: own.text("SOPInstanceUID")),
    Part(("ImagePositionPatient",), _place_of),
    Part(("InstanceNumber",), lambda own: own.integer("InstanceNumber")),
    Part(("SliceLocation",), lambda own: own.number("SliceLocation")),
    Part(("FrameAcquisitionNumber", "AcquisitionNumber"), _acquisition_number_of),
    Part(("TemporalPositionIndex", "TemporalPositionIdentifier"), _temporal_position_of),
    Part(("NominalCardiacTriggerDelayTime", "TriggerTime"), _trigger_time_of),
    Part(
        ("FrameAcquisitionDateTime", "FrameReferenceDateTime", "AcquisitionTime"),
        _acquisition_time_of,
    ),
    Part(("ContentTime",), lambda own: own.text("ContentTime")),
)
"""What is decoded of each frame, in the order of its fields; all else that is decoded belongs to
its `Kind`."""

_TAGS_OF_PARTS = tuple(part.tags for part in PARTS)

_OF_FRAMES = frozenset().union(*_TAGS_OF_PARTS)


class _Decoded(NamedTuple):
    """What was decoded of a file, for others that were found by the same template."""

    parts: list[Any]
    """What `PARTS` made."""
    differing: tuple[tuple[int, Callable[[Values], Any]], ...]
    """Which of them are made of elements that are not the same in all of them, and what does."""


def decode_frames(values: Values, decode_kind: Callable[[Values], Kind]) -> tuple[Frame, ...]:
    """Describe every frame of a file.

    Raises:
        HeaderError: if the file cannot hold its frames, or does not say of each where it lies and
            what its values mean while it does so of others.
    """
    elements = values.elements
    count = elements.frame_count
    _check_claims(values, count)
    _check_groups(values, count)
    main = {**elements.values, **elements.shared}
    if count > 1 and TAGS["ImagePositionPatient"] not in elements.shared:
        # One position of the main dataset is not that of many frames.
        main.pop(TAGS["ImagePositionPatient"], None)
    frames = []
    kinds: dict[object, Kind] = {}
    for number in range(count):
        group = elements.groups[number] if elements.groups else {}
        own = Values(replace(elements, values={**main, **group}, template=None))
        traits = frozenset(item for item in group.items() if item[0] not in _OF_FRAMES)
        if traits not in kinds:
            kind = _as_written(decode_kind(own), elements)
            kinds[traits] = kinds.setdefault(kind, kind)
        frames.append(_decode_frame(own, kinds[traits], number))
    return tuple(frames)


def decode_only_kind(values: Values, decode_kind: Callable[[Values], Kind]) -> Kind:
    """Describe the kind of the frame of a file that has one, and no functional groups."""
    _check_claims(values, 1)
    return _as_written(decode_kind(values), values.elements)


def decode_only_frame(values: Values, kind: Kind) -> Frame:
    """Describe the frame of a file that has one, and no functional groups."""
    return _decode_frame(values, kind, 0)


def _check_claims(values: Values, count: int) -> None:
    """Hold Number of Frames against the file before anything is made for each frame."""
    elements, pixels = values.elements, values.elements.pixels
    written = values.text("NumberOfFrames").removeprefix("+")
    if written and not written.isdecimal():
        raise values.error("NumberOfFrames", f"must be a whole number, got {written[:20]!r}")
    if count == 1 or pixels is None:
        return
    bits = values.needed_word("Rows") * values.needed_word("Columns")
    bits *= (values.word("SamplesPerPixel") or 1) * values.needed_word("BitsAllocated")
    if pixels.length == UNDEFINED_LENGTH:
        if len(elements.spans) != count:
            problem = f"is {count}, and the fragments of Pixel Data are not those of {count} frames"
            raise values.error("NumberOfFrames", problem)
    elif count > _MOST_FRAMES:
        raise values.error("NumberOfFrames", f"is {count}: more than is believable")
    elif not 0 <= pixels.length - count * bits // 8 < max(bits // 8, 2):
        # A value has an even length: what is padded is no frame.
        problem = f"is {count}, and Pixel Data holds {pixels.length} bytes, not {count * bits // 8}"
        raise values.error("NumberOfFrames", problem)


def _check_groups(values: Values, count: int) -> None:
    """Hold the functional groups against Number of Frames, and against each other."""
    groups, shared = values.elements.groups, values.elements.shared
    if groups and len(groups) != count:
        raise values.error(
            "NumberOfFrames",
            f"is {count}, and frames are described {len(groups)} times, in Per-Frame Functional "
            f"Groups Sequence (5200,9230) or Slice Vector (0054,0080)",
        )
    for keyword in _OF_ALL_OR_NONE:
        tag = TAGS[keyword]
        known = [bool(group.get(tag, shared.get(tag, b"")).strip(b" \0")) for group in groups]
        if any(known) and not all(known):
            raise values.error(
                keyword,
                f"is missing in the functional groups of frame {known.index(False)} of {count}, "
                f"counted from 0; other frames have it",
            )


def _as_written(kind: Kind, elements: Elements) -> Kind:
    """Say of a kind what only its Pixel Data tells: 8 bits in big endian words lie in pairs."""
    in_words = elements.pixels is not None and elements.pixels.representation == "OW"
    if in_words and kind.big_endian and kind.bits_allocated == 8:
        return replace(kind, swapped_pairs=True)
    return kind


def _place(elements: Elements, kind: Kind, number: int) -> tuple[int, int]:
    """Say where the pixels of a frame lie: offset and length; the offset is -1 where deflated."""
    pixels = elements.pixels
    if pixels is None:
        return -1, 0
    if pixels.offset >= 0 and pixels.length == UNDEFINED_LENGTH:
        # Damaged fragments are found when they are read.
        whole = (pixels.offset, elements.size - pixels.offset)
        return elements.spans[number] if elements.spans else whole
    if elements.frame_count == 1:
        return pixels.offset, pixels.length
    begin = -1 if pixels.offset < 0 else pixels.offset + number * kind.frame_bytes
    return begin, kind.frame_bytes


def _decode_frame(values: Values, kind: Kind, number: int) -> Frame:
    elements = values.elements
    uid, (position, decimals), *others = _decode_parts(values)
    return new_frame(
        elements.path,
        elements.size,
        elements.mtime_ns,
        uid,
        number,
        kind,
        position,
        decimals,
        *others,
        *_place(elements, kind, number),
    )


def _decode_parts(values: Values) -> list[Any]:
    """Decode the parts of a frame; of a file that a template found, only those that may differ."""
    template = values.elements.template
    decoded: _Decoded | None = None if template is None else template.made.get(_Decoded)
    if decoded is not None:
        parts = decoded.parts.copy()
        for index, decode in decoded.differing:
            parts[index] = decode(values)
        return parts
    parts = [part.decode(values) for part in PARTS]
    if template is not None:
        differing = tuple(
            (index, PARTS[index].decode)
            for index, tags in enumerate(_TAGS_OF_PARTS)
            if not template.differing.isdisjoint(tags)
        )
        template.made[_Decoded] = _Decoded(parts, differing)
    return parts


def _time_of_day(text: str) -> str:
    """Cut the time out of a date and time (PS3.5 6.2, VR DT), without the offset from UTC."""
    return text[_DATE_DIGITS:].partition("+")[0].partition("-")[0]

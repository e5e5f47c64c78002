"""The frames of a file: which there are, where each lies in the patient, and where in the file.

A functional group of a frame outranks the element of the main dataset (PS3.3 C.7.6.16).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dicomdata.header.parsing import UNDEFINED_LENGTH
from dicomdata.header.records import Frame, Kind
from dicomdata.header.values import Values, first_known

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicomdata.header.elements import Elements

_MOST_FRAMES = 2**16
"""Frames of a deflated file beyond which its header is not believed."""


def decode_frames(values: Values, decode_kind: Callable[[Values], Kind]) -> tuple[Frame, ...]:
    """Describe every frame of a file; a functional group outranks the element beside it."""
    elements = values.elements
    count = max(elements.frame_count, len(elements.groups))
    _check_claims(values, count)
    frames = []
    kinds: dict[Kind, Kind] = {}
    for number in range(count):
        own = values
        if number < len(elements.groups):
            own = Values(replace(elements, values={**elements.values, **elements.groups[number]}))
        kind = decode_kind(own)
        offset, length = _place(elements, kind, number)
        frames.append(_decode_frame(own, kinds.setdefault(kind, kind), number, offset, length))
    return tuple(frames)


def _check_claims(values: Values, count: int) -> None:
    """Hold Number of Frames against the file before anything is made for each frame."""
    elements, pixels = values.elements, values.elements.pixels
    if count == 1 or pixels is None:
        return
    frame_bytes = values.needed_word("Rows") * values.needed_word("Columns")
    if pixels.length == UNDEFINED_LENGTH:
        if len(elements.spans) != count:
            problem = f"is {count}, and the fragments of Pixel Data are not those of {count} frames"
            raise values.error("NumberOfFrames", problem)
    elif pixels.offset >= 0 and count * frame_bytes // 8 > elements.size:
        problem = f"is {count}: more frames than a file of {elements.size} bytes can hold"
        raise values.error("NumberOfFrames", problem)
    elif count > _MOST_FRAMES:
        raise values.error("NumberOfFrames", f"is {count}: more than is believable")


def _place(elements: Elements, kind: Kind, number: int) -> tuple[int, int]:
    """Say where the pixels of a frame lie: offset and length; (-1, 0) in a deflated file."""
    pixels = elements.pixels
    if pixels is None or pixels.offset < 0:
        return -1, 0
    if pixels.length == UNDEFINED_LENGTH:
        # Damaged fragments are found when they are read.
        whole = (pixels.offset, elements.size - pixels.offset)
        return elements.spans[number] if elements.spans else whole
    if elements.frame_count == 1:
        return pixels.offset, pixels.length
    return pixels.offset + number * kind.frame_bytes, kind.frame_bytes


def _decode_frame(values: Values, kind: Kind, number: int, offset: int, length: int) -> Frame:
    elements = values.elements
    position = values.floats("ImagePositionPatient", 3)
    return Frame(
        path=elements.path,
        size=elements.size,
        mtime_ns=elements.mtime_ns,
        sop_instance_uid=values.text("SOPInstanceUID"),
        number=number,
        kind=kind,
        position=None if position is None else (position[0], position[1], position[2]),
        decimals=_decimals(values.text("ImagePositionPatient")) if position else (0, 0, 0),
        instance_number=values.integer("InstanceNumber"),
        slice_location=values.number("SliceLocation"),
        acquisition_number=first_known(
            values.word("FrameAcquisitionNumber"), values.integer("AcquisitionNumber")
        ),
        temporal_position=first_known(
            values.double_word("TemporalPositionIndex"),
            values.integer("TemporalPositionIdentifier"),
        ),
        trigger_time=first_known(
            values.double("NominalCardiacTriggerDelayTime"), values.number("TriggerTime")
        ),
        acquisition_time=values.text("AcquisitionTime"),
        content_time=values.text("ContentTime"),
        offset=offset,
        length=length,
    )


def _decimals(text: str) -> tuple[int, int, int]:
    """Count the digits after the point of each number of a position: "12.50" has two."""
    counts = []
    for part in text.split("\\"):
        mantissa, _, exponent = part.strip(" \0").lower().partition("e")
        digits = len(mantissa.partition(".")[2])
        counts.append(max(digits - int(exponent or 0), 0))
    return counts[0], counts[1], counts[2]

"""Where the slices of a reconstructed tomogram of nuclear medicine lie (PS3.3 C.8.4).

Nuclear medicine has no functional groups, and frames told apart by vectors: of these only the
Slice Vector makes a volume. The detector says where the first slice lies; the others follow along
its normal, a row's direction times a column's, at Spacing Between Slices, whose sign says to which
side (C.8.4.15).
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from dicomdata.errors import HeaderError
from dicomdata.header.parsing import raw_value, sequence_items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom import Dataset

    from dicomdata.header.parsing import Parsed

_NM_STORAGE = "1.2.840.10008.5.1.4.1.1.20"
_SOP_CLASS_UID, _FRAME_INCREMENT_POINTER = 0x00080016, 0x00280009
_DETECTORS, _SLICE_VECTOR = 0x00540022, 0x00540080
_POSITION, _ORIENTATION, _STEP = 0x00200032, 0x00200037, 0x00180088


def reconstructed_slices(path: str, parsed: Parsed) -> list[dict[int, bytes]]:
    """Give the position and orientation of each slice; none where the file is something else.

    Raises:
        HeaderError: if the file counts slices, and does not say where they lie.
    """
    header = parsed.dataset
    order = "<" if parsed.little_endian else ">"
    uid = (raw_value(header, _SOP_CLASS_UID) or b"").decode("ascii", "replace").strip(" \0")
    pointer = struct.pack(order + "HH", _SLICE_VECTOR >> 16, _SLICE_VECTOR & 0xFFFF)
    if uid != _NM_STORAGE or raw_value(header, _FRAME_INCREMENT_POINTER) != pointer:
        return []
    vector = raw_value(header, _SLICE_VECTOR) or b""
    count = len(vector) // 2
    if vector != struct.pack(f"{order}{count}H", *range(1, count + 1)):
        raise HeaderError(f"{path}: Slice Vector (0054,0080) must be 1, 2, 3 and so on")
    detectors = sequence_items(header, _DETECTORS)
    places = {(_texts(each, _POSITION), _texts(each, _ORIENTATION)) for each in detectors}
    if len(places) != 1:
        raise HeaderError(
            f"{path}: Detector Information Sequence (0054,0022) must say where the first slice "
            f"lies, got {len(places)} places"
        )
    ((position, orientation),) = places
    try:
        return _along_normal(position, orientation, _texts(header, _STEP), count)
    except (ValueError, ZeroDivisionError) as error:
        raise HeaderError(
            f"{path}: slices need Image Position (Patient) (0020,0032), Image Orientation "
            f"(Patient) (0020,0037) and Spacing Between Slices (0018,0088), got {position}, "
            f"{orientation} and {_texts(header, _STEP)}"
        ) from error


def _along_normal(
    position: Sequence[str], orientation: Sequence[str], spacing: Sequence[str], count: int
) -> list[dict[int, bytes]]:
    """Write the position of every slice as it would be written for it.

    Raises:
        ValueError: if a part is no number, or there are too many or too few.
        ZeroDivisionError: if there is no normal, or no spacing.
    """
    first = [float(part) for part in position]
    a, b, c, d, e, f = (float(part) for part in orientation)
    (step,) = (float(part) for part in spacing)
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    scale = 1 / (math.hypot(*normal) / step)
    slices = []
    for k in range(count):
        place = (start + k * scale * part for start, part in zip(first, normal, strict=True))
        slices.append({
            _POSITION: "\\".join(map(repr, place)).encode(),
            _ORIENTATION: "\\".join(orientation).encode(),
        })  # fmt: skip
    return slices


def _texts(holder: Dataset, tag: int) -> tuple[str, ...]:
    """Give the parts of a decimal string."""
    text = (raw_value(holder, tag) or b"").decode("ascii", "replace").strip(" \0")
    return tuple(part.strip(" \0") for part in text.split("\\")) if text else ()

"""What a multi-frame file says of each of its frames: the bytes of functional groups.

An element is taken only from the functional group macro that the standard gives it (PS3.3
C.7.6.16.2 and C.8): other macros hold elements of the same tag that speak of something else, such
as the SOP Instance UID of a referenced image. Nothing here knows what an element means.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from dicomdata.errors import HeaderError
from dicomdata.header.nuclear import reconstructed_slices
from dicomdata.header.parsing import quietly, raw_value, sequence_items

if TYPE_CHECKING:
    from pydicom import Dataset

    from dicomdata.header.parsing import Parsed

Group = dict[int, bytes]
"""Tag -> value as written, b"" where a macro is there without it."""

_NEEDED_MACROS = {
    # Pixel Measures: Slice Thickness, Spacing Between Slices, Pixel Spacing.
    0x00289110: (0x00180050, 0x00180088, 0x00280030),
    # Plane Position: Image Position (Patient).
    0x00209113: (0x00200032,),
    # Plane Orientation: Image Orientation (Patient).
    0x00209116: (0x00200037,),
    # Pixel Value Transformation: Rescale Intercept, Slope, Type.
    0x00289145: (0x00281052, 0x00281053, 0x00281054),
}
"""Macros that say where a frame lies and what its values mean."""

_DIMENSION_INDEX_VALUES = 0x00209157

_MACROS = {
    **_NEEDED_MACROS,
    # Frame Content: acquisition date and time, reference date and time, temporal position index,
    # acquisition number, dimension index values.
    0x00209111: (0x00189074, 0x00189151, 0x00209128, 0x00209156, _DIMENSION_INDEX_VALUES),
    # Frame Type of MR, CT, PET, X-Ray 3D, parametric map.
    0x00189226: (0x00089007,),
    0x00189329: (0x00089007,),
    0x00189751: (0x00089007,),
    0x00189504: (0x00089007,),
    0x00409092: (0x00089007,),
    # MR Echo: Effective Echo Time.
    0x00189114: (0x00189082,),
    # MR Diffusion: b-value.
    0x00189117: (0x00189087,),
    # Cardiac Synchronization: Nominal Cardiac Trigger Delay Time.
    0x00189118: (0x00209153,),
}
"""Macro -> the elements that are taken from it."""

_UNASSIGNED_MACROS = (0x00209170, 0x00209171)
"""Unassigned Shared and Per-Frame Converted Attributes (PS3.3 C.7.6.16.2): what a conversion from
classic files found no macro for."""

_UNASSIGNED = (
    # Acquisition and Content Time.
    *(0x00080032, 0x00080033),
    # Body part, echo time, trigger time, gantry tilt, patient position, b-value.
    *(0x00180015, 0x00180081, 0x00181060, 0x00181120, 0x00185100, 0x00189087),
    # Acquisition number, instance number, temporal position, slice location.
    *(0x00200012, 0x00200013, 0x00200100, 0x00201041),
    # Pixel Padding Value and Range Limit.
    *(0x00280120, 0x00280121),
    # PET: Actual Frame Duration, Corrected Image, Units, SUV Type, Decay Correction and Factor.
    *(0x00181242, 0x00280051, 0x00541001, 0x00541006, 0x00541102, 0x00541321),
)
"""What is taken from there: no UID of a source image, and nothing that has a macro."""

_SHARED, _PER_FRAME = 0x52009229, 0x52009230

_DIMENSION_INDEX_SEQUENCE, _DIMENSION_INDEX_POINTER = 0x00209222, 0x00209165

_PLACES = frozenset({0x00200032, 0x00201041, 0x00209057, 0x00209113})
"""Dimensions along which the slices of one volume differ: Image Position (Patient), Slice
Location, In-Stack Position Number, Plane Position."""

_FEWEST_FRAMES = 2
"""Frames for each value of a dimension, on average: a single frame is no volume."""


def frame_groups(path: str, parsed: Parsed) -> tuple[Group, list[Group]]:
    """Give the elements of the functional groups that all frames share, and of each frame.

    Raises:
        HeaderError: if they cannot be told: a macro that occurs twice, slices without a place.
    """
    with quietly():
        try:
            return _groups_of(path, parsed)
        except HeaderError:
            raise
        # pydicom parses a sequence as it is looked at, and raises many kinds on damaged bytes.
        except Exception as error:
            raise HeaderError(f"{path}: functional groups cannot be read: {error}") from error


def _groups_of(path: str, parsed: Parsed) -> tuple[Group, list[Group]]:
    header = parsed.dataset
    shared = sequence_items(header, _SHARED)
    frames = sequence_items(header, _PER_FRAME)
    if len(shared) > 1:
        raise HeaderError(
            f"{path}: Shared Functional Groups Sequence (5200,9229) must have one item, "
            f"got {len(shared)}",
            keyword="SharedFunctionalGroupsSequence",
        )
    if not shared and not frames:
        return {}, reconstructed_slices(path, parsed)
    common = _flat(path, shared[0]) if shared else {}
    groups = [_flat(path, frame) for frame in frames]
    _cut_dimensions(parsed, groups)
    common.pop(_DIMENSION_INDEX_VALUES, None)
    return common, groups


def _flat(path: str, groups: Dataset) -> Group:
    """Lay the macros of one item flat: a macro that is there replaces all its elements."""
    found: Group = {}
    present = groups.keys()
    for macro in _UNASSIGNED_MACROS:
        for item in sequence_items(groups, macro)[:1]:
            found.update((tag, value) for tag in _UNASSIGNED if (value := raw_value(item, tag)))
    for macro, tags in _MACROS.items():
        if macro not in present:
            continue
        items = sequence_items(groups, macro)
        if len(items) > 1 and macro in _NEEDED_MACROS:
            raise HeaderError(
                f"{path}: functional group macro ({macro >> 16:04X},{macro & 0xFFFF:04X}) must "
                f"have one item, got {len(items)}"
            )
        if len(items) == 1:
            found.update((tag, raw_value(items[0], tag) or b"") for tag in tags)
    return found


def _cut_dimensions(parsed: Parsed, groups: list[Group]) -> None:
    """Leave, of Dimension Index Values, those that may tell volumes apart (PS3.3 C.7.6.17).

    Not those of a place in a volume, nor those that are the same, or another, in every frame.
    """
    pointers = [
        raw_value(item, _DIMENSION_INDEX_POINTER) or b""
        for item in sequence_items(parsed.dataset, _DIMENSION_INDEX_SEQUENCE)
    ]
    size = 4 * len(pointers)
    values = [group.pop(_DIMENSION_INDEX_VALUES, b"") for group in groups]
    if not size or any(len(value) != size for value in values):
        return
    kept = []
    for i, pointer in enumerate(pointers):
        column = {value[4 * i : 4 * i + 4] for value in values}
        apart = 1 < len(column) <= len(groups) / _FEWEST_FRAMES
        if apart and _tag_in(pointer, little_endian=parsed.little_endian) not in _PLACES:
            kept.append(i)
    for group, value in zip(groups, values, strict=True):
        group[_DIMENSION_INDEX_VALUES] = b"".join(value[4 * i : 4 * i + 4] for i in kept)


def _tag_in(pointer: bytes, *, little_endian: bool) -> int:
    """Read an AT value: the tag it names; -1 where it names none, or several."""
    if len(pointer) != 4:
        return -1
    group, element = struct.unpack("<HH" if little_endian else ">HH", pointer)
    return int(group) << 16 | int(element)

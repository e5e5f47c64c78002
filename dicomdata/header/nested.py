"""The items of the sequences that volumes need: what a Modality LUT and a radiopharmaceutical say.

Both readers of a header give them as `Item`s, whose elements are the item's own: those of the
same tag in sequences further in, or in the main dataset, are never mistaken for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dicomdata.errors import HeaderError

if TYPE_CHECKING:
    from pydicom import Dataset

MODALITY_LUT_SEQUENCE = 0x00283000
RADIOPHARMACEUTICALS = 0x00540016
"""Modality LUT Sequence (PS3.3 C.11.1), Radiopharmaceutical Information Sequence (C.8.9.2)."""

SEQUENCES = frozenset({MODALITY_LUT_SEQUENCE, RADIOPHARMACEUTICALS})
"""Sequences whose items are read."""

MOST_ITEMS = 16
"""Items that are read of one sequence; more than one is too many for either."""

ITEM_TAGS = {
    "RadiopharmaceuticalStartTime": 0x00181072,
    "RadionuclideTotalDose": 0x00181074,
    "RadionuclideHalfLife": 0x00181075,
    "RadiopharmaceuticalStartDateTime": 0x00181078,
    "LUTDescriptor": 0x00283002,
    "ModalityLUTType": 0x00283004,
    "LUTData": 0x00283006,
}
"""Keyword -> tag of every element that is read from their items (PS3.6)."""

WANTED_IN_ITEMS = frozenset(ITEM_TAGS.values())


@dataclass(slots=True)
class Item:
    """The wanted elements of one item of a sequence, as written."""

    values: dict[int, bytes] = field(default_factory=dict)
    """Tag -> value as written."""

    signed: set[int] = field(default_factory=set)
    """Tags of values that are written as signed words (SS), which only explicit encodings tell."""


def items_by_pydicom(path: str, header: Dataset) -> dict[int, tuple[Item, ...]]:
    """Give the items of the wanted sequences of a file that pydicom read.

    Raises:
        HeaderError: if pydicom cannot make them out.
    """
    try:
        return {
            tag: tuple(_item_of(item) for item in (header[tag].value or ())[:MOST_ITEMS])
            for tag in SEQUENCES
            if tag in header and header[tag].VR == "SQ"
        }
    # Items are parsed when they are first looked at, and damaged ones raise many kinds.
    except Exception as error:
        raise HeaderError(f"{path}: a sequence cannot be read: {error}") from error


def _item_of(content: Dataset) -> Item:
    item = Item()
    for tag in WANTED_IN_ITEMS:
        if tag not in content:
            continue
        element = content.get_item(tag)
        value = element.value
        if isinstance(value, bytes | bytearray):
            item.values[tag] = bytes(value)
            if element.VR == "SS":
                item.signed.add(tag)
    return item

"""The table of a Modality LUT Sequence (PS3.3 C.11.1.1): its bytes -> a `LookupTable`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dicomdata.header.nested import ITEM_TAGS, MODALITY_LUT_SEQUENCE
from dicomdata.rescale import LookupTable, as_signed

if TYPE_CHECKING:
    from dicomdata.header.values import Values

_MOST_ENTRIES = 2**16
"""What LUT Descriptor means by 0 entries."""


def decode_table(values: Values, *, signed: bool) -> tuple[LookupTable | None, str]:
    """Give the table of a header and what its outputs are; (None, "") where there is none.

    Args:
        values: of the header.
        signed: whether pixels are, and with them the first stored value of the table.

    Raises:
        HeaderError: if there are several tables, or one is malformed.
    """
    items = values.items(MODALITY_LUT_SEQUENCE)
    if not items:
        return None, ""
    if len(items) > 1:
        raise values.error("ModalityLUTSequence", f"must have one item, got {len(items)}")
    item = values.of(items[0])
    count, first, bits = _descriptor(item)
    table = LookupTable(
        first=as_signed(first, bits=16, signed=signed),
        entries=_entries(item, count, bits),
        signed=ITEM_TAGS["LUTData"] in items[0].signed,
        bits=bits,
    )
    return table, item.text("ModalityLUTType")


def _descriptor(item: Values) -> tuple[int, int, int]:
    """Read LUT Descriptor: how many entries, the first stored value as a word, bits."""
    raw = item.elements.values.get(ITEM_TAGS["LUTDescriptor"], b"")
    if len(raw) != 6:
        raise item.error("LUTDescriptor", f"must be three 16-bit numbers, got {len(raw)} bytes")
    count, first, bits = (int(word) for word in np.frombuffer(raw, _words(item)))
    if bits > 16:
        raise item.error("LUTDescriptor", f"must say 8 or 16 bits an entry, got {bits}")
    return count or _MOST_ENTRIES, first, bits


def _entries(item: Values, count: int, bits: int) -> bytes:
    """Read LUT Data: entries of 16 bits, or of 8 bits, which lie two to a word."""
    raw = item.elements.values.get(ITEM_TAGS["LUTData"], b"")
    if len(raw) >= 2 * count:
        words = np.frombuffer(raw, _words(item), count).astype("<u2")
        if bits == 8 and words.max() > 0xFF:
            raise item.error("LUTData", f"must have entries of 8 bits, got {words.max()}")
        return words.tobytes()
    if bits != 8 or len(raw) < count:
        raise item.error(
            "LUTData", f"is too short: {len(raw)} bytes for {count} entries of {bits} bits"
        )
    # Two to a word, the first one in its low byte, whichever way the words are written.
    packed = np.frombuffer(raw + b"\0" * (len(raw) % 2), _words(item)).astype("<u2").view("u1")
    return packed[:count].astype("<u2").tobytes()


def _words(item: Values) -> str:
    return ">u2" if item.elements.big_endian else "<u2"

"""The values of a file's elements by keyword, decoded; errors name file and element."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from dicomdata.errors import HeaderError
from dicomdata.header.elements import SPECIFIC_CHARACTER_SET, TRANSFER_SYNTAX_UID
from dicomdata.header.nested import ITEM_TAGS, MODALITY_LUT_SEQUENCE, RADIOPHARMACEUTICALS, Item

if TYPE_CHECKING:
    from dicomdata.header.elements import Elements

TAGS = {
    "SpecificCharacterSet": SPECIFIC_CHARACTER_SET,
    "TransferSyntaxUID": TRANSFER_SYNTAX_UID,
    "MediaStorageSOPClassUID": 0x00020002,
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "SeriesDate": 0x00080021,
    "AcquisitionDate": 0x00080022,
    "AcquisitionDateTime": 0x0008002A,
    "SeriesTime": 0x00080031,
    "AcquisitionTime": 0x00080032,
    "ContentTime": 0x00080033,
    "Modality": 0x00080060,
    "Manufacturer": 0x00080070,
    "SeriesDescription": 0x0008103E,
    "ManufacturerModelName": 0x00081090,
    "GEPrivateCreator": 0x00090010,
    "GEScanDateTime": 0x0009100D,
    "PatientID": 0x00100020,
    "PatientSex": 0x00100040,
    "PatientSize": 0x00101020,
    "PatientWeight": 0x00101030,
    "BodyPartExamined": 0x00180015,
    "SliceThickness": 0x00180050,
    "EchoTime": 0x00180081,
    "SpacingBetweenSlices": 0x00180088,
    "TriggerTime": 0x00181060,
    "GantryDetectorTilt": 0x00181120,
    "ImagerPixelSpacing": 0x00181164,
    "ActualFrameDuration": 0x00181242,
    "PatientPosition": 0x00185100,
    "DiffusionBValue": 0x00189087,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "SeriesNumber": 0x00200011,
    "AcquisitionNumber": 0x00200012,
    "InstanceNumber": 0x00200013,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "FrameOfReferenceUID": 0x00200052,
    "TemporalPositionIdentifier": 0x00200100,
    "SliceLocation": 0x00201041,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "PlanarConfiguration": 0x00280006,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "CorrectedImage": 0x00280051,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "PixelPaddingValue": 0x00280120,
    "PixelPaddingRangeLimit": 0x00280121,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
    "RescaleType": 0x00281054,
    "LossyImageCompression": 0x00282110,
    "ModalityLUTSequence": MODALITY_LUT_SEQUENCE,
    "RadiopharmaceuticalInformationSequence": RADIOPHARMACEUTICALS,
    "Units": 0x00541001,
    "SUVType": 0x00541006,
    "DecayCorrection": 0x00541102,
    "DecayFactor": 0x00541321,
    "PhilipsPrivateCreator": 0x70530010,
    "PhilipsSUVFactor": 0x70531000,
    "PhilipsActivityFactor": 0x70531009,
    "FrameType": 0x00089007,
    "FrameAcquisitionDateTime": 0x00189074,
    "FrameReferenceDateTime": 0x00189151,
    "EffectiveEchoTime": 0x00189082,
    "TemporalPositionIndex": 0x00209128,
    "NominalCardiacTriggerDelayTime": 0x00209153,
    "FrameAcquisitionNumber": 0x00209156,
    "DimensionIndexValues": 0x00209157,
}
"""Keyword -> tag of every element that is read from a header (PS3.6); private ones have a name
of our own."""

_ALL_TAGS = {**TAGS, **ITEM_TAGS}

_FIRST_COUNT = ("PixelSpacing", "ImagerPixelSpacing")
"""Of these more values than two are seen, of which the first two count."""

_WORD_STARTS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a keyword's words meet: Pixel|Spacing, SOP|Class|UID."""

_ESCAPE = b"\x1b"
"""Switches character sets in the middle of a text (ISO 2022)."""


_REMEMBERED = 4096
"""Numbers that are not read again: the slices of a series share two coordinates, and series of
one examination all three."""

_LONGEST_NUMBER = 32
"""Characters of a decimal string: 16 by the standard (PS3.5 6.2, VR DS), more by some writers."""

_MOST_DIGITS = 12
"""Digits of an integer string (PS3.5 6.2, VR IS)."""

Digits = tuple[int, int, int]

T = TypeVar("T")
U = TypeVar("U")


class Values:
    """The values of one file's elements by keyword, decoded; errors name file and element."""

    def __init__(self, elements: Elements) -> None:
        self.elements = elements
        self._raw = elements.values

    def text(self, keyword: str) -> str:
        """Give the value as text, without padding; "" where it is absent or empty."""
        raw = self._raw.get(_ALL_TAGS[keyword])
        if not raw:
            return ""
        if raw.isascii() and _ESCAPE not in raw:
            return str(raw, "ascii").strip(" \0")
        return _decoded(raw, self._raw.get(SPECIFIC_CHARACTER_SET, b"")).strip(" \0")

    def floats(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Give decimal strings as `count` finite numbers; None where they are absent or empty."""
        text = self.text(keyword)
        if not text:
            return None
        parts = [part.strip(" \0") for part in text.split("\\")]
        try:
            numbers = tuple(_number(part) for part in parts[:count])
        except ValueError:
            numbers = ()
        # Two positions never mean three.
        if len(numbers) != count or (len(parts) != count and keyword not in _FIRST_COUNT):
            raise self.error(keyword, f"must be {count} decimal number(s), got {text!r}")
        if not all(map(math.isfinite, numbers)):
            raise self.error(keyword, f"must be finite, got {text!r}")
        return numbers

    def place(self, keyword: str) -> tuple[tuple[float, float, float], Digits] | None:
        """Give three decimal strings as numbers, and how many decimals each was written with.

        None where they are absent or empty; refused where `floats` would.
        """
        raw = self._raw.get(_ALL_TAGS[keyword], b"")
        try:
            (x, a), (y, b), (z, c) = map(_written, raw.split(b"\\"))
        except ValueError:
            # Padded, malformed, or none: looked at with more patience.
            return self._odd_place(keyword)
        return (x, y, z), (a, b, c)

    def _odd_place(self, keyword: str) -> tuple[tuple[float, float, float], Digits] | None:
        numbers = self.floats(keyword, 3)
        if numbers is None:
            return None
        a, b, c = (decimals(part.strip(" \0")) for part in self.text(keyword).split("\\"))
        return (numbers[0], numbers[1], numbers[2]), (a, b, c)

    def number(self, keyword: str) -> float | None:
        """Give a number that is only reported: None where it is absent or malformed."""
        raw = self._raw.get(_ALL_TAGS[keyword], b"")
        if not raw:
            return None
        try:
            return _written(raw)[0]
        except ValueError:
            # Padded, of several values, or no number at all.
            pass
        try:
            values = self.floats(keyword, 1)
        except HeaderError:
            return None
        return values[0] if values else None

    def integer(self, keyword: str) -> int | None:
        """Give a whole number that is only reported: None where it is absent or malformed."""
        raw = self._raw.get(_ALL_TAGS[keyword], b"").strip(b" \0")
        if raw.isdigit() and len(raw) <= _MOST_DIGITS:
            return int(raw)
        value = self.number(keyword)
        return int(value) if value is not None and value.is_integer() else None

    def word(self, keyword: str) -> int | None:
        """Give a 16-bit number (US or SS) as its unsigned word; None where it is absent."""
        raw = self._raw.get(_ALL_TAGS[keyword], b"")
        if not raw:
            return None
        if len(raw) != 2:
            raise self.error(keyword, f"must be one 16-bit number, got {len(raw)} bytes")
        return int.from_bytes(raw, "big" if self.elements.big_endian else "little")

    def needed_word(self, keyword: str) -> int:
        """Give a 16-bit number that pixels cannot do without."""
        word = self.word(keyword)
        if word is None:
            raise missing_element(self.elements.path, keyword)
        return word

    def double_word(self, keyword: str) -> int | None:
        """Give a 32-bit number (UL) that is only reported."""
        raw = self._raw.get(_ALL_TAGS[keyword], b"")
        if len(raw) != 4:
            return None
        return int.from_bytes(raw, "big" if self.elements.big_endian else "little")

    def double_words(self, keyword: str) -> str:
        """Give 32-bit numbers (UL) that are only reported as text; "" where there are none."""
        raw = self._raw.get(TAGS[keyword], b"")
        order = ">" if self.elements.big_endian else "<"
        count = len(raw) // 4
        return "\\".join(map(str, struct.unpack(f"{order}{count}L", raw[: 4 * count])))

    def double(self, keyword: str) -> float | None:
        """Give an FD value that is only reported."""
        raw = self._raw.get(_ALL_TAGS[keyword], b"")
        if len(raw) != 8:
            return None
        value: float = struct.unpack(">d" if self.elements.big_endian else "<d", raw)[0]
        return value if math.isfinite(value) else None

    def items(self, tag: int) -> tuple[Item, ...]:
        """Give the items of a sequence that is read; none where it is absent or empty."""
        return self.elements.items.get(tag, ())

    def of(self, item: Item) -> Values:
        """Give the values of an item's elements."""
        own = dict(item.values)
        # An item without a character set of its own is written in that of the file.
        if SPECIFIC_CHARACTER_SET in self._raw:
            own[SPECIFIC_CHARACTER_SET] = self._raw[SPECIFIC_CHARACTER_SET]
        return Values(replace(self.elements, values=own))

    def error(self, keyword: str, problem: str) -> HeaderError:
        """Build the error for one element: file, element, what is wrong."""
        return HeaderError(
            f"{self.elements.path}: {element_name(keyword)} {problem}", keyword=keyword
        )


def element_name(keyword: str) -> str:
    """Name an element as the standard does: "Image Position (Patient) (0020,0032)"."""
    tag = _ALL_TAGS[keyword]
    name = _WORD_STARTS.sub(" ", keyword)
    if name.startswith(("Image Position", "Image Orientation")):
        name = name.replace(" Patient", " (Patient)")
    return f"{name} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def missing_element(path: str, keyword: str) -> HeaderError:
    """Build the error for a file that lacks an element."""
    return HeaderError(f"{path}: {element_name(keyword)} is missing", keyword=keyword)


@lru_cache(maxsize=_REMEMBERED)
def _written(raw: bytes) -> tuple[float, int]:
    """Read one decimal string, and how many decimals it was written with.

    Raises:
        ValueError: if it is longer than the standard allows, or anything but a finite number.
    """
    if len(raw) > _LONGEST_NUMBER or not raw.isascii():
        raise ValueError(raw)
    text = raw.decode("ascii").strip(" \0")
    number = _number(text)
    if not math.isfinite(number):
        raise ValueError(raw)
    return number, decimals(text)


def decimals(text: str) -> int:
    """Count the digits after the point of a number: "12.50" has two."""
    if text.isdigit():
        return 0
    mantissa, _, exponent = text.lower().partition("e")
    return max(len(mantissa.partition(".")[2]) - int(exponent or 0), 0)


def _number(text: str) -> float:
    if "_" in text:
        # Python reads "1_000" as a number; DICOM does not.
        raise ValueError(text)
    return float(text)


def _decoded(raw: bytes, character_set: bytes) -> str:
    """Decode text by Specific Character Set (0008,0005); Latin-1 where that fails."""
    names = character_set.decode("ascii", "replace")
    try:
        from pydicom.charset import convert_encodings, decode_bytes

        encodings = convert_encodings([name.strip(" \0") for name in names.split("\\")])
        return decode_bytes(raw, encodings, {0x5C})
    except Exception:  # noqa: BLE001 - pydicom warns and raises many kinds on unknown sets
        return raw.decode("latin-1")


def first_known(value: T | None, otherwise: U) -> T | U:
    """Give a value, or the other where it is None."""
    return otherwise if value is None else value

"""The bytes of elements -> an `Instance`: what the values mean, and which may be missing.

An element that volumes need is an error by name when it is malformed; one that is only reported
is dropped when it is. A needed element that is *absent* is not an error yet: a file without a
position may still be shown, and `stack` says what is missing when a volume is wanted.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from dicomdata.errors import HeaderError, OtherObjectError
from dicomdata.header.elements import SPECIFIC_CHARACTER_SET, TRANSFER_SYNTAX_UID, Elements
from dicomdata.header.parsing import UNDEFINED_LENGTH
from dicomdata.header.records import NATIVE, Frame, Instance, Kind, Orientation
from dicomdata.rescale import Padding, Rescale, as_signed

if TYPE_CHECKING:
    from collections.abc import Mapping

TAGS = {
    "SpecificCharacterSet": SPECIFIC_CHARACTER_SET,
    "TransferSyntaxUID": TRANSFER_SYNTAX_UID,
    "MediaStorageSOPClassUID": 0x00020002,
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "AcquisitionTime": 0x00080032,
    "ContentTime": 0x00080033,
    "Modality": 0x00080060,
    "Manufacturer": 0x00080070,
    "SeriesDescription": 0x0008103E,
    "ManufacturerModelName": 0x00081090,
    "PatientID": 0x00100020,
    "BodyPartExamined": 0x00180015,
    "SliceThickness": 0x00180050,
    "EchoTime": 0x00180081,
    "SpacingBetweenSlices": 0x00180088,
    "TriggerTime": 0x00181060,
    "GantryDetectorTilt": 0x00181120,
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
    "ModalityLUTSequence": 0x00283000,
    "Units": 0x00541001,
    "FrameType": 0x00089007,
    "EffectiveEchoTime": 0x00189082,
    "TemporalPositionIndex": 0x00209128,
    "NominalCardiacTriggerDelayTime": 0x00209153,
    "FrameAcquisitionNumber": 0x00209156,
}
"""Keyword -> tag of every element that is read from a header (PS3.6)."""

_IMAGE_CLASSES = "1.2.840.10008.5.1.4.1.1."
"""Every storage class begins so; see `_NOT_IMAGES` for those that are not frames of a patient."""

_NOT_IMAGES = {
    "1.2.840.10008.1.3.10": "a DICOMDIR",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.2.840.10008.5.1.4.1.1.66.1": "a spatial registration",
    "1.2.840.10008.5.1.4.1.1.66.2": "spatial fiducials",
    "1.2.840.10008.5.1.4.1.1.66.3": "a deformable registration",
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation (SEG)",
    "1.2.840.10008.5.1.4.1.1.66.5": "a surface segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a label map segmentation (SEG)",
    "1.2.840.10008.5.1.4.1.1.481.2": "a dose grid (RTDOSE)",
    "1.2.840.10008.5.1.4.1.1.481.3": "a structure set (RTSTRUCT)",
    "1.2.840.10008.5.1.4.1.1.481.5": "a treatment plan (RTPLAN)",
    "1.2.840.10008.5.1.4.1.1.104.1": "an encapsulated document",
}
"""Storage classes that are no frames of a volume, in words; others are told by having no pixels."""

_PREFIXES = {
    "1.2.840.10008.5.1.4.1.1.88.": "a structured report (SR)",
    "1.2.840.10008.5.1.4.1.1.11.": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.9.": "a waveform",
    "1.2.840.10008.5.1.4.1.1.481.": "a radiotherapy object",
}

_LOSSY_SYNTAXES = frozenset(
    {
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.51",
        "1.2.840.10008.1.2.4.81",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.203",
    }
)
"""JPEG baseline and extended, JPEG-LS near-lossless; JPEG 2000 and HTJ2K that may be lossy."""

_WORD_STARTS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a keyword's words meet: Pixel|Spacing, SOP|Class|UID."""

_PIXEL_DATA = 0x7FE00010

_ESCAPE = b"\x1b"
"""Switches character sets in the middle of a text (ISO 2022)."""

_MOST_FRAMES = 2**16
"""Frames of a deflated file beyond which its header is not believed."""

T = TypeVar("T")
U = TypeVar("U")


class Values:
    """The values of one file's elements by keyword, decoded; errors name file and element."""

    def __init__(self, elements: Elements) -> None:
        self.elements = elements

    def text(self, keyword: str) -> str:
        """Give the value as text, without padding; "" where it is absent or empty."""
        raw = self.elements.values.get(TAGS[keyword], b"")
        return _decoded(raw, self.elements).strip(" \0")

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
        # Three spacings, of which the first two count, are seen; two positions never mean three.
        if len(numbers) != count or (len(parts) != count and keyword != "PixelSpacing"):
            raise self.error(keyword, f"must be {count} decimal number(s), got {text!r}")
        if not all(map(math.isfinite, numbers)):
            raise self.error(keyword, f"must be finite, got {text!r}")
        return numbers

    def number(self, keyword: str) -> float | None:
        """Give a number that is only reported: None where it is absent or malformed."""
        try:
            values = self.floats(keyword, 1)
        except HeaderError:
            return None
        return values[0] if values else None

    def integer(self, keyword: str) -> int | None:
        """Give a whole number that is only reported: None where it is absent or malformed."""
        value = self.number(keyword)
        return int(value) if value is not None and value.is_integer() else None

    def word(self, keyword: str) -> int | None:
        """Give a 16-bit number (US or SS) as its unsigned word; None where it is absent."""
        raw = self.elements.values.get(TAGS[keyword], b"")
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
        raw = self.elements.values.get(TAGS[keyword], b"")
        if len(raw) != 4:
            return None
        return int.from_bytes(raw, "big" if self.elements.big_endian else "little")

    def double(self, keyword: str) -> float | None:
        """Give an FD value that is only reported."""
        raw = self.elements.values.get(TAGS[keyword], b"")
        if len(raw) != 8:
            return None
        value: float = struct.unpack(">d" if self.elements.big_endian else "<d", raw)[0]
        return value if math.isfinite(value) else None

    def error(self, keyword: str, problem: str) -> HeaderError:
        """Build the error for one element: file, element, what is wrong."""
        return HeaderError(
            f"{self.elements.path}: {element_name(keyword)} {problem}", keyword=keyword
        )


def element_name(keyword: str) -> str:
    """Name an element as the standard does: "Image Position (Patient) (0020,0032)"."""
    tag = TAGS[keyword]
    name = _WORD_STARTS.sub(" ", keyword)
    if name.startswith(("Image Position", "Image Orientation")):
        name = name.replace(" Patient", " (Patient)")
    return f"{name} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def missing_element(path: str, keyword: str) -> HeaderError:
    """Build the error for a file that lacks an element."""
    return HeaderError(f"{path}: {element_name(keyword)} is missing", keyword=keyword)


def check_object(values: Values) -> None:
    """Refuse, by name, what holds no frames of a volume.

    Raises:
        OtherObjectError: for a report, a structure set, a DICOMDIR and the like.
        HeaderError: for an image whose pixels are missing.
    """
    uid = values.text("SOPClassUID") or values.text("MediaStorageSOPClassUID")
    path, pixels = values.elements.path, values.elements.pixels
    what = _NOT_IMAGES.get(uid) or next(
        (words for prefix, words in _PREFIXES.items() if uid.startswith(prefix)), None
    )
    if what is not None:
        raise OtherObjectError(f"{path}: {what}, not frames of a volume")
    if pixels is None and values.word("Rows") is None:
        raise OtherObjectError(
            f"{path}: a DICOM object without pixels (SOP Class UID {uid or '?'})"
        )
    if pixels is None:
        raise HeaderError(f"{path}: Pixel Data (7FE0,0010) is missing", keyword="PixelData")
    if pixels.tag != _PIXEL_DATA:
        raise HeaderError(f"{path}: Float Pixel Data (7FE0,{pixels.tag & 0xFFFF:04X}) is not read")
    if pixels.length == UNDEFINED_LENGTH and values.elements.transfer_syntax_uid in NATIVE:
        raise HeaderError(
            f"{path}: Pixel Data (7FE0,0010) is encapsulated, Transfer Syntax UID (0002,0010) says "
            f"it is not",
            keyword="PixelData",
        )


def decode_instance(elements: Elements, kept: Mapping[str, str]) -> Instance:
    """Turn the elements of a file that holds frames into an `Instance`.

    Args:
        elements: what was read.
        kept: values of the keywords the user asked to keep, as text.
    """
    values = Values(elements)
    check_object(values)
    return Instance(
        path=elements.path,
        size=elements.size,
        mtime_ns=elements.mtime_ns,
        series_instance_uid=values.text("SeriesInstanceUID"),
        patient_id=values.text("PatientID"),
        frames=_decode_frames(values, kept),
    )


def _decode_kind(values: Values, kept: Mapping[str, str]) -> Kind:
    bits_allocated = values.needed_word("BitsAllocated")
    bits_stored = values.word("BitsStored") or bits_allocated
    signed = values.needed_word("PixelRepresentation")
    if signed not in (0, 1):
        raise values.error("PixelRepresentation", f"must be 0 or 1, got {signed}")
    syntax = values.elements.transfer_syntax_uid
    return Kind(
        sop_class_uid=values.text("SOPClassUID"),
        transfer_syntax_uid=syntax,
        image_type=values.text("FrameType") or values.text("ImageType"),
        study_instance_uid=values.text("StudyInstanceUID"),
        frame_of_reference_uid=values.text("FrameOfReferenceUID"),
        rows=values.needed_word("Rows"),
        columns=values.needed_word("Columns"),
        samples_per_pixel=values.word("SamplesPerPixel") or 1,
        photometric_interpretation=values.text("PhotometricInterpretation"),
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=_or(values.word("HighBit"), bits_stored - 1),
        signed=signed == 1,
        planar_configuration=values.word("PlanarConfiguration") or 0,
        orientation=_decode_orientation(values),
        pixel_spacing=_decode_spacing(values),
        rescale=_decode_rescale(values),
        rescale_type=values.text("RescaleType"),
        modality_lut=TAGS["ModalityLUTSequence"] in values.elements.values,
        padding=_decode_padding(values, bits=bits_stored, signed=signed == 1),
        lossy=syntax in _LOSSY_SYNTAXES or values.text("LossyImageCompression") == "01",
        units=values.text("Units"),
        patient_position=values.text("PatientPosition"),
        slice_thickness=values.number("SliceThickness"),
        spacing_between_slices=values.number("SpacingBetweenSlices"),
        gantry_detector_tilt=values.number("GantryDetectorTilt"),
        echo_time=_or(values.double("EffectiveEchoTime"), values.number("EchoTime")),
        b_value=values.double("DiffusionBValue"),
        modality=values.text("Modality"),
        manufacturer=values.text("Manufacturer"),
        manufacturer_model_name=values.text("ManufacturerModelName"),
        body_part_examined=values.text("BodyPartExamined"),
        series_description=values.text("SeriesDescription"),
        series_number=values.integer("SeriesNumber"),
        kept=tuple(sorted(kept.items())),
    )


def _decode_orientation(values: Values) -> Orientation | None:
    numbers = values.floats("ImageOrientationPatient", 6)
    if numbers is None:
        return None
    if 0 in (math.hypot(*numbers[:3]), math.hypot(*numbers[3:])):
        raise values.error("ImageOrientationPatient", f"must be two directions, got {numbers}")
    return numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]


def _decode_spacing(values: Values) -> tuple[float, float] | None:
    numbers = values.floats("PixelSpacing", 2)
    if numbers is None:
        return None
    if min(numbers) <= 0:
        raise values.error("PixelSpacing", f"must be positive, got {numbers}")
    return numbers[0], numbers[1]


def _decode_rescale(values: Values) -> Rescale | None:
    slope = values.floats("RescaleSlope", 1)
    intercept = values.floats("RescaleIntercept", 1)
    if slope is None or intercept is None:
        return None
    if slope[0] == 0:
        raise values.error("RescaleSlope", "is 0: every value would be the same")
    return Rescale(slope[0], intercept[0])


def _decode_padding(values: Values, *, bits: int, signed: bool) -> Padding | None:
    words = values.word("PixelPaddingValue"), values.word("PixelPaddingRangeLimit")
    if words[0] is None:
        return None
    # Written as US or as SS, whatever the pixels are; compared as the pixels are. Some writers
    # extend the sign beyond Bits Stored, so the word itself counts when it is a signed 16 bits.
    width = 16 if signed else max(bits, words[0].bit_length())
    value = as_signed(words[0], bits=width, signed=signed)
    limit = value if words[1] is None else as_signed(words[1], bits=width, signed=signed)
    return Padding(value, limit)


def _decode_frames(values: Values, kept: Mapping[str, str]) -> tuple[Frame, ...]:
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
        kind = _decode_kind(own, kept)
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
        acquisition_number=_or(
            values.word("FrameAcquisitionNumber"), values.integer("AcquisitionNumber")
        ),
        temporal_position=_or(
            values.double_word("TemporalPositionIndex"),
            values.integer("TemporalPositionIdentifier"),
        ),
        trigger_time=_or(
            values.double("NominalCardiacTriggerDelayTime"), values.number("TriggerTime")
        ),
        acquisition_time=values.text("AcquisitionTime"),
        content_time=values.text("ContentTime"),
        offset=offset,
        length=length,
    )


def _number(text: str) -> float:
    if "_" in text:
        # Python reads "1_000" as a number; DICOM does not.
        raise ValueError(text)
    return float(text)


def _decimals(text: str) -> tuple[int, int, int]:
    """Count the digits after the point of each number of a position: "12.50" has two."""
    counts = []
    for part in text.split("\\"):
        mantissa, _, exponent = part.strip(" \0").lower().partition("e")
        digits = len(mantissa.partition(".")[2])
        counts.append(max(digits - int(exponent or 0), 0))
    return counts[0], counts[1], counts[2]


def _or(value: T | None, otherwise: U) -> T | U:
    return otherwise if value is None else value


def _decoded(raw: bytes, elements: Elements) -> str:
    """Decode text by Specific Character Set (0008,0005); Latin-1 where that fails."""
    if raw.isascii() and _ESCAPE not in raw:
        return raw.decode("ascii")
    names = elements.values.get(SPECIFIC_CHARACTER_SET, b"").decode("ascii", "replace")
    try:
        from pydicom.charset import convert_encodings, decode_bytes

        encodings = convert_encodings([name.strip(" \0") for name in names.split("\\")])
        return decode_bytes(raw, encodings, {0x5C})
    except Exception:  # noqa: BLE001 - pydicom warns and raises many kinds on unknown sets
        return raw.decode("latin-1")

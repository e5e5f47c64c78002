"""The bytes of elements -> an `Instance`: what the values mean, and which may be missing.

An element that volumes need is an error by name when it is malformed; one that is only reported
is dropped when it is. A needed element that is *absent* is not an error yet: a file without a
position may still be shown, and `stack` says what is missing when a volume is wanted.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from dicomdata.errors import HeaderError, OtherObjectError
from dicomdata.header.frames import decode_frames, decode_only_frame, decode_only_kind
from dicomdata.header.kept import kept_values
from dicomdata.header.memo import Memo
from dicomdata.header.parsing import UNDEFINED_LENGTH
from dicomdata.header.records import NATIVE, Instance, Kind, Orientation, new_instance
from dicomdata.header.tables import decode_table
from dicomdata.header.uptake import decode_uptake
from dicomdata.header.values import Values, first_known
from dicomdata.rescale import Padding, Rescale, as_signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicomdata.header.elements import Elements

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

_IMAGES = re.compile(
    r"1\.2\.840\.10008\.5\.1\.4\.1\.1\."
    # X-ray; CT; MR but its spectroscopy; secondary capture; angiography; 3D X-ray;
    r"(1(\.\d+)*|2(\.[12])?|4(\.[134])?|7(\.[1-4])?|12\.[12](\.1)?|13\.1\.[1-5]|"
    # nuclear medicine; ultrasound; visible light; PET.
    r"20|3\.1|6\.[12]|77\.1\.\d+(\.\d+)?|128(\.1)?|130)"
)
"""Storage classes of images (PS3.6 table A-1): without pixels, such a file was cut short."""

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

_PIXEL_DATA = 0x7FE00010


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
    is_image = not uid or _IMAGES.fullmatch(uid) is not None
    if pixels is None and values.word("Rows") is None and not is_image:
        raise OtherObjectError(f"{path}: a DICOM object without pixels (SOP Class UID {uid})")
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


Shared = tuple[str, str, Kind]
"""What the files of a series share: Series Instance UID, Patient ID, kind."""

_decoded: Memo[Shared] = Memo()
"""Of the files that this process read before."""


def decode_instance(
    elements: Elements, keep: Mapping[str, int], *, known: Memo[Shared] = _decoded
) -> Instance:
    """Turn the elements of a file that holds frames into an `Instance`.

    Args:
        elements: what was read.
        keep: keyword -> tag of what the user asked to keep, as text.
        known: what was decoded of other files.
    """
    values = Values(elements)
    if elements.frame_count > 1 or elements.shared or elements.groups:
        check_object(values)
        series, patient = values.text("SeriesInstanceUID"), values.text("PatientID")
        frames = decode_frames(values, lambda own: _decode_kind(own, keep))
    else:
        series, patient, kind = known.get(
            elements, beside=tuple(keep.items()), make=lambda noted: _decode_shared(noted, keep)
        )
        frames = (decode_only_frame(values, kind),)
    return new_instance(elements.path, elements.size, elements.mtime_ns, series, patient, frames)


def _decode_shared(elements: Elements, keep: Mapping[str, int]) -> Shared:
    values = Values(elements)
    check_object(values)
    kind = decode_only_kind(values, lambda own: _decode_kind(own, keep))
    return values.text("SeriesInstanceUID"), values.text("PatientID"), kind


def _decode_kind(values: Values, keep: Mapping[str, int]) -> Kind:
    bits_allocated = values.needed_word("BitsAllocated")
    bits_stored = values.word("BitsStored") or bits_allocated
    signed = values.needed_word("PixelRepresentation")
    if signed not in (0, 1):
        raise values.error("PixelRepresentation", f"must be 0 or 1, got {signed}")
    syntax = values.elements.transfer_syntax_uid
    spacing_keyword = _spacing_keyword(values)
    spacing = _decode_spacing(values, spacing_keyword)
    table, table_type = decode_table(values, signed=signed == 1)
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
        high_bit=first_known(values.word("HighBit"), bits_stored - 1),
        signed=signed == 1,
        planar_configuration=values.word("PlanarConfiguration") or 0,
        orientation=_decode_orientation(values),
        pixel_spacing=spacing,
        spacing_values=2 if spacing is None else values.text(spacing_keyword).count("\\") + 1,
        detector_spacing=spacing_keyword == "ImagerPixelSpacing" and spacing is not None,
        rescale=_decode_rescale(values),
        rescale_type=values.text("RescaleType") if table is None else table_type,
        modality_lut=table,
        padding=_decode_padding(values, bits=bits_stored, signed=signed == 1),
        lossy=syntax in _LOSSY_SYNTAXES or values.text("LossyImageCompression") == "01",
        units=values.text("Units"),
        uptake=decode_uptake(values) if values.text("Modality") == "PT" else None,
        patient_position=values.text("PatientPosition"),
        slice_thickness=values.number("SliceThickness"),
        spacing_between_slices=values.number("SpacingBetweenSlices"),
        gantry_detector_tilt=values.number("GantryDetectorTilt"),
        echo_time=first_known(values.double("EffectiveEchoTime"), values.number("EchoTime")),
        b_value=values.double("DiffusionBValue"),
        dimension_index=values.double_words("DimensionIndexValues"),
        modality=values.text("Modality"),
        manufacturer=values.text("Manufacturer"),
        manufacturer_model_name=values.text("ManufacturerModelName"),
        body_part_examined=values.text("BodyPartExamined"),
        series_description=values.text("SeriesDescription"),
        series_number=values.integer("SeriesNumber"),
        kept=kept_values(values.elements, keep),
    )


def _decode_orientation(values: Values) -> Orientation | None:
    numbers = values.floats("ImageOrientationPatient", 6)
    if numbers is None:
        return None
    if 0 in (math.hypot(*numbers[:3]), math.hypot(*numbers[3:])):
        raise values.error("ImageOrientationPatient", f"must be two directions, got {numbers}")
    return numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]


def _spacing_keyword(values: Values) -> str:
    """Say which element gives the spacing.

    The detector's only where the frame has a place, and nothing says what pixels are in it.
    """
    # In this order, so that the kind of a frame with a spacing does not hang on its place.
    missing = not values.text("PixelSpacing") and values.text("ImagerPixelSpacing")
    placed = missing and values.text("ImagePositionPatient")
    placed = placed and values.text("ImageOrientationPatient")
    return "ImagerPixelSpacing" if placed else "PixelSpacing"


def _decode_spacing(values: Values, keyword: str) -> tuple[float, float] | None:
    numbers = values.floats(keyword, 2)
    if numbers is None:
        return None
    if min(numbers) <= 0:
        raise values.error(keyword, f"must be positive, got {numbers}")
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

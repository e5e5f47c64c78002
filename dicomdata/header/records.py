"""What is kept of one file's header: an `Instance`, its `Frame`s, and the `Kind` they share.

Plain frozen records: they pickle, compare, hash, and hold no pixels and no open file.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, make_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicomdata.geometry import Vector
    from dicomdata.rescale import LookupTable, Padding, Rescale
    from dicomdata.uptake import Uptake

Orientation = tuple[float, float, float, float, float, float]
"""Image Orientation (Patient) (0020,0037) as written: row direction, then column direction."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What frames have in common when only their place and their pixels differ.

    A series of a thousand frames has one kind, or a few, so this is stored once.
    """

    sop_class_uid: str
    """SOP Class UID (0008,0016)."""

    transfer_syntax_uid: str
    """Transfer Syntax UID (0002,0010): how the pixels are encoded."""

    image_type: str
    """Image Type (0008,0008), values joined by a backslash."""

    study_instance_uid: str
    """Study Instance UID (0020,000D); here because archives exist where each slice has its own."""

    frame_of_reference_uid: str
    """Frame of Reference UID (0020,0052); "" where there is none."""

    rows: int
    """Rows (0028,0010)."""

    columns: int
    """Columns (0028,0011)."""

    samples_per_pixel: int
    """Samples per Pixel (0028,0002): 1, or 3 for colour."""

    photometric_interpretation: str
    """Photometric Interpretation (0028,0004)."""

    bits_allocated: int
    """Bits Allocated (0028,0100)."""

    bits_stored: int
    """Bits Stored (0028,0101)."""

    high_bit: int
    """High Bit (0028,0102)."""

    signed: bool
    """Whether Pixel Representation (0028,0103) is 1."""

    swapped_pairs: bool = False
    """Whether 8-bit pixels lie in big endian words, each two of them in each other's place (OW,
    PS3.5 A.3)."""

    planar_configuration: int = 0
    """Planar Configuration (0028,0006)."""

    orientation: Orientation | None = None
    """Image Orientation (Patient) (0020,0037), as written; None where there is none."""

    pixel_spacing: tuple[float, float] | None = None
    """Pixel Spacing (0028,0030), between rows and between columns, mm."""

    spacing_values: int = 2
    """How many values Pixel Spacing has; the first two count."""

    detector_spacing: bool = False
    """Whether it is Imager Pixel Spacing (0018,1164), that of the detector, for want of another."""

    rescale: Rescale | None = None
    """Rescale Slope and Intercept; None unless both are there."""

    rescale_type: str = ""
    """Rescale Type (0028,1054), or Modality LUT Type (0028,3004) of a table; "" where there is
    none."""

    modality_lut: LookupTable | None = None
    """The table of a Modality LUT Sequence (0028,3000), which stands in for the rescale."""

    padding: Padding | None = None
    """Pixel Padding Value and Range Limit, as stored values."""

    lossy: bool = False
    """Whether the pixels went through lossy compression, (0028,2110) or by their encoding."""

    units: str = ""
    """Units (0054,1001), for PET."""

    uptake: Uptake | None = None
    """What standardised uptake values need, for PET."""

    patient_position: str = ""
    """Patient Position (0018,5100): reported, never used to place voxels."""

    slice_thickness: float | None = None
    """Slice Thickness (0018,0050), mm: reported; the nominal step of a single slice."""

    spacing_between_slices: float | None = None
    """Spacing Between Slices (0018,0088), mm: reported only."""

    gantry_detector_tilt: float | None = None
    """Gantry/Detector Tilt (0018,1120), degrees: reported only, it often lies."""

    echo_time: float | None = None
    """Echo Time (0018,0081), ms."""

    b_value: float | None = None
    """Diffusion b-value (0018,9087), s/mm2."""

    dimension_index: str = ""
    """Dimension Index Values (0020,9157) of a frame, joined by a backslash: only those that may
    tell volumes apart."""

    modality: str = ""
    """Modality (0008,0060)."""

    manufacturer: str = ""
    """Manufacturer (0008,0070)."""

    manufacturer_model_name: str = ""
    """Manufacturer's Model Name (0008,1090)."""

    body_part_examined: str = ""
    """Body Part Examined (0018,0015)."""

    series_description: str = ""
    """Series Description (0008,103E)."""

    series_number: int | None = None
    """Series Number (0020,0011)."""

    kept: tuple[tuple[str, str], ...] = ()
    """Keywords the user asked to keep, with their values as text."""

    @property
    def meaning(self) -> tuple[object, ...]:
        """All that says what the stored values mean: equal pixels may differ in it."""
        return (
            self.rescale,
            self.rescale_type,
            self.modality_lut,
            self.padding,
            self.units,
            self.uptake,
        )

    @property
    def native(self) -> bool:
        """Whether pixels lie in the file as plain words, ready to be read by offset."""
        return self.transfer_syntax_uid in NATIVE

    @property
    def big_endian(self) -> bool:
        """Whether native words are big endian."""
        return self.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN

    @property
    def frame_bytes(self) -> int:
        """Bytes of one native frame."""
        bits = self.rows * self.columns * self.samples_per_pixel * self.bits_allocated
        return (bits + 7) // 8


@dataclass(frozen=True, slots=True)
class Frame:
    """One plane of pixels: where it is kept, and where it lies in the patient."""

    path: str
    """The file, absolute."""

    size: int
    """Its size when its header was read, bytes."""

    mtime_ns: int
    """Its modification time when its header was read, ns."""

    sop_instance_uid: str
    """SOP Instance UID (0008,0018); some archives give every slice the same."""

    number: int
    """Which frame of its instance, from 0."""

    kind: Kind
    """What it has in common with its neighbours."""

    position: Vector | None = None
    """Image Position (Patient) (0020,0032): centre of the first pixel, LPS mm."""

    decimals: tuple[int, int, int] = (0, 0, 0)
    """Digits after the decimal point in which each number of the position was written."""

    instance_number: int | None = None
    """Instance Number (0020,0013): a label, not a place."""

    slice_location: float | None = None
    """Slice Location (0020,1041), mm: cross-checked, never used."""

    acquisition_number: int | None = None
    """Acquisition Number (0020,0012)."""

    temporal_position: int | None = None
    """Temporal Position Identifier (0020,0100)."""

    trigger_time: float | None = None
    """Trigger Time (0018,1060), ms."""

    acquisition_time: str = ""
    """Acquisition Time (0008,0032), as written."""

    content_time: str = ""
    """Content Time (0008,0033), as written."""

    offset: int = -1
    """Where the pixels of this frame begin in the file, bytes; -1 where they must be looked for."""

    length: int = 0
    """How many bytes they take."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One SOP Instance's header: what says which series it belongs to, and its frames."""

    path: str
    """The file, absolute."""

    size: int
    """Bytes."""

    mtime_ns: int
    """Modification time, ns."""

    series_instance_uid: str
    """Series Instance UID (0020,000E); "" where it was stripped: then a folder is a series."""

    patient_id: str
    """Patient ID (0010,0020); "" where there is none."""

    frames: tuple[Frame, ...]
    """Its planes of pixels, in the order they are stored."""


def _builder(record: type[Any]) -> Callable[..., Any]:
    """Give what builds a frozen record from all its fields in order, several times as fast.

    A frozen dataclass sets each field by a call. A plain one of the same slots is filled instead,
    and made the record when it is whole: nobody ever sees it change.
    """
    names = [(each.name, Any) for each in fields(record)]
    plain = make_dataclass("_Plain", names, slots=True)

    def build(*values: Any) -> Any:
        built: Any = plain(*values)
        built.__class__ = record
        return built

    return build


new_frame: Callable[..., Frame] = _builder(Frame)
"""Builds a `Frame` from all its fields in order."""

new_instance: Callable[..., Instance] = _builder(Instance)
"""Builds an `Instance` from all its fields in order."""

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"

NATIVE = frozenset({IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN})
"""Encodings whose pixels can be read by offset. Deflated ones are native only once inflated."""

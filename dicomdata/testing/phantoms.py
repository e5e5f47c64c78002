"""Writes small series of which everything is known, for tests and examples.

`write_series` writes the series that a `SeriesPhantom` describes: quick, and as odd as wanted,
since every header value may be absent, empty, malformed, or different for each slice. It
returns the paths in slice order, which is the truth that a reader has to find.

The same arguments give the same bytes: UIDs are made from words, and nothing holds today's date.
Nothing is checked: what no file should hold is what a test may want to write.

Lengths are in mm, points and directions in the patient coordinate system, LPS (PS3.3 C.7.6.2).
Arrays are (slices, rows, columns).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, cast

import numpy as np
from pydicom import uid
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.tag import Tag
from pydicom.valuerep import format_number_as_ds

from dicomdata.testing.encoding import set_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Choice(Enum):
    """What stands for "let the phantom choose"."""

    AUTO = "auto"


AUTO: Final = Choice.AUTO
"""Let the phantom choose; what it chooses is said where the field is described."""


class Each(tuple[Any, ...]):
    """One value for each slice, in slice order: ``slope=Each(1, 0.5, 0.25)``.

    A plain sequence is one value of several parts, the same in all slices.
    """

    __slots__ = ()

    def __new__(cls, *values: Any) -> Self:
        """Take the values of slice 0, 1, 2 and so on."""
        return super().__new__(cls, values)

    def __getnewargs__(self) -> tuple[Any, ...]:
        """Copy and pickle as it is called."""
        return tuple(self)


Value: TypeAlias = str | float | bytes | Sequence[Any] | DataElement | None
"""What one element holds.

Text is written as it stands, whatever its VR allows, and numbers where the VR is text as the
shortest decimal that gives them back. A sequence is several values; "" an empty element; None
no element. A `DataElement` is written as it is, and brings its own VR.
"""

PerSlice: TypeAlias = Value | Each | Callable[[int], Value]
"""A value for all slices, `Each` for one a slice, or a function of the slice number from 0."""

Extra: TypeAlias = Mapping[str | int, PerSlice]
"""Further elements, by keyword or by tag; a private one must be a `DataElement`."""

_SOP_CLASS_UIDS = {
    "CT": uid.CTImageStorage,
    "MR": uid.MRImageStorage,
    "PT": uid.PositronEmissionTomographyImageStorage,
}

_PADDING = {Tag("PixelPaddingValue"), Tag("PixelPaddingRangeLimit")}

_TEXT_VRS = {
    *("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO"),
    *("LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT"),
}

_RESCALE = {"CT": ("1", "-1024"), "PT": ("1", "0")}
"""Rescale Slope and Intercept by modality where the phantom chooses; MR has none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeriesPhantom:
    """A series to write. The default is a clean CT of five slices, whose voxels all differ."""

    stored: NDArray[Any] | Sequence[NDArray[Any]] | None = None
    """Words of Pixel Data as written, (slices, rows, columns) and, for colour, samples.

    One array for each slice where they differ in shape. Floating point is written as Float Pixel
    Data or Double Float Pixel Data. None: as `ramp` gives them.
    """

    shape: tuple[int, int, int] = (5, 4, 6)
    """Slices, rows, columns where `stored` is None; `positions`, if given, say how many slices."""

    positions: Sequence[Value] | NDArray[np.floating[Any]] | None = None
    """Image Position (Patient) of each slice; None: from `origin` and `step`."""

    origin: tuple[float, float, float] = (-10.0, -20.0, -30.0)
    """Position of the first slice, LPS mm."""

    step: float | tuple[float, float, float] = 2.5
    """From slice to slice, mm: a vector, or a distance along the normal of the first slice."""

    orientation: PerSlice = (1, 0, 0, 0, 1, 0)
    """Image Orientation (Patient), direction cosines of a row and of a column."""

    pixel_spacing: PerSlice = (0.8, 0.5)
    """Pixel Spacing, mm: of rows, of columns. Not square, since square pixels hide mistakes."""

    slice_thickness: PerSlice = 2.5
    slice_location: PerSlice = None
    spacing_between_slices: PerSlice = None

    modality: PerSlice = "CT"
    sop_class_uid: PerSlice | Choice = AUTO
    """Auto: by the modality, CT, MR or PT; Secondary Capture for others."""

    image_type: PerSlice = ("ORIGINAL", "PRIMARY", "AXIAL")

    slope: PerSlice | Choice = AUTO
    """Rescale Slope. Auto: 1 for CT and PT, absent for others."""

    intercept: PerSlice | Choice = AUTO
    """Rescale Intercept. Auto: -1024 for CT, 0 for PT, absent for others."""

    rescale_type: PerSlice = None

    bits_allocated: int | None = None
    """None: those of the array."""

    bits_stored: int | None = None
    """None: as many as allocated. The words are not masked to it: garbage above is written."""

    high_bit: int | None = None
    """None: Bits Stored - 1."""

    signed: bool | None = None
    """Pixel Representation is 1. None: as the array's type."""

    pixel_padding_value: PerSlice = None
    pixel_padding_range_limit: PerSlice = None
    pixel_padding_vr: str | None = None
    """US or SS. None: as the pixels; real files often have 63536 as US on signed pixels."""

    photometric_interpretation: PerSlice = "MONOCHROME2"

    instance_number: PerSlice | Choice = AUTO
    """Auto: 1, 2, 3 in slice order."""

    patient_id: PerSlice = "PHANTOM"
    study_instance_uid: PerSlice | Choice = AUTO
    series_instance_uid: PerSlice | Choice = AUTO
    sop_instance_uid: PerSlice | Choice = AUTO
    frame_of_reference_uid: PerSlice | Choice = AUTO
    """Auto, for all UIDs: made from `seed`."""

    extra: Extra | Callable[[int], Extra] = field(default_factory=dict)
    """Further elements, of all slices or by slice number; they override all of the above."""

    file_names: Sequence[str] | Callable[[int], str] | Choice = AUTO
    """One a slice; they may have folders. Auto: meaningless, in no order, made from `seed`."""

    transfer_syntax_uid: PerSlice = uid.ExplicitVRLittleEndian
    """Native, RLE, JPEG-LS (pydicom's plugins), JPEG, JPEG 2000, HTJ2K (imagecodecs)."""

    compression: Mapping[str, Any] = field(default_factory=dict)
    """What the encoder is told besides: `jls_error`, `predictor`, `level` and the like."""

    preamble: bool = True
    """Whether 128 zero bytes and DICM come first, as PS3.10 7.1 asks."""

    file_meta: bool = True
    """Whether there is File Meta Information; without preamble too, a bare data set is left."""

    overwrite: bool = False
    """Whether files of the same name are replaced; otherwise they are a `FileExistsError`."""

    seed: str = "series"
    """Words that UIDs and names are made from: another seed, another series."""

    @property
    def count(self) -> int:
        """How many slices there are, by `stored`, else by `positions`, else by `shape`."""
        for part in (self.stored, self.positions):
            if part is not None:
                return len(part)
        return self.shape[0]

    def plane(self, k: int) -> NDArray[Any]:
        """Return the stored values of slice `k`, (rows, columns) and, for colour, samples."""
        stored = ramp((self.count, *self.shape[1:])) if self.stored is None else self.stored
        plane: NDArray[Any] = np.asarray(stored[k])
        return plane

    def position(self, k: int) -> Value:
        """Return Image Position (Patient) of slice `k`, as it is written."""
        if self.positions is not None:
            return cast("Value", self.positions[k])
        step = np.asarray(self.step, np.float64)
        if step.ndim == 0:
            row, column = np.reshape(np.array(pick(self.orientation, 0), np.float64), (2, 3))
            step = step * np.cross(row, column)
        return tuple((np.asarray(self.origin) + k * step).tolist())

    def file_name(self, k: int) -> str:
        """Return the name of slice `k`, which may have folders."""
        if isinstance(self.file_names, Choice):
            return phantom_name(self.seed, k)
        return self.file_names(k) if callable(self.file_names) else self.file_names[k]

    def only(self, k: int) -> SeriesPhantom:
        """Return slice `k` alone, as it is in the series: its name, UIDs and all.

        With changes it is what lies beside a series: a duplicate, another phase, a localizer.
        """
        own = {one.name: pick(getattr(self, one.name), k) for one in fields(self)}
        for name, choice in self._choices(k, str(own["modality"])).items():
            if own[name] is AUTO:
                own[name] = choice
        own["stored"] = [self.plane(k)]
        own["positions"] = [self.position(k)]
        own["extra"] = {key: pick(value, k) for key, value in own["extra"].items()}
        own["file_names"] = [self.file_name(k)]
        return SeriesPhantom(**own)

    def _choices(self, k: int, modality: str) -> dict[str, Value]:
        """What slice `k` has where a field is `AUTO`."""
        slope, intercept = _RESCALE.get(modality, (None, None))
        return {
            "sop_class_uid": _SOP_CLASS_UIDS.get(modality, uid.SecondaryCaptureImageStorage),
            "slope": slope,
            "intercept": intercept,
            "instance_number": k + 1,
            "study_instance_uid": phantom_uid(self.seed, "study"),
            "series_instance_uid": phantom_uid(self.seed, "series"),
            "sop_instance_uid": phantom_uid(self.seed, "instance", k),
            "frame_of_reference_uid": phantom_uid(self.seed, "frame"),
        }


def ramp(shape: tuple[int, int, int]) -> NDArray[np.uint16]:
    """Return stored values, (slices, rows, columns), all different where 16 bits allow it.

    They begin at 1000, which is -24 HU with the usual intercept, and rise by 1 a voxel.
    """
    return (1000 + np.arange(np.prod(shape))).astype(np.uint16).reshape(shape)


def phantom_uid(*words: object) -> str:
    """Return the UID made from `words`: the same for the same words, always."""
    return str(uid.generate_uid(entropy_srcs=["dicomdata", *map(str, words)]))


def phantom_name(*words: object) -> str:
    """Return the file name made from `words`, which tells nothing and sorts anywhere."""
    return f"{blake2b(repr(words).encode(), digest_size=6).hexdigest()}.dcm"


def write_series(
    folder: Path | str,
    phantom: SeriesPhantom | None = None,
    **changes: Any,
) -> list[Path]:
    """Write `phantom`, with `changes` to its fields, into `folder`, making that if need be.

    Returns:
        The path of each slice, in slice order: that of the positions.

    Raises:
        FileExistsError: if a file of the same name is there and `overwrite` is false.
        ValueError: if there are not as many positions as slices, or two slices share a name.
    """
    phantom = replace(phantom or SeriesPhantom(), **changes)
    count = phantom.count
    if phantom.positions is not None and len(phantom.positions) != count:
        raise ValueError(f"{len(phantom.positions)} positions for {count} slices")
    paths = [Path(folder) / phantom.file_name(k) for k in range(count)]
    if len(set(paths)) < count:
        raise ValueError(f"{count} slices cannot share {len(set(paths))} file names")
    for k, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_file(path, phantom.only(k))
    return paths


def _write_file(path: Path, phantom: SeriesPhantom) -> None:
    """Write the one slice of `phantom` (PS3.10 7.1)."""
    syntax = uid.UID(str(phantom.transfer_syntax_uid))
    header = make_header(phantom)
    header.preamble = b"\0" * 128 if phantom.preamble else None
    header.file_meta = make_file_meta(header, syntax)
    set_pixels(header, phantom.plane(0), syntax, phantom.compression)
    if not phantom.file_meta:
        del header.file_meta
    dcmwrite(
        path,
        header,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
        overwrite=phantom.overwrite,
    )


def make_file_meta(header: Dataset, syntax: uid.UID) -> FileMetaDataset:
    """Make the File Meta Information, as good as the header it stands before."""
    elements = {
        0x00020000: ("UL", 0),  # pydicom writes the true length
        0x00020001: ("OB", b"\0\1"),
        0x00020002: ("UI", header.get("SOPClassUID")),
        0x00020003: ("UI", header.get("SOPInstanceUID")),
        0x00020010: ("UI", syntax),
        0x00020012: ("UI", phantom_uid("implementation")),
        0x00020013: ("SH", "PHANTOM"),
    }
    meta = FileMetaDataset()
    for tag, (vr, value) in elements.items():
        if value is not None:
            meta[tag] = DataElement(tag, vr, value, already_converted=True)
    return meta


def make_header(phantom: SeriesPhantom) -> Dataset:
    """Make everything of the one slice of `phantom` but its pixels."""
    described: dict[str | int, Any] = {
        **_describe_instance(phantom),
        **_describe_plane(phantom),
        **_describe_pixels(phantom),
    }
    padding_vr, signed = phantom.pixel_padding_vr, described.get("PixelRepresentation")
    described.update(cast("Extra", phantom.extra))
    header = Dataset()
    for key, value in described.items():
        if value is None:
            continue
        if isinstance(value, DataElement):
            header[value.tag] = value
            continue
        tag = Tag(key)
        vr = dictionary_VR(tag)
        if vr == "US or SS":
            vr = (tag in _PADDING and padding_vr) or ("SS" if signed else "US")
        header[tag] = make_element(tag, vr, value)
    return header


def _describe_instance(phantom: SeriesPhantom) -> dict[str | int, Any]:
    """Say what it is and what it belongs to (PS3.3 C.7.1.1 to C.7.4.1, C.12.1)."""
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": phantom.image_type,
        "SOPClassUID": phantom.sop_class_uid,
        "SOPInstanceUID": phantom.sop_instance_uid,
        "Modality": phantom.modality,
        "PatientName": "",
        "PatientID": phantom.patient_id,
        "StudyInstanceUID": phantom.study_instance_uid,
        "SeriesInstanceUID": phantom.series_instance_uid,
        "InstanceNumber": phantom.instance_number,
        "FrameOfReferenceUID": phantom.frame_of_reference_uid,
    }


def _describe_plane(phantom: SeriesPhantom) -> dict[str | int, Any]:
    """Say where it lies (PS3.3 C.7.6.2)."""
    return {
        "SliceThickness": phantom.slice_thickness,
        "SpacingBetweenSlices": phantom.spacing_between_slices,
        "ImagePositionPatient": phantom.position(0),
        "ImageOrientationPatient": phantom.orientation,
        "SliceLocation": phantom.slice_location,
        "PixelSpacing": phantom.pixel_spacing,
    }


def _describe_pixels(phantom: SeriesPhantom) -> dict[str | int, Any]:
    """Say how the pixels are encoded, and what they mean (PS3.3 C.7.6.3, C.11.1)."""
    words = phantom.plane(0)
    allocated = phantom.bits_allocated or words.dtype.itemsize * 8
    described: dict[str | int, Any] = {
        "SamplesPerPixel": words.shape[2] if words.ndim > 2 else 1,
        "PlanarConfiguration": 0 if words.ndim > 2 else None,
        "PhotometricInterpretation": phantom.photometric_interpretation,
        "Rows": words.shape[0],
        "Columns": words.shape[1],
        "BitsAllocated": allocated,
        "PixelPaddingValue": phantom.pixel_padding_value,
        "PixelPaddingRangeLimit": phantom.pixel_padding_range_limit,
        "RescaleSlope": phantom.slope,
        "RescaleIntercept": phantom.intercept,
        "RescaleType": phantom.rescale_type,
    }
    if words.dtype.kind != "f":
        stored = phantom.bits_stored or allocated
        signed = words.dtype.kind == "i" if phantom.signed is None else phantom.signed
        described["BitsStored"] = stored
        described["HighBit"] = stored - 1 if phantom.high_bit is None else phantom.high_bit
        described["PixelRepresentation"] = int(signed)
    return described


def make_element(tag: int, vr: str, value: Any) -> DataElement:
    """Make an element that pydicom writes as it stands: it converts and validates nothing."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if vr == "PN":
        return DataElement(tag, vr, value)
    if vr in _TEXT_VRS:
        parts = value if several else (value,)
        value = "\\".join(part if isinstance(part, str) else _format_number(part) for part in parts)
    elif several and vr != "SQ":
        value = list(value)
    return DataElement(tag, vr, None if value == "" else value, already_converted=True)


def _format_number(number: float) -> str:
    """Write a number in at most 16 bytes, as a decimal string may have (PS3.5 6.2)."""
    text = repr(float(number)).removesuffix(".0")
    return text if len(text) <= 16 else format_number_as_ds(float(number))


def pick(value: Any, k: int) -> Any:
    """Choose what `value` is for slice `k`."""
    if isinstance(value, Each):
        return value[k]
    return value(k) if callable(value) else value

"""Writes chest CTs that look like LIDC-IDRI, with the company such series keep.

`thorax_archive` writes what an archive on disk really holds: series under names that tell
nothing, a localizer and a duplicate in each, and a file that is not DICOM. It gives back the truth:
voxels, affine, lung, and which file is what.

`chest_archive` writes what a benchmark needs: any number of clean series, a folder each, whose
headers are as long as real ones and whose pixels are as hard to compress.

The chests are drawn (`dicomdata.testing.anatomy`), so they may be copied and shown to anyone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicomdata.testing.anatomy import FIELD_OF_VIEW, PADDING_HU, Chest, draw_chest
from dicomdata.testing.phantoms import Each, SeriesPhantom, phantom_name, phantom_uid, write_series

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LIDC_PIXEL = 0.703125
_LIDC_STEP = 2.5
_LIDC_TOP = -10.0
_LIDC_CORNER = (-166.0, -171.699997)
"""Of a patient of LIDC-IDRI, mm: Pixel Spacing, slice to slice, z of Instance Number 1, x and y."""

_LIDC_INTERCEPT = -1024

_LIDC_HEADER: dict[str | int, Any] = {
    "StudyDate": "20000101",
    "SeriesDate": "20000101",
    "AccessionNumber": "",
    "Manufacturer": "GE MEDICAL SYSTEMS",
    "ManufacturerModelName": "LightSpeed Plus",
    "PatientBirthDate": "",
    "PatientSex": "",
    "PatientIdentityRemoved": "YES",
    "DeidentificationMethod": "DCM:113100/113105/113107/113108/113109/113111",
    0x00130010: DataElement(0x00130010, "LO", "CTP"),
    0x00131010: DataElement(0x00131010, "LO", "PHANTOM"),
    0x00131013: DataElement(0x00131013, "LO", "00000000"),
    "BodyPartExamined": "CHEST",
    "ScanOptions": "HELICAL MODE",
    "KVP": "120",
    "DataCollectionDiameter": "500",
    "ReconstructionDiameter": "360",
    "DistanceSourceToDetector": "949.075012",
    "DistanceSourceToPatient": "541",
    "GantryDetectorTilt": "0",
    "TableHeight": "144.399994",
    "RotationDirection": "CW",
    "ExposureTime": "570",
    "XRayTubeCurrent": "400",
    "FilterType": "BODY FILTER",
    "GeneratorPower": "48000",
    "FocalSpots": "1.2",
    "ConvolutionKernel": "STANDARD",
    "PatientPosition": "FFS",
    "SeriesNumber": "3",
    "AcquisitionNumber": "1",
    "PositionReferenceIndicator": "SN",
    "WindowCenter": "-600",
    "WindowWidth": "1600",
}
"""What all slices of such a patient say besides."""

_CHEST_HEADER: dict[str | int, Any] = {
    **_LIDC_HEADER,
    "InstanceCreationDate": "20000101",
    "InstanceCreationTime": "101112",
    "AcquisitionDate": "20000101",
    "ContentDate": "20000101",
    "StudyTime": "100112.000000",
    "SeriesTime": "100412.000000",
    "ReferringPhysicianName": "",
    "StationName": "CT1",
    "StudyDescription": "CT CHEST",
    "SeriesDescription": "Recon 2: CHEST",
    "PatientAge": "060Y",
    "PatientWeight": "0.000000",
    "AdditionalPatientHistory": "",
    "ContrastBolusAgent": "IV",
    "SoftwareVersions": "LightSpeedApps2.4.2_H2.4M5",
    "ContrastBolusRoute": "IV",
    "StudyID": "1",
    "ConvolutionKernel": "LUNG",
    "SingleCollimationWidth": 1.25,
    "TotalCollimationWidth": 20.0,
    "TableSpeed": 55.0,
    "TableFeedPerRotation": 27.5,
    "SpiralPitchFactor": 1.375,
    "WindowCenterWidthExplanation": "LUNG",
    "RescaleType": "HU",
    "BurnedInAnnotation": "NO",
    "LossyImageCompression": "00",
}
"""What all slices of a patient of `chest_archive` say: with the rest, a hundred elements."""

_GE_GROUPS = {
    0x0009: "GEMS_IDEN_01",
    0x0019: "GEMS_ACQU_01",
    0x0021: "GEMS_RELA_01",
    0x0027: "GEMS_IMAG_01",
    0x0043: "GEMS_PARM_01",
}
"""Private groups of a scanner by GE, and who they belong to (PS3.5 7.8.1)."""

_SHARP_KERNEL = 36
"""Deviation of the noise that a kernel for lungs adds to that of a soft one, HU: of a chest with
it, JPEG-LS leaves one byte in 2.6, as of real ones; without it, one in 3.6."""


@dataclass(frozen=True, slots=True, eq=False)
class ThoraxPatient:
    """What is true of one patient of a `ThoraxArchive`: one study, one series, one volume."""

    patient_id: str
    study_instance_uid: str
    series_instance_uid: str

    paths: tuple[Path, ...]
    """The slices, from feet to head: ascending along their normal."""

    localizer: Path
    """A coronal survey of the same series."""

    duplicate: Path
    """A slice once more: the same position and pixels, another SOP Instance UID and name."""

    duplicate_of: Path
    """That slice, one of `paths`."""

    hu: NDArray[np.int16]
    """(slices, rows, columns), HU, padding kept: -3024 where -2000 is stored."""

    lung: NDArray[np.bool_]
    """(slices, rows, columns): both lungs with their vessels, without trachea and main bronchi."""

    affine_lps: NDArray[np.float64]
    """(4, 4): (slice, row, column, 1) to LPS mm."""


@dataclass(frozen=True, slots=True, eq=False)
class ThoraxArchive:
    """What is true of the files that `thorax_archive` wrote."""

    root: Path
    patients: tuple[ThoraxPatient, ...]

    text: Path
    """A file that is not DICOM."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file under `root`."""
        parts = ((*p.paths, p.localizer, p.duplicate) for p in self.patients)
        return (*(path for part in parts for path in part), self.text)


def thorax_archive(
    root: Path | str, *, slices: int = 64, size: int = 512, patients: int = 1, seed: int = 0
) -> ThoraxArchive:
    """Write chest CTs as LIDC-IDRI holds them, from a GE LightSpeed Plus, into `root`.

    Each patient has one series of axial slices, 2.5 mm apart, with a localizer and a duplicate
    among them. File names tell nothing; with more than one patient, the files of all lie mixed
    in as many folders. A text file lies beside them. Files of the same name are replaced.

    Args:
        root: is made if it is not there.
        slices: of each patient; 100 or more give a chest of natural height.
        size: rows and columns; the field of view stays the same.
        patients: how many; their IDs are PHANTOM-0001 and so on for a `seed` of 0.
        seed: which person the first patient is; each further one is the next.
    """
    root = Path(root)
    people = tuple(
        _write_thorax(root, number, (slices, size), folders=patients)
        for number in range(seed + 1, seed + patients + 1)
    )
    text = root / "notes.txt"
    text.write_text("Chest phantoms: drawn, not scanned.\n", encoding="utf-8")
    return ThoraxArchive(root, people, text)


def chest_archive(
    root: Path | str,
    *,
    patients: int = 1,
    slices: int = 130,
    size: int = 512,
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
) -> tuple[tuple[Path, ...], ...]:
    """Write clean chest CTs into `root`, one folder a patient, to measure readers with.

    Nothing is wrong with them, so that any reader reads them. A header has a hundred elements, a
    sequence and private groups among them, and times, tube current and UIDs differ from slice to
    slice. All patients have the same chest, drawn once, each under noise of its own.

    Args:
        root: is made if it is not there.
        patients: how many; their IDs are CHEST-0001 and so on, and so are their folders.
        slices: of each patient, 2.5 mm apart.
        size: rows and columns.
        transfer_syntax_uid: how pixels are encoded. Native ones are signed words of 16 bits with
            padding, encapsulated ones have 12 bits and none, as most scanners send them.

    Returns:
        The paths of each patient's slices, from feet to head.
    """
    chest = draw_chest(slices=slices, size=size, seed=1)
    syntax = UID(transfer_syntax_uid)
    return tuple(
        _write_chest(Path(root), number, chest, syntax) for number in range(1, patients + 1)
    )


def _write_chest(root: Path, number: int, chest: Chest, syntax: UID) -> tuple[Path, ...]:
    """Write patient `number` of a `chest_archive`."""
    random = np.random.default_rng(number)
    grain = random.standard_normal(chest.hu.shape, np.float32) * np.float32(_SHARP_KERNEL)
    hu = np.where(chest.hu == PADDING_HU, chest.hu, np.clip(chest.hu + grain, -1024, 3071))
    stored = hu.astype(np.int16) - np.int16(_LIDC_INTERCEPT)
    phantom = replace(
        _describe_thorax(number, chest),
        stored=stored,
        patient_id=f"CHEST-{number:04d}",
        extra=_describe_chest_slice,
        file_names=lambda k: f"CHEST-{number:04d}/1-{k + 1:03d}.dcm",
        transfer_syntax_uid=syntax,
        seed=f"chest {number} {syntax}",
    )
    if syntax.is_compressed:
        twelve_bits = stored.clip(0, 4095).astype(np.uint16)
        phantom = replace(phantom, stored=twelve_bits, bits_stored=12, pixel_padding_value=None)
    return tuple(write_series(root, phantom))


def _describe_chest_slice(k: int) -> dict[str | int, Any]:
    """Say what slice `k` of a `chest_archive` says besides."""
    study = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = phantom_uid("referenced study")
    varying: dict[str | int, Any] = {
        "AcquisitionTime": f"1004{k / 4 % 60:09.6f}",
        "ContentTime": f"1004{k / 3 % 60:09.6f}",
        "XRayTubeCurrent": str(80 + 37 * k % 360),
        "Exposure": str(4 + 7 * k % 55),
        "ReferencedStudySequence": DataElement(0x00081110, "SQ", [study]),
    }
    return {**_CHEST_HEADER, **varying, **_describe_private_groups(k)}


def _describe_private_groups(k: int) -> dict[str | int, Any]:
    """Say what only the scanner's maker knows of slice `k`: a number, a position, text."""
    elements: dict[str | int, Any] = {}
    for group, creator in _GE_GROUPS.items():
        tag = group << 16
        values = ("LO", creator), ("SL", 4096 + k), ("DS", f"{k * 0.625:.6f}"), ("SH", "CT01")
        for vr_and_value, number in zip(values, (0x10, 0x1001, 0x1002, 0x1004), strict=True):
            elements[tag + number] = DataElement(tag + number, *vr_and_value)
    return elements


def _write_thorax(
    root: Path, number: int, shape: tuple[int, int], *, folders: int
) -> ThoraxPatient:
    """Write patient `number`, of so many slices and of so many rows and columns."""
    chest = draw_chest(slices=shape[0], size=shape[1], seed=number)

    def name(what: object) -> str:
        plain = phantom_name("thorax", number, what)
        return plain if folders == 1 else f"{int(plain[:4], 16) % folders}/{plain}"

    phantom = replace(_describe_thorax(number, chest), file_names=name)
    paths, twin = write_series(root, phantom), shape[0] // 3
    duplicate = replace(
        phantom.only(twin),
        sop_instance_uid=phantom_uid(phantom.seed, "duplicate"),
        file_names=[name("duplicate")],
    )
    localizer = replace(_describe_localizer(phantom, chest), file_names=[name("localizer")])
    pixel = FIELD_OF_VIEW / shape[1]
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = _LIDC_STEP, pixel, pixel
    affine[:, 3] = (*phantom.origin, 1)
    for array in (chest.hu, chest.lung, affine):
        array.flags.writeable = False
    return ThoraxPatient(
        patient_id=str(phantom.patient_id),
        study_instance_uid=phantom_uid(phantom.seed, "study"),
        series_instance_uid=phantom_uid(phantom.seed, "series"),
        paths=tuple(paths),
        localizer=write_series(root, localizer)[0],
        duplicate=write_series(root, duplicate)[0],
        duplicate_of=paths[twin],
        hu=chest.hu,
        lung=chest.lung,
        affine_lps=affine,
    )


def _describe_thorax(number: int, chest: Chest) -> SeriesPhantom:
    """Describe the axial slices of patient `number`."""
    slices, size, _ = chest.hu.shape
    pixel = FIELD_OF_VIEW / size
    # A larger first pixel has its middle further in.
    x, y = (edge + (pixel - _LIDC_PIXEL) / 2 for edge in _LIDC_CORNER)
    # Instance Number falls towards the head, and 80 is among them, at -207.5 mm.
    highest = max(1, 80 - slices // 2) + slices - 1
    heights = [_LIDC_TOP - _LIDC_STEP * (highest - k - 1) for k in range(slices)]
    return SeriesPhantom(
        stored=chest.hu - np.int16(_LIDC_INTERCEPT),
        origin=(x, y, heights[0]),
        step=_LIDC_STEP,
        pixel_spacing=(pixel, pixel),
        slice_thickness=_LIDC_STEP,
        slice_location=Each(*heights),
        intercept=_LIDC_INTERCEPT,
        pixel_padding_value=PADDING_HU - _LIDC_INTERCEPT + 2**16,
        pixel_padding_vr="US",
        instance_number=lambda k: highest - k,
        patient_id=f"PHANTOM-{number:04d}",
        extra=_LIDC_HEADER,
        overwrite=True,
        seed=f"thorax {number}",
    )


def _describe_localizer(phantom: SeriesPhantom, chest: Chest) -> SeriesPhantom:
    """Describe a view through the chest from the front, square, head up, of the same series."""
    slices, size, _ = chest.hu.shape
    seen = np.stack([np.maximum(plane, -1024).mean(axis=0) for plane in chest.hu])
    down = (np.arange(size) - (size - 1) / 2) * (FIELD_OF_VIEW / size)
    nearest = np.clip(np.rint((slices - 1) / 2 - down / _LIDC_STEP), 0, slices - 1).astype(int)
    x, y, z = phantom.origin
    head = z + (slices - 1) / 2 * _LIDC_STEP - float(down[0])
    return replace(
        phantom.only(0),
        stored=(seen[nearest] - _LIDC_INTERCEPT).astype(np.int16)[None],
        positions=[(x, round(y + FIELD_OF_VIEW / 2, 6), head)],
        orientation=(1, 0, 0, 0, 0, -1),
        image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
        slice_location=None,
        instance_number=0,
        sop_instance_uid=phantom_uid(phantom.seed, "localizer"),
    )

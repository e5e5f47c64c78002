"""Writes chest CTs that look like LIDC-IDRI, with the company such series keep.

`thorax_archive` writes what an archive on disk really holds: series under names that tell
nothing, a localizer and a duplicate in each, and a file that is not DICOM. It gives back the truth:
voxels, affine, lung, and which file is what.

The chests are drawn (`dicomdata.testing.anatomy`), so they may be copied and shown to anyone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataelem import DataElement

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

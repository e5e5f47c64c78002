"""Volumes in NIfTI, MetaImage and NRRD files, where a Stack could stand: `open_volume`.

LUNA16 keeps LIDC this way, and most challenges keep everything. What reads, caches and batches
stacks takes these too; what asks for frames or headers of images finds one that is the file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import FileError, GeometryError, RescaleError, StaleError
from dicomdata.geometry import as_vector, tilt
from dicomdata.header import Frame, Kind
from dicomdata.rescale import Rescale
from dicomdata.stack import Finding, Stack
from dicomdata.volume.claims import SAME_CORNER
from dicomdata.volume.formats import read_box, read_file_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dicomdata.volume.claims import FileHeader

UNIT_KEY = "dicomdata_unit"
"""The key under which MetaImage and NRRD files keep the unit of their voxels."""

NOTE_KEYS = ("ITK_FileNotes", "descrip")
"""Where NIfTI files keep it: 80 letters that say anything."""

_NOTE = re.compile(r"dicomdata_unit=(\S+)")

_UID = re.compile(r"[0-9]+(\.[0-9]+){4,}")
"""A file that is named so is named by its Series Instance UID."""

_FORMAT = 1
"""Raised when the same file becomes another volume."""

_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class VolumeFile(Stack):
    """A volume in one file, on a grid, not read yet: all that a `Stack` is, but no DICOM.

    Slices are the slowest axis of the file, turned around where that is what makes them ascend
    along the normal, as those of a stack do.
    """

    files: tuple[tuple[str, int, int], ...]
    """Path, size and modification time in ns: the file, and that of its voxels if it is another."""

    stored_dtype: str
    """NumPy's name of the type of its voxels."""

    turned: bool
    """Whether slice 0 is the last one of the file."""

    @property
    def path(self) -> str:
        """The file, absolute."""
        return self.files[0][0]

    @property
    def frames(self) -> tuple[Frame, ...]:
        """One for each file, which says when it was written, and nothing of an image."""
        dtype = np.dtype(self.stored_dtype)
        bits = min(8 * dtype.itemsize, 16)
        kind = Kind(
            sop_class_uid="",
            transfer_syntax_uid="",
            image_type="",
            study_instance_uid=self.study_instance_uid,
            frame_of_reference_uid=self.frame_of_reference_uid,
            rows=self.shape[1],
            columns=self.shape[2],
            samples_per_pixel=1,
            photometric_interpretation="MONOCHROME2",
            bits_allocated=bits,
            bits_stored=bits,
            high_bit=bits - 1,
            signed=dtype.kind != "u",
            rescale=Rescale(),
            modality=self.modality,
        )
        return tuple(
            Frame(path, size, mtime_ns, "", number, kind)
            for number, (path, size, mtime_ns) in enumerate(self.files)
        )

    @property
    def sop_instance_uids(self) -> tuple[str, ...]:
        """None: there are no instances."""
        return ()

    def reversed(self) -> VolumeFile:
        """Give the same file with its slices in the opposite order, and the affine to match."""
        step, row, column, origin = (np.array(axis) for axis in self.affine_columns)
        columns = (-step, row, column, origin + step * (self.shape[0] - 1))
        s, r, c, o = map(as_vector, columns)
        return _identified(replace(self, affine_columns=(s, r, c, o), turned=not self.turned))


def open_volume(  # noqa: PLR0913 - whose it is and what it shows, all of it by name
    path: str | os.PathLike[str],
    *,
    unit: str | None = None,
    modality: str = "",
    patient_id: str = "",
    study_instance_uid: str = "",
    series_instance_uid: str | None = None,
    frame_of_reference_uid: str = "",
) -> VolumeFile:
    """Open a volume in a NIfTI, MetaImage or NRRD file, to stand where a stack stands.

    Reads its header alone. The rest are words that such files do not have, and samples do.

    Args:
        path: the file.
        unit: of its voxels, as "HU"; None is what `write_volume` kept in it, or "stored".
        modality: as "CT".
        patient_id: whose it is, for splits and for labels that are joined by patient.
        study_instance_uid: for the same.
        series_instance_uid: for the same; None takes the name of the file, where that is a UID.
        frame_of_reference_uid: where its coordinates come from.

    Raises:
        FileError: if it cannot be read.
        HeaderError: if it is of another kind, damaged, or holds no volume of numbers.
        GeometryError: if it does not say where it lies, or contradicts itself about it.
        ConfigError: if SimpleITK is not installed.
    """
    header = read_file_header(path)
    if header.layers > 1:
        raise FileError(f"{header.path}: {header.layers} values a voxel: no volume")
    files = tuple(stamp(each) for each in header.files)
    affine, turned = _upright(header)
    s, r, c, o = (as_vector(affine[:3, axis]) for axis in range(4))
    if series_instance_uid is None:
        stem = _stem(header.path)
        series_instance_uid = stem if _UID.fullmatch(stem) else ""
    normal = np.cross(affine[:3, 2], affine[:3, 1])
    depth = abs(float(normal @ affine[:3, 0])) / float(np.linalg.norm(normal))
    opened = VolumeFile(
        id="",
        catalog="",
        root=os.path.dirname(header.path),
        series_id=-1,
        frame_ids=(),
        shape=header.shape,
        affine_columns=(s, r, c, o),
        slice_spacing=depth,
        unit=_unit_of(header) if unit is None else unit,
        findings=tuple(_find_tilt(affine, header.shape[0])),
        modality=modality,
        patient_id=patient_id,
        study_instance_uid=study_instance_uid,
        series_instance_uid=series_instance_uid,
        frame_of_reference_uid=frame_of_reference_uid,
        dimension=("", ""),
        padding="air",
        files=files,
        stored_dtype=header.dtype.str,
        turned=turned,
    )
    return _identified(opened)


def _identified(file: VolumeFile) -> VolumeFile:
    """Give a file its id and fingerprint, by all that decides its voxels and where they lie."""
    told = (_FORMAT, file.unit, file.turned, file.affine_columns, file.shape, file.files)
    digest = blake2b(repr(told).encode(errors="surrogateescape"), digest_size=16).hexdigest()
    name = f"{file.series_instance_uid or 'file'}-{digest[:8]}"
    return replace(file, id=name, fingerprint=digest)


def read_voxels(
    file: VolumeFile, ranges: tuple[range, range, range], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Read a box of a volume file, float32 or int16.

    Raises:
        FileError: if it cannot be read.
        StaleError: if it has changed since it was opened.
        GeometryError: if it was untilted: files are read as they are stored.
        RescaleError: if a voxel does not fit the type.
    """
    if file.shear is not None or file.sampling:
        raise GeometryError(f"{file.path}: a volume file cannot be untilted, or repaired")
    check_unchanged(file)
    slices, rows, columns = ranges
    if file.turned:
        last = file.shape[0] - 1
        slices = range(last - slices[-1], last - slices[0] + 1)
    header = read_file_header(file.path)
    stored = read_box(header, (slices, rows, columns))
    if file.turned:
        stored = stored[::-1]
    return _converted(file, stored, dtype)


def check_unchanged(file: VolumeFile) -> None:
    """Hold a file against what it was when it was opened.

    Raises:
        StaleError: if its size or time is another.
        FileError: if it is gone.
    """
    for path, size, mtime_ns in file.files:
        if stamp(path) != (path, size, mtime_ns):
            raise StaleError(f"{path}: the file has changed since it was opened: open it again")


def _converted(file: VolumeFile, stored: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Give voxels in another type, contiguous and to be written to."""
    if dtype == np.int16 and stored.dtype != np.int16:
        low, high = stored.min(), stored.max()
        fits = _INT16.min <= low and high <= _INT16.max
        # A comparison with nan is false.
        if not fits or (stored.dtype.kind == "f" and (stored != np.rint(stored)).any()):
            raise RescaleError(
                f"{file.path}: voxels from {low} to {high} are not whole or do not fit int16: read "
                f"float32"
            )
    if dtype == np.float32 and stored.dtype == np.float64 and np.isfinite(stored).any():
        most = float(np.abs(stored[np.isfinite(stored)]).max())
        if most > np.finfo(np.float32).max:
            raise RescaleError(f"{file.path}: voxels up to {most} do not fit float32")
    return np.array(stored, dtype, order="C")


def stamp(path: str) -> tuple[str, int, int]:
    """Give what tells whether a file has changed: path, size in bytes, modification time in ns.

    Raises:
        FileError: if it is gone.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    return path, status.st_size, status.st_mtime_ns


def _upright(header: FileHeader) -> tuple[NDArray[np.float64], bool]:
    """Give the affine with slices that ascend along row direction x column direction."""
    affine = header.affine_lps.copy()
    if float(np.cross(affine[:3, 2], affine[:3, 1]) @ affine[:3, 0]) > 0:
        return affine, False
    affine[:3, 3] += affine[:3, 0] * (header.shape[0] - 1)
    affine[:3, 0] *= -1
    return affine, True


def _find_tilt(affine: NDArray[np.float64], slices: int) -> Iterator[Finding]:
    """Say how far slices lean, if the last one is shifted by more than rounding."""
    step, row, column = affine[:3, :3].T
    normal = np.cross(column, row) / np.linalg.norm(np.cross(column, row))
    shift = float(np.linalg.norm(step - (step @ normal) * normal)) * (slices - 1)
    pixel = min(float(np.linalg.norm(row)), float(np.linalg.norm(column)))
    if shift > SAME_CORNER * pixel:
        lean = tilt(as_vector(step), normal)
        yield Finding("tilt", f"slices lean by {lean:.2f} degrees", lean, "degrees")


def _unit_of(header: FileHeader) -> str:
    if unit := header.text.get(UNIT_KEY, "").strip():
        return unit
    for key in NOTE_KEYS:
        if found := _NOTE.search(header.text.get(key, "")):
            return found.group(1)
    return "stored"


def _stem(path: str) -> str:
    """Give the name of a file without its ending, which may be two."""
    return re.sub(r"(?i)\.(nii|nii\.gz|mha|mhd|nrrd|nhdr)$", "", os.path.basename(path))

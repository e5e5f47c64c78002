"""NIfTI, MetaImage and NRRD files: what they hold and where it lies, and boxes of their voxels.

nibabel parses NIfTI (`nifti`), SimpleITK the others; they are imported when they are needed. What
they pass over in silence is looked at here: whether a file says at all where it lies, whether it
could hold what it claims, and which other file a header takes its voxels from.

Arrays are (slices, rows, columns) = (k, j, i) of the file; affines map them to LPS mm.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import ConfigError, FileError, GeometryError, HeaderError
from dicomdata.volume.checksums import check_compressed
from dicomdata.volume.claims import MOST_INFLATED, FileHeader, check_header
from dicomdata.volume.nifti import NIFTI, read_nifti_box, read_nifti_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_ITK = (".mha", ".mhd", ".nrrd", ".nhdr")
"""Of the files that SimpleITK reads; their headers may name another file for the voxels."""

SUFFIXES = (*NIFTI, *_ITK)
"""Of the files that are understood, whatever the case of their letters."""

_HEAD_BYTES = 2**20
"""Text of a header that is looked at: a segmentation of a whole body has some ten thousand letters;
what goes on beyond that is refused."""


def is_volume_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path is named as one of the files that are understood."""
    return os.fspath(path).lower().endswith(SUFFIXES)


def read_file_header(path: str | os.PathLike[str]) -> FileHeader:
    """Read what a file holds, but for its voxels.

    Raises:
        FileError: if it cannot be read.
        HeaderError: if it is of another kind, damaged, or holds no volume of numbers.
        GeometryError: if it does not say where it lies, or contradicts itself about it.
        ConfigError: if nibabel, or SimpleITK, is not installed.
    """
    name = os.path.abspath(os.path.expanduser(path))
    if not is_volume_file(name):
        raise HeaderError(f"{name}: expected a file named {', '.join(SUFFIXES)}")
    if not os.path.isfile(name):
        raise FileError(f"{name}: no such file")
    if name.lower().endswith(NIFTI):
        return read_nifti_header(name)
    files = files_of(name)
    reader = _reader(name)
    lengths = tuple(int(length) for length in reversed(reader.GetSize()))
    if len(lengths) != 3:
        raise HeaderError(f"{name}: expected a volume of three axes, found {len(lengths)}")
    shape = (lengths[0], lengths[1], lengths[2])
    layers, dtype = reader.GetNumberOfComponents(), _dtype(name, reader)
    # SimpleITK takes back no key that is no UTF-8; none of those that are asked for is.
    keys = [key for key in reader.GetMetaDataKeys() if key.isascii()]
    text = {key: reader.GetMetaData(key) for key in keys}
    affine = _itk_affine(name, reader, text)
    header = FileHeader(name, files, shape, layers, dtype, affine, text)
    check_header(header, most_inflated=MOST_INFLATED)
    return header


def read_box(header: FileHeader, ranges: tuple[range, range, range]) -> NDArray[Any]:
    """Read a box of voxels, (slices, rows, columns), and layers last where there are several.

    Raises:
        FileError: if it cannot be read.
    """
    if header.path.lower().endswith(NIFTI):
        return read_nifti_box(header, ranges)
    check_compressed(header.files)
    reader = _reader(header.path)
    reader.SetExtractIndex([axis.start for axis in reversed(ranges)])
    reader.SetExtractSize([len(axis) for axis in reversed(ranges)])
    image = _guarded(header.path, reader.Execute)
    voxels: NDArray[Any] = _simpleitk().GetArrayFromImage(image)
    return voxels


def _simpleitk() -> Any:
    try:
        import SimpleITK as sitk  # noqa: N813 - as everyone calls it
    except ImportError as error:
        raise ConfigError(
            "MetaImage and NRRD files need SimpleITK: install dicomdata[labels]"
        ) from error
    return sitk


def _guarded(path: str, call: Callable[[], Any]) -> Any:
    """Call ITK, and turn what it raises into an error of ours."""
    try:
        return call()
    except RuntimeError as error:
        told = str(error).strip().splitlines()[-1]
        raise FileError(f"{path}: cannot be read: {told}") from error


def _reader(path: str) -> Any:
    reader = _simpleitk().ImageFileReader()
    reader.SetFileName(path)
    _guarded(path, reader.ReadImageInformation)
    return reader


def _dtype(path: str, reader: Any) -> np.dtype[Any]:
    """Give NumPy's name of the pixel type."""
    sitk = _simpleitk()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    found = re.fullmatch(r"(?:vector of )?(\d+)-bit (unsigned integer|signed integer|float)", kind)
    if not found:
        raise HeaderError(f"{path}: expected numbers, found voxels that are {kind}")
    bits, what = found.groups()
    letter = {"unsigned integer": "u", "signed integer": "i", "float": "f"}[what]
    return np.dtype(f"{letter}{int(bits) // 8}")


# --- which files ----------------------------------------------------------------------------------

_META_DATA_FILE = re.compile(rb"(?:^|[\r\n])[ \t]*ElementDataFile\s*[=:][ \t]*([^\r\n]+)")
_NRRD_DATA_FILE = re.compile(rb"^data ?file:[ \t]*([^\r\n]+)", re.MULTILINE | re.IGNORECASE)
"""Where a header says which file its voxels are in; whatever the ending of its own name."""


def files_of(path: str) -> tuple[str, ...]:
    """Give a file, and that of its voxels where its header names another.

    Raises:
        HeaderError: if that is in another folder, several, or not named: a header could have any
            file of the machine read.
        FileError: if it cannot be read.
    """
    if not path.lower().endswith(_ITK):
        return (path,)
    head, nrrd = _head(path), path.lower().endswith((".nrrd", ".nhdr"))
    found = (_NRRD_DATA_FILE if nrrd else _META_DATA_FILE).search(head)
    whole = len(head) < _HEAD_BYTES or re.search(rb"\n\r?\n", head) is not None
    if path.lower().endswith(".nrrd") and whole and not found:
        return (path,)
    name = os.fsdecode(found.group(1)).strip() if found else ""
    if name.upper() == "LOCAL":
        return (path,)
    other = os.path.join(os.path.dirname(path), name)
    if not name or os.path.basename(name) != name or name.upper().startswith("LIST"):
        raise HeaderError(f"{path}: expected its voxels in one file beside it, found {name!r}")
    if os.path.islink(other) or not os.path.isfile(other):
        raise FileError(f"{other}: no such file, and {path} has its voxels there")
    return path, other


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error


# --- where it lies --------------------------------------------------------------------------------


def _itk_affine(path: str, reader: Any, text: dict[str, str]) -> NDArray[np.float64]:
    """Give the affine of a MetaImage or NRRD file, as ITK reads it: LPS.

    Raises:
        GeometryError: if the file does not say where it lies, or in other terms than the patient's.
    """
    if path.lower().endswith((".nrrd", ".nhdr")):
        # ITK turns right and anterior around, and says so; of other spaces it makes nothing.
        space = text.get("NRRD_space", "")
        if space != "left-posterior-superior":
            raise GeometryError(
                f"{path}: expected a space of the patient, as left-posterior-superior, found "
                f"{space or 'none'}: it does not say where it lies"
            )
    elif not re.search(rb"^\s*(Offset|Position|Origin)\s*=", _head(path), re.MULTILINE):
        raise GeometryError(f"{path}: has no Offset: it does not say where it lies")
    directions = np.array(reader.GetDirection()).reshape(3, 3)
    affine = np.eye(4)
    # Columns of ITK are i, j, k, and ours are slice, row, column.
    affine[:3, :3] = (directions * np.array(reader.GetSpacing()))[:, ::-1]
    affine[:3, 3] = reader.GetOrigin()
    return affine

"""NIfTI files: what they hold and where it lies, and boxes of their voxels.

nibabel parses them. SimpleITK does too, and passes over too much in silence: where there is only
an sform it takes the spacing from elsewhere, what is cut off becomes anything, what is not finite
becomes 0. Looked at here besides: whether sform and qform say the same, and the checksum of what
is compressed.
"""

from __future__ import annotations

import gzip
import os
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import ConfigError, FileError, GeometryError, HeaderError
from dicomdata.geometry import LPS_TO_RAS
from dicomdata.volume.claims import MOST_INFLATED, SAME_CORNER, FileHeader, check_header, corners_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

NIFTI = (".nii", ".nii.gz")
"""How their names end."""

_SCANNER = 1
"""NIFTI_XFORM_SCANNER_ANAT: coordinates of the scanner, as DICOM has them."""

_UNIT_MM = {"unknown": 1.0, "meter": 1000.0, "mm": 1.0, "micron": 0.001}
"""Millimetres in the lengths of a header, by the name of their unit."""

_MOST_AFTER = 2**20
"""Bytes that may follow the voxels: a file that goes on and on would fill the memory."""


def read_nifti_header(path: str) -> FileHeader:
    """Read what a NIfTI file holds, but for its voxels.

    Raises:
        HeaderError: if it is none, damaged, or holds no volume of numbers.
        GeometryError: if it does not say where it lies, or contradicts itself about it.
        ConfigError: if nibabel is not installed.
    """
    image = _load(path)
    lengths = tuple(int(length) for length in image.shape)
    while len(lengths) > 3 and lengths[-1] == 1:
        lengths = lengths[:-1]
    if len(lengths) != 3:
        raise HeaderError(f"{path}: expected a volume of three axes, found {len(lengths)}")
    stored = image.get_data_dtype()
    if stored.kind not in "iuf":
        raise HeaderError(f"{path}: expected numbers, found voxels that are {stored}")
    shape = (lengths[2], lengths[1], lengths[0])
    scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
    header = FileHeader(
        path=path,
        files=(path,),
        shape=shape,
        layers=1,
        dtype=np.dtype(np.float64) if scaled else stored.newbyteorder("="),
        affine_lps=_affine(path, image.header, shape),
        text={"descrip": bytes(image.header["descrip"]).rstrip(b"\0").decode("latin-1")},
    )
    compressed = path.lower().endswith(".gz")
    # What is scaled takes eight bytes for each that is stored, at most.
    check_header(header, most_inflated=MOST_INFLATED * 8 if compressed else 8)
    expected = int(image.dataobj.offset) + int(np.prod(shape, dtype=object)) * stored.itemsize
    if not compressed and os.path.getsize(path) < expected:
        raise FileError(f"{path}: cut short: {os.path.getsize(path)} bytes, expected {expected}")
    return header


def read_nifti_box(header: FileHeader, ranges: tuple[range, range, range]) -> NDArray[Any]:
    """Read a box of voxels, (slices, rows, columns), scaled as the file says.

    Raises:
        FileError: if it cannot be read.
    """
    path, image = header.path, _load(header.path)
    status = os.stat(path)
    stamp = (path, status.st_size, status.st_mtime_ns)
    if path.lower().endswith(".gz") and stamp not in _whole:
        length = int(np.prod(header.shape, dtype=object)) * image.get_data_dtype().itemsize
        content = _inflate(path, int(image.dataobj.offset) + length)
        image = type(image).from_bytes(content)
        _whole.add(stamp)
    box = tuple(slice(axis.start, axis.stop) for axis in reversed(ranges))
    further = (0,) * (len(image.shape) - 3)
    try:
        voxels = np.asarray(image.dataobj[(*box, *further)]).transpose(2, 1, 0)
    # nibabel raises what it meets.
    except Exception as error:
        raise FileError(f"{path}: cannot be read: {error}") from error
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)


def _load(path: str) -> Any:
    """Open a NIfTI file with nibabel, which reads its header."""
    try:
        import nibabel
    except ImportError as error:
        raise ConfigError("NIfTI files need nibabel: install dicomdata[labels]") from error
    load: Any = nibabel.load
    try:
        image = load(path, mmap=False)
    # nibabel raises what it meets.
    except Exception as error:
        raise HeaderError(f"{path}: cannot be read as NIfTI: {error}") from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise HeaderError(f"{path}: not a NIfTI file, but {type(image).__name__}")
    return image


def _inflate(path: str, expected: int) -> bytes:
    """Inflate a file to its end, where its checksum is.

    Args:
        path: the file.
        expected: bytes it must have, once inflated.

    Raises:
        FileError: if it is cut short, or damaged.
    """
    try:
        with gzip.open(path) as file:
            content = file.read(expected + _MOST_AFTER)
            rest = file.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"{path}: cannot be read: {error}") from error
    if rest or len(content) < expected:
        found = f"more than {len(content)}" if rest else len(content)
        raise FileError(f"{path}: expected {expected} bytes once inflated, found {found}")
    return content


_whole: set[tuple[str, int, int]] = set()
"""Path, size and time of the compressed files that this process has read to their ends: parts of
them are read without the rest from then on."""


def _affine(path: str, header: Any, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Give the affine by the standard: sform, or qform where there is none.

    Where both are given and differ, that one counts which alone is said to be the scanner's.

    Raises:
        GeometryError: if there is neither, or they contradict each other.
    """
    try:
        forms = [header.get_sform(coded=True), header.get_qform(coded=True)]
        scale = _UNIT_MM[header.get_xyzt_units()[0]]
    # nibabel raises what it meets.
    except Exception as error:
        raise GeometryError(f"{path}: where it lies is told wrongly: {error}") from error
    found = [(affine, code) for affine, code in forms if affine is not None and code > 0]
    if not found:
        raise GeometryError(f"{path}: sform and qform are 0: it does not say where it lies")
    affines = [_lps(affine, scale) for affine, _ in found]
    if len(found) == 2:
        first, second = (corners_of(affine, shape) for affine in affines)
        voxel = min(float(np.linalg.norm(axis)) for axis in affines[0][:3, :3].T)
        apart = float(np.linalg.norm(first - second, axis=0).max())
        if not apart <= SAME_CORNER * voxel:
            codes = [int(code) for _, code in found]
            if codes.count(_SCANNER) != 1:
                raise GeometryError(
                    f"{path}: sform and qform contradict each other: corners are up to "
                    f"{apart:.4g} mm apart"
                )
            return affines[codes.index(_SCANNER)]
    return affines[0]


def _lps(affine: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Turn (i, j, k, 1) -> RAS, in whatever unit, into (slice, row, column, 1) -> LPS mm."""
    scaled = np.diag([scale, scale, scale, 1.0]) @ LPS_TO_RAS @ affine
    turned: NDArray[np.float64] = scaled[:, [2, 1, 0, 3]] + 0.0
    return turned

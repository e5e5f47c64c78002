"""Volumes and masks -> NIfTI, MetaImage and NRRD files: `write_volume`."""

from __future__ import annotations

import gzip
import os
import tempfile
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dicomdata.errors import ConfigError, FileError, GeometryError, HeaderError, LabelError
from dicomdata.export.masks import Drawing
from dicomdata.export.sources import refuse_sources
from dicomdata.geometry import lps_to_ras
from dicomdata.labels import Mask
from dicomdata.stack import Stack
from dicomdata.volume.claims import SAME_CORNER, corners_of
from dicomdata.volume.files import UNIT_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")

_WRITTEN = {"b": "u1", "f2": "f4", "i8": "i4", "u8": "u4"}
"""Types that not every program reads -> what they are written as, where that loses nothing."""

_LEVEL = 1
"""Of gzip: the noise of an image shrinks little more by the others, which take far longer."""


class Placed(Protocol):
    """Voxels and where they are: a `Volume`, or what `from_metatensor` gives of a prediction."""

    @property
    def voxels(self) -> NDArray[Any]:
        """(slices, rows, columns)."""

    @property
    def affine_lps(self) -> NDArray[np.float64]:
        """(4, 4), (slice, row, column, 1) -> LPS mm."""


def write_volume(
    path: str | os.PathLike[str], volume: Placed | Mask, *, compress: bool = False
) -> None:
    """Write a volume, a prediction or a mask to a NIfTI, MetaImage or NRRD file.

    The affine is kept, whatever way the grid lies: exactly, or to float32 in NIfTI. So is the unit
    of a `Volume`, where `open_volume` finds it. A mask becomes numbers, 0 where nothing is, and of
    fractions those from one half on; its names are kept in NRRD, as 3D Slicer does, where segments
    that overlap are layers. A file of that name is replaced, but never one the volume is read from.

    Args:
        path: its ending says the format: .nii, .nii.gz, .mha, .mhd (with its voxels in a .raw
            beside it) or .nrrd.
        volume: what to write.
        compress: compress MetaImage and NRRD too.

    Raises:
        HeaderError: if the ending is of another format.
        GeometryError: if the grid is sheared, as a tilted stack's is: none of these formats is read
            rightly by others then; `untilt` resamples it.
        LabelError: if segments of a mask overlap, and the format is not NRRD, or one has a number
            that is no value of a label; or the path is that of an image of the stack.
        FileError: if it cannot be written.
        ConfigError: if nibabel (NIfTI) or SimpleITK (others) is not installed.
    """
    name = os.path.abspath(os.path.expanduser(path))
    suffix = next(
        (each for each in sorted(_SUFFIXES, key=len)[::-1] if name.lower().endswith(each)), ""
    )
    if not suffix:
        raise HeaderError(f"{name}: expected a name that ends in {', '.join(_SUFFIXES)}")
    if isinstance(stack := getattr(volume, "stack", None), Stack):
        refuse_sources(name, stack)
    if isinstance(volume, Mask):
        voxels, affine = _numbers(name, volume, suffix), volume.stack.affine_lps
        text = _segment_text(volume, layers=voxels.ndim > 3) if suffix == ".nrrd" else {}
        _check_straight(name, affine, volume.stack.shape)
    else:
        voxels, affine = volume.voxels, volume.affine_lps
        text = {UNIT_KEY: unit} if (unit := str(getattr(volume, "unit", ""))) else {}
        _check_straight(name, affine, voxels.shape)
    written = _as_written(name, voxels)
    save = _save_nifti if ".nii" in suffix else partial(_save_by_itk, compress=compress)
    _replace_whole(name, lambda beside: save(beside, written, affine, text))


def _numbers(path: str, mask: Mask, suffix: str) -> NDArray[Any]:
    """Give the number of the segment of each voxel; of segments that overlap, each in a layer.

    Returns:
        (slices, rows, columns), or (slices, rows, columns, layers).
    """
    if not Drawing(mask.segments, mask.voxels).overlaps():
        return mask.labelmap()
    if suffix != ".nrrd":
        raise LabelError(
            f"{path}: segments overlap, and one array can hold only one of them: .nrrd has layers, "
            f"and select_segments gives one after the other"
        )
    layers = np.zeros((*mask.stack.shape, len(mask.segments)), np.uint16)
    for index, (segment, there) in enumerate(mask.numbered()):
        layers[..., index][there] = segment.number
    return layers


def _segment_text(mask: Mask, *, layers: bool) -> dict[str, str]:
    """Say the names of segments as 3D Slicer does."""
    text = {}
    for number, segment in enumerate(mask.segments):
        text[f"Segment{number}_ID"] = f"Segment_{segment.number}"
        text[f"Segment{number}_LabelValue"] = str(segment.number)
        text[f"Segment{number}_Layer"] = str(number if layers else 0)
        text[f"Segment{number}_Name"] = segment.name
    return text


def _check_straight(path: str, affine: NDArray[np.float64], shape: Sequence[int]) -> None:
    """Refuse what is no box of voxels at right angles.

    Raises:
        GeometryError: naming by how much.
        HeaderError: if it has not three axes.
    """
    if len(shape) != 3 or 0 in shape:
        raise HeaderError(f"{path}: expected (slices, rows, columns), got shape {tuple(shape)}")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    # The nearest rotation, or reflection, of the directions.
    left, _, right = np.linalg.svd(affine[:3, :3] / lengths)
    straight = affine.copy()
    straight[:3, :3] = left @ right * lengths
    s, r, c = shape
    apart = corners_of(affine, (s, r, c)) - corners_of(straight, (s, r, c))
    most = float(np.linalg.norm(apart - apart.mean(axis=1, keepdims=True), axis=0).max())
    if most > SAME_CORNER * float(lengths.min()):
        raise GeometryError(
            f"{path}: the axes of the grid are not at right angles, which moves corners by "
            f"{most:.4g} mm, and few programs mind: untilt the stack first, or write a mask of it "
            f"by write_segmentation, which keeps it as it is"
        )


def _as_written(path: str, voxels: NDArray[Any]) -> NDArray[Any]:
    """Give voxels in a type that every program reads.

    Raises:
        HeaderError: if they are no numbers, or do not fit.
    """
    if voxels.dtype.kind not in "biuf" or voxels.dtype.itemsize > 8:
        raise HeaderError(f"{path}: voxels of type {voxels.dtype} cannot be written")
    name = "b" if voxels.dtype == np.bool_ else voxels.dtype.str[1:]
    written = voxels.astype(_WRITTEN.get(name, name), copy=False)
    if voxels.dtype.kind in "iu" and not np.array_equal(written, voxels):
        raise HeaderError(f"{path}: voxels up to {voxels.max()} do not fit {written.dtype}")
    return np.ascontiguousarray(written)


def _save_nifti(
    path: str, voxels: NDArray[Any], affine: NDArray[np.float64], text: Mapping[str, str]
) -> None:
    """Write by nibabel: of a disk that is full, SimpleITK's NIfTI says nothing."""
    try:
        import nibabel
    except ImportError as error:
        raise ConfigError("NIfTI files need nibabel: install dicomdata[labels]") from error
    make: Any = nibabel.Nifti1Image
    image = make(voxels.transpose(2, 1, 0), None)
    to_ras = lps_to_ras(affine)[:, [2, 1, 0, 3]]
    image.set_sform(to_ras, code="scanner")
    image.set_qform(to_ras, code="scanner")
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = ";".join(f"{key}={value}" for key, value in text.items())[:79]
    with open(path, "wb") as file:
        if path.lower().endswith(".gz"):
            with gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)


def _save_by_itk(
    path: str,
    voxels: NDArray[Any],
    affine: NDArray[np.float64],
    text: Mapping[str, str],
    *,
    compress: bool,
) -> None:
    """Write by SimpleITK, whose axes are (column, row, slice)."""
    try:
        import SimpleITK as sitk  # noqa: N813 - as everyone calls it
    except ImportError as error:
        raise ConfigError(f"{path}: needs SimpleITK: install dicomdata[labels]") from error
    image: Any = sitk.GetImageFromArray(voxels, isVector=voxels.ndim > 3)
    steps = affine[:3, 2::-1]
    lengths = np.linalg.norm(steps, axis=0)
    image.SetSpacing(lengths.tolist())
    image.SetDirection((steps / lengths).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    for key, value in text.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, path, compress)


def _replace_whole(path: str, save: Callable[[str], None]) -> None:
    """Write files in a folder of their own beside their place, then put them there, whole.

    Raises:
        FileError: if they cannot be written.
    """
    folder, name = os.path.split(path)
    try:
        with tempfile.TemporaryDirectory(prefix=".dicomdata-", dir=folder) as beside:
            save(os.path.join(beside, name))
            # A header names the file of its voxels, which is there before the header is.
            for each in sorted(os.listdir(beside), key=lambda each: each == name):
                os.replace(os.path.join(beside, each), os.path.join(folder, each))
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error
    except RuntimeError as error:
        told = str(error).strip().splitlines()[-1]
        raise FileError(f"{path}: cannot be written: {told}") from error

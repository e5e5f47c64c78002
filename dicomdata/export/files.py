"""Volumes and masks -> NIfTI, MetaImage and NRRD files: `write_volume`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dicomdata.errors import ConfigError, FileError, GeometryError, HeaderError
from dicomdata.labels import Mask
from dicomdata.volume.claims import SAME_CORNER, corners_of
from dicomdata.volume.files import NOTE_KEYS, UNIT_KEY

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")

_WRITTEN = {"b": "u1", "f2": "f4", "i8": "i4", "u8": "u4"}
"""Types that not every program reads -> what they are written as, where that loses nothing."""


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
    of a `Volume`, where `open_volume` finds it. A mask becomes numbers, 0 where nothing is; its
    names are kept in NRRD, as 3D Slicer does. A file of that name is replaced.

    Args:
        path: its ending says the format: .nii, .nii.gz, .mha, .mhd (with its voxels in a .raw
            beside it) or .nrrd.
        volume: what to write.
        compress: compress MetaImage and NRRD too.

    Raises:
        HeaderError: if the ending is of another format.
        GeometryError: if the grid is sheared, as a tilted stack's is: none of these formats is read
            rightly by others then; `untilt` resamples it.
        LabelError: if segments of a mask overlap.
        FileError: if it cannot be written.
        ConfigError: if SimpleITK is not installed.
    """
    name = os.path.abspath(os.path.expanduser(path))
    suffix = next(
        (each for each in sorted(_SUFFIXES, key=len)[::-1] if name.lower().endswith(each)), ""
    )
    if not suffix:
        raise HeaderError(f"{name}: expected a name that ends in {', '.join(_SUFFIXES)}")
    if isinstance(volume, Mask):
        voxels, affine = volume.labelmap(), volume.stack.affine_lps
        text = _segment_text(volume) if suffix == ".nrrd" else {}
    else:
        voxels, affine = volume.voxels, volume.affine_lps
        text = _unit_text(str(getattr(volume, "unit", "")), suffix)
    _check_straight(name, affine, voxels)
    image = _image(name, voxels, affine)
    for key, value in text.items():
        image.SetMetaData(key, value)
    _write(image, name, suffix, compress=compress)


def _unit_text(unit: str, suffix: str) -> dict[str, str]:
    """Say the unit where the format has room for it."""
    if not unit:
        return {}
    return {NOTE_KEYS[0]: f"{UNIT_KEY}={unit}"} if ".nii" in suffix else {UNIT_KEY: unit}


def _segment_text(mask: Mask) -> dict[str, str]:
    """Say the names of segments as 3D Slicer does."""
    text = {}
    for number, segment in enumerate(mask.segments):
        text[f"Segment{number}_ID"] = f"Segment_{segment.number}"
        text[f"Segment{number}_LabelValue"] = str(segment.number)
        text[f"Segment{number}_Layer"] = "0"
        text[f"Segment{number}_Name"] = segment.name
    return text


def _check_straight(path: str, affine: NDArray[np.float64], voxels: NDArray[Any]) -> None:
    """Refuse what is no box of voxels at right angles.

    Raises:
        GeometryError: naming by how much.
        HeaderError: if it has not three axes.
    """
    if voxels.ndim != 3 or not voxels.size:
        raise HeaderError(f"{path}: expected (slices, rows, columns), got shape {voxels.shape}")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    # The nearest rotation, or reflection, of the directions.
    left, _, right = np.linalg.svd(affine[:3, :3] / lengths)
    straight = affine.copy()
    straight[:3, :3] = left @ right * lengths
    s, r, c = voxels.shape
    apart = corners_of(affine, (s, r, c)) - corners_of(straight, (s, r, c))
    most = float(np.linalg.norm(apart - apart.mean(axis=1, keepdims=True), axis=0).max())
    if most > SAME_CORNER * float(lengths.min()):
        raise GeometryError(
            f"{path}: the axes of the grid are not at right angles, which moves corners by "
            f"{most:.4g} mm, and few programs mind: untilt the stack first"
        )


def _image(path: str, voxels: NDArray[Any], affine: NDArray[np.float64]) -> Any:
    """Make an image of ITK, whose axes are (column, row, slice)."""
    try:
        import SimpleITK as sitk  # noqa: N813 - as everyone calls it
    except ImportError as error:
        raise ConfigError(f"{path}: needs SimpleITK: install dicomdata[labels]") from error
    plain = _as_written(path, voxels)
    image: Any = sitk.GetImageFromArray(plain)
    steps = affine[:3, 2::-1]
    lengths = np.linalg.norm(steps, axis=0)
    image.SetSpacing(lengths.tolist())
    image.SetDirection((steps / lengths).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


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


def _write(image: Any, path: str, suffix: str, *, compress: bool) -> None:
    """Write an image, whole or not at all where it is one file.

    Raises:
        FileError: if it cannot be written.
    """
    import SimpleITK as sitk  # noqa: N813

    # A header names the file of its voxels, so that the two are written where they will be.
    partial = path if suffix == ".mhd" else f"{path[: -len(suffix)]}.partial{suffix}"
    try:
        sitk.WriteImage(image, partial, compress)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        told = str(error).strip().splitlines()[-1]
        raise FileError(f"{path}: cannot be written: {told}") from error

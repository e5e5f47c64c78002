"""On clean series other libraries are right, and so are we: the same voxels, the same affine.

Where they are not right is in tests/test_stack.py and tests/test_volume.py, case by case.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given
from monai.transforms import LoadImage
from pydicom import uid

import dicomdata as dd
from dicomdata.testing.phantoms import Each, SeriesPhantom, write_series
from dicomdata.testing.strategies import series_phantoms

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Planned = Callable[..., dd.StackPlan]

    Read = Callable[[Path], tuple[NDArray[Any], NDArray[np.float64]]]

sitk: Any = SimpleITK
"""As everyone calls it; none of its functions has types."""

TILT = 20
COS, SIN = np.cos(np.radians(TILT)), np.sin(np.radians(TILT))

CLEAN = {
    "axial": SeriesPhantom(),
    "coronal": SeriesPhantom(orientation=(1, 0, 0, 0, 0, -1)),
    "sagittal": SeriesPhantom(orientation=(0, 1, 0, 0, 0, -1)),
    "oblique": SeriesPhantom(orientation=(0.9659258, 0, -0.2588190, 0, 1, 0)),
    "prone": SeriesPhantom(orientation=(-1, 0, 0, 0, -1, 0)),
    "feet first, from the head down": SeriesPhantom(step=-1.25, instance_number=lambda k: 9 - k),
    "two slices": SeriesPhantom(shape=(2, 3, 4)),
    "12 bits of 16": SeriesPhantom(bits_stored=12),
    "signed": SeriesPhantom(stored=np.arange(-30, 30, dtype="i2").reshape(3, 4, 5)),
    "slope 0.5": SeriesPhantom(slope="0.5", intercept="-100.25"),
    "MR without rescale": SeriesPhantom(modality="MR"),
    "implicit": SeriesPhantom(transfer_syntax_uid=uid.ImplicitVRLittleEndian),
    "big endian": SeriesPhantom(transfer_syntax_uid=uid.ExplicitVRBigEndian),
    "RLE": SeriesPhantom(shape=(3, 16, 16), transfer_syntax_uid=uid.RLELossless),
    "JPEG 2000": SeriesPhantom(transfer_syntax_uid=uid.JPEG2000Lossless),
}  # fmt: skip
"""Series on which nobody fails."""

TILTED = SeriesPhantom(orientation=(1, 0, 0, 0, COS, -SIN), step=(0, 0, 5))

TAKEN_BY_HIGHDICOM = (
    "cmb_crc/lung_ffs_100",
    "dcm_qa_ct/phil_5mm",
    "dcm_qa_decubitus/sag_hfdr",
    "dcmqi/ct24_classic",
    "dcmqi/ct_3slice",
    "pydicom/dicomdir_98892001_CT5N",
    "rtutils/ge_phantom_2",
)
"""Real volumes of more than one slice that highdicom reads; the others it refuses."""


def read_by_simpleitk(folder: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Voxels, and the affine of (slice, row, column, 1) to LPS with its shear."""
    reader = sitk.ImageSeriesReader()
    reader.ForceOrthogonalDirectionOff()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, :3] = axes[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), affine


def read_by_monai(folder: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Voxels, and the affine of (slice, row, column, 1) to RAS."""
    image = LoadImage(reader="ITKReader", image_only=True)(str(folder))
    voxels = image.numpy()
    voxels = voxels.T if voxels.ndim > 2 else voxels.T[None]
    return voxels, image.affine.numpy()[:, [2, 1, 0, 3]]


def read_by_highdicom(folder: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Voxels, and the affine of (slice, row, column, 1) to LPS; slices descend."""
    files = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    volume = highdicom.get_volume_from_series(files)
    return volume.array, volume.affine


def read_by_hand(folder: Path) -> NDArray[Any]:
    """The recipe everyone begins with: list, read, sort by Slice Location, stack, rescale."""
    slices = [pydicom.dcmread(folder / name) for name in os.listdir(folder)]
    slices.sort(key=lambda header: float(header.SliceLocation))
    stored = np.stack([header.pixel_array for header in slices])
    return stored * float(slices[0].RescaleSlope) + float(slices[0].RescaleIntercept)


def assert_same(
    stack: dd.Stack, voxels: NDArray[Any], affine: NDArray[np.float64], side: str = "lps"
) -> None:
    volume = dd.read_volume(stack, padding="keep")
    np.testing.assert_array_equal(volume.voxels, voxels.astype(np.float32))
    ours = volume.affine_lps if side == "lps" else volume.affine_ras
    # Of a single slice the step is nominal, and each library has its own.
    known = slice(0 if len(voxels) > 1 else 1, 4)
    # Files hold directions of five digits or so; libraries make them orthogonal in their own ways.
    np.testing.assert_allclose(ours[:, known], affine[:, known], rtol=0, atol=5e-5)


# --- synthetic series -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_series_is_simpleitks(name: str, tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, CLEAN[name])

    (stack,) = planned(tmp_path).stacks

    assert_same(stack, *read_by_simpleitk(tmp_path))


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_series_is_monais(name: str, tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, CLEAN[name])

    (stack,) = planned(tmp_path).stacks

    assert_same(stack, *read_by_monai(tmp_path), side="ras")


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_series_is_highdicoms_from_the_other_end(
    name: str, tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path, CLEAN[name])

    (stack,) = planned(tmp_path).stacks

    assert_same(stack.reversed(), *read_by_highdicom(tmp_path))


@given(phantom=series_phantoms(slices=(2, 5)))
def test_any_oblique_or_tilted_grid_is_simpleitks(
    phantom: SeriesPhantom, tmp_path_factory: pytest.TempPathFactory, planned: Planned
) -> None:
    folder = tmp_path_factory.mktemp("series")
    plain = {"bits_stored": None, "high_bit": None, "signed": None, "slope": 1, "intercept": 0}
    stored = np.arange(phantom.count * 12, dtype="u2").reshape(-1, 3, 4)
    write_series(
        folder, phantom, **plain, stored=stored, transfer_syntax_uid=uid.ExplicitVRLittleEndian
    )

    (stack,) = planned(folder).stacks

    assert_same(stack, *read_by_simpleitk(folder))


def test_a_tilt_that_others_straighten_keeps_its_shear(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, TILTED)

    (stack,) = planned(tmp_path).stacks

    assert_same(stack, *read_by_simpleitk(tmp_path))
    _, straightened = read_by_monai(tmp_path)
    assert np.abs(stack.affine_ras - straightened).max() > 1


def test_where_the_recipe_by_hand_is_right_so_are_we(tmp_path: Path, planned: Planned) -> None:
    heights = [-30 + 2.5 * k for k in range(5)]
    write_series(tmp_path, slice_location=Each(*heights), slope=2, intercept=-1024)

    (stack,) = planned(tmp_path).stacks

    np.testing.assert_array_equal(dd.read_volume(stack).voxels, read_by_hand(tmp_path))


# --- real series ----------------------------------------------------------------------------------


@pytest.mark.corpus("volume")
def test_a_real_volume_is_simpleitks(entry: dict[str, Any], corpus: Path, planned: Planned) -> None:
    folder = corpus / entry["id"]

    (stack,) = planned(folder).stacks

    assert_same(stack, *read_by_simpleitk(folder))


@pytest.mark.corpus("volume", largest=5_000_000)
def test_a_real_upright_volume_is_monais(
    entry: dict[str, Any], corpus: Path, planned: Planned
) -> None:
    folder = corpus / entry["id"]

    (stack,) = planned(folder).stacks

    voxels, affine = read_by_monai(folder)
    if any(finding.kind == "tilt" for finding in stack.findings):
        # MONAI makes it upright; where the voxels then are is wrong by millimetres.
        affine = stack.affine_ras
    assert_same(stack, voxels, affine, side="ras")


@pytest.mark.parametrize("name", TAKEN_BY_HIGHDICOM)
def test_a_real_volume_is_highdicoms_from_the_other_end(
    name: str, corpus: Path, planned: Planned
) -> None:
    (stack,) = planned(corpus / name).stacks

    assert_same(stack.reversed(), *read_by_highdicom(corpus / name))


@pytest.mark.parametrize("name", ["dcmqi/ct_3slice", "dcm_qa_ct/phil_5mm"])
def test_on_a_real_volume_the_recipe_by_hand_is_ours(
    name: str, corpus: Path, planned: Planned
) -> None:
    (stack,) = planned(corpus / name).stacks

    voxels = dd.read_volume(stack, padding="keep").voxels

    by_hand = read_by_hand(corpus / name)
    # Slice Location counts towards the head or the feet, as the scanner likes.
    assert np.array_equal(voxels, by_hand) or np.array_equal(voxels, by_hand[::-1])

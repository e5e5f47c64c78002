"""Volumes as MONAI has them, and back: axes, affines, metadata."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Flipd, Orientationd, Spacingd

from dicomdata.catalog import scan
from dicomdata.errors import GeometryError
from dicomdata.geometry import lps_to_ras
from dicomdata.metatensor import from_metatensor, to_metatensor
from dicomdata.regions import Region
from dicomdata.stack import Stack, plan_stacks
from dicomdata.testing.phantoms import write_series
from dicomdata.volume import Volume, read_volume

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
TILTED = (0.3, -0.4, 2.5)
"""Step of a stack under a tilted gantry, mm: the affine is sheared."""

ORIENTATIONS = [
    "".join(codes)
    for axes in itertools.permutations(("RL", "AP", "IS"))
    for codes in itertools.product(*axes)
]
"""All 48 ways in which axes can run along the body."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A stack of 5 slices, 4 rows and 6 columns, oblique and sheared."""
    folder = tmp_path_factory.mktemp("series")
    extra = {"PatientName": "SECRET^NAME", "PatientBirthDate": "19700101"}
    write_series(folder, orientation=OBLIQUE, step=TILTED, patient_id="P-7", extra=extra)
    return plan_stacks(scan(folder, progress=False)).stacks[0]


@pytest.fixture(scope="module")
def volume(stack: Stack) -> Volume:
    return read_volume(stack)


def homogeneous(*index: float) -> np.ndarray[Any, Any]:
    return np.array([*index, 1.0])


def test_axes_are_x_y_z(volume: Volume) -> None:
    image = to_metatensor(volume)

    assert image.shape == (1, 6, 4, 5)
    assert image.dtype == torch.float32
    for k, row, column in np.ndindex(5, 4, 6):
        assert image[0, column, row, k] == volume.voxels[k, row, column]


def test_the_affine_maps_x_y_z_to_ras(volume: Volume) -> None:
    affine = to_metatensor(volume).affine.numpy()

    for k, row, column in np.ndindex(5, 4, 6):
        x, y, z, _ = volume.affine_lps @ homogeneous(k, row, column)
        np.testing.assert_allclose(
            affine @ homogeneous(column, row, k), homogeneous(-x, -y, z), rtol=0, atol=1e-9
        )


def test_memory_is_shared_and_stays_in_order(volume: Volume) -> None:
    image = to_metatensor(volume)

    assert image.data_ptr() == volume.voxels.ctypes.data
    assert image[0].permute(2, 1, 0).is_contiguous()


def test_int16_becomes_float32_in_the_same_order_or_stays(stack: Stack) -> None:
    volume = read_volume(stack, dtype=np.int16)

    converted, kept = to_metatensor(volume), to_metatensor(volume, dtype=None)

    assert (converted.dtype, kept.dtype) == (torch.float32, torch.int16)
    assert kept.data_ptr() == volume.voxels.ctypes.data
    assert converted[0].permute(2, 1, 0).is_contiguous()
    assert torch.equal(converted.as_tensor(), kept.as_tensor().float())


def test_read_only_voxels_are_copied_rather_than_written_to(volume: Volume) -> None:
    frozen = volume.voxels.copy()
    frozen.flags.writeable = False

    image = to_metatensor(replace(volume, voxels=frozen))
    image[...] = 0

    np.testing.assert_array_equal(frozen, volume.voxels)


def test_a_region_has_its_own_place(stack: Stack, volume: Volume) -> None:
    region = Region(slices=slice(1, 4), rows=slice(2, None), columns=slice(3, 5))

    image = to_metatensor(read_volume(stack, region))

    whole = to_metatensor(volume)
    assert torch.equal(image.as_tensor(), whole.as_tensor()[:, 3:5, 2:, 1:4])
    np.testing.assert_allclose(
        image.affine.numpy() @ homogeneous(0, 0, 0),
        whole.affine.numpy() @ homogeneous(3, 2, 1),
        rtol=0,
        atol=1e-9,
    )


def test_metadata_is_plain_complete_and_anonymous(volume: Volume, stack: Stack) -> None:
    meta = to_metatensor(volume).meta

    assert meta["space"] == "RAS"
    assert meta["spatial_shape"] == (6, 4, 5)
    assert meta["filename_or_obj"] == stack.token
    assert meta["unit"] == "HU"
    assert meta["affine"].dtype == meta["original_affine"].dtype == torch.float64
    assert torch.equal(meta["affine"], meta["original_affine"])
    for value in meta.values():
        assert type(value) in (str, int, float, tuple, torch.Tensor)
    assert "SECRET" not in repr(meta)
    assert "1970" not in repr(meta)


def test_it_can_be_saved_and_loaded_without_trusting_the_file(volume: Volume) -> None:
    file = io.BytesIO()
    torch.save(to_metatensor(volume), file)
    file.seek(0)

    loaded = torch.load(file, weights_only=True)

    assert isinstance(loaded, MetaTensor)
    assert loaded.meta["unit"] == "HU"
    assert torch.equal(loaded.affine, to_metatensor(volume).affine)


def test_there_and_back_is_the_same_memory_and_place(volume: Volume) -> None:
    back = from_metatensor(to_metatensor(volume))

    assert back.voxels.ctypes.data == volume.voxels.ctypes.data
    assert back.voxels.strides == volume.voxels.strides
    assert back.affine_lps.tobytes() == volume.affine_lps.tobytes()
    assert back.affine_ras.tobytes() == volume.affine_ras.tobytes()


vectors = st.tuples(*[st.floats(-1e4, 1e4)] * 3)


@given(columns=st.tuples(vectors, vectors, vectors, vectors))
def test_any_affine_comes_back_exactly(volume: Volume, columns: Any) -> None:
    placed = replace(volume, stack=replace(volume.stack, affine_columns=columns))

    back = from_metatensor(to_metatensor(placed))

    np.testing.assert_array_equal(back.affine_lps, placed.affine_lps)


@given(columns=st.tuples(vectors, vectors, vectors, vectors))
def test_lps_to_ras_twice_is_nothing(columns: Any) -> None:
    affine = np.vstack([np.array(columns).T, [0, 0, 0, 1]])

    np.testing.assert_array_equal(lps_to_ras(lps_to_ras(affine)), affine)


@pytest.mark.parametrize("axcodes", ORIENTATIONS)
def test_a_turned_tensor_comes_back_where_it_was(axcodes: str, volume: Volume) -> None:
    turn = Orientationd("image", axcodes=axcodes, labels=(("L", "R"), ("P", "A"), ("I", "S")))

    turned = from_metatensor(turn({"image": to_metatensor(volume)})["image"])

    for index in np.ndindex(turned.voxels.shape):
        place = turned.affine_lps @ homogeneous(*index)
        k, row, column, _ = np.linalg.solve(volume.affine_lps, place).round(6)
        assert turned.voxels[index] == volume.voxels[int(k), int(row), int(column)]


def test_a_flipped_and_resampled_tensor_keeps_its_centre(volume: Volume) -> None:
    sample: Any = {"image": to_metatensor(volume)}

    sample = Spacingd("image", pixdim=(0.25, 0.4, 1.0))(Flipd("image", spatial_axis=1)(sample))
    placed = from_metatensor(sample["image"])

    def centre(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return homogeneous(*((length - 1) / 2 for length in shape))

    np.testing.assert_allclose(
        placed.affine_lps @ centre(placed.voxels.shape),
        volume.affine_lps @ centre(volume.voxels.shape),
        rtol=0,
        atol=1.0,
    )


def test_a_tensor_that_says_lps_is_believed(volume: Volume) -> None:
    image = to_metatensor(volume)
    image.affine = torch.from_numpy(lps_to_ras(image.affine.numpy()).copy())
    image.meta["space"] = "LPS"

    np.testing.assert_array_equal(from_metatensor(image).affine_lps, volume.affine_lps)


@pytest.mark.parametrize("shape", [(2, 6, 4, 5), (6, 4, 5), (1, 1, 6, 4, 5)])
def test_channels_and_batches_are_no_volume(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match=r"\(1, X, Y, Z\)"):
        from_metatensor(MetaTensor(torch.zeros(shape)))


def test_a_plain_tensor_has_no_place() -> None:
    with pytest.raises(GeometryError, match="where it is"):
        from_metatensor(torch.zeros(1, 6, 4, 5))

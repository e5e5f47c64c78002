"""`collate`, and samples under the DataLoaders of PyTorch and MONAI."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader as MonaiLoader
from monai.data import decollate_batch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import list_data_collate
from monai.transforms import (
    Compose,
    CropForegroundd,
    Flipd,
    Invertd,
    Orientationd,
    RandSpatialCropSamplesd,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
)
from torch.utils.data import DataLoader

from dicomdata.cache import DiskCache, MemoryCache
from dicomdata.catalog import scan
from dicomdata.dataset import VolumeDataset
from dicomdata.errors import ConfigError, StaleError
from dicomdata.loader import SharedCollate, collate
from dicomdata.metatensor import from_metatensor, to_metatensor
from dicomdata.stack import Stack, plan_stacks
from dicomdata.testing.phantoms import write_series
from dicomdata.volume import read_volume

if TYPE_CHECKING:
    from pathlib import Path

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""Python 3.12 and later warn of forks beside threads, which is what is tested."""

LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stack, ...]:
    """Four stacks of one shape, and a longer one."""
    root = tmp_path_factory.mktemp("archive")
    for number in range(4):
        write_series(root / str(number), seed=str(number), patient_id=f"P{number}")
    write_series(root / "long", seed="long", shape=(7, 4, 6))
    return plan_stacks(scan(root, progress=False)).stacks


@pytest.fixture(scope="module")
def same(stacks: tuple[Stack, ...]) -> tuple[Stack, ...]:
    return tuple(stack for stack in stacks if stack.shape == (5, 4, 6))


def images(stacks: tuple[Stack, ...]) -> list[torch.Tensor]:
    return [to_metatensor(read_volume(stack)).as_tensor() for stack in stacks]


# --- collate ------------------------------------------------------------------------------------


def test_a_batch_is_what_monai_makes_of_it(same: tuple[Stack, ...]) -> None:
    samples = list(VolumeDataset(same))

    ours, theirs = collate(samples), list_data_collate(samples)

    assert ours.keys() == theirs.keys()
    assert isinstance(ours["image"], MetaTensor)
    assert ours["image"].is_batch
    assert torch.equal(ours["image"].as_tensor(), theirs["image"].as_tensor())
    assert torch.equal(ours["image"].affine, theirs["image"].affine)
    assert ours["image"].meta.keys() == theirs["image"].meta.keys()
    assert ours["image"].spatial_ndim == theirs["image"].spatial_ndim
    assert ours["patient_id"] == theirs["patient_id"] == ["P0", "P1", "P2", "P3"]


def test_images_are_stacked_as_they_lie_in_memory(same: tuple[Stack, ...]) -> None:
    batch = collate(list(VolumeDataset(same)))["image"]

    assert batch.shape == (4, 1, 6, 4, 5)
    assert batch.permute(0, 1, 4, 3, 2).is_contiguous()


def test_plain_tensors_are_stacked_as_they_lie_in_memory_too() -> None:
    values = [torch.rand(5, 4, 6).permute(2, 1, 0)[None] for _ in range(2)]

    batch = collate([{"label": value, "age": 7} for value in values])

    assert torch.equal(batch["label"], torch.stack(values))
    assert batch["label"].permute(0, 1, 4, 3, 2).is_contiguous()
    assert torch.equal(batch["age"], torch.tensor([7, 7]))


def test_a_batch_comes_apart_into_its_samples(same: tuple[Stack, ...]) -> None:
    samples = list(VolumeDataset(same))

    apart = decollate_batch(collate(samples))

    for one, sample in zip(apart, samples, strict=True):
        assert torch.equal(one["image"].as_tensor(), sample["image"].as_tensor())
        assert torch.equal(one["image"].affine, sample["image"].affine)
        assert one["image"].meta["filename_or_obj"] == sample["image"].meta["filename_or_obj"]
        assert one["stack"] == sample["stack"]
        np.testing.assert_array_equal(
            from_metatensor(one["image"]).affine_lps, from_metatensor(sample["image"]).affine_lps
        )


def test_several_samples_of_one_volume_are_samples_of_the_batch(same: tuple[Stack, ...]) -> None:
    transform = RandSpatialCropSamplesd("image", (3, 3, 3), num_samples=3, random_size=False)

    batch = collate(list(VolumeDataset(same[:2], transform)))

    assert batch["image"].shape == (6, 1, 3, 3, 3)
    assert batch["patient_id"] == ["P0"] * 3 + ["P1"] * 3
    assert len(decollate_batch(batch)) == 6


def test_shapes_that_differ_are_named(stacks: tuple[Stack, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        collate(list(VolumeDataset(stacks)))

    text = str(caught.value)
    assert "(1, 6, 4, 5)" in text
    assert "(1, 6, 4, 7)" in text
    assert all(each.id in text for each in stacks if each.shape[0] == 7)
    assert "RandSpatialCropd" in text


def test_bare_images_that_differ_are_named_by_their_source(stacks: tuple[Stack, ...]) -> None:
    with pytest.raises(ConfigError, match=r"dcmseries has .*dcmseries has"):
        collate([sample["image"] for sample in VolumeDataset(stacks)])
    with pytest.raises(ConfigError, match=r"sample 0 has .*sample 1 has"):
        collate([torch.zeros(2), torch.zeros(3)])


def test_keys_that_differ_are_named(same: tuple[Stack, ...]) -> None:
    one, other, *_ = VolumeDataset(same)
    other["label"] = other["image"]

    with pytest.raises(ConfigError, match=f"label is in only one of .*{other['stack']}"):
        collate([one, other])


def test_metadata_that_differs_is_left_out(same: tuple[Stack, ...]) -> None:
    one, other, *_ = VolumeDataset(same)
    other["image"].meta["more"] = 1

    assert "more" not in collate([one, other])["image"].meta


# --- inverting ----------------------------------------------------------------------------------


def test_a_prediction_goes_back_to_where_its_image_was(same: tuple[Stack, ...]) -> None:
    transform = Compose(
        [
            Orientationd("image", axcodes="RAS", labels=LABELS),
            Flipd("image", spatial_axis=2),
            Spacingd("image", pixdim=(0.5, 0.8, 2.5)),
            CropForegroundd("image", "image", select_fn=lambda image: image > 0),
            ScaleIntensityRanged("image", 0, 1, 0, 1),
        ]
    )
    back = Invertd("pred", transform, orig_keys="image", nearest_interp=False)
    loader = MonaiLoader(VolumeDataset(same, transform), batch_size=2, collate_fn=collate)

    for batch in loader:
        batch["pred"] = batch["image"] * 1
        for sample in decollate_batch(batch):
            prediction = back(sample)["pred"]

            stack = next(each for each in same if each.id == sample["stack"])
            volume = read_volume(stack)
            placed = from_metatensor(prediction)
            assert placed.voxels.shape == volume.voxels.shape
            np.testing.assert_allclose(placed.affine_lps, volume.affine_lps, rtol=0, atol=1e-6)
            inside = volume.voxels > 0
            np.testing.assert_allclose(placed.voxels[inside], volume.voxels[inside], atol=0.5)


# --- loaders ------------------------------------------------------------------------------------


@FORKS
@pytest.mark.parametrize("loader", [DataLoader, MonaiLoader], ids=["torch", "monai"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_for_any_number_of_workers(
    loader: Any, workers: int, same: tuple[Stack, ...], tmp_path: Path
) -> None:
    dataset = VolumeDataset(same, cache=DiskCache(tmp_path / "cache"))
    batches = loader(dataset, batch_size=2, num_workers=workers, collate_fn=collate)

    for _ in range(2):
        got = list(batches)

        assert torch.equal(
            torch.cat([batch["image"].as_tensor() for batch in got]), torch.stack(images(same))
        )
        assert [name for batch in got for name in batch["patient_id"]] == ["P0", "P1", "P2", "P3"]
        for batch in got:
            assert batch["image"].permute(0, 1, 4, 3, 2).is_contiguous()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_may_be_started_in_any_way(
    method: str, same: tuple[Stack, ...], tmp_path: Path
) -> None:
    # So large that a batch travels in shared memory; the second epoch finds it in use.
    pad = SpatialPadd("image", (32, 32, 32))
    dataset = VolumeDataset(
        same,
        Compose([ScaleIntensityRanged("image", 0, 1, 0, 1), pad]),
        DiskCache(tmp_path / "cache", max_bytes="1 GB"),
    )
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=1,
        collate_fn=SharedCollate(blocks=3),
        multiprocessing_context=method,
        persistent_workers=True,
    )

    epochs = [list(loader) for _ in range(2)]

    expected = torch.stack([pad({"image": image})["image"] for image in images(same)])
    for batches in epochs:
        got = torch.cat([batch["image"].as_tensor() for batch in batches])
        assert torch.equal(got, expected)


@FORKS
def test_an_error_in_a_worker_arrives_with_its_own_type(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "series")
    dataset = VolumeDataset(plan_stacks(scan(tmp_path, progress=False)).stacks)
    os.truncate(paths[2], 1000)

    with pytest.raises(StaleError, match=paths[2].name):
        next(iter(DataLoader(dataset, num_workers=1, collate_fn=collate)))


@FORKS
def test_unequal_shapes_in_a_worker_arrive_as_what_they_are(stacks: tuple[Stack, ...]) -> None:
    loader = DataLoader(VolumeDataset(stacks), batch_size=5, num_workers=1, collate_fn=collate)

    with pytest.raises(ConfigError, match="one shape"):
        next(iter(loader))


@FORKS
def test_forked_workers_share_what_is_in_memory(same: tuple[Stack, ...]) -> None:
    cache = MemoryCache()
    for stack in same:
        cache.get(stack, read_volume)

    def tell(_sample: dict[str, Any]) -> str:
        statistics = cache.statistics()
        return f"{statistics.hits} hits, {statistics.misses} misses"

    loader = DataLoader(
        VolumeDataset(same, tell, cache),
        num_workers=2,
        batch_size=None,
        multiprocessing_context="fork",
    )

    assert sorted(loader) == ["1 hits, 0 misses"] * 2 + ["2 hits, 0 misses"] * 2

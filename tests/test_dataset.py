"""`VolumeDataset`: samples, errors, folders, and what crosses to workers."""

from __future__ import annotations

import copy
import os
import pickle
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from monai.data import CacheDataset
from monai.transforms import (
    Compose,
    CropForegroundd,
    Orientationd,
    RandFlipd,
    RandSpatialCropd,
    ScaleIntensityRanged,
    Spacingd,
)
from torch.utils.data import DataLoader

from dicomdata.cache import DiskCache, MemoryCache, NoCache
from dicomdata.catalog import load_frames, scan
from dicomdata.dataset import VolumeDataset
from dicomdata.errors import CatalogError, DicomDataWarning, FileError, GeometryError, StaleError
from dicomdata.loader import collate
from dicomdata.metatensor import to_metatensor
from dicomdata.stack import Policy, Stack, plan_stacks
from dicomdata.testing.phantoms import ramp, write_series
from dicomdata.volume import read_volume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicomdata.cache import VolumeCache


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clean series: two CT of different length, one MR."""
    root = tmp_path_factory.mktemp("archive")
    names = {"PatientName": "SECRET^NAME", "AccessionNumber": "SECRET-1"}
    write_series(root / "a", seed="a", patient_id="A", extra=names)
    write_series(root / "b", seed="b", patient_id="B", shape=(7, 4, 6))
    write_series(root / "c", seed="c", patient_id="C", modality="MR")
    return root


@pytest.fixture(scope="module")
def stacks(archive: Path) -> tuple[Stack, ...]:
    return plan_stacks(scan(archive, progress=False)).stacks


def patients(samples: Sequence[dict[str, Any]]) -> list[str]:
    return [sample["patient_id"] for sample in samples]


# --- samples ------------------------------------------------------------------------------------


def test_a_sample_is_the_volume_and_whose_it_is(stacks: tuple[Stack, ...]) -> None:
    dataset = VolumeDataset(stacks)

    assert len(dataset) == 3
    for number, stack in enumerate(stacks):
        sample = dataset[number]
        expected = to_metatensor(read_volume(stack))
        assert torch.equal(sample["image"].as_tensor(), expected.as_tensor())
        assert torch.equal(sample["image"].affine, expected.affine)
        del sample["image"]
        assert sample == {
            "series_instance_uid": stack.series_instance_uid,
            "study_instance_uid": stack.study_instance_uid,
            "patient_id": stack.patient_id,
            "modality": stack.modality,
            "unit": stack.unit,
            "stack": stack.id,
        }
        assert {type(value) for value in sample.values()} == {str}


def test_a_sample_does_not_name_the_patient(stacks: tuple[Stack, ...]) -> None:
    for sample in VolumeDataset(stacks):
        assert "SECRET" not in repr({**sample, "meta": sample["image"].meta})


def test_indices_are_those_of_a_list(stacks: tuple[Stack, ...]) -> None:
    dataset = VolumeDataset(stacks)

    assert patients([dataset[-1], dataset[np.int64(0)], dataset[torch.tensor(1)]]) == patients(
        [dataset[2], dataset[0], dataset[1]]
    )
    for beyond in (3, -4):
        with pytest.raises(IndexError):
            dataset[beyond]
    with pytest.raises(TypeError):
        dataset[0.0]  # type: ignore[index]


def test_a_loop_over_it_ends(stacks: tuple[Stack, ...]) -> None:
    assert patients(list(VolumeDataset(stacks))) == ["A", "B", "C"]


def test_int16_and_another_key_are_given_where_asked_for(stacks: tuple[Stack, ...]) -> None:
    sample = VolumeDataset(stacks, dtype=np.int16, image="ct")[0]

    assert sample["ct"].dtype == torch.int16
    assert "image" not in sample


def test_it_is_transformed_as_monai_does(stacks: tuple[Stack, ...]) -> None:
    transform = Compose(
        [
            Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd("image", pixdim=(0.5, 0.8, 1.25)),
            ScaleIntensityRanged("image", -100, 200, 0, 1, clip=True),
            CropForegroundd("image", "image", allow_smaller=True),
            RandSpatialCropd("image", (4, 4, 4), random_size=False),
            RandFlipd("image", prob=0.5, spatial_axis=0),
        ]
    )

    for sample in VolumeDataset(stacks[:2], transform):
        assert sample["image"].shape == (1, 4, 4, 4)
        assert float(sample["image"].min()) >= 0
        assert sample["image"].applied_operations


def test_it_feeds_monais_cache_dataset(stacks: tuple[Stack, ...]) -> None:
    transform = Compose([ScaleIntensityRanged("image", -100, 900, 0, 1)])

    volumes: Any = VolumeDataset(stacks)
    dataset = CacheDataset(volumes, transform, num_workers=2, progress=False)

    expected = to_metatensor(read_volume(stacks[1])).as_tensor()
    sample: Any = dataset[1]
    torch.testing.assert_close(sample["image"].as_tensor(), (expected + 100) / 1000)


@pytest.mark.parametrize("kind", ["none", "memory", "disk"])
def test_a_second_epoch_gives_the_same_samples(
    kind: str, stacks: tuple[Stack, ...], tmp_path: Path
) -> None:
    caches: dict[str, VolumeCache] = {
        "none": NoCache(),
        "memory": MemoryCache("1 GB"),
        "disk": DiskCache(tmp_path / "cache"),
    }
    cache = caches[kind]
    dataset = VolumeDataset(stacks, cache=cache)

    for sample in dataset:
        sample["image"] *= 0  # as transforms in place do

    for sample, stack in zip(dataset, stacks, strict=True):
        assert torch.equal(
            sample["image"].as_tensor(), to_metatensor(read_volume(stack)).as_tensor()
        )
    if isinstance(cache, MemoryCache | DiskCache):
        assert (cache.statistics().hits, cache.statistics().misses) == (3, 3)


def test_a_warm_cache_serves_the_dataset(stacks: tuple[Stack, ...], tmp_path: Path) -> None:
    # One key, however the default type is asked for.
    cache = DiskCache(tmp_path / "cache")
    cache.get(stacks[0], read_volume)
    cache.get(stacks[0], partial(read_volume, dtype="float32"))

    VolumeDataset(stacks, cache=cache)[0]

    assert cache.statistics().misses == 1


def test_an_error_of_reading_has_its_own_type(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "series")
    dataset = VolumeDataset(plan_stacks(scan(tmp_path, progress=False)).stacks)

    os.truncate(paths[1], 1000)

    with pytest.raises(StaleError, match=paths[1].name):
        dataset[0]


# --- pickling -----------------------------------------------------------------------------------


def test_it_pickles_as_plans_and_options(stacks: tuple[Stack, ...], tmp_path: Path) -> None:
    transform = Compose([ScaleIntensityRanged("image", -100, 200, 0, 1)])
    dataset = VolumeDataset(stacks, transform, DiskCache(tmp_path / "cache"))
    dataset[0]

    copy = pickle.loads(pickle.dumps(dataset))

    assert torch.equal(copy[0]["image"], dataset[0]["image"])
    assert len(pickle.dumps(VolumeDataset(stacks, cache=dataset.cache))) < 1000 * len(stacks)


def test_it_holds_no_file_open(stacks: tuple[Stack, ...], tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("open files are counted under /proc")
    dataset = VolumeDataset(stacks, cache=DiskCache(tmp_path / "cache"))
    dataset[0]
    before = len(list(descriptors.iterdir()))

    for _ in range(2):
        list(dataset)

    assert len(list(descriptors.iterdir())) <= before


# --- ten thousand stacks ------------------------------------------------------------------------

MANY = 10_000
SLICES = 20


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stack, ...]:
    """Stacks whose frames are rows of one catalog; names, numbers and order are each one's own."""
    folder = tmp_path_factory.mktemp("many")
    write_series(folder / "ct", shape=(SLICES, 2, 3))
    catalog = folder / "ct.catalog"
    (stack,) = plan_stacks(scan(folder / "ct", catalog=catalog, progress=False)).stacks
    with closing(sqlite3.connect(catalog)) as connection, connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(frame)")]
        others = ", ".join(f"frame.{name}" for name in names if name not in {"id", "series"})
        n = f"VALUES (2) UNION ALL SELECT k + 1 FROM n WHERE k < {MANY}"  # noqa: S608
        first = f"(n.k - 1) * {SLICES}"
        connection.execute(
            f"WITH RECURSIVE n(k) AS ({n}) INSERT INTO frame "  # noqa: S608 - made of constants
            f"SELECT {first} + frame.id, n.k, {others} FROM n CROSS JOIN frame"
        )
    return tuple(_copy_of(stack, number) for number in range(MANY))


def _copy_of(stack: Stack, number: int) -> Stack:
    """Give a stack another series, study, place and fingerprint, as random as an archive's."""
    random = np.random.default_rng(number)
    series, study, frame_of_reference = (
        "1.2.826.0.1.3680043.8.498." + "".join(map(str, random.integers(0, 10, 38).tolist()))
        for _ in range(3)
    )
    spacing = float(random.choice([0.625, 0.703125, 0.859375, 0.976562]))
    x, y, z = random.uniform(-400, 400, 3).round(4).tolist()
    step, *_ = stack.affine_columns
    return replace(
        stack,
        id=f"{series}-{random.bytes(4).hex()}",
        series_id=number + 1,
        frame_ids=tuple((number * SLICES + 1 + random.permutation(SLICES)).tolist()),
        affine_columns=(step, (0.0, spacing, 0.0), (spacing, 0.0, 0.0), (x, y, z)),
        patient_id=f"PATIENT-{number:05}",
        series_instance_uid=series,
        study_instance_uid=study,
        frame_of_reference_uid=frame_of_reference,
        fingerprint=random.bytes(16).hex(),
    )


def test_ten_thousand_stacks_pickle_in_a_megabyte(many: tuple[Stack, ...]) -> None:
    pickled = pickle.dumps(VolumeDataset(many))

    assert len(pickled) < 1_000_000
    assert pickle.loads(pickled).stacks == many


def test_frames_of_one_in_ten_thousand_stacks_are_found_at_once(many: tuple[Stack, ...]) -> None:
    # As it comes to a worker, whose catalog has 200,000 rows.
    (stack,) = pickle.loads(pickle.dumps(VolumeDataset(many[-1:]))).stacks
    times = []
    for _ in range(5):
        start = time.thread_time()
        frames = load_frames(stack.catalog, stack.frame_ids)
        times.append(time.thread_time() - start)

    assert len(frames) == SLICES
    # 0.002 s on an idle machine; a scan of all rows takes a hundred times that.
    assert min(times) < 0.02


def test_stacks_of_any_order_and_name_pickle(stacks: tuple[Stack, ...]) -> None:
    stack = stacks[0]
    odd = [
        replace(stack, frame_ids=ids)
        for ids in ((7,), (5, 5, 5), (9, 6, 3), (1, 2, 4), (2**40, 1), (3, 1, 2), (0, 0))
    ]
    named = replace(stack, id="series-00", series_instance_uid="")
    kept = (*stacks, *odd, named, stack.reversed())

    for many in (kept, (), stacks[:1]):
        assert pickle.loads(pickle.dumps(VolumeDataset(many))).stacks == tuple(many)
        assert copy.deepcopy(VolumeDataset(many)).stacks == tuple(many)


# --- folders ------------------------------------------------------------------------------------


def test_a_folder_is_one_call_away(archive: Path) -> None:
    dataset = VolumeDataset.from_folder(archive, modality="CT", progress=False)

    assert patients(list(dataset)) == ["A", "B"]
    assert dataset.rejected == ()


def test_columns_that_were_kept_can_be_selected_by(tmp_path: Path) -> None:
    for kernel in ("SOFT", "BONE"):
        write_series(tmp_path / kernel, seed=kernel, extra={"ConvolutionKernel": kernel})

    dataset = VolumeDataset.from_folder(
        tmp_path, keep=("ConvolutionKernel",), ConvolutionKernel="BONE", progress=False
    )

    assert len(dataset) == 1


def test_the_catalog_of_a_folder_can_be_kept(archive: Path, tmp_path: Path) -> None:
    VolumeDataset.from_folder(archive, catalog=tmp_path / "ct.catalog", progress=False)

    assert (tmp_path / "ct.catalog").is_file()


def test_what_was_left_out_is_warned_of_once_and_kept(tmp_path: Path) -> None:
    write_series(tmp_path / "good", seed="good")
    write_series(tmp_path / "gap", seed="gap", positions=[(0, 0, z) for z in (0, 2, 4, 8, 10)])
    whole = write_series(tmp_path / "other", seed="other")
    (tmp_path / "cut.dcm").write_bytes(whole[0].read_bytes()[:600])
    (tmp_path / "notes.txt").write_text("not DICOM")

    with pytest.warns(DicomDataWarning, match="1 series.* and 1 damaged file") as caught:
        dataset = VolumeDataset.from_folder(tmp_path, progress=False)

    assert [warning.filename for warning in caught] == [__file__]
    assert len(dataset) == 2
    assert len(dataset.rejected) == 2
    assert any(isinstance(rejection.error, GeometryError) for rejection in dataset.rejected)


def test_an_empty_selection_is_warned_of(archive: Path) -> None:
    with pytest.warns(DicomDataWarning, match="0 volumes of 0 series"):
        assert len(VolumeDataset.from_folder(archive, modality="ct", progress=False)) == 0


def test_the_policy_decides(tmp_path: Path) -> None:
    write_series(tmp_path, step=(0.0, 1.0, 2.5))

    with pytest.warns(DicomDataWarning, match="tilt"):
        dataset = VolumeDataset.from_folder(tmp_path, policy=Policy(tilt="reject"), progress=False)

    assert len(dataset) == 0


def test_a_column_that_does_not_exist_is_told_before_the_folder_is_touched() -> None:
    with pytest.raises(CatalogError, match=r"modalty.*did you mean 'modality'"):
        VolumeDataset.from_folder("/no/such/folder", modalty="CT")
    with pytest.raises(FileError, match="no such folder"):
        VolumeDataset.from_folder("/no/such/folder", modality="CT")


def test_voxels_are_right_from_folder_to_sample(tmp_path: Path) -> None:
    write_series(tmp_path, stored=ramp((5, 4, 6)))

    image = VolumeDataset.from_folder(tmp_path, progress=False)[0]["image"]

    np.testing.assert_array_equal(
        image[0].permute(2, 1, 0).numpy(), ramp((5, 4, 6)).astype(np.float32) - 1024
    )


def test_workers_draw_crops_of_their_own(stacks: tuple[Stack, ...]) -> None:
    crop = Compose([RandSpatialCropd("image", (2, 2, 2), random_size=False)])
    dataset = VolumeDataset([stacks[0]] * 32, crop)

    loader = DataLoader(dataset, batch_size=1, num_workers=2, collate_fn=collate)
    corners = [tuple(batch["image"].affine[0, :3, 3].tolist()) for batch in loader]

    # Samples alternate between the workers: equal pairs would mean equal states.
    assert corners[::2] != corners[1::2]

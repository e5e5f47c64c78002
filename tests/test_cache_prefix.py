"""The deterministic prefix of a transform, kept in a cache: the same samples, and less work."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import zarr
from monai.data import MetaTensor, set_track_meta
from monai.transforms import (
    CastToTyped,
    CenterSpatialCropd,
    Compose,
    CopyItemsd,
    CropForegroundd,
    DataStatsd,
    DeleteItemsd,
    EnsureTyped,
    Flipd,
    IntensityStatsd,
    Invertd,
    Lambda,
    Lambdad,
    MapTransform,
    NormalizeIntensityd,
    OneOf,
    Orientationd,
    RandAffined,
    RandFlipd,
    RandomOrder,
    RandRotate90d,
    RandSpatialCropd,
    RandSpatialCropSamplesd,
    RandStdShiftIntensityd,
    RepeatChanneld,
    Resized,
    ResizeWithPadOrCropd,
    Rotate90d,
    ScaleIntensityd,
    ScaleIntensityRanged,
    SelectItemsd,
    SimulateDelayd,
    SomeOf,
    Spacingd,
    SpatialCropd,
    ToDeviced,
    Transposed,
)
from monai.utils.enums import SpaceKeys, TraceKeys
from torch.utils.data import DataLoader

import dicomdata as dd
from dicomdata.cache.keys import cache_key
from dicomdata.dataset import SampleIndex
from dicomdata.dataset.plain import PlainError, from_plain, to_plain
from dicomdata.dataset.settings import Teller, UntoldError
from dicomdata.dataset.strides import as_float32, buffer_of, layout_of
from dicomdata.errors import DicomDataWarning
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = (9, 12, 14)
KEY = "image"


def orientation() -> Any:
    return Orientationd(KEY, axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))


def spacing(pixdim: float = 0.8) -> Any:
    return Spacingd(KEY, pixdim=(pixdim, pixdim, 1.5))


def scale(high: float = 200) -> Any:
    return ScaleIntensityRanged(KEY, -1000, high, 0, 1, clip=True)


def crop() -> Any:
    return RandSpatialCropd(KEY, (5, 6, 4), random_size=False)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> tuple[dd.Stack, ...]:
    root = tmp_path_factory.mktemp("archive")
    noise = np.random.default_rng(0).integers(900, 1300, SHAPE).astype(np.uint16)
    for name in "ab":
        write_series(root / name, seed=name, patient_id=name, stored=noise)
    return dd.plan_stacks(dd.scan(root, progress=False)).stacks


def cache_of(name: str, folder: Path) -> Any:
    if name == "memory":
        return dd.MemoryCache("1 GB")
    return dd.DiskCache(folder, layout="small")


def assert_same(found: Any, expected: Any) -> None:
    """Equal in every type, word, number and bit, and in the order of memory."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected.keys() - {"id"}:  # an address, of an object that may be gone
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, torch.Tensor):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        plain = [torch.as_tensor(each).as_subclass(torch.Tensor) for each in (found, expected)]
        bits = [each.contiguous().view(torch.uint8).numpy().tobytes() for each in plain]
        assert bits[0] == bits[1]
        if isinstance(expected, MetaTensor):
            assert_same(found.meta, expected.meta)
            assert_same(found.applied_operations, expected.applied_operations)
            assert vars(found).keys() == vars(expected).keys()
            assert (found.is_batch, found.spatial_ndim) == (
                expected.is_batch,
                expected.spatial_ndim,
            )
            layouts = [layout_of(each) for each in plain]
            assert layouts[0].order == layouts[1].order
            assert layouts[0].gaps == layouts[1].gaps
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected, strict=True)
    else:
        assert found == expected


def assert_transparent(
    transform: Compose, stack: dd.Stack, cache: Any, kept: int, **options: Any
) -> None:
    """What comes out of a filled cache, twice, is what comes out of none."""
    dataset = dd.VolumeDataset([stack], transform, cache, **options)
    plain = dd.VolumeDataset([stack], transform, **options)

    assert len(dataset.kept_transforms) == kept
    for epoch in range(3):
        index = SampleIndex(0, seed=7, epoch=epoch)
        assert_same(dataset[index], plain[index])
    statistics = cache.statistics()
    assert (statistics.misses, statistics.hits) == (1, 2)


# --- transparent --------------------------------------------------------------------------------


PIPELINES: dict[str, tuple[Callable[[], list[Any]], int]] = {
    "as in training": (lambda: [orientation(), spacing(), scale(), crop(), RandFlipd(KEY, 0.5)], 3),
    "whole numbers": (lambda: [orientation(), crop(), RandFlipd(KEY, 0.5, 1)], 1),
    "sums after a crop": (lambda: [orientation(), crop(), NormalizeIntensityd(KEY)], 1),
    "sums after a turn": (
        lambda: [orientation(), RandRotate90d(KEY, 0.9), crop(), RandStdShiftIntensityd(KEY, 5, 1)],
        1,
    ),
    "sums after a kept crop": (
        lambda: [CropForegroundd(KEY, KEY, allow_smaller=True), RandStdShiftIntensityd(KEY, 5, 1)],
        1,
    ),
    "a kept crop, not whole": (
        lambda: [
            scale(),
            SpatialCropd(KEY, (5, 5, 5), (8, 8, 4)),
            RandStdShiftIntensityd(KEY, 5, 1),
        ],
        2,
    ),
    "all of it": (lambda: [orientation(), Resized(KEY, (6, 6, 6)), ScaleIntensityd(KEY)], 3),
    "several patches": (lambda: [orientation(), RandSpatialCropSamplesd(KEY, (4, 4, 4), 3)], 1),
    "channels": (lambda: [RepeatChanneld(KEY, 3), scale(), crop()], 3 - 1),
    "padding": (lambda: [ResizeWithPadOrCropd(KEY, (20, 5, 7)), RandFlipd(KEY, 0.5)], 1),
    "another type": (lambda: [CastToTyped(KEY, torch.float64), orientation(), crop()], 2),
    "a type of whole numbers": (lambda: [CastToTyped(KEY, torch.int32), crop()], 1),
    "axes in another order": (lambda: [Transposed(KEY, (0, 3, 1, 2)), scale(), crop()], 2),
    "words written": (
        lambda: [IntensityStatsd(KEY, ["mean", "max"], "ct"), scale(), crop()],
        3 - 1,
    ),
    "words removed": (lambda: [SelectItemsd([KEY, "stack"]), scale(), crop()], 2),
    "words copied": (lambda: [CopyItemsd("stack", names="twin"), scale(), crop()], 2),
    "a turn": (
        lambda: [Rotate90d(KEY), Flipd(KEY, 0), CenterSpatialCropd(KEY, (6, 6, 6)), crop()],
        3,
    ),
    "interpolation": (
        lambda: [EnsureTyped(KEY), spacing(), RandAffined(KEY, prob=0.9, rotate_range=(0.2, 0, 0))],
        2,
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_samples_are_those_of_no_cache(
    name: str, stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    steps, kept = PIPELINES[name]

    assert_transparent(Compose(steps()), stacks[0], dd.DiskCache(tmp_path / "cache"), kept)


@pytest.mark.parametrize("kind", ["small", "memory"])
def test_every_cache_keeps_them(kind: str, stacks: tuple[dd.Stack, ...], tmp_path: Path) -> None:
    for number, name in enumerate(("as in training", "whole numbers", "channels")):
        steps, kept = PIPELINES[name]
        cache = cache_of(kind, tmp_path / str(number))

        assert_transparent(Compose(steps()), stacks[0], cache, kept)


def test_int16_stays_int16(stacks: tuple[dd.Stack, ...], tmp_path: Path) -> None:
    transform, cache = Compose([orientation(), crop()]), dd.DiskCache(tmp_path)

    assert_transparent(transform, stacks[0], cache, 1, dtype=np.int16)


def test_a_window_is_applied_before_the_transform(
    stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    transform, cache = Compose([orientation(), spacing(), crop()]), dd.DiskCache(tmp_path)

    assert_transparent(transform, stacks[0], cache, 2, window=(-1000, 200))
    sample = dd.VolumeDataset(stacks, transform, cache, window=(-1000.0, 200.0))[0]
    assert sample["unit"] == sample["image"].meta["unit"] == "window"
    assert cache.statistics().misses == 1


def test_a_lazy_transform_is_parted_where_nothing_is_put_off(
    stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    apart = Compose([orientation(), spacing(), scale(), RandFlipd(KEY, 0.5), crop()], lazy=True)
    merged = Compose([scale(), orientation(), spacing(), RandFlipd(KEY, 0.5), crop()], lazy=True)
    other = Compose([scale(300), orientation(), crop()], lazy=True, overrides={KEY: {"mode": 0}})

    assert_transparent(apart, stacks[0], dd.DiskCache(tmp_path / "a"), 3)
    assert_transparent(merged, stacks[0], dd.DiskCache(tmp_path / "b"), 1)
    assert_transparent(other, stacks[0], dd.DiskCache(tmp_path / "c"), 1)


def test_an_inner_compose_is_taken_apart_where_it_runs_alike(
    stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    alike = Compose([Compose([orientation(), Compose([spacing(), scale()])]), Compose([crop()])])
    other = Compose([orientation(), Compose([scale(), crop()], lazy=True)])

    assert_transparent(alike, stacks[0], dd.DiskCache(tmp_path / "a"), 3)
    assert_transparent(other, stacks[0], dd.DiskCache(tmp_path / "b"), 1)


def test_items_are_mapped_as_the_compose_says(stacks: tuple[dd.Stack, ...], tmp_path: Path) -> None:
    # Three patches are one list for what follows, or three samples.
    patches = RandSpatialCropSamplesd(KEY, (4, 4, 4), 3)
    transform = Compose([orientation(), patches, Lambda(func=len)], map_items=False)
    dataset = dd.VolumeDataset(stacks, transform, dd.DiskCache(tmp_path))

    assert dataset[0] == 3
    assert dataset.kept_transforms == ("Orientationd",)


def test_a_transform_can_be_undone(stacks: tuple[dd.Stack, ...], tmp_path: Path) -> None:
    transform = Compose([orientation(), spacing(), RandFlipd(KEY, 1.0), scale()])
    dataset = dd.VolumeDataset(stacks, transform, dd.DiskCache(tmp_path))
    undo = Invertd(KEY, transform, orig_keys=KEY, nearest_interp=False)
    list(dataset)

    # Of another process: its transforms lie elsewhere.
    copy = pickle.loads(pickle.dumps(dataset))
    undone = Invertd(KEY, copy.transform, orig_keys=KEY, nearest_interp=False)(copy[0])[KEY]

    assert copy.cache.statistics().hits == 1
    assert undone.shape == undo(dataset[0])[KEY].shape == (1, 14, 12, 9)
    steps = [operation["id"] for operation in copy[0][KEY].applied_operations]
    orient, space, *_ = copy.transform.transforms
    assert steps[:2] == [id(orient.ornt_transform), id(space.spacing_transform.sp_resample)]


def test_workers_find_what_others_filled(stacks: tuple[dd.Stack, ...], tmp_path: Path) -> None:
    transform, cache = Compose([orientation(), scale(), crop()]), dd.DiskCache(tmp_path)
    dataset = dd.VolumeDataset(stacks, transform, cache)
    dd.warm(stacks, cache, read=dataset.read, progress=False)
    before = [entry.key for entry in cache.entries()]

    loader = DataLoader(dataset, 1, num_workers=2, collate_fn=dd.collate)
    assert [tuple(batch[KEY].shape) for batch in loader] == [(1, 1, 5, 6, 4)] * 2

    assert sorted(entry.key for entry in cache.entries()) == sorted(before)
    assert cache.statistics().misses == len(before) == 2


# --- keys ---------------------------------------------------------------------------------------


def key_of(stack: dd.Stack, *steps: Any, cache: Any = None, **options: Any) -> str:
    dataset = dd.VolumeDataset([stack], Compose(steps), cache or dd.MemoryCache(), **options)
    return cache_key(stack, dataset.read)


def test_what_decides_the_voxels_is_part_of_the_key(stacks: tuple[dd.Stack, ...]) -> None:
    stack, other = stacks

    keys = [
        key_of(stack, scale(), crop()),
        key_of(other, scale(), crop()),
        key_of(stack, scale(201), crop()),
        key_of(stack, scale(), orientation(), crop()),
        key_of(stack, orientation(), scale(), crop()),
        key_of(stack, scale(), crop(), window=(0, 1)),
        key_of(stack, scale(), crop(), dtype=np.int16),
        key_of(stack, ScaleIntensityRanged("ct", -1000, 200, 0, 1, clip=True), image="ct"),
        cache_key(
            stack, dd.VolumeDataset([stack], Compose([scale()], lazy=None), dd.MemoryCache()).read
        ),
        key_of(stack, crop()),
    ]

    assert len(set(keys)) == len(keys)


def test_what_does_not_decide_them_is_not(stacks: tuple[dd.Stack, ...], tmp_path: Path) -> None:
    stack = stacks[0]

    assert key_of(stack, scale(), crop()) == key_of(stack, scale(), RandFlipd(KEY, 0.1))
    assert key_of(stack, scale()) == key_of(stack, scale(), cache=dd.DiskCache(tmp_path))
    assert key_of(stack, crop()) == cache_key(stack, dd.read_volume)


def test_a_setting_that_changes_later_changes_the_key(
    stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    transform = Compose([scale(), crop()])
    dataset = dd.VolumeDataset(stacks, transform, dd.DiskCache(tmp_path))
    dataset[0]

    transform.transforms[0].scaler.a_max = 500

    index = SampleIndex(0, seed=1, epoch=1)
    assert_same(dataset[index], dd.VolumeDataset(stacks, transform)[index])


def test_whether_operations_are_tracked_is_part_of_the_key(stacks: tuple[dd.Stack, ...]) -> None:
    step = orientation()
    tracked = key_of(stacks[0], step)
    step.ornt_transform.tracing = False

    assert key_of(stacks[0], step) != tracked


def test_using_a_transform_does_not_change_its_key(stacks: tuple[dd.Stack, ...]) -> None:
    for steps, _ in PIPELINES.values():
        transform = Compose(steps())
        dataset = dd.VolumeDataset(stacks, transform, dd.MemoryCache())
        before = cache_key(stacks[0], dataset.read)

        dataset[0]

        assert cache_key(stacks[0], dataset.read) == before


# --- where it ends ------------------------------------------------------------------------------


class Brighter(MapTransform):
    """A step of someone who may write another tomorrow."""

    def __call__(self, data: Any) -> Any:
        return {**data, KEY: data[KEY] + 1}


class Twice(ScaleIntensityd):
    """A step that is MONAI's by its base class alone."""

    def __call__(self, data: Any, lazy: bool = False) -> Any:
        return {**data, KEY: data[KEY] * 2}


def positive(voxels: Any) -> Any:
    return voxels > 0


ENDS: dict[str, Callable[[], Any]] = {
    "random": crop,
    "one of several": lambda: OneOf([scale(), scale(1)]),
    "some of several": lambda: SomeOf([scale(), scale(1)], num_transforms=1),
    "several in any order": lambda: RandomOrder([scale(), Flipd(KEY)]),
    "a lambda": lambda: Lambdad(KEY, lambda voxels: voxels * 2),
    "a function": lambda: partial(lambda data: data),
    "a class of someone": lambda: Brighter(KEY),
    "a class of someone, derived": lambda: Twice(KEY),
    "a lambda as a setting": lambda: CropForegroundd(KEY, KEY, select_fn=lambda x: x > 0),
    "a function as a setting": lambda: CropForegroundd(KEY, KEY, select_fn=positive),
    "side effects": lambda: DataStatsd(KEY),
    "time": lambda: SimulateDelayd(KEY, 0.0),
    "a device": lambda: ToDeviced(KEY, "cpu"),
    "a compose of another kind": lambda: Compose([scale(), crop()], map_items=False),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_prefix_ends_before(name: str, stacks: tuple[dd.Stack, ...], tmp_path: Path) -> None:
    transform = Compose([orientation(), ENDS[name](), scale(100)])
    dataset = dd.VolumeDataset(stacks, transform, dd.DiskCache(tmp_path))

    assert dataset.kept_transforms == ("Orientationd",)


@pytest.mark.parametrize("name", ["one of several", "a lambda", "a class of someone", "a device"])
def test_what_comes_after_it_runs_each_time(
    name: str, stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    transform = Compose([orientation(), ENDS[name](), scale(100), crop()])

    assert_transparent(transform, stacks[0], dd.DiskCache(tmp_path), 1)


@pytest.mark.parametrize(
    "transform",
    [
        OneOf([scale()]),
        RandomOrder([scale()]),
        scale(),
        lambda sample: sample,
        Compose([]),
        Compose([crop()]),
        Compose(unpack_items=True, transforms=[scale()]),
        None,
    ],
)
def test_without_a_prefix_the_volume_is_kept(
    transform: Any, stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    cache = dd.DiskCache(tmp_path)
    dataset = dd.VolumeDataset(stacks, transform, cache)

    dataset[0]

    assert dataset.kept_transforms == ()
    cache.get(stacks[0], dd.read_volume)
    assert cache.statistics().hits == 1


def test_no_prefix_is_kept_where_that_is_asked_for(
    stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    cache = dd.DiskCache(tmp_path)
    dataset = dd.VolumeDataset(stacks, Compose([scale()]), cache, keep_prefix=False)

    assert_same(dataset[0], dd.VolumeDataset(stacks, Compose([scale()]))[0])
    assert [entry.unit for entry in cache.entries()] == ["HU"]


# --- what cannot be kept ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "name", "reason"),
    [
        (CopyItemsd(KEY, names="twin"), "CopyItemsd", "MetaTensor"),
        (CastToTyped(KEY, torch.bfloat16), "CastToTyped", "bfloat16"),
        (EnsureTyped(KEY, track_meta=False), "EnsureTyped", "no MetaTensor"),
        (Transposed(KEY, (1, 2, 3, 0)), "Transposed", "channels"),
        (EnsureTyped(KEY, data_type="numpy"), "EnsureTyped", "no MetaTensor"),
        (DeleteItemsd(KEY), "DeleteItemsd", "no MetaTensor"),
    ],
)
def test_what_cannot_be_kept_is_made_each_time_and_said_once(
    step: Any, name: str, reason: str, stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    repeat = RepeatChanneld(KEY, 2)
    transform, cache = Compose([repeat, orientation(), step]), dd.DiskCache(tmp_path)
    dataset = dd.VolumeDataset(stacks, transform, cache)

    with pytest.warns(DicomDataWarning, match=f"2 steps.*{name}.*{reason}") as caught:
        samples = list(dataset)

    assert len(caught) == 1
    assert caught[0].filename == __file__
    for found, expected in zip(samples, dd.VolumeDataset(stacks, transform), strict=True):
        assert_same(found, expected)
    assert dataset.kept_transforms == ("RepeatChanneld", "Orientationd")
    assert len(cache.entries()) == 2


def test_what_is_only_there_for_a_moment_can_be_kept(
    stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    steps = [CopyItemsd(KEY, names="twin"), scale(), DeleteItemsd("twin"), crop()]

    assert_transparent(Compose(steps), stacks[0], dd.DiskCache(tmp_path), 3)


def test_images_without_metadata_are_not_kept(stacks: tuple[dd.Stack, ...], tmp_path: Path) -> None:
    dataset = dd.VolumeDataset(stacks, Compose([orientation()]), dd.DiskCache(tmp_path))

    set_track_meta(False)
    try:
        with pytest.warns(DicomDataWarning, match="Orientationd"):
            image = dataset[0][KEY]
    finally:
        set_track_meta(True)

    assert type(image) is torch.Tensor


class Forgetful:
    """A cache of someone's that keeps the voxels alone."""

    def get(self, stack: dd.Stack, read: Any, region: Any = None) -> dd.Volume:
        volume = dd.NoCache().get(stack, read, region)
        return dd.Volume(volume.voxels, volume.unit, volume.valid, stack)


def test_a_cache_that_forgets_what_is_not_voxels_keeps_volumes(
    stacks: tuple[dd.Stack, ...],
) -> None:
    transform = Compose([spacing(), scale()])
    dataset = dd.VolumeDataset(stacks, transform, Forgetful())

    with pytest.warns(DicomDataWarning, match="Forgetful"):
        sample = dataset[0]

    assert_same(sample, dd.VolumeDataset(stacks, transform)[0])


def test_an_error_of_a_step_is_that_of_no_cache(
    stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    transform = Compose([orientation(), ScaleIntensityRanged("nothing", 0, 1, 0, 1)])
    cache = dd.DiskCache(tmp_path)

    with pytest.raises(RuntimeError, match="applying transform") as caught:
        dd.VolumeDataset(stacks, transform, cache)[0]

    assert isinstance(caught.value.__cause__, KeyError)
    assert cache.entries() == ()


# --- the cache's promises -----------------------------------------------------------------------


def test_a_kept_sample_can_be_written_to(stacks: tuple[dd.Stack, ...], tmp_path: Path) -> None:
    for transform in (Compose([scale()]), Compose([orientation()])):
        dataset = dd.VolumeDataset(stacks, transform, dd.DiskCache(tmp_path))
        expected = dataset[0][KEY].clone()
        for _ in range(2):
            sample = dataset[0]
            sample[KEY] *= 0
            sample[KEY].meta["unit"] = "spoilt"
            sample[KEY].affine[:] = 0
            sample[KEY].applied_operations.clear()

        assert_same(dataset[0][KEY], expected)


def test_in_the_background_it_is_kept_as_it_was_made(
    stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    for steps in ([spacing(), scale()], [orientation()]):
        cache = dd.DiskCache(tmp_path, fill="background")
        dataset = dd.VolumeDataset(stacks, Compose(steps), cache)

        for _ in range(2):
            for sample in dataset:
                sample[KEY] *= 0
        cache.finish()

        for found, made in zip(dataset, dd.VolumeDataset(stacks, Compose(steps)), strict=True):
            assert_same(found, made)
        assert cache.statistics().hits >= len(stacks)


def test_files_that_changed_are_read_anew(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", stored=np.full(SHAPE, 1000, np.uint16))
    transform, cache = Compose([scale(), crop()]), dd.DiskCache(tmp_path / "cache")
    dd.VolumeDataset.from_folder(tmp_path / "ct", transform=transform, cache=cache, progress=False)[
        0
    ]

    for path in (tmp_path / "ct").iterdir():
        path.unlink()
    write_series(tmp_path / "ct", stored=np.full(SHAPE, 1100, np.uint16))

    sample = dd.VolumeDataset.from_folder(
        tmp_path / "ct", transform=transform, cache=cache, progress=False
    )[0]
    assert float(sample[KEY].max()) == pytest.approx(1076 / 1200)


def test_a_damaged_entry_is_made_anew(stacks: tuple[dd.Stack, ...], tmp_path: Path) -> None:
    transform = Compose([scale()])
    expected = dd.VolumeDataset(stacks, transform, dd.DiskCache(tmp_path))[0]
    (entry,) = (tmp_path / "volumes").iterdir()
    for name, place in (("c.0.0.0", 100), ("zarr.json", -20)):
        content = bytearray((entry / name).read_bytes())
        content[place] ^= 1
        (entry / name).write_bytes(content)
        # Another process: this one has looked at the checksum already.
        cache = dd.DiskCache(tmp_path)

        assert cache.verify()
        assert_same(dd.VolumeDataset(stacks, transform, cache)[0], expected)
        assert cache.statistics().misses == 1
        assert not cache.verify()


def test_an_entry_names_no_patient_and_is_plain_json(
    stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    transform = Compose([orientation(), spacing()])
    dd.VolumeDataset(stacks, transform, dd.DiskCache(tmp_path))[0]

    (entry,) = (tmp_path / "volumes").iterdir()

    assert {path.name for path in entry.iterdir()} == {"zarr.json", "c.0.0.0"}
    text = (entry / "zarr.json").read_text()
    said = json.loads(json.loads(text)["attributes"]["dicomdata"]["sample"])
    assert ["patient_id"] in said["sample"]
    assert stacks[0].root not in text


def test_a_kept_entry_lies_where_zarr_says(stacks: tuple[dd.Stack, ...], tmp_path: Path) -> None:
    transform = Compose([spacing(), scale()])
    image = dd.VolumeDataset(stacks, transform, dd.DiskCache(tmp_path))[0][KEY]

    (entry,) = (tmp_path / "volumes").iterdir()
    array = zarr.open_array(entry, mode="r")

    # Spacingd leaves its result in the order x, y, z.
    np.testing.assert_array_equal(array[:], image[0].numpy())
    affine = np.diag([-1, -1, 1, 1]) @ image.affine.numpy()
    ours: Any = array.attrs["dicomdata"]
    np.testing.assert_array_equal(ours["affine_lps"], affine)


def test_a_box_of_what_was_transformed_is_refused(stacks: tuple[dd.Stack, ...]) -> None:
    cache = dd.MemoryCache()
    read = dd.VolumeDataset(stacks, Compose([orientation()]), cache).read

    with pytest.raises(dd.CacheError, match="cannot read a box"):
        cache.get(stacks[0], read, dd.Region(slice(0, 1)))


def test_it_pickles(stacks: tuple[dd.Stack, ...], tmp_path: Path) -> None:
    dataset = dd.VolumeDataset(stacks, Compose([scale(), crop()]), dd.DiskCache(tmp_path))
    dataset[0]

    copy, read = pickle.loads(pickle.dumps((dataset, dataset.read)))

    assert cache_key(stacks[0], copy.read) == cache_key(stacks[0], read)
    assert cache_key(stacks[0], read) == cache_key(stacks[0], dataset.read)


# --- less work ----------------------------------------------------------------------------------


def test_the_steps_are_taken_once(
    stacks: tuple[dd.Stack, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    resample = Spacingd.__call__

    def counting(self: Any, *args: Any, **options: Any) -> Any:
        taken.append(self)
        return resample(self, *args, **options)

    monkeypatch.setattr(Spacingd, "__call__", counting)
    dataset = dd.VolumeDataset(stacks, Compose([spacing(), crop()]), dd.DiskCache(tmp_path))

    for _ in range(3):
        list(dataset)

    assert len(taken) == len(stacks)


def test_a_crop_of_fractions_is_a_view_of_the_map(
    stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    dataset = dd.VolumeDataset(stacks, Compose([spacing(), crop()]), dd.DiskCache(tmp_path))

    for _ in range(2):
        image = dataset[0][KEY].as_tensor()

    # Nothing was copied: its memory is the file, of which it touches what it shows.
    (entry,) = (tmp_path / "volumes").iterdir()
    assert image.untyped_storage().nbytes() == (entry / "c.0.0.0").stat().st_size - 4


def test_a_crop_of_whole_numbers_is_all_that_is_converted(
    stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    transform = Compose([orientation(), RandFlipd(KEY, 0.0), crop(), scale()])
    cache = dd.DiskCache(tmp_path)
    dataset = dd.VolumeDataset(stacks, transform, cache)

    for _ in range(2):
        image = dataset[0][KEY].as_tensor()

    assert [entry.dtype for entry in cache.entries()] == ["int16"]
    assert image.dtype == torch.float32
    # 5 x 6 x 4 voxels, and a gap at the end of rows and slices.
    assert image.untyped_storage().nbytes() <= 6 * 7 * 4 * 4


# --- in plain values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**70),
        "a\n\u2028\udc80",
        [1, 1.0, -0.0, 1e-323, float("inf"), float("-inf"), [(), ([],)]],
        {"a": {1: (2, {}), None: {"float": "1"}}, (1, "b"): torch.Size((3, 4))},
        np.float32(1) / 3,
        np.int8(-1),
        np.bool_(True),
        np.arange(6, dtype=">u2").reshape(2, 3),
        np.zeros((0, 3)),
        np.array(5.0),
        torch.tensor([[1.5, float("nan")]], dtype=torch.float64),
        torch.tensor(True),
        SpaceKeys.RAS,
        TraceKeys.NONE,
    ],
)
def test_plain_values_come_back(value: Any) -> None:
    text = json.dumps(to_plain(value), allow_nan=False)

    assert_same(from_plain(json.loads(text)), value)


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        object(),
        b"bytes",
        len,
        1j,
        np.complex64(1),
        np.array(["text"]),
        np.array([None]),
        np.datetime64("2026-01-01"),
        np.zeros(10_000),
        torch.zeros(1, requires_grad=True),
        torch.zeros(1, dtype=torch.bfloat16),
        torch.zeros(1).to_sparse(),
        MetaTensor(torch.zeros(1)),
        OrderedDict(a=1),
        [Path()],
    ],
)
def test_other_values_have_no_plain_form(value: Any) -> None:
    with pytest.raises(PlainError):
        to_plain(value)


def test_a_type_that_a_file_invents_is_refused() -> None:
    for plain in ({"path": "a"}, {"array": ["O", [1], "00"]}, {"word": ["os", "sep"]}):
        with pytest.raises((KeyError, ValueError, AttributeError)):
            from_plain(plain)


# --- settings as text ---------------------------------------------------------------------------


def test_settings_that_differ_have_other_texts() -> None:
    settings = [
        *(0, 0.0, -0.0, False, None, "0", b"0", (0,), [0], {0}, {0: 0}, [[0]], [0, 0], "0, 0"),
        *(np.float32(0), np.float64(0), np.zeros(1), np.zeros((1, 1)), torch.zeros(1)),
        *(float, np.float32, torch.float32, np.dtype("f4"), torch.device("cpu"), set_track_meta),
        *(slice(0), range(0), scale(), scale(1), ScaleIntensityd(KEY), Compose, SpaceKeys.RAS),
    ]

    texts = {Teller().tell(value) for value in settings}

    assert len(texts) == len(settings)
    assert texts == {Teller().tell(value) for value in settings}


def test_settings_without_a_text_are_refused() -> None:
    itself: list[Any] = []
    itself.append(itself)

    for value in (positive, Path(), object(), crop(), itself, [Brighter(KEY)], partial(len)):
        with pytest.raises(UntoldError):
            Teller().tell(value)


# --- in memory ----------------------------------------------------------------------------------


def test_float32_lies_in_memory_as_int16_did() -> None:
    whole = torch.arange(2 * 7 * 8 * 9, dtype=torch.int16).reshape(2, 7, 8, 9)

    for tensor in (
        whole,
        whole[:, 1:5, :, 2:4],
        whole[..., :3],
        whole.permute(0, 3, 2, 1)[:, 1:, 2:],
        whole[:1, :, :1],
        whole[:, ::2, :, ::3],
    ):
        wide = as_float32(tensor)
        layout, buffer = buffer_of(tensor)

        assert torch.equal(wide, tensor.float())
        assert layout_of(wide) == layout == layout_of(tensor)
        assert torch.equal(layout.place(torch.from_numpy(buffer)), tensor)
        # PyTorch adds in the order of memory.
        noise = tensor * 0.1
        lies = layout.place(torch.from_numpy(buffer_of(noise)[1]))
        assert float(lies.sum()) == float(noise.sum())

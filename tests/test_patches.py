"""`PatchDataset`: patches as MONAI's crops, where they lie, padding, randomness, what they cost."""

from __future__ import annotations

import itertools
import math
import os
import pickle
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import decollate_batch
from monai.transforms import (
    Compose,
    RandFlipd,
    RandGaussianNoised,
    RandSpatialCropd,
    ScaleIntensityRange,
    SpatialCrop,
    SpatialPad,
)
from torch.utils.data import DataLoader
from volumes_to_cut import SHAPES, three_volumes, whole, xyz

import dicomdata as dd
from dicomdata.cache import DiskCache, MemoryCache
from dicomdata.dataset import SampleIndex
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from pathlib import Path

    from prepared_python import PreparedPython
    from volumes_to_cut import Planned, Triple

    from dicomdata.cache import VolumeCache

OBLIQUE = (0.8, 0.6, 0, 0, 0, -1)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory, planned: Planned) -> tuple[dd.Stack, ...]:
    """Three CT volumes on oblique grids, all larger than a patch of (4, 6, 5)."""
    return three_volumes(tmp_path_factory.mktemp("archive"), planned, orientation=OBLIQUE)


def cropped(stack: dd.Stack, start: Any, size: Triple) -> Any:
    """Crop the whole volume, as MONAI does."""
    first, wanted = xyz(start), xyz(size)
    end = [begin + length for begin, length in zip(first, wanted, strict=True)]
    return SpatialCrop(roi_start=first, roi_end=end)(whole(stack))


def assert_same(patch: Any, expected: Any) -> None:
    """Equal in every voxel, in place to a billionth of a millimetre."""
    assert torch.equal(patch.as_tensor(), expected.as_tensor())
    torch.testing.assert_close(patch.affine, expected.affine, rtol=0, atol=1e-9)


def starts_of(dataset: dd.PatchDataset, index: int = 0, *, times: int) -> list[Triple]:
    """Draw a patch of one stack many times: where they begin."""
    drawn = (dataset[SampleIndex(index, seed=1, epoch=epoch)] for epoch in range(times))
    return [tuple(sample["patch_start"].tolist()) for sample in drawn]


class Fixed:
    """A placement of someone else's."""

    def __init__(self, start: Triple) -> None:
        self.start = start

    def check(self, stack: dd.Stack) -> None:
        pass

    def draw(self, stack: dd.Stack, size: Triple, generator: np.random.Generator) -> Triple:
        return self.start


# --- a patch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_a_patch_is_a_box_of_the_volume_and_monais_crop(
    stacks: tuple[dd.Stack, ...], dtype: Any
) -> None:
    dataset = dd.PatchDataset(stacks, (4, 6, 5), dtype=dtype)

    for sample, stack in zip(dataset, stacks, strict=True):
        s, r, c = sample["patch_start"].tolist()
        region = dd.Region(slice(s, s + 4), slice(r, r + 6), slice(c, c + 5))
        box = dd.to_metatensor(dd.read_volume(stack, region, dtype=dtype), dtype=None)
        expected = cropped(stack, (s, r, c), (4, 6, 5))
        assert sample["image"].shape == (1, 5, 6, 4)
        assert_same(sample["image"], box)
        assert_same(sample["image"].to(torch.float32), expected)
        assert sample["patch_valid"].tolist() == [[0, 4], [0, 6], [0, 5]]


@given(start=st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 9)))
def test_a_patch_anywhere_is_monais_crop(stacks: tuple[dd.Stack, ...], start: Triple) -> None:
    sample = dd.PatchDataset(stacks[:1], (4, 6, 5), where=Fixed(start))[0]

    assert_same(sample["image"], cropped(stacks[0], start, (4, 6, 5)))


def test_a_sample_says_whose_it_is_and_where(stacks: tuple[dd.Stack, ...]) -> None:
    dataset = dd.PatchDataset(stacks, (4, 6, 5), image="ct")

    volume = dd.VolumeDataset(stacks, image="ct")[1]
    sample = dataset[1]

    assert set(sample) == {*volume, "patch_start", "patch_valid"}
    assert set(sample["ct"].meta) == set(volume["ct"].meta)
    for key in set(volume) - {"ct"}:
        assert sample[key] == volume[key]


def test_patches_make_a_batch_and_come_apart_again(stacks: tuple[dd.Stack, ...]) -> None:
    dataset = dd.PatchDataset(stacks, (4, 6, 5), per_visit=2)

    batch = next(iter(DataLoader(dataset, batch_size=3, collate_fn=dd.collate)))

    assert batch["image"].shape == (6, 1, 5, 6, 4)
    assert batch["patch_start"].shape == (6, 3)
    assert batch["stack"] == [stack.id for stack in stacks for _ in range(2)]
    apart: Any = decollate_batch(batch)
    for sample, stack in zip(apart, [s for s in stacks for _ in range(2)], strict=True):
        assert_same(sample["image"], cropped(stack, sample["patch_start"], (4, 6, 5)))


def test_a_sample_can_be_saved_and_loaded_without_trusting_the_file(
    stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    visit = dd.PatchDataset(stacks, (12, 6, 5), per_visit=2)[0]

    torch.save(visit, tmp_path / "visit.pt")
    loaded = torch.load(tmp_path / "visit.pt", weights_only=True)

    for one, other in zip(visit, loaded, strict=True):
        assert_same(one.pop("image"), other.pop("image"))
        assert torch.equal(one.pop("patch_start"), other.pop("patch_start"))
        assert torch.equal(one.pop("patch_valid"), other.pop("patch_valid"))
        assert one == other


def test_a_visit_gives_patches_of_its_own_each_transformed(stacks: tuple[dd.Stack, ...]) -> None:
    crop = RandSpatialCropd("image", (2, 2, 2), random_size=False)
    dataset = dd.PatchDataset(stacks, (4, 6, 5), per_visit=8, transform=crop)

    visit = dataset[0]

    assert len(visit) == 8
    assert {sample["image"].shape for sample in visit} == {(1, 2, 2, 2)}
    assert len({tuple(sample["patch_start"].tolist()) for sample in visit}) > 1


@pytest.mark.parametrize("whole_axis", [None, -1])
def test_a_patch_may_have_a_whole_axis(stacks: tuple[dd.Stack, ...], whole_axis: Any) -> None:
    dataset = dd.PatchDataset(stacks, (whole_axis, 3, whole_axis))

    shapes = [tuple(sample["image"].shape) for sample in dataset]

    assert shapes == [(1, columns, 3, slices) for slices, _, columns in SHAPES]
    assert_same(dd.PatchDataset(stacks, (None, None, None))[0]["image"], whole(stacks[0]))


@pytest.mark.parametrize("gap", ["air", "interpolate"])
def test_a_patch_of_a_repaired_stack_says_which_slices_were_filled(
    gap: Any, tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path, shape=(5, 8, 8), positions=[(0, 0, z) for z in (0, 2, 4, 8, 10)])
    (stack,) = planned(tmp_path, dd.Policy(gap="repair", fill=gap)).stacks
    assert stack.shape == (6, 8, 8)

    inner = dd.PatchDataset([stack], (4, 3, 3), where=Fixed((2, 1, 4)))[0]
    padded = dd.PatchDataset([stack], (8, 3, 3), where=Fixed((-1, 1, 4)))[0]

    assert_same(inner["image"], cropped(stack, (2, 1, 4), (4, 3, 3)))
    assert inner["image"].meta["filled_slices"] == "1"
    assert padded["image"].meta["filled_slices"] == "0 4 7"


def test_a_damaged_slice_is_an_error_of_the_patches_that_need_it(
    tmp_path: Path, planned: Planned
) -> None:
    paths = write_series(tmp_path, shape=(6, 8, 8))
    (stack,) = planned(tmp_path).stacks

    os.truncate(paths[4], 1000)

    assert dd.PatchDataset([stack], (3, 3, 3), where=Fixed((1, 0, 0)))[0]["image"].any()
    with pytest.raises(dd.StaleError, match=paths[4].name):
        dd.PatchDataset([stack], (3, 3, 3), where=Fixed((2, 0, 0)))[0]


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_patches_are_cut_from_what_a_cache_has(
    kind: str, stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    cache: VolumeCache = MemoryCache("1 GB") if kind == "memory" else DiskCache(tmp_path)
    assert dd.warm(stacks, cache, progress=False) == ()

    for sample, stack in zip(dd.PatchDataset(stacks, (4, 6, 5), cache=cache), stacks, strict=True):
        expected = cropped(stack, sample["patch_start"], (4, 6, 5))
        assert_same(sample["image"], expected)
        sample["image"] *= 0  # as transforms in place do

    for sample, stack in zip(dd.PatchDataset(stacks, (4, 6, 5), cache=cache), stacks, strict=True):
        assert_same(sample["image"], cropped(stack, sample["patch_start"], (4, 6, 5)))


def test_it_pickles_as_plans_and_options(stacks: tuple[dd.Stack, ...]) -> None:
    dataset = dd.PatchDataset(stacks, (4, 6, 5), where=dd.GridPatches(overlap=0.5))

    copy = pickle.loads(pickle.dumps(dataset))

    assert len(copy) == len(dataset)
    assert_same(copy[7]["image"], dataset[7]["image"])
    assert len(pickle.dumps(dataset)) < 1000 * len(stacks)


# --- windows of values ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 6, 5), (12, 6, 5)])
@pytest.mark.parametrize("cached", [False, True])
def test_a_window_is_monais_scaling_to_the_last_bit(
    stacks: tuple[dd.Stack, ...], size: Triple, cached: bool
) -> None:
    cache = MemoryCache("1 GB") if cached else None
    if cache is not None:
        dd.warm(stacks, cache, progress=False)
    start = (min(0, (SHAPES[0][0] - size[0]) // 2), 2, 3)
    scaled, plain = (
        dd.PatchDataset(stacks[:1], size, where=Fixed(start), cache=cache, window=window)[0]
        for window in ((-1010, -700.5), None)
    )

    expected: Any = ScaleIntensityRange(-1010, -700.5, 0, 1, clip=True)(plain["image"])

    assert_same(scaled["image"], expected)
    assert float(scaled["image"].max()) == 1
    windowed = dd.read_volume(stacks[0], window=(-1010, -700.5))
    assert scaled["unit"] == scaled["image"].meta["unit"] == windowed.unit
    # What the cache has is in HU still.
    again = dd.PatchDataset(stacks[:1], size, where=Fixed(start), cache=cache)[0]
    assert_same(again["image"], plain["image"])


# --- padding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
@pytest.mark.parametrize("where", [None, dd.GridPatches()])
@pytest.mark.parametrize("size", [(12, 17, 15), (10, 13, 15), (4, 17, 6)])
def test_a_stack_that_is_smaller_is_padded_as_monai_pads(
    stacks: tuple[dd.Stack, ...], size: Triple, where: Any, dtype: Any
) -> None:
    stack = stacks[0]
    padded: Any = SpatialPad(xyz(size), value=-1024)(whole(stack))

    sample = dd.PatchDataset([stack], size, where=where, dtype=dtype)[0]

    start = sample["patch_start"].numpy()
    before = np.maximum(np.subtract(size, stack.shape), 0) // 2
    first = xyz(start + before)
    last = [begin + length for begin, length in zip(first, xyz(size), strict=True)]
    expected: Any = SpatialCrop(roi_start=first, roi_end=last)(padded)
    assert_same(sample["image"].to(torch.float32), expected)
    assert sample["image"].shape == (1, *xyz(size))
    assert sample["image"].meta["spatial_shape"] == xyz(size)
    s, r, c = (slice(*ends) for ends in sample["patch_valid"].tolist())
    inside = sample["image"][0].permute(2, 1, 0)[s, r, c]
    assert inside.shape == tuple(map(min, size, stack.shape))


def test_slices_that_are_padding_were_not_measured(stacks: tuple[dd.Stack, ...]) -> None:
    sample = dd.PatchDataset(stacks[2:], (8, 4, 4))[0]

    assert sample["patch_start"].tolist()[0] == -1
    assert sample["patch_valid"].tolist()[0] == [1, 6]
    assert sample["image"].meta["filled_slices"] == "0 6 7"


@pytest.mark.parametrize(
    ("header", "policy", "fill", "expected"),
    [
        pytest.param({}, {}, "air", -1024, id="HU"),
        pytest.param({}, {"padding": -2000}, "air", -2000, id="the policy's"),
        pytest.param({}, {}, 7.5, 7.5, id="a number"),
        pytest.param({}, {}, math.nan, math.nan, id="nan"),
        pytest.param({"modality": "MR"}, {}, "air", 0, id="lowest of unsigned"),
        pytest.param({"modality": "MR", "signed": True, "bits_stored": 12}, {}, "air", -2048,
                     id="lowest of signed"),
    ],
)  # fmt: skip
def test_padding_is_air_unless_something_else_is_asked_for(
    header: dict[str, Any], policy: dict[str, Any], fill: Any, expected: float,
    tmp_path: Path, planned: Planned,
) -> None:  # fmt: skip
    write_series(tmp_path, shape=(2, 4, 6), **header)
    (stack,) = planned(tmp_path, dd.Policy(**policy)).stacks

    image = dd.PatchDataset([stack], (4, 4, 6), fill=fill)[0]["image"]

    np.testing.assert_array_equal(image[..., [0, 3]], np.full((1, 6, 4, 2), expected))
    assert torch.equal(image[..., 1:3].as_tensor(), whole(stack).as_tensor())


def test_padding_that_does_not_fit_int16_is_refused_by_name(stacks: tuple[dd.Stack, ...]) -> None:
    for fill in (0.5, 32768, -32769, math.nan):
        dataset = dd.PatchDataset(stacks, (12, 4, 4), fill=fill, dtype=np.int16)
        with pytest.raises(dd.RescaleError, match=rf"{stacks[0].id}.*does not fit int16"):
            dataset[0]
    for fill in (32767, -32768):
        image = dd.PatchDataset(stacks, (12, 4, 4), fill=fill, dtype=np.int16)[0]["image"]
        assert int(image[0, 0, 0, 0]) == fill


# --- sizes ----------------------------------------------------------------------------------------


def test_what_makes_no_sense_is_refused_before_anything_is_read(
    stacks: tuple[dd.Stack, ...],
) -> None:
    options: Any
    for size in ((4, 4), (4, 4, 0), (4, -2, 4), (4, 4, 4.5), "big", 96, (None,) * 4):
        with pytest.raises(dd.ConfigError, match="size="):
            dd.PatchDataset(stacks, size)  # type: ignore[arg-type]
    for options, text in (
        ({"per_visit": 0}, "per_visit=0"),
        ({"per_visit": 2, "where": dd.GridPatches()}, "a grid has each window once"),
        ({"fill": "water"}, "fill='water'"),
        ({"window": (40, -160)}, "from low to high"),
        ({"window": 400}, "window=400"),
        ({"window": (-160, 240), "dtype": np.int16}, "not int16"),
    ):
        with pytest.raises(dd.ConfigError, match=text):
            dd.PatchDataset(stacks, (4, 6, 5), **options)
    for overlap in (-0.1, 1, math.nan):
        with pytest.raises(dd.ConfigError, match="overlap"):
            dd.GridPatches(overlap=overlap)
    with pytest.raises(dd.ConfigError, match=rf"{stacks[2].id}.*\(6, 4, 4\) is larger"):
        dd.PatchDataset(stacks, (6, 4, 4), fill="refuse")
    outside = dd.PatchDataset(stacks, (4, 6, 5), where=Fixed((-4, 0, 0)))
    with pytest.raises(dd.ConfigError, match="holds no voxel"):
        outside[0]


# --- randomness -----------------------------------------------------------------------------------


class Jitter:
    """Draws from the global states, as transforms of anybody's may."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        noise = torch.rand(1).item() + np.random.rand()  # noqa: NPY002
        return {**sample, "image": sample["image"] + noise}


def random_dataset(stacks: tuple[dd.Stack, ...]) -> dd.PatchDataset:
    transform = Compose([RandFlipd("image", prob=0.5), RandGaussianNoised("image", 1.0), Jitter()])
    return dd.PatchDataset(stacks, (4, 6, 5), per_visit=2, transform=transform)


def epoch_of(loader: DataLoader[Any], sampler: dd.EpochSampler) -> dict[tuple[str, int], bytes]:
    """What the patches of each stack are, to the bit, and where."""
    found: dict[tuple[str, int], bytes] = {}
    for batch in sampler.counted(loader):
        for name, start, image in zip(
            batch["stack"], batch["patch_start"], batch["image"], strict=True
        ):
            number = (name, 0) in found
            found[name, number] = start.numpy().tobytes() + image.numpy().tobytes()
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 1},
        {"num_workers": 2, "multiprocessing_context": "fork"},
        {"num_workers": 2, "multiprocessing_context": "forkserver", "persistent_workers": True},
    ],
    ids=["one-worker", "fork", "forkserver-persistent"],
)
def test_patches_do_not_depend_on_workers(
    stacks: tuple[dd.Stack, ...], options: dict[str, Any]
) -> None:
    dataset = random_dataset(stacks)

    def two_epochs(**options: Any) -> list[dict[tuple[str, int], bytes]]:
        sampler = dd.EpochSampler(dataset, seed=5)
        loader = DataLoader(
            dataset, batch_size=2, sampler=sampler, collate_fn=dd.collate, **options
        )
        return [epoch_of(loader, sampler) for _ in range(2)]

    first, second = two_epochs()

    assert first.keys() == second.keys() == set(itertools.product([s.id for s in stacks], (0, 1)))
    assert len({*first.values(), *second.values()}) == 12
    assert two_epochs(**options) == [first, second]


def test_drawing_takes_nothing_from_the_trainer(stacks: tuple[dd.Stack, ...]) -> None:
    dataset = random_dataset(stacks)
    torch.manual_seed(1)
    expected = torch.rand(3)

    torch.manual_seed(1)
    dataset[SampleIndex(0, seed=9, epoch=0)]

    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_without_a_sampler_draw_patches_of_their_own(
    stacks: tuple[dd.Stack, ...], persistent: bool
) -> None:
    dataset = dd.PatchDataset([stacks[0]] * 32, (2, 2, 2))
    loader = DataLoader(
        dataset, num_workers=2, collate_fn=dd.collate, persistent_workers=persistent
    )

    first, second = (
        [tuple(batch["patch_start"][0].tolist()) for batch in loader] for _ in range(2)
    )

    # Samples alternate between the workers: equal halves would mean equal states.
    assert first[::2] != first[1::2]
    assert first != second


def test_plain_numbers_draw_from_torch(stacks: tuple[dd.Stack, ...]) -> None:
    dataset = dd.PatchDataset([stacks[0]] * 16, (2, 2, 2))

    def starts() -> list[list[int]]:
        torch.manual_seed(3)
        return [sample["patch_start"].tolist() for sample in dataset]

    assert starts() == starts()
    assert len(set(map(tuple, starts()))) > 8


# --- budgets --------------------------------------------------------------------------------------

COUNT_WORK = """
import sys, collections
opened = collections.Counter()
sys.addaudithook(
    lambda event, details: opened.update([str(details[0])]) if event == "open" else None
)
import dicomdata as dd

def bytes_read():
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])

(stack,) = dd.plan_stacks(dd.scan(sys.argv[1], progress=False)).stacks
dataset = dd.PatchDataset([stack], (3, 10, 7))
dataset[0]  # imports and frames are there from now on
one = bytes_read()
itself = bytes_read() - one
opened.clear()
before = bytes_read()
sample = dataset[0]
count = bytes_read() - before - itself
first = sample["patch_start"].tolist()[0]
names = [path for path in opened.elements() if path.endswith(".dcm")]
print(count, sorted(names) == sorted(stack.paths[first:first + 3]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="bytes are counted by Linux")
def test_a_patch_opens_its_slices_once_and_reads_only_its_rows(
    tmp_path: Path, prepared_python: PreparedPython
) -> None:
    write_series(tmp_path / "series", shape=(8, 64, 100))

    done = prepared_python.run(COUNT_WORK, tmp_path / "series", folder=tmp_path)

    row = 100 * 2
    assert done.stderr == ""
    assert done.stdout.split() == [str(3 * 10 * row), "True"]

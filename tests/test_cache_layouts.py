"""How entries lie on disk: both layouts are zarr, cost what a box is worth, and show every flip."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from dicomdata.cache import DiskCache
from dicomdata.cache.damage import DamagedEntryError
from dicomdata.cache.entry import CHUNK, METADATA, read_entry
from dicomdata.cache.opened import OpenFiles
from dicomdata.cache.raw import RawFile, write_raw
from dicomdata.cache.small import CHUNK_SHAPE, read_small, small_codecs, write_small
from dicomdata.catalog import scan
from dicomdata.errors import CacheError
from dicomdata.regions import Region
from dicomdata.stack import Stack, plan_stacks
from dicomdata.testing.contracts import assert_same_volume
from dicomdata.testing.phantoms import write_series
from dicomdata.volume import Volume, read_volume

if TYPE_CHECKING:
    from pathlib import Path

LAYOUTS = pytest.mark.parametrize("layout", ["raw", "small"])

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""Python 3.12 and later warn of forks beside threads, which is what is tested."""


def make_stack(folder: Path, shape: tuple[int, ...] = (5, 4, 6), **changes: Any) -> Stack:
    """Make a stack of smooth values with some noise, as an image has them."""
    place = np.indices(shape).sum(0)
    noise = np.random.default_rng(0).integers(0, 8, shape)
    write_series(folder, stored=(place + noise).astype(np.uint16), **changes)
    return plan_stacks(scan(folder, progress=False)).stacks[0]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """List the lengths of all that is read from a place in a file."""
    reads: list[int] = []
    pread = os.pread

    def counted(handle: int, length: int, offset: int) -> bytes:
        reads.append(length)
        return pread(handle, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    return reads


def entry_of(folder: Path) -> Path:
    """Give the one entry of a cache."""
    (entry,) = (folder / "volumes").iterdir()
    return entry


def entry_bytes(folder: Path) -> int:
    """Tell the bytes of the entries of a cache."""
    return sum(file.stat().st_size for file in folder.glob("volumes/*/*"))


# --- zarr ---------------------------------------------------------------------------------------


@LAYOUTS
@pytest.mark.parametrize(
    ("slope", "dtype", "kept"),
    [("1", "float32", "int16"), ("1", "int16", "int16"), ("0.3", "float32", "float32")],
)
def test_zarr_reads_both_layouts(
    layout: Any, slope: str, dtype: str, kept: str, tmp_path: Path
) -> None:
    stack = make_stack(tmp_path / "series", (35, 70, 130), slope=slope)
    cache = DiskCache(tmp_path / "cache", layout=layout)
    volume = cache.get(stack, partial(read_volume, dtype=dtype))

    array: Any = zarr.open_array(entry_of(tmp_path / "cache"), mode="r")

    assert array.dtype == np.dtype(kept)
    assert array.shape == (35, 70, 130)
    np.testing.assert_array_equal(array[:], volume.voxels)
    np.testing.assert_array_equal(array[3:34, 60:70, 1:129], volume.voxels[3:34, 60:70, 1:129])
    assert array.attrs["dicomdata"]["layout"] == layout


@given(
    shape=st.tuples(*(st.integers(1, length + 9) for length in CHUNK_SHAPE)),
    dtype=st.sampled_from(["int16", "float32", "uint8", "bool", "float64"]),
    data=st.data(),
)
def test_any_box_of_compressed_chunks_is_that_box_of_the_array(
    shape: tuple[int, int, int], dtype: str, data: st.DataObject
) -> None:
    array = np.random.default_rng(0).integers(0, 99, shape).astype(dtype)
    starts = [data.draw(st.integers(0, length - 1)) for length in shape]
    stops = [
        data.draw(st.integers(start + 1, length))
        for start, length in zip(starts, shape, strict=True)
    ]
    first, second, third = map(range, starts, stops)
    out = np.empty((len(first), len(second), len(third)), dtype)

    with tempfile.TemporaryFile() as file:
        write_small(file, array)
        file.flush()
        read_small(file, shape, np.dtype(dtype), (first, second, third), out)

    np.testing.assert_array_equal(out, array[tuple(map(slice, starts, stops))])


@pytest.mark.parametrize("dtype", ["int16", "float32", "uint8"])
def test_a_chunk_is_packed_as_its_description_says(dtype: str, tmp_path: Path) -> None:
    with (tmp_path / "chunk").open("wb") as file:
        write_small(file, np.arange(64, dtype=dtype).reshape(4, 4, 4))
    (shard,) = small_codecs(np.dtype(dtype))

    header = (tmp_path / "chunk").read_bytes()[:16]

    # Of the header of blosc 1: byte 2 has the filters, 3 the type size, 4 to 7 the plain size.
    said = shard["configuration"]["codecs"][1]["configuration"]
    assert (said["shuffle"], said["typesize"]) == ("shuffle", header[3])
    assert header[2] & 0b101 == 0b001
    assert int.from_bytes(header[4:8], "little") == np.prod(CHUNK_SHAPE) * header[3]


# --- cost ---------------------------------------------------------------------------------------


def test_small_is_smaller_and_bounded_by_what_it_really_takes(tmp_path: Path) -> None:
    stacks = [
        make_stack(tmp_path / str(number), (32, 64, 64), seed=str(number)) for number in range(4)
    ]
    raw, small = DiskCache(tmp_path / "raw"), DiskCache(tmp_path / "small", layout="small")
    for cache in (raw, small):
        cache.get(stacks[0], read_volume)
    size = entry_bytes(tmp_path / "small")
    assert size < 0.5 * entry_bytes(tmp_path / "raw")
    assert small.statistics().bytes == size

    bounded = DiskCache(tmp_path / "small", 3 * size, layout="small")
    for stack in stacks[1:]:
        bounded.get(stack, read_volume)

    assert entry_bytes(tmp_path / "small") <= 3.1 * size
    assert 1 <= bounded.statistics().evictions <= 2


def test_a_box_reads_the_chunks_it_touches_and_the_index(tmp_path: Path, reads: list[int]) -> None:
    stack = make_stack(tmp_path / "series", (64, 128, 192))
    cache = DiskCache(tmp_path / "cache", layout="small")
    cache.get(stack, read_volume)
    chunks = 2 * 4 * 6

    reads.clear()
    volume = cache.get(stack, read_volume, Region(slice(8, 24), slice(60, 70), slice(64, 128)))

    # One chunk of slices, two of rows, two of columns; and 16 bytes a chunk of index.
    assert len(reads) == 1 + 4
    assert reads[0] == 16 * chunks + 4
    assert sum(reads) < 0.15 * entry_bytes(tmp_path / "cache")
    assert volume.voxels.shape == (16, 10, 64)


def test_a_box_of_plain_voxels_that_are_not_mapped_reads_its_rows(
    tmp_path: Path, reads: list[int]
) -> None:
    array = np.arange(64 * 128 * 192, dtype=np.int16).reshape(64, 128, 192)
    with (tmp_path / "chunk").open("wb") as file:
        write_raw(file, array)

    reads.clear()
    with (tmp_path / "chunk").open("rb") as written:
        box = range(8, 24), range(60, 70), range(64, 128)
        found = RawFile(written, array.shape, array.dtype).read(box, np.dtype(np.float32))

    np.testing.assert_array_equal(found, array[8:24, 60:70, 64:128])
    assert reads == [10 * 192 * 2] * 16


@pytest.mark.parametrize("processors", [1, 4])
def test_many_chunks_are_shared_out_among_threads(
    processors: int, tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).integers(0, 99, (70, 100, 100), np.int16)
    out = np.empty(array.shape, np.float32)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(processors), raising=False)
    with (tmp_path / "chunk").open("wb") as file:
        write_small(file, array)

    reads.clear()
    with (tmp_path / "chunk").open("rb") as written:
        read_small(written, array.shape, array.dtype, (range(70), range(100), range(100)), out)

    np.testing.assert_array_equal(out, array)
    # The index, and each of the 3 x 4 x 4 chunks once.
    assert len(reads) == 1 + 48


# --- damage -------------------------------------------------------------------------------------


@LAYOUTS
@pytest.mark.parametrize("name", [CHUNK, METADATA])
def test_every_flipped_bit_is_noticed(layout: Any, name: str, tmp_path: Path) -> None:
    stack = make_stack(tmp_path / "series", (2, 3, 2))
    volume = DiskCache(tmp_path / "cache", layout=layout).get(stack, read_volume)
    entry = entry_of(tmp_path / "cache")
    key = entry.name.removesuffix(".zarr")
    content = (entry / name).read_bytes()

    served = []
    # Every bit of the voxels; of the description, which one digest covers, every seventh.
    for bit in range(0, 8 * len(content), 1 if name == CHUNK else 7):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (entry / name).write_bytes(flipped)
        try:
            served.append(read_entry(str(entry), key, stack, opened=OpenFiles()))
        except DamagedEntryError:
            continue

    # White space and a number that JSON writes in two ways are all that may change unseen.
    assert len(served) <= (0 if name == CHUNK else 2)
    for each in served:
        assert each is not None
        assert_same_volume(each, volume)


@LAYOUTS
def test_a_box_of_a_damaged_entry_is_read_anew(layout: Any, tmp_path: Path) -> None:
    stack = make_stack(tmp_path / "series")
    DiskCache(tmp_path / "cache", layout=layout).get(stack, read_volume)
    path = entry_of(tmp_path / "cache") / CHUNK
    path.write_bytes(path.read_bytes()[:-1])
    cache, box = DiskCache(tmp_path / "cache", layout=layout), Region(slice(1, 3))

    volume = cache.get(stack, read_volume, box)

    assert_same_volume(volume, read_volume(stack, box))
    assert cache.statistics().misses == 1


def test_an_index_that_points_elsewhere_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "chunk"
    with path.open("wb") as file:
        write_small(file, np.zeros((1, 1, 1), np.int16))
    path.write_bytes(path.read_bytes()[7:])

    with path.open("rb") as file, pytest.raises(DamagedEntryError, match="not what was written"):
        read_small(file, (1, 1, 1), np.dtype(np.int16), (range(1),) * 3, np.empty((1, 1, 1)))


# --- side by side -------------------------------------------------------------------------------


def test_entries_of_either_layout_are_served_from_one_folder(tmp_path: Path) -> None:
    stacks = [make_stack(tmp_path / name, seed=name) for name in ("one", "two")]
    raw, small = DiskCache(tmp_path / "cache"), DiskCache(tmp_path / "cache", layout="small")
    raw.get(stacks[0], read_volume)
    small.get(stacks[1], read_volume)

    for stack in stacks:
        for cache in (raw, small):
            assert_same_volume(cache.get(stack, read_volume), read_volume(stack))

    assert raw.statistics().hits == small.statistics().hits == 2


def test_a_layout_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="expected one of raw, small"):
        DiskCache(tmp_path, layout="tiny")  # type: ignore[arg-type]


def test_a_pickled_cache_keeps_its_layout(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, "1 GB", layout="small")

    assert repr(pickle.loads(pickle.dumps(cache))) == repr(cache)


def get_volume(cache: DiskCache, stack: Stack, region: Region) -> Volume:
    return cache.get(stack, read_volume, region)


@FORKS
def test_forked_children_decompress_what_their_parent_did(tmp_path: Path) -> None:
    stack = make_stack(tmp_path / "series", (40, 70, 70))
    cache = DiskCache(tmp_path / "cache", layout="small")
    cache.get(stack, read_volume)
    boxes = [Region(slice(k, k + 9)) for k in range(0, 30, 3)]

    with multiprocessing.get_context("fork").Pool(2) as pool:
        volumes = pool.map(partial(get_volume, cache, stack), boxes)

    for volume, box in zip(volumes, boxes, strict=True):
        assert_same_volume(volume, read_volume(stack, box))

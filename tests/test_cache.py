"""Caches of volumes: the contract for each, and what only one of them promises."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from cache_folder import entries, leftovers
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dicomdata.cache import DiskCache, MemoryCache, NoCache, VolumeCache, warm
from dicomdata.cache.entry import CHUNK, METADATA
from dicomdata.cache.kept import as_int16
from dicomdata.cache.keys import parse_bytes
from dicomdata.cache.locks import acquire
from dicomdata.cache.memory import ProcessCache
from dicomdata.catalog import scan
from dicomdata.errors import CacheError, DicomDataWarning
from dicomdata.stack import Stack, plan_stacks
from dicomdata.testing.contracts import (
    CacheContract,
    assert_same_volume,
    count_reads,
    logged_read,
)
from dicomdata.testing.phantoms import write_series
from dicomdata.volume import Volume, read_volume

VOLUME_BYTES = 5 * 4 * 6 * 2
"""Of the default phantom, kept as int16."""

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""Python 3.12 and later warn of forks beside threads, which is what is tested."""


def make_stack(folder: Path, **changes: Any) -> Stack:
    write_series(folder, **changes)
    return plan_stacks(scan(folder, progress=False)).stacks[0]


class TestMemoryCache(CacheContract):
    def make(self, folder: Path) -> VolumeCache:
        return MemoryCache()


class TestProcessCache(CacheContract):
    def make(self, folder: Path) -> VolumeCache:
        return ProcessCache()


class TestDiskCache(CacheContract):
    def make(self, folder: Path) -> VolumeCache:
        return DiskCache(folder)


class TestSmallDiskCache(CacheContract):
    def make(self, folder: Path) -> VolumeCache:
        return DiskCache(folder, layout="small")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# --- both ---------------------------------------------------------------------------------------


def test_no_cache_reads_every_time(stacks: list[Stack], tmp_path: Path) -> None:
    log = tmp_path / "log"

    for _ in range(2):
        NoCache().get(stacks[0], partial(logged_read, log=str(log)))

    assert count_reads(log) == 2


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_statistics_count_what_happened(kind: str, stacks: list[Stack], folder: Path) -> None:
    cache = MemoryCache() if kind == "memory" else DiskCache(folder)

    for stack in (stacks[0], stacks[1], stacks[0], stacks[0]):
        cache.get(stack, read_volume)

    statistics = cache.statistics()
    assert (statistics.hits, statistics.misses, statistics.fills) == (2, 2, 2)
    assert 2 * VOLUME_BYTES < statistics.bytes < 2 * (VOLUME_BYTES + 4096)
    assert statistics.evictions == 0


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_the_least_recently_used_volume_leaves_first(
    kind: str, stacks: list[Stack], folder: Path, tmp_path: Path
) -> None:
    # An entry has its metadata too, which takes more than these few voxels.
    DiskCache(tmp_path / "other").get(stacks[0], read_volume)
    size = sum(file.stat().st_size for file in entries(tmp_path / "other")[0].iterdir())
    cache = MemoryCache(5 * size // 2) if kind == "memory" else DiskCache(folder, 5 * size // 2)
    log = tmp_path / "log"
    read = partial(logged_read, log=str(log))
    one, two, three = stacks

    for stack in (one, two, one, three):
        cache.get(stack, read)

    assert cache.statistics().evictions == 1
    for stack, reads in ((one, 3), (three, 3), (two, 4)):
        cache.get(stack, read)
        assert count_reads(log) == reads


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_volume_larger_than_the_bound_is_not_kept(
    kind: str, stacks: list[Stack], folder: Path
) -> None:
    cache = MemoryCache(100) if kind == "memory" else DiskCache(folder, 100)

    for _ in range(2):
        assert_same_volume(cache.get(stacks[0], read_volume), read_volume(stacks[0]))

    assert cache.statistics().fills == 0


def test_warm_fills_and_collects_what_fails(stacks: list[Stack], folder: Path) -> None:
    cache = DiskCache(folder)
    with open(stacks[1].paths[0], "r+b") as file:
        file.truncate(1000)

    rejected = warm(stacks, cache, progress=False)

    assert [rejection.subject for rejection in rejected] == [stacks[1].id]
    assert cache.statistics().fills == 2
    for stack in (stacks[0], stacks[2]):
        cache.get(stack, read_volume)
    assert cache.statistics().hits == 2


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64 GB", 64 * 10**9),
        ("64gb", 64 * 10**9),
        ("1.5 MiB", 3 * 2**19),
        ("2 TB", 2 * 10**12),
        ("500 B", 500),
        (4096, 4096),
        (None, None),
    ],
)
def test_sizes_may_be_written_as_people_do(text: str | int | None, size: int | None) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("nonsense", ["", "64", "GB", "64 XB", "-1 GB", 0, -5, True, 1.5, "0 GB"])
def test_nonsense_is_no_size(nonsense: Any) -> None:
    with pytest.raises(CacheError, match="max_bytes"):
        MemoryCache(nonsense)


@given(arrays(np.uint32, st.tuples(*[st.integers(1, 3)] * 3)))
def test_int16_is_kept_only_where_every_bit_comes_back(bits: np.ndarray[Any, Any]) -> None:
    voxels = bits.view(np.float32)

    kept = as_int16(voxels)

    if kept is not None:
        assert kept.astype(np.float32).tobytes() == voxels.tobytes()


@given(arrays(np.int16, st.tuples(*[st.integers(1, 3)] * 3)))
def test_whole_numbers_that_fit_are_kept_as_int16(whole: np.ndarray[Any, Any]) -> None:
    kept = as_int16(whole.astype(np.float32))

    assert kept is not None
    np.testing.assert_array_equal(kept, whole)


# --- disk: how entries lie there ----------------------------------------------------------------


def test_zarr_reads_an_entry(stacks: list[Stack], folder: Path) -> None:
    volume = DiskCache(folder).get(stacks[0], read_volume)

    array = zarr.open_array(entries(folder)[0], mode="r")

    np.testing.assert_array_equal(array[:], volume.voxels)
    assert array.dtype == np.int16
    said: Any = array.attrs["dicomdata"]
    assert (said["unit"], said["dtype"], said["stack"]) == ("HU", "float32", stacks[0].id)
    assert said["valid"] == [True] * 5
    np.testing.assert_array_equal(said["affine_lps"], volume.affine_lps)


def test_zarr_reads_fractions(tmp_path: Path, folder: Path) -> None:
    stack = make_stack(tmp_path / "series", slope="0.3")
    volume = DiskCache(folder).get(stack, read_volume)

    array = zarr.open_array(entries(folder)[0], mode="r")

    assert array.dtype == np.float32
    np.testing.assert_array_equal(array[:], volume.voxels)


def test_voxels_kept_as_they_are_come_as_a_map(stacks: list[Stack], folder: Path) -> None:
    cache, read = DiskCache(folder), partial(read_volume, dtype=np.int16)
    cache.get(stacks[0], read)

    voxels = cache.get(stacks[0], read).voxels

    mapped = Path("/proc/self/maps")
    assert voxels.flags.writeable
    if mapped.exists():
        assert f"{entries(folder)[0] / CHUNK}" in mapped.read_text()


def test_an_entry_says_nothing_of_the_patient(tmp_path: Path, folder: Path) -> None:
    stack = make_stack(tmp_path / "series", patient_id="SECRET", extra={"PatientName": "SECRET"})
    DiskCache(folder).get(stack, read_volume)

    for file in entries(folder)[0].iterdir():
        assert b"SECRET" not in file.read_bytes()


# --- disk: damage -------------------------------------------------------------------------------


def damaged_entry(folder: Path, stack: Stack, name: str, damage: str) -> None:
    """Fill a cache, and damage a file of its one entry."""
    DiskCache(folder).get(stack, read_volume)
    path = entries(folder)[0] / name
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 3] ^= 4
    elif damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "zeros":
        content = bytearray(len(content))
    path.write_bytes(content) if damage != "gone" else path.unlink()


@pytest.mark.parametrize("name", [CHUNK, METADATA])
@pytest.mark.parametrize("damage", ["flipped", "cut", "zeros", "gone"])
def test_a_damaged_entry_is_read_anew_and_replaced(
    name: str, damage: str, stacks: list[Stack], folder: Path
) -> None:
    damaged_entry(folder, stacks[0], name, damage)
    cache = DiskCache(folder)

    for _ in range(2):
        assert_same_volume(cache.get(stacks[0], read_volume), read_volume(stacks[0]))

    statistics = cache.statistics()
    assert (statistics.misses, statistics.fills, statistics.hits) == (1, 1, 1)
    assert leftovers(folder) == []


def test_a_damaged_map_is_read_anew(tmp_path: Path, folder: Path) -> None:
    stack = make_stack(tmp_path / "series", slope="0.3")
    damaged_entry(folder, stack, CHUNK, "flipped")

    volume = DiskCache(folder).get(stack, read_volume)

    assert_same_volume(volume, read_volume(stack))


def test_an_entry_under_the_name_of_another_is_not_served(
    stacks: list[Stack], folder: Path
) -> None:
    cache = DiskCache(folder)
    cache.get(stacks[0], read_volume)
    first = entries(folder)[0]
    cache.get(stacks[1], read_volume)
    second = next(path for path in entries(folder) if path != first)
    for file in first.iterdir():
        (second / file.name).write_bytes(file.read_bytes())

    assert_same_volume(cache.get(stacks[1], read_volume), read_volume(stacks[1]))


def test_metadata_is_not_believed_without_its_digest(stacks: list[Stack], folder: Path) -> None:
    cache = DiskCache(folder)
    cache.get(stacks[0], read_volume)
    path = entries(folder)[0] / METADATA
    document = json.loads(path.read_text())
    document["attributes"]["dicomdata"]["unit"] = "BQML"
    path.write_text(json.dumps(document))

    assert cache.get(stacks[0], read_volume).unit == "HU"


KILLED = """
import functools, os, sys, time
from dicomdata.cache import DiskCache
from dicomdata.testing.contracts import logged_read
from dicomdata.catalog import scan
from dicomdata.stack import plan_stacks

folder, root, stage = sys.argv[1], sys.argv[2], int(sys.argv[3])
stack = plan_stacks(scan(root, progress=False)).stacks[0]
flush, calls = os.fsync, 0

def hang(handle):
    global calls
    calls += 1
    if calls == stage:
        print("there", flush=True)
        time.sleep(600)
    flush(handle)

os.fsync = hang
DiskCache(folder).get(stack, functools.partial(logged_read, log=folder + ".log"))
"""
"""A process that stops at one of the moments when it waits for the disk."""


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_a_process_killed_in_mid_write_leaves_nothing_that_is_served(
    stage: int, tmp_path: Path, folder: Path
) -> None:
    stack = make_stack(tmp_path / "series")
    argv = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "series"), str(stage)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    published = stage == 4
    assert leftovers(folder)
    assert len(entries(folder)) == published

    # Filling any entry cleans up, not only the one that was left half-written.
    cache, other = DiskCache(folder), make_stack(tmp_path / "other", seed="other")
    cache.get(other, read_volume)

    assert leftovers(folder) == []
    read = partial(logged_read, log=f"{folder}.log")
    for _ in range(2):
        assert_same_volume(cache.get(stack, read), read_volume(stack))
    assert cache.statistics().misses == (1 if published else 2)


# --- disk: many processes -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_want_one_volume_read_it_once(
    method: str, tmp_path: Path, folder: Path
) -> None:
    stack = make_stack(tmp_path / "series", shape=(20, 64, 64))
    log = tmp_path / "log"
    read = partial(logged_read, log=str(log))

    with multiprocessing.get_context(method).Pool(4) as pool:
        volumes = pool.map(partial(DiskCache(folder).get, read=read), [stack] * 16, chunksize=1)

    assert count_reads(log) == 1
    assert leftovers(folder) == []
    for volume in volumes:
        assert_same_volume(volume, read_volume(stack))


def read_at_random(seed: int, cache: DiskCache, stacks: list[Stack]) -> int:
    """Read volumes in another order in each process; give how many were evicted."""
    for number in np.random.default_rng(seed).integers(len(stacks), size=60):
        volume = cache.get(stacks[number], read_volume)
        assert_same_volume(volume, read_volume(stacks[number]))
    return cache.statistics().evictions


@FORKS
def test_processes_that_evict_each_others_volumes_all_get_the_right_ones(
    stacks: list[Stack], folder: Path
) -> None:
    DiskCache(folder).get(stacks[0], read_volume)
    size = sum(file.stat().st_size for file in entries(folder)[0].iterdir())
    work = partial(read_at_random, cache=DiskCache(folder, 2 * size + 100), stacks=stacks)

    with multiprocessing.get_context("fork").Pool(4) as pool:
        evictions = pool.map(work, range(4), chunksize=1)

    assert sum(evictions) > 0
    assert len(entries(folder)) <= 2
    assert leftovers(folder) == []


forked: list[int] = []


def forking_read(stack: Stack) -> Volume:
    """Read a volume, and fork: the child has every file open that the parent has."""
    child = os.fork()
    if child == 0:
        signal.pause()
    forked.append(child)
    return read_volume(stack)


@FORKS
def test_a_child_forked_while_a_volume_is_read_does_not_hold_its_lock(
    stacks: list[Stack], folder: Path
) -> None:
    cache = DiskCache(folder, max_bytes=VOLUME_BYTES)

    for _ in range(2):
        # Too large to be kept with its metadata's bytes, so the lock is taken again.
        cache.get(stacks[0], forking_read)

    assert leftovers(folder) == []
    for child in forked:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_file_system_without_locks_is_no_obstacle(
    stacks: list[Stack], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for name in ("young", "old"):
        (folder / "partial" / f"{name}-1").mkdir(parents=True)
    os.utime(folder / "partial" / "old-1", (0, 0))
    cache = DiskCache(folder)

    for _ in range(2):
        assert_same_volume(cache.get(stacks[0], read_volume), read_volume(stacks[0]))

    assert cache.statistics().hits == 1
    # Nobody can tell whether its writer lives: it is litter after a day.
    assert [path.name for path in (folder / "partial").iterdir()] == ["young-1"]


def test_a_lock_that_is_held_for_too_long_is_not_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first = acquire(path)

    second = acquire(path, patience_s=0.01)

    assert (first.held, second.held) == (True, False)
    second.release()
    first.release()
    assert not os.path.exists(path)


# --- disk: full, read-only ----------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_degrades_to_reading_with_one_warning(
    stacks: list[Stack], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    cache = DiskCache(tmp_path / "file" / "cache")

    with pytest.warns(DicomDataWarning, match="cannot be kept") as caught:
        volumes = [cache.get(stack, read_volume) for stack in stacks]

    assert [warning.filename for warning in caught] == [__file__]
    for volume, stack in zip(volumes, stacks, strict=True):
        assert_same_volume(volume, read_volume(stack))
    assert cache.statistics().misses == 3


FULL = """
import resource, sys, warnings
from dicomdata.cache import DiskCache
from dicomdata.catalog import scan
from dicomdata.errors import DicomDataWarning
from dicomdata.stack import plan_stacks
from dicomdata.volume import Volume, read_volume

folder, root = sys.argv[1:]
stacks = plan_stacks(scan(root, progress=False)).stacks
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for stack in stacks:
        assert (DiskCache(folder).get(stack, read_volume).voxels == read_volume(stack).voxels).all()
print([str(warning.message) for warning in caught if warning.category is DicomDataWarning])
"""
"""A process whose files may not grow: what it writes fails as on a full disk."""


def test_a_full_disk_degrades_to_reading_with_one_warning(tmp_path: Path, folder: Path) -> None:
    for name in ("one", "two"):
        write_series(tmp_path / "archive" / name, seed=name, shape=(4, 64, 64))
    argv = [sys.executable, "-c", FULL, str(folder), str(tmp_path / "archive")]

    done = subprocess.run(argv, capture_output=True, text=True, check=True)

    assert done.stdout.count("cannot be kept") == 1
    assert entries(folder) == []
    assert leftovers(folder) == []


def test_a_read_only_cache_still_serves(stacks: list[Stack], folder: Path) -> None:
    DiskCache(folder).get(stacks[0], read_volume)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)

    cache = DiskCache(folder)
    cache.get(stacks[0], read_volume)

    assert cache.statistics().hits == 1


def test_a_cache_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(CacheError, match="this is a file"):
        DiskCache(tmp_path / "file")

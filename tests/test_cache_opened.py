"""What a second look at an entry costs: no checksum, no reading, and a stat for each file."""

from __future__ import annotations

import mmap
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dicomdata.cache import DiskCache, opened
from dicomdata.cache.entry import CHUNK
from dicomdata.cache.freshness import is_fresh
from dicomdata.cache.mounts import is_local
from dicomdata.catalog import scan
from dicomdata.regions import Region
from dicomdata.stack import Stack, plan_stacks, records
from dicomdata.testing.contracts import assert_same_volume
from dicomdata.testing.phantoms import write_series
from dicomdata.volume import read_volume

if TYPE_CHECKING:
    from collections.abc import Callable

BOX = Region(slice(1, 3), slice(1, 3), slice(2, 5))

VOXEL_BYTES = 5 * 4 * 6 * 2
"""Of the default phantom, kept as int16."""

NEEDS_MAPS = pytest.mark.skipif(
    not is_local(tempfile.gettempdir()), reason="maps are kept on local disks of Linux"
)


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    write_series(tmp_path / "series")
    return plan_stacks(scan(tmp_path / "series", progress=False)).stacks[0]


@pytest.fixture
def folder(stack: Stack, tmp_path: Path) -> Path:
    """Give a cache that has the stack, which nobody looked at yet."""
    DiskCache(tmp_path / "cache").get(stack, read_volume)
    return tmp_path / "cache"


@pytest.fixture
def voxels(folder: Path) -> Path:
    """Give the file of its voxels."""
    (entry,) = (folder / "volumes").iterdir()
    return entry / CHUNK


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every file for old: a test cannot wait until it is."""
    monkeypatch.setattr(opened, "_SETTLED_NS", -(10**18))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Any]]:
    """Give a function that lists the first arguments of all calls of a function of `os`."""

    def count(name: str) -> list[Any]:
        calls: list[Any] = []
        plain = getattr(os, name)

        def counting(first: Any, *rest: Any, **named: Any) -> Any:
            calls.append((first, *rest))
            return plain(first, *rest, **named)

        monkeypatch.setattr(os, name, counting)
        return calls

    return count


def bytes_of(reads: list[Any]) -> int:
    return sum(length for _, length, _ in reads)


# --- fresh --------------------------------------------------------------------------------------


def test_a_look_at_a_stack_is_one_stat_a_file(
    stack: Stack, counted: Callable[[str], list[Any]]
) -> None:
    is_fresh(stack)
    stats, opens = counted("stat"), counted("open")

    assert is_fresh(stack)

    assert [name for (name,) in stats] == [os.path.basename(path) for path in stack.paths]
    assert [folder for folder, _ in opens] == [stack.root]


def test_a_look_at_a_box_is_one_stat_for_each_file_of_its_slices(
    stack: Stack, counted: Callable[[str], list[Any]]
) -> None:
    is_fresh(stack)
    stats = counted("stat")

    assert is_fresh(stack, BOX)

    assert [name for (name,) in stats] == [os.path.basename(path) for path in stack.paths[1:3]]


def test_only_a_change_of_its_own_files_makes_a_box_stale(stack: Stack) -> None:
    os.utime(stack.paths[4], ns=(1, 1))

    assert is_fresh(stack, BOX)
    assert not is_fresh(stack, Region(slices=slice(3, 5)))
    assert not is_fresh(stack)


def test_another_folder_under_the_same_name_is_noticed(stack: Stack, tmp_path: Path) -> None:
    assert is_fresh(stack, BOX)

    (tmp_path / "series").rename(tmp_path / "away")
    (tmp_path / "series").mkdir()

    assert not is_fresh(stack, BOX)


def test_the_catalog_is_asked_for_the_files_of_a_stack_once(stack: Stack) -> None:
    assert is_fresh(stack, BOX)

    # More stacks than their frames are remembered: those of the first are forgotten.
    records._frames_of.cache_clear()
    os.unlink(stack.catalog)

    assert is_fresh(stack, BOX)


# --- checked once -------------------------------------------------------------------------------


@NEEDS_MAPS
@pytest.mark.usefixtures("voxels")
def test_the_second_box_is_cut_from_a_map_and_nothing_is_read(
    stack: Stack, folder: Path, counted: Callable[[str], list[Any]], monkeypatch: Any
) -> None:
    cache = DiskCache(folder)
    reads = counted("pread")
    first = cache.get(stack, read_volume, BOX)
    read_first = bytes_of(reads)

    monkeypatch.setattr(mmap, "mmap", None)
    second = cache.get(stack, read_volume, BOX)

    assert_same_volume(first, second)
    assert read_first == bytes_of(reads) == VOXEL_BYTES + 4


@pytest.mark.usefixtures("settled")
def test_what_one_process_checked_no_other_checks_again(
    stack: Stack, folder: Path, counted: Callable[[str], list[Any]]
) -> None:
    DiskCache(folder).get(stack, read_volume, BOX)
    reads = counted("pread")

    # Another cache knows nothing of the first: it might be in another process.
    volume = DiskCache(folder).get(stack, read_volume, BOX)

    assert_same_volume(volume, read_volume(stack, BOX))
    assert bytes_of(reads) < VOXEL_BYTES


def test_a_file_that_was_just_written_is_checked_by_each(
    stack: Stack, folder: Path, voxels: Path
) -> None:
    DiskCache(folder).get(stack, read_volume, BOX)

    assert not (voxels.parent / opened.MARK).exists()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("layout", ["raw", "small"])
def test_damage_after_the_check_is_noticed(layout: Any, stack: Stack, tmp_path: Path) -> None:
    folder = tmp_path / layout
    for _ in range(2):
        DiskCache(folder, layout=layout).get(stack, read_volume)
    (entry,) = (folder / "volumes").iterdir()
    before = (entry / CHUNK).stat()
    content = bytearray((entry / CHUNK).read_bytes())
    content[len(content) // 3] ^= 4
    (entry / CHUNK).write_bytes(content)
    # Even by somebody who sets the clock back.
    os.utime(entry / CHUNK, ns=(before.st_atime_ns, before.st_mtime_ns))

    cache = DiskCache(folder, layout=layout)

    assert_same_volume(cache.get(stack, read_volume), read_volume(stack))
    assert cache.statistics().misses == 1


@pytest.mark.usefixtures("settled")
def test_a_check_before_the_machine_was_started_counts_for_nothing(
    stack: Stack, folder: Path, voxels: Path, counted: Callable[[str], list[Any]]
) -> None:
    DiskCache(folder).get(stack, read_volume, BOX)
    mark = voxels.parent / opened.MARK
    mark.write_text(f"0{mark.read_text()[1:]}" if mark.read_text()[0] != "0" else "1")
    reads = counted("pread")

    DiskCache(folder).get(stack, read_volume, BOX)

    assert bytes_of(reads) >= VOXEL_BYTES + 4


# --- let go -------------------------------------------------------------------------------------


@NEEDS_MAPS
def test_an_entry_that_another_process_dropped_is_not_kept_mapped(
    stack: Stack, folder: Path, voxels: Path, tmp_path: Path
) -> None:
    cache, int16 = DiskCache(folder), partial(read_volume, dtype=np.int16)
    cache.get(stack, read_volume, BOX)
    assert str(voxels) in Path("/proc/self/maps").read_text()
    voxels.parent.rename(tmp_path / "dropped")

    for _ in range(65):
        cache.get(stack, int16)

    maps = Path("/proc/self/maps").read_text()
    assert str(voxels) not in maps
    assert str(tmp_path / "dropped") not in maps


def test_a_file_system_that_others_write_to_is_not_mapped(tmp_path: Path) -> None:
    assert not is_local("/proc/self")


def test_the_type_of_a_file_system_is_that_of_the_mount_it_is_in() -> None:
    if not os.path.ismount("/dev/shm"):  # noqa: S108
        pytest.skip("no shared memory to look at")

    assert is_local("/dev/shm")  # noqa: S108
    assert is_local("/dev/shm/there/is/no/such/folder")  # noqa: S108

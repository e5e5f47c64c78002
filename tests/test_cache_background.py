"""Volumes that are kept in the background: when, by whom, how many, and what ends it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from cache_folder import entries, leftovers
from torch.utils.data import DataLoader

from dicomdata.cache import DiskCache, MemoryCache
from dicomdata.cache.background import Background
from dicomdata.dataset import GridPatches, PatchDataset
from dicomdata.errors import CacheError, DicomDataWarning, PixelError
from dicomdata.regions import Region
from dicomdata.testing.contracts import (
    CacheContract,
    assert_same_volume,
    count_reads,
    logged_read,
)
from dicomdata.volume import Volume, read_volume

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dicomdata.cache import VolumeCache
    from dicomdata.stack import Stack

BOX = Region(slice(1, 3), slice(1, 3), slice(2, 5))

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""Python 3.12 and later warn of forks beside threads: pytest may have some."""


class TestBackgroundDiskCache(CacheContract):
    def make(self, folder: Path) -> VolumeCache:
        return DiskCache(folder, fill="background")

    def test_a_box_of_a_volume_that_is_not_kept_is_read_alone_and_not_kept(
        self, cache: VolumeCache, make_stack: Callable[..., Stack], log: Path
    ) -> None:
        """It is read alone, and its volume is kept: that is what this cache is for."""
        stack, read = make_stack(), partial(logged_read, log=str(log))

        cache.get(stack, read, BOX)
        assert isinstance(cache, DiskCache)
        cache.finish()
        cache.get(stack, read, BOX)

        told = [line.partition(" ")[2] for line in log.read_text().splitlines()]
        assert sorted(told) == sorted([str(BOX), "None"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class Gate:
    """Holds up the writing of entries: `os.mkdir` of what is to become one waits until it opens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        plain = os.mkdir

        def gated(path: Any, *rest: Any, **named: Any) -> None:
            if f"{os.sep}partial{os.sep}" in os.fspath(path):
                self.reached.set()
                self.open.wait()
            plain(path, *rest, **named)

        monkeypatch.setattr(os, "mkdir", gated)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


# --- volumes ------------------------------------------------------------------------------------


def test_a_volume_is_given_before_it_is_kept(stacks: list[Stack], folder: Path, gate: Gate) -> None:
    cache = DiskCache(folder, fill="background")

    volume = cache.get(stacks[0], read_volume)

    assert_same_volume(volume, read_volume(stacks[0]))
    assert entries(folder) == []
    gate.open.set()
    cache.finish()
    assert len(entries(folder)) == 1
    assert leftovers(folder) == []
    assert cache.statistics().fills == 1


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_what_a_caller_writes_into_a_volume_is_not_kept(
    dtype: type, stacks: list[Stack], folder: Path, gate: Gate
) -> None:
    cache, read = DiskCache(folder, fill="background"), partial(read_volume, dtype=dtype)

    volume = cache.get(stacks[0], read)
    volume.voxels[...] = 7
    gate.open.set()
    cache.finish()

    assert_same_volume(cache.get(stacks[0], read), read(stacks[0]))
    assert cache.statistics().hits == 1


def test_the_next_volume_waits_for_the_one_before(
    stacks: list[Stack], folder: Path, gate: Gate
) -> None:
    cache = DiskCache(folder, fill="background")
    cache.get(stacks[0], read_volume)
    done = threading.Event()

    def get_another() -> None:
        cache.get(stacks[1], read_volume)
        done.set()

    # It has read its volume, and waits: however long one looks, it is not done.
    thread = threading.Thread(target=get_another)
    thread.start()
    assert not done.wait(0.1)
    gate.open.set()
    thread.join()

    cache.finish()
    assert len(entries(folder)) == 2


def test_who_is_interrupted_while_it_waits_leaves_nothing_locked(
    stacks: list[Stack], folder: Path, gate: Gate
) -> None:
    cache = DiskCache(folder, fill="background")
    cache.get(stacks[0], read_volume)
    gate.reached.wait()

    interrupted = threading.Event()

    def interrupt(*_: Any) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def interrupt_who_waits() -> None:
        while not cache._state.background._waiting:
            time.sleep(0.001)
        # One that comes in the moment before the wait begins would be seen only after it.
        while not interrupted.wait(0.01):
            os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, interrupt)
    thread = threading.Thread(target=interrupt_who_waits)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        cache.get(stacks[1], read_volume)
    thread.join()
    signal.signal(signal.SIGALRM, before)
    gate.open.set()

    cache.get(stacks[1], read_volume)
    cache.finish()
    assert len(entries(folder)) == 2
    assert leftovers(folder) == []


def test_a_pickled_cache_fills_in_the_same_way(folder: Path) -> None:
    for cache in (DiskCache(folder, fill="background"), MemoryCache("1 MB", fill="background")):
        assert pickle.loads(pickle.dumps(cache)).fill == "background"


def test_another_way_to_fill_is_refused(folder: Path) -> None:
    with pytest.raises(CacheError, match="expected one of wait, background"):
        DiskCache(folder, fill="never")  # type: ignore[arg-type]


# --- boxes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_volumes_of_which_boxes_were_read_are_kept_for_the_second_epoch(
    kind: str, stacks: list[Stack], folder: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    read = partial(logged_read, log=str(log))
    cache = (
        MemoryCache(fill="background") if kind == "memory" else DiskCache(folder, fill="background")
    )

    for stack in stacks:
        cache.get(stack, read, BOX)
    cache.finish()
    reads = count_reads(log)
    for stack in stacks:
        assert_same_volume(cache.get(stack, read, BOX), read_volume(stack, BOX))

    statistics = cache.statistics()
    assert reads == count_reads(log) == 2 * len(stacks)
    assert (statistics.misses, statistics.fills, statistics.hits) == (3, 3, 3)


def test_two_boxes_have_their_volume_read_once(
    stacks: list[Stack], folder: Path, tmp_path: Path, gate: Gate
) -> None:
    log = tmp_path / "log"
    read = partial(logged_read, log=str(log))
    caches = [DiskCache(folder, fill="background") for _ in range(2)]

    for cache in caches * 2:
        cache.get(stacks[0], read, BOX)
        gate.reached.wait()
    gate.open.set()
    for cache in caches:
        cache.finish()

    told = [line.partition(" ")[2] for line in log.read_text().splitlines()]
    assert told.count("None") == 1
    assert len(entries(folder)) == 1


def test_boxes_drop_nothing_that_this_training_uses(stacks: list[Stack], folder: Path) -> None:
    DiskCache(folder).get(stacks[0], read_volume)
    size = sum(file.stat().st_size for file in entries(folder)[0].iterdir())
    cache = DiskCache(folder, 5 * size // 2, fill="background")

    for _ in range(2):
        for stack in stacks:
            cache.get(stack, read_volume, BOX)
            cache.finish()

    # Two have room, and stay: the third would only push out what is wanted next.
    statistics = cache.statistics()
    assert (statistics.fills, statistics.evictions) == (1, 0)
    assert {entry.stack for entry in cache.entries()} == {stack.id for stack in stacks[:2]}


def test_boxes_take_the_room_of_what_no_training_uses_any_more(
    stacks: list[Stack], folder: Path
) -> None:
    DiskCache(folder).get(stacks[0], read_volume)
    size = sum(file.stat().st_size for file in entries(folder)[0].iterdir())
    cache = DiskCache(folder, 3 * size // 2, fill="background")

    cache.get(stacks[1], read_volume, BOX)
    cache.finish()

    assert [entry.stack for entry in cache.entries()] == [stacks[1].id]


def test_a_volume_that_cannot_be_read_is_tried_once_and_its_good_boxes_are_given(
    stacks: list[Stack], folder: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    cache, read = DiskCache(folder, fill="background"), partial(half_broken_read, log=str(log))

    for _ in range(3):
        assert_same_volume(cache.get(stacks[0], read, BOX), read_volume(stacks[0], BOX))
        cache.finish()

    assert count_reads(log) == 3 + 1
    with pytest.raises(PixelError, match="cut short"):
        cache.get(stacks[0], read)


def half_broken_read(stack: Stack, region: Region | None = None, *, log: str) -> Volume:
    """Read boxes, and fail to read all."""
    volume = logged_read(stack, region, log=log)
    if region is None:
        raise PixelError(f"{stack.id}: cut short")
    return volume


# --- full disk ----------------------------------------------------------------------------------


def test_what_goes_wrong_in_the_background_is_told_once_to_the_next_caller(
    stacks: list[Stack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DiskCache(tmp_path / "full", fill="background")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for stack in stacks:
            assert_same_volume(cache.get(stack, read_volume), read_volume(stack))
            cache.finish()

    assert [warning.category for warning in caught] == [DicomDataWarning]
    assert "No space left" in str(caught[0].message)
    assert [warning.filename for warning in caught] == [__file__]
    assert leftovers(tmp_path / "full") == []


# --- forks, ends --------------------------------------------------------------------------------


@FORKS
def test_a_fork_waits_for_the_volume_in_hand_and_finds_no_thread(
    stacks: list[Stack], folder: Path, gate: Gate
) -> None:
    cache = DiskCache(folder, fill="background")
    cache.get(stacks[0], read_volume)
    gate.reached.wait()
    threading.Timer(0.05, gate.open.set).start()

    with multiprocessing.get_context("fork").Pool(1) as pool:
        names = [path.name for path in entries(folder)]
        volume = pool.apply(cache.get, (stacks[1], read_volume))

    # It was there before the child was.
    assert len(names) == 1
    assert_same_volume(volume, read_volume(stacks[1]))


def test_what_is_asked_for_goes_on_after_a_fork() -> None:
    background = Background()
    done: list[str] = []

    background.pause()
    for name in ("one", "two", "one"):
        background.ask_for(name, partial(done.append, name))
    assert done == []
    background.resume()
    background.finish()

    assert done == ["one", "two"]


def test_a_volume_that_is_handed_over_goes_before_what_is_asked_for() -> None:
    background, started, go = Background(), threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> None:
        started.set()
        go.wait()

    background.hand_over(first)
    started.wait()
    background.ask_for("asked", partial(done.append, "asked"))
    other = threading.Thread(target=background.hand_over, args=(partial(done.append, "handed"),))
    other.start()
    while not background._waiting:
        time.sleep(0.001)
    go.set()
    other.join()
    background.finish()

    assert done == ["handed", "asked"]


@FORKS
def test_workers_that_fill_in_the_background_give_the_right_patches_and_end(
    stacks: list[Stack], folder: Path
) -> None:
    cache = DiskCache(folder, fill="background")
    patches = PatchDataset(stacks, (2, 3, 3), where=GridPatches(), cache=cache)
    expected = [patch["image"] for patch in PatchDataset(stacks, (2, 3, 3), where=patches.where)]
    loader = DataLoader(
        patches,
        batch_size=None,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",
    )

    for _ in range(3):
        for patch, truth in zip(loader, expected, strict=True):
            assert torch.equal(patch["image"], truth)
    del loader

    # How many were kept by then is a matter of time; that they are whole is not.
    assert cache.verify() == ()


ENDS = """
import functools, os, sys, threading
from dicomdata.cache import DiskCache
from dicomdata.catalog import scan
from dicomdata.regions import Region
from dicomdata.stack import plan_stacks
from dicomdata.volume import read_volume

folder, root, end = sys.argv[1:]
stacks = plan_stacks(scan(root, progress=False)).stacks
reached, flush = threading.Event(), os.fsync

def slow(handle):
    reached.set()
    if end == "killed":
        threading.Event().wait()
    threading.main_thread().join()
    flush(handle)

os.fsync = slow
cache = DiskCache(folder, fill="background")
for stack in stacks:
    cache.get(stack, read_volume, Region(slices=slice(1)))
reached.wait()
print("there", flush=True)
if end == "killed":
    threading.Event().wait()
"""
"""A process that ends, or is killed, while it keeps the first of three volumes."""


@pytest.mark.parametrize("end", ["ends", "killed"])
def test_a_process_that_ends_leaves_whole_volumes_only(
    end: str, stacks: list[Stack], folder: Path
) -> None:
    argv = [sys.executable, "-c", ENDS, str(folder), stacks[0].root, end]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        if end == "killed":
            process.kill()

    # In hand was one; the two that were only asked for are not waited for.
    assert process.returncode == (0 if end == "ends" else -signal.SIGKILL)
    assert len(entries(folder)) == (1 if end == "ends" else 0)
    cache = DiskCache(folder)
    assert cache.verify() == ()
    for stack in stacks:
        assert_same_volume(cache.get(stack, read_volume), read_volume(stack))
    assert leftovers(folder) == []

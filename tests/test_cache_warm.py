"""Filling a cache ahead of training: all at once, again after a kill, and what fails."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from dicomdata.cache import DiskCache, MemoryCache, NoCache, warm
from dicomdata.catalog import scan
from dicomdata.cli import app
from dicomdata.testing.contracts import count_reads, logged_read

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

    from dicomdata.stack import Stack


@pytest.fixture
def catalog(stacks: list[Stack], tmp_path: Path) -> Path:
    scan(tmp_path / "archive", catalog=tmp_path / "a.catalog", progress=False)
    return tmp_path / "a.catalog"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["warm", *map(str, arguments)])


@pytest.mark.parametrize("workers", [1, 3, None])
@pytest.mark.parametrize("layout", ["raw", "small"])
def test_each_volume_is_read_once(
    layout: Any, workers: int | None, stacks: list[Stack], tmp_path: Path
) -> None:
    cache, log = DiskCache(tmp_path / "cache", layout=layout), tmp_path / "log"
    read = partial(logged_read, log=str(log))

    for _ in range(2):
        assert warm(stacks, cache, read=read, workers=workers, progress=False) == ()

    assert count_reads(log) == 3
    assert {(entry.stack, entry.layout) for entry in cache.entries()} == {
        (stack.id, layout) for stack in stacks
    }


def test_what_is_kept_is_neither_read_nor_looked_through(
    stacks: list[Stack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DiskCache(tmp_path / "cache")
    warm(stacks, cache, progress=False)
    reads: list[int] = []
    pread = os.pread

    def counted(handle: int, length: int, offset: int) -> bytes:
        reads.append(length)
        return pread(handle, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    warm(stacks, DiskCache(tmp_path / "cache"), progress=False)

    assert reads == []


def test_warming_keeps_at_once_whatever_way_the_cache_fills(
    stacks: list[Stack], tmp_path: Path
) -> None:
    for cache in (
        DiskCache(tmp_path / "cache", fill="background"),
        MemoryCache(fill="background"),
    ):
        warm(stacks, cache, progress=False)

        assert cache.statistics().fills == 3


def test_a_cache_without_a_way_to_warm_is_asked_for_each_volume(stacks: list[Stack]) -> None:
    assert warm(stacks, NoCache(), progress=False) == ()


def test_volumes_that_find_no_room_are_told(stacks: list[Stack], tmp_path: Path) -> None:
    rejected = warm(stacks, DiskCache(tmp_path / "cache", 100), progress=False)

    assert [left.subject for left in rejected] == [stack.id for stack in stacks]
    assert "cannot be kept: it is larger than 100 bytes" in str(rejected[0])


def test_for_a_full_disk_no_second_volume_is_read(
    stacks: list[Stack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    plain = os.statvfs

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(path: Any) -> os.statvfs_result:
        return os.statvfs_result((*plain(path)[:3], 0, 0, *plain(path)[5:]))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(os, "statvfs", full)
    read = partial(logged_read, log=str(log))
    rejected = warm(stacks, DiskCache(tmp_path / "cache"), read=read, progress=False)

    assert [left.subject for left in rejected] == [stack.id for stack in stacks]
    assert all("No space left" in str(left) for left in rejected)
    assert count_reads(log) == 1


KILLED = """
import os, sys, threading
from dicomdata.cache import DiskCache, warm
from dicomdata.catalog import open_catalog
from dicomdata.stack import plan_stacks

flush, calls = os.fsync, 0

def hang(handle):
    global calls
    calls += 1
    if calls == 6:
        print("there", flush=True)
        threading.Event().wait()
    flush(handle)

os.fsync = hang
warm(plan_stacks(open_catalog(sys.argv[1])).stacks, DiskCache(sys.argv[2]), progress=False)
"""
"""A process that hangs while it writes the second of three volumes."""


def test_one_that_was_killed_goes_on_where_it_was(catalog: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", KILLED, str(catalog), str(tmp_path / "cache")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL

    result = run(catalog, "--cache", tmp_path / "cache", "--no-progress")

    assert result.exit_code == 0
    assert result.stdout == f"3 volumes in {tmp_path / 'cache'}, 2 of them new\n"
    assert DiskCache(tmp_path / "cache").verify() == ()
    assert list((tmp_path / "cache" / "partial").iterdir()) == []


def test_the_command_takes_a_layout_and_a_number_of_workers(catalog: Path, tmp_path: Path) -> None:
    result = run(catalog, "--cache", tmp_path / "cache", "--layout", "small", "--workers", "2")

    assert result.exit_code == 0
    assert {entry.layout for entry in DiskCache(tmp_path / "cache").entries()} == {"small"}


def test_the_command_says_that_the_bound_holds_too_little(catalog: Path, tmp_path: Path) -> None:
    run(catalog, "--cache", tmp_path / "other")
    entries = DiskCache(tmp_path / "other").entries()
    bound = sum(entry.bytes for entry in entries) - 1

    result = run(catalog, "--cache", tmp_path / "cache", "--max-bytes", f"{bound} B")

    assert result.exit_code == 1
    assert "1 volume dropped to make room" in result.stderr

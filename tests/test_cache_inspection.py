"""What is kept in a folder, told to a person and to a program: `dicomdata cache`."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from dicomdata.cache import DiskCache
from dicomdata.cache.entry import CHUNK, METADATA
from dicomdata.cli import app
from dicomdata.volume import read_volume

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

    from dicomdata.stack import Stack


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["cache", *map(str, arguments)])


@pytest.fixture
def folder(stacks: list[Stack], tmp_path: Path) -> Path:
    """A cache of two raw volumes and a small one, used on three days in 1970."""
    folder = tmp_path / "cache"
    for day, (stack, layout) in enumerate(zip(stacks, ("raw", "small", "raw"), strict=True)):
        chosen: Any = layout
        before = set((folder / "volumes").iterdir()) if day else set()
        DiskCache(folder, layout=chosen).get(stack, read_volume)
        (entry,) = set((folder / "volumes").iterdir()) - before
        os.utime(entry / METADATA, (day * 86400, day * 86400))
    return folder


def oldest_entry(folder: Path) -> Path:
    return folder / "volumes" / f"{DiskCache(folder).entries()[0].key}.zarr"


def test_entries_are_told_with_the_least_recently_used_first(
    folder: Path, stacks: list[Stack]
) -> None:
    entries = DiskCache(folder).entries()

    assert [entry.stack for entry in entries] == [stack.id for stack in stacks]
    assert [entry.layout for entry in entries] == ["raw", "small", "raw"]
    assert [entry.used_s for entry in entries] == [0.0, 86400.0, 2 * 86400.0]
    assert {(entry.shape, entry.dtype, entry.unit) for entry in entries} == {
        ((5, 4, 6), "float32", "HU")
    }
    files = [file for file in (folder / "volumes").rglob("*") if file.is_file()]
    assert sum(entry.bytes for entry in entries) == sum(file.stat().st_size for file in files)


def test_looking_is_no_use(folder: Path) -> None:
    before = DiskCache(folder).entries()

    DiskCache(folder).verify()

    assert DiskCache(folder).entries() == before


@pytest.mark.parametrize("name", [CHUNK, METADATA])
def test_verify_names_the_damaged_entry(folder: Path, name: str) -> None:
    entry = oldest_entry(folder)
    content = bytearray((entry / name).read_bytes())
    content[len(content) // 2] ^= 1
    (entry / name).write_bytes(content)

    damaged = DiskCache(folder).verify()

    assert [left.subject for left in damaged] == [str(entry)]
    assert "damaged, and read anew when it is next asked for" in str(damaged[0])


def test_a_folder_that_is_not_there_keeps_nothing(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "none")

    assert cache.entries() == ()
    assert cache.verify() == ()


def test_the_command_counts_by_layout(folder: Path) -> None:
    result = run(folder)

    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[0].split() == ["layout", "volumes", "size", "oldest", "use", "newest", "use"]
    assert lines[1].startswith("raw ")
    assert lines[1].endswith("1970-01-01 00:00  1970-01-03 00:00")
    assert lines[2].startswith("small ")
    assert lines[3] == f"3 volumes in {folder}"
    assert lines[4].startswith("since it was made, by all processes: 0 hits, 3 misses, 3 fills of ")
    assert lines[4].endswith(", 0 evictions")


def test_the_command_tells_whole_from_damaged(folder: Path) -> None:
    whole = run(folder, "--verify")
    (oldest_entry(folder) / CHUNK).write_bytes(b"")
    damaged = run(folder, "--verify")

    assert (whole.exit_code, damaged.exit_code) == (0, 1)
    assert ", 0 damaged\n" in whole.stdout
    assert ", 1 damaged\n" in damaged.stdout
    assert oldest_entry(folder).name in damaged.stderr


def test_the_command_writes_json(folder: Path, stacks: list[Stack]) -> None:
    document = json.loads(run(folder, "--json").stdout)

    assert document["damaged"] is None
    assert (document["totals"]["misses"], document["totals"]["hits"]) == (3, 0)
    assert [entry["stack"] for entry in document["entries"]] == [stack.id for stack in stacks]
    assert json.loads(run(folder, "--json", "--verify").stdout)["damaged"] == []


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path)

    assert result.exit_code == 2
    assert "no folder of a cache" in result.stderr

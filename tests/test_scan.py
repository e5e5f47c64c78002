"""Folders to headers: what the walk finds, whatever it is named and wherever it leads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dicomdata as dd
from dicomdata.catalog import update
from dicomdata.header import Instance
from dicomdata.scan import FoundFile, find_files, read_headers
from dicomdata.testing.phantoms import write_series
from dicomdata.testing.strategies import file_names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Planned = Callable[..., dd.StackPlan]


def names_below(root: Path) -> list[str]:
    return [os.path.relpath(file.path, root) for file in find_files(root)]


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def reasons(plan: dd.StackPlan) -> dict[str, str]:
    """Path below the root -> why it is not used."""
    root = plan.catalog.root
    return {os.path.relpath(row.path, root): row.reason for row in plan.outcomes if row.reason}


# --- the walk -------------------------------------------------------------------------------------


def test_a_walk_goes_by_name_and_keeps_folders_together(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/deep/x", "a/y", "c"):
        touch(tmp_path / name)

    found = names_below(tmp_path)

    assert found == ["c", "a/y", "a/deep/x", "b/1", "b/2"]


def test_an_empty_folder_holds_nothing(tmp_path: Path, planned: Planned) -> None:
    (tmp_path / "empty" / "deeper").mkdir(parents=True)

    plan = planned(tmp_path)

    assert plan.outcomes == ()
    assert len(plan.catalog) == 0


def test_folders_nest_deeper_than_python_recurses(tmp_path: Path) -> None:
    path = tmp_path
    for _ in range(1500):
        path = path / "d"
        path.mkdir()

    found = list(find_files(tmp_path))

    # From the inside out: `rmtree` recurses, and pytest's own would fail.
    while path != tmp_path:
        path.rmdir()
        path = path.parent
    assert found == []


@pytest.mark.parametrize("root", ["missing", "file"])
def test_a_root_that_is_no_folder_is_an_error(root: str, tmp_path: Path) -> None:
    touch(tmp_path / "file")

    with pytest.raises(dd.FileError, match=f"{tmp_path}/{root}"):
        dd.scan(tmp_path / root, progress=False)
    with pytest.raises(dd.FileError, match=f"{tmp_path}/{root}"):
        list(find_files(tmp_path / root))


def test_a_root_may_be_relative_or_a_link(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "data")
    (tmp_path / "link").symlink_to("data")
    monkeypatch.chdir(tmp_path)

    relative, linked = planned("data"), planned(tmp_path / "link")

    assert len(relative.stacks) == len(linked.stacks) == 1
    assert relative.stacks[0].paths[0].startswith(str(tmp_path))


# --- links, pipes and the like --------------------------------------------------------------------


def test_a_loop_of_links_ends(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path / "series")
    (tmp_path / "series" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")

    plan = planned(tmp_path)

    assert len(plan.stacks) == 1
    assert list(reasons(plan)) == ["self"]


def test_links_are_not_followed_out_of_the_root(tmp_path: Path, planned: Planned) -> None:
    (path, *_) = write_series(tmp_path / "outside")
    root = tmp_path / "root"
    write_series(root, seed="inside")
    (root / "file").symlink_to(path)
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "etc").symlink_to("/etc")

    plan = planned(root)

    assert len(plan.stacks) == 1
    assert set(reasons(plan)) == {"file", "folder", "etc"}
    assert all("out of the root" in reason for reason in reasons(plan).values())


def test_links_within_the_root_are_no_second_files(tmp_path: Path, planned: Planned) -> None:
    (path, *_) = write_series(tmp_path / "series")
    (tmp_path / "again").symlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path / "series")
    (tmp_path / "gone").symlink_to("nowhere")

    plan = planned(tmp_path)

    assert plan.stacks[0].shape[0] == 5
    assert set(reasons(plan)) == {"again", "gone"}
    assert "broken" in reasons(plan)["gone"]


def test_a_pipe_is_not_waited_for(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path)
    os.mkfifo(tmp_path / "pipe.dcm")

    plan = planned(tmp_path)

    assert len(plan.stacks) == 1
    assert reasons(plan) == {"pipe.dcm": f"{tmp_path}/pipe.dcm: not a regular file"}
    with pytest.raises(dd.FileError, match="not a regular file"):
        dd.read_instance(tmp_path / "pipe.dcm")


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [b"no extension", b"new\nline.dcm", b"\xff\xfe not UTF-8", b"tab\t\x1b[31mred",
     "胸部.dcm".encode(), b" leading and trailing ", b"%41?#;&=", b"a" * 255, b"quote'\"", b"-rf",
     b".hidden"],
)  # fmt: skip
def test_any_name_is_a_name(name: bytes, tmp_path: Path, planned: Planned) -> None:
    paths = write_series(tmp_path)
    odd = os.path.join(os.fsencode(tmp_path), name)
    os.rename(paths[2], odd)
    touch(tmp_path / os.fsdecode(name[:200] + b" folder") / os.fsdecode(name))

    plan = planned(tmp_path)

    (stack,) = plan.stacks
    assert os.fsencode(stack.paths[2]) == odd
    assert dd.read_volume(stack).voxels.shape == (5, 4, 6)
    assert [row.outcome for row in plan.outcomes if row.reason] == ["not DICOM"]


def test_a_catalog_of_odd_names_is_saved_opened_and_written_out(
    tmp_path: Path, planned: Planned
) -> None:
    root = tmp_path / os.fsdecode(b"\xff root\n")
    (path, *_) = write_series(root)
    os.rename(path, os.fsencode(root) + b"/\xfe\xfd")
    os.mkdir(os.fsencode(root) + b"/\xfc")
    touch(root / os.fsdecode(b"\xfc") / os.fsdecode(b"\xfb"))

    catalog = planned(root).catalog.save(tmp_path / "odd.catalog")

    plan = dd.plan_stacks(dd.open_catalog(catalog.path))
    assert plan.catalog.root == root
    assert dd.read_volume(plan.stacks[0]).voxels.shape == (5, 4, 6)
    assert len(plan.outcomes) == 6
    plan.outcomes.to_csv(tmp_path / "outcomes.csv")
    assert b"\xfe\xfd" in (tmp_path / "outcomes.csv").read_bytes()
    assert catalog.refresh(progress=False).root == root


@given(data=st.data())
def test_every_file_is_found_exactly_once(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("names")
    names = data.draw(st.integers(1, 6).flatmap(file_names))
    for name in names:
        touch(root / name)

    assert sorted(names_below(root)) == sorted(names)


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_every_found_file_comes_out_once_however_many_read(workers: int, tmp_path: Path) -> None:
    write_series(tmp_path, shape=(150, 1, 1))
    touch(tmp_path / "empty")
    found = list(find_files(tmp_path))

    read = list(read_headers(found, keep={}, workers=workers))

    assert sorted(each.file.path for each in read) == sorted(file.path for file in found)
    assert sum(isinstance(each.result, Instance) for each in read) == 150


def test_an_error_of_the_walk_is_an_outcome_of_the_reading(tmp_path: Path) -> None:
    error = dd.FileError("it was not there")
    file = FoundFile(str(tmp_path / "x"), error=error)

    (read,) = read_headers([file], keep={}, workers=1)

    assert read.result is error


def test_who_stops_listening_stops_the_reading(tmp_path: Path) -> None:
    write_series(tmp_path, shape=(200, 1, 1))
    reading = read_headers(find_files(tmp_path), keep={}, workers=2)

    next(reading)
    reading.close()

    for thread in threading.enumerate():
        if thread.name.startswith("dicomdata-header"):
            thread.join(timeout=10)
    assert not [t for t in threading.enumerate() if t.name.startswith("dicomdata-header")]


def test_no_progress_is_drawn_where_nobody_looks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path)

    for progress in (None, False):
        dd.scan(tmp_path, progress=progress)

    assert capfd.readouterr() == ("", "")


def test_progress_is_drawn_on_the_terminal_that_stderr_is(tmp_path: Path) -> None:
    write_series(tmp_path)
    terminal, stderr = os.openpty()
    program = "import sys, dicomdata; dicomdata.scan(sys.argv[1])"

    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "TERM": "xterm"},
        check=True,
    )

    os.close(stderr)
    drawn = os.read(terminal, 2**16)
    os.close(terminal)
    assert done.stdout == b""
    assert b"headers" in drawn


def test_a_scan_writes_nothing_below_its_root(tmp_path: Path) -> None:
    write_series(tmp_path)
    before = {entry.path: entry.stat().st_mtime_ns for entry in os.scandir(tmp_path)}
    folder = tmp_path.stat().st_mtime_ns

    plan: Any = dd.plan_stacks(dd.scan(tmp_path, progress=False))
    dd.read_volume(plan.stacks[0])

    assert {entry.path: entry.stat().st_mtime_ns for entry in os.scandir(tmp_path)} == before
    assert tmp_path.stat().st_mtime_ns == folder


# --- what is written ------------------------------------------------------------------------------


def test_a_scan_that_could_not_write_leaves_no_file_without_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "archive")
    path = tmp_path / "catalog"
    with monkeypatch.context() as patch:
        patch.setattr(update, "INSERT_FRAME", "INSERT INTO nowhere VALUES (?)")
        with pytest.raises(dd.CatalogError, match="cannot be written"):
            dd.scan(tmp_path / "archive", catalog=path, progress=False)

    catalog = dd.scan(tmp_path / "archive", catalog=path, progress=False)

    assert [series.slices for series in catalog.series] == [5]

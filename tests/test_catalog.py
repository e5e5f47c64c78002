"""One SQLite file: selected from, saved, refreshed, resumed, and never trusted when damaged."""

from __future__ import annotations

import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given

import dicomdata as dd
from dicomdata.catalog.schema import kind_from_json, kind_to_json
from dicomdata.testing.phantoms import Each, SeriesPhantom, write_series
from dicomdata.testing.strategies import NATIVE, series_phantoms

if TYPE_CHECKING:
    from collections.abc import Callable

    Planned = Callable[..., dd.StackPlan]

SCAN = """
import itertools, os, signal, sys, time
opened, numbers = [], itertools.count(1)
delay, die_at = float(sys.argv[3]), int(sys.argv[4])

def watch(event, details):
    if event == "open" and str(details[0]).endswith(".dcm"):
        opened.append(details[0])
        number = next(numbers)
        if number in (1, 300):
            print(number, "opened", flush=True)
        time.sleep(delay)
        if number == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
# A shell has what it starts in the background ignore Ctrl-C, and its children with it.
signal.signal(signal.SIGINT, signal.default_int_handler)
import dicomdata as dd
print("ready", flush=True)
try:
    dd.scan(sys.argv[1], catalog=sys.argv[2], progress=False, workers=int(sys.argv[5]))
finally:
    print(len(opened), flush=True)
"""
"""Scans a folder into a catalog, waiting at each header, and dies at one of them if asked to."""


def start_scan(
    root: Path, catalog: Path, *, delay: float = 0.0, die_at: int = -1, workers: int = 1
) -> subprocess.Popen[str]:
    arguments = map(str, (root, catalog, delay, die_at, workers))
    return subprocess.Popen(
        [sys.executable, "-c", SCAN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def headers_read(root: Path, catalog: Path) -> int:
    """Scan in a process of its own; count the files that were opened."""
    out, err = start_scan(root, catalog).communicate(timeout=120)
    assert err == ""
    return int(out.split()[-1])


def write_copies(root: Path, count: int) -> None:
    """Many files, quickly: one slice under many names."""
    (path,) = write_series(root, shape=(1, 1, 1), file_names=["0.dcm"])
    for number in range(1, count):
        (root / f"{number}.dcm").write_bytes(path.read_bytes())


def rows_of(path: Path, table: str) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three series: a CT of five slices, an MR of three, and a PET of one."""
    root = tmp_path / "archive"
    write_series(root / "ct", seed="ct", extra={"ConvolutionKernel": "B30f"})
    write_series(root / "mr", seed="mr", modality="MR", shape=(3, 8, 8), step=5, patient_id="M")
    write_series(root / "pt", seed="pt", modality="PT", shape=(1, 4, 4), patient_id="P")
    return root


def modalities(catalog: dd.Catalog) -> list[str]:
    return sorted(series.modality for series in catalog.series)


# --- series ---------------------------------------------------------------------------------------


def test_a_series_says_what_is_known_of_it(archive: Path) -> None:
    catalog = dd.scan(archive, progress=False)

    (series,) = catalog.select(modality="CT").series

    assert (series.slices, series.rows, series.columns) == (5, 4, 6)
    assert (series.slice_spacing, series.row_spacing, series.column_spacing) == (2.5, 0.8, 0.5)
    assert (series.patient_id, series.folder, series.slice_thickness) == ("PHANTOM", "ct", 2.5)
    assert series.bytes == sum(path.stat().st_size for path in (archive / "ct").iterdir())
    assert len(series.frames) == 5
    assert len(catalog) == len(catalog.series) == 3
    assert catalog.root == archive


def test_frames_come_back_as_they_were_read(archive: Path) -> None:
    catalog = dd.scan(archive, progress=False)

    for series in catalog.series:
        for frame in series.frames:
            assert dd.read_instance(frame.path).frames == (frame,)


@given(phantom=series_phantoms(slices=(1, 2), transfer_syntaxes=NATIVE))
def test_any_kind_survives_being_written_down(
    phantom: SeriesPhantom, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (path, *_) = write_series(tmp_path_factory.mktemp("series"), phantom)
    (frame,) = dd.read_instance(path).frames

    again = kind_from_json(kind_to_json(frame.kind))

    assert again == frame.kind
    assert kind_to_json(again) == kind_to_json(frame.kind)


def test_files_that_are_no_series_are_rejected_with_reasons(archive: Path) -> None:
    (archive / "notes.txt").write_text("text")
    (archive / "empty").write_bytes(b"")

    catalog = dd.scan(archive, progress=False)

    assert {rejection.subject for rejection in catalog.rejected} == {
        f"{archive}/notes.txt",
        f"{archive}/empty",
    }
    assert {type(rejection.error) for rejection in catalog.rejected} == {dd.NotDicomError}
    assert "the file is empty" in str(catalog.rejected[0])


def test_an_error_from_a_catalog_still_names_its_element(tmp_path: Path) -> None:
    write_series(tmp_path, shape=(1, 2, 2), pixel_spacing=("0", "1"))

    (rejection,) = dd.scan(tmp_path, progress=False).rejected

    assert isinstance(rejection.error, dd.HeaderError)
    assert rejection.error.keyword == "PixelSpacing"


# --- selection ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, ["CT", "MR", "PT"]),
        ({"modality": "CT"}, ["CT"]),
        ({"Modality": "CT"}, ["CT"]),
        ({"modality": ["CT", "PT"]}, ["CT", "PT"]),
        ({"modality": {"CT"}}, ["CT"]),
        ({"modality": []}, []),
        ({"slice_spacing": (0.5, 3.0)}, ["CT"]),
        ({"slice_spacing": (2.5, 5)}, ["CT", "MR"]),
        ({"slice_spacing": (None, 2.5)}, ["CT"]),
        ({"slice_spacing": (3, None)}, ["MR"]),
        ({"slice_spacing": None}, ["PT"]),
        ({"min_slices": 3}, ["CT", "MR"]),
        ({"max_slices": 3}, ["MR", "PT"]),
        ({"min_slices": 2, "max_slices": 4}, ["MR"]),
        ({"rows": 8, "PatientID": "M"}, ["MR"]),
        ({"patient_id": "'; DROP TABLE series; --"}, []),
    ],
)
def test_a_selection_is_by_value_list_or_range(
    conditions: dict[str, Any], expected: list[str], archive: Path
) -> None:
    catalog = dd.scan(archive, progress=False)

    assert modalities(catalog.select(**conditions)) == expected


def test_a_selection_may_be_a_predicate_and_of_a_selection(archive: Path) -> None:
    catalog = dd.scan(archive, progress=False)

    chosen = catalog.select(lambda series: series.rows == 4).select(min_slices=2)

    assert modalities(chosen) == ["CT"]
    assert chosen.rejected == catalog.rejected
    assert modalities(catalog) == ["CT", "MR", "PT"]


def test_a_column_that_does_not_exist_is_named_with_one_that_does(archive: Path) -> None:
    catalog = dd.scan(archive, progress=False)

    with pytest.raises(dd.CatalogError, match="'modalty'; did you mean 'modality'"):
        catalog.select(modalty="CT")
    with pytest.raises(dd.CatalogError, match="min_colour"):
        catalog.select(min_colour=3)
    with pytest.raises(dd.CatalogError, match="modality=<object"):
        catalog.select(modality=object())


def test_any_keyword_may_be_kept_as_a_column(archive: Path) -> None:
    catalog = dd.scan(archive, keep=("ConvolutionKernel",), progress=False)

    chosen = catalog.select(ConvolutionKernel="B30f")

    assert modalities(chosen) == ["CT"]
    assert chosen.series[0].columns_by_name["ConvolutionKernel"] == "B30f"
    assert "ConvolutionKernel" in catalog.to_pandas().columns
    assert modalities(catalog.select(ConvolutionKernel=None)) == ["MR", "PT"]


def test_a_kept_keyword_that_changes_within_a_series_has_no_value_for_it(tmp_path: Path) -> None:
    write_series(tmp_path, extra=lambda k: {"KVP": str(100 + k)})

    (series,) = dd.scan(tmp_path, keep=("KVP",), progress=False).series

    assert dict(series.kept) == {"KVP": None}


def test_a_name_cannot_be_kept(archive: Path) -> None:
    with pytest.raises(dd.ConfigError, match="PatientName"):
        dd.scan(archive, keep=("PatientName",), progress=False)


# --- queries --------------------------------------------------------------------------------------


def test_sql_reads_series_and_frames(archive: Path) -> None:
    catalog = dd.scan(archive, progress=False)

    rows = catalog.query(
        "SELECT modality, count(*) AS n, min(z) AS lowest FROM frames "
        "JOIN series ON series.id = frames.series GROUP BY modality ORDER BY n DESC"
    )

    assert rows[0] == {"modality": "CT", "n": 5, "lowest": -30}
    assert [row["n"] for row in rows] == [5, 3, 1]


@pytest.mark.parametrize(
    "sql",
    ["DELETE FROM series", "DROP TABLE frame", "ATTACH 'x' AS y", "PRAGMA user_version = 7",
     "SELECT load_extension('x')", "VACUUM INTO 'copy'", "SELEC 1", "SELECT 1; SELECT 2",
     "CREATE TABLE x (y)", ""],
)  # fmt: skip
def test_sql_that_does_anything_else_is_refused(
    sql: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = dd.scan(archive, progress=False)
    before = catalog.path.read_bytes()
    monkeypatch.chdir(tmp_path)

    if sql:
        with pytest.raises(dd.CatalogError, match="query"):
            catalog.query(sql)
    else:
        assert catalog.query(sql) == []

    assert catalog.path.read_bytes() == before
    assert os.listdir(tmp_path) == ["archive"]


def test_series_are_a_table(archive: Path) -> None:
    table = dd.scan(archive, progress=False).to_pandas()

    assert sorted(table["modality"]) == ["CT", "MR", "PT"]
    assert table["slices"].sum() == 9


# --- files ----------------------------------------------------------------------------------------


def test_a_catalog_is_saved_and_opened_again(archive: Path, tmp_path: Path) -> None:
    scanned = dd.scan(archive, progress=False)
    series = scanned.series

    saved = scanned.save(tmp_path / "deep" / "ct.catalog")

    opened = dd.open_catalog(tmp_path / "deep" / "ct.catalog")
    assert saved.path == opened.path
    assert [each.frames for each in opened.series] == [each.frames for each in series]
    opened.verify()


def test_a_catalog_and_a_selection_travel(archive: Path) -> None:
    catalog = dd.scan(archive, progress=False)

    travelled = pickle.loads(pickle.dumps(catalog.select(modality="MR")))

    assert modalities(travelled) == ["MR"]
    assert travelled.series[0].frames == catalog.select(modality="MR").series[0].frames


def test_a_selection_is_not_saved(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(dd.CatalogError, match="selection"):
        dd.scan(archive, progress=False).select(modality="CT").save(tmp_path / "x")


def test_a_catalog_below_its_own_root_is_no_part_of_it(archive: Path, planned: Planned) -> None:
    path = archive / "my.catalog"

    plan = planned(archive, catalog=path)

    assert sorted(os.listdir(archive)) == ["ct", "mr", "my.catalog", "my.catalog.blake2b", "pt"]
    again = plan.catalog.refresh(progress=False)
    assert len(again.rejected) == 0


def test_a_catalog_nobody_named_goes_with_its_process(archive: Path) -> None:
    program = "import sys, dicomdata as dd; print(dd.scan(sys.argv[1]).path)"

    done = subprocess.run(
        [sys.executable, "-c", program, archive], capture_output=True, text=True, check=True
    )

    path = Path(done.stdout.strip())
    assert not path.exists()
    assert not path.parent.exists()


def test_a_catalog_in_a_read_only_folder_can_be_read(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    dd.scan(archive, progress=False).save(folder / "c")
    folder.chmod(0o555)

    try:
        plan = dd.plan_stacks(dd.open_catalog(folder / "c"))
        assert dd.read_volume(plan.stacks[0]).voxels.size
        assert sorted(os.listdir(folder)) == ["c", "c.blake2b"]
    finally:
        folder.chmod(0o755)


def test_a_catalog_that_cannot_be_written_is_an_error_by_name(
    archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(dd.CatalogError, match=str(tmp_path / "file")):
        dd.scan(archive, catalog=tmp_path / "file" / "c", progress=False)
    with pytest.raises(dd.CatalogError, match=str(tmp_path / "file")):
        dd.scan(archive, progress=False).save(tmp_path / "file" / "c")


def saved(archive: Path, tmp_path: Path) -> Path:
    return dd.scan(archive, progress=False).save(tmp_path / "saved").path


def damage_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.commit()


def damage_length(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


def damage_beginning(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def damage_kind(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (x)")
        connection.commit()


def damage_to_text(path: Path) -> None:
    path.write_text("not SQLite at all\n" * 99)


def damage_to_nothing(path: Path) -> None:
    path.write_bytes(b"")


def damage_to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    damage_version: "format 99",
    damage_length: "cut short",
    damage_beginning: "cut short|not a dicomdata catalog",
    damage_kind: "not a dicomdata catalog",
    damage_to_text: "not a dicomdata catalog",
    damage_to_nothing: "not a dicomdata catalog",
    damage_to_folder: "cannot be opened",
    Path.unlink: "cannot be opened",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_catalog_is_an_error_that_says_how(
    damage: Callable[[Path], None], archive: Path, tmp_path: Path
) -> None:
    path = saved(archive, tmp_path)
    damage(path)

    with pytest.raises(dd.CatalogError, match=DAMAGES[damage]) as caught:
        dd.open_catalog(path)

    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d is not damage_to_folder])
def test_a_damaged_catalog_is_replaced_by_scanning_again(
    damage: Callable[[Path], None], archive: Path, tmp_path: Path
) -> None:
    path = saved(archive, tmp_path)
    damage(path)

    catalog = dd.scan(archive, catalog=path, progress=False)

    assert modalities(catalog) == ["CT", "MR", "PT"]
    catalog.verify()


@pytest.mark.unaccounted
def test_a_stack_whose_catalog_went_away_says_so(archive: Path, tmp_path: Path) -> None:
    path = saved(archive, tmp_path)
    stack = dd.plan_stacks(dd.open_catalog(path)).stacks[0]
    path.unlink()

    with pytest.raises(dd.CatalogError, match=str(path)):
        dd.read_volume(pickle.loads(pickle.dumps(stack)))


def test_one_flipped_bit_is_found_by_verify(archive: Path, tmp_path: Path) -> None:
    path = saved(archive, tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(dd.CatalogError, match="blake2b"):
        dd.open_catalog(path).verify()


@pytest.mark.parametrize("damage", [Path.unlink, damage_to_nothing])
def test_a_catalog_without_checksum_cannot_be_verified(
    damage: Callable[[Path], None], archive: Path, tmp_path: Path
) -> None:
    path = saved(archive, tmp_path)
    damage(path.with_name(path.name + ".blake2b"))

    with pytest.raises(dd.CatalogError, match="no checksum"):
        dd.open_catalog(path).verify()


# --- refresh --------------------------------------------------------------------------------------


def later(path: Path) -> None:
    """Give a file another modification time, as a writer would."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def test_a_refresh_drops_the_vanished_and_adds_the_new(
    archive: Path, tmp_path: Path, accounted: Callable[[dd.StackPlan], None]
) -> None:
    catalog = dd.scan(archive, progress=False).save(tmp_path / "c")
    for path in (archive / "mr").iterdir():
        path.unlink()
    write_series(archive / "new", seed="new", modality="OT")
    (archive / "new" / "text").write_text("text")

    same = catalog.refresh(progress=False)

    assert same is catalog
    assert modalities(catalog) == ["CT", "OT", "PT"]
    accounted(dd.plan_stacks(catalog))
    catalog.verify()


def test_a_refresh_reads_again_what_changed(archive: Path, tmp_path: Path) -> None:
    catalog = dd.scan(archive, progress=False).save(tmp_path / "c")
    (old,) = dd.plan_stacks(catalog.select(modality="CT")).stacks
    for path in (archive / "ct").iterdir():
        path.unlink()
    write_series(archive / "ct", seed="ct", pixel_spacing=(1, 1))

    catalog.refresh(progress=False)

    (series,) = catalog.select(modality="CT").series
    assert (series.row_spacing, series.column_spacing) == (1, 1)
    (new,) = dd.plan_stacks(catalog.select(modality="CT")).stacks
    assert list(new.spacing) == [2.5, 1, 1]
    assert new.fingerprint != old.fingerprint


def test_a_refresh_opens_only_what_changed_or_is_new(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "c"
    assert headers_read(archive, path) == 9

    assert headers_read(archive, path) == 0
    later(next((archive / "ct").iterdir()))
    write_series(archive / "new", seed="new", shape=(2, 1, 1))
    assert headers_read(archive, path) == 3
    assert modalities(dd.open_catalog(path)) == ["CT", "CT", "MR", "PT"]


def test_a_refresh_of_an_unchanged_archive_leaves_the_catalog_alone(
    archive: Path, tmp_path: Path
) -> None:
    # A link out of the root is found anew by each walk, and is no change.
    (archive / "link").symlink_to(tmp_path)
    catalog = dd.scan(archive, catalog=tmp_path / "c", progress=False)
    before = {path.name: path.stat() for path in tmp_path.glob("c*") if path.is_file()}

    catalog.refresh(progress=False)

    after = {path.name: path.stat() for path in tmp_path.glob("c*") if path.is_file()}
    assert {name: (s.st_ino, s.st_mtime_ns) for name, s in after.items()} == {
        name: (s.st_ino, s.st_mtime_ns) for name, s in before.items()
    }
    assert headers_read(archive, catalog.path) == 0
    assert len(catalog) == 3


def test_a_refresh_sees_a_link_that_points_elsewhere(archive: Path, tmp_path: Path) -> None:
    link = archive / "link"
    link.symlink_to(tmp_path)
    catalog = dd.scan(archive, catalog=tmp_path / "c", progress=False)
    link.unlink()
    link.symlink_to(tmp_path / "nowhere")

    catalog.refresh(progress=False)

    (error,) = (each.error for each in catalog.rejected if each.subject == str(link))
    assert "broken" in str(error)


def test_a_refresh_gives_a_catalog_its_lost_checksum_back(archive: Path, tmp_path: Path) -> None:
    catalog = dd.scan(archive, catalog=tmp_path / "c", progress=False)
    (tmp_path / "c.blake2b").unlink()

    catalog.refresh(progress=False)

    catalog.verify()


def test_a_file_that_was_rejected_is_not_read_again_until_it_changes(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    root.mkdir()
    (root / "text.dcm").write_text("text")
    assert headers_read(root, tmp_path / "c") == 1

    assert headers_read(root, tmp_path / "c") == 0
    (path,) = write_series(tmp_path / "elsewhere", shape=(1, 1, 1))
    (root / "text.dcm").write_bytes(path.read_bytes())
    assert headers_read(root, tmp_path / "c") == 1
    assert len(dd.open_catalog(tmp_path / "c")) == 1


@pytest.mark.unaccounted
def test_a_refreshed_catalog_gives_the_new_truth_or_an_error(archive: Path, tmp_path: Path) -> None:
    catalog = dd.scan(archive, progress=False).save(tmp_path / "c")
    (stack,) = dd.plan_stacks(catalog.select(modality="CT")).stacks
    paths = sorted((archive / "ct").iterdir())
    paths[0].unlink()

    catalog.refresh(progress=False)

    with pytest.raises(dd.StaleError, match="plan the stacks again"):
        dd.read_volume(pickle.loads(pickle.dumps(stack)))


def test_a_file_changed_after_the_scan_is_stale_not_mixed_in(
    archive: Path, planned: Planned
) -> None:
    (stack,) = planned(archive / "ct").stacks
    later(Path(stack.paths[3]))

    with pytest.raises(dd.StaleError, match="refresh the catalog") as caught:
        dd.read_volume(stack)

    assert stack.paths[3] in str(caught.value)


def test_a_file_that_vanished_after_the_scan_is_told_by_name(
    archive: Path, planned: Planned
) -> None:
    (stack,) = planned(archive / "ct").stacks
    os.unlink(stack.paths[3])

    with pytest.raises(dd.FileError, match="No such file") as caught:
        dd.read_volume(stack)

    assert stack.paths[3] in str(caught.value)


def test_a_catalog_of_another_root_is_not_taken_for_this_one(archive: Path, tmp_path: Path) -> None:
    path = saved(archive, tmp_path)

    catalog = dd.scan(archive / "mr", catalog=path, progress=False)

    assert modalities(catalog) == ["MR"]
    assert catalog.root == archive / "mr"


def test_a_catalog_that_keeps_other_keywords_is_read_anew(archive: Path, tmp_path: Path) -> None:
    path = saved(archive, tmp_path)

    catalog = dd.scan(archive, catalog=path, keep=("KVP",), progress=False)

    assert catalog.keep == ("KVP",)
    assert len(catalog) == 3


# --- killed, stopped, two at once -----------------------------------------------------------------


def test_a_killed_scan_goes_on_where_it_was(tmp_path: Path) -> None:
    root, path = tmp_path / "archive", tmp_path / "c"
    write_copies(root, 200)

    # Work is made durable every two seconds; headers arrive 64 at a time, 2.2 seconds apart.
    killed = start_scan(root, path, delay=0.035, die_at=150)
    killed.communicate(timeout=120)

    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    partial = path.with_name("c.partial")
    kept = rows_of(partial, "file")
    assert 64 <= kept < 150
    assert headers_read(root, path) == 200 - kept
    assert not partial.exists()
    catalog = dd.open_catalog(path)
    assert sum(series.slices for series in catalog.series) == 200
    catalog.verify()


def test_ctrl_c_stops_at_once_and_keeps_what_was_read(tmp_path: Path) -> None:
    root, path = tmp_path / "archive", tmp_path / "c"
    write_copies(root, 1500)
    scan = start_scan(root, path, delay=0.02, workers=2)
    assert scan.stdout is not None
    assert scan.stdout.readline() == "ready\n"
    # A few batches of 64 are through and kept, and the other files take ten seconds more.
    assert [scan.stdout.readline() for _ in range(2)] == ["1 opened\n", "300 opened\n"]

    scan.send_signal(signal.SIGINT)
    out, err = scan.communicate(timeout=60)

    assert "KeyboardInterrupt" in err
    opened = int(out.split()[-1])
    assert opened < 1500
    kept = rows_of(path.with_name("c.partial"), "file")
    assert 64 <= kept <= opened
    assert headers_read(root, path) == 1500 - kept


def test_two_scans_at_once_are_two_scans_or_an_error(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "c"
    slow = start_scan(archive, path, delay=0.5)
    assert slow.stdout is not None
    assert [slow.stdout.readline() for _ in range(2)] == ["ready\n", "1 opened\n"]

    with pytest.raises(dd.CatalogError, match="locked"):
        dd.scan(archive, catalog=path, progress=False)

    slow.communicate(timeout=60)
    assert slow.returncode == 0
    assert len(dd.open_catalog(path)) == 3


def test_whoever_has_a_catalog_open_reads_on_while_it_is_replaced(
    archive: Path, tmp_path: Path
) -> None:
    path = saved(archive, tmp_path)
    opened = dd.open_catalog(path)
    plan = dd.plan_stacks(opened)

    dd.scan(archive, catalog=path, progress=False)

    assert [dd.read_volume(stack).voxels.shape for stack in plan.stacks] == [
        stack.shape for stack in plan.stacks
    ]


# --- budgets --------------------------------------------------------------------------------------

OPEN = """
import sys
import dicomdata as dd
dd.open_catalog

def bytes_read():
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])

dd.open_catalog(sys.argv[1]).series  # imports are through from now on
before = bytes_read()
catalog = dd.open_catalog(sys.argv[1])
len(catalog.series), catalog.root
print(bytes_read() - before)
"""


def catalog_of(folder: Path, slices: int) -> Path:
    """A catalog of one series whose UIDs, positions and times are as long as real ones."""
    jitter = np.random.default_rng(0).uniform(-1e-4, 1e-4, slices)
    heights = [-207.5 + 0.625 * k + jitter[k] for k in range(slices)]
    write_series(
        folder / "archive", positions=[(-166.123456, -171.699997, height) for height in heights],
        stored=np.zeros((slices, 1, 1), "u2"), slice_location=Each(*heights),
        extra={"AcquisitionTime": "101112.123456", "ContentTime": "101112.123456"},
    )  # fmt: skip
    return dd.scan(folder / "archive", progress=False).save(folder / "c").path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of 800 frames."""
    return catalog_of(tmp_path_factory.mktemp("large"), 800)


def test_a_frame_costs_at_most_200_bytes_on_disk(large: Path, tmp_path: Path) -> None:
    small = catalog_of(tmp_path, 100)

    per_frame = (large.stat().st_size - small.stat().st_size) / 700

    assert per_frame <= 200


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="bytes are counted by Linux")
def test_opening_a_catalog_reads_no_frames(large: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPEN, large], capture_output=True, text=True, check=True
    )

    assert int(done.stdout) < large.stat().st_size / 3


def test_a_file_that_is_no_catalog_is_not_overwritten(tmp_path: Path) -> None:
    write_series(tmp_path / "archive")
    precious = tmp_path / "precious.txt"
    precious.write_text("the only copy")

    with pytest.raises(dd.CatalogError, match=r"precious\.txt: not a dicomdata catalog"):
        dd.scan(tmp_path / "archive", catalog=precious)
    with pytest.raises(dd.CatalogError, match=r"precious\.txt: not a dicomdata catalog"):
        dd.scan(tmp_path / "archive").save(precious)

    assert precious.read_text() == "the only copy"

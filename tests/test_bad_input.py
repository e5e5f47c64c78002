"""A file from the archive may break itself, never its neighbours, the scan or the process."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom import uid

import dicomdata as dd
from dicomdata import errors
from dicomdata.testing.phantoms import Each, SeriesPhantom, write_series
from dicomdata.testing.strategies import LOSSLESS, NATIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Planned = Callable[..., dd.StackPlan]

LAST = 4
"""The slice that is broken: at the end, so that the others are still a volume."""


def keep(share: float) -> Callable[[Path], None]:
    """Cut a file, leaving this share of it."""

    def cut(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return cut


def edit(**values: Any) -> Callable[[Path], None]:
    """Give elements other values, as text; None takes them away."""

    def change(path: Path) -> None:
        phantom = SeriesPhantom().only(LAST)
        write_series(path.parent, phantom, extra=values, file_names=[path.name], overwrite=True)

    return change


def drop_pixels(path: Path) -> None:
    header = pydicom.dcmread(path)
    del header.PixelData
    header.save_as(path)


BROKEN: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "empty": (lambda path: path.write_bytes(b""), "not DICOM", "empty"),
    "text named .dcm": (lambda path: path.write_text("dear all\n" * 99), "not DICOM", "not DICOM"),
    "zeros": (lambda path: path.write_bytes(bytes(9999)), "not DICOM", "not DICOM"),
    "cut in the preamble": (keep(0.1), "not DICOM", "not DICOM"),
    "cut in the header": (keep(0.5), "rejected", "cut short|missing"),
    "cut before the pixels": (keep(0.9), "rejected", "cut short|missing"),
    "no Pixel Spacing": (edit(PixelSpacing=None), "rejected", r"Pixel Spacing \(0028,0030\)"),
    "nan position": (
        edit(ImagePositionPatient=("nan", "0", "0")), "rejected", r"\(0020,0032\).*'nan",
    ),
    "decimal comma": (
        edit(ImagePositionPatient=("-10,5", "0", "0")), "rejected", r"\(0020,0032\).*-10,5",
    ),
    "two slopes": (edit(RescaleSlope=("1", "2")), "rejected", r"Rescale Slope \(0028,1053\)"),
    "no rows": (edit(Rows=None), "rejected", r"Rows \(0028,0010\)"),
    "no pixels": (drop_pixels, "rejected", r"Pixel Data \(7FE0,0010\)"),
    "a structured report": (
        edit(SOPClassUID=uid.BasicTextSRStorage), "other object", "structured report",
    ),
}  # fmt: skip
"""What is done to a file, the outcome, and what the reason says."""


@pytest.mark.parametrize("name", BROKEN)
def test_one_broken_file_is_told_by_name_and_breaks_nothing_else(
    name: str, tmp_path: Path, planned: Planned
) -> None:
    damage, outcome, reason = BROKEN[name]
    paths = write_series(tmp_path / "one")
    write_series(tmp_path / "two", seed="two")
    damage(paths[LAST])

    plan = planned(tmp_path)

    (row,) = (row for row in plan.outcomes if row.outcome != "used")
    assert (row.path, row.outcome) == (str(paths[LAST]), outcome)
    assert str(paths[LAST]) in row.reason
    assert re.search(reason, row.reason)
    assert sorted(stack.shape[0] for stack in plan.stacks) == [4, 5]
    for stack in plan.stacks:
        assert dd.read_volume(stack).voxels.shape == stack.shape


# --- pixels that are not there --------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS])
@pytest.mark.parametrize("missing", [20, 200])
def test_pixels_cut_short_are_an_error_that_names_the_file(
    missing: int, syntax: str, tmp_path: Path
) -> None:
    # trunc, G31: SimpleITK and pydcm drop the slice and stretch the rest.
    stored = np.random.default_rng(0).integers(0, 2**12, (5, 16, 16)).astype("u2")
    paths = write_series(tmp_path, stored=stored, bits_stored=12, transfer_syntax_uid=syntax)
    content = paths[2].read_bytes()
    paths[2].write_bytes(content[:-missing])

    plan = dd.plan_stacks(dd.scan(tmp_path, progress=False))

    if not plan.stacks:
        # Deflated files are found out when their header is read.
        assert {row.outcome for row in plan.outcomes} == {"rejected"}
        assert any(str(paths[2]) in row.reason for row in plan.outcomes)
        return
    (stack,) = plan.stacks
    with pytest.raises(dd.PixelError) as caught:
        dd.read_volume(stack)
    assert str(paths[2]) in str(caught.value)
    above = dd.read_volume(stack, dd.Region(slices=slice(3, 5)))
    np.testing.assert_array_equal(above.voxels, stored[3:5] - 1024.0)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_a_region_of_rows_that_are_there_does_not_hide_that_others_are_not(
    syntax: str, tmp_path: Path
) -> None:
    paths = write_series(tmp_path, shape=(3, 16, 16), transfer_syntax_uid=syntax)
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    (stack,) = dd.plan_stacks(dd.scan(tmp_path, progress=False)).stacks

    with pytest.raises(dd.PixelError, match="cut short"):
        dd.read_volume(stack, dd.Region(rows=slice(0, 2)))


def test_a_read_that_fails_gives_no_half_of_a_volume(tmp_path: Path, planned: Planned) -> None:
    paths = write_series(tmp_path)
    (stack,) = planned(tmp_path).stacks
    paths[4].write_bytes(b"")

    with pytest.raises(dd.StaleError, match=str(paths[4])):
        dd.read_volume(stack)


# --- permissions ----------------------------------------------------------------------------------

AS_NOBODY = """
import json, os, sys
import dicomdata as dd

readable, root = sys.argv[1:]
(stack,) = dd.plan_stacks(dd.scan(readable, progress=False)).stacks
dd.read_volume(stack)  # all that is needed is imported while it still may be
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
plan = dd.plan_stacks(dd.scan(root, progress=False))
rows = [[row.path, row.outcome, row.reason] for row in plan.outcomes]
print(json.dumps([rows, [dd.read_volume(stack).voxels.shape for stack in plan.stacks]]))
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that any user may enter; pytest's own belong to whoever runs it."""
    folder = Path(tempfile.mkdtemp(prefix="dicomdata-test-"))
    folder.chmod(0o755)
    yield folder
    for path in (folder / "archive").iterdir():
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_what_may_not_be_read_is_told_by_name_even_to_tests_run_by_root(public: Path) -> None:
    write_series(public / "readable")
    root = public / "archive"
    paths = write_series(root)
    write_series(root / "locked", seed="locked")
    paths[4].chmod(0)
    (root / "locked").chmod(0)

    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, public / "readable", root],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    rows, shapes = json.loads(done.stdout)
    assert shapes == [[4, 4, 6]]
    left_out = {path: reason for path, outcome, reason in rows if outcome == "rejected"}
    assert set(left_out) == {str(paths[4]), str(root / "locked")}
    assert all("Permission denied" in reason for reason in left_out.values())
    assert len(rows) == 6


# --- an archive that moves ------------------------------------------------------------------------

VANISH = """
import json, shutil, sys
root, moment = sys.argv[1:]
gone = []

def watch(event, details):
    wanted = event == moment and not gone
    if wanted and str(details[0]).startswith(root + "/a"):
        gone.append(True)
        shutil.rmtree(root + "/b")

sys.addaudithook(watch)
import dicomdata as dd
plan = dd.plan_stacks(dd.scan(root, progress=False, workers=1))
rows = [[row.path, row.outcome, row.reason] for row in plan.outcomes]
print(json.dumps([rows, [dd.read_volume(stack).voxels.shape for stack in plan.stacks]]))
"""
"""Scans, while a folder vanishes: as the folder before it is listed, or its first file opened."""


@pytest.mark.parametrize("moment", ["os.scandir", "open"])
def test_a_folder_that_vanishes_during_the_scan_loses_only_itself(
    moment: str, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        write_series(tmp_path / name, seed=name)

    done = subprocess.run(
        [sys.executable, "-c", VANISH, tmp_path, moment], capture_output=True, text=True, check=True
    )

    rows, shapes = json.loads(done.stdout)
    assert shapes == [[5, 4, 6]] * 2
    lost = [(path, reason) for path, outcome, reason in rows if outcome == "rejected"]
    assert [path.startswith(f"{tmp_path}/b") for path, _ in lost] == [True] * len(lost)
    assert len(lost) == (1 if moment == "os.scandir" else 5)
    assert all("No such file or directory" in reason and path in reason for path, reason in lost)


@pytest.mark.unaccounted
def test_a_file_that_vanishes_before_planning_loses_only_its_series(tmp_path: Path) -> None:
    # Whether frames at one position are the same is told by their bytes.
    phantom = SeriesPhantom()
    write_series(tmp_path / "one", phantom)
    (twin,) = write_series(tmp_path, phantom.only(2), file_names=["twin"])
    write_series(tmp_path / "two", seed="two")
    catalog = dd.scan(tmp_path, progress=False)
    twin.unlink()

    plan = dd.plan_stacks(catalog)

    assert [stack.shape[0] for stack in plan.stacks] == [5]
    left_out = {row.reason for row in plan.outcomes if row.outcome == "rejected"}
    assert all(str(twin) in reason for reason in left_out)
    assert len(left_out) == 1


def test_a_file_that_changes_before_planning_is_not_taken_for_a_duplicate(tmp_path: Path) -> None:
    phantom = SeriesPhantom()
    write_series(tmp_path, phantom)
    (twin,) = write_series(tmp_path, phantom.only(2), file_names=["twin"])
    catalog = dd.scan(tmp_path, progress=False)
    twin.write_bytes(bytes(twin.stat().st_size))

    plan = dd.plan_stacks(catalog)

    assert plan.stacks == ()
    assert {row.outcome for row in plan.outcomes} == {"rejected"}


def test_a_root_that_vanished_is_an_error_and_not_an_empty_archive(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    write_series(root)
    catalog = dd.scan(root, progress=False).save(tmp_path / "c")
    shutil.rmtree(root)

    with pytest.raises(dd.FileError, match=str(root)):
        catalog.refresh(progress=False)

    assert len(dd.open_catalog(tmp_path / "c")) == 1


def test_a_file_that_shrank_between_scan_and_read_is_stale(
    tmp_path: Path, planned: Planned
) -> None:
    paths = write_series(tmp_path)
    (stack,) = planned(tmp_path).stacks
    status = paths[1].stat()
    paths[1].write_bytes(paths[1].read_bytes()[:-10])
    os.utime(paths[1], ns=(status.st_atime_ns, status.st_mtime_ns))

    with pytest.raises(dd.StaleError, match=str(paths[1])):
        dd.read_volume(stack)


def test_a_file_that_became_a_pipe_is_not_waited_for(tmp_path: Path, planned: Planned) -> None:
    paths = write_series(tmp_path)
    (stack,) = planned(tmp_path).stacks
    paths[1].unlink()
    os.mkfifo(paths[1])
    program = """
import pickle, sys, dicomdata as dd
try:
    dd.read_volume(pickle.loads(bytes.fromhex(sys.argv[1])))
except dd.DicomDataError as error:
    print(type(error).__name__, error)
"""

    done = subprocess.run(
        [sys.executable, "-c", program, pickle.dumps(stack).hex()],
        capture_output=True, text=True, check=True, timeout=20,
    )  # fmt: skip

    assert done.stdout.split()[0] in {"StaleError", "FileError"}
    assert str(paths[1]) in done.stdout


# --- errors ---------------------------------------------------------------------------------------

ERRORS = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, dd.DicomDataError)
]


@pytest.mark.parametrize("error", ERRORS)
def test_one_string_builds_any_error(error: type[dd.DicomDataError]) -> None:
    built = error("subject: what is wrong")

    assert str(built) == "subject: what is wrong"
    assert isinstance(built, dd.DicomDataError)


def test_no_value_of_a_patient_is_in_any_reason(tmp_path: Path, planned: Planned) -> None:
    secret = {"PatientName": "Secret^Person", "PatientBirthDate": "19510723"}
    write_series(tmp_path, extra=secret, pixel_spacing=Each(*[(1, 1)] * 4, "0"), shape=(5, 2, 2))
    write_series(tmp_path, extra=secret, seed="gap", positions=[(0, 0, z) for z in (0, 1, 3)])

    plan = planned(tmp_path)

    reasons = " ".join(row.reason for row in plan.outcomes)
    assert "rejected" in {row.outcome for row in plan.outcomes}
    for value in ("Secret", "19510723"):
        assert value not in reasons
        assert value.encode() not in plan.catalog.path.read_bytes()

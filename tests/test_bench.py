"""The benchmark at the size of a toy: its numbers mean nothing here, its tables are looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import pydicom
import pytest

import dicomdata as dd
from dicomdata.testing.thorax import chest_archive

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.insert(0, str(SCRIPTS))

from benchmarks.measuring import take_turns  # noqa: E402 - found above
from benchmarks.tables import Table, as_markdown, table_from_dict  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.measuring import Contenders

JPEG_LS = "1.2.840.10008.1.2.4.80"

PAGE = "Before.\n<!-- numbers: begin -->\nold\n<!-- numbers: end -->\nAfter.\n"

TOY = ("--slices", "4", "--size", "24", "--patients", "2", "--frames", "80", "--rounds", "1",
       "--codec-slices", "2", "--corpus", "")  # fmt: skip


def run_bench(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Run the benchmark of a toy; give its JSON, and the page it was put into."""
    page, numbers = folder / "page.md", folder / "numbers.json"
    page.write_text(PAGE)

    done = subprocess.run(
        [sys.executable, SCRIPTS / "bench.py", *TOY, *options, "--folder", folder,
         "--json", numbers, "--markdown", page],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    return json.loads(numbers.read_text()), page.read_text()


def check_tables(tables: list[dict[str, Any]]) -> None:
    """Check that ours has a value in each table, and that no goal went unanswered unsaid."""
    for table in tables:
        assert table["values"][table["ours"]] > 0
        assert all(value > 0 for value in table["values"].values())
        assert not table["values"].keys() & table["missing"].keys()
        for goal in table["goals"]:
            absent = goal["against"] in table["missing"]
            assert (goal["reached"] is None) == (goal["met"] is None)
            assert goal["reached"] is not None or absent, goal


READERS = {"dicomdata", "pydicom", "pydicom, fields read", "GDCM scanner", "dicomsdl"}


def test_a_run_keeps_its_numbers_puts_them_into_a_page_and_names_who_is_missing(
    tmp_path: Path,
) -> None:
    numbers, page = run_bench(tmp_path, "--only", "headers,catalog")

    check_tables(numbers["tables"])
    works = [table["work"] for table in numbers["tables"]]
    assert works == [
        "headers, generated files", "refresh of an unchanged archive", "catalog of 80 frames"
    ]  # fmt: skip
    assert {"processor", "memory", "versions", "load before", "load after"} <= set(
        numbers["machine"]
    )
    headers = numbers["tables"][0]
    assert headers["values"].keys() | headers["missing"].keys() == READERS
    for name, why in headers["missing"].items():
        assert f"* without {name}: {why}" in page
    assert page.startswith("Before.\n<!-- numbers: begin -->\n")
    assert page.endswith("<!-- numbers: end -->\nAfter.\n")
    assert "old" not in page
    assert "### Catalog of 80 frames" in page


@pytest.mark.thorough
def test_every_work_runs_at_the_size_of_a_toy(tmp_path: Path) -> None:
    numbers, _ = run_bench(tmp_path)

    check_tables(numbers["tables"])
    assert numbers["failed"] == {}


def test_a_reader_that_is_missing_or_fails_is_named_and_the_others_go_on() -> None:
    def absent() -> Callable[[], None]:
        raise ImportError("No module named 'elsewhere'")

    def broken() -> None:
        raise ValueError("not a file I know\nof any kind")

    table = Table("reading", "ms")
    contenders: Contenders = {"dicomdata": lambda: list, "elsewhere": absent, "odd": lambda: broken}
    take_turns(contenders, table, rounds=2, scale=1000)
    table.ask("elsewhere", 2)

    assert list(table.values) == ["dicomdata"]
    assert table.missing == {
        "elsewhere": "ImportError: No module named 'elsewhere'",
        "odd": "ValueError: not a file I know",
    }
    text = as_markdown([table], {})
    assert "| reading | dicomdata against elsewhere | 2 x | not measured | unknown |" in text
    assert "* without odd: ValueError: not a file I know" in text


def test_goals_are_ratios_of_others_to_ours_or_amounts() -> None:
    table = Table("reading", "ms", values={"dicomdata": 2.0, "slow": 7.0, "floor": 1.5})

    table.ask("slow", 3.5)
    table.ask("slow", 3.6)
    table.ask("floor", 1 / 1.5, text="within 1.5 x of the floor")
    table.limit("milliseconds", 1.9, 2.0, "ms")

    assert [goal.met for goal in table.goals] == [True, False, True, False]
    assert [goal.reached for goal in table.goals] == [3.5, 3.5, 0.75, 2.0]
    assert table_from_dict(json.loads(json.dumps(table.as_dict()))) == table
    text = as_markdown([table], {"memory": "1 GiB"})
    assert "| reading | dicomdata against slow | 3.6 x | 3.5 x | **no** |" in text
    assert "| slow | 7 | 3.5 |" in text
    assert "| **dicomdata** | 2 | 1 |" in text


def test_a_drawn_chest_is_as_hard_to_compress_and_its_header_as_long_as_a_real_one(
    tmp_path: Path,
) -> None:
    ((path, *_),) = chest_archive(tmp_path, slices=2)

    slice_ = pydicom.dcmread(path)
    stored = slice_.pixel_array.clip(0, 4095).astype("uint16")

    # Chest CTs of LIDC-IDRI and the like: JPEG-LS makes 2.2 to 2.8 : 1 of sharp kernels.
    assert 2.2 < stored.nbytes / len(imagecodecs.jpegls_encode(stored)) < 2.8
    assert 95 <= sum(1 for _ in slice_.iterall()) <= 130
    assert any(element.VR == "SQ" for element in slice_)


def test_drawn_chests_are_clean_series(tmp_path: Path) -> None:
    paths = chest_archive(tmp_path / "native", patients=2, slices=5, size=32)
    chest_archive(tmp_path / "jpeg-ls", slices=5, size=32, transfer_syntax_uid=JPEG_LS)

    plan = dd.plan_stacks(dd.scan(tmp_path, progress=False))

    assert plan.rejected == ()
    assert [stack.shape for stack in plan.stacks] == [(5, 32, 32)] * 3
    assert {finding.kind for stack in plan.stacks for finding in stack.findings} == {
        "padding_present"
    }
    assert {stack.paths for stack in plan.stacks} >= {tuple(map(str, each)) for each in paths}

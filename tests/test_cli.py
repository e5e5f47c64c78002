"""The command: results on stdout, complaints on stderr, a status that scripts can rely on."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import dicomdata as dd
from dicomdata.cli import app
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

COMMANDS = [
    "scan",
    "series",
    "stacks",
    "show",
    "header",
    "warm",
    "verify",
    "outcomes",
    "findings",
    "cache",
    "split",
]

PROGRAM = "import sys; sys.argv[0] = 'dicomdata'; from dicomdata.cli import app; app()"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one CT and nothing else."""
    folder = tmp_path_factory.mktemp("clean")
    write_series(folder, seed="clean")
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CT, an MR, a CT that lacks a slice, and a text file."""
    folder = tmp_path_factory.mktemp("mixed")
    write_series(folder / "ct", shape=(6, 4, 6), seed="ct", extra={"ConvolutionKernel": "STANDARD"})
    write_series(folder / "mr", modality="MR", patient_id="OTHER", seed="mr")
    gap = [(0, 0, z) for z in (0.0, 2.0, 6.0, 8.0)]
    write_series(folder / "gap", positions=gap, seed="gap")
    (folder / "notes.txt").write_text("no DICOM\n")
    return folder


@pytest.fixture(scope="module")
def catalog(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog of the mixed folder."""
    path = tmp_path_factory.mktemp("catalogs") / "mixed.catalog"
    dd.scan(mixed, catalog=path, keep=("ConvolutionKernel",), progress=False)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_program(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def document(result: Result) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    read: dict[str, Any] = json.loads(result.stdout, parse_constant=refuse)
    return read


# --- help, version, status ------------------------------------------------------------------------


def test_help_teaches() -> None:
    told = run("--help").stdout

    assert all(command in told for command in COMMANDS)
    assert "dicomdata scan /data/ct -o ct.catalog" in told
    assert "Exit status:" in told


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_and_says_what_its_status_means(command: str) -> None:
    result = run(command, "--help")

    assert result.exit_code == 0
    assert f"  dicomdata {command} " in result.stdout
    assert "Exit status:" in result.stdout


def test_help_imports_nothing_that_takes_long() -> None:
    program = f"{PROGRAM.replace('app()', 'app(standalone_mode=False)')}; print(*sys.modules)"
    command = [sys.executable, "-c", program, "--help"]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    loaded = set(done.stdout.split())
    assert "typer" in loaded
    assert not loaded & {"torch", "monai", "pydicom", "numpy", "matplotlib", "rich", "sqlite3"}


@pytest.mark.parametrize("command", ["scan", "series", "stacks", "outcomes"])
def test_listing_imports_neither_torch_nor_monai(clean: Path, command: str) -> None:
    program = f"{PROGRAM.replace('app()', 'app(standalone_mode=False)')}; print(*sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", program, command, str(clean)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert not set(done.stdout.split()) & {"torch", "monai", "matplotlib"}


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"dicomdata {dd.__version__}\n"


def test_status_0_says_that_nothing_was_left_out(clean: Path) -> None:
    for command in ("scan", "series", "stacks", "outcomes"):
        result = run(command, clean)
        assert (result.exit_code, result.stderr) == (0, ""), command


def test_status_1_says_that_something_was_left_out(mixed: Path) -> None:
    for command in ("scan", "series", "stacks", "outcomes"):
        assert run(command, mixed).exit_code == 1, command


@pytest.mark.parametrize("command", ["scan", "series", "stacks", "outcomes", "verify", "header"])
def test_status_2_says_that_it_could_not_be_done(tmp_path: Path, command: str) -> None:
    result = run(command, tmp_path / "nowhere")

    assert result.exit_code == 2
    assert result.stdout == ""
    assert "nowhere" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_misspelt_option_is_status_2(clean: Path) -> None:
    assert run("scan", clean, "--jsn").exit_code == 2


def test_a_real_process_keeps_streams_apart_and_shows_no_traceback(mixed: Path) -> None:
    done = run_program("stacks", mixed)
    failed = run_program("stacks", mixed / "nowhere")

    assert done.returncode == 1
    assert "gap" not in done.stdout
    assert "gap" in done.stderr
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert "Traceback" not in failed.stderr


def test_a_reader_that_stops_reading_is_no_traceback(mixed: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, "outcomes", str(mixed), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read().decode()

    assert "Traceback" not in told


# --- scan -----------------------------------------------------------------------------------------


def test_scan_counts_and_keeps_what_it_found(mixed: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.catalog"

    result = run("scan", mixed, "-o", path, "--keep", "ConvolutionKernel", "--no-progress")

    assert "3 series of 15 frames" in result.stdout
    assert "notes.txt" in result.stderr
    assert dd.open_catalog(path).select(ConvolutionKernel="STANDARD").series[0].slices == 6


def test_scan_as_json(mixed: Path) -> None:
    told = document(run("scan", mixed, "--json"))

    assert told["root"] == str(mixed)
    assert told["catalog"] is None
    assert sorted(series["modality"] for series in told["series"]) == ["CT", "CT", "MR"]
    assert [left["error"] for left in told["left_out"]] == ["NotDicomError"]


def test_a_keyword_that_may_not_be_kept_is_refused(clean: Path) -> None:
    result = run("scan", clean, "--keep", "PatientName")

    assert result.exit_code == 2
    assert "PatientName" in result.stderr


# --- series and stacks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "patients"),
    [
        ((), ["OTHER", "PHANTOM", "PHANTOM"]),
        (("--modality", "MR"), ["OTHER"]),
        (("-m", "MR", "-m", "CT"), ["OTHER", "PHANTOM", "PHANTOM"]),
        (("--patient-id", "OTHER"), ["OTHER"]),
        (("--min-slices", "6"), ["PHANTOM"]),
        (("--where", "slices=5..6"), ["OTHER", "PHANTOM"]),
        (("--where", "slices=..4"), ["PHANTOM"]),
        (("--where", "slices=4"), ["PHANTOM"]),
        (("--where", "ConvolutionKernel=STANDARD"), ["PHANTOM"]),
        (("--where", "PatientID=OTHER", "--where", "slices=2.."), ["OTHER"]),
        (("--where", "PatientID=OTHER", "--where", "PatientID=NOBODY"), ["OTHER"]),
        (("--min-slices", "5", "--modality", "MR"), ["OTHER"]),
    ],
)
def test_series_are_chosen_by_any_column(
    catalog: Path, options: tuple[str, ...], patients: list[str]
) -> None:
    told = document(run("series", catalog, *options, "--json"))

    assert sorted(series["patient_id"] for series in told["series"]) == patients
    assert told["catalog"] == str(catalog)


@pytest.mark.parametrize("where", ["slices", "=5", "colour=red", "min_slices=many"])
def test_a_condition_that_makes_no_sense_is_refused(catalog: Path, where: str) -> None:
    result = run("series", catalog, "--where", where)

    assert result.exit_code == 2
    assert where.partition("=")[0] in result.stderr


def test_stacks_are_numbered_the_same_however_they_are_chosen(catalog: Path) -> None:
    everything = document(run("stacks", catalog, "--json"))["stacks"]
    chosen = document(run("stacks", catalog, "--modality", "MR", "--json"))["stacks"]

    assert [stack["number"] for stack in everything] == [1, 2]
    assert chosen == [stack for stack in everything if stack["modality"] == "MR"]


def test_a_stack_as_json_says_where_it_lies(clean: Path) -> None:
    (stack,) = document(run("stacks", clean, "--json"))["stacks"]

    assert stack["shape"] == [5, 4, 6]
    assert stack["spacing"] == [2.5, 0.8, 0.5]
    assert stack["unit"] == "HU"
    (planned,) = dd.plan_stacks(dd.scan(clean, progress=False)).stacks
    np.testing.assert_array_equal(stack["affine_lps"], planned.affine_lps)
    assert stack["id"] == planned.id


def test_what_is_left_out_is_in_the_json_too(catalog: Path) -> None:
    told = document(run("stacks", catalog, "--json"))["left_out"]

    assert [left["error"] for left in told] == ["GeometryError", "NotDicomError"]
    assert "gap" in told[0]["reason"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_series(tmp_path, shape=(1, 4, 6), slice_thickness="nan")

    assert document(run("series", tmp_path, "--json"))["series"][0]["slice_spacing"] is None
    assert len(document(run("stacks", tmp_path, "--json"))["stacks"]) == 1


def test_a_pipe_gets_whole_columns_of_text(tmp_path: Path) -> None:
    long = "description " * 5
    write_series(tmp_path, extra={"SeriesDescription": long[:60].strip()})

    lines = run_program("series", tmp_path, env={**os.environ, "COLUMNS": "40"}).stdout.splitlines()

    assert len(lines) == 2
    assert long[:60].strip() in lines[1]
    assert lines[1].split()[-1].startswith("1.2.826")


def test_a_terminal_is_not_obeyed_by_headers(tmp_path: Path) -> None:
    # Control characters, rich's own markup, and a file name with a line end.
    write_series(
        tmp_path / "a\nb",
        patient_id="\x1b[31mred",
        extra={"SeriesDescription": "[bold red]loud[/]"},
    )
    (tmp_path / "a\nb" / "x\x1b[2J.txt").write_text("no DICOM")

    for command in ("series", "stacks", "outcomes"):
        told, status = on_terminal(command, tmp_path, columns=160)
        assert status == 1
        assert "\x1b[31mred" not in told, command
        assert "\x1b[2J" not in told
        if command == "series":
            assert "[bold red]loud[/]" in told


def on_terminal(*arguments: object, columns: int) -> tuple[str, int]:
    """Run the program with a terminal to write to; give what it wrote, and its status."""
    main, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm"},
    )  # fmt: skip
    os.close(terminal)
    told = b""
    try:
        while part := os.read(main, 65536):
            told += part
    except OSError:
        pass  # Linux's way to say that nobody writes any more
    finally:
        os.close(main)
    return told.decode(errors="replace"), process.wait()


def test_a_narrow_terminal_gets_a_narrow_table(catalog: Path) -> None:
    told, _ = on_terminal("stacks", catalog, columns=80)

    table = re.sub(r"\x1b\[[\d;]*m", "", told).partition("left out")[0].splitlines()
    (row,) = (line for line in table if "PHANTOM" in line)
    assert row.split()[:6] == ["1", "CT", "PHANTOM", "6x4x6", "2.5x0.8x0.5", "HU"]
    assert max(len(line) for line in table) <= 80


def test_letters_that_the_output_lacks_are_escaped(tmp_path: Path) -> None:
    write_series(tmp_path, extra={"SeriesDescription": "Th\u00f4rax \u30ab"})

    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = run_program("series", tmp_path, env=environment, encoding="latin-1")

    assert done.returncode == 0, done.stderr
    assert "Th\u00f4rax \\u30ab" in done.stdout


# --- show -----------------------------------------------------------------------------------------


def test_show_draws_the_only_stack_of_a_folder(clean: Path, tmp_path: Path) -> None:
    result = run("show", clean, "-o", tmp_path / "a.png", "--window", "bone")

    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size > (600, 300)


@pytest.mark.parametrize("name", ["1", "id", "prefix"])
def test_show_finds_a_stack_by_number_by_id_and_by_its_beginning(
    catalog: Path, tmp_path: Path, name: str
) -> None:
    first = document(run("stacks", catalog, "--json"))["stacks"][0]
    names = {"1": "1", "id": first["id"], "prefix": first["id"][:-2]}

    result = run("show", f"{catalog}/{names[name]}", "-o", tmp_path / "a.png")

    assert result.exit_code == 0, result.stderr
    assert first["id"] in result.stdout


def test_show_finds_a_stack_below_a_folder_by_number(mixed: Path, tmp_path: Path) -> None:
    result = run("show", f"{mixed}/2", "-o", tmp_path / "a.png", "--window=0,2000")

    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("stack", "told"),
    [
        ("{catalog}", "holds 2 stacks; name one"),
        ("{catalog}/9", "no stack is called '9'"),
        ("{catalog}/0", "no stack is called '0'"),
        ("{catalog}/1.2.8", "2 stacks begin with"),
        ("{catalog}/zzz", "no stack is called 'zzz'"),
        ("{mixed}/gap", "holds no stack"),
        ("{mixed}/nowhere/1", "no such catalog or folder"),
        ("nonsense", "no such catalog or folder"),
    ],
)
def test_show_says_why_it_cannot_find_a_stack(
    catalog: Path, mixed: Path, tmp_path: Path, stack: str, told: str
) -> None:
    result = run("show", stack.format(catalog=catalog, mixed=mixed), "-o", tmp_path / "a.png")

    assert result.exit_code == 2
    assert told in result.stderr
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("window", ["lungs", "1,x", "5,1", "brain,"])
def test_show_refuses_a_window_that_is_none(clean: Path, tmp_path: Path, window: str) -> None:
    assert run("show", clean, "-o", tmp_path / "a.png", "--window", window).exit_code == 2


@pytest.mark.parametrize("window", ["lung", "bone", "brain", "soft-tissue", "soft tissue"])
def test_show_knows_the_usual_windows(clean: Path, tmp_path: Path, window: str) -> None:
    result = run("show", clean, "-o", tmp_path / "a.svg", "--window", window)

    assert result.exit_code == 0
    assert f"{window.replace('-', ' ')} window" in (tmp_path / "a.svg").read_text()


# --- header ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("header")
    return write_series(folder, extra={"Manufacturer": "ACME\x07", "KVP": "120"})[0]


def test_header_prints_every_element_as_pydicom_does(file: Path) -> None:
    told = run("header", file).stdout

    expected = str(dd.read_header(file)).splitlines()
    found = told.splitlines()
    assert all(line in found for line in expected if line.startswith("("))
    assert any(line.startswith("(0002,0010) Transfer Syntax UID") for line in found)


@pytest.mark.parametrize(
    "name", ["KVP", "kvp", "0018,0060", "(0018,0060)", "(0018, 0060)", "0x00180060", "00180060"]
)
def test_header_finds_one_element(file: Path, name: str) -> None:
    result = run("header", file, name)

    assert result.exit_code == 0
    assert result.stdout.split() == ["(0018,0060)", "KVP", "DS:", "'120'"]


def test_header_finds_elements_of_the_file_meta_information(file: Path) -> None:
    assert "Explicit VR Little Endian" in run("header", file, "TransferSyntaxUID").stdout


def test_header_escapes_what_a_terminal_would_obey(file: Path) -> None:
    told = run("header", file, "Manufacturer").stdout

    assert "\x07" not in told
    assert "ACME" in told


def test_header_suggests_the_nearest_keyword(file: Path) -> None:
    result = run("header", file, "Manufactuer")

    assert result.exit_code == 2
    assert "did you mean Manufacturer?" in result.stderr


def test_header_says_that_an_element_is_not_there(file: Path) -> None:
    result = run("header", file, "0x00080050")

    assert result.exit_code == 2
    assert "no element '0x00080050'" in result.stderr


def test_header_as_json_is_the_dicom_json_model(file: Path) -> None:
    told = document(run("header", file, "--json"))

    assert told["00180060"] == {"vr": "DS", "Value": [120.0]}
    assert told["00280010"] == {"vr": "US", "Value": [4]}


def test_header_of_no_dicom_is_refused(mixed: Path) -> None:
    result = run("header", mixed / "notes.txt")

    assert result.exit_code == 2
    assert "not DICOM" in result.stderr


def test_one_damaged_element_spoils_no_other(tmp_path: Path) -> None:
    (path,) = write_series(
        tmp_path,
        shape=(1, 4, 6),
        extra={"KVP": "a lot", "SeriesNumber": "1.5", "ExposureTime": "9"},
    )

    result = run("header", path)

    assert result.exit_code == 0
    assert "Exposure Time" in result.stdout
    assert "(0018,0060)" in result.stdout
    assert "(0020,0011)" in result.stdout


# --- warm, verify, outcomes -----------------------------------------------------------------------


def test_warm_fills_a_cache(catalog: Path, tmp_path: Path) -> None:
    result = run("warm", catalog, "--cache", tmp_path / "cache", "--max-bytes", "1 GB")

    assert result.exit_code == 1
    assert result.stdout == f"2 volumes in {tmp_path / 'cache'}, 2 of them new\n"
    plan = dd.plan_stacks(dd.open_catalog(catalog))
    cache = dd.DiskCache(tmp_path / "cache")
    assert len(list(dd.VolumeDataset(plan.stacks, cache=cache))) == 2
    found = cache.statistics()
    assert (found.hits, found.misses) == (2, 0)


def test_warm_takes_only_what_is_chosen(catalog: Path, tmp_path: Path) -> None:
    result = run("warm", catalog, "--cache", tmp_path / "cache", "--modality", "MR")

    assert result.stdout.startswith("1 volume in ")


def test_warm_tells_of_a_volume_that_cannot_be_read(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "series")
    run("scan", tmp_path / "series", "-o", tmp_path / "a.catalog")
    paths[2].write_bytes(paths[2].read_bytes()[:-8])

    result = run("warm", tmp_path / "a.catalog", "--cache", tmp_path / "cache")

    assert result.exit_code == 1
    assert paths[2].name in result.stderr


def test_verify_tells_whole_from_damaged(clean: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.catalog"
    run("scan", clean, "-o", path)

    assert run("verify", path).exit_code == 0
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    damaged = run("verify", path)

    assert damaged.exit_code == 2
    assert "a.catalog" in damaged.stderr


def test_verify_of_a_folder_is_refused(clean: Path) -> None:
    result = run("verify", clean)

    assert result.exit_code == 2
    assert "only a catalog can be verified" in result.stderr


def test_outcomes_account_for_every_file_once(mixed: Path, tmp_path: Path) -> None:
    path = tmp_path / "account.csv"

    result = run("outcomes", mixed, "--csv", path)

    files = sorted(str(file) for file in mixed.rglob("*") if file.is_file())
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["path"] for row in rows) == files
    assert {row["outcome"] for row in rows} == {"used", "rejected", "not DICOM"}
    assert f"{len(files)} files" in result.stdout


def test_outcomes_count_equal_reasons_together(mixed: Path) -> None:
    lines = run("outcomes", mixed).stdout.splitlines()

    counts = {line.split()[1]: int(line.split()[0]) for line in lines[1:4]}
    assert counts == {"used": 11, "rejected": 4, "not": 1}
    assert sum("gap" in line for line in lines) == 1


def test_outcomes_as_json(catalog: Path) -> None:
    told = document(run("outcomes", catalog, "--json"))

    assert told["counts"] == {"used": 11, "rejected": 4, "not DICOM": 1}
    assert len(told["outcomes"]) == 16


def test_an_account_that_cannot_be_written_is_status_2(clean: Path, tmp_path: Path) -> None:
    result = run("outcomes", clean, "--csv", tmp_path)

    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_many_rejections_are_cut_short(tmp_path: Path) -> None:
    for k in range(25):
        positions = [(0, 0, z) for z in (0.0, 2.0, 6.0, 8.0)]
        write_series(tmp_path, positions=positions, seed=f"gap {k}")

    told = run("stacks", tmp_path).stderr.splitlines()

    assert len(told) == 21
    assert told[-1].startswith("left out: 5 more")

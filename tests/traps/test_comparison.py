"""The comparison of readers: what is right, refused and silently wrong is called so."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import dicomdata as dd
from dicomdata.testing.phantoms import SeriesPhantom, write_series
from traps.judge import Answer, Given, Verdict, judge
from traps.suite import TRAPS

if TYPE_CHECKING:
    from types import ModuleType

    from traps.trap import Trap

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The program, as a module: its processes find their functions by name."""
    sys.path.insert(0, str(PROJECT / "scripts"))
    import compare_readers

    return compare_readers


def read(folder: Path) -> Given:
    """One volume, as this package reads it."""
    (stack,) = dd.plan_stacks(dd.scan(folder, progress=False)).stacks
    return Given(dd.read_volume(stack).voxels, stack.affine_lps)


def read_flipped(folder: Path, trap: Trap) -> Answer:
    """The same voxels, with axes in another order and direction, and an affine that says so."""
    given = read(folder)
    flip = np.eye(4)[[2, 1, 0, 3]]
    flip[1, 1], flip[1, 3] = -1, given.voxels.shape[1] - 1
    return Answer((Given(given.voxels[:, ::-1].T, given.affine_lps @ flip),))


def read_mirrored(folder: Path, trap: Trap) -> Answer:
    """A reader that turns the voxels around and forgets to tell the affine."""
    given = read(folder)
    return Answer((Given(given.voxels[::-1], given.affine_lps),))


def read_with_a_slip(folder: Path, trap: Trap) -> Answer:
    """A reader that gives one voxel a value that is not its own."""
    given = read(folder)
    voxels = given.voxels.copy()
    voxels[1, 2, 3] += 1
    return Answer((Given(voxels, given.affine_lps),))


def read_nothing(folder: Path, trap: Trap) -> Answer:
    """A reader that says nothing at all."""
    return Answer()


def read_and_raise(folder: Path, trap: Trap) -> Answer:
    """A reader that takes nothing."""
    raise ValueError("no gap was expected")


def read_and_die(folder: Path, trap: Trap) -> Answer:
    """A reader that brings its process down."""
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def read_for_ever(folder: Path, trap: Trap) -> Answer:
    """A reader that never comes back."""
    time.sleep(600)
    raise AssertionError


def verdict(reader: str, trap: str, folder: Path) -> Verdict:
    TRAPS[trap].write(folder)
    answer: Answer = globals()[reader](folder, TRAPS[trap])
    return judge(TRAPS[trap], answer).verdict


# --- the judge ------------------------------------------------------------------------------------


def test_axes_may_come_in_any_order_and_direction(tmp_path: Path) -> None:
    assert verdict("read_flipped", "T14", tmp_path) is Verdict.RIGHT


@pytest.mark.parametrize("reader", ["read_mirrored", "read_with_a_slip", "read_nothing"])
def test_a_reader_that_is_wrong_and_says_nothing_is_silently_wrong(
    reader: str, tmp_path: Path
) -> None:
    assert verdict(reader, "T14", tmp_path) is Verdict.WRONG


def test_a_volume_where_none_is_right_is_silently_wrong(tmp_path: Path) -> None:
    write_series(tmp_path, SeriesPhantom())

    answer = Answer((read(tmp_path),))

    assert judge(TRAPS["shift"], answer).verdict is Verdict.WRONG


def test_one_of_two_volumes_is_silently_wrong_unless_the_other_is_refused(tmp_path: Path) -> None:
    trap = TRAPS["ph"]
    first = trap.truth[0]
    one = (Given(first.voxels, first.affine_lps),)

    assert judge(trap, Answer(one)).verdict is Verdict.WRONG
    assert judge(trap, Answer(one, "the other is damaged")).verdict is Verdict.NEEDLESS


def test_a_volume_given_twice_is_not_right() -> None:
    truth = TRAPS["T14"].truth[0]
    given = Given(truth.voxels, truth.affine_lps)

    assert judge(TRAPS["T14"], Answer((given, given))).verdict is Verdict.WRONG


def test_what_lies_aside_may_be_given_and_may_be_left_out() -> None:
    trap = TRAPS["T18"]
    volume, localizer = (
        Given(truth.voxels, truth.affine_lps) for truth in (*trap.truth, *trap.aside)
    )

    assert judge(trap, Answer((volume,))).verdict is Verdict.RIGHT
    assert judge(trap, Answer((localizer, volume))).verdict is Verdict.RIGHT
    assert judge(trap, Answer((localizer,))).verdict is Verdict.WRONG


def test_padding_may_be_air_or_nan_and_nothing_else() -> None:
    trap = TRAPS["P1"]
    (truth,) = trap.truth

    for fill, expected in (
        (-1024, Verdict.RIGHT),
        (np.nan, Verdict.RIGHT),
        (0, Verdict.WRONG),
        (-3024, Verdict.WRONG),
    ):
        voxels = truth.voxels.copy()
        voxels[..., ::3] = fill
        answer = Answer((Given(voxels, truth.affine_lps),))
        assert judge(trap, answer).verdict is expected


def test_a_refusal_is_due_or_needless_and_may_have_to_name_why() -> None:
    refusal = Answer(refusal="TypeError: unsupported operand")

    assert judge(TRAPS["T14"], refusal).verdict is Verdict.NEEDLESS
    assert judge(TRAPS["T10"], refusal).verdict is Verdict.REFUSED
    assert judge(TRAPS["T10"], refusal, by_name=True).verdict is Verdict.NEEDLESS
    named = Answer(refusal="GeometryError: gap: 1 missing slice(s)")
    assert judge(TRAPS["T10"], named, by_name=True).verdict is Verdict.REFUSED


# --- the program ----------------------------------------------------------------------------------


def test_ours_and_simpleitk_are_told_apart(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    options = [f"--only={name}" for name in ("T1", "T3", "T10", "G8")]

    status = program.main(
        [*options, "--readers=dicomdata", "--readers=SimpleITK", "--why", f"--markdown={page}"]
    )

    assert status == 0
    told = capsys.readouterr().out
    cells = {row.split(" | ")[0]: row.split(" | ")[2:] for row in told.splitlines()}
    assert cells["| T1"] == ["right", "right |"]
    assert cells["| T3"] == ["right", "**silently wrong** |"]
    assert cells["| T10"] == ["refused", "**silently wrong** |"]
    assert cells["| G8"] == ["right", "not asked |"]
    assert "T3, SimpleITK: silently wrong: volume 1: voxel (4, 0, 0) is 6.9" in told
    assert f"dicomdata {dd.__version__}, simpleitk " in page.read_text()


def test_a_crash_is_a_refusal_and_stops_nobody(program: ModuleType) -> None:
    traps = [TRAPS["T14"], TRAPS["T10"]]
    readers = {"dies": read_and_die, "raises": read_and_raise}

    comparison = program.compare(traps, readers)

    found = {key: judgement.verdict for key, judgement in comparison.judgements.items()}
    assert found == {
        (trap, reader): Verdict.NEEDLESS if trap == "T14" else Verdict.REFUSED
        for trap in ("T14", "T10")
        for reader in readers
    }
    assert "| needless refusal (crash) | needless refusal |" in comparison.to_markdown()
    assert "T10, dies: refused: crash: exit code -11" in comparison.reasons()
    assert "T10, raises: refused: ValueError: no gap was expected" in comparison.reasons()


def test_a_hang_is_a_refusal(program: ModuleType) -> None:
    comparison = program.compare([TRAPS["T10"]], {"hangs": read_for_ever}, timeout_s=3)

    assert comparison.reasons() == "T10, hangs: refused: timeout: nothing after 3 s"


def test_readers_that_are_not_there_are_left_out_by_name(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = program.Reader(read_nothing, "nowhere", ("no_such_module_anywhere",))
    monkeypatch.setitem(program.READERS, "Nowhere", absent)

    program.main(["--only=T14", "--readers=dicomdata", "--readers=Nowhere"])

    told = capsys.readouterr()
    assert "left out: Nowhere is not installed" in told.err
    assert told.out.startswith("| trap |  | dicomdata |\n")


def test_the_page_has_a_row_for_every_trap() -> None:
    rows = [
        [cell.strip() for cell in line.split(" | ")]
        for line in (PROJECT / "docs" / "comparison.md").read_text().splitlines()
    ]

    shown = [row[0].removeprefix("| ") for row in rows if len(row) > 4][2:]

    # The last four rows are the totals.
    assert shown[:-4] == list(TRAPS)

"""Policies: what each finding leads to, and findings as data that can be asked for and filtered."""

from __future__ import annotations

import csv
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

import dicomdata as dd
from dicomdata.cli import app
from dicomdata.testing.phantoms import phantom_uid, write_series

if TYPE_CHECKING:
    from collections.abc import Callable

    Planned = Callable[..., dd.StackPlan]

FINDINGS_PAGE = Path(__file__).parent.parent / "docs" / "findings.md"
OPTIONS = {"padding", "fill", "pet_unit"}
KINDS = [field.name for field in fields(dd.Policy) if field.name not in OPTIONS]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A clean series, a tilted one and one with a gap."""
    depths = (0, 2.5, 5, 10)
    gap = {"positions": [(0, 0, z) for z in depths]}
    for name, unusual in (("clean", {}), ("tilted", {"step": (0, 1, 2.5)}), ("gap", gap)):
        write_series(tmp_path / name, extra={"SeriesInstanceUID": phantom_uid(name)}, **unusual)
    return tmp_path


def kinds(stack: dd.Stack) -> set[str]:
    return {finding.kind for finding in stack.findings}


# --- presets --------------------------------------------------------------------------------------


def test_the_strict_policy_takes_only_what_is_clean(archive: Path, planned: Planned) -> None:
    plan = planned(archive, dd.Policy.strict())

    assert [kinds(stack) for stack in plan.stacks] == [set()]
    assert {rejection.error.finding for rejection in plan.rejected} == {"tilt", "gap"}  # type: ignore[attr-defined]


def test_the_lenient_policy_takes_all_that_can_be_made_right(
    archive: Path, planned: Planned
) -> None:
    plan = planned(archive, dd.Policy.lenient())

    assert not plan.rejected
    assert sorted(map(sorted, map(kinds, plan.stacks))) == [[], ["gap"], ["tilt"]]


def test_presets_are_ordered_from_strict_to_lenient() -> None:
    order = {"reject": 0, "repair": 1, "accept": 1}
    strict, usual, lenient = dd.Policy.strict(), dd.Policy(), dd.Policy.lenient()

    for kind in KINDS:
        choices = [order[getattr(policy, kind)] for policy in (strict, usual, lenient)]
        assert choices == sorted(choices), kind


@pytest.mark.parametrize(
    "kind", ["gap", "variable_spacing", "jump", "repeated_position", "not_a_volume"]
)
def test_what_no_single_affine_can_place_is_never_accepted(kind: str) -> None:
    with pytest.raises(dd.ConfigError, match="no right volume"):
        dd.Policy(**{kind: "accept"})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["jump", "lossy", "duplicate"])
def test_what_has_no_repair_is_not_repaired(kind: str) -> None:
    with pytest.raises(dd.ConfigError, match="expected"):
        dd.Policy(**{kind: "repair"})  # type: ignore[arg-type]


def test_the_page_on_findings_tells_what_the_policy_does() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| (\w+)", FINDINGS_PAGE.read_text(), re.MULTILINE))

    assert told == {kind: getattr(dd.Policy(), kind) for kind in KINDS}


# --- findings as data -----------------------------------------------------------------------------


def test_every_finding_of_a_plan_is_a_row(archive: Path, planned: Planned) -> None:
    plan = planned(archive)

    rows = {row.kind: row for row in plan.findings}

    assert set(rows) == {"tilt", "gap"}
    assert (rows["tilt"].choice, rows["tilt"].unit) == ("accept", "degrees")
    assert rows["tilt"].amount == pytest.approx(21.8014, abs=1e-3)
    assert rows["tilt"].stack in {stack.id for stack in plan.stacks}
    assert (rows["gap"].choice, rows["gap"].stack, rows["gap"].where) == ("reject", "", "3")
    assert (rows["gap"].amount, rows["gap"].unit) == (1, "frames")


def test_findings_save_as_csv_and_pandas(archive: Path, planned: Planned, tmp_path: Path) -> None:
    plan = planned(archive)

    plan.findings.to_csv(tmp_path / "findings.csv")
    table = plan.findings.to_pandas()

    with (tmp_path / "findings.csv").open() as file:
        saved = list(csv.DictReader(file))
    assert [row["kind"] for row in saved] == table["kind"].tolist()
    assert len(saved) == len(plan.findings) == 2


def test_stacks_are_selected_by_what_they_are_without(archive: Path, planned: Planned) -> None:
    plan = planned(archive)

    upright = plan.select(without={"tilt"})

    assert [kinds(stack) for stack in upright.stacks] == [set()]
    left = [row for row in upright.outcomes if row.outcome == "not selected"]
    assert {Path(row.path).parent.name for row in left} == {"tilted"}
    assert len(upright.outcomes) == len(plan.outcomes)


def test_a_localizer_goes_with_the_stack_it_lay_beside(tmp_path: Path, planned: Planned) -> None:
    coronal = (1, 0, 0, 0, 0, -1)
    write_series(
        tmp_path, shape=(6, 4, 6), orientation=lambda k: coronal if k == 5 else (1, 0, 0, 0, 1, 0)
    )
    plan = planned(tmp_path)

    nothing = plan.select(without="localizer")

    (stack,) = plan.stacks
    assert kinds(stack) == {"localizer"}
    assert nothing.stacks == ()
    assert [row.outcome for row in nothing.outcomes] == ["not selected"] * 6


def test_a_finding_that_does_not_exist_is_no_condition(archive: Path, planned: Planned) -> None:
    plan = planned(archive)

    with pytest.raises(dd.ConfigError, match="did you mean 'tilt'"):
        plan.select(without={"tild"})


def test_one_phase_of_several_is_selected_and_the_others_accounted_for(
    tmp_path: Path, planned: Planned, accounted: Callable[[dd.StackPlan], None]
) -> None:
    positions = [(0, 0, 2.5 * (k % 5)) for k in range(10)]
    write_series(
        tmp_path, positions=positions, extra={"TemporalPositionIdentifier": lambda k: 1 + k // 5}
    )
    plan = planned(tmp_path)

    second = plan.select_stacks(
        lambda stack: stack.dimension == ("TemporalPositionIdentifier", "2")
    )

    assert [stack.dimension[1] for stack in plan.stacks] == ["1", "2"]
    assert [stack.dimension[1] for stack in second.stacks] == ["2"]
    assert second.items()[0]["dimension"] == "TemporalPositionIdentifier=2"
    accounted(second)


# --- the command line -----------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout


def test_findings_are_listed(archive: Path) -> None:
    status, told = run("findings", archive)

    assert status == 1
    assert re.search(r"1 +tilt +accept +21\.8 degrees +slices lean", told)
    assert re.search(r"1 +gap +reject +1 frames +.*1 missing slice", told)


def test_findings_are_saved(archive: Path, tmp_path: Path) -> None:
    run("findings", archive, "--csv", tmp_path / "all.csv")

    assert len((tmp_path / "all.csv").read_text().splitlines()) == 3


def test_stacks_are_listed_under_a_policy_and_without_a_finding(archive: Path) -> None:
    listed = {
        name: run("stacks", archive, *options)[1].count("x4x6")
        for name, options in {
            "default": (),
            "strict": ("--policy", "strict"),
            "lenient": ("--policy", "lenient"),
            "upright": ("--policy", "lenient", "--without", "tilt"),
        }.items()
    }

    assert listed == {"default": 2, "strict": 1, "lenient": 3, "upright": 2}

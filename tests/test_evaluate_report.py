"""`evaluate`: many cases, groups, intervals over patients, and the files of a `Report`."""

from __future__ import annotations

import csv
import json
import math
import pickle
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import dicomdata as dd
from dicomdata.evaluate.summarising import bootstrap
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Planned = Callable[..., dd.StackPlan]

SHAPE = (4, 10, 10)

SERIES = (("A", "Acme", 1.0), ("A", "Acme", 2.5), ("B", "Acme", 2.5), ("C", "<b>Bolt</b>", 10.0))
"""Patient, manufacturer and slice thickness."""


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory, planned: Planned) -> tuple[dd.Stack, ...]:
    root = tmp_path_factory.mktemp("archive")
    for number, (patient, manufacturer, thickness) in enumerate(SERIES):
        write_series(
            root / str(number), shape=SHAPE, seed=str(number), patient_id=patient,
            slice_thickness=thickness,
            extra={"Manufacturer": manufacturer, "PatientName": "Doe^Jane"},
        )  # fmt: skip
    found = {stack.root: stack for stack in planned(root).stacks}
    assert len(found) == 1
    by_uid = {stack.paths[0].split("/")[-2]: stack for stack in planned(root).stacks}
    return tuple(by_uid[str(number)] for number in range(len(SERIES)))


def columns(first: int, count: int = 4) -> NDArray[np.bool_]:
    voxels = np.zeros(SHAPE, np.bool_)
    voxels[1:3, 2:8, first : first + count] = True
    return voxels


def masked(stack: dd.Stack, *voxels: NDArray[np.bool_]) -> dd.Mask:
    return dd.place_mask(np.stack(voxels), stack.affine_lps, stack, ["Lung", "Tumour"])


NOTHING = np.zeros(SHAPE, np.bool_)


def made(stacks: tuple[dd.Stack, ...]) -> list[dd.Case]:
    """Lung shifted by 0, 1, 2 and 4 columns of 4; the tumour nowhere, nowhere, missed, found."""
    tumours = ((NOTHING, NOTHING), (NOTHING, NOTHING), (columns(1), NOTHING), (columns(1),) * 2)
    return [
        dd.Case(
            stack,
            partial(masked, stack, columns(2), truth),
            partial(masked, stack, columns(2 + shift), found),
        )
        for stack, shift, (truth, found) in zip(stacks, (0, 1, 2, 4), tumours, strict=True)
    ]


@pytest.fixture(scope="module")
def report(stacks: tuple[dd.Stack, ...]) -> dd.Report:
    rules = dd.ScoringRules(tolerance_mm=0.5)
    return dd.evaluate(made(stacks), rules, seed=1, by=("manufacturer", "slice_thickness"))


# --- rows and summaries ---------------------------------------------------------------------------


def test_there_is_a_row_for_each_case_and_segment(
    report: dd.Report, stacks: tuple[dd.Stack, ...]
) -> None:
    lungs = [row for row in report.rows if row.score.segment == "Lung"]

    assert [row.case for row in lungs] == [stack.id for stack in stacks]
    assert [row.score.dice for row in lungs] == [1.0, 0.75, 0.5, 0.0]
    assert len(report.rows) == 8
    assert report.rejected == ()


def test_a_mean_counts_what_was_skipped_and_what_was_missed(report: dd.Report) -> None:
    dice, distance = report.summary("Tumour"), report.summary("Tumour", "hausdorff_mm")

    # Two cases have no tumour, in one it was missed, in one found.
    assert (dice.cases, dice.skipped, dice.mean) == (2, 2, 0.5)
    assert (distance.cases, distance.infinite, distance.mean) == (2, 1, 0.0)
    assert distance.median == math.inf


def test_groups_are_those_of_the_catalogs_columns(report: dd.Report) -> None:
    acme = report.summary("Lung", column="manufacturer", value="Acme")
    thick = report.summary("Lung", column="slice_thickness", value="2.5")

    assert (acme.cases, acme.patients, acme.mean) == (3, 2, 0.75)
    assert (thick.cases, thick.mean) == (2, 0.625)
    # By size, and not as words: 10.0 is not before 2.5.
    values = [each.value for each in report.summaries if each.column == "slice_thickness"]
    assert list(dict.fromkeys(values)) == ["1.0", "2.5", "10.0"]


def test_groups_may_be_functions_of_a_series(stacks: tuple[dd.Stack, ...]) -> None:
    def thickness(series: dd.Series) -> str:
        return "thin" if (series.slice_thickness or 0) < 2 else "thick"

    found = dd.evaluate(made(stacks), seed=1, by={"thickness": thickness})

    assert found.summary("Lung", column="thickness", value="thin").cases == 1
    assert found.summary("Lung", column="thickness", value="thick").cases == 3


def test_a_column_that_does_not_exist_is_refused(stacks: tuple[dd.Stack, ...]) -> None:
    with pytest.raises(dd.ConfigError, match="no column 'kernel'"):
        dd.evaluate(made(stacks), seed=1, by=("kernel",))


def test_what_cannot_be_scored_is_kept_with_its_reason(stacks: tuple[dd.Stack, ...]) -> None:
    def fail() -> dd.Mask:
        raise dd.LabelError("seg.dcm: mirrored")

    whole = made(stacks)
    cases = [dd.Case(stacks[0], fail, whole[0].prediction), *whole[1:]]

    found = dd.evaluate(cases, seed=1)

    assert [(each.subject, str(each)) for each in found.rejected] == [
        (stacks[0].id, "seg.dcm: mirrored")
    ]
    assert found.summary("Lung").cases == 3


def test_a_label_of_another_stack_is_rejected(stacks: tuple[dd.Stack, ...]) -> None:
    cases = [dd.Case(stacks[0], made(stacks)[1].label, made(stacks)[1].prediction)]

    found = dd.evaluate(cases, seed=1)

    assert "its label is of stack" in str(found.rejected[0])
    assert found.summaries == ()


def test_a_case_that_comes_twice_is_refused(stacks: tuple[dd.Stack, ...]) -> None:
    with pytest.raises(dd.ConfigError, match="comes twice"):
        dd.evaluate([*made(stacks), made(stacks)[0]], seed=1)


def test_the_worst_have_the_lowest_dice(report: dd.Report, stacks: tuple[dd.Stack, ...]) -> None:
    # Means of lung and tumour: .25 in case 2, .5 in case 3, .75 and 1 of the lung alone.
    assert report.worst(3) == tuple(stacks[number].id for number in (2, 3, 1))


def test_a_report_is_plain_data(report: dd.Report) -> None:
    assert len(pickle.loads(pickle.dumps(report)).rows) == 8


# --- intervals ------------------------------------------------------------------------------------


def drawn(values: list[float], patients: list[str], seed: int = 0) -> tuple[float, float]:
    return bootstrap(np.array(values), patients, seed=seed, draws=400, confidence=0.95)


def test_patients_are_drawn_and_not_their_series() -> None:
    # Ten series of each of two patients, who differ: four draws of two patients are all there are.
    values, patients = [0.2] * 10 + [0.8] * 10, ["A"] * 10 + ["B"] * 10

    assert list(drawn(values, patients)) == pytest.approx([0.2, 0.8])


def test_an_interval_depends_on_the_seed_and_not_on_the_order() -> None:
    rng = np.random.default_rng(3)
    values, patients = rng.random(30).tolist(), [str(number % 11) for number in range(30)]
    order = rng.permutation(30).tolist()

    turned = drawn([values[i] for i in order], [patients[i] for i in order])

    assert turned == drawn(values, patients)
    assert drawn(values, patients, seed=1) != drawn(values, patients)


def test_an_interval_is_as_wide_as_theory_says() -> None:
    # Of 100 patients with a standard deviation of 1, the mean has one of a tenth.
    values = np.random.default_rng(5).standard_normal(100)
    values = (values - values.mean()) / values.std()

    ends = drawn(values.tolist(), [str(number) for number in range(100)])

    assert list(ends) == pytest.approx([-0.196, 0.196], abs=0.04)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, math.nan], [0.5, math.inf]])
def test_one_patient_has_no_interval(values: list[float]) -> None:
    low, high = drawn(values, ["A", "B"][: len(values)])

    assert math.isnan(low)
    assert math.isnan(high)


def test_spaces_and_case_do_not_make_another_patient(tmp_path: Path, planned: Planned) -> None:
    for number, patient in enumerate(("ID 7", "id  7 ")):
        write_series(tmp_path / str(number), shape=SHAPE, seed=str(number), patient_id=patient)
    cases = [
        dd.Case(stack, masked(stack, columns(1), NOTHING), masked(stack, columns(2), NOTHING))
        for stack in planned(tmp_path).stacks
    ]

    assert dd.evaluate(cases, seed=0).summary("Lung").patients == 1


# --- files ----------------------------------------------------------------------------------------


def test_a_csv_has_a_line_for_each_segment_and_each_rejection(
    report: dd.Report, stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    path = tmp_path / "new" / "scores.csv"
    refused = dd.Rejection("1.2-x", dd.LabelError("why"))

    dd.Report(**{**fields_of(report), "rejected": (refused,)}).to_csv(path)

    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert rows[0]["case"] == stacks[0].id
    assert (rows[0]["dice"], rows[0]["manufacturer"], rows[0]["grid"]) == (
        "1.0", "Acme", "same_grid",
    )  # fmt: skip
    # Of the tumour: skipped, and missed.
    assert (rows[1]["dice"], rows[5]["hausdorff_mm"]) == ("", "inf")
    assert (rows[8]["case"], rows[8]["error"]) == ("1.2-x", "why")


def fields_of(report: dd.Report) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__dataclass_fields__}


def test_a_json_file_states_rules_and_has_no_nan(report: dd.Report, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    report.to_json(tmp_path / "scores.json")

    text = (tmp_path / "scores.json").read_text()
    told = json.loads(text, parse_constant=refuse)
    assert told["rules"]["both_empty"] == "skip"
    assert told["bootstrap"] == {
        "over": "patients", "seed": 1, "draws": 1000, "confidence": 0.95,
    }  # fmt: skip
    assert told["cases"][1]["dice"] is None
    assert told["cases"][5]["hausdorff_mm"] == "inf"
    assert len(told["summaries"]) == len(report.summaries)


def test_a_cell_that_a_spreadsheet_would_run_is_text(tmp_path: Path, planned: Planned) -> None:
    names = {"=HYPERLINK(1)": "'=HYPERLINK(1)", "@SUM(A1)": "'@SUM(A1)", "-12": "-12", "P-1": "P-1"}
    for number, name in enumerate(names):
        write_series(
            tmp_path / str(number), shape=SHAPE, seed=str(number), patient_id=name,
            extra={"Manufacturer": "+cmd|calc"},
        )  # fmt: skip
    cases = [
        dd.Case(stack, masked(stack, columns(1), NOTHING), masked(stack, columns(2), NOTHING))
        for stack in planned(tmp_path).stacks
    ]

    report = dd.evaluate(cases, seed=0, by=("manufacturer",))
    report.to_csv(tmp_path / "scores.csv")

    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # A Patient ID that is a number is joined with other tables: no spreadsheet runs it.
    assert {row["patient_id"] for row in rows} == {*names.values()}
    assert {row["manufacturer"] for row in rows} == {"'+cmd|calc"}
    assert {row.patient_id for row in report.rows} == {*names}


def test_a_table_has_the_lines_of_the_csv(report: dd.Report) -> None:
    refused = dd.Rejection("1.2-x", dd.LabelError("why"))

    table = dd.Report(**{**fields_of(report), "rejected": (refused,)}).to_pandas()

    assert len(table) == 9
    assert table.query("segment == 'Lung'")["dice"].tolist() == [1.0, 0.75, 0.5, 0.0]
    assert math.isinf(table["hausdorff_mm"].max())
    assert table["error"].tolist()[-1] == "why"


def test_a_mask_is_computed_once_and_is_the_same_again(stacks: tuple[dd.Stack, ...]) -> None:
    asked: list[str] = []

    def read(stack: dd.Stack) -> dd.Mask:
        asked.append(stack.id)
        return masked(stack, columns(1), columns(3, 5))

    kept, forgotten = dd.KeptMasks(read), dd.KeptMasks(read, max_bytes=0)
    first, again = kept(stacks[0]), kept(stacks[0])

    assert asked == [stacks[0].id]
    assert np.array_equal(first.voxels, again.voxels)
    assert (again.segments, again.verdict, again.stack) == (
        first.segments, first.verdict, first.stack,
    )  # fmt: skip
    assert np.array_equal(forgotten(stacks[0]).voxels, forgotten(stacks[0]).voxels)
    assert len(asked) == 3


def test_a_page_draws_the_worst_cases(
    report: dd.Report, stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    report.to_html(tmp_path / "page.html", made(stacks), worst=2)

    page = (tmp_path / "page.html").read_text()
    assert re.findall(r"<h3>(.*?)</h3>", page) == [stacks[2].id, stacks[3].id]
    assert page.count("data:image/png;base64,iVBOR") == 2
    assert "Surface Dice: within 0.5 mm." in page


def test_a_page_escapes_headers_and_names_nobody(
    report: dd.Report, stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    report.to_html(tmp_path / "page.html")

    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;Bolt" in page
    assert "<b>" not in page
    assert "Doe" not in page
    assert "<img" not in page


def test_a_report_that_cannot_be_written_says_so(report: dd.Report, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(dd.FileError, match="cannot be written"):
        report.to_csv(tmp_path / "file" / "scores.csv")


def test_an_outline_is_drawn_in_its_colour(stacks: tuple[dd.Stack, ...], tmp_path: Path) -> None:
    path = tmp_path / "lung.svg"

    dd.draw_orthogonal(dd.read_volume(stacks[0]), path, outlines={"Lung, label": columns(2)})

    drawing = path.read_text()
    assert "<!-- Lung, label -->" in drawing
    # The name and its line, in all three cuts.
    assert drawing.count("#7bd88f") >= 4


def test_an_outline_of_another_shape_is_refused(
    stacks: tuple[dd.Stack, ...], tmp_path: Path
) -> None:
    with pytest.raises(dd.ConfigError, match=r"its shape is \(1, 2, 3\)"):
        dd.draw_orthogonal(
            dd.read_volume(stacks[0]), tmp_path / "x.png",
            outlines={"Lung": np.zeros((1, 2, 3), np.bool_)},
        )  # fmt: skip


# --- real images and labels -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("dcmqi/ct24_classic", "dcmqi_24x38x3"),
        ("dcmqi/ct24_enhanced", "dcmqi_24x38x3"),
        ("dcmqi/ct_3slice", "dcmqi_liver"),
    ],
)
def test_a_real_label_moved_by_a_voxel_has_the_dice_that_numpy_says(
    corpus: Path, expected: dict[str, Any], planned: Planned, tmp_path: Path, folder: str, name: str
) -> None:
    known = expected["seg"][name]
    (stack,) = planned(corpus / folder).stacks
    label = dd.read_segmentation(corpus / known["file"], stack)
    moved = np.roll(label.voxels, 1, axis=3)
    prediction = dd.place_mask(moved, stack.affine_lps, stack, label.segments)
    cases = [dd.Case(stack, label, prediction)]

    report = dd.evaluate(cases, seed=0, by=("manufacturer",))
    report.to_html(tmp_path / "page.html", cases, worst=1)

    sitk = pytest.importorskip("SimpleITK")
    (twin,) = (corpus / known["file"]).parent.glob("*.nrrd")
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(twin))) == 1
    both = (truth & np.roll(truth, 1, axis=2)).sum()
    assert 0 < both < truth.sum()
    assert [row.score.dice for row in report.rows] == [pytest.approx(both / truth.sum())]
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,iVBOR") == 1
    assert stack.id in page

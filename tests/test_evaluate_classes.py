"""`evaluate_classes`: classes of whole cases, their measures, groups and intervals."""

from __future__ import annotations

import csv
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import dicomdata as dd
from dicomdata.evaluate.rates import area_under_curve
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Planned = Callable[..., dd.StackPlan]

CLASSES = ("benign", "malign")

KNOWN = (
    ("A", "Acme", "benign", 0.1),
    ("A", "Acme", "benign", 0.2),
    ("B", "Acme", "benign", 0.7),
    ("C", "=Bolt", "malign", 0.4),
    ("D", "=Bolt", "malign", 0.7),
    ("E", "=Bolt", "malign", 0.9),
)
"""Patient, manufacturer, class, and the probability of "malign"."""


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory, planned: Planned) -> tuple[dd.Stack, ...]:
    root = tmp_path_factory.mktemp("archive")
    for number, (patient, manufacturer, _, _) in enumerate(KNOWN):
        write_series(
            root / str(number), seed=str(number), patient_id=patient,
            extra={"Manufacturer": manufacturer},
        )  # fmt: skip
    found = {stack.paths[0].split("/")[-2]: stack for stack in planned(root).stacks}
    return tuple(found[str(number)] for number in range(len(KNOWN)))


def cases(stacks: tuple[dd.Stack, ...]) -> list[dd.ClassCase]:
    return [
        dd.ClassCase(stack, label, (1 - share, share))
        for stack, (_, _, label, share) in zip(stacks, KNOWN, strict=True)
    ]


@pytest.fixture(scope="module")
def report(stacks: tuple[dd.Stack, ...]) -> dd.ClassReport:
    return dd.evaluate_classes(cases(stacks), CLASSES, seed=3, by=("manufacturer",))


def test_a_confusion_matrix_counts_what_is_and_what_was_predicted(report: dd.ClassReport) -> None:
    assert report.confusion().tolist() == [[2, 1], [1, 2]]
    assert report.confusion(column="manufacturer", value="Acme").tolist() == [[2, 1], [0, 0]]


def test_measures_are_those_of_textbooks(report: dd.ClassReport) -> None:
    assert report.summary("accuracy").found == pytest.approx(4 / 6)
    assert report.summary("balanced_accuracy").found == pytest.approx(2 / 3)
    assert report.summary("sensitivity", "malign").found == pytest.approx(2 / 3)
    assert report.summary("specificity", "malign").found == pytest.approx(2 / 3)
    # Of nine pairs, 7 are in order, one is a tie: .7 and .7; .7 before .4 is wrong.
    assert report.summary("auc", "malign").found == pytest.approx(7.5 / 9)
    assert report.summary("auc", "benign").found == pytest.approx(7.5 / 9)


def test_a_group_of_one_class_has_no_curve(report: dd.ClassReport) -> None:
    acme = {"column": "manufacturer", "value": "Acme"}

    curve, rate = report.summary("auc", "malign", **acme), report.summary("accuracy", **acme)

    assert math.isnan(curve.found)
    assert curve.undefined == report.draws
    # Balanced over the classes there are.
    assert report.summary("balanced_accuracy", **acme).found == rate.found == pytest.approx(2 / 3)
    assert (rate.cases, rate.patients) == (3, 2)


def test_the_area_under_a_curve_is_that_of_trapezoids() -> None:
    rng = np.random.default_rng(1)
    there = rng.random(60) < 0.3
    scores = (10 * (rng.random(60) + 0.3 * there)).round() / 10  # with ties

    # By the curve itself: true and false positives at each threshold.
    levels = np.concatenate([[np.inf], np.sort(np.unique(scores))[::-1]])
    hits = [(scores[there] >= level).mean() for level in levels]
    alarms = [(scores[~there] >= level).mean() for level in levels]

    found = area_under_curve(scores, there, np.ones((1, 60)))

    assert found.tolist() == [pytest.approx(np.trapezoid(hits, alarms))]


def test_a_case_that_was_drawn_twice_counts_as_two() -> None:
    scores, there = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True])

    drawn = area_under_curve(scores, there, np.array([[2.0, 1, 0, 3]]))

    twice = np.array([0.1, 0.1, 0.4, 0.8, 0.8, 0.8])
    assert drawn == area_under_curve(twice, twice > 0.3, np.ones((1, 6)))


def test_intervals_are_of_patients_and_do_not_depend_on_the_order(
    stacks: tuple[dd.Stack, ...], report: dd.ClassReport
) -> None:
    turned = dd.evaluate_classes(cases(stacks)[::-1], CLASSES, seed=3, by=("manufacturer",))

    def ends(found: dd.ClassReport) -> list[Any]:
        return [(row.low, row.high) for row in found.summaries if row.measure == "accuracy"]

    assert ends(turned) == ends(report)
    few = [dd.evaluate_classes(cases(stacks), CLASSES, seed=seed, draws=5) for seed in (3, 4)]
    assert ends(few[0]) != ends(few[1])
    assert 0 <= report.summary("accuracy").low < 4 / 6 < report.summary("accuracy").high <= 1
    # Patient A is right in both cases, B wrong in the one: two patients, and four draws.
    acme = report.summary("accuracy", column="manufacturer", value="Acme")
    assert (acme.low, acme.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    "given", [(0.5, 0.6), (1.5, -0.5), (math.nan, 1.0), (1.0,), (0.2, 0.3, 0.5), ()]
)
def test_what_is_no_probability_is_rejected_and_in_no_number(
    stacks: tuple[dd.Stack, ...], given: tuple[float, ...]
) -> None:
    first, *rest = cases(stacks)

    found = dd.evaluate_classes(
        [dd.ClassCase(first.stack, first.label, lambda: given), *rest], CLASSES, seed=0
    )

    assert [each.subject for each in found.rejected] == [first.stack.id]
    assert "expected 2 probabilities" in str(found.rejected[0])
    assert found.summary("accuracy").cases == 5


def test_a_label_that_is_no_class_is_rejected(stacks: tuple[dd.Stack, ...]) -> None:
    found = dd.evaluate_classes([dd.ClassCase(stacks[0], "odd", (0.5, 0.5))], CLASSES, seed=0)

    assert "its label is 'odd'" in str(found.rejected[0])
    assert found.summaries == ()


@pytest.mark.parametrize("classes", [(), ("benign",), ("benign", "benign"), "ab"])
def test_classes_that_are_none_are_refused(classes: Any) -> None:
    with pytest.raises(dd.ConfigError, match="two classes or more"):
        dd.evaluate_classes([], classes, seed=0)


def test_a_case_that_comes_twice_is_refused(stacks: tuple[dd.Stack, ...]) -> None:
    with pytest.raises(dd.ConfigError, match="comes twice"):
        dd.evaluate_classes([*cases(stacks), cases(stacks)[0]], CLASSES, seed=0)


def test_files_have_all_of_it(report: dd.ClassReport, tmp_path: Path) -> None:
    report.to_csv(tmp_path / "scores.csv")
    report.to_json(tmp_path / "scores.json")

    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == [
        "benign", "benign", "malign", "benign", "malign", "malign",
    ]  # fmt: skip
    assert [float(row["probability of malign"]) for row in rows] == [row[3] for row in KNOWN]
    assert {row["manufacturer"] for row in rows} == {"Acme", "'=Bolt"}
    told = json.loads((tmp_path / "scores.json").read_text())
    assert told["confusion"] == [[2, 1], [1, 2]]
    assert len(told["cases"]) == 6
    assert report.to_pandas()["right"].tolist() == [True, True, False, False, True, True]


# --- what a network says --------------------------------------------------------------------------


def test_a_network_says_the_probability_of_each_class(stacks: tuple[dd.Stack, ...]) -> None:
    def network(batch: torch.Tensor) -> torch.Tensor:
        mean = batch.mean(dim=(1, 2, 3, 4))
        return torch.stack([0 * mean, mean / 100], dim=1)

    dataset = dd.VolumeDataset(stacks)

    found = dd.predict_classes(network, dataset, 2, activation="softmax")

    mean = float(dd.read_volume(stacks[2]).voxels.mean()) / 100
    assert found.tolist() == pytest.approx([1 / (1 + math.exp(mean)), 1 / (1 + math.exp(-mean))])


def test_a_network_of_masks_does_not_classify(stacks: tuple[dd.Stack, ...]) -> None:
    with pytest.raises(dd.ConfigError, match="a number for each class"):
        dd.predict_classes(lambda x: x, dd.VolumeDataset(stacks), 0, activation="softmax")

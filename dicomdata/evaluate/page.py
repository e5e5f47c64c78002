"""A `Report` as a page: one file, no scripts, everything from outside escaped."""

from __future__ import annotations

import base64
import math
import os
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment

from dicomdata.evaluate.evaluating import masks_of
from dicomdata.evaluate.placing import is_there, onto_grid_of
from dicomdata.evaluate.scoring import pair_names
from dicomdata.report import draw_orthogonal
from dicomdata.volume import read_volume

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from dicomdata.evaluate.records import Case, Report

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Evaluation</title>
<style>
body { background: #101114; color: #f2f2f2; font: 15px/1.5 system-ui, sans-serif;
       margin: 2em auto; max-width: 75em; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .2em .8em; text-align: right; border-bottom: 1px solid #333 }
td.word, th.word { text-align: left; overflow-wrap: anywhere }
p, li, caption { color: #b8bdc4 } caption { text-align: left } img { max-width: 100% }
</style>
<h1>Evaluation</h1>
<p>{{ cases }} cases scored, {{ report.rejected | length }} rejected.</p>
<h2>Rules</h2>
<ul>{% for rule in rules %}<li>{{ rule }}</li>{% endfor %}</ul>
{% for title, rows in tables %}
<h2>{{ title }}</h2>
<table>
<tr><th class="word">group<th class="word">segment<th class="word">measure<th>mean
<th>{{ percent }} interval<th>median<th>cases<th>patients<th>skipped<th>infinite</tr>
{% for row in rows %}
<tr><td class="word">{{ row.value or ("not stated" if row.column else "all") }}
<td class="word">{{ row.segment }}<td class="word">{{ row.measure.replace("_", " ") }}
<td>{{ row.mean | number }}<td>{{ row.low | number }} to {{ row.high | number }}
<td>{{ row.median | number }}<td>{{ row.cases }}<td>{{ row.patients }}<td>{{ row.skipped }}
<td>{{ row.infinite }}</tr>
{% endfor %}
</table>
{% endfor %}
{% if pictures %}<h2>Worst cases</h2>{% endif %}
{% for name, text, data in pictures %}
<h3>{{ name }}</h3>
<p>{{ text }}</p>
<img alt="{{ name }}" src="data:image/png;base64,{{ data }}">
{% endfor %}
<h2>Cases</h2>
<table>
<tr><th class="word">case<th class="word">segment<th>Dice<th>surface Dice<th>mean mm<th>95 % mm
<th>label ml<th>prediction ml<th class="word">grid</tr>
{% for row in report.rows %}
<tr><td class="word">{{ row.case }}<td class="word">{{ row.score.segment }}
<td>{{ row.score.dice | number }}<td>{{ row.score.surface_dice | number }}
<td>{{ row.score.mean_distance_mm | number }}<td>{{ row.score.hausdorff95_mm | number }}
<td>{{ row.score.label_ml | number }}<td>{{ row.score.prediction_ml | number }}
<td class="word">{{ row.verdict.kind.replace("_", " ") }}</tr>
{% endfor %}
</table>
{% if report.rejected %}
<h2>Rejected</h2>
<p>In no mean; the CSV and JSON files say why.</p>
<ul>{% for each in report.rejected %}
<li>{{ each.subject }}: {{ each.error.__class__.__name__ }}</li>{% endfor %}</ul>
{% endif %}
</html>
"""


def render(report: Report, cases: Iterable[Case], worst: int) -> str:
    """Give the page of a report.

    Args:
        report: what to show.
        cases: of which the worst are drawn.
        worst: how many.

    Raises:
        DicomDataError: if one of the worst cannot be read again.
    """
    environment = Environment(autoescape=True)
    environment.filters["number"] = _number
    columns = dict.fromkeys(row.column for row in report.summaries)
    tables = [
        (
            f"By {column.replace('_', ' ')}" if column else "All cases",
            [row for row in report.summaries if row.column == column],
        )
        for column in columns
    ]
    return environment.from_string(_PAGE).render(
        report=report,
        cases=len({row.case for row in report.rows}),
        rules=_rules(report),
        percent=f"{report.confidence:.0%}",
        tables=tables,
        pictures=_pictures(report, cases, worst),
    )


def _rules(report: Report) -> list[str]:
    """Say how cases were scored, in sentences."""
    rules = report.rules
    told = [
        "All is compared on the grid of the source images; distances are mm in the patient.",
        (
            "A segment that only one of label and prediction has: Dice 0, distances infinite, "
            "which are counted, and in medians but not in means."
        ),
    ]
    told.append(
        "A segment that neither has: skipped, in no mean, and counted."
        if rules.both_empty == "skip"
        else "A segment that neither has: agreement, Dice 1 and distance 0."
    )
    told.append(
        "Predictions on other grids were resampled to the source grid; each case says which."
        if rules.resample
        else "Predictions on other grids were rejected."
    )
    if rules.tolerance_mm is not None:
        told.append(f"Surface Dice: within {rules.tolerance_mm:g} mm.")
    told.append(
        f"Intervals: {report.confidence:.0%}, means of {report.draws} draws of patients, each "
        f"with all their cases; seed {report.seed}."
    )
    return told


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "\N{EN DASH}"
    return "inf" if math.isinf(value) else f"{value:.4g}"


def _pictures(report: Report, cases: Iterable[Case], worst: int) -> list[tuple[str, str, str]]:
    """Draw the worst cases, worst first: id, Dice in words, a PNG in base64."""
    wanted = report.worst(worst)
    dice: dict[str, list[str]] = {}
    for row in report.rows:
        told = f"{row.score.segment}: Dice {_number(row.score.dice)}"
        dice.setdefault(row.case, []).append(told)
    drawn = {case.stack.id: _draw(case, report) for case in cases if case.stack.id in wanted}
    return [(name, "; ".join(dice[name]), drawn[name]) for name in wanted if name in drawn]


def _draw(case: Case, report: Report) -> str:
    """Draw label and prediction over the image, cut where they differ most."""
    label, prediction = masks_of(case)
    placed = onto_grid_of(prediction, label, resample=report.rules.resample)
    outlines: dict[str, NDArray[np.bool_]] = {}
    wrong = np.zeros(label.stack.shape, np.bool_)
    for name, theirs in pair_names(label, prediction, report.rules):
        truth, found = is_there(label.of(name)), is_there(placed.of(theirs))
        outlines[f"{name}, label"], outlines[f"{name}, prediction"] = truth, found
        wrong |= truth ^ found
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "case.png")
        volume = read_volume(case.stack)
        draw_orthogonal(volume, path, centre=_centre(wrong, outlines), outlines=outlines)
        with open(path, "rb") as file:
            return base64.b64encode(file.read()).decode("ascii")


def _centre(
    wrong: NDArray[np.bool_], outlines: dict[str, NDArray[np.bool_]]
) -> tuple[int, int, int] | None:
    """Give the voxel where the planes with the most errors meet; else with the most of anything."""
    shown = wrong if wrong.any() else np.logical_or.reduce(list(outlines.values()))
    if not shown.any():
        return None
    counts: list[Any] = [shown.sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
    slices, rows, columns = (int(count.argmax()) for count in counts)
    return slices, rows, columns

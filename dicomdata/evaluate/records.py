"""What evaluating gives: a `Report` of rows, summaries and what could not be scored, and its files.

In a file, nan is an empty cell or null, and infinity the word "inf".
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from dicomdata.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pandas as pd

    from dicomdata.errors import Rejection
    from dicomdata.evaluate.scoring import ScoringRules, SegmentScore
    from dicomdata.labels import Mask, Verdict
    from dicomdata.stack import Stack

Measure = Literal[
    "dice",
    "surface_dice",
    "mean_distance_mm",
    "hausdorff95_mm",
    "hausdorff_mm",
    "difference_ml",
]
"""A number of a `SegmentScore` that is summarised."""

COLUMNS = (
    "case", "patient_id", "series_instance_uid", "segment", "presence", "dice", "surface_dice",
    "mean_distance_mm", "hausdorff95_mm", "hausdorff_mm", "label_ml", "prediction_ml",
    "difference_ml", "grid", "grid_text", "error",
)  # fmt: skip
"""Of a CSV file, before those of the groups."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet runs."""

_NUMBER = re.compile(r"[+-]?([0-9]+[.,]?[0-9]*|[.,][0-9]+|inf)")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One stack with its label and its prediction, or how to get them: read when it is scored."""

    stack: Stack
    """The image: whose it is, and on whose grid both are compared."""

    label: Mask | Callable[[], Mask]
    """The truth, or a function that reads it."""

    prediction: Mask | Callable[[], Mask]
    """What is to be scored, or a function that reads or computes it."""


@dataclass(frozen=True, slots=True)
class CaseRow:
    """One segment of one case."""

    case: str
    """Id of the stack."""

    patient_id: str
    """Patient ID (0010,0020); "" where there is none."""

    patient: str
    """Who is drawn in the bootstrap: the Patient ID as it is compared, else the study, else the
    stack."""

    series_instance_uid: str
    """Series Instance UID (0020,000E)."""

    groups: tuple[tuple[str, str], ...]
    """Column -> value of the series, as text; "" where it is not stated."""

    verdict: Verdict
    """How the prediction came onto the grid."""

    score: SegmentScore
    """The numbers."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One measure of one segment, over all cases or those of a group."""

    column: str
    """What the group is of; "" for all cases."""

    value: str
    """Which group; "" for all cases, or where the column is not stated."""

    segment: str
    """Name of the segment."""

    measure: Measure
    """What was measured."""

    cases: int
    """How many have a number, infinite ones too."""

    skipped: int
    """How many have none: neither label nor prediction has a voxel, and the rule is to skip."""

    infinite: int
    """How many distances are infinite, one of the two being empty: in the median, not the mean."""

    patients: int
    """Whose they are."""

    mean: float
    """Of the finite numbers; nan where there is none."""

    low: float
    """Lower end of the interval of the mean; nan for fewer than two patients."""

    high: float
    """Upper end of it."""

    median: float
    """Of all numbers, infinite ones too; nan where there is none."""


@dataclass(frozen=True, slots=True)
class Report:
    """How predictions did, case by case and in groups; and what could not be scored."""

    rows: tuple[CaseRow, ...]
    """Case by case, in the order given, and segment by segment."""

    summaries: tuple[Summary, ...]
    """Of all cases first, then by column and value."""

    rejected: tuple[Rejection, ...]
    """Cases that could not be scored, and why: in no mean."""

    rules: ScoringRules
    """How cases were scored."""

    seed: int
    """Of the intervals."""

    draws: int
    """How often patients were drawn for them."""

    confidence: float
    """Share of the drawn means that is within them."""

    def summary(
        self, segment: str, measure: Measure = "dice", *, column: str = "", value: str = ""
    ) -> Summary:
        """Give one summary.

        Raises:
            KeyError: if there is none.
        """
        wanted = (column, value, segment, measure)
        for each in self.summaries:
            if (each.column, each.value, each.segment, each.measure) == wanted:
                return each
        raise KeyError(wanted)

    def worst(self, count: int) -> tuple[str, ...]:
        """Give the cases of the lowest Dice, mean of their segments; of equal ones, by id."""
        found: dict[str, list[float]] = {}
        for row in self.rows:
            if not math.isnan(row.score.dice):
                found.setdefault(row.case, []).append(row.score.dice)
        order = sorted((sum(dice) / len(dice), case) for case, dice in found.items())
        return tuple(case for _, case in order[:count])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a line for each case and segment, and one for each case that was rejected.

        Raises:
            FileError: if it cannot be written.
        """
        groups = [column for column, _ in self.rows[0].groups] if self.rows else []
        names = (*COLUMNS, *groups)
        write_csv(path, names, (_flat(row) for row in self.rows), self.rejected)

    def to_pandas(self) -> pd.DataFrame:
        """Give the lines of the CSV file as a table; missing numbers are nan. Needs pandas."""
        import pandas as pd

        groups = [column for column, _ in self.rows[0].groups] if self.rows else []
        rows = [_described(row) for row in self.rows]
        rows += [{"case": each.subject, "error": str(each)} for each in self.rejected]
        return pd.DataFrame(rows, columns=list(dict.fromkeys((*COLUMNS, *groups))))

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write all of it.

        Raises:
            FileError: if it cannot be written.
        """
        told = {
            "rules": asdict(self.rules),
            "bootstrap": {
                "over": "patients",
                "seed": self.seed,
                "draws": self.draws,
                "confidence": self.confidence,
            },
            "summaries": [plain_row(asdict(each)) for each in self.summaries],
            "cases": [_flat(row, null=None) for row in self.rows],
            "rejected": [{"case": each.subject, "error": str(each)} for each in self.rejected],
        }
        write_text(path, json.dumps(told, indent=1, allow_nan=False, ensure_ascii=False) + "\n")

    def to_html(
        self, path: str | os.PathLike[str], cases: Iterable[Case] = (), *, worst: int = 6
    ) -> None:
        """Write a page: rules, summaries, the worst cases with pictures, all cases, one file.

        It holds no patient ids and no paths: files say why a case was rejected.

        Args:
            path: ends in ``.html``.
            cases: those that were evaluated, again; of the worst, the images, labels and
                predictions are read once more, to be drawn. None are drawn without.
            worst: how many to draw.

        Raises:
            FileError: if it cannot be written.
            DicomDataError: if one of the worst cannot be read again.
        """
        from dicomdata.evaluate.page import render  # matplotlib and jinja2, for who wants a page

        write_text(path, render(self, cases, worst))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file; its folder is made if it is not there.

    Raises:
        FileError: if it cannot be written.
    """
    target = os.path.abspath(os.path.expanduser(path))
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
    except OSError as error:
        raise FileError(f"{target}: the report cannot be written: {error.strerror}") from error


def write_csv(
    path: str | os.PathLike[str],
    names: Iterable[str],
    rows: Iterable[Mapping[str, Any]],
    rejected: Iterable[Rejection],
) -> None:
    """Write rows, and one for each case that was rejected, under these names.

    Text that a spreadsheet would take for a formula has an apostrophe before it: headers are
    written by others.

    Raises:
        FileError: if it cannot be written.
    """
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, dict.fromkeys(names), restval="", extrasaction="ignore")
    table.writerow({name: _harmless(name) for name in table.fieldnames})
    lost = ({"case": each.subject, "error": str(each)} for each in rejected)
    for row in (*rows, *lost):
        table.writerow({name: _harmless(value) for name, value in row.items()})
    write_text(path, text.getvalue())


def _harmless(value: Any) -> Any:
    """Give a cell that no spreadsheet runs; a number is none, though it be text: Patient ID -12."""
    formula = isinstance(value, str) and value.startswith(_FORMULA)
    return f"'{value}" if formula and not _NUMBER.fullmatch(value) else value


def _flat(row: CaseRow, null: Any = "") -> dict[str, Any]:
    """Give a row as names and values of one line."""
    return plain_row(_described(row), null)


def _described(row: CaseRow) -> dict[str, Any]:
    """Give a row as names and values."""
    score = row.score
    return {
        "case": row.case,
        "patient_id": row.patient_id,
        "series_instance_uid": row.series_instance_uid,
        **{field.name: getattr(score, field.name) for field in fields(score)},
        "difference_ml": score.difference_ml,
        "grid": row.verdict.kind,
        "grid_text": row.verdict.text,
        **dict(row.groups),
    }


def plain_row(told: Mapping[str, Any], null: Any = None) -> dict[str, Any]:
    """Replace what neither JSON nor a table has: nan, None and infinity."""
    return {name: _number(value, null) for name, value in told.items()}


def _number(value: Any, null: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return null
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value

"""Classes of whole cases against their labels: `evaluate_classes`.

A case is a stack. Several stacks of a patient are several cases, and intervals are drawn over
patients, as those of masks are.
"""

from __future__ import annotations

import json
import math
import operator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dicomdata.errors import ConfigError, DicomDataError, LabelError, Rejection
from dicomdata.evaluate.columns import Columns, groups_of, patient_of
from dicomdata.evaluate.evaluating import CONFIDENCE, DRAWS
from dicomdata.evaluate.rates import Sample, draw_measures
from dicomdata.evaluate.records import plain_row, write_csv, write_text

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from dicomdata.evaluate.columns import Groups
    from dicomdata.stack import Stack

    Probabilities = Sequence[float] | NDArray[np.floating[Any]]

ClassMeasure = Literal["accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc"]
"""A number of how cases were classified; the last three are of one class against all others."""

_COLUMNS = (
    "case", "patient_id", "series_instance_uid", "label", "predicted", "right", "error"
)  # fmt: skip
"""Of a CSV file, before a column for each class and those of the groups."""

_SUM = 1e-3
"""By how much probabilities may miss a sum of 1: what 16 bits make of them."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassCase:
    """One stack with its class and what a network says of it, or how to get that."""

    stack: Stack
    label: str
    """Its class."""

    probabilities: Probabilities | Callable[[], Probabilities]
    """Of each class, in their order; from 0 to 1, together 1."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """How one case was classified."""

    case: str
    """Id of the stack."""

    patient_id: str
    """Patient ID (0010,0020); "" where there is none."""

    patient: str
    """Who is drawn in the bootstrap, as in a `CaseRow`."""

    series_instance_uid: str
    """Series Instance UID (0020,000E)."""

    groups: tuple[tuple[str, str], ...]
    """Column -> value of the series, as text."""

    label: str
    """The class it is of."""

    predicted: str
    """The likeliest class; of equal ones the first."""

    probabilities: tuple[float, ...]
    """Of each class."""


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """One measure, over all cases or those of a group."""

    column: str
    """What the group is of; "" for all cases."""

    value: str
    """Which group."""

    name: str
    """The class that it is of; "" for all of them."""

    measure: ClassMeasure
    """What was measured."""

    cases: int
    """How many there are."""

    of_class: int
    """How many of them are of the class; of all classes, how many cases there are."""

    patients: int
    """Whose they are."""

    found: float
    """The number; nan where there is none, as an AUC of cases that are all of one class."""

    low: float
    """Lower end of its interval; nan for fewer than two patients."""

    high: float
    """Upper end of it."""

    undefined: int
    """How many draws of patients had no such number, and are not in the interval."""


@dataclass(frozen=True, slots=True)
class ClassReport:
    """How cases were classified, one by one and in groups; and what could not be."""

    classes: tuple[str, ...]
    """Their names, in the order of the probabilities."""

    rows: tuple[ClassRow, ...]
    """Case by case, in the order given."""

    summaries: tuple[ClassSummary, ...]
    """Of all cases first, then by column and value."""

    rejected: tuple[Rejection, ...]
    """Cases that could not be classified, and why: in no number."""

    seed: int
    """Of the intervals."""

    draws: int
    """How often patients were drawn for them."""

    confidence: float
    """Share of the drawn numbers that is within them."""

    def summary(
        self, measure: ClassMeasure, name: str = "", *, column: str = "", value: str = ""
    ) -> ClassSummary:
        """Give one summary.

        Raises:
            KeyError: if there is none.
        """
        wanted = (column, value, name, measure)
        for each in self.summaries:
            if (each.column, each.value, each.name, each.measure) == wanted:
                return each
        raise KeyError(wanted)

    def confusion(self, *, column: str = "", value: str = "") -> NDArray[np.int64]:
        """Count cases, (classes, classes): a row is what they are, a column what was predicted."""
        chosen = groups_of(self.rows).get((column, value), ())
        places = {name: place for place, name in enumerate(self.classes)}
        counts = np.zeros((len(self.classes),) * 2, np.int64)
        for row in chosen:
            counts[places[row.label], places[row.predicted]] += 1
        return counts

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a line for each case, and one for each that was rejected.

        Raises:
            FileError: if it cannot be written.
        """
        write_csv(path, self._names(), map(self._described, self.rows), self.rejected)

    def to_pandas(self) -> pd.DataFrame:
        """Give the lines of the CSV file as a table. Needs pandas."""
        import pandas as pd

        rows = [self._described(row) for row in self.rows]
        rows += [{"case": each.subject, "error": str(each)} for each in self.rejected]
        return pd.DataFrame(rows, columns=list(self._names()))

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write all of it.

        Raises:
            FileError: if it cannot be written.
        """
        told = {
            "classes": self.classes,
            "bootstrap": {
                "over": "patients",
                "seed": self.seed,
                "draws": self.draws,
                "confidence": self.confidence,
            },
            "confusion": self.confusion().tolist(),
            "summaries": [plain_row(asdict(each)) for each in self.summaries],
            "cases": [self._described(row) for row in self.rows],
            "rejected": [{"case": each.subject, "error": str(each)} for each in self.rejected],
        }
        write_text(path, json.dumps(told, indent=1, allow_nan=False, ensure_ascii=False) + "\n")

    def _names(self) -> dict[str, None]:
        """Give the names of the columns of a table."""
        groups = [column for column, _ in self.rows[0].groups] if self.rows else []
        shares = [_share_name(name) for name in self.classes]
        return dict.fromkeys((*_COLUMNS, *shares, *groups))

    def _described(self, row: ClassRow) -> dict[str, Any]:
        return {
            "case": row.case,
            "patient_id": row.patient_id,
            "series_instance_uid": row.series_instance_uid,
            "label": row.label,
            "predicted": row.predicted,
            "right": row.label == row.predicted,
            **dict(zip(map(_share_name, self.classes), row.probabilities, strict=True)),
            **dict(row.groups),
        }


def evaluate_classes(
    cases: Iterable[ClassCase],
    classes: Sequence[str],
    *,
    seed: int,
    by: Groups = (),
    draws: int = DRAWS,
) -> ClassReport:
    """Compare the likeliest class of cases with their label, all together and in groups.

    Args:
        cases: what to compare; what cannot be is in `ClassReport.rejected`, and in no number.
        classes: their names, in the order of the probabilities.
        seed: of the intervals, which are drawn over patients.
        by: what to group by, as for `evaluate`.
        draws: how often patients are drawn for an interval.

    Raises:
        ConfigError: if there are not two classes, no such column, or a stack comes twice.
    """
    names = tuple(classes)
    if isinstance(classes, str) or len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"classes={classes!r}: expected names of two classes or more")
    if operator.index(draws) < 1:
        raise ConfigError(f"draws={draws}: expected at least 1")
    columns = Columns(by, {*_COLUMNS, *map(_share_name, names)})
    rows: list[ClassRow] = []
    rejected: list[Rejection] = []
    seen: set[str] = set()
    for case in cases:
        if case.stack.id in seen:
            raise ConfigError(f"stack {case.stack.id}: comes twice, and would count twice")
        seen.add(case.stack.id)
        groups = columns.of(case.stack)
        try:
            rows.append(_row(case, names, groups))
        except DicomDataError as error:
            rejected.append(Rejection(case.stack.id, error))
    return ClassReport(
        names, tuple(rows), tuple(_summarise(rows, names, seed, draws)), tuple(rejected), seed,
        draws, CONFIDENCE,
    )  # fmt: skip


def _share_name(name: str) -> str:
    return f"probability of {name}"


def _row(
    case: ClassCase, classes: tuple[str, ...], groups: tuple[tuple[str, str], ...]
) -> ClassRow:
    """Classify a case.

    Raises:
        LabelError: if its label is no class, or what is said of it no probabilities of them.
    """
    stack = case.stack
    if case.label not in classes:
        raise LabelError(
            f"stack {stack.id}: its label is {case.label!r}, expected {', '.join(classes)}"
        )
    given = case.probabilities() if callable(case.probabilities) else case.probabilities
    shares = np.asarray(given, np.float64)
    # Nan is no probability either.
    whole = shares.shape == (len(classes),) and bool(((shares >= 0) & (shares <= 1)).all())
    if not whole or abs(shares.sum() - 1) > _SUM:
        raise LabelError(
            f"stack {stack.id}: expected {len(classes)} probabilities from 0 to 1, together 1, got "
            f"{shares.tolist()}"
        )
    return ClassRow(
        case=stack.id,
        patient_id=stack.patient_id,
        patient=patient_of(stack),
        series_instance_uid=stack.series_instance_uid,
        groups=groups,
        label=case.label,
        predicted=classes[int(shares.argmax())],
        probabilities=tuple(shares.tolist()),
    )


def _listed(classes: tuple[str, ...]) -> Iterator[tuple[str, ClassMeasure]]:
    """Give class and measure in the order of `Sample.measures`."""
    yield from (("", "accuracy"), ("", "balanced_accuracy"))
    for name in classes:
        yield from ((name, "sensitivity"), (name, "specificity"), (name, "auc"))


def _summarise(
    rows: Sequence[ClassRow], classes: tuple[str, ...], seed: int, draws: int
) -> Iterator[ClassSummary]:
    """Give the summaries of all cases, and of those of each group."""
    for (column, value), members in groups_of(rows).items():
        sample = Sample(
            np.array([classes.index(row.label) for row in members]),
            np.array([classes.index(row.predicted) for row in members]),
            np.array([row.probabilities for row in members]),
        )
        (found,) = sample.measures(np.ones((1, len(members))))
        patients = [row.patient for row in members]
        drawn = draw_measures(sample, patients, seed=seed, draws=draws)
        for number, (name, measure) in enumerate(_listed(classes)):
            low, high, undefined = _ends(drawn[:, number])
            yield ClassSummary(
                column, value, name, measure,
                cases=len(members),
                of_class=sum(row.label == name for row in members) if name else len(members),
                patients=len({*patients}),
                found=float(found[number]),
                low=low, high=high, undefined=undefined,
            )  # fmt: skip


def _ends(drawn: NDArray[np.float64]) -> tuple[float, float, int]:
    """Give the ends of an interval, and how many draws have no number."""
    told = drawn[~np.isnan(drawn)]
    if not len(told):
        return math.nan, math.nan, len(drawn)
    low, high = np.quantile(told, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high), len(drawn) - len(told)

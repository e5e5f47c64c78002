"""Many predictions against their labels: `evaluate`."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from dicomdata.catalog import Catalog, Series
from dicomdata.errors import ConfigError, DicomDataError, LabelError, Rejection
from dicomdata.evaluate.records import COLUMNS, CaseRow, Report
from dicomdata.evaluate.scoring import ScoringRules, score
from dicomdata.evaluate.summarising import summarise
from dicomdata.labels import Mask
from dicomdata.splits.grouping import compared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dicomdata.evaluate.records import Case
    from dicomdata.evaluate.scoring import Score
    from dicomdata.stack import Stack

Groups: TypeAlias = "Sequence[str] | Mapping[str, Callable[[Series], object]]"
"""Columns of the catalog; or names, and what each is of a `Series`."""

_OWN = frozenset(COLUMNS) - {"patient_id", "series_instance_uid"}
"""Names that a table of cases has for itself; those of the series are the same in both."""

CONFIDENCE = 0.95
"""Share of drawn means that an interval holds: what papers state."""

DRAWS = 1000
"""How often patients are drawn: the ends of an interval then rest on 25 means each."""


def evaluate(
    cases: Iterable[Case],
    rules: ScoringRules | None = None,
    *,
    seed: int,
    by: Groups = (),
    draws: int = DRAWS,
) -> Report:
    """Score cases one by one, and summarise them, all together and in groups.

    One case is in memory at a time, if its label and its prediction are given as functions. What
    cannot be scored is in `Report.rejected`, and in no mean.

    Args:
        cases: what to score.
        rules: see `score`.
        seed: of the intervals, which are drawn over patients.
        by: what to group by: columns of the catalog, as ``("manufacturer", "slice_thickness")``;
            or names with functions of a `Series`.
        draws: how often patients are drawn for an interval.

    Raises:
        ConfigError: if there is no such column, or a stack comes twice.
    """
    chosen = rules or ScoringRules()
    if operator.index(draws) < 1:
        raise ConfigError(f"draws={draws}: expected at least 1")
    columns = _Columns(by)
    rows: list[CaseRow] = []
    rejected: list[Rejection] = []
    seen: set[str] = set()
    for case in cases:
        stack = case.stack
        if stack.id in seen:
            raise ConfigError(f"stack {stack.id}: comes twice, and would count twice")
        seen.add(stack.id)
        groups = columns.of(stack)
        try:
            scores = _score(case, chosen)
        except DicomDataError as error:
            rejected.append(Rejection(stack.id, error))
            continue
        rows += _rows(scores, stack, groups)
    return Report(
        rows=tuple(rows),
        summaries=summarise(rows, seed=seed, draws=draws, confidence=CONFIDENCE),
        rejected=tuple(rejected),
        rules=chosen,
        seed=seed,
        draws=draws,
        confidence=CONFIDENCE,
    )


def masks_of(case: Case) -> tuple[Mask, Mask]:
    """Give the label and the prediction of a case, read now if they were not yet.

    Raises:
        LabelError: if the label is of another stack than the case.
        DicomDataError: if one of them cannot be read.
    """
    label, prediction = (
        each if isinstance(each, Mask) else each() for each in (case.label, case.prediction)
    )
    if label.stack.id != case.stack.id:
        raise LabelError(f"stack {case.stack.id}: its label is of stack {label.stack.id}")
    return label, prediction


def _score(case: Case, rules: ScoringRules) -> Score:
    """Score a case; its masks are free again afterwards."""
    return score(*masks_of(case), rules)


def _rows(scores: Score, stack: Stack, groups: tuple[tuple[str, str], ...]) -> list[CaseRow]:
    patient = compared(stack.patient_id) or stack.study_instance_uid or stack.id
    return [
        CaseRow(
            case=stack.id,
            patient_id=stack.patient_id,
            patient=patient,
            series_instance_uid=stack.series_instance_uid,
            groups=groups,
            verdict=scores.verdict,
            score=each,
        )
        for each in scores.segments
    ]


class _Columns:
    """Finds what the catalog says of a stack's series; each catalog is read once."""

    def __init__(self, by: Groups) -> None:
        if isinstance(by, str):
            raise ConfigError(f"by={by!r}: expected several columns, as ({by!r},)")
        if taken := _OWN & set(by):
            raise ConfigError(f"by: {', '.join(sorted(taken))} is what a score is called")
        self._by = by
        self._series: dict[str, dict[int, Series]] = {}

    def of(self, stack: Stack) -> tuple[tuple[str, str], ...]:
        """Give names and values of a stack's groups; "" where nothing is stated.

        Raises:
            ConfigError: if the catalog has no such column.
        """
        series = self._find(stack) if self._by else None
        return tuple((name, self._value(series, name)) for name in self._by)

    def _find(self, stack: Stack) -> Series | None:
        # A volume file is of no catalog.
        if not stack.catalog:
            return None
        if stack.catalog not in self._series:
            rows = Catalog(Path(stack.catalog)).series
            self._series[stack.catalog] = {series.id: series for series in rows}
        return self._series[stack.catalog].get(stack.series_id)

    def _value(self, series: Series | None, name: str) -> str:
        if series is None:
            return ""
        value: Any
        if isinstance(self._by, Mapping):
            value = self._by[name](series)
        else:
            known = series.columns_by_name
            if name not in known:
                raise ConfigError(f"by: no column {name!r}; there are {', '.join(known)}")
            value = known[name]
        return "" if value is None else str(value)

"""Many predictions against their labels: `evaluate`."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from dicomdata.errors import ConfigError, DicomDataError, LabelError, Rejection
from dicomdata.evaluate.columns import Columns, patient_of
from dicomdata.evaluate.records import COLUMNS, CaseRow, Report
from dicomdata.evaluate.scoring import ScoringRules, score
from dicomdata.evaluate.summarising import summarise
from dicomdata.labels import Mask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dicomdata.evaluate.columns import Groups
    from dicomdata.evaluate.records import Case
    from dicomdata.evaluate.scoring import Score
    from dicomdata.stack import Stack

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
    columns = Columns(by, COLUMNS)
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
    return [
        CaseRow(
            case=stack.id,
            patient_id=stack.patient_id,
            patient=patient_of(stack),
            series_instance_uid=stack.series_instance_uid,
            groups=groups,
            verdict=scores.verdict,
            score=each,
        )
        for each in scores.segments
    ]

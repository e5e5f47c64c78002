"""Rows of cases -> means of groups, with intervals from a bootstrap over patients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, get_args

import numpy as np

from dicomdata.evaluate.columns import groups_of
from dicomdata.evaluate.records import Measure, Summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dicomdata.evaluate.records import CaseRow

MEASURES: tuple[Measure, ...] = get_args(Measure)

_AT_ONCE = 1_000_000
"""Patients that are drawn in one go: 8 MB."""


def summarise(
    rows: Sequence[CaseRow], *, seed: int, draws: int, confidence: float
) -> tuple[Summary, ...]:
    """Summarise all rows, and those of each group, by segment and measure.

    Args:
        rows: of all cases.
        seed: of the intervals; each has random numbers of its own, so that no group depends on
            which others there are.
        draws: how often patients are drawn.
        confidence: share of the drawn means that the interval holds.
    """
    found = []
    for (column, value), members in groups_of(rows).items():
        for segment in dict.fromkeys(row.score.segment for row in members):
            chosen = [row for row in members if row.score.segment == segment]
            patients = [row.patient for row in chosen]
            for measure in MEASURES:
                numbers = [getattr(row.score, measure) for row in chosen]
                if None in numbers:
                    continue
                values = np.array(numbers, np.float64)
                ends = bootstrap(values, patients, seed=seed, draws=draws, confidence=confidence)
                found.append(
                    _summary((column, value, segment, measure), values, patients, ends)
                )  # fmt: skip
    return tuple(found)


def bootstrap(
    values: NDArray[np.float64],
    patients: Sequence[str],
    *,
    seed: int,
    draws: int,
    confidence: float,
) -> tuple[float, float]:
    """Give the interval of a mean by drawing patients, each with all that is theirs.

    Several series of one patient are alike: drawing series would make an interval that is too
    narrow. What is not finite is left out, as it is from the mean.

    Args:
        values: (n,).
        patients: whose each value is.
        seed: the same seed gives the same interval, in whatever order the values are.
        draws: how often as many patients as there are are drawn, with replacement.
        confidence: 0.95 gives the 2.5th and the 97.5th percentile of the means.

    Returns:
        (nan, nan) for fewer than two patients.
    """
    finite = np.isfinite(values)
    names, owners = np.unique(np.array(patients)[finite], return_inverse=True)
    if len(names) < 2:
        return math.nan, math.nan
    # Sorted: a sum is rounded by its order.
    order = np.lexsort((values[finite], owners))
    sums = np.bincount(owners[order], values[finite][order])
    counts = np.bincount(owners)
    generator = np.random.default_rng(seed)
    means = []
    at_once = max(_AT_ONCE // len(names), 1)
    for done in range(0, draws, at_once):
        rows = min(at_once, draws - done)
        drawn = generator.integers(len(names), size=(rows, len(names)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _summary(
    what: tuple[str, str, str, Measure],
    values: NDArray[np.float64],
    patients: Sequence[str],
    ends: tuple[float, float],
) -> Summary:
    told = values[~np.isnan(values)]
    finite = told[np.isfinite(told)]
    whose = {patient for patient, value in zip(patients, values, strict=True) if value == value}  # noqa: PLR0124 - nan is not itself
    return Summary(
        *what,
        cases=len(told),
        skipped=len(values) - len(told),
        infinite=len(told) - len(finite),
        patients=len(whose),
        mean=float(finite.mean()) if len(finite) else math.nan,
        low=ends[0],
        high=ends[1],
        median=_median(told),
    )


def _median(told: NDArray[np.float64]) -> float:
    """Give the median of numbers that may be infinite; nan of none."""
    if not len(told):
        return math.nan
    low, high = (np.sort(told)[[(len(told) - 1) // 2, len(told) // 2]]).tolist()
    # Halves first: infinity plus infinity is one, infinity less infinity would not be.
    return float(low if low == high else low / 2 + high / 2)

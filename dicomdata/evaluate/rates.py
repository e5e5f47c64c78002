"""Rates of cases that were classified: of all that there are, and of drawn patients.

Cases that were drawn count as often as their patient was, so that all draws are one product of
matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_AT_ONCE = 1_000_000
"""Cases that are drawn in one go: 8 MB a step of the arithmetic."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Cases and what was predicted of them, as numbers."""

    label: NDArray[np.int64]
    """(n,), which class each is of."""

    predicted: NDArray[np.int64]
    """(n,), which was found."""

    shares: NDArray[np.float64]
    """(n, classes), probabilities."""

    def measures(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Measure cases that count several times, or not at all.

        Args:
            counts: (draws, n).

        Returns:
            (draws, 2 + 3 x classes): accuracy and balanced accuracy; and of each class its
            sensitivity, specificity and area under the curve. nan where there is none.
        """
        right = self.label == self.predicted
        rates = []
        for number, shares in enumerate(self.shares.T):
            there = self.label == number
            rates += [
                _rate(counts, right, there),
                _rate(counts, self.predicted != number, ~there),
                area_under_curve(shares, there, counts),
            ]
        recalls = np.array(rates[::3])
        known = ~np.isnan(recalls)
        balanced = np.where(known, recalls, 0).sum(axis=0) / known.sum(axis=0)
        every = np.ones_like(right)
        return np.stack([_rate(counts, right, every), balanced, *rates], axis=1)


def draw_measures(
    sample: Sample, patients: Sequence[str], *, seed: int, draws: int
) -> NDArray[np.float64]:
    """Draw as many patients as there are, with replacement, each with all cases; measure them.

    Returns:
        (draws, measures), the same in whatever order the cases are; none of fewer than two
        patients.
    """
    names, owners = np.unique(np.array(patients), return_inverse=True)
    count = len(names)
    generator = np.random.default_rng(seed)
    at_once = max(_AT_ONCE // len(owners), 1)
    found = [np.empty((0, 2 + 3 * sample.shares.shape[1]))]
    for done in range(0, draws if count > 1 else 0, at_once):
        several = min(at_once, draws - done)
        drawn = generator.integers(count, size=(several, count))
        drawn += np.arange(several)[:, None] * count
        often = np.bincount(drawn.ravel(), minlength=several * count).reshape(several, count)
        found.append(sample.measures(often[:, owners].astype(np.float64)))
    return np.concatenate(found)


def area_under_curve(
    scores: NDArray[np.float64], there: NDArray[np.bool_], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Give the area under the receiver operating characteristic of one class against the others.

    It is the probability that of two cases, one of the class and one not, the former has the
    higher score, equal ones counting half: the statistic of Mann and Whitney over the number of
    pairs (Hanley and McNeil, Radiology 143, 1982).

    Args:
        scores: (n,), of the class.
        there: (n,), which cases are of it.
        counts: (draws, n), how often each case is there.

    Returns:
        (draws,); nan where all cases are of the class, or none.
    """
    order = np.argsort(scores, kind="stable")
    # Where each level of equal scores begins.
    levels = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    inside, outside = (
        np.add.reduceat((counts * part)[:, order], levels, axis=1) for part in (there, ~there)
    )
    below = np.cumsum(outside, axis=1) - outside / 2
    pairs = inside.sum(axis=1) * outside.sum(axis=1)
    return _divided((inside * below).sum(axis=1), pairs)


def _rate(
    counts: NDArray[np.float64], right: NDArray[np.bool_], among: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Give which part of some cases is right, (draws,)."""
    return _divided(counts @ (right & among), counts @ among)


def _divided(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide, and give nan where there is nothing."""
    shares: NDArray[np.float64] = np.full(len(whole), np.nan)
    return np.divide(part, whole, out=shares, where=whole > 0)

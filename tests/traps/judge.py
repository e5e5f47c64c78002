"""Whether what a reader made of a trap is right.

Readers may flip and reorder axes as they like: what counts is that every voxel of the truth lies
where it should, by the reader's own affine, with the value it should have, and that there are no
others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traps.trap import Trap, Truth

_RELATIVE = 1e-5
"""Of the largest value: files in between may keep slopes and values as float32."""

_LOOSE_MM = 0.05
"""Places closer than this are the same: a spacing may be that of rounded positions, and files in
between may keep affines as float32. What is called wrong here is off by ten times as much."""


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """A volume as a reader gives it."""

    voxels: NDArray[np.generic]
    """Three axes in any order."""

    affine_lps: NDArray[np.float64]
    """(4, 4): (index along each axis of `voxels`, 1) -> LPS mm."""


@dataclass(frozen=True, slots=True)
class Answer:
    """All that a reader makes of a folder."""

    volumes: tuple[Given, ...] = ()
    """What it gives."""

    refusal: str = ""
    """What it says of what it does not give; empty where it says nothing."""


class Verdict(Enum):
    """What an answer is worth."""

    RIGHT = "right"
    """Every volume that is there, and no other."""

    REFUSED = "refused"
    """An error where no volume, or not every one, can be right."""

    NEEDLESS = "needless refusal"
    """An error where a right volume could be given."""

    WRONG = "silently wrong"
    """Voxels or places that are not true, or less than all, without an error."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and why."""

    verdict: Verdict
    why: str = ""


def judge(trap: Trap, answer: Answer, *, by_name: bool = False) -> Judgement:
    """Hold what a reader made of a trap against what is true.

    Args:
        trap: what the reader was given.
        answer: what it made of it.
        by_name: whether a refusal counts only if it names what is wrong, as the trap says.
    """
    missing = list(trap.truth)
    for number, given in enumerate(answer.volumes, start=1):
        problems = [find_problem(truth, given, trap.tolerance_mm) for truth in missing]
        if "" in problems:
            del missing[problems.index("")]
        elif all(find_problem(truth, given, trap.tolerance_mm) for truth in trap.aside):
            why = next(
                iter(problems), f"gives a volume of {given.voxels.shape}, where none is right"
            )
            return Judgement(Verdict.WRONG, f"volume {number}: {why}")
    if answer.refusal and (missing or not trap.truth):
        pattern = trap.refusal if by_name else ""
        due = trap.refusal and re.search(pattern, answer.refusal)
        verdict = Verdict.REFUSED if due else Verdict.NEEDLESS
        return Judgement(verdict, answer.refusal)
    if missing or not trap.truth:
        given_count = len(trap.truth) - len(missing)
        return Judgement(
            Verdict.WRONG, f"gives {given_count} of {len(trap.truth)} volumes, and no error"
        )
    return Judgement(Verdict.RIGHT)


def find_problem(truth: Truth, given: Given, tolerance_mm: float) -> str:
    """Say where a given volume is not the truth; nothing if it is."""
    if given.voxels.shape[:3] != given.voxels.shape or given.voxels.size != truth.voxels.size:
        return f"voxels are {given.voxels.shape}, not {truth.voxels.shape} in any order"
    index = np.indices(truth.voxels.shape).reshape(3, -1)
    centres = _apply(truth.affine_lps, index)
    # A single slice may come without any step: its affine has no inverse.
    inverse = np.linalg.pinv(given.affine_lps[:3, :3])
    nearest = np.rint(inverse @ (centres - given.affine_lps[:3, 3:])).astype(np.int64)
    nearest = np.clip(nearest.T, 0, np.array(given.voxels.shape) - 1).T
    off = np.linalg.norm(_apply(given.affine_lps, nearest) - centres, axis=0)
    if not off.max() <= max(tolerance_mm, _LOOSE_MM):
        worst = int(np.argmax(off))
        return f"voxel {_at(index, worst)} is {off[worst]:.3g} mm off"
    found = given.voxels[tuple(nearest)].astype(np.float64)
    problems = [_differ(found, voxels.ravel()) for voxels in (truth.voxels, *truth.also)]
    if min(problems) < 0:
        return ""
    first = problems[0]
    return f"voxel {_at(index, first)} is {found[first]:g}, not {truth.voxels.flat[first]:g}"


def _apply(affine: NDArray[np.float64], index: NDArray[np.int64]) -> NDArray[np.float64]:
    points: NDArray[np.float64] = affine[:3, :3] @ index + affine[:3, 3:]
    return points


def _differ(found: NDArray[np.float64], true: NDArray[np.float64]) -> int:
    """Give the first place where values differ, -1 where none do."""
    same = np.isclose(found, true, rtol=0, atol=_RELATIVE * np.nanmax(np.abs(true)), equal_nan=True)
    return -1 if same.all() else int(np.argmin(same))


def _at(index: NDArray[np.int64], number: int) -> tuple[int, ...]:
    return tuple(index[:, number].tolist())

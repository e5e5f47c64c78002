"""Whether the parts of a group would be volumes: the rules by which a series is split."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from dicomdata.errors import DicomDataError, GeometryError
from dicomdata.geometry import COINCIDENT, UNIFORM
from dicomdata.stack.grid import (
    Grid,
    common_directions,
    depth_quantum,
    plane_of,
    prove_grid,
    unit_normal,
)
from dicomdata.stack.grouping import NumberedFrame, distinct, drop_duplicates, occurrences

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

SPLITTABLE = frozenset({"repeated_position", "gap", "variable_spacing", "jump", "uneven"})
"""Findings that several volumes in one group cause, and that splitting may remove."""

Rule: TypeAlias = "Callable[[Sequence[Part], Whole], bool]"

_BROKEN = SPLITTABLE - {"uneven"}
"""Findings with which frames are no regular stack."""

FEWEST_SLICES = 2
"""Frames in each part that lies where the others lie: times differ from slice to slice, and a slice
is no volume."""

_FEWEST_APART = 3
"""The same where parts lie at places of their own: any two frames are evenly spaced."""

_SAME_SPACING = UNIFORM
"""Relative difference of the spacings of volumes that are one thing several times."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one part of a group would be as a volume."""

    positions: NDArray[np.float64]
    """(n, 3), different ones, LPS mm, by depth."""

    spacing: float | None
    """Between slices, mm; None where it is no regular stack."""

    rounding: float = 0.0
    """How far the decimals of its positions can have moved `spacing`, mm."""

    even: bool = False
    """Whether no position is further off the lattice than rounding explains."""

    def lies_with(self, other: Part) -> bool:
        """Whether both are at the same positions."""
        return self.positions.shape == other.positions.shape and bool(
            np.allclose(self.positions, other.positions, rtol=0, atol=COINCIDENT)
        )

    def reaches_into(self, other: Part) -> bool:
        """Whether both take up more than a slice of the same stretch."""
        along = self.positions[-1] - self.positions[0]
        along = along / np.linalg.norm(along)
        mine, theirs = self.positions @ along, other.positions @ along
        shared = min(mine[-1], theirs.max()) - max(mine[0], theirs.min())
        return bool(shared > (self.spacing or 0.0))


@dataclass(frozen=True, slots=True)
class Whole:
    """Where the frames of a group lie, all together."""

    positions: int
    """Different ones."""

    crowd: int
    """Most frames at one of them, copies not counted."""

    spacing: float | None
    """Of the positions, mm; None where they are on no regular lattice."""


def rules_for(problem: str) -> list[Rule]:
    """Give what parts must be where a finding stands in the way; the surest rule first.

    Parts that are the same stack several times; else stacks alike, side by side or overlapping;
    else regular stacks of any kind; else nearly all of them.
    """
    if problem == "uneven":
        return [_interleaved]
    if problem == "gap":
        # What is left of a stack with holes is not taken for several stacks.
        return [_same_places, _alike_apart]
    rules: list[Rule] = [_same_places, _alike_apart, _regular_apart]
    return [*rules, _nearly_all_whole] if problem == "repeated_position" else rules


def _same_places(parts: Sequence[Part], _whole: Whole) -> bool:
    """Whether parts are regular stacks at the same positions: phases, echoes, b-values."""
    first = parts[0]
    return len(first.positions) >= FEWEST_SLICES and all(
        part.spacing is not None and part.lies_with(first) for part in parts
    )


def _alike_apart(parts: Sequence[Part], whole: Whole) -> bool:
    """Whether parts are regular stacks of one size and spacing: passes."""
    return _regular_apart(parts, whole) and _alike(parts)


def _alike(parts: Sequence[Part]) -> bool:
    spacings = [part.spacing or 0.0 for part in parts]
    rounding = max(part.rounding for part in parts)
    same = max(spacings) - min(spacings) <= max(_SAME_SPACING * min(spacings), rounding)
    return same and len({len(part.positions) for part in parts}) == 1


def _regular_apart(parts: Sequence[Part], whole: Whole) -> bool:
    """Whether parts are regular stacks, and not every third slice of the real ones."""
    if any(part.spacing is None or len(part.positions) < _FEWEST_APART for part in parts):
        return False
    finest = min(part.spacing or 0.0 for part in parts)
    return whole.spacing is None or finest <= whole.spacing * (1 + _SAME_SPACING)


def _interleaved(parts: Sequence[Part], _whole: Whole) -> bool:
    """Whether parts are even stacks alike whose slices lie between each other's.

    Blocks that lie one after the other, each a little off, are one uneven volume.
    """
    even = all(part.even and len(part.positions) >= _FEWEST_APART for part in parts)
    if not (even and _alike(parts)):
        return False
    return any(one.reaches_into(other) for one, other in combinations(parts, 2))


def _nearly_all_whole(parts: Sequence[Part], whole: Whole) -> bool:
    """Whether most parts are regular stacks at all positions, as many as frames at a position.

    Then one phase of several lacks a slice, which is told when it is judged.
    """
    complete = [
        part
        for part in parts
        if part.spacing is not None and len(part.positions) == whole.positions
    ]
    most = len(parts) == whole.crowd and 2 * len(complete) >= len(parts)
    return most and whole.positions >= _FEWEST_APART and _same_places(complete, whole)


def whole_of(frames: Sequence[NumberedFrame]) -> Whole:
    """Say where frames lie, all together."""
    try:
        runs = occurrences(frames)
    except GeometryError:
        return Whole(len(frames), 1, None)
    firsts = [run[0] for run in runs]
    crowd = max(len(distinct(run)) for run in runs)
    return Whole(len(runs), crowd, regular_spacing(firsts))


def measure(frames: Sequence[NumberedFrame]) -> Part:
    """Say what frames would be as a volume, copies among them."""
    try:
        kept, _ = drop_duplicates(frames)
    except DicomDataError:
        return Part(np.empty((0, 3)), None)
    planes = [plane_of(each.frame) for each in kept]
    positions = np.array([plane.position for plane in planes])
    normal = unit_normal(common_directions(planes))
    # Both ends may be off by half a step of the decimals, of either stack that is compared.
    rounding = 2 * depth_quantum([each.frame for each in kept], normal) / max(len(kept) - 1, 1)
    grid = _regular_grid(kept)
    if grid is None:
        return Part(positions, None)
    even = all(finding.kind != "uneven" for finding in grid.findings)
    return Part(positions, grid.spacing, rounding, even)


def regular_spacing(frames: Sequence[NumberedFrame]) -> float | None:
    """Give the spacing of frames that are one regular stack, mm; None if they are not."""
    grid = _regular_grid(frames)
    return None if grid is None else grid.spacing


def _regular_grid(frames: Sequence[NumberedFrame]) -> Grid | None:
    """Prove the grid of frames, duplicates among them; None if they are no regular stack."""
    try:
        kept, _ = drop_duplicates(frames)
        members = [each.frame for each in kept]
        grid = prove_grid(members, [plane_of(frame) for frame in members])
    except DicomDataError:
        return None
    broken = len(kept) < FEWEST_SLICES or any(each.kind in _BROKEN for each in grid.findings)
    return None if broken else grid

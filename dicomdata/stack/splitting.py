"""A group of frames that is several volumes -> one group a volume, only where that helps.

Phases, echoes, diffusion weightings and overlapping passes are told apart by the first element
whose values turn the group into regular stacks. What is one good volume already is never split:
twenty Acquisition Numbers inside one head are one head.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import DicomDataError, GeometryError
from dicomdata.geometry import UNIFORM
from dicomdata.stack.grid import common_directions, plane_of, prove_grid, unit_normal
from dicomdata.stack.grouping import Group, NumberedFrame, drop_duplicates, occurrences
from dicomdata.stack.policy import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from dicomdata.header import Frame

SPLITTABLE = frozenset({"repeated_position", "gap", "variable_spacing", "jump"})
"""Findings that several volumes in one group cause, and that splitting may remove."""

_DIMENSIONS: dict[str, Callable[[Frame], Hashable]] = {
    "TemporalPositionIdentifier": lambda frame: frame.temporal_position,
    "AcquisitionNumber": lambda frame: frame.acquisition_number,
    "TriggerTime": lambda frame: frame.trigger_time,
    "AcquisitionTime": lambda frame: frame.acquisition_time,
    "ContentTime": lambda frame: frame.content_time,
    "DiffusionBValue": lambda frame: frame.kind.b_value,
    "EchoTime": lambda frame: frame.kind.echo_time,
    "ImageType": lambda frame: frame.kind.image_type,
}
"""Elements that tell volumes of one series apart, in the order in which they are tried."""

_FEWEST_SLICES = 2
"""Frames in each part: times differ from slice to slice, and a slice is no volume."""

_FEWEST_APART = 3
"""The same where positions do not repeat: any two frames are evenly spaced."""

_SAME_SPACING = UNIFORM
"""Relative difference of the spacings of volumes that are one thing several times."""


def split_by_dimension(group: Group, problem: str) -> list[Group]:
    """Split a group that is no regular stack by what its frames say of themselves.

    Args:
        group: frames that make no regular stack together.
        problem: the finding that stands in the way, one of `SPLITTABLE`.

    Returns:
        One group a volume, with the element and value it is; none if no element helps.
    """
    fewest = _FEWEST_SLICES if problem == "repeated_position" else _FEWEST_APART
    for alike in (True, False):
        if problem == "gap" and not alike:
            # What is left of a stack with holes is not taken for several stacks.
            break
        for name, parts in _candidates(group):
            if len(parts) > 1 and _all_volumes(list(parts.values()), alike=alike, fewest=fewest):
                return [
                    replace(group, frames=tuple(part), dimension=(name, _as_text(value)))
                    for value, part in parts.items()
                ]
    return []


def split_by_frame_of_reference(group: Group) -> list[Group]:
    """Split a group by Frame of Reference UID, only where that removes a problem.

    Parts that lie apart, or on each other, and are regular by themselves are volumes of their
    own: their places cannot be compared. Where splitting would only shatter a regular stack (some
    archives give each slice a UID of its own), the stack is kept, with a finding.
    """
    findings = []
    studies = {each.frame.kind.study_instance_uid for each in group.frames}
    if len(studies) > 1:
        text = f"slices of {len(studies)} Study Instance UIDs in one series"
        findings.append(Finding("study_scattered", text, len(studies)))
    group = replace(group, findings=tuple(findings))
    by_uid = _by(group.frames, lambda frame: frame.kind.frame_of_reference_uid)
    parts = list(by_uid.values())
    if len(parts) == 1:
        return [group]
    helps = _lie_apart(parts) or regular_spacing(group.frames) is None
    if helps and all(len(part) >= _FEWEST_SLICES and regular_spacing(part) for part in parts):
        return [
            replace(group, frames=tuple(part), dimension=("FrameOfReferenceUID", str(uid)))
            for uid, part in by_uid.items()
        ]
    scattered = len(parts) > len(group.frames) / 2
    kind = "frame_of_reference_scattered" if scattered else "mixed_frame_of_reference"
    text = f"{len(parts)} Frame of Reference UIDs among {len(group.frames)} frames"
    return [replace(group, findings=(*findings, Finding(kind, text, len(parts))))]


def regular_spacing(
    frames: Sequence[NumberedFrame], *, fewest: int = _FEWEST_SLICES
) -> float | None:
    """Give the spacing of frames that are one regular stack, mm; None if they are not.

    Args:
        frames: duplicates may be among them.
        fewest: different positions without which nothing is said.
    """
    try:
        kept, _ = drop_duplicates(frames)
        if len(kept) < fewest:
            return None
        members = [each.frame for each in kept]
        grid = prove_grid(members, [plane_of(frame) for frame in members])
    except DicomDataError:
        return None
    return None if {finding.kind for finding in grid.findings} & SPLITTABLE else grid.spacing


def _candidates(group: Group) -> Iterator[tuple[str, dict[Hashable, list[NumberedFrame]]]]:
    """Give ways to split: by one element, by runs of instance numbers, by two elements."""
    usable: dict[str, Callable[[Frame], Hashable]] = {}
    for name, value in _DIMENSIONS.items():
        parts = _by(group.frames, value)
        if len(parts) > 1:
            usable[name] = value
            yield name, parts
    yield "InstanceNumber", _by_runs(group.frames)
    for names in combinations(usable, 2):
        one, other = (usable[name] for name in names)
        yield ", ".join(names), _by(group.frames, _both(one, other))


def _as_text(value: Hashable) -> str:
    """Write the value of a dimension; an absent one is empty."""
    parts = value if isinstance(value, tuple) else (value,)
    return ", ".join("" if part is None else str(part) for part in parts)


def _both(
    one: Callable[[Frame], Hashable], other: Callable[[Frame], Hashable]
) -> Callable[[Frame], Hashable]:
    return lambda frame: (one(frame), other(frame))


def _all_volumes(parts: Sequence[Sequence[NumberedFrame]], *, alike: bool, fewest: int) -> bool:
    """Whether every part is a regular stack, and all are of one size and spacing if `alike`."""
    sizes = [len(part) for part in parts]
    fewest = fewest if alike else _FEWEST_APART
    if min(sizes) < fewest or (alike and min(sizes) != max(sizes)):
        return False
    spacings = [regular_spacing(part, fewest=fewest) for part in parts]
    found = [spacing for spacing in spacings if spacing is not None]
    if len(found) < len(parts):
        return False
    return not alike or max(found) - min(found) <= _SAME_SPACING * min(found)


def _by_runs(frames: Sequence[NumberedFrame]) -> dict[Hashable, list[NumberedFrame]]:
    """Split by Instance Number: the first frame at each position, the second, and so on.

    Only where the numbers run through one volume after the other, or through all frames of one
    position after the other; numbers in any other order say nothing.
    """
    numbers = {each.frame.instance_number for each in frames}
    if None in numbers or len(numbers) < len(frames):
        return {}
    try:
        at_positions = occurrences(frames)
    except GeometryError:
        # Frames that lie side by side are no volumes in any order.
        return {}
    if len({len(run) for run in at_positions}) != 1:
        return {}
    ordered = [sorted(run, key=_instance_number) for run in at_positions]
    volumes = [list(volume) for volume in zip(*ordered, strict=True)]
    if not (_run_on(volumes) or _run_on(ordered)):
        return {}
    return dict(enumerate(volumes, start=1))


def _run_on(lists: Sequence[Sequence[NumberedFrame]]) -> bool:
    """Whether the Instance Numbers of each list come after all those of the one before."""
    spans = sorted(
        (min(numbers), max(numbers))
        for numbers in ([_instance_number(each) for each in members] for members in lists)
    )
    return all(before[1] < after[0] for before, after in pairwise(spans))


def _instance_number(each: NumberedFrame) -> int:
    return each.frame.instance_number or 0


def _by(
    frames: Sequence[NumberedFrame], trait: Callable[[Frame], Hashable]
) -> dict[Hashable, list[NumberedFrame]]:
    """Group frames by a trait, in ascending order of it."""
    parts: dict[Any, list[NumberedFrame]] = defaultdict(list)
    for each in frames:
        parts[trait(each.frame)].append(each)
    return dict(sorted(parts.items(), key=lambda item: _absent_first(item[0])))


def _absent_first(value: Any) -> tuple[Any, ...]:
    """Order values of which some, or some parts, are None."""
    parts = value if isinstance(value, tuple) else (value,)
    return tuple((part is not None, part) if part is not None else (False, 0) for part in parts)


def _lie_apart(parts: Sequence[Sequence[NumberedFrame]]) -> bool:
    """Whether parts take up separate stretches along the normal."""
    planes = [plane_of(each.frame) for part in parts for each in part]
    normal = unit_normal(common_directions(planes))
    stretches = sorted(
        (min(depths), max(depths))
        for depths in (
            [float(normal @ np.array(each.frame.position)) for each in part] for part in parts
        )
    )
    return all(before[1] < after[0] for before, after in pairwise(stretches))

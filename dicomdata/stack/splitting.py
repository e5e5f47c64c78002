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

from dicomdata.errors import GeometryError
from dicomdata.stack.grid import common_directions, plane_of, unit_normal
from dicomdata.stack.grouping import Group, NumberedFrame, distinct, occurrences
from dicomdata.stack.partitions import (
    FEWEST_SLICES,
    measure,
    regular_spacing,
    rules_for,
    whole_of,
)
from dicomdata.stack.policy import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from dicomdata.header import Frame

_DIMENSIONS: dict[str, Callable[[Frame], Hashable]] = {
    "TemporalPositionIdentifier": lambda frame: frame.temporal_position,
    "AcquisitionNumber": lambda frame: frame.acquisition_number,
    "TriggerTime": lambda frame: frame.trigger_time,
    "AcquisitionTime": lambda frame: frame.acquisition_time,
    "ContentTime": lambda frame: frame.content_time,
    "DiffusionBValue": lambda frame: frame.kind.b_value,
    "EchoTime": lambda frame: frame.kind.echo_time,
    "ImageType": lambda frame: frame.kind.image_type,
    "DimensionIndexValues": lambda frame: frame.kind.dimension_index,
}
"""Elements that tell volumes of one series apart, in the order in which they are tried."""

_MOST_TOGETHER = 3
"""Elements that together tell volumes apart: phases of echoes of magnitude and phase images."""


def split_by_dimension(group: Group, problem: str) -> list[Group]:
    """Split a group that is no regular stack by what its frames say of themselves.

    The first element decides by which the surest of the rules holds (`partitions.rules_for`).

    Args:
        group: frames that make no regular stack together.
        problem: the finding that stands in the way, one of `SPLITTABLE`.

    Returns:
        One group a volume, with the element and value it is; none if no element helps.

    Raises:
        GeometryError: if two elements would split it, each in another way.
    """
    whole = whole_of(group.frames)
    measured = [
        (name, parts, [measure(part) for part in parts.values()])
        for name, parts in _candidates(group)
        if len(parts) > 1 and min(map(len, parts.values())) >= FEWEST_SLICES
    ]
    for holds in rules_for(problem):
        found = [(name, parts) for name, parts, volumes in measured if holds(volumes, whole)]
        if found:
            _check_agreement(found)
            name, parts = found[0]
            return [
                replace(group, frames=tuple(part), dimension=_within(group, name, value))
                for value, part in parts.items()
            ]
    return []


def _check_agreement(found: Sequence[tuple[str, dict[Hashable, list[NumberedFrame]]]]) -> None:
    """Refuse elements that part the same frames in different ways; the order of files may."""
    told = {
        name: {frozenset(each.number for each in part) for part in parts.values()}
        for name, parts in found
        if name in _DIMENSIONS
    }
    first = next(iter(told), "")
    for name, partition in told.items():
        if partition != told[first]:
            raise GeometryError(
                f"repeated_position: {first} tells volumes apart, and {name} tells others: "
                f"nothing says which of them are right",
                finding="repeated_position",
            )


def _within(group: Group, name: str, value: Hashable) -> tuple[str, str]:
    """Name a part of a group that may be a part itself."""
    names, values = (name, _as_text(value))
    outer, its = group.dimension
    return (f"{outer}, {names}", f"{its}, {values}") if outer else (names, values)


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
    if helps and all(len(part) >= FEWEST_SLICES and regular_spacing(part) for part in parts):
        return [
            replace(group, frames=tuple(part), dimension=("FrameOfReferenceUID", str(uid)))
            for uid, part in by_uid.items()
        ]
    scattered = len(parts) > len(group.frames) / 2
    kind = "frame_of_reference_scattered" if scattered else "mixed_frame_of_reference"
    text = f"{len(parts)} Frame of Reference UIDs among {len(group.frames)} frames"
    return [replace(group, findings=(*findings, Finding(kind, text, len(parts))))]


def _candidates(group: Group) -> Iterator[tuple[str, dict[Hashable, list[NumberedFrame]]]]:
    """Give ways to split: by one element, by Instance Number, by several elements together."""
    usable: dict[str, Callable[[Frame], Hashable]] = {}
    for name, value in _DIMENSIONS.items():
        parts = _by(group.frames, value)
        if len(parts) > 1:
            usable[name] = value
            yield name, parts
    yield "InstanceNumber", _by_rounds(group.frames)
    yield "InstanceNumber", _by_passes(group.frames)
    yield "SOPInstanceUID", _by_instances(group.frames)
    for together in range(2, _MOST_TOGETHER + 1):
        for names in combinations(usable, together):
            values = [usable[name] for name in names]
            yield ", ".join(names), _by(group.frames, _all_of(values))


def _all_of(values: Sequence[Callable[[Frame], Hashable]]) -> Callable[[Frame], Hashable]:
    return lambda frame: tuple(value(frame) for value in values)


def _as_text(value: Hashable) -> str:
    """Write the value of a dimension; an absent one is empty."""
    parts = value if isinstance(value, tuple) else (value,)
    return ", ".join("" if part is None else str(part) for part in parts)


def _by_instances(frames: Sequence[NumberedFrame]) -> dict[Hashable, list[NumberedFrame]]:
    """Split by SOP Instance UID: multi-frame files that hold a volume each, at the same places.

    Files that lie one after the other are one volume, between which a slice may be missing.
    """
    try:
        apart = len(occurrences(frames)) == len(frames)
    except GeometryError:
        # Frames that lie side by side are no volumes at the same places.
        apart = True
    return {} if apart else _by(frames, lambda frame: frame.sop_instance_uid)


def _by_rounds(frames: Sequence[NumberedFrame]) -> dict[Hashable, list[NumberedFrame]]:
    """Split by Instance Number: the first frame at each position, the second, and so on.

    Only where the numbers run through one volume after the other, or through all frames of one
    position after the other; numbers in any other order say nothing. Copies go with their twin.
    """
    try:
        at_positions = [distinct(run) for run in occurrences(frames)]
    except GeometryError:
        # Frames that lie side by side are no volumes in any order.
        return {}
    firsts = [twins[0] for run in at_positions for twins in run]
    numbers = {each.frame.instance_number for each in firsts}
    if None in numbers or len(numbers) < len(firsts):
        return {}
    if len({len(run) for run in at_positions}) != 1:
        return {}
    ordered = [sorted(run, key=lambda twins: _instance_number(twins[0])) for run in at_positions]
    volumes = list(zip(*ordered, strict=True))
    leading = [[twins[0] for twins in members] for members in (*volumes, *ordered)]
    if not (_run_on(leading[: len(volumes)]) or _run_on(leading[len(volumes) :])):
        return {}
    return {
        number: [each for twins in volume for each in twins]
        for number, volume in enumerate(volumes, start=1)
    }


def _by_passes(frames: Sequence[NumberedFrame]) -> dict[Hashable, list[NumberedFrame]]:
    """Split by Instance Number where the positions turn back as the numbers go up."""
    numbers = {each.frame.instance_number for each in frames}
    if None in numbers or len(numbers) < len(frames):
        return {}
    planes = {each.number: plane_of(each.frame) for each in frames}
    normal = unit_normal(common_directions(list(planes.values())))
    ordered = sorted(frames, key=_instance_number)
    depths = np.array([normal @ planes[each.number].position for each in ordered])
    steps = np.diff(depths)
    # Most steps go one way; those that go the other lead back to where the next pass begins.
    back = np.flatnonzero(np.sign(steps) != np.sign(np.median(steps))) + 1
    ends = [0, *back.tolist(), len(ordered)]
    return {
        number: ordered[start:stop] for number, (start, stop) in enumerate(pairwise(ends), start=1)
    }


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

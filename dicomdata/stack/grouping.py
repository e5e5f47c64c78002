"""Which frames of a series could make one volume, and which are the same frame twice."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dicomdata.errors import GeometryError
from dicomdata.geometry import orientation_clusters, unit_directions
from dicomdata.header import Frame, stored_bytes
from dicomdata.stack.grid import (
    coincident_runs,
    common_directions,
    plane_of,
    prove_grid,
    unit_normal,
)
from dicomdata.stack.policy import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SAME_SPACING = 1e-3
"""Relative difference of Pixel Spacings that are one: 0.703125 is also written 0.7031."""


class NumberedFrame(NamedTuple):
    """A frame with its row number in the catalog."""

    number: int
    frame: Frame


@dataclass(frozen=True, slots=True)
class Group:
    """Frames that agree in all that one array needs."""

    frames: tuple[NumberedFrame, ...]
    """In canonical order."""

    traits: tuple[tuple[str, object], ...]
    """What they agree in, by name."""

    findings: tuple[Finding, ...] = ()
    """What was found while grouping."""

    def difference(self, other: Group) -> str:
        """Name what sets this group apart from another."""
        theirs = dict(other.traits)
        return next((name for name, value in self.traits if theirs[name] != value), "kind")


def canonical_order(frames: Sequence[tuple[int, Frame]]) -> list[NumberedFrame]:
    """Sort frames by what they say, so that no result depends on how files are named.

    Paths come last: they decide between frames that are alike in all else.
    """

    def key(pair: tuple[int, Frame]) -> tuple[object, ...]:
        frame = pair[1]
        return (
            frame.position or (),
            frame.sop_instance_uid,
            frame.number,
            frame.instance_number or 0,
            repr(frame.kind.rescale),
            frame.path,
        )

    return [NumberedFrame(*pair) for pair in sorted(frames, key=key)]


def group_frames(frames: Sequence[NumberedFrame]) -> list[Group]:
    """Group frames by matrix, pixel format, orientation and spacing; the largest group first.

    Frames must have a place: `plane_of` must not raise for them.
    """
    groups = []
    for matrix in _by(frames, _pixel_traits):
        orientations = [unit_directions(each.frame.kind.orientation or ()) for each in matrix]
        for i, cluster in enumerate(orientation_clusters(orientations)):
            for j, members in enumerate(_by_spacing([matrix[index] for index in cluster])):
                traits = (*_pixel_traits(matrix[0].frame), ("orientation", i), ("Pixel Spacing", j))
                groups.append(Group(tuple(members), traits))
    # Sorting is stable: equal groups stay in canonical order.
    return sorted(groups, key=lambda group: len(group.frames), reverse=True)


def drop_duplicates(group: Group) -> tuple[list[NumberedFrame], list[NumberedFrame]]:
    """Keep one frame at each position; give the kept ones and their duplicates.

    Frames at one position are the same if their pixels are, byte for byte as written: a SOP
    Instance UID alone proves nothing, some archives give every slice the same.

    Raises:
        GeometryError: if frames at one position differ: the series has another dimension.
    """
    planes = [plane_of(each.frame) for each in group.frames]
    normal = unit_normal(common_directions(planes))
    runs = coincident_runs(np.array([plane.position for plane in planes]), normal)
    kept, duplicates, crowded = [], [], 0
    for run in runs:
        members = [group.frames[i] for i in sorted(run)]
        if len(members) > 1 and not _all_same(members):
            crowded += 1
        kept.append(members[0])
        duplicates += members[1:]
    if crowded:
        raise GeometryError(
            f"repeated_position: {len(group.frames)} frames share {len(runs)} positions, and "
            f"their pixels differ at {crowded}: several phases, echoes or passes in one series",
            finding="repeated_position",
        )
    return kept, duplicates


def split_by_frame_of_reference(group: Group) -> list[Group]:
    """Split a group by Frame of Reference UID, only where that removes a problem.

    Parts that lie apart and are regular by themselves are volumes of their own: their places
    cannot be compared. Where splitting would only shatter a regular stack (some archives give
    each slice a UID of its own), the stack is kept, with a finding.
    """
    parts = _by(group.frames, lambda frame: frame.kind.frame_of_reference_uid)
    studies = {each.frame.kind.study_instance_uid for each in group.frames}
    findings = []
    if len(studies) > 1:
        text = f"slices of {len(studies)} Study Instance UIDs in one series"
        findings.append(Finding("study_scattered", text, len(studies)))
    if len(parts) == 1:
        return [Group(group.frames, group.traits, tuple(findings))]
    removes_problem = _lie_apart(parts, group) or not _regular(group.frames)
    if removes_problem and all(len(part) > 1 and _regular(part) for part in parts):
        return [Group(tuple(part), group.traits, tuple(findings)) for part in parts]
    scattered = len(parts) > len(group.frames) / 2
    text = f"{len(parts)} Frame of Reference UIDs among {len(group.frames)} frames"
    kind = "frame_of_reference_scattered" if scattered else "mixed_frame_of_reference"
    findings.append(Finding(kind, text, len(parts)))
    return [Group(group.frames, group.traits, tuple(findings))]


def _pixel_traits(frame: Frame) -> tuple[tuple[str, object], ...]:
    kind = frame.kind
    return (
        ("matrix", (kind.rows, kind.columns)),
        (
            "pixel format",
            (kind.bits_allocated, kind.bits_stored, kind.high_bit, kind.signed),
        ),
        ("Photometric Interpretation", kind.photometric_interpretation),
    )


def _by(
    frames: Sequence[NumberedFrame], trait: Callable[[Frame], object]
) -> list[list[NumberedFrame]]:
    parts: dict[object, list[NumberedFrame]] = {}
    for each in frames:
        parts.setdefault(trait(each.frame), []).append(each)
    return list(parts.values())


def _by_spacing(frames: Sequence[NumberedFrame]) -> list[list[NumberedFrame]]:
    """Group frames whose Pixel Spacings agree to `_SAME_SPACING`; the largest first."""
    spacings = np.array([each.frame.kind.pixel_spacing for each in frames])
    left = np.lexsort(spacings.T[::-1])
    parts = []
    while left.size:
        apart = np.abs(spacings[left] / spacings[left[0]] - 1).max(axis=1)
        chosen = sorted(left[apart <= _SAME_SPACING].tolist())
        parts.append([frames[i] for i in chosen])
        left = left[apart > _SAME_SPACING]
    return sorted(parts, key=len, reverse=True)


def _all_same(members: Sequence[NumberedFrame]) -> bool:
    """Whether frames have the same pixels, byte for byte.

    Raises:
        GeometryError: if they do, and mean different things by them.
    """
    digests = {blake2b(stored_bytes(each.frame)).digest() for each in members}
    if len(digests) > 1:
        return False
    if len({(each.frame.kind.rescale, each.frame.kind.padding) for each in members}) > 1:
        raise GeometryError(
            f"repeated_position: {members[0].frame.path}: {len(members)} frames have the same "
            f"place and pixels, and another Rescale Slope, Intercept or padding",
            finding="repeated_position",
        )
    return True


def _regular(part: Sequence[NumberedFrame]) -> bool:
    frames = [each.frame for each in part]
    try:
        grid = prove_grid(frames, [plane_of(frame) for frame in frames])
    except GeometryError:
        return False
    return not {finding.kind for finding in grid.findings} & {"gap", "variable_spacing", "jump"}


def _lie_apart(parts: Sequence[Sequence[NumberedFrame]], group: Group) -> bool:
    """Whether parts take up separate stretches along the normal."""
    planes = [plane_of(each.frame) for each in group.frames]
    normal = unit_normal(common_directions(planes))
    stretches = sorted(
        (min(depths), max(depths))
        for depths in (
            [float(normal @ np.array(each.frame.position)) for each in part] for part in parts
        )
    )
    return all(before[1] < after[0] for before, after in pairwise(stretches))

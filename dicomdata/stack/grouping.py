"""Which frames of a series could make one volume, and which are the same frame twice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dicomdata.errors import GeometryError
from dicomdata.geometry import orientation_clusters, unit_directions
from dicomdata.header import Frame, stored_bytes
from dicomdata.stack.grid import coincident_runs, common_directions, plane_of, unit_normal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dicomdata.stack.policy import Finding

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

    dimension: tuple[str, str] = ("", "")
    """Element and value that tell it from the other volumes of its series."""

    def difference(self, other: Group) -> str:
        """Name what sets this group apart from another."""
        theirs = dict(other.traits)
        return next((name for name, value in self.traits if theirs[name] != value), "kind")


def canonical_order(frames: Sequence[tuple[int, Frame]]) -> list[NumberedFrame]:
    """Sort frames by what they say, so that no result depends on how files are named.

    Paths come last: they decide between frames that are alike in all else.
    """
    kinds = {id(frame.kind): frame.kind for _, frame in frames}
    meanings = {key: repr(kind.meaning) for key, kind in kinds.items()}

    def key(pair: tuple[int, Frame]) -> tuple[object, ...]:
        frame = pair[1]
        return (
            frame.position or (),
            frame.sop_instance_uid,
            frame.number,
            frame.instance_number or 0,
            meanings[id(frame.kind)],
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


def group_by_pixels(frames: Sequence[NumberedFrame]) -> list[Group]:
    """Group frames of one file by matrix and pixel format, in the order they are stored."""
    stored = sorted(frames, key=lambda each: each.frame.number)
    return [Group(tuple(part), _pixel_traits(part[0].frame)) for part in _by(stored, _pixel_traits)]


def occurrences(frames: Sequence[NumberedFrame]) -> list[list[NumberedFrame]]:
    """Gather the frames at each position, positions in order along the normal.

    Raises:
        GeometryError: if frames lie side by side.
    """
    planes = [plane_of(each.frame) for each in frames]
    normal = unit_normal(common_directions(planes))
    runs = coincident_runs(np.array([plane.position for plane in planes]), normal)
    return [[frames[i] for i in sorted(run)] for run in runs]


def drop_duplicates(
    frames: Sequence[NumberedFrame],
) -> tuple[list[NumberedFrame], list[NumberedFrame]]:
    """Keep one frame at each position; give the kept ones and their duplicates.

    Frames at one position are the same if their pixels are, byte for byte as written: a SOP
    Instance UID alone proves nothing, some archives give every slice the same.

    Raises:
        GeometryError: if frames at one position differ: the series has another dimension.
    """
    runs = occurrences(frames)
    crowded = sum(len(run) > 1 and not _all_same(run) for run in runs)
    if crowded:
        raise GeometryError(
            f"repeated_position: {len(frames)} frames share {len(runs)} position(s), and "
            f"their pixels differ at {crowded}: several phases, echoes or passes in one series",
            finding="repeated_position",
        )
    return [run[0] for run in runs], [each for run in runs for each in run[1:]]


def distinct(members: Sequence[NumberedFrame]) -> list[list[NumberedFrame]]:
    """Gather frames at one position that are copies of each other: same pixels, same number."""
    twins: dict[object, list[NumberedFrame]] = {}
    for each in members:
        # Alone at its place, a frame is not read.
        trait = (_digest(each.frame), each.frame.instance_number) if len(members) > 1 else None
        twins.setdefault(trait, []).append(each)
    return list(twins.values())


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
    if len({_digest(each.frame) for each in members}) > 1:
        return False
    if len({each.frame.kind.meaning for each in members}) > 1:
        raise GeometryError(
            f"repeated_position: {members[0].frame.path}: {len(members)} frames have the same "
            f"place and pixels, and another meaning: Rescale Slope, Intercept, Modality LUT, "
            f"padding or unit",
            finding="repeated_position",
        )
    return True


@lru_cache(maxsize=8192)
def _digest(frame: Frame) -> bytes:
    return blake2b(stored_bytes(frame), digest_size=16).digest()

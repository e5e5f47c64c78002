"""Several label objects of one stack -> one Mask: an object for each organ, or several readers.

What two of them give is not settled by guessing: it is refused, unless it was said that both are
right, or that the newer one is. Segments of one object that go by one name are one thing in
parts; segments of two objects are two opinions.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from dicomdata.errors import LabelError, NotDicomError
from dicomdata.header import read_header
from dicomdata.labels.findings import find_overlap
from dicomdata.labels.names import choose, find_missing, merge
from dicomdata.labels.records import LabelFinding, Mask, Segment, Verdict
from dicomdata.labels.references import STRUCTURE_SETS, items_of, parsing, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from pydicom import Dataset

    from dicomdata.labels.records import VerdictKind

Several = Literal["reject", "union", "newest"]
"""What to do where two label objects of a stack give one class: refuse; take what either of them
has; or what the newest of them has."""

_VERDICTS: tuple[VerdictKind, ...] = ("same_grid", "reindexed", "resampled")
"""From the closest to the furthest from what was drawn."""


def join_masks(
    masks: Sequence[Mask],
    names: Sequence[str],
    *,
    several: Several = "reject",
    missing: Literal["error", "empty"] = "error",
) -> Mask:
    """Join masks of one stack, each with some of the classes that are asked for.

    Args:
        masks: what `select_segments` gave with ``missing="drop"``: segments are numbered as
            `names` are, from 1.
        names: the classes.
        several: what to do where several of the masks have one class. Which is newer is told by
            Content Date and Time (0008,0023; 0008,0033) of a segmentation, and Structure Set Date
            and Time (3006,0008; 3006,0009).
        missing: what to do where none has a class: refuse, or an empty segment, with a finding.

    Raises:
        LabelError: if a class is there twice, or not at all, and nothing else was asked for; if
            nothing tells which of two is newer.
    """
    stack = masks[0].stack
    owners = [
        [mask for mask in masks if number in {segment.number for segment in mask.segments}]
        for number in range(1, len(names) + 1)
    ]
    lacking = [name for name, found in zip(names, owners, strict=True) if not found]
    paths = [mask.path for mask in masks]
    if lacking and missing == "error":
        there = sorted({segment.name for mask in masks for segment in mask.segments})
        raise LabelError(
            f"stack {stack.id}: no segment is {', '.join(map(repr, lacking))} in "
            f"{' or '.join(paths)}; found are {', '.join(map(repr, there)) or 'none'}"
        )
    findings = [
        replace(each, text=f"{mask.path}: {each.text}")
        for mask in masks
        for each in mask.findings
        if each.kind not in {"missing", "overlap"}
    ]
    findings += map(find_missing, lacking)
    # Of bool and fractions, fractions; an object of which nothing is wanted counts for nothing.
    dtype = np.result_type(np.bool_, *(mask.voxels.dtype for mask in masks if mask.segments))
    voxels = np.zeros((len(names), *stack.shape), dtype)
    segments = []
    for number, (name, found) in enumerate(zip(names, owners, strict=True), 1):
        taken, told = _settle(name, found, several)
        findings += told
        for mask in taken:
            merge(voxels[number - 1], _part(mask, number))
        segments.append(_segment(taken, number, name))
    findings += find_overlap(voxels)
    return Mask(voxels, tuple(segments), stack, _verdict(masks), tuple(findings), ", ".join(paths))


def find_givers(
    paths: Mapping[str, Sequence[str]], patterns: Mapping[str, str], *, several: Several
) -> list[str]:
    """Tell which label objects of a stack have something that is asked for, by names alone.

    Args:
        paths: of the objects -> names of their segments.
        patterns: name of a class -> pattern.
        several: what is done where two have one class; only "reject" matters here.

    Raises:
        LabelError: if two have one class, and that is refused.
    """
    owners: dict[str, list[str]] = {}
    for path, names in paths.items():
        for each in choose(path, names, patterns, missing="drop").classes or ():
            owners.setdefault(each.name, []).append(path)
    for name, found in owners.items():
        if len(found) > 1 and several == "reject":
            raise _twice(name, found)
    return [path for path in paths if any(path in found for found in owners.values())]


def read_names(path: str) -> tuple[str, ...]:
    """Give the names of the segments, or regions, of a DICOM label; its voxels are not read.

    Raises:
        FileError: if the file cannot be read.
        HeaderError: if it is damaged.
    """
    header = read_header(path)
    with parsing(path):
        if text_of(header, "SOPClassUID") in STRUCTURE_SETS:
            kind = "StructureSetROISequence", "ROIName", "ROINumber"
        else:
            kind = "SegmentSequence", "SegmentLabel", "SegmentNumber"
        sequence, name, number = kind
        return tuple(
            text_of(item, name) or text_of(item, number) for item in items_of(header, sequence)
        )


def _part(mask: Mask, number: int) -> NDArray[np.generic]:
    (place,) = (i for i, segment in enumerate(mask.segments) if segment.number == number)
    part: NDArray[np.generic] = mask.voxels[place]
    return part


def _segment(taken: Sequence[Mask], number: int, name: str) -> Segment:
    """Say what a class is; its codes stay where one object alone gives it."""
    if len(taken) == 1:
        return next(each for each in taken[0].segments if each.number == number)
    return Segment(number, name)


def _settle(
    name: str, found: Sequence[Mask], several: Several
) -> tuple[Sequence[Mask], list[LabelFinding]]:
    """Say which of the masks that have a class are believed.

    Raises:
        LabelError: if nothing tells.
    """
    if len(found) < 2:
        return found, []
    paths = [mask.path for mask in found]
    if several == "reject":
        raise _twice(name, paths)
    if several == "union":
        text = f"{name!r} is what {' and '.join(paths)} have"
        return found, [LabelFinding("joined", text, len(found))]
    newest = paths.index(_newest(name, paths))
    older = " and ".join(path for i, path in enumerate(paths) if i != newest)
    text = f"{name!r} is that of {paths[newest]}, which is newer than that of {older}"
    return [found[newest]], [LabelFinding("newest", text, len(found))]


def _twice(name: str, paths: Sequence[str]) -> LabelError:
    return LabelError(
        f"{' and '.join(paths)}: each has a {name!r} of one stack, and nothing says which is the "
        f"truth: leave one of them out, or say several='union' or 'newest'"
    )


def _newest(name: str, paths: Sequence[str]) -> str:
    """Tell which label object is the newest.

    Raises:
        LabelError: if that cannot be told.
    """
    moments = [_Moment.of(path) for path in paths]
    offsets = {each.offset for each in moments}
    if len(offsets) > 1:
        raise LabelError(
            f"{' and '.join(paths)}: each has a {name!r}, of different Timezone Offsets From UTC "
            f"(0008,0201): which is the newest cannot be told"
        )
    last = max(moments, key=lambda each: each.text)
    for path, moment in zip(paths, moments, strict=True):
        # What is told to the minute may be any of its seconds.
        if moment is not last and last.text.startswith(moment.text):
            both = f"{last.path} ({last.text}) and {path} ({moment.text})"
            raise LabelError(
                f"{both}: each has a {name!r}, and neither is newer: leave one of them out"
            )
    return last.path


@dataclass(frozen=True, slots=True)
class _Moment:
    """When a label object was made."""

    path: str

    text: str
    """Date and time, YYYYMMDDHHMMSS.FFFFFF, as far as it is told."""

    offset: str
    """From UTC; "" where it is not told."""

    @classmethod
    def of(cls, path: str) -> _Moment:
        """Read it.

        Raises:
            LabelError: if the label does not say.
        """
        try:
            header = read_header(path)
            with parsing(path):
                text, offset = _when(header), text_of(header, "TimezoneOffsetFromUTC")
        except NotDicomError:
            text = offset = ""
        if not re.match("[0-9]{8}", text):
            raise LabelError(
                f"{path}: does not say when it was made, in Content Date (0008,0023) or Structure "
                f"Set Date (3006,0008): which label is the newest cannot be told"
            )
        return cls(path, text, offset)


def _when(header: Dataset) -> str:
    structures = text_of(header, "SOPClassUID") in STRUCTURE_SETS
    what = "StructureSet" if structures else "Content"
    day, time = text_of(header, f"{what}Date"), text_of(header, f"{what}Time")
    # Dates and times of before 1993 have dots and colons (PS3.5 6.2).
    return day.replace(".", "") + time.replace(":", "") if day else ""


def _verdict(masks: Sequence[Mask]) -> Verdict:
    """Give the verdict on all: the furthest from what was drawn."""
    told = [mask.verdict for mask in masks]
    kind = max((each.kind for each in told), key=_VERDICTS.index)
    text = "; ".join(
        f"{os.path.basename(mask.path)}: {each.text}"
        for mask, each in zip(masks, told, strict=True)
    )
    return Verdict(kind, max(each.offset for each in told), text)

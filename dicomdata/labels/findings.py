"""What is told of a label once it lies on its stack: parts outside, overlaps, nothing at all.

Parts outside are told, or refused. Unless it is said which, that depends on whether the label says
itself that it belongs here: by its frame of reference, or the images it names. Structure sets
reach beyond their images all the time; of a label that says nothing, as a file of voxels does not,
parts outside are the only sign that it is of another image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dicomdata.errors import LabelError
from dicomdata.labels.belonging import stack_sources
from dicomdata.labels.records import HALF, LabelFinding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from dicomdata.labels.records import Segment
    from dicomdata.labels.references import Source
    from dicomdata.stack import Stack


Outside = Literal["reject", "drop"]
"""What to do with parts outside the stack: refuse the label, or leave them out with a finding."""


def choose_outside(
    outside: Outside | None,
    findings: Iterable[LabelFinding],
    parts: Iterable[frozenset[Source]],
    stack: Stack,
) -> Outside:
    """Decide what is done with parts outside, where it was not said.

    Args:
        outside: what was said, or None.
        findings: of the label's frame of reference.
        parts: what each part of the label was drawn on.
        stack: what it lies on.
    """
    if outside is not None:
        return outside
    if all(each.kind != "frame_of_reference_missing" for each in findings):
        return "drop"
    ours = stack_sources(stack)
    return "reject" if all(sources.isdisjoint(ours) for sources in parts) else "drop"


def check_outside(
    path: str, stack: Stack, lost: Sequence[str], outside: Outside, hint: str = ""
) -> None:
    """Refuse a label of which parts lie outside its stack, if that is to be refused.

    Args:
        path: the label's file.
        stack: what it lies on.
        lost: what lies outside, each as "12 voxels of 'Lung'".
        outside: what to do.
        hint: what else may be said.

    Raises:
        LabelError: naming each.
    """
    if lost and outside == "reject":
        raise LabelError(
            f"{path}: partly outside stack {stack.id}: {', '.join(lost)}{hint}; outside='drop' "
            f"leaves them out"
        )


def find_outside(
    path: str, segments: Sequence[Segment], outside: Mapping[int, int], voxels: NDArray[Any]
) -> Iterator[LabelFinding]:
    """Tell of the voxels that were left out because they lie outside the stack.

    Args:
        path: the label's file, for the error.
        segments: in the order of the voxels' first axis.
        outside: index of a segment -> how many of its voxels were left out.
        voxels: (segments, slices, rows, columns), those that were kept.

    Raises:
        LabelError: if none was kept.
    """
    lost = {index: count for index, count in outside.items() if count}
    if lost and not voxels.any():
        raise LabelError(
            f"{path}: all {sum(lost.values())} voxels lie outside the stack: another image, or "
            f"another place"
        )
    for index, count in sorted(lost.items()):
        text = f"{count} voxels of {segments[index].name!r} lie outside the stack: left out"
        yield LabelFinding("outside", text, count, "voxels")


def find_overlap(voxels: NDArray[Any]) -> Iterator[LabelFinding]:
    """Tell of voxels (segments, slices, rows, columns) that are in several segments at once."""
    if len(voxels) < 2:
        return
    several = 0
    for plane in voxels.swapaxes(0, 1):
        there = plane[plane.any(axis=(1, 2))]
        if len(there) > 1:
            several += int(np.count_nonzero((there >= HALF).sum(axis=0) > 1))
    if several:
        yield LabelFinding(
            "overlap", f"{several} voxels are in more than one segment", several, "voxels"
        )


def find_empty(segments: Sequence[Segment], voxels: NDArray[Any]) -> Iterator[LabelFinding]:
    """Tell of segments that have no voxel in the stack."""
    for segment, part in zip(segments, voxels, strict=True):
        if not part.any():
            yield LabelFinding("empty", f"{segment.name!r} has no voxel in the stack", 0, "voxels")


def find_unmeasured(stack: Stack) -> Iterator[LabelFinding]:
    """Tell of slices that a repair made up: nobody drew on them."""
    made_up = np.flatnonzero(~stack.valid).tolist()
    if made_up:
        text = (
            f"{len(made_up)} of {stack.shape[0]} slices were not measured, and cannot be drawn on"
        )
        yield LabelFinding("unmeasured_slices", text, len(made_up), "frames")

"""What is told of a label once it lies on its stack: parts outside, overlaps, nothing at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import LabelError
from dicomdata.labels.records import HALF, LabelFinding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from dicomdata.labels.records import Segment
    from dicomdata.stack import Stack


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

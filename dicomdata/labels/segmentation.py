"""DICOM Segmentation onto the grid of a Stack: `read_segmentation`.

Each frame is placed by its own plane, so that frames which are few, unequal, in any order, turned
or a part of the image come to where they were drawn, and nowhere else. What was not drawn is not
labelled.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dicomdata.errors import LabelError
from dicomdata.labels.belonging import check_frame_of_reference
from dicomdata.labels.findings import (
    check_outside,
    choose_outside,
    find_empty,
    find_outside,
    find_overlap,
    find_unmeasured,
)
from dicomdata.labels.names import choose
from dicomdata.labels.placing import THICKER, count_outside
from dicomdata.labels.planes import (
    choose_frames,
    own_grid,
    place_frames,
    plane_affine,
    plane_spacing,
)
from dicomdata.labels.records import Mask, Verdict
from dicomdata.labels.resampling import resample as resample_voxels
from dicomdata.labels.segments import parse_segmentation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from dicomdata.labels.findings import Outside
    from dicomdata.labels.names import Missing, Wanted
    from dicomdata.labels.placing import Placement
    from dicomdata.labels.records import Segment
    from dicomdata.labels.segments import SegmentationFile, SegmentationFrame
    from dicomdata.stack import Stack

_Place = TypeVar("_Place")
"""Where a frame goes: its placement, or the number of a slice."""


def read_segmentation(  # noqa: PLR0913 - what is read, and what is taken for right: all by name
    path: str | os.PathLike[str],
    stack: Stack,
    *,
    segments: Wanted | None = None,
    missing: Missing = "error",
    resample: bool = False,
    by_images: bool = False,
    outside: Outside | None = None,
) -> Mask:
    """Read a DICOM Segmentation (binary, fractional or label map) onto the grid of a stack.

    Args:
        path: the segmentation.
        stack: the image it was drawn on, or another in the same frame of reference.
        segments: name -> pattern, or names: only those are decoded and given memory, and what
            comes is that of `select_segments`, findings on them alone. None reads all.
        missing: what to do where none is called so, as in `select_segments`.
        resample: take the nearest voxel, or what lies between fractions, where the centres of the
            label's voxels are not those of the stack. Otherwise such a label is refused.
        by_images: take a label although it names another frame of reference, if each of its frames
            names an image of the stack: some writers make one up. Otherwise it is refused.
        outside: what to do where voxels lie outside the stack: refuse the label ("reject"), or
            leave them out with a finding ("drop"). None leaves them out, if the label says that it
            belongs there: by its frame of reference, or images of the stack that it names.

    Returns:
        (segments, slices, rows, columns): bool, or float32 from 0 to 1 if it is fractional.

    Raises:
        FileError: if the file cannot be read.
        HeaderError: if it is not DICOM, or damaged.
        LabelError: if it is no segmentation, lies in another frame of reference, on other planes
            than the stack's, or outside it; lacks a segment; or contradicts itself.
    """
    file = parse_segmentation(os.path.abspath(path))
    names = [segment.name for segment in file.segments]
    chosen = choose(file.path, names, segments, missing=missing)
    read = tuple(file.segments[place] for place in chosen.places)
    parts = [frame.sources for frame in file.frames] if by_images else None
    alien = check_frame_of_reference(file.path, {file.frame_of_reference_uid} - {""}, stack, parts)
    frames, left_out = choose_frames(file, stack)
    placements = place_frames(file, frames, stack)
    fitting = [placement for placement in placements if placement is not None]
    whole = len(fitting) == len(frames)
    thick = plane_spacing(file, frames, fitting, stack) if whole else 1.0
    if whole and thick < THICKER:
        canvas, verdict = _copied(file, frames, fitting, _Canvas.of(file, read, stack.shape))
    elif resample:
        canvas, verdict = _resampled(file, frames, read, stack)
    elif whole:
        raise LabelError(
            f"{file.path}: its planes are {thick:.2f} slices of stack {stack.id} apart, and would "
            f"leave slices between them empty; resample=True takes the nearest plane"
        )
    else:
        raise _off_grid(file, frames[placements.index(None)], stack)
    findings = [
        *alien,
        *left_out,
        *find_outside(file.path, read, canvas.outside, canvas.voxels),
        *find_overlap(canvas.voxels),
        *find_empty(read, canvas.voxels),
        *find_unmeasured(stack),
    ]
    lost = [f"{n} voxels of {read[i].name!r}" for i, n in sorted(canvas.outside.items()) if n]
    drawn_on = (frame.sources for frame in frames)
    check_outside(file.path, stack, lost, choose_outside(outside, alien, drawn_on, stack))
    return chosen.of(Mask(canvas.voxels, read, stack, verdict, tuple(findings), file.path))


@dataclass(slots=True)
class _Canvas:
    """Segments on a grid, while frames are laid on it."""

    voxels: NDArray[Any]
    """(segments, slices, rows, columns)."""

    index: dict[int, int]
    """Number of a segment -> which of them it is."""

    outside: Counter[int] = field(default_factory=Counter)
    """Which of them -> how many voxels of it had no place."""

    @classmethod
    def of(
        cls, file: SegmentationFile, segments: Sequence[Segment], shape: tuple[int, int, int]
    ) -> _Canvas:
        """Make an empty one."""
        dtype = np.float32 if file.type == "FRACTIONAL" else np.bool_
        index = {segment.number: i for i, segment in enumerate(segments)}
        try:
            # Memory of zeros is taken when it is written to: most segments are small.
            return cls(np.zeros((len(segments), *shape), dtype), index)
        except (MemoryError, ValueError) as error:
            raise LabelError(
                f"{file.path}: {len(segments)} segments of {shape} voxels do not fit in memory"
            ) from error

    def decode(
        self, file: SegmentationFile, frames: Sequence[SegmentationFrame], places: Iterable[_Place]
    ) -> Iterator[tuple[int, NDArray[Any], _Place]]:
        """Decode the frames that hold segments of it: which of them, its pixels, and its place."""
        wanted = [
            (frame, place)
            for frame, place in zip(frames, places, strict=True)
            if frame.segment in self.index or (frame.segment is None and self.index)
        ]
        pixels = file.pixels([frame for frame, _ in wanted])
        for (frame, place), plane in zip(wanted, pixels, strict=True):
            for index, part in self._segments_in(file, frame, plane):
                yield index, part, place

    def _segments_in(
        self, file: SegmentationFile, frame: SegmentationFrame, pixels: NDArray[Any]
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Give the segments that a frame holds: which of them, and where it is there."""
        if frame.segment is not None:
            yield self.index[frame.segment], pixels
            return
        known = {segment.number for segment in file.segments}
        for number in np.unique(pixels).tolist():
            if number not in known and number != file.background:
                raise LabelError(
                    f"{file.path}: frame {frame.number} holds the value {number}, which Segment "
                    f"Sequence (0062,0002) does not describe: it has {sorted(known)}"
                )
            if number in self.index:
                yield self.index[number], pixels == number


def _copied(
    file: SegmentationFile,
    frames: Sequence[SegmentationFrame],
    placements: Sequence[Placement],
    canvas: _Canvas,
) -> tuple[_Canvas, Verdict]:
    """Lay frames on the grid of a stack, voxel for voxel."""
    for index, part, placement in canvas.decode(file, frames, placements):
        canvas.outside[index] += placement.copy(part[None], canvas.voxels[index])
    return canvas, _verdict(placements, canvas.voxels.shape[1])


def _resampled(
    file: SegmentationFile,
    frames: Sequence[SegmentationFrame],
    segments: Sequence[Segment],
    stack: Stack,
) -> tuple[_Canvas, Verdict]:
    """Lay frames on a grid of their own, and give what that has at the centres of the stack's."""
    affine, numbers = own_grid(file, frames)
    own = _Canvas.of(file, segments, (max(numbers) + 1, file.rows, file.columns))
    for index, part, number in own.decode(file, frames, numbers):
        plane = own.voxels[index, number]
        np.copyto(plane, part, where=part != 0)
    voxels, offset = resample_voxels(own.voxels, affine, stack.affine_lps, stack.shape)
    canvas = _Canvas(voxels, own.index)
    for index, segment in enumerate(own.voxels):
        canvas.outside[index] = count_outside(segment, affine, stack.affine_lps, stack.shape)
    rows, columns = frames[0].plane.row_spacing, frames[0].plane.column_spacing
    how = "linearly" if file.type == "FRACTIONAL" else "to the nearest voxel"
    text = f"resampled {how} from {own.voxels.shape[1:]} voxels of {rows:.4g} x {columns:.4g} mm"
    return canvas, Verdict("resampled", offset, text)


def _verdict(placements: Sequence[Placement], count: int) -> Verdict:
    """Say how frames lie on the grid: planes that are missing are empty, and no difference."""
    turned = sorted({words for each in placements for words in each.plane_differences})
    slices = {number for each in placements for number in each.slices_touched}
    text = f"{len(placements)} frames on {len(slices)} of {count} slices"
    return Verdict(
        "reindexed" if turned else "same_grid",
        max((each.offset for each in placements), default=0.0),
        "; ".join([text, *turned]),
    )


def _off_grid(file: SegmentationFile, frame: SegmentationFrame, stack: Stack) -> LabelError:
    affine = plane_affine(frame.plane)
    middle = affine @ (0, (file.rows - 1) / 2, (file.columns - 1) / 2, 1)
    at = np.linalg.inv(stack.affine_lps) @ middle
    spacing = f"{frame.plane.row_spacing:.5g} x {frame.plane.column_spacing:.5g} mm"
    expected = f"{stack.spacing[1]:.5g} x {stack.spacing[2]:.5g} mm"
    return LabelError(
        f"{file.path}: frame {frame.number} lies on other voxels than stack {stack.id}: its middle "
        f"is at slice {at[0]:.2f} of {stack.shape[0]}, row {at[1]:.2f}, column {at[2]:.2f}, its "
        f"pixels are {spacing}, expected {expected}; resample=True takes the nearest"
    )

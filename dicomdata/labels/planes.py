"""Frames of a segmentation -> planes of a stack: which are meant, and where each of them lies."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dicomdata.errors import GeometryError, LabelError
from dicomdata.geometry import (
    COINCIDENT,
    fit_lattice,
    fit_line,
    is_straight,
    orientation_clusters,
    plane_directions,
    unit_directions,
)
from dicomdata.labels.belonging import drawn_on, images_of, slice_offsets, stack_sources
from dicomdata.labels.placing import place
from dicomdata.labels.records import LabelFinding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dicomdata.geometry import PlaneGeometry
    from dicomdata.header import Frame, Kind
    from dicomdata.labels.placing import Placement
    from dicomdata.labels.references import Source
    from dicomdata.labels.segments import SegmentationFile, SegmentationFrame
    from dicomdata.stack import Stack

_SAME_SPACING = 1e-3
"""Relative difference of spacings that is rounding."""

_WHOLE = 0.05
"""Distance from a whole number at which one spacing still is a multiple of another."""


def choose_frames(
    file: SegmentationFile, stack: Stack
) -> tuple[list[SegmentationFrame], list[LabelFinding]]:
    """Leave out the frames that were drawn on other images at the same places, as other phases.

    Frames that do not say where they lie are laid on the images that they name.

    Raises:
        LabelError: if all were, or nothing tells which of two frames at one place is meant, or
            where one lies.
    """
    ours = stack_sources(stack)
    known = {frame.number for frame in file.frames if not frame.sources.isdisjoint(ours)}
    meant = drawn_on(file.path, file.header, stack, [frame.sources for frame in file.frames])
    frames = [frame for frame, own in zip(file.frames, meant, strict=True) if own]
    findings = []
    if lost := sum(not frame.placed for frame in frames):
        images = images_of(stack)
        frames = [each if each.placed else _on_its_image(file, each, images) for each in frames]
        text = f"{lost} frames do not say where they lie: taken to lie on the images they name"
        findings.append(LabelFinding("placed_by_image", text, lost, "frames"))
    frames = _one_a_place(file, stack, frames, known)
    if left := len(file.frames) - len(frames):
        text = f"{left} of {len(file.frames)} frames were drawn on images of other stacks: left out"
        findings.append(LabelFinding("other_stack", text, left, "frames"))
    return frames, findings


def _on_its_image(
    file: SegmentationFile, frame: SegmentationFrame, images: Mapping[Source, Frame]
) -> SegmentationFrame:
    """Lay a frame on the one image that it names, if it is a plane as that is.

    Raises:
        LabelError: if it names none of the stack's, or several, or is of another size, spacing or
            orientation, and so may lie anywhere.
    """
    named = {image.position: image for each in frame.sources if (image := images.get(each))}
    told = "it must name one image of the stack, of the same size, spacing and orientation"
    missing = f"{file.path}: frame {frame.number}: Image Position (Patient) (0020,0032) is missing"
    if len(named) != 1:
        raise LabelError(f"{missing}, and {told}: it names {len(named)}")
    ((position, image),) = named.items()
    if position is None or not _is_alike(file, frame.plane, image.kind):
        raise LabelError(f"{missing}, and {told}: it differs from {image.path}")
    return frame._replace(plane=replace(frame.plane, position=position), placed=True)


def _is_alike(file: SegmentationFile, plane: PlaneGeometry, kind: Kind) -> bool:
    """Whether a plane has the size, spacing and orientation of an image."""
    if kind.orientation is None or kind.pixel_spacing is None:
        return False
    directions = plane_directions(plane), unit_directions(kind.orientation)
    spacings = plane.row_spacing, plane.column_spacing
    return (
        (kind.rows, kind.columns) == (file.rows, file.columns)
        and len(orientation_clusters(directions)) == 1
        and np.allclose(kind.pixel_spacing, spacings, rtol=_SAME_SPACING, atol=0)
    )


def _one_a_place(
    file: SegmentationFile, stack: Stack, frames: list[SegmentationFrame], known: set[int]
) -> list[SegmentationFrame]:
    """Of frames of one segment at one place, keep that which was drawn on the stack."""
    places: dict[tuple[object, ...], list[SegmentationFrame]] = defaultdict(list)
    for frame in frames:
        corner = (round(x / COINCIDENT) for x in frame.plane.position)
        turned = (round(x, 3) for x in plane_directions(frame.plane))
        places[frame.segment, *corner, *turned].append(frame)
    kept = []
    for claims in places.values():
        meant = [frame for frame in claims if frame.number in known] or claims
        if len(meant) > 1:
            raise LabelError(
                f"{file.path}: frames {' and '.join(str(each.number) for each in meant)} are of "
                f"one segment at one place, and nothing tells which is that of stack {stack.id}"
            )
        kept += meant
    return sorted(kept, key=lambda frame: frame.number)


def place_frames(
    file: SegmentationFile, frames: Sequence[SegmentationFrame], stack: Stack
) -> list[Placement | None]:
    """Find where each frame lies on the grid of a stack; None where it lies on none of its planes.

    A frame may also lie on the image of a slice which rounding moved off the even grid.
    """
    offsets = slice_offsets(stack)
    to_grid = np.linalg.inv(stack.affine_lps)
    middle = (0, (file.rows - 1) / 2, (file.columns - 1) / 2, 1)
    placements = []
    for frame in frames:
        affine = plane_affine(frame.plane)
        shape = (1, file.rows, file.columns)
        found = [place(affine, shape, stack.affine_lps, stack.shape)]
        number = round(float((to_grid @ affine @ middle)[0]))
        if 0 <= number < len(offsets) and offsets[number].any():
            affine[:3, 3] -= offsets[number]
            found.append(place(affine, shape, stack.affine_lps, stack.shape))
        fitting = (each for each in found if each is not None)
        placements.append(min(fitting, key=lambda each: each.offset, default=None))
    return placements


def plane_spacing(
    file: SegmentationFile,
    frames: Sequence[SegmentationFrame],
    placements: Sequence[Placement],
    stack: Stack,
) -> float:
    """Give how many slices of the stack each plane of a label stands for; 1 where it is its own.

    A label of thick slices may lie on every second one of thin slices, which it does not leave
    out. What was drawn on the stack's own images is as sparse as it was drawn.
    """
    ours = stack_sources(stack)
    if not frames or any(not frame.sources.isdisjoint(ours) for frame in frames):
        return 1.0
    thin = placements[0].axes.index(0)
    gaps = np.diff(sorted({placement.start[thin] for placement in placements}))
    # Planes cannot stand for more than the distance to the next, whatever is stated.
    apart = float(gaps.min()) if gaps.size else math.inf
    if file.spacing_between_slices:
        apart = min(apart, abs(file.spacing_between_slices) / stack.spacing[thin])
    return apart if math.isfinite(apart) else 1.0


def plane_affine(plane: PlaneGeometry) -> NDArray[np.float64]:
    """Give (slice, row, column, 1) -> LPS mm of one plane; its step to the next slice is 1 mm."""
    along, down = np.array(plane_directions(plane)).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, 0] = plane.normal
    affine[:3, 1] = down * plane.row_spacing
    affine[:3, 2] = along * plane.column_spacing
    affine[:3, 3] = plane.position
    return affine


def own_grid(
    file: SegmentationFile, frames: Sequence[SegmentationFrame]
) -> tuple[NDArray[np.float64], list[int]]:
    """Prove that frames lie on a grid of their own; planes may be missing in it.

    Returns:
        (4, 4), (slice, row, column, 1) -> LPS mm; and the slice of each frame.

    Raises:
        LabelError: if they do not.
    """
    planes = [frame.plane for frame in frames]
    first = planes[0]
    spacings = np.array([(plane.row_spacing, plane.column_spacing) for plane in planes])
    alike = np.allclose(spacings, spacings[0], rtol=_SAME_SPACING, atol=0)
    if not alike or len(orientation_clusters([plane_directions(each) for each in planes])) > 1:
        raise LabelError(f"{file.path}: frames differ in orientation or spacing: no grid")
    affine = plane_affine(first)
    depths = np.array([float(first.normal @ plane.position) for plane in planes])
    distinct, index = _distinct(depths)
    if len(distinct) == 1:
        affine[:3, 0] *= _thickness(file)
        return affine, [0] * len(frames)
    try:
        lattice = fit_lattice(distinct)
    except GeometryError as error:
        raise LabelError(f"{file.path}: {error}") from error
    if lattice.evenness() == "variable":
        raise LabelError(
            f"{file.path}: frames lie on no even grid: up to {lattice.residual:.3g} mm off one of "
            f"{lattice.spacing:.4g} mm"
        )
    numbers = np.array(lattice.numbers)[index] * _finer(lattice.spacing, file)
    positions = np.array([plane.position for plane in planes])
    line = fit_line(positions, numbers.tolist(), first.normal)
    if not is_straight(line, pixel=float(spacings.min())):
        raise LabelError(f"{file.path}: frames shift sideways by up to {line.offset:.3g} mm")
    affine[:3, 0] = line.step
    affine[:3, 3] = line.origin
    return affine, numbers.tolist()


def _distinct(depths: NDArray[np.float64]) -> tuple[list[float], NDArray[np.int64]]:
    """Give the depths that differ, ascending, and which of them each is."""
    order = np.argsort(depths, kind="stable")
    new = np.diff(depths[order], prepend=-np.inf) > COINCIDENT
    index = np.empty(len(depths), np.int64)
    index[order] = np.cumsum(new) - 1
    return depths[order][new].tolist(), index


def _thickness(file: SegmentationFile) -> float:
    if not file.spacing_between_slices:
        raise LabelError(
            f"{file.path}: one plane without Spacing Between Slices (0018,0088) cannot be resampled"
        )
    return file.spacing_between_slices


def _finer(spacing: float, file: SegmentationFile) -> int:
    """Give how many planes of the label's own spacing there are to one that it holds.

    Planes with nothing in them are left out, and the gap they leave must not be filled.
    """
    stated = abs(file.spacing_between_slices or spacing)
    times = spacing / stated
    return round(times) if times > 1 and abs(times - round(times)) <= _WHOLE else 1

"""Proving that frames lie on one grid: order, lattice, tilt; or saying what stands in the way.

Frames come in here with one orientation and one spacing, and leave in order of depth with the
affine of the grid. Nothing is read: geometry only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dicomdata.errors import GeometryError
from dicomdata.geometry import (
    COINCIDENT,
    Affine,
    PlaneGeometry,
    Vector,
    as_vector,
    faces_itself,
    fit_lattice,
    fit_line,
    is_straight,
    plane_directions,
    scaled,
    tilt,
    unit_directions,
)
from dicomdata.header import missing_element
from dicomdata.stack.policy import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dicomdata.header import Frame

_TILT_DEGREES = 0.06
"""Lean below which a stack counts as upright: 1e-3 rad, what orientations may differ by."""

_TAG_DEGREES = 1.0
"""Difference between the Gantry/Detector Tilt that is written and the lean that is measured."""

_LOCATION_MM = 0.1
"""Disagreement of Slice Location and depth that is more than its usual one or two decimals."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Frames in order on one grid."""

    order: tuple[int, ...]
    """Index, among the frames given, of each slice: the lowest depth first."""

    columns: Affine
    """Columns of the affine (slice, row, column, 1) -> LPS mm."""

    spacing: float
    """Distance between slices along the normal, mm."""

    findings: tuple[Finding, ...]
    """What is true of the grid."""


def plane_of(frame: Frame) -> PlaneGeometry:
    """Give the plane of a frame.

    Raises:
        HeaderError: if an element is missing; names the file and the element.
        GeometryError: if the elements make no plane; names the file.
    """
    position, orientation = frame.position, frame.kind.orientation
    spacing = frame.kind.pixel_spacing
    if position is None:
        raise missing_element(frame.path, "ImagePositionPatient")
    if orientation is None:
        raise missing_element(frame.path, "ImageOrientationPatient")
    if spacing is None:
        raise missing_element(frame.path, "PixelSpacing")
    a, b, c, d, e, f = orientation
    try:
        return PlaneGeometry(position, (a, b, c), (d, e, f), *spacing)
    except GeometryError as error:
        raise GeometryError(f"{frame.path}: {error}") from error


def common_directions(planes: Sequence[PlaneGeometry]) -> tuple[Vector, Vector]:
    """Give the mean row and column direction of planes that share an orientation."""
    distinct = {plane_directions(plane) for plane in planes}
    # Sorted, and each counted once: the sum must not depend on the order of files.
    mean = np.mean(sorted(distinct), axis=0) if len(distinct) > 1 else np.array(min(distinct))
    a, b, c, d, e, f = unit_directions(mean.tolist())
    return (a, b, c), (d, e, f)


def unit_normal(directions: tuple[Vector, Vector]) -> NDArray[np.float64]:
    """Give the unit normal, row direction x column direction, shape (3,)."""
    normal = np.cross(*directions)
    return normal / np.linalg.norm(normal)


def coincident_runs(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> list[list[int]]:
    """Group positions (n, 3) that lie at one depth; groups in order of depth.

    Raises:
        GeometryError: if planes at one depth lie side by side.
    """
    depths = positions @ normal
    order = np.argsort(depths, kind="stable")
    new = np.diff(depths[order]) >= COINCIDENT
    runs = [run.tolist() for run in np.split(order, np.flatnonzero(new) + 1)]
    for run in runs:
        apart = np.linalg.norm(positions[run] - positions[run[0]], axis=1).max()
        if apart >= _SIDE_BY_SIDE:
            raise GeometryError(
                f"jump: {len(run)} frames lie side by side at depth {depths[run[0]]:g} mm, "
                f"{apart:g} mm apart",
                finding="jump",
            )
    return runs


_SIDE_BY_SIDE = 0.01
"""Frames at one depth further apart than this, mm, are two places, not one written twice."""


def prove_grid(frames: Sequence[Frame], planes: Sequence[PlaneGeometry]) -> Grid:
    """Prove that frames, one at each position, lie on one grid.

    Raises:
        GeometryError: naming the finding that stands in the way.
    """
    directions = common_directions(planes)
    normal = unit_normal(directions)
    positions = np.array([plane.position for plane in planes])
    depths = positions @ normal
    order = np.argsort(depths, kind="stable")
    spacing = planes[order[0]].row_spacing, planes[order[0]].column_spacing
    in_plane = scaled(directions[1], spacing[0]), scaled(directions[0], spacing[1])
    if len(frames) == 1:
        return _single_slice(frames[0], normal, in_plane)
    quantum = _quantum(frames, normal)
    lattice = fit_lattice(depths[order].tolist())
    findings = _lattice_findings(depths[order], lattice.evenness(quantum), lattice.residual)
    if lattice.missing:
        findings.append(_gap(lattice.missing, lattice.spacing))
    line = fit_line(positions[order], lattice.numbers, normal)
    if not is_straight(line, pixel=min(spacing), quantum=max(_quanta(frames))):
        text = f"slices shift sideways by up to {line.offset:.3g} mm from a straight line"
        findings.append(Finding("jump", text, line.offset))
    if not faces_itself(line.step, normal):
        text = f"slices lie side by side: they grow at {tilt(line.step, normal):.0f} degrees"
        findings.append(Finding("jump", text, tilt(line.step, normal)))
    lean = tilt(line.step, normal)
    if lean > _TILT_DEGREES:
        findings.append(Finding("tilt", f"slices lean by {lean:.2f} degrees", lean))
    findings += _disagreements([frames[i] for i in order], depths[order], lean)
    columns = (line.step, *in_plane, line.origin)
    return Grid(tuple(order.tolist()), columns, lattice.spacing, tuple(findings))


def _single_slice(
    frame: Frame, normal: NDArray[np.float64], in_plane: tuple[Vector, Vector]
) -> Grid:
    """Give one slice a nominal step: Spacing Between Slices, Slice Thickness, or 1 mm."""
    nominal = (frame.kind.spacing_between_slices, frame.kind.slice_thickness, 1.0)
    step = next(length for length in nominal if length is not None and length > 0)
    finding = Finding("single_slice", f"one position; its step of {step:g} mm is nominal", 1)
    columns = (scaled(normal.tolist(), step), *in_plane, as_vector(frame.position or (0, 0, 0)))
    return Grid((0,), columns, step, (finding,))


def _lattice_findings(depths: NDArray[np.float64], evenness: str, residual: float) -> list[Finding]:
    if evenness == "uniform":
        return []
    if evenness == "uneven":
        text = f"positions are up to {residual:.3g} mm off an even lattice"
        return [Finding("uneven", text, residual)]
    gaps = np.diff(depths)
    text = f"slices are {gaps.min():.4g} to {gaps.max():.4g} mm apart, on no even lattice"
    return [Finding("variable_spacing", text, residual)]


def _gap(missing: tuple[int, ...], spacing: float) -> Finding:
    shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
    text = f"{len(missing)} missing slice(s) at number {shown}, of a spacing of {spacing:.4g} mm"
    return Finding("gap", text, len(missing))


def _quanta(frames: Sequence[Frame]) -> tuple[float, ...]:
    """Give the finest decimal step in which each coordinate of the positions was written, mm."""
    return tuple(10.0 ** -max(frame.decimals[axis] for frame in frames) for axis in range(3))


def _quantum(frames: Sequence[Frame], normal: NDArray[np.float64]) -> float:
    """Give the decimal step of the depths, mm."""
    return float(np.abs(normal) @ _quanta(frames))


def _disagreements(
    frames: Sequence[Frame], depths: NDArray[np.float64], lean: float
) -> list[Finding]:
    """Cross-check what is never used: Slice Location and Gantry/Detector Tilt."""
    findings = []
    located = [
        (frame.slice_location, depth)
        for frame, depth in zip(frames, depths, strict=True)
        if frame.slice_location is not None
    ]
    if len(located) == len(frames):
        # Its zero and its direction are the scanner's; only the steps can be compared.
        locations, depths = np.array(located).T
        steps, found = np.diff(locations), np.diff(depths)
        off = min(np.abs(steps - found).max(), np.abs(steps + found).max())
        # Under a tilt it may count along the table instead of along the normal.
        if off > _LOCATION_MM + 0.5 * np.abs(found).max() * (lean > _TILT_DEGREES):
            text = f"Slice Location steps differ from the positions' by up to {off:.3g} mm"
            findings.append(Finding("slice_location", text, float(off)))
    told = frames[0].kind.gantry_detector_tilt
    if told is not None and abs(abs(told) - lean) > _TAG_DEGREES:
        text = f"Gantry/Detector Tilt says {told:g} degrees, the positions {lean:.2f}"
        findings.append(Finding("gantry_detector_tilt", text, told))
    return findings

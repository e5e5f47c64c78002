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
    UNIFORM,
    Affine,
    Lattice,
    Line,
    PlaneGeometry,
    Vector,
    as_vector,
    faces_itself,
    finest_places,
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

    from dicomdata.header import Frame, Kind

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

    places: tuple[float, ...] = (0.0,)
    """Where on the lattice each slice in `order` lies: 0, 1, 2 and so on, but for gaps; between
    whole numbers where the spacing varies."""


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
    lattice = fit_lattice(depths[order].tolist())
    findings = _lattice_findings(
        depths[order], lattice, lattice.evenness(depth_quantum(frames, normal))
    )
    places, apart = np.array(lattice.numbers, np.float64), lattice.spacing
    if any(finding.kind == "variable_spacing" for finding in findings):
        places = finest_places(depths[order])
        apart = float(np.ptp(depths) / places[-1])
    line = fit_line(positions[order], places.tolist(), normal)
    if not is_straight(line, pixel=min(spacing), quantum=max(_quanta(frames))):
        findings.append(_jump(line, positions[order], normal))
    lean = tilt(line.step, normal)
    if not faces_itself(line.step, normal):
        text = f"slices lie side by side: they grow at {lean:.0f} degrees"
        findings.append(Finding("jump", text, lean, "degrees"))
    if lean > _TILT_DEGREES:
        findings.append(Finding("tilt", f"slices lean by {lean:.2f} degrees", lean, "degrees"))
    findings += _disagreements([frames[i] for i in order], depths[order], lean)
    columns = (line.step, *in_plane, line.origin)
    return Grid(tuple(order.tolist()), columns, apart, tuple(findings), tuple(places.tolist()))


def _single_slice(
    frame: Frame, normal: NDArray[np.float64], in_plane: tuple[Vector, Vector]
) -> Grid:
    """Give one slice a nominal step: Spacing Between Slices, Slice Thickness, or 1 mm."""
    step = _nominal_step(frame.kind)
    text = f"one position; its step of {step:g} mm is nominal"
    finding = Finding("single_slice", text, 1, "frames")
    columns = (scaled(normal.tolist(), step), *in_plane, as_vector(frame.position or (0, 0, 0)))
    return Grid((0,), columns, step, (finding,))


def nominal_grid(frames: Sequence[Frame]) -> Grid:
    """Give frames that say nothing of their place a grid, in the order they come in.

    Its origin is zero; orientation and spacings are the header's where it has them, else the
    patient's axes and 1 mm.
    """
    kind = frames[0].kind
    orientation = kind.orientation or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    row, column = kind.pixel_spacing or (1.0, 1.0)
    directions = orientation[:3], orientation[3:]
    step = _nominal_step(kind)
    text = f"{len(frames)} frame(s) without Image Position (Patient): as stored, on a nominal grid"
    columns = (
        scaled(unit_normal(directions).tolist(), step),
        scaled(directions[1], row),
        scaled(directions[0], column),
        (0.0, 0.0, 0.0),
    )
    count = len(frames)
    finding = Finding("position_missing", text, count, "frames")
    return Grid(tuple(range(count)), columns, step, (finding,), tuple(map(float, range(count))))


def _nominal_step(kind: Kind) -> float:
    """Give the step of slices that say nothing of it: what is written beside them, or 1 mm."""
    nominal = (kind.spacing_between_slices, kind.slice_thickness, 1.0)
    return next(length for length in nominal if length is not None and length > 0)


def _lattice_findings(
    depths: NDArray[np.float64], lattice: Lattice, evenness: str
) -> list[Finding]:
    if evenness == "variable":
        gaps = np.diff(depths)
        text = f"slices are {gaps.min():.4g} to {gaps.max():.4g} mm apart, on no even lattice"
        return [Finding("variable_spacing", text, lattice.residual, "mm")]
    findings = []
    if evenness == "uneven":
        numbers = np.array(lattice.numbers)
        off = np.abs(lattice.origin + lattice.spacing * numbers - depths)
        where = tuple(np.flatnonzero(off > UNIFORM * lattice.spacing).tolist())
        text = f"positions are up to {lattice.residual:.3g} mm off an even lattice"
        findings.append(Finding("uneven", text, lattice.residual, "mm", where))
    if missing := lattice.missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        text = (
            f"{len(missing)} missing slice(s) at number {shown}, "
            f"of a spacing of {lattice.spacing:.4g} mm"
        )
        findings.append(Finding("gap", text, len(missing), "frames", missing))
    return findings


def _jump(line: Line, positions: NDArray[np.float64], normal: NDArray[np.float64]) -> Finding:
    """Say where slices leave the straight line: at the largest change of their step sideways."""
    steps = np.diff(positions, axis=0)
    sideways = steps - np.outer(steps @ normal, normal)
    change = np.linalg.norm(sideways - np.median(sideways, axis=0), axis=1)
    text = f"slices shift sideways by up to {line.offset:.3g} mm from a straight line"
    return Finding("jump", text, line.offset, "mm", (int(change.argmax()) + 1,))


def _quanta(frames: Sequence[Frame]) -> tuple[float, ...]:
    """Give the finest decimal step in which each coordinate of the positions was written, mm."""
    return tuple(10.0 ** -max(frame.decimals[axis] for frame in frames) for axis in range(3))


def depth_quantum(frames: Sequence[Frame], normal: NDArray[np.float64]) -> float:
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
            findings.append(Finding("slice_location", text, float(off), "mm"))
    told = frames[0].kind.gantry_detector_tilt
    if told is not None and abs(abs(told) - lean) > _TAG_DEGREES:
        text = f"Gantry/Detector Tilt says {told:g} degrees, the positions {lean:.2f}"
        findings.append(Finding("gantry_detector_tilt", text, told, "degrees"))
    return findings

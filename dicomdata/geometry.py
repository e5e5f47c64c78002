"""Where voxels lie in the patient: planes, uniform grids, and LPS to RAS.

Pure NumPy: nothing here opens a file or knows of pydicom, torch or MONAI.

Conventions, once, for the whole package:

* points are in the DICOM patient coordinate system, LPS+, in mm
  (PS3.3 C.7.6.2.1.1: x grows to the left, y to the back, z to the head);
* voxel indices are ``(slice, row, column)``, the order of the array axes;
* an affine maps ``(slice, row, column, 1)`` to ``(x, y, z, 1)``, and its name
  ends in the side it maps to: ``affine_lps`` or ``affine_ras``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from dicomdata.errors import GeometryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Vector = tuple[float, float, float]
"""Three numbers along x, y and z: mm for a position, none for a direction."""

Affine = tuple[Vector, Vector, Vector, Vector]
"""Columns of an affine that fits a frozen record: slice, row and column steps, then the origin."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""(4, 4): turns a point or an affine from LPS to RAS, and back."""

SAME_DIRECTION = 1e-3
"""Directions closer than this are one orientation, rad: scanners write noise of 1e-4."""

COINCIDENT = 1e-3
"""Places closer than this are one position, mm: no scanner steps by a micrometre."""

UNIFORM = 0.02
"""Residual that is rounding, as a share of the spacing: below what resampling could resolve."""

UNEVEN = 0.10
"""Residual that is still a lattice, as a share of the spacing; beyond it the spacing varies."""

_HALF_QUANTUM = 0.5 * (1 + 1e-6)
"""Furthest that rounding moves a number, in decimal quanta, and what arithmetic adds."""

_UNIT_TOLERANCE = 1e-2
"""Largest error in the length of a direction; its direction still counts when digits are few."""

_RIGHT_ANGLE_TOLERANCE = 2e-3
"""Largest error of the angle between row and column, rad: files that keep three decimals."""

_STRAIGHT = 0.1
"""Offset from the line through a stack that is still rounding, in pixels; beyond, a jump."""

_STEEPEST_TILT = math.radians(45)
"""No gantry tilts further than 30 degrees: beyond this the planes do not face each other."""


@dataclass(frozen=True, slots=True)
class PlaneGeometry:
    """One image plane in the patient (PS3.3 C.7.6.2, Image Plane Module).

    Raises:
        GeometryError: if the two directions are not orthogonal unit vectors, a
            spacing is not positive, or a number is not finite.
    """

    position: Vector
    """Centre of the first pixel, LPS mm. Image Position (Patient) (0020,0032)."""

    row_direction: Vector
    """Unit vector along a row, towards higher columns, LPS. (0020,0037), first three."""

    column_direction: Vector
    """Unit vector down a column, towards higher rows, LPS. (0020,0037), last three."""

    row_spacing: float
    """Distance between row centres, mm. Pixel Spacing (0028,0030), first value."""

    column_spacing: float
    """Distance between column centres, mm. Pixel Spacing (0028,0030), second value."""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.position)):
            raise GeometryError(f"Image Position (Patient) must be finite, got {self.position}")
        along, down = self.row_direction, self.column_direction
        lengths = math.hypot(*along), math.hypot(*down)
        if not (
            all(abs(length - 1) <= _UNIT_TOLERANCE for length in lengths)
            and abs(sum(a * b for a, b in zip(along, down, strict=True))) <= _RIGHT_ANGLE_TOLERANCE
        ):
            raise GeometryError(
                f"Image Orientation (Patient) must be two orthogonal unit vectors, "
                f"got {along} and {down}"
            )
        spacings = self.row_spacing, self.column_spacing
        if not all(math.isfinite(spacing) and spacing > 0 for spacing in spacings):
            raise GeometryError(
                f"Pixel Spacing must be positive, got {spacings[0]} and {spacings[1]} mm"
            )

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit normal, shape (3,): row direction x column direction."""
        normal = np.cross(self.row_direction, self.column_direction)
        return normal / np.linalg.norm(normal)

    @property
    def depth(self) -> float:
        """Signed distance of the plane from the LPS origin along its normal, mm."""
        return float(self.normal @ self.position)


def slice_order(planes: Sequence[PlaneGeometry]) -> list[int]:
    """Order planes along their normal.

    File names, Instance Number and Slice Location play no part: only the
    position says where a plane is.

    Returns:
        The indices of `planes`, from the lowest depth to the highest.

    Raises:
        GeometryError: if the planes are not parallel.
    """
    if len(orientation_clusters([plane_directions(plane) for plane in planes])) > 1:
        raise GeometryError("planes are not parallel: more than one Image Orientation (Patient)")
    normal = planes[0].normal
    return sorted(range(len(planes)), key=lambda i: float(normal @ planes[i].position))


def plane_directions(plane: PlaneGeometry) -> tuple[float, ...]:
    """Give the six numbers of Image Orientation (Patient), each direction of length one."""
    return unit_directions((*plane.row_direction, *plane.column_direction))


def unit_directions(orientation: Sequence[float]) -> tuple[float, ...]:
    """Scale both directions of an Image Orientation (Patient) to length one."""
    along, down = math.hypot(*orientation[:3]), math.hypot(*orientation[3:])
    return (*(a / along for a in orientation[:3]), *(d / down for d in orientation[3:]))


def orientation_clusters(orientations: Sequence[Sequence[float]]) -> list[list[int]]:
    """Group orientations whose row and column directions lie within `SAME_DIRECTION`.

    Args:
        orientations: six unit cosines each.

    Returns:
        Indices of each cluster, ascending, the largest cluster first; the
        result does not depend on the order given, but for the indices.
    """
    directions = np.asarray(orientations, np.float64).reshape(-1, 2, 3)
    # The lowest of those left opens a cluster, so that a shuffle of files changes nothing.
    left = np.lexsort(directions.reshape(-1, 6).T[::-1])
    clusters = []
    while left.size:
        apart = np.linalg.norm(directions[left] - directions[left[0]], axis=2).max(axis=1)
        clusters.append(sorted(left[apart <= SAME_DIRECTION].tolist()))
        left = left[apart > SAME_DIRECTION]
    return sorted(clusters, key=len, reverse=True)


@dataclass(frozen=True, slots=True)
class Lattice:
    """Depths that are evenly spaced, up to rounding: depth = origin + spacing x number."""

    origin: float
    """Depth of number 0, mm."""

    spacing: float
    """Distance between consecutive numbers, mm."""

    numbers: tuple[int, ...]
    """Number of each depth, ascending from 0; a number left out is a missing slice."""

    residual: float
    """Largest distance of a depth from its place, mm."""

    half_width: float
    """Largest distance from the line that makes it smallest, mm: what rounding must explain. It is
    infinite where a finer lattice with holes explains the depths as well."""

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers that no depth has: missing slices."""
        return tuple(sorted(set(range(self.numbers[-1])) - set(self.numbers)))

    def evenness(self, quantum: float = 0.0) -> str:
        """Judge the residual: "uniform", "uneven" (still a lattice), or "variable".

        Args:
            quantum: the decimal step in which the depths were written, mm.
        """
        rounding = self.half_width <= _HALF_QUANTUM * quantum
        if self.residual <= UNIFORM * self.spacing or rounding:
            return "uniform"
        return "uneven" if self.residual <= UNEVEN * self.spacing else "variable"


def fit_lattice(depths: Sequence[float]) -> Lattice:
    """Find the evenly spaced positions nearest to ascending `depths`, by least squares.

    A fit over all depths is immune to rounding, which a first gap is not: 0.625 mm
    written with one decimal has gaps of 0.6 and 0.7 mm, and a mean of 0.625.

    Raises:
        GeometryError: if fewer than two depths are given, or two coincide.
    """
    gaps = np.diff(np.asarray(depths, np.float64))
    if gaps.size == 0 or gaps.min() < COINCIDENT:
        raise GeometryError(f"a lattice needs two or more distinct depths, got {list(depths)}")
    # Each gap is rounded by itself: numbering from the first depth would drift with the
    # error of the median. Distinct depths never share a number.
    numbers = _numbered(gaps, float(np.median(gaps)))
    places = np.asarray(depths, np.float64)
    spacing, origin, residual = _line_and_residual(numbers, places)
    half_width = residual
    if residual > UNIFORM * spacing:
        # The narrower question is asked only where the answer could matter.
        finer = _numbered(gaps, float(gaps.min()))
        step, _, off = _line_and_residual(finer, places)
        # 0, 2, 6 mm may be 0, 3, 6 in whole millimetres, or 0, 2, 4, 6 without the third.
        holes = finer[-1] > numbers[-1] and off <= UNIFORM * step
        half_width = math.inf if holes else _half_width(numbers, places)
    return Lattice(origin, spacing, tuple(numbers.tolist()), residual, half_width)


def finest_places(depths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place depths that are on no lattice along the finest regular one that ends where they do.

    Args:
        depths: (n,), ascending and distinct, n >= 2.

    Returns:
        (n,): 0 for the first, a whole number for the last, anything between for the others.
    """
    extent = depths[-1] - depths[0]
    last = max(round(float(extent / np.diff(depths).min())), 1)
    places: NDArray[np.float64] = (depths - depths[0]) / extent * last
    return places


def _numbered(gaps: NDArray[np.float64], unit: float) -> NDArray[np.int64]:
    steps = np.maximum(np.rint(gaps / unit), 1).astype(np.int64)
    return np.concatenate(([0], np.cumsum(steps)))


def _line_and_residual(
    numbers: NDArray[np.int64], places: NDArray[np.float64]
) -> tuple[float, float, float]:
    spacing, origin = _straight_line(numbers, places)
    return float(spacing), float(origin), float(np.abs(origin + spacing * numbers - places).max())


@dataclass(frozen=True, slots=True)
class Line:
    """The straight line through the first pixels of a stack's planes."""

    origin: Vector
    """Position of number 0, LPS mm."""

    step: Vector
    """From one number to the next, LPS mm: the slice column of an affine, shear and all."""

    offset: float
    """Largest distance of a position from the line, within its plane, mm."""


def fit_line(
    positions: NDArray[np.float64], numbers: Sequence[int], normal: NDArray[np.float64]
) -> Line:
    """Fit positions (n, 3) = origin + step x number by least squares, n >= 2."""
    at = np.asarray(numbers, np.float64)
    step, origin = _straight_line(at, positions)
    away = positions - (origin + np.outer(at, step))
    in_plane = away - np.outer(away @ normal, normal)
    return Line(
        as_vector(origin), as_vector(step), float(np.linalg.norm(in_plane, axis=1).max(initial=0.0))
    )


def tilt(step: Sequence[float], normal: NDArray[np.float64]) -> float:
    """Angle between the way a stack grows and the normal of its planes, degrees; 0 if upright."""
    along = abs(float(normal @ step))
    across = float(np.linalg.norm(np.cross(step, normal)))
    return math.degrees(math.atan2(across, along))


def is_straight(line: Line, *, pixel: float, quantum: float = 0.0) -> bool:
    """Tell whether in-plane offsets are rounding; if not, the stack jumps sideways.

    Args:
        line: what was fitted.
        pixel: smaller of row and column spacing, mm.
        quantum: the decimal step in which the positions were written, mm.
    """
    return line.offset <= max(_STRAIGHT * pixel, quantum)


def faces_itself(step: Sequence[float], normal: NDArray[np.float64]) -> bool:
    """Tell whether consecutive planes lie over each other rather than side by side."""
    return math.radians(tilt(step, normal)) <= _STEEPEST_TILT


def affine_from_columns(columns: Affine) -> NDArray[np.float64]:
    """Build a read-only (4, 4) affine of (slice, row, column, 1) from its four columns."""
    affine = np.eye(4)
    affine[:3] = np.array(columns).T
    affine.flags.writeable = False
    return affine


def as_vector(numbers: Sequence[float] | NDArray[np.float64]) -> Vector:
    """Turn three numbers into plain floats; -0.0 becomes 0.0."""
    x, y, z = (float(number) + 0.0 for number in numbers)
    return x, y, z


def scaled(direction: Sequence[float], length: float) -> Vector:
    """Give a vector of `length` mm along a direction."""
    return as_vector([length * cosine for cosine in direction])


def lps_to_ras(affine_lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn an affine that maps to LPS into one that maps to RAS, or back; read-only."""
    affine_ras: NDArray[np.float64] = LPS_TO_RAS @ affine_lps + 0.0
    affine_ras.flags.writeable = False
    return affine_ras


def _half_width(numbers: NDArray[np.int64], values: NDArray[np.float64]) -> float:
    """Half the height of the lowest strip between two parallel lines that holds all points.

    One of the lines lies along an edge of the points' convex hull.
    """
    points = list(zip(numbers.tolist(), values.tolist(), strict=True))
    widths = []
    for side in (1, -1):
        hull: list[tuple[int, float]] = []
        for x, y in points:
            while (
                len(hull) > 1
                and side
                * (
                    (hull[-1][0] - hull[-2][0]) * (y - hull[-2][1])
                    - (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0])
                )
                <= 0
            ):
                hull.pop()
            hull.append((x, y))
        for (x, y), (further, up) in pairwise(hull):
            line = y + (up - y) / (further - x) * (numbers - x)
            widths.append(float(np.ptp(values - line)))
    return min(widths) / 2


def _straight_line(
    numbers: NDArray[np.int64] | NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least squares of values (n,) or (n, 3) over numbers: slope and value at number 0."""
    # Centred by hand: the closed form is exact to rounding, where a QR of 500 mm offsets is not.
    middle = numbers.mean()
    deviation = numbers - middle
    slope = deviation @ (values - values.mean(axis=0)) / (deviation @ deviation)
    return slope, values.mean(axis=0) - slope * middle

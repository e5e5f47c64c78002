"""Draws a chest as a CT would show it: made of shapes and noise, no patient behind it.

`draw_chest` gives voxels in HU, for archives whose truth is known to the last bit
(`dicomdata.testing.thorax` writes them). NumPy only.

Everything is measured in mm from the middle of the field of view, along the axes of an axial
slice in LPS: x to the patient's left, y to the back; z is the height above the lowest slice.
The chest fits the height it is given: fewer slices make a shorter one, never half a lung.

Shapes are *depths*: mm inside a surface, negative outside, good enough near the surface. A depth
becomes a coverage from 0 to 1 over one pixel, and tissues are painted over each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Field: TypeAlias = "NDArray[np.floating[Any]]"
"""A value, in float32, for each pixel of a slice or for each of some points."""

FIELD_OF_VIEW = 360.0
"""Diameter of the circle that is reconstructed, mm: 512 pixels of 0.703125."""

PADDING_HU = -3024
"""Outside that circle: -2000 stored, with an intercept of -1024."""

_BODY = (157.0, 111.0)
_BODY_Y = -6.0
"""Half width and half depth of the trunk, and its middle, which the table keeps in front."""

_CAGE = (131.0, 86.0)
_CAGE_Y = -9.0
"""Half width and half depth of the inside of the rib cage, and its middle."""

_SPINE_Y = 50.0
"""Middle of the vertebral bodies."""

_PITCH = 24.0
"""From rib to rib along the spine, and from vertebra to vertebra."""

_PLACES = 40
"""Places, for each mm of height, where vessels may end; about a third of them lie in the lung."""


@dataclass(frozen=True, slots=True, eq=False)
class Chest:
    """A drawn chest; slices ascend from feet to head."""

    hu: NDArray[np.int16]
    """(slices, rows, columns), HU; `PADDING_HU` outside the circle that is reconstructed."""

    lung: NDArray[np.bool_]
    """(slices, rows, columns): both lungs with their vessels, without trachea and main bronchi."""


@dataclass(frozen=True, slots=True, eq=False)
class _Tubes:
    """Vessels, bronchi, long bones: balls, strung closely enough to be tubes."""

    centre: Field
    """(balls, 3): x, y, z."""

    radius: Field
    """(balls,)."""

    steepness: Field
    """(balls,): share of z in the tube's direction, 0 to 1; a steep tube fills its slices."""

    def widened(self, change: float) -> _Tubes:
        """Return the same tubes with `change` mm more around, or less."""
        return _Tubes(self.centre, np.maximum(self.radius + np.float32(change), 0), self.steepness)


class _Person:
    """What differs from person to person, and the tubes, which belong to no one slice."""

    def __init__(self, *, height: float, seed: int) -> None:
        random = np.random.default_rng((seed, 0))
        self.height = height
        self.heart_size = random.uniform(0.94, 1.06)
        self.fat = random.uniform(8, 14)
        self.phase = random.uniform(0, _PITCH)
        self.apex = 0.97 * height
        self.right_dome = random.uniform(0.28, 0.32) * height
        self.left_dome = random.uniform(0.22, 0.26) * height
        self.hilum = 0.56 * height
        self.vessels, self.bronchi = _grow_lungs(self, random)
        self.airways = _lay_airways(self)
        self.great_vessels = _lay_great_vessels(self)
        self.clavicles = _lay_clavicles(self)


class _Points:
    """Places in x and y, and what of the anatomy can be said of them before z is known."""

    def __init__(self, x: Field, y: Field, person: _Person) -> None:
        self.x, self.y, self.person = x, y, person
        self.side = np.abs(x)
        self.body_radius, self.from_body = _superellipse(x, y - _BODY_Y, _BODY)
        self.cage_radius, self.from_cage = _superellipse(x, y - _CAGE_Y, _CAGE)
        self.angle = np.arctan2(self.side, y - _CAGE_Y)  # 0 at the back, pi in front
        fall = min(80.0, 0.36 * person.height)
        right = ((x + 60) / 76) ** 2 + ((y + 8) / 84) ** 2
        left = ((x - 58) / 76) ** 2 + ((y + 4) / 84) ** 2
        self.diaphragm = np.where(
            x < 0, person.right_dome - fall * right**1.5, person.left_dome - fall * left**1.5
        )
        tops = ((self.side - 48) / 66) ** 2 + ((y + 4) / 84) ** 2
        self.lung_top = person.apex - min(80.0, 0.36 * person.height) * tops**2
        self.between_lungs = self._mediastinum_without_heart()

    def _mediastinum_without_heart(self) -> Field:
        """Inside great vessels, spine and the thin septum in front, which reach from end to end."""
        middle = _ellipse(self.x - 3, self.y - 4, 27, 44)
        spine = _ellipse(self.x, self.y - _SPINE_Y - 8, 25, 32)
        aorta = _ellipse(self.x - 25, self.y - 36, 16, 16)
        septum = np.minimum(1 - np.abs(self.x - 3) - 0.22 * (self.y + 60), -self.y)
        inside: Field = np.maximum(np.maximum(middle, spine), np.maximum(aorta, septum))
        return inside

    def body_depth(self, z: float) -> Field:
        """Inside the skin."""
        share = z / self.person.height
        return self.body_radius * (1 - 0.06 * share**3) - self.from_body

    def cage_depth(self, z: float | Field) -> Field:
        """Inside the rib cage, which narrows towards the head."""
        share = np.clip((np.float32(z) / self.person.height - 0.5) / 0.5, 0, 1)
        return self.cage_radius * (1 - 0.24 * share**2) - self.from_cage

    def heart_depth(self, z: float | Field) -> Field:
        """Inside the pericardium: an ellipsoid that points to the left, to the front and down."""
        person = self.person
        middle, half = 0.37 * person.height, min(56.0, 0.27 * person.height)
        rise = (np.float32(z) - middle) / half
        scale = np.sqrt(np.maximum(1 - rise**2, 0)) - np.maximum(np.abs(rise) - 1, 0)
        x, y = self.x - (24 - 8 * rise), self.y + 22
        along, across = 0.82 * x - 0.57 * y, 0.57 * x + 0.82 * y
        width, breadth = 64 * person.heart_size, 45 * person.heart_size
        inside: Field = scale - np.sqrt((along / width) ** 2 + (across / breadth) ** 2)
        return inside * 45

    def lung_depth(self, z: float | Field, heart: Field) -> Field:
        """Inside one of the lungs, and so not in the heart."""
        walls = np.minimum(self.cage_depth(z) - 1, -np.maximum(self.between_lungs, heart))
        ends = np.minimum(np.float32(z) - self.diaphragm, self.lung_top - np.float32(z))
        return np.minimum(walls, 0.6 * ends)


def draw_chest(*, slices: int, size: int, seed: int, slice_step: float = 2.5) -> Chest:
    """Draw a chest of `slices` axial slices, `size` pixels high and wide, `slice_step` mm apart.

    The same arguments give the same voxels; another `seed` gives another person.
    """
    painter = _Painter(_Person(height=slices * slice_step, seed=seed), size, slice_step, seed)
    hu = np.empty((slices, size, size), np.int16)
    lung = np.zeros(hu.shape, np.bool_)
    for k in range(slices):
        hu[k], lung[k][painter.window] = painter.scan(k)
    return Chest(hu, lung)


class _Painter:
    """Paints slices of one person, tissue over tissue, within the window that the body needs."""

    def __init__(self, person: _Person, size: int, slice_step: float, seed: int) -> None:
        self.person, self.seed, self.slice_step = person, seed, slice_step
        self.pixel = FIELD_OF_VIEW / size
        middles = ((np.arange(size) - (size - 1) / 2) * self.pixel).astype(np.float32)
        y, x = np.meshgrid(middles, middles, indexing="ij")
        self.outside = x**2 + y**2 > (FIELD_OF_VIEW / 2) ** 2
        self.empty = self._paint_table(x, y)
        # Fewer photons reach the detector through the middle of a body.
        self.deviation = 9 + 9 * np.exp(-(x**2 + y**2) / 110**2)

        low, high = np.searchsorted(middles, (_BODY_Y - _BODY[1] - 3, _BODY_Y + _BODY[1] + 3))
        left, right = np.searchsorted(middles, (-_BODY[0] - 3, _BODY[0] + 3))
        self.window = (slice(low, high), slice(left, right))
        self.corner = (float(middles[left]), float(middles[low]))
        self.points = _Points(x[self.window], y[self.window], person)
        random = np.random.default_rng((seed, 1))
        self.fine = _Texture(random, person.height, self.points.x.shape, cell=4.5)
        self.coarse = _Texture(random, person.height, self.points.x.shape, cell=20)
        angle = self.points.angle / np.pi
        self.rib_drop = 92 * angle**1.3
        self.front = angle > np.float32(0.8)
        low, high = np.searchsorted(self.points.y[:, 0], (_SPINE_Y - 24, _SPINE_Y + 52))
        left, right = np.searchsorted(self.points.x[0], (-40, 40))
        self.spine_window = (slice(low, high), slice(left, right))

    def scan(self, k: int) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """Return slice `k` in HU, and within the window where the lung is."""
        picture = self.empty.copy()
        lung = self._paint_body(picture[self.window], (k + 0.5) * self.slice_step)
        random = np.random.default_rng((self.seed, 2, k))
        white = random.standard_normal(picture.shape, np.float32)
        # The blur, which gives noise the grain of a standard kernel, leaves 3/8 of its deviation.
        picture = _blur(picture) + _blur(white) * (self.deviation * (8 / 3))
        hu = np.clip(np.rint(picture), -1024, 3071).astype(np.int16)
        hu[self.outside] = PADDING_HU
        return hu, lung

    def _paint_body(self, picture: Field, z: float) -> NDArray[np.bool_]:
        """Paint the window at height `z`, and return where the lung is."""
        points = self.points
        fine, coarse = self.fine.at(z), self.coarse.at(z)
        cage, heart = points.cage_depth(z), points.heart_depth(z)
        self._paint_wall(picture, z, cage, coarse)
        self._paint_belly(picture, z, cage, coarse)
        self._paint_mediastinum(picture, z, cage, heart, coarse)
        lung = self._cover(points.lung_depth(z, heart))
        if lung.any():
            _paint(picture, lung, self._make_lung(z, fine, coarse))
        self._paint_bones(picture, z, cage, fine)
        self._paint_spine(picture[self.spine_window], z, fine[self.spine_window])
        walls = self._stamp(self.person.airways.widened(1.6), z)
        _paint(picture, walls, 45)
        _paint(picture, self._stamp(self.person.airways, z), -995)
        return np.minimum(lung, 1 - walls) > np.float32(0.5)

    def _cover(self, depth: Field) -> Field:
        covered: Field = depth * (1 / self.pixel) + np.float32(0.5)
        return np.clip(covered, 0, 1, out=covered)

    def _paint_table(self, x: Field, y: Field) -> Field:
        """Return a slice with nothing but the table: a cradle of carbon fibre around foam."""
        picture = np.full(x.shape, -1000, np.float32)
        down = y - (114 - x**2 / 520)
        thick = 26 + x**2 / 900
        across = 150 - np.abs(x)
        _paint(picture, self._cover(np.minimum(np.minimum(down, thick - down), across)), -930)
        shell = np.minimum(1.2 - np.abs(down - 1), across)
        floor = np.minimum(1.2 - np.abs(down - thick), across)
        _paint(picture, self._cover(np.maximum(shell, floor)), -120)
        return picture

    def _paint_wall(self, picture: Field, z: float, cage: Field, coarse: Field) -> None:
        """Skin, the fat below it, muscle around the ribs with sheets of fat, the armpits."""
        person, points = self.person, self.points
        body, share = points.body_depth(z), z / person.height
        _paint(picture, self._cover(body), 10)
        _paint(picture, self._cover(body - 1.8), -104 + 5 * coarse)
        muscle = body - person.fat * (1 + 0.3 * np.cos(2 * points.angle) + 0.15 * coarse)
        _paint(picture, self._cover(muscle), 56 + 5 * coarse)
        sheets = np.abs((4 * np.cos(5 * points.angle) + 3 * coarse - cage) % 14 - 7) - 5.2
        sheets += np.minimum(coarse, 0)
        between = np.minimum(np.minimum(sheets, muscle - 2), -cage - 10)
        _paint(picture, 0.8 * self._cover(between), -95)
        armpit = np.minimum(-cage - 13, muscle - 10) - 40 * np.abs(points.angle / np.pi - 0.56)
        armpit = np.minimum(armpit, 60 * (share - 0.5)) + 3 * coarse
        _paint(picture, self._cover(armpit), -98)

    def _paint_belly(self, picture: Field, z: float, cage: Field, coarse: Field) -> None:
        """Below the diaphragm: the liver, on the left spleen and stomach with its bubble."""
        points = self.points
        below = np.minimum(0.6 * (points.diaphragm - z), cage - 1).astype(np.float32)
        if below.max() < -self.pixel:
            return
        x, y = points.x, points.y
        _paint(picture, self._cover(below), -92 + 8 * coarse)
        _paint(picture, self._cover(np.minimum(below, 30 - x - 0.4 * y)), 108 + 5 * coarse)
        _paint(picture, self._cover(np.minimum(below - 2, _ellipse(x - 84, y - 30, 34, 40))), 118)
        stomach = np.minimum(below - 3, _ellipse(x - 62, y + 34, 44, 32))
        _paint(picture, self._cover(stomach), 62)
        _paint(picture, self._cover(np.minimum(stomach - 4, y + 44)), 25)
        _paint(picture, self._cover(np.minimum(stomach - 4, -44 - y)), -985)

    def _paint_mediastinum(
        self, picture: Field, z: float, cage: Field, heart: Field, coarse: Field
    ) -> None:
        """Fat, great vessels with contrast agent, the heart with its chambers, the oesophagus."""
        points = self.points
        inside = np.minimum(np.maximum(points.between_lungs, heart), cage)
        _paint(picture, self._cover(inside), -82 + 24 * coarse)
        _paint(picture, self._stamp(self.person.great_vessels.widened(1.2), z), 45)
        _paint(picture, self._stamp(self.person.great_vessels, z), 172)
        oesophagus = _ellipse(points.x - 7, points.y - 29, 8, 5)
        _paint(picture, self._cover(oesophagus), 42)
        if heart.max() < 0:
            return
        _paint(picture, self._cover(heart - 3), 98 + 6 * coarse)
        x, y = points.x - 24, points.y + 22
        along, across = 0.82 * x - 0.57 * y, 0.57 * x + 0.82 * y
        left = np.minimum(heart - 12, _ellipse(along - 18, across - 10, 34, 17))
        right = np.minimum(heart - 6, _ellipse(along + 2, across + 22, 42, 15))
        atria = np.minimum(heart - 6, _ellipse(along + 40, across - 12, 24, 28))
        _paint(picture, self._cover(np.maximum(np.maximum(left, right), atria)), 165)

    def _make_lung(self, z: float, fine: Field, coarse: Field) -> Field:
        """Lung, denser towards the back, with fissures, vessels and bronchi."""
        person = self.person
        tissue = -868 + 0.3 * self.points.y + 16 * fine + 16 * coarse
        slope = 0.55 * person.height / 150
        fissure = np.abs(z - 0.45 * person.height - slope * self.points.y + 2 * coarse)
        tissue += 90 * np.clip(1.6 - fissure / (1 + slope), 0, 1)
        _paint(tissue, self._stamp(person.bronchi.widened(0.9), z), -100)
        _paint(tissue, self._stamp(person.bronchi, z), -985)
        _paint(tissue, self._stamp(person.vessels, z), 70)
        return tissue

    def _paint_bones(self, picture: Field, z: float, cage: Field, fine: Field) -> None:
        """Ribs with their cartilage, sternum, shoulder blades, collar bones."""
        points, person = self.points, self.person
        share = z / person.height
        rise = (z + self.rib_drop - person.phase) % _PITCH - _PITCH / 2
        ribs = (1 - np.sqrt(((-cage - 5) / 4.2) ** 2 + (rise / 6.6) ** 2)) * 4.2
        ribs = np.minimum(ribs, np.minimum(points.side - 15, points.body_depth(z) - 6))
        _paint(picture, self._cover(np.where(self.front, ribs - 0.5, -99)), 95)
        width = 16 + 24 * max(share - 0.6, 0)
        sternum = np.minimum(5.5 - np.abs(-cage - 7), width - points.side)
        sternum = np.minimum(np.minimum(sternum, -points.y), 60 * min(share - 0.2, 0.9 - share))
        reach = 0.12 * min(max((share - 0.42) * 3, 0), 1)
        blade = 110 * (reach - np.abs(points.angle / np.pi - 0.3))
        blade = np.minimum(2.4 - np.abs(-cage - 17 - 0.05 * blade), blade)
        bones = np.maximum(np.where(self.front, -99, ribs), np.maximum(sternum, blade))
        self._paint_bone(picture, bones, fine, rind=1.5)
        _paint(picture, self._stamp(person.clavicles, z), 560)
        _paint(picture, self._stamp(person.clavicles.widened(-2.5), z), 220)

    def _paint_spine(self, picture: Field, z: float, fine: Field) -> None:
        """A vertebra or a disc, the arch with its processes, the cord in its canal."""
        x, side, y = (
            part[self.spine_window] for part in (self.points.x, self.points.side, self.points.y)
        )
        y = y - _SPINE_Y
        level = (z - self.person.phase) % _PITCH
        body = np.minimum(_ellipse(x, y, 20, 17), 13 - y)
        arch = _ellipse(x, y - 23, 18, 14)
        processes = np.minimum(4 - np.abs(y - 26 - 0.12 * side), 34 - side)
        spinous = np.minimum(3.2 - side, np.minimum(y - 28, 48 - y))
        if level < 0.45 * _PITCH:
            spinous = np.maximum(arch, np.maximum(processes, spinous))
        self._paint_bone(picture, spinous, fine, rind=1.8)
        self._paint_bone(picture, body, fine, rind=1.5)
        disc = min(max(3 - abs(level - _PITCH / 2), 0), 1)
        _paint(picture, disc * self._cover(body), 88)
        _paint(picture, self._cover(_ellipse(x, y - 22, 10, 8.5)), 8)
        _paint(picture, self._cover(_ellipse(x, y - 22, 6, 5)), 38)

    def _paint_bone(self, picture: Field, depth: Field, fine: Field, *, rind: float) -> None:
        """Dense bone of thickness `rind` around spongy bone."""
        _paint(picture, self._cover(depth), 640)
        _paint(picture, self._cover(depth - rind), 190 + 45 * fine)

    def _stamp(self, tubes: _Tubes, z: float) -> Field:
        """Return how much of each pixel `tubes` cover in the slice at `z`, as thick as the step."""
        covered = np.zeros(self.points.x.shape, np.float32)
        half = self.slice_step / 2
        away = np.abs(tubes.centre[:, 2] - z)
        near = away < half + tubes.radius
        if not near.any():
            return covered
        radius, (x, y) = tubes.radius[near], tubes.centre[near, :2].T
        cut = np.sqrt(radius**2 - np.maximum(away[near] - half, 0) ** 2) / self.pixel
        level = np.sqrt(np.maximum(1 - tubes.steepness[near] ** 2, 1e-3))
        strength = np.clip(radius / half / level, 0, 1) * np.clip(2 * cut, 0, 1)
        column, row = (x - self.corner[0]) / self.pixel, (y - self.corner[1]) / self.pixel
        discs = np.stack((column, row, cut, strength))
        for reach in (2, 4, 8, 16, 32, 64):
            some = (cut + 0.5 <= reach) & (cut + 0.5 > (reach / 2 if reach > 2 else 0))
            if some.any():
                _stamp_discs(covered, discs[:, some], reach)
        return covered


def _stamp_discs(covered: Field, discs: Field, reach: int) -> None:
    """Raise `covered` to what `discs` cover of each pixel at most `reach` from their middles.

    Args:
        covered: (rows, columns), changed in place.
        discs: (4, discs): column, row, radius, in pixels, and the share that a full cover is worth.
        reach: pixels.
    """
    column, row, radius, strength = discs.astype(np.float32)[:, :, None, None]
    offsets = np.arange(-reach, reach + 1)
    rows = np.rint(row).astype(np.int64) + offsets[:, None]
    columns = np.rint(column).astype(np.int64) + offsets
    down, right = (rows - row).astype(np.float32), (columns - column).astype(np.float32)
    share = np.clip(radius + np.float32(0.5) - np.sqrt(down**2 + right**2), 0, 1) * strength
    height, width = covered.shape
    seen = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width) & (share > 0)
    np.maximum.at(covered.reshape(-1), (rows * width + columns)[seen], share[seen])


class _Texture:
    """Smooth noise about 0, its deviation near 0.6, which changes over `cell` mm."""

    def __init__(
        self, random: np.random.Generator, height: float, shape: tuple[int, ...], *, cell: float
    ) -> None:
        across = int(2 * _BODY[0] / cell) + 2
        self.cell = cell
        self.knots = random.standard_normal((int(height / cell) + 3, across, across), np.float32)
        self.places = [np.linspace(0, across - 1.001, size).astype(np.float32) for size in shape]

    def at(self, z: float) -> Field:
        """Return the slice at height `z`."""
        k, share = divmod(z / self.cell, 1)
        plane: Field = self.knots[int(k)] + share * (self.knots[int(k) + 1] - self.knots[int(k)])
        for place in self.places:  # rows, then columns
            low = place.astype(np.int64)
            below = plane[low]
            plane = (below + (place - low)[:, None].astype(np.float32) * (plane[low + 1] - below)).T
        return plane


def _paint(picture: Field, covered: Field, value: float | Field) -> None:
    """Lay `value` over `picture` where it is covered."""
    change = value - picture
    change *= covered
    picture += change


def _blur(picture: Field) -> Field:
    """Smooth by 1 2 1 along rows and columns: what the system's focus does to edges."""
    for _ in range(2):
        padded = np.pad(picture, ((1, 1), (0, 0)), mode="edge")
        picture = (0.25 * (padded[:-2] + padded[2:]) + 0.5 * picture).T
    return picture


def _ellipse(x: Field, y: Field, half_width: float, half_height: float) -> Field:
    """Return the depth inside an ellipse about the origin."""
    size = np.sqrt((x / half_width) ** 2 + (y / half_height) ** 2)
    return (1 - size) * min(half_width, half_height)


def _superellipse(x: Field, y: Field, half: tuple[float, float]) -> tuple[Field, Field]:
    """Return, in each direction, the radius of a rounded box of exponent 2.5, and the distance."""
    distance = np.maximum(np.hypot(x, y), np.float32(0.1))
    size = (np.abs(x / half[0]) ** 2.5 + np.abs(y / half[1]) ** 2.5) ** 0.4
    return distance / np.maximum(size, np.float32(1e-3)), distance


def _lay(*path: tuple[float, float, float, float]) -> _Tubes:
    """Lay a tube through places of x, y, z and radius."""
    corners = np.array(path)
    pieces, steep = [], []
    for a, b in pairwise(corners):
        length = float(np.linalg.norm((b - a)[:3]))
        steps = np.linspace(0, 1, max(int(length / 1.0), 2))[:, None]
        pieces.append(a + steps * (b - a))
        steep.append(np.full(len(steps), abs(b[2] - a[2]) / length))
    balls = np.concatenate(pieces).astype(np.float32)
    return _Tubes(balls[:, :3], balls[:, 3], np.concatenate(steep).astype(np.float32))


def _join(*tubes: _Tubes) -> _Tubes:
    return _Tubes(
        np.concatenate([t.centre for t in tubes]),
        np.concatenate([t.radius for t in tubes]),
        np.concatenate([t.steepness for t in tubes]),
    )


def _lay_airways(person: _Person) -> _Tubes:
    """Trachea and main bronchi, as far as the hila."""
    top, fork, hilum = person.height + 5, person.hilum + 22, person.hilum
    return _join(
        _lay((0, 8, top, 8.5), (2, 14, fork, 8.5)),
        _lay((2, 14, fork, 7), (-14, 18, fork - 12, 7), (-38, 18, hilum - 2, 5.5)),
        _lay((2, 14, fork, 6.5), (20, 20, fork - 16, 6), (42, 20, hilum - 4, 5)),
    )


def _lay_great_vessels(person: _Person) -> _Tubes:
    """Aorta with its arch and branches, superior vena cava, pulmonary trunk and arteries."""
    hilum, height = person.hilum, person.height
    root, arch = 0.48 * height, hilum + min(38, 0.2 * height)
    return _join(
        _lay((2, -22, root, 15), (-10, -26, hilum + 5, 15), (-8, -20, arch - 8, 14)),
        _lay(
            (-8, -20, arch - 8, 14), (2, -8, arch, 13), (16, 12, arch, 12.5), (24, 30, arch - 8, 12)
        ),
        _lay((24, 30, arch - 8, 12), (25, 36, hilum - 10, 11.5), (16, 34, -5, 10.5)),
        _lay((-2, -6, arch, 6), (-8, -4, height, 5)),
        _lay((8, 4, arch, 4.5), (12, 2, height, 4.5)),
        _lay((16, 12, arch, 5), (24, 12, height, 5)),
        _lay((-26, -14, root, 9), (-26, -16, arch, 8), (-22, -14, height, 7)),
        _lay((18, -34, root, 13), (18, -24, hilum, 13), (20, -6, hilum + 8, 11)),
        _lay((18, -14, hilum, 10), (-12, -2, hilum, 9), (-34, 6, hilum, 8)),
        _lay((20, -6, hilum + 8, 10), (36, 10, hilum + 6, 8)),
    )


def _lay_clavicles(person: _Person) -> _Tubes:
    """Collar bones, from the top of the sternum outwards."""
    z = 0.88 * person.height
    return _join(
        *(
            _lay((s * 16, -78, z, 6.5), (s * 60, -80, z + 5, 5.5), (s * 105, -50, z + 12, 5.5))
            for s in (-1, 1)
        )
    )


def _grow_lungs(person: _Person, random: np.random.Generator) -> tuple[_Tubes, _Tubes]:
    """Grow arteries and veins through both lungs, and bronchi beside the larger arteries."""
    vessels, bronchi = [], []
    for side in (-1, 1):
        for shift in (6, -10):  # arteries enter above, veins below
            root = np.array([side * 31.0, 10, person.hilum + shift])
            nodes, parents = _grow_tree(person, root, random)
            radius = _size_branches(parents, finest=0.36)
            vessels.append(_string_balls(nodes, parents, radius, random))
            if shift > 0:
                wide = np.flatnonzero(radius > 1.3)
                beside = nodes + 1.9 * radius[:, None] * np.array([side * 0.5, 0.6, 0.6])
                bronchi.append(_string_balls(beside, parents, 0.75 * radius, random, chosen=wide))
    return _join(*vessels), _join(*bronchi)


def _grow_tree(
    person: _Person, root: NDArray[np.float64], random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Join places strewn over one lung to `root`, the nearest first.

    Each joins where its own branch and the way from there to the root are short together, which is
    what makes trees look grown.

    Returns:
        The nodes, (n, 3), the root first, and the number of each one's parent, which is lower.
    """
    low, high = np.array([2, -95, 0]), np.array([130, 80, person.height])
    places = random.uniform(low, high, (int(_PLACES * person.height), 3)) * [np.sign(root[0]), 1, 1]
    at = places.T.astype(np.float32)
    points = _Points(at[0], at[1], person)
    places = places[points.lung_depth(at[2], points.heart_depth(at[2])) > 2]
    places = places[np.argsort(np.linalg.norm(places - root, axis=1))]
    nodes = np.concatenate((root[None], places))
    way = np.zeros(len(nodes))
    parents = np.zeros(len(nodes), np.int64)
    x, y, z = nodes.T.copy()
    for i in range(1, len(nodes)):
        distance = np.sqrt((x[:i] - x[i]) ** 2 + (y[:i] - y[i]) ** 2 + (z[:i] - z[i]) ** 2)
        parents[i] = np.argmin(distance + 0.35 * way[:i])
        way[i] = way[parents[i]] + distance[parents[i]]
    return nodes, parents


def _size_branches(parents: NDArray[np.int64], *, finest: float) -> NDArray[np.float64]:
    """Return the radius of each node's branch: as much cross-section, nearly, as those it feeds."""
    power = 2.6
    flow = np.full(len(parents), finest**power)
    for i in range(len(parents) - 1, 0, -1):
        flow[parents[i]] += flow[i]
    return np.minimum(flow ** (1 / power), 5.5)


def _string_balls(
    nodes: NDArray[np.float64],
    parents: NDArray[np.int64],
    radius: NDArray[np.float64],
    random: np.random.Generator,
    *,
    chosen: NDArray[np.int64] | None = None,
) -> _Tubes:
    """String balls from each node to its parent, or from the chosen ones, along a slight bow."""
    chosen = np.arange(1, len(nodes)) if chosen is None else chosen[chosen > 0]
    start, along = nodes[parents[chosen]], (nodes[chosen] - nodes[parents[chosen]])
    length = np.linalg.norm(along, axis=1)
    count = np.ceil(length / 0.7).astype(np.int64) + 1
    branch = np.repeat(np.arange(len(chosen)), count)
    step = (np.arange(len(branch)) - np.repeat(np.cumsum(count) - count, count)) / count[branch]
    bow = 0.12 * np.cross(along, random.uniform(-1, 1, along.shape))
    path = start[branch] + step[:, None] * along[branch]
    path += np.sin(np.pi * step)[:, None] * bow[branch]
    steep = np.abs(along[:, 2]) / np.maximum(length, 1e-6)
    return _Tubes(
        path.astype(np.float32),
        radius[chosen][branch].astype(np.float32),
        steep[branch].astype(np.float32),
    )

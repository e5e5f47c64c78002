"""RT Structure Set onto the grid of a Stack: `read_structures`.

Contours are filled in the plane of the slice they lie on, by the rule of `contours`: a pixel
belongs to a region if its centre is inside, or on the line. A contour that lies on no slice is
reported where it is outside the stack, and refused where it is between slices.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from dicomdata.errors import LabelError
from dicomdata.labels.belonging import (
    check_frame_of_reference,
    drawn_on,
    slice_offsets,
    stack_sources,
)
from dicomdata.labels.contours import fill
from dicomdata.labels.findings import (
    check_outside,
    choose_outside,
    find_empty,
    find_outside,
    find_overlap,
    find_unmeasured,
)
from dicomdata.labels.names import choose
from dicomdata.labels.placing import SAME_CENTRE, THICKER
from dicomdata.labels.records import LabelFinding, Mask, Verdict
from dicomdata.labels.roi import CLOSED, parse_structures

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from dicomdata.labels.contours import Region as Filling
    from dicomdata.labels.findings import Outside
    from dicomdata.labels.names import Missing, Wanted
    from dicomdata.labels.references import Source
    from dicomdata.labels.roi import Contour, Region, StructureSet
    from dicomdata.stack import Stack

_WORDS: Mapping[str, tuple[str, Literal["contours", "voxels"]]] = {
    "point": ("{count} contours of {name} are points: left out", "contours"),
    "open_contour": ("{count} contours of {name} are open lines: left out", "contours"),
    "other_stack": (
        "{count} contours of {name} were drawn on images of other stacks: left out",
        "contours",
    ),
    "outside_contour": ("{count} contours of {name} lie outside the stack: left out", "contours"),
    "reference_disagrees": (
        "{count} contours of {name} name another image than that they lie on: their place counts",
        "contours",
    ),
    "between_slices": (
        "{count} contours of {name} lie further from a slice than others: left out",
        "contours",
    ),
    "repeated_contour": ("{count} contours of {name} repeat another: used once", "contours"),
    "crossing": (
        "{count} voxels lie within two contours of {name} that cross, or twice in one: left out",
        "voxels",
    ),
    "hole_edge": (
        "{count} voxels lie on the line of a hole of {name}: taken to belong to the hole",
        "voxels",
    ),
}
"""Kind of finding -> what is said of a region, and what is counted."""

_HALF_SLICE = 0.5
"""Slices beyond which another slice is nearer."""


def read_structures(  # noqa: PLR0913 - what is read, and what is taken for right: all by name
    path: str | os.PathLike[str],
    stack: Stack,
    *,
    segments: Wanted | None = None,
    missing: Missing = "error",
    resample: bool = False,
    by_images: bool = False,
    outside: Outside | None = None,
) -> Mask:
    """Read an RT Structure Set onto the grid of a stack: one segment a region of interest.

    Args:
        path: the structure set.
        stack: the image it was drawn on, or another in the same frame of reference.
        segments: name -> pattern, or names: only those are filled and given memory, and what comes
            is that of `select_segments`, verdict and findings on them alone. None reads all.
        missing: what to do where none is called so, as in `select_segments`.
        resample: let contours between two slices count for the nearer one, and those of thicker
            slices for all that they stand for. Otherwise such a label is refused.
        by_images: take a region although it names another frame of reference, if each of its
            contours names an image of the stack: some writers make one up. Otherwise it is refused.
        outside: what to do where contours or voxels lie outside the stack: refuse the label
            ("reject"), or leave them out with a finding ("drop"). None leaves them out, if the
            label says that it belongs there: by its frame of reference, or images of the stack
            that it names.

    Returns:
        (regions, slices, rows, columns), bool.

    Raises:
        FileError: if the file cannot be read.
        HeaderError: if it is not DICOM, or damaged.
        LabelError: if it is no structure set, lies in another frame of reference, outside the
            stack, or between its slices or across them; or lacks a region.
    """
    file = parse_structures(os.path.abspath(path))
    every, alien = _regions_of(file, stack, by_images=by_images)
    chosen = choose(file.path, [each.segment.name for each in every], segments, missing=missing)
    regions = [every[place] for place in chosen.places]
    meant = _own_contours(file, every, stack)
    slices = _Slices.of(stack)
    read = tuple(region.segment for region in regions)
    voxels = np.zeros((len(regions), *stack.shape), np.bool_)
    noted: _Noted = Counter()
    beyond: Counter[int] = Counter()
    placed: list[_Placed] = []
    slices = slices._replace(apart=_slices_apart(every, meant, slices))
    for index, (region, place) in enumerate(zip(regions, chosen.places, strict=True)):
        sorted_out = _sort(file, region, meant[place], slices, noted, resample=resample)
        sorted_out = _spread(file, region, sorted_out, slices, resample=resample)
        for number, contours in sorted_out.items():
            kept = _once(region, contours, noted)
            filled = fill([each.points for each in kept], stack.shape[1:])
            beyond[index] += _paint(voxels[index, number], filled)
            for kind, count in (("crossing", filled.crossed), ("hole_edge", filled.on_holes)):
                if count:
                    noted[kind, region.segment.name] += count
            placed += kept
    _check_something(file, placed, noted)
    findings = (
        *alien,
        *_findings(noted),
        *find_outside(file.path, read, beyond, voxels),
        *find_overlap(voxels),
        *find_empty(read, voxels),
        *find_unmeasured(stack),
    )
    counted = ((name, n) for (kind, name), n in noted.items() if kind == "outside_contour")
    lost = [f"{n} contours of {name!r}" for name, n in counted]
    lost += [f"{n} voxels of {read[i].name!r}" for i, n in beyond.items() if n]
    drawn_on = (contour.sources for region in regions for contour in region.contours)
    check_outside(file.path, stack, lost, choose_outside(outside, alien, drawn_on, stack))
    return chosen.of(Mask(voxels, read, stack, _verdict(placed, stack), findings, file.path))


def _regions_of(
    file: StructureSet, stack: Stack, *, by_images: bool
) -> tuple[list[Region], list[LabelFinding]]:
    """Leave out the regions that lie in another frame of reference.

    Raises:
        LabelError: if all do.
    """
    regions: list[Region] = []
    findings: dict[str, LabelFinding] = {}
    refused: list[LabelError] = []
    for region in file.regions:
        uids = {region.frame_of_reference_uid} - {""}
        parts = [contour.sources for contour in region.contours] if by_images else None
        try:
            found = check_frame_of_reference(file.path, uids, stack, parts)
        except LabelError as error:
            refused.append(error)
            text = f"{region.segment.name!r} lies in another frame of reference: left out"
            found = (LabelFinding("other_frame_of_reference", text),)
        else:
            regions.append(region)
        findings.update((finding.text, finding) for finding in found)
    if refused and not regions:
        raise refused[0]
    return regions, list(findings.values())


def _own_contours(file: StructureSet, regions: Sequence[Region], stack: Stack) -> list[list[bool]]:
    """Tell, of each region, which contours may be meant for a stack."""
    parts = [contour.sources for region in regions for contour in region.contours]
    meant = iter(drawn_on(file.path, file.header, stack, parts))
    return [[next(meant) for _ in region.contours] for region in regions]


class _Placed(NamedTuple):
    """A contour on a slice."""

    slice_number: int

    points: NDArray[np.float64]
    """(points, 2): row and column on the slice."""

    distance: float
    """Furthest that a point lies from the slice, in slices."""

    depth: float
    """Middle of its points, in slices."""


class _Slices(NamedTuple):
    """The slices of a stack, as contours find theirs."""

    stack: Stack

    to_grid: NDArray[np.float64]
    """(4, 4), LPS mm -> (slice, row, column, 1)."""

    offsets: NDArray[np.float64]
    """(slices, 3): how far the image of each slice lies from its place, LPS mm."""

    numbers: dict[Source, int | None]
    """Which slice each image is."""

    apart: int = 1
    """How many slices the planes of the structure set are apart: one region may lie on few."""

    @classmethod
    def of(cls, stack: Stack) -> _Slices:
        to_grid = np.array(np.linalg.inv(stack.affine_lps), np.float64)
        return cls(stack, to_grid, slice_offsets(stack), stack_sources(stack))

    def place(self, points: NDArray[np.float64]) -> _Placed:
        """Find the slice nearest to points (n, 3), LPS mm: its number may be none of the stack's.

        It is where its image is, which rounding may have moved off the even grid.
        """
        found = [self._place(points)]
        number = found[0].slice_number
        if 0 <= number < len(self.offsets) and self.offsets[number].any():
            found.append(self._place(points - self.offsets[number]))
        return min(found, key=lambda each: each.distance)

    def _place(self, points: NDArray[np.float64]) -> _Placed:
        at = points @ self.to_grid[:3, :3].T + self.to_grid[:3, 3]
        depth = float(at[:, 0].mean())
        number = round(depth)
        return _Placed(number, at[:, 1:], float(np.abs(at[:, 0] - number).max()), depth)

    def named(self, contour: Contour) -> set[int]:
        """Give the slices that a contour says it was drawn on."""
        known = (self.numbers.get(source) for source in contour.sources)
        return {number for number in known if number is not None}


_Noted = Counter[tuple[str, str]]
"""(kind of finding, name of the region) -> how many."""


def _sort(  # noqa: PLR0913 - one contour after the other, and what is noted on the way
    file: StructureSet,
    region: Region,
    own: Sequence[bool],
    slices: _Slices,
    noted: _Noted,
    *,
    resample: bool,
) -> dict[int, list[_Placed]]:
    """Give each slice the contours of a region that lie on it; note those that lie on none.

    Raises:
        LabelError: if one lies between slices, or across them, and is not to be resampled.
    """
    name = region.segment.name
    sorted_out: dict[int, list[_Placed]] = defaultdict(list)
    for contour, meant in zip(region.contours, own, strict=True):
        if contour.kind not in CLOSED:
            noted["point" if contour.kind == "POINT" else "open_contour", name] += 1
        elif not meant:
            noted["other_stack", name] += 1
        elif not 0 <= (placed := slices.place(contour.points)).slice_number < slices.stack.shape[0]:
            noted["outside_contour", name] += 1
        else:
            named = slices.named(contour)
            if named and placed.slice_number not in named:
                noted["reference_disagrees", name] += 1
            doubtful = placed.distance > SAME_CENTRE and placed.slice_number not in named
            if placed.distance > _HALF_SLICE or (doubtful and not resample):
                raise _off_slice(file, region, contour, placed)
            sorted_out[placed.slice_number].append(placed)
    return {number: _nearest(region, each, noted) for number, each in sorted_out.items()}


def _slices_apart(regions: Sequence[Region], own: Sequence[Sequence[bool]], slices: _Slices) -> int:
    """Give how many slices of the stack the planes of all regions are apart."""
    numbers = {
        slices.place(contour.points).slice_number
        for region, meant in zip(regions, own, strict=True)
        for contour, ours in zip(region.contours, meant, strict=True)
        if ours and contour.kind in CLOSED
    }
    within = sorted(numbers & {*range(slices.stack.shape[0])})
    return min((after - before for before, after in pairwise(within)), default=1)


def _nearest(region: Region, contours: list[_Placed], noted: _Noted) -> list[_Placed]:
    """Of contours on several planes that are nearest to one slice, keep those of the nearest."""
    nearest = min(contours, key=lambda each: each.distance)
    kept = [each for each in contours if abs(each.depth - nearest.depth) <= SAME_CENTRE]
    if len(kept) < len(contours):
        noted["between_slices", region.segment.name] += len(contours) - len(kept)
    return kept


def _spread(
    file: StructureSet,
    region: Region,
    contours: dict[int, list[_Placed]],
    slices: _Slices,
    *,
    resample: bool,
) -> dict[int, list[_Placed]]:
    """Let contours of thicker slices count for the slices of the stack between them.

    Contours drawn on the stack's own images are as sparse as they were drawn.

    Raises:
        LabelError: if they are of thicker slices, and are not to be resampled.
    """
    numbers, apart = sorted(contours), slices.apart
    if apart < THICKER or any(slices.named(contour) for contour in region.contours):
        return contours
    if not resample:
        raise LabelError(
            f"{file.path}: contours of ROI {region.segment.number} ({region.segment.name!r}) are "
            f"{apart} slices of stack {slices.stack.id} apart, and would leave those between them "
            f"empty; resample=True takes the nearest contour"
        )
    spread = {}
    for number in range(slices.stack.shape[0]):
        nearest = min(numbers, key=lambda each: abs(each - number))
        if abs(nearest - number) <= apart / 2:
            spread[number] = [
                each._replace(slice_number=number, distance=abs(each.depth - number))
                for each in contours[nearest]
            ]
    return spread


def _off_slice(file: StructureSet, region: Region, contour: Contour, placed: _Placed) -> LabelError:
    across = placed.distance > _HALF_SLICE
    where = (
        f"across slices, up to {placed.distance:.2f} slices from slice {placed.slice_number}"
        if across
        else f"between slices, at {placed.depth:.2f}; resample=True takes the nearest"
    )
    return LabelError(
        f"{file.path}: ROI {region.segment.number} ({region.segment.name!r}), contour "
        f"{contour.number} lies {where}"
    )


def _once(region: Region, contours: Sequence[_Placed], noted: _Noted) -> list[_Placed]:
    """Drop contours that repeat another, which exclusive or would turn to nothing."""
    different: dict[frozenset[tuple[float, ...]], _Placed] = {}
    for each in contours:
        points = frozenset(map(tuple, np.round(each.points, 3).tolist()))
        if points in different:
            noted["repeated_contour", region.segment.name] += 1
        different.setdefault(points, each)
    return list(different.values())


def _paint(plane: NDArray[np.bool_], filled: Filling) -> int:
    """Put what was filled on its slice; give how many of its pixels lie outside it."""
    box = filled.pixels
    rows = range(max(filled.row, 0), min(filled.row + box.shape[0], plane.shape[0]))
    columns = range(max(filled.column, 0), min(filled.column + box.shape[1], plane.shape[1]))
    inside = (
        box[
            rows.start - filled.row : rows.stop - filled.row,
            columns.start - filled.column : columns.stop - filled.column,
        ]
        if rows and columns
        else box[:0]
    )
    if inside.size:
        plane[rows.start : rows.stop, columns.start : columns.stop] = inside
    return int(np.count_nonzero(box)) - int(np.count_nonzero(inside))


def _check_something(file: StructureSet, placed: Sequence[_Placed], noted: _Noted) -> None:
    beyond = sum(count for (kind, _), count in noted.items() if kind == "outside_contour")
    if beyond and not placed:
        raise LabelError(
            f"{file.path}: all {beyond} contours lie outside the stack: another image, or another "
            f"place"
        )


def _findings(noted: _Noted) -> Iterator[LabelFinding]:
    for (kind, name), count in noted.items():
        template, unit = _WORDS[kind]
        text = template.format(count=count, name=repr(name))
        yield LabelFinding("outside" if kind == "outside_contour" else kind, text, count, unit)


def _verdict(placed: Sequence[_Placed], stack: Stack) -> Verdict:
    offset = max((each.distance for each in placed), default=0.0)
    slices = {each.slice_number for each in placed}
    text = f"{len(placed)} contours on {len(slices)} of {stack.shape[0]} slices"
    if offset > SAME_CENTRE:
        return Verdict("resampled", offset, f"{text}, up to {offset:.2f} slices from them")
    return Verdict("same_grid", offset, text)

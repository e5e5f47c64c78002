"""RT Structure Set -> its regions of interest, and their contours: no stack, no grid yet.

PS3.3 C.8.8.5 (Structure Set) and C.8.8.6 (ROI Contour).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dicomdata.errors import LabelError
from dicomdata.header.parsing import raw_value
from dicomdata.labels.records import Segment
from dicomdata.labels.references import (
    STRUCTURE_SETS,
    Source,
    items_of,
    open_label,
    parsing,
    sources_of,
    text_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset

CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})
"""Contour Geometric Types (3006,0042) that enclose something."""

_OPEN = frozenset({"POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"})
"""Those that do not."""

_CONTOUR_DATA = 0x30060050


class Contour(NamedTuple):
    """One contour of a region."""

    number: int
    """Which of its region's, from 0."""

    kind: str
    """Contour Geometric Type (3006,0042): "CLOSED_PLANAR", "POINT" and the like."""

    points: NDArray[np.float64]
    """(points, 3), LPS mm. Contour Data (3006,0050)."""

    sources: frozenset[Source]
    """What it was drawn on, by its Contour Image Sequence (3006,0016); empty if it is silent."""


@dataclass(frozen=True, slots=True)
class Region:
    """A region of interest and its contours."""

    segment: Segment
    """Its number and name."""

    frame_of_reference_uid: str
    """Referenced Frame of Reference UID (3006,0024), or that of the file; "" where it has none."""

    contours: tuple[Contour, ...] = field(repr=False)
    """As they are stored."""


@dataclass(frozen=True, slots=True)
class StructureSet:
    """An RT Structure Set, described."""

    path: str
    """The file."""

    regions: tuple[Region, ...]
    """By ROI number."""

    header: Dataset = field(repr=False)
    """The whole file, as pydicom gives it."""


def parse_structures(path: str) -> StructureSet:
    """Read an RT Structure Set.

    Raises:
        FileError: if the file cannot be read.
        HeaderError: if it is not DICOM, or damaged.
        LabelError: if it is no structure set, or its contours are not what they claim.
    """
    header = open_label(path, STRUCTURE_SETS, "a structure set (RTSTRUCT)")
    with parsing(path):
        return StructureSet(path, tuple(_regions(path, header)), header)


def _regions(path: str, header: Dataset) -> list[Region]:
    named = {int(item.ROINumber): item for item in items_of(header, "StructureSetROISequence")}
    if not named:
        raise LabelError(f"{path}: Structure Set ROI Sequence (3006,0020) names no region")
    if len(named) < len(items_of(header, "StructureSetROISequence")):
        raise LabelError(f"{path}: ROI Number (3006,0022) repeats")
    contours: dict[int, list[Contour]] = {number: [] for number in named}
    for item in items_of(header, "ROIContourSequence"):
        number = int(item.ReferencedROINumber)
        if number not in named:
            raise LabelError(
                f"{path}: contours are of ROI {number}, which Structure Set ROI Sequence "
                f"(3006,0020) does not name: it has {sorted(named)}"
            )
        name = text_of(named[number], "ROIName")
        for contour in items_of(item, "ContourSequence"):
            found = contours[number]
            where = f"{path}: ROI {number} ({name!r}), contour {len(found)}"
            found.append(_contour(where, contour, len(found)))
    whole = [text_of(item, "FrameOfReferenceUID") for item in (header, *_frames(header))]
    fallback = next((uid for uid in whole if uid), "")
    return [
        Region(
            Segment(number, text_of(item, "ROIName") or str(number)),
            text_of(item, "ReferencedFrameOfReferenceUID") or fallback,
            tuple(contours[number]),
        )
        for number, item in sorted(named.items())
    ]


def _frames(header: Dataset) -> list[Dataset]:
    return items_of(header, "ReferencedFrameOfReferenceSequence")


def _contour(where: str, item: Dataset, number: int) -> Contour:
    points = _points(where, item)
    claimed = item.get("NumberOfContourPoints")
    if claimed is not None and int(claimed) != len(points):
        raise LabelError(
            f"{where}: Number of Contour Points (3006,0046) is {claimed}, and Contour Data "
            f"(3006,0050) holds {len(points)}"
        )
    kind = text_of(item, "ContourGeometricType")
    if kind not in CLOSED | _OPEN:
        raise LabelError(
            f"{where}: Contour Geometric Type (3006,0042) must be one of "
            f"{', '.join(sorted(CLOSED | _OPEN))}, got {kind!r}"
        )
    # A point that comes again at the end closes the line, which is closed anyhow.
    if kind in CLOSED and len(points) > 1 and np.array_equal(points[0], points[-1]):
        points = points[:-1]
    images = items_of(item, "ContourImageSequence")
    sources = (source for image in images for source in sources_of(image))
    return Contour(number, kind, points, frozenset(sources))


def _points(where: str, item: Dataset) -> NDArray[np.float64]:
    # A structure set has a million numbers, which pydicom would decode one by one.
    written = (raw_value(item, _CONTOUR_DATA) or b"").rstrip(b" \0\\")
    try:
        numbers = np.array([float(part) for part in written.split(b"\\")] if written else [])
    except ValueError as error:
        raise LabelError(f"{where}: Contour Data (3006,0050) is no list of numbers") from error
    if len(numbers) % 3 or not len(numbers) or not np.isfinite(numbers).all():
        raise LabelError(
            f"{where}: Contour Data (3006,0050) must be points of three numbers, got {len(numbers)}"
        )
    return numbers.reshape(-1, 3)

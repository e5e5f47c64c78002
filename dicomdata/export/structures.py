"""Masks on the grid of a Stack -> RT Structure Set: `write_structures` (PS3.3 A.19)."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import LabelError
from dicomdata.export.masks import segments_of
from dicomdata.export.sources import (
    Said,
    begin_label,
    image_reference,
    make_item,
    new_path,
    replace_whole,
    slice_frames,
    studies_of,
    writing,
)
from dicomdata.export.tracing import trace
from dicomdata.header import read_header
from dicomdata.labels import slice_offsets

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from pydicom import Dataset

    from dicomdata.export.masks import Drawing
    from dicomdata.header import Frame
    from dicomdata.labels import Mask, Segment
    from dicomdata.stack import Stack

_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, retired: what the standard still asks for beside a study's UID."""

_GOLDEN = 0.618034
"""Of a circle: however many hues there are, the next lies in the widest gap."""

_DECIMALS = 6
"""Digits after the point of a coordinate, mm: far below a pixel, and within 16 characters."""


def write_structures(  # noqa: PLR0913 - what, of which images, and what is said of it: all by name
    path: str | os.PathLike[str],
    mask: Mask | NDArray[Any],
    stack: Stack,
    segments: Sequence[str | Segment] | None = None,
    *,
    algorithm: str | None = "unnamed",
    description: str = "Structures",
) -> None:
    """Write a mask as an RT Structure Set that refers to the images of its stack.

    Contours run along the edges of pixels; a hole is a contour within another, which
    `read_structures` and others combine by exclusive or. Read back, it is the same mask.

    Args:
        path: the new file. Another file of that name is replaced.
        mask: as for `write_segmentation`, but of whole voxels: bool, or 0 and 1.
        stack: what was labelled.
        segments: names, or more of each. A `Mask` knows.
        algorithm: the model or method that made the mask; None where it was drawn by hand.
        description: of the new series.

    Raises:
        FileError: if an image of the stack cannot be read, or the file not be written.
        LabelError: if the mask is not on the grid of the stack, or is fractional.
    """
    target = new_path(path, stack)
    drawing = segments_of(mask, stack, segments)
    said = Said(description, algorithm)
    if drawing.fractional:
        raise LabelError(f"{target}: contours enclose whole voxels, not fractions of them")
    header = read_header(stack.paths[0])
    with writing(target):
        made = begin_label(header, stack, (_STRUCTURE_SET, "RTSTRUCT"), said)
        _describe_set(made, stack)
        _add_regions(made, drawing.segments, algorithm)
        made.ROIContourSequence = _regions(drawing, stack)
        replace_whole(target, made)


def _describe_set(made: Dataset, stack: Stack) -> None:
    """Fill in Structure Set, and name all images of the stack (PS3.3 C.8.8.5)."""
    from pydicom.uid import ImplicitVRLittleEndian

    # An explicit VR has 16 bits for the length of a contour, which are 2000 points.
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    made.OperatorsName = ""
    made.StructureSetLabel = "SEGMENTATION"
    made.StructureSetDate = made.InstanceCreationDate
    made.StructureSetTime = made.InstanceCreationTime
    studies = [
        make_item(
            ReferencedSOPClassUID=_STUDY_CLASS,
            ReferencedSOPInstanceUID=study or made.StudyInstanceUID,
            RTReferencedSeriesSequence=[_series(stack, frames)],
        )
        for study, frames in studies_of(stack).items()
    ]
    made.ReferencedFrameOfReferenceSequence = [
        make_item(FrameOfReferenceUID=made.FrameOfReferenceUID, RTReferencedStudySequence=studies)
    ]


def _series(stack: Stack, frames: Sequence[Frame]) -> Dataset:
    return make_item(
        SeriesInstanceUID=stack.series_instance_uid,
        ContourImageSequence=[image_reference(frame, with_frame=False) for frame in frames],
    )


def _add_regions(made: Dataset, named: Sequence[Segment], algorithm: str | None) -> None:
    how = "MANUAL" if algorithm is None else "AUTOMATIC"
    made.StructureSetROISequence = [
        make_item(
            ROINumber=each.number,
            ReferencedFrameOfReferenceUID=made.FrameOfReferenceUID,
            ROIName=each.name,
            ROIGenerationAlgorithm=how,
            **({} if algorithm is None else {"ROIGenerationDescription": algorithm}),
        )
        for each in named
    ]
    made.RTROIObservationsSequence = [
        make_item(
            ObservationNumber=each.number,
            ReferencedROINumber=each.number,
            RTROIInterpretedType="",
            ROIInterpreter="",
        )
        for each in named
    ]


def _regions(drawing: Drawing, stack: Stack) -> list[Dataset]:
    """Trace all segments, slice by slice (PS3.3 C.8.8.6)."""
    frames, held = slice_frames(stack), drawing.slices_drawn_on()
    affine, offsets = stack.affine_lps, slice_offsets(stack)
    regions = []
    for index, segment in enumerate(drawing.segments):
        contours = []
        for number in np.flatnonzero(held[index]).tolist():
            for corners in trace(drawing.plane(index, number)):
                places = np.column_stack([np.full(len(corners), number), corners])
                # Where the image of the slice lies.
                points = places @ affine[:3, :3].T + affine[:3, 3] + offsets[number]
                contours.append(_contour(points, frames[number]))
        region = make_item(ROIDisplayColor=_colour(index), ReferencedROINumber=segment.number)
        if contours:
            region.ContourSequence = contours
        regions.append(region)
    return regions


def _colour(index: int) -> list[int]:
    """Give a colour, RGB from 0 to 255, unlike those before: hues a golden section apart."""
    return [round(255 * part) for part in hsv_to_rgb(index * _GOLDEN % 1, 0.8, 0.95)]


def _contour(points: NDArray[np.float64], frame: Frame | None) -> Dataset:
    contour = make_item(
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourData=[f"{x:.{_DECIMALS}f}".rstrip("0").rstrip(".") for x in points.ravel()],
    )
    if frame is not None:
        contour.ContourImageSequence = [image_reference(frame)]
    return contour

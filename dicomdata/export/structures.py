"""Masks on the grid of a Stack -> RT Structure Set: `write_structures` (PS3.3 A.19)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import DicomDataError, LabelError
from dicomdata.export.masks import segments_of
from dicomdata.export.sources import (
    IMPLEMENTATION,
    LATER,
    frame_of_reference,
    image_reference,
    new_path,
    once_an_instance,
    patient_and_study,
    replace_whole,
    slice_frames,
)
from dicomdata.export.tracing import trace
from dicomdata.header import read_header
from dicomdata.header.parsing import quietly
from dicomdata.labels import slice_offsets

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from pydicom import Dataset

    from dicomdata.header import Frame
    from dicomdata.labels import Mask, Segment
    from dicomdata.stack import Stack

_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, retired: what the standard still asks for beside a study's UID."""

_DECIMALS = 6
"""Digits after the point of a coordinate, mm: far below a pixel, and within 16 characters."""


def write_structures(
    path: str | os.PathLike[str],
    mask: Mask | NDArray[Any],
    stack: Stack,
    segments: Sequence[str | Segment] | None = None,
    *,
    algorithm: str | None = "unnamed",
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

    Raises:
        FileError: if an image of the stack cannot be read.
        LabelError: if the mask is not on the grid of the stack, or is fractional.
    """
    target = new_path(path, stack)
    voxels, named = segments_of(mask, stack, segments)
    if voxels.dtype != np.bool_:
        raise LabelError(f"{target}: contours enclose whole voxels, not fractions of them")
    header = read_header(stack.paths[0])
    with quietly():
        try:
            structures = _describe(header, stack)
            _add_regions(structures, named, algorithm)
            structures.ROIContourSequence = [
                _contours(each.number, part, stack)
                for each, part in zip(named, voxels, strict=True)
            ]
            replace_whole(target, structures)
        except DicomDataError:
            raise
        # What pydicom makes of an odd header, it says in many kinds.
        except Exception as error:
            raise LabelError(f"{target}: cannot be written: {error}") from error


def _item(**elements: Any) -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _describe(header: Dataset, stack: Stack) -> Dataset:
    """Make all of the object but its regions."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    from dicomdata import __version__

    now = datetime.now(tz=UTC)
    made = patient_and_study(header, stack)
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = _STRUCTURE_SET
    made.SOPInstanceUID = generate_uid()
    made.Modality = "RTSTRUCT"
    made.SeriesInstanceUID = generate_uid()
    made.SeriesNumber = LATER * max(stack.frames[0].kind.series_number or 0, 1)
    made.InstanceNumber = 1
    made.OperatorsName = ""
    made.Manufacturer = made.ManufacturerModelName = IMPLEMENTATION
    made.SoftwareVersions = __version__
    made.StructureSetLabel = "SEGMENTATION"
    made.StructureSetDate = now.strftime("%Y%m%d")
    made.StructureSetTime = now.strftime("%H%M%S")
    made.FrameOfReferenceUID = frame_of_reference(stack)
    made.PositionReferenceIndicator = ""
    made.ReferencedFrameOfReferenceSequence = [_images(made, stack)]
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def _images(made: Dataset, stack: Stack) -> Dataset:
    """Name all images of the stack (PS3.3 C.8.8.5)."""
    series = _item(
        SeriesInstanceUID=stack.series_instance_uid,
        ContourImageSequence=[
            image_reference(frame, with_frame=False) for frame in once_an_instance(stack.frames)
        ],
    )
    study = _item(
        ReferencedSOPClassUID=_STUDY_CLASS,
        ReferencedSOPInstanceUID=made.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=made.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _add_regions(made: Dataset, named: Sequence[Segment], algorithm: str | None) -> None:
    how = "MANUAL" if algorithm is None else "AUTOMATIC"
    made.StructureSetROISequence = [
        _item(
            ROINumber=each.number,
            ReferencedFrameOfReferenceUID=made.FrameOfReferenceUID,
            ROIName=each.name,
            ROIGenerationAlgorithm=how,
            **({} if algorithm is None else {"ROIGenerationDescription": algorithm}),
        )
        for each in named
    ]
    made.RTROIObservationsSequence = [
        _item(
            ObservationNumber=each.number,
            ReferencedROINumber=each.number,
            RTROIInterpretedType="",
            ROIInterpreter="",
        )
        for each in named
    ]


def _contours(number: int, voxels: NDArray[np.bool_], stack: Stack) -> Dataset:
    """Trace one segment (slices, rows, columns), slice by slice (PS3.3 C.8.8.6)."""
    frames = slice_frames(stack)
    contours = [
        _contour(points, frames[slice_number]) for slice_number, points in _traced(voxels, stack)
    ]
    region = _item(ReferencedROINumber=number)
    if contours:
        region.ContourSequence = contours
    return region


def _traced(voxels: NDArray[np.bool_], stack: Stack) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Give the contours of each slice, (points, 3), LPS mm: where the image of the slice lies."""
    affine, offsets = stack.affine_lps, slice_offsets(stack)
    for number in np.flatnonzero(voxels.any(axis=(1, 2))).tolist():
        for corners in trace(voxels[number]):
            places = np.column_stack([np.full(len(corners), number), corners])
            yield number, places @ affine[:3, :3].T + affine[:3, 3] + offsets[number]


def _contour(points: NDArray[np.float64], frame: Frame | None) -> Dataset:
    contour = _item(
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourData=[f"{x:.{_DECIMALS}f}".rstrip("0").rstrip(".") for x in points.ravel()],
    )
    if frame is not None:
        contour.ContourImageSequence = [image_reference(frame)]
    return contour

"""Masks on the grid of a Stack -> DICOM Segmentation: `write_segmentation` (PS3.3 A.51).

What frames refer to is said by the stack, which knows the very frame of the very file: so that
multi-frame, split, gapped and tilted series are written alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dicomdata.errors import LabelError
from dicomdata.export.encoding import set_pixels
from dicomdata.export.masks import segments_of
from dicomdata.export.sources import (
    Said,
    begin_label,
    format_numbers,
    image_reference,
    make_item,
    new_path,
    replace_whole,
    slice_frames,
    studies_of,
    writing,
)
from dicomdata.header import read_header
from dicomdata.labels import Code, slice_offsets

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from pydicom import Dataset

    from dicomdata.export.masks import Drawing
    from dicomdata.header import Frame
    from dicomdata.labels import Mask, Segment
    from dicomdata.stack import Stack

_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
"""Segmentation Storage and Label Map Segmentation Storage."""

_MAXIMUM = 255
"""Maximum Fractional Value (0062,000E): all that 8 bits can tell apart."""

_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
"""Categories of a segment of which no other is said (PS3.16 CID 7150)."""

_OWN_SCHEME = "99DICOMDATA"
"""Coding Scheme Designator of names that SNOMED CT is not known to have (PS3.16 8.2)."""

_DERIVATION = Code("113076", "DCM", "Segmentation")
_PURPOSE = Code("121322", "DCM", "Source image for image processing operation")
"""Why a frame refers to an image (PS3.16 CID 7203 and 7202)."""

_CODE = 16
"""Characters of a Code Value (0008,0100) (PS3.5 6.2, VR SH)."""

_BACKGROUND = Code("125040", "DCM", "Background")
_SPATIAL = Code("309825002", "SCT", "Spatial and Relational Concept")
"""What the value 0 of a label map is (PS3.16 CID 7150 and 7159)."""

_SEGMENT = (0x0062000B, 0x0062000A)
_POSITION = (0x00200032, 0x00209113)
"""Referenced Segment Number and Image Position (Patient), and the functional groups they are in."""


def write_segmentation(  # noqa: PLR0913 - what, of which images, and what is said of it: all by name
    path: str | os.PathLike[str],
    mask: Mask | NDArray[Any],
    stack: Stack,
    segments: Sequence[str | Segment] | None = None,
    *,
    algorithm: str | None = "unnamed",
    description: str = "Segmentation",
    kind: Literal["segments", "labelmap"] = "segments",
    compress: bool = False,
) -> None:
    """Write a mask as a DICOM Segmentation that refers to the images of its stack.

    Bool masks become BINARY, floats FRACTIONAL, in 255 steps. Planes without a voxel are left
    out, as the standard asks; segments may overlap. Every call makes a new object in a new series.

    Args:
        path: the new file. Another file of that name is replaced.
        mask: a `Mask`; or an array on the stack's grid: bool or fractions from 0 to 1,
            (segments, slices, rows, columns) or (slices, rows, columns); or whole numbers, of
            which n is the nth segment.
        stack: what was labelled.
        segments: what each segment is: a name, or a `Segment` with its codes. A `Mask` knows.
            The code of a name is that of SNOMED CT where pydicom has it, else a private one.
        algorithm: the model or method that made the mask; None where it was drawn by hand.
        description: of the new series.
        kind: "segments" is a frame for each segment and slice, which all programs read; "labelmap"
            a frame for each slice, far smaller where there are many segments, in a class of objects
            that the standard has since 2024.
        compress: by RLE, without loss. Single bits have no compression that all programs read.

    Raises:
        FileError: if an image of the stack cannot be read, or the file not be written.
        LabelError: if the mask is not on the grid of the stack, or cannot be written.
    """
    target = new_path(path, stack)
    drawing = segments_of(mask, stack, segments)
    said = Said(description, algorithm)
    layout = _lay_out(drawing, stack, kind)
    if compress and layout.type == "BINARY":
        raise LabelError(
            f'{target}: single bits cannot be compressed: write kind="labelmap", or fractions'
        )
    header = read_header(stack.paths[0])
    with writing(target):
        made = begin_label(header, stack, (layout.sop_class_uid, "SEG"), said)
        _describe_image(made, stack, layout)
        made.SegmentSequence = _segments(drawing, layout, said)
        _add_references(made, stack)
        _add_groups(made, stack, layout)
        set_pixels(made, _planes(drawing, layout), len(layout.frames), compress=compress)
        replace_whole(target, made)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which frames are written, and how."""

    type: Literal["BINARY", "FRACTIONAL", "LABELMAP"]
    """Segmentation Type (0062,0001)."""

    bits: int
    """Bits Allocated (0028,0100)."""

    frames: list[tuple[int, int]]
    """Index of the segment, and slice number, of each frame; a label map has the index 0."""

    overlap: bool
    """Whether segments overlap."""

    @property
    def sop_class_uid(self) -> str:
        """Of the object."""
        return _LABEL_MAP if self.type == "LABELMAP" else _SEGMENTATION


def _lay_out(drawing: Drawing, stack: Stack, kind: str) -> _Layout:
    if kind not in {"segments", "labelmap"}:
        raise LabelError(f"kind={kind!r}: expected 'segments' or 'labelmap'")
    held = drawing.slices_drawn_on()
    if not held.any():
        # An object must have a frame, and it refers to an image.
        held[0, np.flatnonzero(stack.valid)[0]] = True
    if kind == "segments":
        frames = [(index, number) for index, number in np.argwhere(held).tolist()]
        fractional, overlap = drawing.fractional, drawing.overlaps()
        return _Layout(
            "FRACTIONAL" if fractional else "BINARY", 8 if fractional else 1, frames, overlap
        )
    if drawing.fractional:
        raise LabelError("a label map holds whole voxels, not fractions of them")
    frames = [(0, number) for number in np.flatnonzero(held.any(axis=0)).tolist()]
    bits = 8 if len(drawing.segments) < 256 else 16
    return _Layout("LABELMAP", bits, frames, overlap=False)


def _planes(drawing: Drawing, layout: _Layout) -> Iterator[NDArray[Any]]:
    for index, number in layout.frames:
        if layout.type == "LABELMAP":
            yield drawing.labelmap(number).astype(f"u{layout.bits // 8}")
        elif layout.type == "BINARY":
            yield drawing.plane(index, number)
        else:
            yield np.rint(drawing.plane(index, number) * _MAXIMUM).astype(np.uint8)


def _describe_image(made: Dataset, stack: Stack, layout: _Layout) -> None:
    """Fill in General Image, Image Pixel and Segmentation Image (PS3.3 C.8.20.2)."""
    made.ImageType = ["DERIVED", "PRIMARY"]
    made.ContentDate, made.ContentTime = made.InstanceCreationDate, made.InstanceCreationTime
    made.ContentLabel = "SEGMENTATION"
    made.ContentDescription = made.SeriesDescription
    made.ContentCreatorName = ""
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.Rows, made.Columns = stack.shape[1:]
    made.BitsAllocated = made.BitsStored = layout.bits
    made.HighBit = layout.bits - 1
    made.PixelRepresentation = 0
    # Once lossy, ever lossy: what is drawn on such images is made from them (C.7.6.1.1.5).
    lossy = any(frame.kind.lossy for frame in stack.frames)
    made.LossyImageCompression = "01" if lossy else "00"
    made.SegmentationType = layout.type
    made.SegmentsOverlap = "YES" if layout.overlap else "NO"
    if layout.type == "FRACTIONAL":
        made.SegmentationFractionalType = "PROBABILITY"
        made.MaximumFractionalValue = _MAXIMUM
    if layout.type == "LABELMAP":
        made.PixelPaddingValue = 0


def _segments(drawing: Drawing, layout: _Layout, said: Said) -> list[Dataset]:
    described = [_describe_segment(each, said.algorithm) for each in drawing.segments]
    if layout.type == "LABELMAP":
        background = make_item(
            SegmentNumber=0,
            SegmentLabel="Background",
            SegmentAlgorithmType="AUTOMATIC",
            SegmentAlgorithmName="none",
            SegmentedPropertyCategoryCodeSequence=[_coded(_SPATIAL)],
            SegmentedPropertyTypeCodeSequence=[_coded(_BACKGROUND)],
        )
        described.insert(0, background)
    return described


def _describe_segment(segment: Segment, algorithm: str | None) -> Dataset:
    type_ = segment.type or code_of(segment.name)
    item = make_item(
        SegmentNumber=segment.number,
        SegmentLabel=segment.name,
        SegmentAlgorithmType="MANUAL" if algorithm is None else "AUTOMATIC",
        SegmentedPropertyCategoryCodeSequence=[_coded(segment.category or _category_of(type_))],
        SegmentedPropertyTypeCodeSequence=[_coded(type_)],
    )
    if algorithm is not None:
        item.SegmentAlgorithmName = algorithm
    return item


def code_of(name: str) -> Code:
    """Give the code of a thing by its name: of SNOMED CT where pydicom has it, else a private one.

    A private code is the same for the same name, in any file.
    """
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code as Coded

    keyword = "".join(word.capitalize() for word in name.split())
    found = getattr(codes.SCT, keyword, None)
    if isinstance(found, Coded):
        return Code(found.value, found.scheme_designator, found.meaning)
    value = blake2b(name.encode(), digest_size=6).hexdigest().upper()
    return Code(value, _OWN_SCHEME, name)


def _category_of(type_: Code) -> Code:
    """Give the category of a thing: what is a lesion (PS3.16 CID 7159) is no structure."""
    from pydicom.sr.codedict import codes

    lesions = {(code.value, code.scheme_designator) for code in codes.cid7159.concepts.values()}
    return _ABNORMAL if (type_.value, type_.scheme) in lesions else _STRUCTURE


def _coded(code: Code) -> Dataset:
    """Make an item of a Code Sequence; long values and addresses are elsewhere (PS3.3 8.8)."""
    if "://" in code.value or code.value.startswith("urn:"):
        value = {"URNCodeValue": code.value}
    elif len(code.value) > _CODE:
        value = {"LongCodeValue": code.value}
    else:
        value = {"CodeValue": code.value}
    return make_item(**value, CodingSchemeDesignator=code.scheme, CodeMeaning=code.meaning)


def _add_references(made: Dataset, stack: Stack) -> None:
    """Say which images it was made from (PS3.3 C.7.6.3 and C.12.2)."""
    if not stack.series_instance_uid:
        # Images without a series are named by the frames alone.
        return
    for study, frames in studies_of(stack).items():
        images = [image_reference(frame, with_frame=False) for frame in frames]
        series = make_item(
            SeriesInstanceUID=stack.series_instance_uid, ReferencedInstanceSequence=images
        )
        if study in {made.StudyInstanceUID, ""}:
            made.ReferencedSeriesSequence = [series]
        else:
            other = make_item(StudyInstanceUID=study, ReferencedSeriesSequence=[series])
            others = made.get("StudiesContainingOtherReferencedInstancesSequence", [])
            made.StudiesContainingOtherReferencedInstancesSequence = [*others, other]


def _add_groups(made: Dataset, stack: Stack, layout: _Layout) -> None:
    """Say where each frame lies, what it is of, and from which image it was made (C.7.6.16)."""
    made.SharedFunctionalGroupsSequence = [_shared_groups(stack)]
    dimensions = [_SEGMENT, _POSITION] if layout.type != "LABELMAP" else [_POSITION]
    _add_dimensions(made, dimensions)
    # What frames of one slice, or of one segment, have in common is made once.
    numbers = sorted({number for _, number in layout.frames})
    places, images = _positions(stack), slice_frames(stack)
    own = {number: _slice_groups(stack, places[number], images[number]) for number in numbers}
    ranks = {number: rank for rank, number in enumerate(numbers, 1)}
    groups = []
    for index, number in layout.frames:
        group = make_item(**own[number])
        values = [ranks[number]]
        if layout.type != "LABELMAP":
            values.insert(0, index + 1)
            named = make_item(ReferencedSegmentNumber=index + 1)
            group.SegmentIdentificationSequence = [named]
        group.FrameContentSequence = [make_item(DimensionIndexValues=values)]
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups


def _shared_groups(stack: Stack) -> Dataset:
    thickness = stack.frames[0].kind.slice_thickness or 0
    measures = make_item(
        PixelSpacing=format_numbers(stack.spacing[1:]),
        SliceThickness=format_numbers([thickness if thickness > 0 else stack.spacing[0]]),
        SpacingBetweenSlices=format_numbers([stack.spacing[0]]),
    )
    _, row, column, _ = (np.array(axis) for axis in stack.affine_columns)
    along, down = column / np.linalg.norm(column), row / np.linalg.norm(row)
    orientation = make_item(ImageOrientationPatient=format_numbers([*along, *down]))
    return make_item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[orientation])


def _add_dimensions(made: Dataset, dimensions: Sequence[tuple[int, int]]) -> None:
    from pydicom.uid import generate_uid

    uid = generate_uid()
    made.DimensionOrganizationSequence = [make_item(DimensionOrganizationUID=uid)]
    made.DimensionIndexSequence = [
        make_item(
            DimensionOrganizationUID=uid,
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=group,
        )
        for pointer, group in dimensions
    ]


def _slice_groups(
    stack: Stack, position: Sequence[float], frame: Frame | None
) -> dict[str, list[Dataset]]:
    """Give Plane Position (C.7.6.16.2.3) and Derivation Image (C.7.6.16.2.6) of a slice."""
    derivation = []
    if frame is not None:
        source = image_reference(frame)
        source.SpatialLocationsPreserved = "YES" if stack.shear is None else "NO"
        source.PurposeOfReferenceCodeSequence = [_coded(_PURPOSE)]
        item = make_item(DerivationCodeSequence=[_coded(_DERIVATION)], SourceImageSequence=[source])
        derivation.append(item)
    place = make_item(ImagePositionPatient=format_numbers(position))
    return {"PlanePositionSequence": [place], "DerivationImageSequence": derivation}


def _positions(stack: Stack) -> NDArray[np.float64]:
    """Give where the first pixel of each slice lies, LPS mm: a measured one, where its image does.

    Images lie off the even grid by rounding, and a label is where its image is.
    """
    affine = stack.affine_lps
    numbers = np.arange(stack.shape[0])[:, None]
    places: NDArray[np.float64] = numbers * affine[:3, 0] + affine[:3, 3] + slice_offsets(stack)
    return places

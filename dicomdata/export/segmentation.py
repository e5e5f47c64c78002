"""Masks on the grid of a Stack -> DICOM Segmentation: `write_segmentation`.

highdicom writes the object (PS3.3 A.51). It is told of every slice as if it were an image of its
own, which lets it write for multi-frame, split, gapped and tilted series alike; what the frames
refer to is then said by the stack, which knows the very frame of the very file.
"""

from __future__ import annotations

from hashlib import blake2b
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
from dicomdata.header import read_header
from dicomdata.header.parsing import quietly
from dicomdata.labels import Code, slice_offsets

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from highdicom.seg import Segmentation, SegmentDescription
    from numpy.typing import NDArray
    from pydicom import Dataset

    from dicomdata.header import Frame
    from dicomdata.labels import Mask, Segment
    from dicomdata.stack import Stack

_MAXIMUM = 255
"""Maximum Fractional Value (0062,000E): all that 8 bits can tell apart."""

_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
"""Category of a segment of which no other is said (PS3.16 CID 7150)."""

_OWN_SCHEME = "99DICOMDATA"
"""Coding Scheme Designator of names that SNOMED CT is not known to have (PS3.16 8.2)."""

_DERIVATION = Code("113076", "DCM", "Segmentation")
_PURPOSE = Code("121322", "DCM", "Source image for image processing operation")
"""Why a frame refers to an image (PS3.16 CID 7203 and 7202)."""

_DECIMALS = 9
"""Digits of a position, mm: more than any file has, and fewer than a float loses."""

_CLASSIC = "1.2.840.10008.5.1.4.1.1.2"
"""CT Image Storage: the class of slices as highdicom is told of them, which the file never says."""


def write_segmentation(
    path: str | os.PathLike[str],
    mask: Mask | NDArray[Any],
    stack: Stack,
    segments: Sequence[str | Segment] | None = None,
    *,
    algorithm: str | None = "unnamed",
) -> None:
    """Write a mask as a DICOM Segmentation that refers to the images of its stack.

    Bool masks become BINARY, floats FRACTIONAL, in 255 steps. Planes without a voxel are left
    out, as the standard asks; segments may overlap.

    Args:
        path: the new file. Another file of that name is replaced.
        mask: a `Mask`; or an array on the stack's grid: bool or fractions from 0 to 1,
            (segments, slices, rows, columns) or (slices, rows, columns); or whole numbers, of
            which n is the nth segment.
        stack: what was labelled.
        segments: what each segment is: a name, or a `Segment` with its codes. A `Mask` knows.
            The code of a name is that of SNOMED CT where pydicom has it, else a private one.
        algorithm: the model or method that made the mask; None where it was drawn by hand.

    Raises:
        FileError: if an image of the stack cannot be read.
        LabelError: if the mask is not on the grid of the stack, or cannot be written.
    """
    target = new_path(path, stack)
    voxels, named = segments_of(mask, stack, segments)
    header = read_header(stack.paths[0])
    with quietly():
        try:
            images = _describe_images(stack, header)
            descriptions = [_describe_segment(each, algorithm) for each in named]
            segmentation = _make(voxels, images, descriptions, stack)
            _pack(segmentation)
            _refer(segmentation, stack)
            replace_whole(target, segmentation)
        except DicomDataError:
            raise
        # What highdicom and pydicom make of an odd header, they say in many kinds.
        except Exception as error:
            raise LabelError(f"{target}: cannot be written: {error}") from error


def _make(
    voxels: NDArray[Any],
    images: Sequence[Dataset],
    descriptions: Sequence[SegmentDescription],
    stack: Stack,
) -> Segmentation:
    from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence
    from highdicom.seg import Segmentation
    from pydicom.uid import generate_uid

    from dicomdata import __version__

    fractional = voxels.dtype != np.bool_
    planes = voxels.transpose(1, 2, 3, 0)
    return Segmentation(
        source_images=images,
        pixel_array=planes if fractional else planes.astype(np.uint8),
        segmentation_type="FRACTIONAL" if fractional else "BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=LATER * max(stack.frames[0].kind.series_number or 0, 1),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=IMPLEMENTATION,
        manufacturer_model_name=IMPLEMENTATION,
        software_versions=__version__,
        device_serial_number="0",
        max_fractional_value=_MAXIMUM,
        pixel_measures=PixelMeasuresSequence(
            pixel_spacing=stack.spacing[1:],
            slice_thickness=stack.frames[0].kind.slice_thickness or stack.spacing[0],
            spacing_between_slices=stack.spacing[0],
        ),
        plane_orientation=PlaneOrientationSequence("PATIENT", _orientation(stack)),
        plane_positions=[
            PlanePositionSequence("PATIENT", position) for position in _positions(stack)
        ],
        content_label="SEGMENTATION",
        # An object must have a frame: one that shows nothing keeps them all.
        omit_empty_frames=bool(voxels.any()),
        specific_character_set="ISO_IR 192",
    )


def _orientation(stack: Stack) -> tuple[float, ...]:
    _, row, column, _ = (np.array(axis) for axis in stack.affine_columns)
    return (*(column / np.linalg.norm(column)), *(row / np.linalg.norm(row)))


def _positions(stack: Stack) -> list[list[float]]:
    """Give where the first pixel of each slice lies, LPS mm: a measured one, where its image does.

    Images lie off the even grid by rounding, and a label is where its image is.
    """
    affine = stack.affine_lps
    numbers = np.arange(stack.shape[0])[:, None]
    places = numbers * affine[:3, 0] + affine[:3, 3] + slice_offsets(stack)
    # The last digits are arithmetic's, not the image's.
    rounded: list[list[float]] = np.round(places, _DECIMALS).tolist()
    return rounded


def _describe_images(stack: Stack, header: Dataset) -> list[Dataset]:
    """Describe every slice as a classic image of its own, on the grid of the stack."""
    from pydicom import Dataset

    shared = patient_and_study(header, stack)
    shared.SOPClassUID = _CLASSIC
    shared.Modality = stack.modality
    shared.SeriesInstanceUID = stack.series_instance_uid
    shared.FrameOfReferenceUID = frame_of_reference(stack)
    shared.Rows, shared.Columns = stack.shape[1:]
    shared.PixelSpacing = list(stack.spacing[1:])
    shared.SliceThickness = stack.spacing[0]
    shared.ImageOrientationPatient = list(_orientation(stack))
    images = []
    for frame, position in zip(slice_frames(stack), _positions(stack), strict=True):
        if frame is not None:
            image = Dataset()
            image.update(shared)
            image.SOPInstanceUID = frame.sop_instance_uid
            image.ImagePositionPatient = position
            images.append(image)
    return images


def _describe_segment(segment: Segment, algorithm: str | None) -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code as Coded

    made_by = None
    if algorithm is not None:
        made_by = AlgorithmIdentificationSequence(
            name=algorithm, version="0", family=codes.DCM.ArtificialIntelligence
        )
    return SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.name,
        segmented_property_category=Coded(*(segment.category or _STRUCTURE)),
        segmented_property_type=Coded(*(segment.type or code_of(segment.name))),
        algorithm_type="MANUAL" if algorithm is None else "AUTOMATIC",
        algorithm_identification=made_by,
    )


def code_of(name: str) -> Code:
    """Give the code of a thing by its name: of SNOMED CT where pydicom has it, else a private one.

    A private code is the same for the same name, in any file.
    """
    from pydicom.sr.codedict import codes

    try:
        found = getattr(codes.SCT, "".join(word.capitalize() for word in name.split()))
    except AttributeError:
        value = blake2b(name.encode(), digest_size=6).hexdigest().upper()
        return Code(value, _OWN_SCHEME, name)
    return Code(found.value, found.scheme_designator, found.meaning)


def _pack(segmentation: Segmentation) -> None:
    """Pack single bits one frame after the other (PS3.5 8.2).

    highdicom gives each frame of fewer than eight pixels a byte of its own.
    """
    size = segmentation.Rows * segmentation.Columns
    if segmentation.BitsAllocated == 1 and size < 8:
        held = np.frombuffer(segmentation.PixelData, np.uint8)[: segmentation.NumberOfFrames, None]
        bits = np.unpackbits(held, axis=1, bitorder="little")[:, :size]
        packed = np.packbits(bits, bitorder="little").tobytes()
        segmentation.PixelData = packed + b"\0" * (len(packed) % 2)


def _refer(segmentation: Segmentation, stack: Stack) -> None:
    """Say which images, and which frames of them, each frame was made from."""
    frames = [frame for frame in slice_frames(stack) if frame is not None]
    whole = [image_reference(frame, with_frame=False) for frame in once_an_instance(frames)]
    segmentation.SourceImageSequence = whole
    segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence = whole
    places = np.array(_positions(stack))
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, np.float64)
        number = int(np.linalg.norm(places - position, axis=1).argmin())
        _refer_frame(group, slice_frames(stack)[number], preserved=stack.shear is None)


def _refer_frame(group: Dataset, frame: Frame | None, *, preserved: bool) -> None:
    """Fill the Derivation Image Sequence (0008,9124) of one frame (PS3.3 C.7.6.16.2.6)."""
    from pydicom import Dataset

    if frame is None:
        group.DerivationImageSequence = []
        return
    source = image_reference(frame)
    source.SpatialLocationsPreserved = "YES" if preserved else "NO"
    source.PurposeOfReferenceCodeSequence = [_coded(_PURPOSE)]
    derivation = Dataset()
    derivation.DerivationCodeSequence = [_coded(_DERIVATION)]
    derivation.SourceImageSequence = [source]
    group.DerivationImageSequence = [derivation]


def _coded(code: Code) -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item

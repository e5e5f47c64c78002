"""What a label object says it belongs to: patient, study, frame of reference, source images.

DICOM Segmentations and RT Structure Sets name the images they were drawn on by UID (PS3.3 C.12.2,
C.7.6.16.2.6, C.8.8.5); this finds those names wherever they are kept. Nothing here knows stacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from dicomdata.errors import DicomDataError, LabelError
from dicomdata.header import read_header
from dicomdata.header.parsing import quietly
from dicomdata.header.records import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom import Dataset

SEGMENTATIONS = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
"""Segmentation Storage and Label Map Segmentation Storage."""

STRUCTURE_SETS = frozenset({"1.2.840.10008.5.1.4.1.1.481.3"})
"""RT Structure Set Storage."""

_WHOLE: tuple[tuple[str, ...], ...] = (
    ("ReferencedSeriesSequence",),
    ("ReferencedSeriesSequence", "ReferencedInstanceSequence"),
    ("StudiesContainingOtherReferencedInstancesSequence", "ReferencedSeriesSequence"),
    (
        "StudiesContainingOtherReferencedInstancesSequence",
        "ReferencedSeriesSequence",
        "ReferencedInstanceSequence",
    ),
    ("SourceImageSequence",),
    (
        "ReferencedFrameOfReferenceSequence",
        "RTReferencedStudySequence",
        "RTReferencedSeriesSequence",
    ),
    (
        "ReferencedFrameOfReferenceSequence",
        "RTReferencedStudySequence",
        "RTReferencedSeriesSequence",
        "ContourImageSequence",
    ),
)
"""Where all images are named: Common Instance Reference (PS3.3 C.12.2), General Reference (C.12.4),
Structure Set (C.8.8.5)."""

_PARTS: tuple[tuple[str, ...], ...] = (
    ("SharedFunctionalGroupsSequence", "DerivationImageSequence", "SourceImageSequence"),
    ("PerFrameFunctionalGroupsSequence", "DerivationImageSequence", "SourceImageSequence"),
    ("ROIContourSequence", "ContourSequence", "ContourImageSequence"),
)
"""Where each frame or contour names its own: Derivation Image (PS3.3 C.7.6.16.2.6), ROI Contour
(C.8.8.6)."""


class Source(NamedTuple):
    """A frame of an image that a label was drawn on."""

    sop_instance_uid: str
    """Referenced SOP Instance UID (0008,1155)."""

    frame: int | None
    """From 0; None where all of its frames are meant: Referenced Frame Number (0008,1160) is
    absent."""


@dataclass(frozen=True, slots=True)
class References:
    """What one label object says of itself and of the images it belongs to."""

    path: str
    """The file."""

    sop_class_uid: str
    """SOP Class UID (0008,0016)."""

    patient_id: str
    """Patient ID (0010,0020)."""

    study_instance_uid: str
    """Study Instance UID (0020,000D)."""

    frame_of_reference_uids: tuple[str, ...]
    """Frame of Reference UIDs (0020,0052) that it is drawn in; empty where it names none."""

    series_instance_uids: frozenset[str]
    """Series Instance UIDs (0020,000E) of the images it refers to."""

    sources: frozenset[Source]
    """The images it was drawn on: those its frames or contours name, else all that it names."""


@contextmanager
def parsing(path: str) -> Iterator[None]:
    """Turn whatever pydicom raises on damaged elements into a `LabelError` that names the file."""
    with quietly():
        try:
            yield
        except DicomDataError:
            raise
        # pydicom decodes values as they are looked at, and raises many kinds on damaged ones.
        except Exception as error:
            raise LabelError(f"{path}: the label cannot be read: {error!r}") from error


def open_label(path: str, classes: frozenset[str], what: str) -> Dataset:
    """Read a label object whole.

    Raises:
        FileError: if the file cannot be read.
        HeaderError: if it is not DICOM, or damaged.
        LabelError: if it is of none of the storage `classes`.
    """
    header = read_header(path, whole=True)
    with parsing(path):
        _name_syntax(header)
        found = text_of(header, "SOPClassUID")
    if found not in classes:
        raise LabelError(f"{path}: SOP Class UID (0008,0016) is {found!r}, not that of {what}")
    return header


def _name_syntax(header: Dataset) -> None:
    """Name the Transfer Syntax of what was read, where a file does not, or was inflated."""
    if text_of(header.file_meta, "TransferSyntaxUID"):
        return
    from pydicom.uid import UID

    implicit, little = header.original_encoding
    by_order = EXPLICIT_VR_LITTLE_ENDIAN if little else EXPLICIT_VR_BIG_ENDIAN
    header.file_meta.TransferSyntaxUID = UID(IMPLICIT_VR_LITTLE_ENDIAN if implicit else by_order)


def text_of(item: Dataset, keyword: str) -> str:
    """Give an element as text; "" where it is absent or empty."""
    value = item.get(keyword)
    # A name may hold a backslash, which pydicom takes for the end of a value.
    parts = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
    return "\\".join("" if part is None else str(part) for part in parts).strip(" \0")


def items_of(item: Dataset, keyword: str) -> list[Dataset]:
    """Give the items of a sequence; none where it is absent or empty."""
    return list(item.get(keyword) or ())


def find_references(path: str, header: Dataset) -> References:
    """Gather what a label object refers to.

    Raises:
        LabelError: if its references cannot be read.
    """
    with parsing(path):
        whole, parts = (
            list(chain.from_iterable(_follow([header], place) for place in places))
            for places in (_WHOLE, _PARTS)
        )
        series = {text_of(item, "SeriesInstanceUID") for item in whole}
        sources = _sources(parts) or _sources(whole)
        frames = {text_of(header, "FrameOfReferenceUID")}
        for item in items_of(header, "ReferencedFrameOfReferenceSequence"):
            frames.add(text_of(item, "FrameOfReferenceUID"))
        for item in items_of(header, "StructureSetROISequence"):
            frames.add(text_of(item, "ReferencedFrameOfReferenceUID"))
        return References(
            path,
            text_of(header, "SOPClassUID"),
            text_of(header, "PatientID"),
            text_of(header, "StudyInstanceUID"),
            tuple(sorted(frames - {""})),
            frozenset(series - {""}),
            sources,
        )


def _sources(items: list[Dataset]) -> frozenset[Source]:
    named = (item for item in items if "ReferencedSOPInstanceUID" in item)
    return frozenset(source for item in named for source in sources_of(item))


def sources_of(item: Dataset) -> list[Source]:
    """Give what one item of a sequence of references refers to."""
    uid = text_of(item, "ReferencedSOPInstanceUID")
    numbers = item.get("ReferencedFrameNumber")
    if numbers is None or numbers == "":
        return [Source(uid, None)]
    # pydicom gives one number as itself, and several as a list of its own.
    several = [numbers] if isinstance(numbers, int | str) else numbers
    return [Source(uid, int(number) - 1) for number in several]


def _follow(items: list[Dataset], keywords: tuple[str, ...]) -> list[Dataset]:
    for keyword in keywords:
        items = [below for item in items for below in items_of(item, keyword)]
    return items

"""What a label takes over from the images it was made from: patient, study, and references."""

from __future__ import annotations

import os
import uuid
from collections import defaultdict
from collections.abc import MutableSequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dicomdata.errors import DicomDataError, FileError, LabelError
from dicomdata.export.masks import check_text
from dicomdata.header.parsing import quietly

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydicom import Dataset

    from dicomdata.header import Frame
    from dicomdata.stack import Stack

IMPLEMENTATION = "dicomdata"
"""Manufacturer (0008,0070) and model of what is written: this package, not the scanner."""

_LATER = 100
"""A label's Series Number is this many times that of its images, so that it is listed after."""

_HIGHEST = 2**31 - 1
"""Of a Series Number (PS3.5 6.2, VR IS)."""

_MUST_BE_THERE = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
)
"""Elements of type 2 of Patient and General Study: they may be empty, but not absent."""

_TAKEN_OVER = (
    *_MUST_BE_THERE,
    "StudyInstanceUID",
    "StudyDescription",
    "IssuerOfPatientID",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
)
"""Patient and General Study Modules (PS3.3 C.7.1.1, C.7.2.1): who it is, what must be said of an
animal, and that names were removed. Nothing else of a patient: no address, no age, no comment."""

_WITH_A_FORM = {"AS", "CS", "DA", "TM", "UI"}
"""VRs whose values have a form. One that has not says nothing, and is left empty."""

_SEXES = {"M", "F", "O"}

_MULTI_FRAME = ("Enhanced", "Multi-frame", "Nuclear Medicine")
"""Words in the names of storage classes whose instances may hold many frames (PS3.6 table A-1)."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a user says of a label."""

    description: str
    """Series Description (0008,103E)."""

    algorithm: str | None
    """Model or method; None where it was drawn by hand."""

    def __post_init__(self) -> None:
        check_text("the description", self.description)
        if self.algorithm is not None:
            check_text("the algorithm's name", self.algorithm)
            if not self.algorithm.strip():
                raise LabelError("the algorithm's name is empty: None is for what people drew")


def begin_label(header: Dataset, stack: Stack, what: tuple[str, str], said: Said) -> Dataset:
    """Make what all labels have: patient, study, a series of its own, equipment, SOP Common.

    Every call gives new UIDs: what is written twice are two objects.

    Args:
        header: of an image of the stack.
        stack: what was labelled.
        what: SOP Class UID and Modality of the label.
        said: what else is known of it.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    from dicomdata import __version__

    now = datetime.now(tz=UTC).astimezone()
    made = _patient_and_study(header, stack)
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.Modality = what
    made.SOPInstanceUID = generate_uid()
    made.InstanceCreationDate = now.strftime("%Y%m%d")
    made.InstanceCreationTime = now.strftime("%H%M%S")
    made.SeriesInstanceUID = generate_uid()
    made.SeriesNumber = _series_number(stack)
    made.SeriesDescription = said.description
    made.InstanceNumber = 1
    made.Manufacturer = made.ManufacturerModelName = IMPLEMENTATION
    made.DeviceSerialNumber = "0"
    made.SoftwareVersions = __version__
    made.FrameOfReferenceUID = _frame_of_reference(stack)
    made.PositionReferenceIndicator = ""
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def _patient_and_study(header: Dataset, stack: Stack) -> Dataset:
    """Copy what says whose images these are, and of which study, from the header of one of them."""
    from pydicom import Dataset
    from pydicom.uid import generate_uid

    copied = Dataset()
    for keyword in _TAKEN_OVER:
        value = _well_formed(header, keyword)
        if value is not None or keyword in _MUST_BE_THERE:
            setattr(copied, keyword, value)
    # Of a stack whose slices come from several studies, the first is as good as any.
    study = stack.study_instance_uid or str(copied.get("StudyInstanceUID", ""))
    copied.StudyInstanceUID = study or generate_uid(
        entropy_srcs=[IMPLEMENTATION, "study", stack.id]
    )
    return copied


def _well_formed(header: Dataset, keyword: str) -> Any:
    """Give an element's value, whatever VR it is written with; None where it says nothing."""
    from pydicom.config import RAISE
    from pydicom.datadict import dictionary_VR
    from pydicom.valuerep import validate_value

    try:
        value = header.get(keyword)
        vr = dictionary_VR(keyword)
        if vr == "SQ":
            return value or None
        text = _as_text(value)
        if vr in _WITH_A_FORM:
            validate_value(vr, text, RAISE)
        if keyword == "PatientSex" and text not in _SEXES:
            return None
    # pydicom decodes values as they are looked at, and raises many kinds on damaged ones.
    except Exception:  # noqa: BLE001
        return None
    return text or None


def _as_text(value: Any) -> str:
    """Give a value as text: an unknown VR gives bytes, and a wrong one numbers."""
    if isinstance(value, bytes):
        return value.decode().strip(" \0")
    several = value if isinstance(value, MutableSequence) else [value]
    return "\\".join("" if each is None else str(each).strip(" \0") for each in several)


def _series_number(stack: Stack) -> int:
    number = stack.frames[0].kind.series_number or 0
    return _LATER * number if 0 < number <= _HIGHEST // _LATER else _LATER


def _frame_of_reference(stack: Stack) -> str:
    """Give the frame of reference a label of a stack is drawn in.

    Where its images name none, or each its own, the label gets that of the first, or one made
    from its series: a label must have one (PS3.3 A.51.3, C.7.4.1).
    """
    from pydicom.uid import generate_uid

    named = stack.frame_of_reference_uid
    return named or str(generate_uid(entropy_srcs=[IMPLEMENTATION, stack.id]))


def make_item(**elements: Any) -> Dataset:
    """Make an item of a sequence from keywords and values."""
    from pydicom import Dataset

    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def image_reference(frame: Frame, *, with_frame: bool = True) -> Dataset:
    """Refer to an image; of a multi-frame one, to the frame, unless the whole is meant.

    PS3.3 Tables 10-3 and 10-11.
    """
    item = make_item(
        ReferencedSOPClassUID=frame.kind.sop_class_uid,
        ReferencedSOPInstanceUID=frame.sop_instance_uid,
    )
    if with_frame and _is_multi_frame(frame):
        item.ReferencedFrameNumber = frame.number + 1
    return item


def studies_of(stack: Stack) -> dict[str, list[Frame]]:
    """Give the first frame of each instance of a stack, by the study it is of."""
    studies: dict[str, dict[str, Frame]] = defaultdict(dict)
    for frame in stack.frames:
        studies[frame.kind.study_instance_uid].setdefault(frame.sop_instance_uid, frame)
    return {study: list(first.values()) for study, first in studies.items()}


def _is_multi_frame(frame: Frame) -> bool:
    """Tell whether a reference must say which frame of its instance is meant."""
    from pydicom.uid import UID

    name = UID(frame.kind.sop_class_uid).name
    return frame.number > 0 or any(word in name for word in _MULTI_FRAME)


def slice_frames(stack: Stack) -> list[Frame | None]:
    """Give the frame that each slice was measured as; None of a slice that was made up."""
    frames: list[Frame | None] = [None] * stack.shape[0]
    for frame, number in zip(stack.frames, stack.slice_numbers, strict=True):
        if number is not None:
            frames[number] = frame
    return frames


def format_numbers(values: Iterable[float]) -> list[str]:
    """Give numbers as decimal strings of at most 16 characters (PS3.5 6.2, VR DS)."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(value)) for value in values]


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn whatever writing raises into an error that names the file.

    Raises:
        FileError: if the disk refuses.
        LabelError: if pydicom does.
    """
    with quietly():
        try:
            yield
        except DicomDataError:
            raise
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error
        # What pydicom makes of an odd header, it says in many kinds.
        except Exception as error:
            raise LabelError(f"{path}: cannot be written: {error}") from error


def replace_whole(path: str, made: Dataset) -> None:
    """Write an object beside its place, then put it there: a file is whole, or not there."""
    # Two may write the same file at once.
    partial = f"{path}.{uuid.uuid4().hex[:8]}.partial"
    try:
        made.save_as(partial, enforce_file_format=True)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.remove(partial)
        raise


def new_path(path: str | os.PathLike[str], stack: Stack) -> str:
    """Give the absolute path of a new file that refers to the images of a stack.

    Raises:
        LabelError: if it would replace one of them, or one has no UID to refer to.
    """
    absolute = os.path.abspath(os.path.expanduser(path))
    nameless = [each for each in stack.frames if not each.sop_instance_uid]
    if nameless:
        raise LabelError(
            f"{absolute}: {nameless[0].path} has no SOP Instance UID (0008,0018) to refer to; "
            f"write_volume writes masks that refer to nothing"
        )
    refuse_sources(absolute, stack)
    return absolute


def refuse_sources(path: str, stack: Stack) -> None:
    """Keep the images of a stack from being replaced.

    Raises:
        LabelError: if the path is one of theirs, by whatever name.
    """
    real = os.path.realpath(path)
    if any(real == os.path.realpath(source) for source in stack.paths):
        raise LabelError(f"{path}: an image of stack {stack.id} is not to be replaced")

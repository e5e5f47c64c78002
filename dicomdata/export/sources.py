"""What a new object takes over from the images it was made from: patient, study, and references."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dicomdata.errors import LabelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydicom import Dataset

    from dicomdata.header import Frame
    from dicomdata.stack import Stack

IMPLEMENTATION = "dicomdata"
"""Manufacturer (0008,0070) and model of what is written: this package, not the scanner."""

LATER = 100
"""A label's Series Number is this many times that of its images, so that it is listed after."""

_PATIENT_GROUP = 0x0010

_STUDY = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyDescription",
    "StudyInstanceUID",
    "StudyID",
)
"""General Study Module (PS3.3 C.7.2.1), as far as the images of a study share it."""

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
"""Elements of type 2: they may be empty, but not absent."""

_MULTI_FRAME = ("Enhanced", "Multi-frame", "Nuclear Medicine")
"""Words in the names of storage classes whose instances may hold many frames (PS3.6 table A-1)."""


def patient_and_study(header: Dataset, stack: Stack) -> Dataset:
    """Copy what says whose images these are, and of which study, from the header of one of them."""
    from pydicom import Dataset

    copied = Dataset()
    for element in header:
        if element.tag.group == _PATIENT_GROUP or element.keyword in _STUDY:
            copied[element.tag] = element
    for keyword in _MUST_BE_THERE:
        if keyword not in copied:
            setattr(copied, keyword, "")
    # Of a stack whose slices come from several studies, the first is as good as any.
    copied.StudyInstanceUID = stack.study_instance_uid or copied.get("StudyInstanceUID")
    return copied


def frame_of_reference(stack: Stack) -> str:
    """Give the frame of reference a label of a stack is drawn in.

    Where its images name none, or each its own, the label gets that of the first, or one made
    from its series: a label must have one (PS3.3 A.51.3, C.7.4.1).
    """
    from pydicom.uid import generate_uid

    named = stack.frame_of_reference_uid
    return named or str(generate_uid(entropy_srcs=[IMPLEMENTATION, stack.id]))


def image_reference(frame: Frame, *, with_frame: bool = True) -> Dataset:
    """Refer to an image; of a multi-frame one, to the frame, unless the whole is meant.

    PS3.3 Tables 10-3 and 10-11.
    """
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID = frame.kind.sop_class_uid
    item.ReferencedSOPInstanceUID = frame.sop_instance_uid
    if with_frame and is_multi_frame(frame):
        item.ReferencedFrameNumber = frame.number + 1
    return item


def once_an_instance(frames: Iterable[Frame]) -> list[Frame]:
    """Give the first frame of each instance."""
    first: dict[str, Frame] = {}
    for frame in frames:
        first.setdefault(frame.sop_instance_uid, frame)
    return list(first.values())


def is_multi_frame(frame: Frame) -> bool:
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


def replace_whole(path: str, made: Dataset) -> None:
    """Write an object beside its place, then put it there: a file is whole, or not there."""
    partial = f"{path}.partial"
    made.save_as(partial, enforce_file_format=True)
    os.replace(partial, path)


def new_path(path: str | os.PathLike[str], stack: Stack) -> str:
    """Give the absolute path of a new file that refers to the images of a stack.

    Raises:
        LabelError: if it would replace one of them, or one has no UID to refer to.
    """
    absolute = os.path.abspath(path)
    nameless = [each for each in stack.frames if not each.sop_instance_uid]
    if nameless:
        raise LabelError(
            f"{absolute}: {nameless[0].path} has no SOP Instance UID (0008,0018) to refer to; "
            f"write_volume writes masks that refer to nothing"
        )
    if any(os.path.realpath(absolute) == os.path.realpath(source) for source in stack.paths):
        raise LabelError(f"{absolute}: an image of stack {stack.id} is not to be replaced")
    return absolute

"""One file's header -> an `Instance` and its `Frame`s.

`read_instance` opens a file once and reads no pixels. `records` says what is kept, `elements`
finds the bytes, by `templates` of the files before where it can, `decode` gives them meaning, and
`parsing` is the door to pydicom.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dicomdata.errors import DicomDataError, FileError, HeaderError
from dicomdata.header.decode import decode_instance
from dicomdata.header.elements import read_elements
from dicomdata.header.fragments import join_fragments
from dicomdata.header.kept import kept_tags
from dicomdata.header.parsing import inflated_pixels, parse
from dicomdata.header.records import Frame, Instance, Kind
from dicomdata.header.values import TAGS, element_name, missing_element

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydicom import Dataset

__all__ = [
    "Frame",
    "Instance",
    "Kind",
    "element_name",
    "inflated_pixels",
    "join_fragments",
    "kept_tags",
    "missing_element",
    "read_header",
    "read_instance",
    "stored_bytes",
]

_ALWAYS = frozenset(TAGS.values())


def read_instance(
    path: str | os.PathLike[str], *, keep: Mapping[str, int] | None = None
) -> Instance:
    """Read the header of one DICOM file that holds frames; no pixels.

    Args:
        path: any file, whatever its name.
        keep: keyword -> tag of more elements to keep as text, from `kept_tags`.

    Raises:
        FileError: if it is not a regular file that can be read.
        NotDicomError: if it is not DICOM.
        OtherObjectError: if it is DICOM and holds no frames of a volume.
        HeaderError: if it is damaged, or an element that volumes need is malformed; the
            error names file and element.
    """
    absolute = os.path.abspath(path)
    wanted = _ALWAYS.union(keep.values()) if keep else _ALWAYS
    try:
        return decode_instance(read_elements(absolute, wanted), keep or {})
    except DicomDataError:
        raise
    except Exception as error:  # a header nobody foresaw breaks itself, never the scan
        raise HeaderError(f"{absolute}: the header makes no sense: {error!r}") from error


def read_header(path: str | os.PathLike[str], *, whole: bool = False) -> Dataset:
    """Read a file's elements as pydicom gives them, file meta included.

    Args:
        path: a DICOM file, whatever its name.
        whole: read the pixels and what follows them too, not only what comes before.

    Raises:
        FileError: if the file cannot be read.
        HeaderError: if it is not DICOM, or damaged.
    """
    absolute = os.path.abspath(path)
    # The checks of a bounded, regular, DICOM-like file come first.
    read_elements(absolute, frozenset())
    with open(absolute, "rb") as file:
        return parse(absolute, file, whole=whole).dataset


def stored_bytes(frame: Frame) -> bytes:
    """Read a frame's pixels as they are written, undecoded: to tell whether two are the same.

    Raises:
        FileError: if the file cannot be read.
        HeaderError: if it is deflated, and damaged.
    """
    try:
        with open(frame.path, "rb") as file:
            if frame.offset < 0:
                begin = frame.number * frame.kind.frame_bytes
                return inflated_pixels(frame.path, file)[begin : begin + frame.kind.frame_bytes]
            file.seek(frame.offset)
            return file.read(frame.length)
    except OSError as error:
        raise FileError(f"{frame.path}: cannot be read: {error.strerror}") from error

"""One file's header -> an `Instance` and its `Frame`s.

`read_instance` opens a file once and reads no pixels. `records` says what is kept, `elements`
finds the bytes, `decode` gives them meaning, `parsing` is the door to pydicom.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dicomdata.errors import ConfigError, DicomDataError, FileError, HeaderError
from dicomdata.header.decode import decode_instance
from dicomdata.header.elements import read_elements
from dicomdata.header.fragments import join_fragments
from dicomdata.header.parsing import inflated_pixels, parse
from dicomdata.header.records import Frame, Instance, Kind
from dicomdata.header.values import TAGS, element_name, missing_element

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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

_NEVER_KEPT = frozenset(
    {
        "AccessionNumber",
        "PatientBirthDate",
        "PatientBirthTime",
        "PatientAddress",
        "PatientTelephoneNumbers",
        "PatientTelecomInformation",
        "OtherPatientIDs",
        "PatientInsurancePlanCodeSequence",
        "MilitaryRank",
        "EthnicGroup",
        "PatientReligiousPreference",
        "InstitutionAddress",
    }
)
"""Keywords that identify a person, whatever their type (PS3.15 table E.1-1 has the long list)."""

_NEVER_KEPT_VRS = frozenset({"PN", "LT", "ST", "UT", "SQ", "OB", "OW", "UN"})
"""Names of people, free text, and what is no text at all."""


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
    more = dict(keep or {})
    absolute = os.path.abspath(path)
    try:
        elements = read_elements(absolute, _ALWAYS | frozenset(more.values()))
        kept = {
            keyword: _as_text(elements.values[tag], big_endian=elements.big_endian, keyword=keyword)
            for keyword, tag in more.items()
            if tag in elements.values
        }
        return decode_instance(elements, kept)
    except DicomDataError:
        raise
    except Exception as error:  # a header nobody foresaw breaks itself, never the scan
        raise HeaderError(f"{absolute}: the header makes no sense: {error!r}") from error


def kept_tags(keywords: Sequence[str]) -> dict[str, int]:
    """Look up the tags of the DICOM keywords a catalog should keep (PS3.6).

    Raises:
        ConfigError: if a keyword is unknown, identifies a person, or is free text or binary.
    """
    if not keywords:
        return {}
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tags = {}
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise ConfigError(f"keep: {keyword!r} is no DICOM keyword (as in 'ConvolutionKernel')")
        if keyword in _NEVER_KEPT or not _NEVER_KEPT_VRS.isdisjoint(
            dictionary_VR(tag).split(" or ")
        ):
            raise ConfigError(
                f"keep: {keyword} is never stored: it may identify a person, or is no short text"
            )
        tags[keyword] = int(tag)
    return tags


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


def _as_text(raw: bytes, *, big_endian: bool, keyword: str) -> str:
    """Give a kept value as text: numbers written in binary become decimal."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag = tag_for_keyword(keyword)
    representation = dictionary_VR(tag) if tag is not None else ""
    codes = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FD": "d", "FL": "f"}
    code = codes.get(representation.split(" or ")[0])
    if code is None:
        return raw.decode("utf-8", "replace").strip(" \0")
    import struct

    size = struct.calcsize("<" + code)
    order = ">" if big_endian else "<"
    numbers = struct.unpack(f"{order}{len(raw) // size}{code}", raw[: len(raw) // size * size])
    return "\\".join(f"{number:g}" if code in "df" else str(number) for number in numbers)

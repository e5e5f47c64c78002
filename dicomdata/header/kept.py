"""Keywords that a user asks to keep: which may be, and their values as text."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from dicomdata.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dicomdata.header.elements import Elements

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


def kept_values(elements: Elements, keep: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
    """Give the values of the keywords to keep that a file has, by keyword."""
    return tuple(
        (keyword, _as_text(elements.values[tag], big_endian=elements.big_endian, keyword=keyword))
        for keyword, tag in sorted(keep.items())
        if tag in elements.values
    )


def _as_text(raw: bytes, *, big_endian: bool, keyword: str) -> str:
    """Give a kept value as text: numbers written in binary become decimal."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag = tag_for_keyword(keyword)
    representation = dictionary_VR(tag) if tag is not None else ""
    codes = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FD": "d", "FL": "f"}
    code = codes.get(representation.split(" or ")[0])
    if code is None:
        return raw.decode("utf-8", "replace").strip(" \0")
    size = struct.calcsize("<" + code)
    order = ">" if big_endian else "<"
    numbers = struct.unpack(f"{order}{len(raw) // size}{code}", raw[: len(raw) // size * size])
    return "\\".join(f"{number:g}" if code in "df" else str(number) for number in numbers)

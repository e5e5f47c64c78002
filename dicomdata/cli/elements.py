"""Elements of a header, found by keyword or tag, printed as pydicom prints them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

import dicomdata as dd

if TYPE_CHECKING:
    from collections.abc import Iterable

Element: TypeAlias = Any
"""A `pydicom.Element`, or a line of text in place of one that cannot be decoded."""

_TAG = re.compile(r"\(?(?:0x)?([0-9a-f]{4}),?\s*(?:0x)?([0-9a-f]{4})\)?", re.IGNORECASE)
"""Group and element as people write them: 0008,0070, (0008,0070), 0x00080070, 00080070."""


def all_elements(found: Any) -> list[Element]:
    """Give every element, File Meta Information first; a line of text for one that is damaged."""
    elements: list[Element] = []
    for part in (getattr(found, "file_meta", {}), found):
        for tag in sorted(part.keys()):
            try:
                elements.append(part[tag])
            except Exception as error:  # noqa: BLE001 - values are parsed here, from any file
                elements.append(f"{tag} cannot be decoded: {error}")
    return elements


def find_element(found: Any, elements: Iterable[Element], name: str, file: str) -> Element:
    """Find an element by keyword or by tag.

    Raises:
        HeaderError: if the file has none.
    """
    digits = _TAG.fullmatch(name.strip())
    tag = int("".join(digits.groups()), 16) if digits else None
    known = [element for element in elements if not isinstance(element, str)]
    for element in known:
        if name.casefold() == element.keyword.casefold() or element.tag == tag:
            return element
    if tag is None:
        import difflib

        near = difflib.get_close_matches(name, [element.keyword for element in known], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
    else:
        hint = ": it cannot be decoded" if tag in found else ""
    raise dd.HeaderError(f"{file}: there is no element {name!r}{hint}")


def element_lines(elements: Iterable[Element]) -> Iterable[str]:
    """Print elements as pydicom does, one by one, so that a damaged one spoils no other."""
    for element in elements:
        if isinstance(element, str):
            yield element
            continue
        try:
            yield from _alone(element).splitlines()
        except Exception as error:  # noqa: BLE001 - as above, in a sequence's depths
            yield f"{element.tag} cannot be printed: {error}"


def _alone(element: Element) -> str:
    """Give an element as pydicom prints it: a sequence with all its items."""
    if element.VR != "SQ":
        return str(element)
    lines = [f"{element.tag}  {element.name}  {len(element.value)} item(s) ---- "]
    for item in element.value:
        lines += ["   " + line for line in str(item).splitlines()]
        lines.append("   ---------")
    return "\n".join(lines)


def json_model(elements: Iterable[Element]) -> dict[str, Any]:
    """Give the DICOM JSON model (PS3.18 F.2); what cannot be written so is left out."""
    model = {}
    for element in elements:
        try:
            if not isinstance(element, str):
                model[f"{int(element.tag):08X}"] = element.to_json_dict(None, 0)
        except Exception:  # noqa: BLE001, S112 - as above
            continue
    return model

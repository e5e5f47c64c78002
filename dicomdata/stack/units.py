"""In which units the values of a stack will be, and what its headers say against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicomdata.errors import GeometryError, RescaleError
from dicomdata.rescale import LOWEST_TISSUE_HU
from dicomdata.stack.policy import Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from dicomdata.header import Frame, Kind

STORED = "stored"
"""Unit of values that no header says how to rescale."""

_UNSPECIFIED = "US"
"""Rescale Type of values in no particular unit (PS3.3 C.11.1.1.2)."""

_GREY = frozenset({"MONOCHROME1", "MONOCHROME2", ""})
_WIDTHS = frozenset({8, 16, 32})


def check_pixels(frame: Frame) -> None:
    """Refuse, by name, frames whose pixels are no samples of one quantity.

    Raises:
        GeometryError: naming the file and the element.
    """
    kind = frame.kind
    wrong = ""
    if kind.samples_per_pixel != 1 or kind.photometric_interpretation not in _GREY:
        wrong = (
            f"colour: Samples per Pixel (0028,0002) is {kind.samples_per_pixel}, "
            f"Photometric Interpretation (0028,0004) is {kind.photometric_interpretation}"
        )
    elif kind.bits_allocated not in _WIDTHS:
        wrong = f"Bits Allocated (0028,0100) is {kind.bits_allocated}, expected 8, 16 or 32"
    elif not 0 < kind.bits_stored <= kind.high_bit + 1 <= kind.bits_allocated:
        wrong = (
            f"Bits Allocated {kind.bits_allocated}, Bits Stored {kind.bits_stored} and High Bit "
            f"{kind.high_bit} contradict each other"
        )
    elif kind.rows < 1 or kind.columns < 1:
        wrong = f"Rows x Columns is {kind.rows} x {kind.columns}"
    elif "MOSAIC" in kind.image_type.split("\\"):
        wrong = "a mosaic of tiles, which is not unfolded"
    if wrong:
        raise GeometryError(f"not_a_volume: {frame.path}: {wrong}")


def find_unit(frames: Sequence[Frame], pet_unit: str = "BQML") -> str:
    """Name the output units of a stack: "HU", "BQML", a Rescale Type, or "stored".

    "HU" only where the header supports it: CT, rescaled, Rescale Type HU or none.

    Raises:
        RescaleError: if the frames contradict each other, or need a Modality LUT Sequence.
    """
    kinds = _distinct(frames)
    if any(kind.modality_lut for kind in kinds):
        raise RescaleError(
            f"{frames[0].path}: ModalityLUTSequence (0028,3000) stands in for the rescale, "
            f"and is not applied"
        )
    without = [frame for frame in frames if frame.kind.rescale is None]
    if len(without) == len(frames):
        return STORED
    if without:
        raise RescaleError(
            f"{without[0].path}: RescaleSlope (0028,1053) or RescaleIntercept (0028,1052) is "
            f"missing, and {len(frames) - len(without)} other frames of the stack have both"
        )
    units = sorted({_unit_of(kind) for kind in kinds})
    if len(units) > 1:
        raise RescaleError(f"one stack in several units: {', '.join(units)}")
    return units[0]


def value_findings(frames: Sequence[Frame], unit: str) -> list[Finding]:
    """Say what is remarkable of a stack's values."""
    kinds = _distinct(frames)
    findings = []
    if unit == STORED and any(kind.modality == "CT" for kind in kinds):
        text = "CT without Rescale Slope and Intercept: values are as stored, not HU"
        findings.append(Finding("rescale_missing", text))
    if any(kind.lossy for kind in kinds):
        findings.append(Finding("lossy", "pixels went through lossy compression"))
    if any(kind.photometric_interpretation == "MONOCHROME1" for kind in kinds):
        text = "MONOCHROME1: meant to be shown inverted; values are left as they are"
        findings.append(Finding("monochrome1", text))
    padded = sorted({kind.padding.value for kind in kinds if kind.padding is not None})
    if padded:
        text = f"Pixel Padding Value {', '.join(map(str, padded))}"
        findings.append(Finding("padding_present", text))
    colliding = [kind for kind in kinds if padding_collides(kind, unit)]
    if colliding:
        text = "the Pixel Padding Value is also a value of tissue: such voxels are left as stored"
        findings.append(Finding("padding_collides", text))
    return findings


def padding_collides(kind: Kind, unit: str) -> bool:
    """Whether the padding of a frame cannot be told from what was measured.

    In HU, padding above `LOWEST_TISSUE_HU` could be lung, fat or water. In other units a padding
    of 0 is also the value of no signal, inside the head as outside.
    """
    if kind.padding is None:
        return False
    if unit == "HU" and kind.rescale is not None:
        return kind.padding.value * kind.rescale.slope + kind.rescale.intercept > LOWEST_TISSUE_HU
    low, high = kind.padding.ends
    return low <= 0 <= high


def _unit_of(kind: Kind) -> str:
    if kind.modality == "CT":
        return kind.rescale_type or "HU"
    if kind.modality == "PT" and kind.units:
        return kind.units
    # Hounsfield units are CT's; a header that claims them for another modality is not believed.
    return _UNSPECIFIED if kind.rescale_type in ("", "HU") else kind.rescale_type


def _distinct(frames: Sequence[Frame]) -> Collection[Kind]:
    # By identity first: a thousand frames share one object, and hashing it is not free.
    return set({id(frame.kind): frame.kind for frame in frames}.values())

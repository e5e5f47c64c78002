"""In which units the values of a stack will be, and what its headers say against it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dicomdata.errors import GeometryError, RescaleError
from dicomdata.rescale import LOWEST_TISSUE_HU, LookupTable, Rescale
from dicomdata.stack.policy import Finding
from dicomdata.uptake import SUV_UNITS, suv_factor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from dicomdata.header import Frame, Kind

STORED = "stored"
"""Unit of values that no header says how to rescale."""

_UNSPECIFIED = "US"
"""Rescale Type of values in no particular unit (PS3.3 C.11.1.1.2)."""

_PROJECTIONS = frozenset({"1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.2"})
"""X-ray angiography and radiofluoroscopy: their Modality LUT leads back to the intensity of the
beam, and is no part of what the pixels are (PS3.3 C.8.7.1.1.2)."""

_SAME_FACTOR = 1e-3
"""Relative difference of SUV factors that are one: Decay Factor is written with few digits."""

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
    """Name the output units of a stack: "HU", "BQML", "SUVbw", a Rescale Type, or "stored".

    "HU" only where the header supports it: CT, rescaled, Rescale Type HU or none.

    Args:
        frames: of the stack.
        pet_unit: what PET comes out in: "BQML" is whatever its Units (0054,1001) say.

    Raises:
        RescaleError: if the frames contradict each other or themselves, or the header cannot
            support `pet_unit`; names the file and the element.
    """
    kinds = _distinct(frames)
    _check_rescale(frames)
    rescaled = any(output_line(kind) is not None for kind in kinds)
    units = sorted({_unit_of(kind) for kind in kinds}) if rescaled else [STORED]
    if len(units) > 1:
        raise RescaleError(f"one stack in several units: {', '.join(units)}")
    is_pet = any(kind.modality == "PT" for kind in kinds)
    if pet_unit not in SUV_UNITS or not is_pet or units[0] == pet_unit:
        return units[0]
    _check_uptake(frames, pet_unit)
    return pet_unit


def output_line(kind: Kind, unit: str = "") -> Rescale | LookupTable | None:
    """Give what turns the stored values of a frame into its outputs; None where nothing does.

    Args:
        kind: what the frame's header says.
        unit: of the stack; one of `SUV_UNITS` multiplies the outputs of a PET.

    Raises:
        RescaleError: if the header cannot support the unit.
    """
    if kind.sop_class_uid in _PROJECTIONS:
        return None
    if kind.modality_lut is not None:
        return kind.modality_lut
    if kind.rescale is None or not _takes_factor(kind, unit):
        return kind.rescale
    return kind.rescale.times(_suv_factor(kind, unit))


def value_findings(frames: Sequence[Frame], unit: str) -> list[Finding]:
    """Say what is remarkable of a stack's values."""
    kinds = _distinct(frames)
    findings = [Finding(name, text) for name, tells, text in _REMARKS if any(map(tells, kinds))]
    if unit == STORED and any(kind.modality == "CT" for kind in kinds):
        text = "CT without Rescale Slope and Intercept: values are as stored, not HU"
        findings.append(Finding("rescale_missing", text))
    if unit in SUV_UNITS and any(kind.uptake and not kind.uptake.corrected for kind in kinds):
        text = "Corrected Image (0028,0051) does not say that attenuation was corrected"
        findings.append(Finding("corrections_missing", text))
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
    line = output_line(kind)
    if unit == "HU" and line is not None:
        return line.at(kind.padding.value) > LOWEST_TISSUE_HU
    low, high = kind.padding.ends
    return low <= 0 <= high


def _check_rescale(frames: Sequence[Frame]) -> None:
    """Refuse frames of which some say how to rescale and others do not, or that say it twice."""
    for frame in frames:
        kind = frame.kind
        twice = kind.modality_lut is not None and kind.rescale not in (None, Rescale())
        if twice and output_line(kind) is not None:
            raise RescaleError(
                f"{frame.path}: Modality LUT Sequence (0028,3000) and Rescale Slope (0028,1053) "
                f"and Intercept (0028,1052) contradict each other: only one may be there"
            )
    without = [frame for frame in frames if output_line(frame.kind) is None]
    if without and len(without) < len(frames):
        raise RescaleError(
            f"{without[0].path}: RescaleSlope (0028,1053) or RescaleIntercept (0028,1052) is "
            f"missing, and {len(frames) - len(without)} other frames of the stack have both"
        )


def _check_uptake(frames: Sequence[Frame], unit: str) -> None:
    """Refuse frames that cannot be given in a unit of uptake, or were corrected to other times."""
    first = frames[0]
    factors: dict[int, float] = {}
    for frame in frames:
        kind = frame.kind
        if id(kind) in factors:
            continue
        try:
            factors[id(kind)] = factor = _suv_factor(kind, unit)
        except RescaleError as error:
            raise RescaleError(f"{frame.path}: no {unit}: {error}") from error
        one_moment = kind.uptake is None or kind.uptake.decay_correction != "NONE"
        if one_moment and not math.isclose(factor, factors[id(first.kind)], rel_tol=_SAME_FACTOR):
            raise RescaleError(
                f"{frame.path}: no {unit}: its decay is corrected to another moment, or its dose "
                f"is another, than of {first.path}: the factors are {factor:g} and "
                f"{factors[id(first.kind)]:g}"
            )


def _takes_factor(kind: Kind, unit: str) -> bool:
    return unit in SUV_UNITS and kind.modality == "PT" and _unit_of(kind) != unit


def _suv_factor(kind: Kind, unit: str) -> float:
    if kind.rescale is None or output_line(kind) is not kind.rescale:
        raise RescaleError("Rescale Slope (0028,1053) or Intercept (0028,1052) is missing")
    if kind.uptake is None or not kind.units:
        raise RescaleError("Units (0054,1001) is missing")
    return suv_factor(kind.uptake, units=kind.units, wanted=unit)


def _unit_of(kind: Kind) -> str:
    if kind.modality_lut is not None and not kind.rescale_type:
        return _UNSPECIFIED
    if kind.modality == "CT":
        return kind.rescale_type or "HU"
    if kind.modality == "PT" and kind.units:
        return kind.units
    # Hounsfield units are CT's; a header that claims them for another modality is not believed.
    return _UNSPECIFIED if kind.rescale_type in ("", "HU") else kind.rescale_type


def _distinct(frames: Sequence[Frame]) -> Collection[Kind]:
    # By identity first: a thousand frames share one object, and hashing it is not free.
    return set({id(frame.kind): frame.kind for frame in frames}.values())


_REMARKS: tuple[tuple[str, Callable[[Kind], bool], str], ...] = (
    ("lossy", lambda kind: kind.lossy, "pixels went through lossy compression"),
    (
        "monochrome1",
        lambda kind: kind.photometric_interpretation == "MONOCHROME1",
        "MONOCHROME1: meant to be shown inverted; values are left as they are",
    ),
    (
        "modality_lut_bits",
        lambda kind: kind.modality_lut is not None and kind.modality_lut.bits not in (8, 16),
        "LUT Descriptor (0028,3002) says neither 8 nor 16 bits an entry: taken as 16",
    ),
    (
        "modality_lut_ignored",
        lambda kind: (
            kind.sop_class_uid in _PROJECTIONS
            and not (kind.modality_lut is None and kind.rescale in (None, Rescale()))
        ),
        "the Modality LUT of X-ray projections is not applied: values are as stored",
    ),
    (
        "pixel_spacing",
        lambda kind: kind.spacing_values > 2,
        "Pixel Spacing (0028,0030) has more than two values: the first two count",
    ),
    (
        "detector_spacing",
        lambda kind: kind.detector_spacing,
        "Imager Pixel Spacing (0018,1164) stands in for Pixel Spacing (0028,0030), missing",
    ),
)
"""Finding, whether the frames of a kind have it, and what is said of it."""

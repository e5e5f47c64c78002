"""Standardised uptake values (SUV) of PET: the factor that outputs are multiplied with.

SUV = activity concentration x size of the patient / injected dose, the dose decayed to the moment
that the pixels are corrected to (PS3.3 C.8.9.1; the vendor-neutral calculation of the QIBA). Size
is the mass of the body, or its lean mass, or its surface area:

* SUVbw, g/ml: Patient's Weight;
* SUVlbm, g/ml: lean body mass by James, as DICOM's SUV Type LBM has it:
  1.10 W - 120 (W/H)^2 kg for men, 1.07 W - 148 (W/H)^2 for women, W in kg, H in cm;
* SUVbsa, cm2/ml: body surface area by DuBois: 0.007184 W^0.425 H^0.725 m2.

Nothing is guessed: no half-life, no weight, no unit of the dose. Pure arithmetic: nothing here
opens a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicomdata.errors import RescaleError

if TYPE_CHECKING:
    from collections.abc import Callable

SUV_UNITS = ("SUVbw", "SUVlbm", "SUVbsa")
"""The units that outputs can be given in."""

_CONCENTRATION = "BQML"

_OF_SUV_TYPE = {
    "": "SUVbw",
    "BW": "SUVbw",
    "LBM": "SUVlbm",
    "LBMJAMES128": "SUVlbm(James128)",
    "LBMJANMA": "SUVlbm(Janma)",
    "BSA": "SUVbsa",
}
"""SUV Type (0054,1006) -> which size it is by; absent is body weight (PS3.3 C.8.9.1)."""

_LEAST_DOSE = 2e4
"""Bq per kg below which a dose is in another unit: the weakest that gives a picture is ten times as
much, while 700 MBq written as kBq are 1e4 a kg, and written as MBq 10."""

_LARGEST_WEIGHT = 700.0
"""kg; a weight beyond it is written in grams."""

_LARGEST_HEIGHT = 3.0
"""m; a height beyond it is written in centimetres."""


@dataclass(frozen=True, slots=True)
class Uptake:
    """What a PET header says of dose, patient and corrections; None and "" where it says nothing.

    No date and no time of day: only how long after the injection the pixels hold.
    """

    suv_type: str = ""
    """SUV Type (0054,1006)."""

    corrected: tuple[str, ...] = ()
    """Corrected Image (0028,0051): "ATTN", "DECY" and others."""

    decay_correction: str = ""
    """Decay Correction (0054,1102): "START", "ADMIN" or "NONE"."""

    elapsed: float | None = None
    """From injection to the moment the pixels are corrected to, or hold at, s; None if unknown."""

    elapsed_problem: str = ""
    """Why that is unknown: the element and what is wrong with it."""

    half_life: float | None = None
    """Radionuclide Half Life (0018,1075), s."""

    dose: float | None = None
    """Radionuclide Total Dose (0018,1074), Bq."""

    injections: int = 0
    """Items of the Radiopharmaceutical Information Sequence (0054,0016)."""

    weight: float | None = None
    """Patient's Weight (0010,1030), kg."""

    height: float | None = None
    """Patient's Size (0010,1020), m."""

    sex: str = ""
    """Patient's Sex (0010,0040)."""

    philips_suv: float | None = None
    """Philips' factor from outputs to SUVbw, (7053,1000)."""

    philips_activity: float | None = None
    """Philips' factor from outputs to Bq/ml, (7053,1009)."""


def suv_factor(uptake: Uptake, *, units: str, wanted: str) -> float:
    """Give the factor from outputs in `units` to standardised uptake values.

    Args:
        uptake: what the header says.
        units: Units (0054,1001): what outputs are in.
        wanted: one of `SUV_UNITS`.

    Raises:
        RescaleError: naming the element that is missing, or contradicts another.
    """
    given, factor = _given(uptake, units)
    _check_corrections(uptake)
    if given == wanted:
        return factor
    if given != _CONCENTRATION:
        return factor * _SIZES[wanted](uptake) / _SIZES[given](uptake)
    return factor * _SIZES[wanted](uptake) / _dose_left(uptake)


def lean_body_mass(weight: float, height: float, sex: str, *, male: float = 120.0) -> float:
    """Give the lean body mass by James, kg.

    Args:
        weight: kg.
        height: m.
        sex: "M" or "F".
        male: multiplier for men; 128 in James's own text, 120 in the LBM of most scanners.
    """
    slope, square = (1.10, male) if sex == "M" else (1.07, 148.0)
    return slope * weight - square * (weight / (100 * height)) ** 2


def body_surface_area(weight: float, height: float) -> float:
    """Give the body surface area by DuBois, m2, of a weight in kg and a height in m."""
    area: float = 0.007184 * weight**0.425 * (100 * height) ** 0.725
    return area


def _given(uptake: Uptake, units: str) -> tuple[str, float]:
    """Say what outputs are once multiplied with a factor: Bq/ml or an SUV; and the factor."""
    if units == _CONCENTRATION:
        return _CONCENTRATION, 1.0
    if units == "GML" and uptake.suv_type in _OF_SUV_TYPE:
        return _OF_SUV_TYPE[uptake.suv_type], 1.0
    if units == "GML":
        raise RescaleError(f"SUV Type (0054,1006) is {uptake.suv_type!r}, which is not known")
    if units == "CM2ML":
        return "SUVbsa", 1.0
    if units != "CNTS":
        raise RescaleError(
            f"Units (0054,1001) must be BQML, GML, CM2ML or Philips' CNTS, got {units!r}"
        )
    if uptake.philips_suv is not None and uptake.philips_suv > 0:
        return "SUVbw", uptake.philips_suv
    if uptake.philips_activity is not None and uptake.philips_activity > 0:
        return _CONCENTRATION, uptake.philips_activity
    raise RescaleError(
        "Units (0054,1001) is CNTS, and Philips' factors (7053,1000) and (7053,1009) are missing"
    )


def _check_corrections(uptake: Uptake) -> None:
    """Refuse pixels that say they are not corrected for what SUV takes for granted.

    An element that says nothing is reported by whoever asks for SUV; it contradicts nothing.
    """
    if not uptake.corrected:
        return
    needed = ("ATTN",) if uptake.decay_correction == "NONE" else ("ATTN", "DECY")
    missing = [each for each in needed if each not in uptake.corrected]
    if missing:
        raise RescaleError(
            f"Corrected Image (0028,0051) must have {' and '.join(needed)}, "
            f"got {chr(92).join(uptake.corrected)!r}"
        )
    if uptake.decay_correction == "NONE" and "DECY" in uptake.corrected:
        raise RescaleError(
            "Decay Correction (0054,1102) is NONE, and Corrected Image (0028,0051) has DECY"
        )


def _dose_left(uptake: Uptake) -> float:
    """Give the injected dose as it is at the moment that the pixels hold, Bq."""
    if uptake.injections != 1:
        raise RescaleError(
            f"Radiopharmaceutical Information Sequence (0054,0016) must have one item, "
            f"got {uptake.injections}"
        )
    dose = _positive(uptake.dose, "Radionuclide Total Dose (0018,1074)", "Bq")
    if dose < _LEAST_DOSE * _weight(uptake):
        raise RescaleError(
            f"Radionuclide Total Dose (0018,1074) must be in Bq, got {dose:g} for "
            f"{_weight(uptake):g} kg"
        )
    if uptake.decay_correction == "ADMIN":
        return dose
    if uptake.decay_correction not in ("START", "NONE"):
        raise RescaleError(
            f"Decay Correction (0054,1102) must be START, ADMIN or NONE, "
            f"got {uptake.decay_correction!r}"
        )
    half_life = _positive(uptake.half_life, "Radionuclide Half Life (0018,1075)", "s")
    if uptake.elapsed is None:
        raise RescaleError(uptake.elapsed_problem or "the time since the injection is unknown")
    left: float = dose * 2 ** (-uptake.elapsed / half_life)
    return left


def _weight(uptake: Uptake) -> float:
    weight = _positive(uptake.weight, "Patient's Weight (0010,1030)", "kg")
    if weight > _LARGEST_WEIGHT:
        raise RescaleError(f"Patient's Weight (0010,1030) must be in kg, got {weight:g}")
    return weight


def _height(uptake: Uptake) -> float:
    height = _positive(uptake.height, "Patient's Size (0010,1020)", "m")
    if height > _LARGEST_HEIGHT:
        raise RescaleError(f"Patient's Size (0010,1020) must be in m, got {height:g}")
    return height


def _sex(uptake: Uptake) -> str:
    if uptake.sex not in ("M", "F"):
        raise RescaleError(
            f"Patient's Sex (0010,0040) must be M or F for a lean body mass, got {uptake.sex!r}"
        )
    return uptake.sex


def _james(uptake: Uptake, male: float) -> float:
    """Give the lean body mass by James, g."""
    weight, height = _weight(uptake), _height(uptake)
    lean = lean_body_mass(weight, height, _sex(uptake), male=male)
    if not 0 < lean < weight:
        # A parabola: beyond its top more weight means less of it.
        raise RescaleError(
            f"a lean body mass of {lean:.3g} kg makes no sense: Patient's Weight (0010,1030) is "
            f"{weight:g} kg, Patient's Size (0010,1020) {height:g} m"
        )
    return 1000 * lean


def _janmahasatian(uptake: Uptake) -> float:
    """Give the lean body mass by Janmahasatian, g."""
    weight = _weight(uptake)
    index = weight / _height(uptake) ** 2
    base, slope = (6680, 216) if _sex(uptake) == "M" else (8780, 244)
    return 1000 * 9270 * weight / (base + slope * index)


def _positive(value: float | None, name: str, unit: str) -> float:
    if value is None:
        raise RescaleError(f"{name} is missing, or no number")
    if not 0 < value < math.inf:
        raise RescaleError(f"{name} must be positive ({unit}), got {value:g}")
    return value


_SIZES: dict[str, Callable[[Uptake], float]] = {
    "SUVbw": lambda uptake: 1000 * _weight(uptake),
    "SUVlbm": lambda uptake: _james(uptake, 120.0),
    "SUVlbm(James128)": lambda uptake: _james(uptake, 128.0),
    "SUVlbm(Janma)": _janmahasatian,
    "SUVbsa": lambda uptake: 1e4 * body_surface_area(_weight(uptake), _height(uptake)),
}
"""Unit -> the size of the patient it is by: g, or cm2."""

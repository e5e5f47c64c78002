"""What a PET header says of dose and patient, and how long after the injection its pixels hold.

PS3.3 C.8.9.1.1.5: pixels are corrected to one moment of the series (START), to the injection
(ADMIN), or to none (NONE). Times of day are written without a date in older files, so that the
injection may have been on the day before; a day that cannot be told is told as a problem, and the
problem is raised only if an uptake is asked for.
"""

from __future__ import annotations

import math
import re
from datetime import date
from typing import TYPE_CHECKING, NamedTuple

from dicomdata.header.nested import RADIOPHARMACEUTICALS
from dicomdata.header.values import element_name
from dicomdata.uptake import Uptake

if TYPE_CHECKING:
    from dicomdata.header.values import Values

_DAY = 86400.0

_PHILIPS = "Philips PET Private Group"
_GE = "GEMS_PETD_01"
"""Who the private elements (7053,10xx) and (0009,10xx) must belong to."""

_HALF_LIVES = 7
"""Half-lives after which nobody takes a picture: less than a hundredth of the dose is left."""

_LONGEST_SCAN = 7200.0
"""Seconds that a frame may begin after the moment that decay is corrected to."""

_SAME_DECAY = 0.05
"""Half-lives by which Series Time and Decay Factor may disagree: 3.5 % of an uptake."""

_BEFORE_INJECTION = 600.0
"""Seconds that a dynamic scan may be under way before the injection."""

_SAME_MOMENT = 1.0
"""Seconds that times written with and without fractions may differ by."""

_SAME_CLOCK = 60.0
"""Seconds that one injection written twice may differ by: some writers drop the seconds."""

_TIME = re.compile(r"(\d\d):?(\d\d)?:?(\d\d(?:\.\d*)?)?")
_DATE = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)")
_DATE_TIME = re.compile(r"(\d{8})(\d\d[\d.]*)(?:[+-]\d{4})?")


class _Moment(NamedTuple):
    """A time of day, and its date where that is known."""

    day: int | None
    seconds: float

    def since(self, earlier: _Moment) -> float:
        """Give the seconds since an earlier moment; to the nearest day where dates are unknown."""
        between = self.seconds - earlier.seconds
        if self.day is not None and earlier.day is not None:
            return between + (self.day - earlier.day) * _DAY
        return between - round(between / _DAY) * _DAY

    def later(self, seconds: float) -> _Moment:
        """Give the moment so many seconds later, or earlier."""
        days, rest = divmod(self.seconds + seconds, _DAY)
        return _Moment(None if self.day is None else self.day + int(days), rest)


class _UnknownError(Exception):
    """Why the time since the injection cannot be told."""


def decode_uptake(values: Values) -> Uptake:
    """Turn the elements of a PET header into an `Uptake`; what is malformed is as if absent."""
    items = values.items(RADIOPHARMACEUTICALS)
    drug = values.of(items[0]) if items else values
    dose = drug.number("RadionuclideTotalDose") if items else None
    half_life = drug.number("RadionuclideHalfLife") if items else None
    correction = values.text("DecayCorrection")
    elapsed, problem = None, ""
    try:
        if items and correction in ("START", "NONE"):
            elapsed = _elapsed(values, drug, half_life)
    except _UnknownError as error:
        problem = str(error)
    philips = values.text("PhilipsPrivateCreator") == _PHILIPS
    return Uptake(
        suv_type=values.text("SUVType"),
        corrected=tuple(part.strip() for part in values.text("CorrectedImage").split("\\") if part),
        decay_correction=correction,
        elapsed=elapsed,
        elapsed_problem=problem,
        half_life=half_life,
        dose=dose,
        injections=len(items),
        weight=values.number("PatientWeight"),
        height=values.number("PatientSize"),
        sex=values.text("PatientSex"),
        philips_suv=values.number("PhilipsSUVFactor") if philips else None,
        philips_activity=values.number("PhilipsActivityFactor") if philips else None,
    )


def _elapsed(values: Values, drug: Values, half_life: float | None) -> float:
    """Give the seconds from the injection to the moment that the pixels hold."""
    if half_life is None or half_life <= 0:
        raise _UnknownError(f"{element_name('RadionuclideHalfLife')} is missing, or not positive")
    if values.text("DecayCorrection") == "NONE":
        reference = _uncorrected_moment(values, half_life)
    else:
        reference = _corrected_moment(values, half_life)
    injected = _injected(drug)
    # The scan itself tells the day of the injection better than a time that may be made up.
    scanned = _acquired(values) or reference
    elapsed = _one_likely(injected, scanned, half_life) - scanned.since(reference)
    if not -_BEFORE_INJECTION <= elapsed <= _HALF_LIVES * half_life:
        raise _UnknownError(
            f"{element_name('RadiopharmaceuticalStartTime')} and {element_name('SeriesTime')} "
            f"contradict each other: {elapsed:g} s between them, with a half-life of "
            f"{half_life:g} s"
        )
    return elapsed


def _one_likely(injected: _Moment, scanned: _Moment, half_life: float) -> float:
    """Give the seconds from the injection to the scan; its day may have to be found."""
    between = scanned.seconds - injected.seconds
    if injected.day is not None and scanned.day is not None:
        possible = [between + (scanned.day - injected.day) * _DAY]
    else:
        # Without a date the injection may have been on an earlier day.
        possible = [between + days * _DAY for days in (-1, 0, 1, 2)]
    longest = _HALF_LIVES * half_life + _LONGEST_SCAN
    likely = [elapsed for elapsed in possible if -_BEFORE_INJECTION <= elapsed <= longest]
    if len(likely) == 1:
        return likely[0]
    if likely:
        raise _UnknownError(
            f"{element_name('RadiopharmaceuticalStartDateTime')} is missing: with a half-life of "
            f"{half_life:g} s the day of the injection cannot be told"
        )
    raise _UnknownError(
        f"{element_name('RadiopharmaceuticalStartTime')} and the times of the scan contradict "
        f"each other: {possible[len(possible) > 1]:g} s between them, with a half-life of "
        f"{half_life:g} s"
    )


def _injected(drug: Values) -> _Moment:
    """Give when the injection was, with its date where that is written."""
    dated = _moment_of(drug.text("RadiopharmaceuticalStartDateTime"))
    undated = _at(None, drug.text("RadiopharmaceuticalStartTime"))
    injected = dated or undated
    if injected is None:
        raise _UnknownError(
            f"{element_name('RadiopharmaceuticalStartTime')} and "
            f"{element_name('RadiopharmaceuticalStartDateTime')} are missing, or no time"
        )
    if undated is not None and abs(injected.since(undated)) > _SAME_CLOCK:
        # One of them in UTC, or both left over from different injections.
        raise _UnknownError(
            f"{element_name('RadiopharmaceuticalStartTime')} and "
            f"{element_name('RadiopharmaceuticalStartDateTime')} contradict each other: "
            f"{abs(injected.since(undated)):g} s between them"
        )
    return injected


def _corrected_moment(values: Values, half_life: float) -> _Moment:
    """Give the moment that decay is corrected to where Decay Correction is START.

    It is the start of the series, unless Series Time was written by later processing: then it is
    what GE's own element says, what follows from Decay Factor, or the start of the acquisition.
    """
    series = _at(values.text("SeriesDate"), values.text("SeriesTime"))
    acquired = _acquired(values)
    if series is not None and (acquired is None or acquired.since(series) >= -_SAME_MOMENT):
        _check_decay_factor(values, series, half_life)
        return series
    if acquired is None:
        raise _UnknownError(
            f"{element_name('SeriesTime')} and {element_name('AcquisitionTime')} are missing, "
            f"or no time"
        )
    scanned = None
    if values.text("GEPrivateCreator") == _GE:
        scanned = _moment_of(values.text("GEScanDateTime"))
    return scanned or next(iter(_moments_by_factor(values, acquired, half_life)), acquired)


def _moments_by_factor(values: Values, acquired: _Moment, half_life: float) -> list[_Moment]:
    """Give the moment that decay is corrected to by Decay Factor; none where that says nothing.

    The factor makes up for the decay up to the frame, and within it; by some writers, given
    second, only for that up to it.
    """
    factor = values.number("DecayFactor")
    if factor is None or factor <= 0:
        return []
    within = _mean_activity(values, half_life)
    return [acquired.later(-math.log2(factor * w) * half_life) for w in (within, 1.0)]


def _check_decay_factor(values: Values, series: _Moment, half_life: float) -> None:
    """Hold Series Time against Decay Factor, where that is written."""
    acquired = _acquired(values)
    moments = [] if acquired is None else _moments_by_factor(values, acquired, half_life)
    apart = [abs(moment.since(series)) for moment in moments]
    if apart and min(apart) > _SAME_DECAY * half_life:
        raise _UnknownError(
            f"{element_name('SeriesTime')} and {element_name('DecayFactor')} contradict each "
            f"other: the moment that decay is corrected to differs by {min(apart):g} s"
        )


def _uncorrected_moment(values: Values, half_life: float) -> _Moment:
    """Give the moment at which activity was what uncorrected pixels, means over a frame, say."""
    acquired = _acquired(values)
    if acquired is None:
        raise _UnknownError(
            f"Decay Correction (0054,1102) is NONE, and {element_name('AcquisitionTime')} is "
            f"missing, or no time"
        )
    return acquired.later(-math.log2(_mean_activity(values, half_life)) * half_life)


def _mean_activity(values: Values, half_life: float) -> float:
    """Give the mean activity during a frame, as a share of that at its start."""
    duration = values.number("ActualFrameDuration") or 0.0
    decays = math.log(2) * duration / 1000 / half_life
    return -math.expm1(-decays) / decays if decays > 0 else 1.0


def _acquired(values: Values) -> _Moment | None:
    """Give when the acquisition of a frame began."""
    begun = _at(values.text("AcquisitionDate"), values.text("AcquisitionTime"))
    return begun or _moment_of(values.text("AcquisitionDateTime"))


def _moment_of(text: str) -> _Moment | None:
    """Read a DT value by its clock; whatever its offset from UTC, it is that of the scanner."""
    found = _DATE_TIME.fullmatch(text.strip())
    return _at(found[1], found[2]) if found else None


def _at(day: str | None, time: str) -> _Moment | None:
    """Read a DA and a TM value; None where there is no time, no date where there is none."""
    found = _TIME.fullmatch(time.strip())
    if found is None:
        return None
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    if hours > 23 or minutes > 59 or seconds >= 61:
        return None
    return _Moment(_day_number(day), hours * 3600 + minutes * 60 + seconds)


def _day_number(text: str | None) -> int | None:
    found = _DATE.fullmatch((text or "").strip())
    try:
        return date(*map(int, found.groups())).toordinal() if found else None
    except ValueError:
        return None

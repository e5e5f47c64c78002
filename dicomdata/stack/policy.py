"""What may be true of a stack that not everyone wants, and what to do then."""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from dicomdata.errors import ConfigError, GeometryError

if TYPE_CHECKING:
    from collections.abc import Iterable

Choice = Literal["accept", "reject"]
"""What to do about a finding: take the stack as it is, or leave it out."""

Repair = Literal["reject", "repair"]
"""About a finding under which one array would be wrong as it is, and right once repaired."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something true of a Stack that a user may want to know or forbid."""

    kind: str
    """A field of `Policy`: "tilt", "gap"."""

    text: str
    """What was found, in words."""

    amount: float | None = None
    """How much, in `unit`; None where there is no measure."""

    unit: Literal["", "mm", "degrees", "frames"] = ""
    """Of `amount`."""

    where: tuple[int, ...] = ()
    """Slice numbers it concerns; empty where it concerns the whole stack."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"

    def as_error(self) -> GeometryError:
        """Give the error for a stack that is left out because of it."""
        return GeometryError(
            str(self), finding=self.kind, amount=self.amount, unit=self.unit, where=self.where
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """Accept or reject, for each finding; the default is safe for training.

    Raises:
        ConfigError: if a choice is none.
    """

    duplicate: Choice = "accept"
    """The same pixels at the same position more than once: one is used."""

    localizer: Choice = "accept"
    """A few frames of another orientation, size or spacing beside a regular stack: set aside."""

    tilt: Choice | Literal["repair"] = "accept"
    """Slices shift sideways evenly, as under a tilted gantry: the affine keeps the shear, exactly.
    "repair" resamples onto an upright grid, as `untilt` does."""

    uneven: Choice = "accept"
    """Positions are off an even lattice by more than rounding, by up to a tenth of the spacing."""

    single_slice: Choice = "accept"
    """One position only: its step along the normal is nominal."""

    lossy: Choice = "accept"
    """Pixels went through lossy compression."""

    padding_present: Choice = "accept"
    """Some stored values mean "not measured": see `padding`."""

    padding_collides: Choice = "accept"
    """The Pixel Padding Value is also a plausible value of tissue: it is left as it is."""

    monochrome1: Choice = "accept"
    """Meant to be shown inverted; values stay those of the modality."""

    modality_lut_bits: Choice = "accept"
    """The table of a Modality LUT Sequence says neither 8 nor 16 bits an entry: taken as 16."""

    modality_lut_ignored: Choice = "accept"
    """X-ray angiography or fluoroscopy with a Modality LUT or rescale, which leads back to the
    intensity of the beam: not applied, the unit is "stored"."""

    pixel_spacing: Choice = "accept"
    """Pixel Spacing (0028,0030) has more than two values: the first two count."""

    corrections_missing: Choice = "accept"
    """PET asked for as SUV whose Corrected Image (0028,0051) says nothing: attenuation and decay
    are taken as corrected, by Decay Correction (0054,1102)."""

    detector_spacing: Choice = "accept"
    """No Pixel Spacing: Imager Pixel Spacing (0018,1164), that of the detector, is used."""

    pet_unit: Literal["BQML", "SUVbw", "SUVlbm", "SUVbsa"] = "BQML"
    """What PET comes out in: as its Units (0054,1001) say, or as standardised uptake values by body
    weight, lean body mass or body surface area. A series whose header cannot support it is
    rejected."""

    rescale_missing: Choice = "accept"
    """CT without Rescale Slope and Intercept: the unit is "stored", not HU."""

    frame_of_reference_scattered: Choice = "accept"
    """Slices of one regular stack each have a Frame of Reference UID of their own."""

    study_scattered: Choice = "accept"
    """Slices of one regular stack come from several Study Instance UIDs."""

    slice_location: Choice = "accept"
    """Slice Location (0020,1041) disagrees with the positions, which are used."""

    gantry_detector_tilt: Choice = "accept"
    """Gantry/Detector Tilt (0018,1120) disagrees with the positions, which are used."""

    position_missing: Choice = "reject"
    """Frames without Image Position (Patient). "accept" takes the frames of one file in the order
    they are stored, on a grid that is nominal."""

    gap: Repair = "reject"
    """Slices are missing. "repair" puts them in, as `fill` says; `Volume.valid` is False there."""

    variable_spacing: Repair = "reject"
    """Slices lie on no even lattice. "repair" resamples along the normal, linearly, to the finest
    spacing; `Volume.valid` is True where a slice was measured."""

    jump: Choice = "reject"
    """Slices shift sideways unevenly."""

    repeated_position: Choice = "reject"
    """Several frames with different pixels at one position: phases, echoes, overlapping passes."""

    mixed_frame_of_reference: Choice = "reject"
    """A few Frame of Reference UIDs in one stack, which cannot be told apart by splitting."""

    not_a_volume: Choice = "reject"
    """Colour, mosaics, a few odd frames beside no regular stack."""

    fill: Literal["air", "interpolate"] = "air"
    """What a repaired gap holds: air, or what lies between its neighbours, linearly."""

    padding: float | Literal["air", "keep"] = "air"
    """What padded voxels become: air (-1024 HU, or the lowest output the header allows), the
    value they were stored with, or a number, which may be nan. Never 0 by accident."""

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value in (allowed := _choices(name)) or (name == "padding" and number):
                continue
            expected = " or ".join([*map(repr, allowed), *["a number"] * (name == "padding")])
            why = ": there is no right volume to give" if value == "accept" else ""
            raise ConfigError(f"{name}={value!r}: expected {expected}{why}")

    @classmethod
    def strict(cls) -> Policy:
        """Reject all that is unusual, but what leaves grid and values as they would be without it.

        Identical duplicates and localizers are still set aside, and padding is still padding.
        """
        names = set(_findings()) - _HARMLESS
        return cls(**dict.fromkeys(names, "reject"))  # type: ignore[arg-type]

    @classmethod
    def lenient(cls) -> Policy:
        """Accept all that can be accepted, and repair the rest where there is a repair."""
        # The first choice is the mildest: accept, else repair, else reject.
        return cls(**{name: _choices(name)[0] for name in _findings()})  # type: ignore[arg-type]

    def check_names(self, kinds: Iterable[str]) -> None:
        """Refuse names of findings that do not exist.

        Raises:
            ConfigError: naming the nearest that does.
        """
        for kind in kinds:
            if kind not in (known := _findings()):
                nearest = get_close_matches(kind, known, n=1)
                hint = f", did you mean {nearest[0]!r}?" if nearest else ""
                raise ConfigError(f"no finding is called {kind!r}{hint}")

    def check(self, finding: Finding) -> Finding:
        """Give the finding back where it is accepted, or will be repaired.

        Raises:
            GeometryError: where it is not.
        """
        if getattr(self, finding.kind) == "reject":
            raise finding.as_error()
        return finding


_REPAIRS = frozenset({"gap", "variable_spacing", "tilt"})
"""Findings that have a repair."""

_NEVER_ACCEPTED = frozenset(
    {"gap", "variable_spacing", "jump", "repeated_position", "mixed_frame_of_reference",
     "not_a_volume"}
)  # fmt: skip
"""Findings under which one array with one affine would be wrong somewhere."""

_HARMLESS = frozenset({"duplicate", "localizer", "padding_present"})
"""Findings that even a strict policy accepts: the volume is what it would be without them."""

_OPTIONS: dict[str, tuple[object, ...]] = {
    "fill": ("air", "interpolate"),
    "padding": ("air", "keep"),
    "pet_unit": ("BQML", "SUVbw", "SUVlbm", "SUVbsa"),
}
"""Fields of `Policy` that are no findings, and what they may be."""


def _findings() -> list[str]:
    return [field.name for field in fields(Policy) if field.name not in _OPTIONS]


def _choices(name: str) -> tuple[object, ...]:
    """Give what a field may be, the mildest first."""
    if name in _OPTIONS:
        return _OPTIONS[name]
    accept = () if name in _NEVER_ACCEPTED else ("accept",)
    repair = ("repair",) if name in _REPAIRS else ()
    return (*accept, *repair, "reject")

"""What may be true of a stack that not everyone wants, and what to do then."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from dicomdata.errors import ConfigError, GeometryError

Choice = Literal["accept", "reject"]


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

    tilt: Choice = "accept"
    """Slices shift sideways evenly, as under a tilted gantry: the affine keeps the shear."""

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

    gap: Choice = "reject"
    """Slices are missing."""

    variable_spacing: Choice = "reject"
    """Slices lie on no even lattice."""

    jump: Choice = "reject"
    """Slices shift sideways unevenly."""

    repeated_position: Choice = "reject"
    """Several frames with different pixels at one position: phases, echoes, overlapping passes."""

    mixed_frame_of_reference: Choice = "reject"
    """A few Frame of Reference UIDs in one stack, which cannot be told apart by splitting."""

    not_a_volume: Choice = "reject"
    """Colour, mosaics, frames without a place."""

    padding: float | Literal["air", "keep"] = "air"
    """What padded voxels become: air (-1024 HU, or the lowest output the header allows), the
    value they were stored with, or a number, which may be nan. Never 0 by accident."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "padding":
                valid = value in ("air", "keep") or isinstance(value, int | float)
                if not valid or isinstance(value, bool):
                    raise ConfigError(f"padding={value!r}: expected 'air', 'keep' or a number")
            elif field.name == "pet_unit":
                if value not in ("BQML", "SUVbw", "SUVlbm", "SUVbsa"):
                    raise ConfigError(
                        f"pet_unit={value!r}: expected 'BQML', 'SUVbw', 'SUVlbm' or 'SUVbsa'"
                    )
            elif value not in ("accept", "reject"):
                raise ConfigError(f"{field.name}={value!r}: expected 'accept' or 'reject'")
            elif value == "accept" and field.name in _NEVER_ACCEPTED:
                raise ConfigError(
                    f"{field.name}='accept': there is no right volume to give, only 'reject'"
                )

    def check(self, finding: Finding) -> Finding:
        """Give the finding back where it is accepted.

        Raises:
            GeometryError: where it is not.
        """
        if getattr(self, finding.kind) == "reject":
            raise GeometryError(f"{finding.kind}: {finding.text}", finding=finding.kind)
        return finding


_NEVER_ACCEPTED = frozenset(
    {"gap", "variable_spacing", "jump", "repeated_position", "mixed_frame_of_reference",
     "not_a_volume"}
)  # fmt: skip
"""Findings under which one array with one affine would be wrong somewhere."""

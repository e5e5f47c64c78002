"""Standardised uptake values: the factor by hand, and what it is refused for. Arithmetic only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomdata.errors import RescaleError
from dicomdata.uptake import SUV_UNITS, Uptake, body_surface_area, lean_body_mass, suv_factor

FDG = Uptake(
    corrected=("DECY", "ATTN"), decay_correction="START", elapsed=3600.0, half_life=6586.2,
    dose=370e6, injections=1, weight=70.0, height=1.75, sex="M",
)  # fmt: skip


def factor(wanted: str = "SUVbw", units: str = "BQML", **changes: Any) -> float:
    return suv_factor(replace(FDG, **changes), units=units, wanted=wanted)


@pytest.mark.parametrize(
    ("correction", "expected"),
    [("START", 2.7634), ("ADMIN", 1.8919)],
)
def test_10_000_becquerel_per_millilitre_by_hand(correction: str, expected: float) -> None:
    # R22: 70 000 g / 370 MBq, the dose decayed for an hour or not at all.
    assert 10_000 * factor(decay_correction=correction) == pytest.approx(expected, abs=5e-5)


def test_after_a_half_life_uptake_is_twice_as_much() -> None:
    assert factor(elapsed=6586.2) == pytest.approx(2 * factor(elapsed=0.0))


def test_a_dose_spread_evenly_gives_one() -> None:
    # 370 MBq in 70 000 ml of water at the moment of injection.
    concentration = 370e6 / 70_000

    assert concentration * factor(decay_correction="ADMIN") == pytest.approx(1)


@pytest.mark.parametrize(
    ("weight", "height", "sex", "expected"),
    [(70, 1.75, "M", 77 - 19.2), (70, 1.75, "F", 74.9 - 23.68), (50, 2, "M", 55 - 7.5)],
)
def test_lean_body_mass_by_hand(weight: float, height: float, sex: str, expected: float) -> None:
    assert lean_body_mass(weight, height, sex) == pytest.approx(expected)


def test_lean_body_mass_with_the_multiplier_of_james_himself() -> None:
    assert lean_body_mass(70, 1.75, "M", male=128) == pytest.approx(77 - 20.48)
    assert lean_body_mass(70, 1.75, "F", male=128) == lean_body_mass(70, 1.75, "F")


def test_body_surface_area_of_dubois() -> None:
    # His own formula's usual example: 70 kg and 170 cm have 1.81 m2.
    assert body_surface_area(70, 1.70) == pytest.approx(1.810, abs=5e-4)


@pytest.mark.parametrize("wanted", SUV_UNITS)
@pytest.mark.parametrize("given_type", ["BW", "LBM", "BSA", "LBMJAMES128", "LBMJANMA"])
def test_uptake_in_one_unit_becomes_another_by_the_ratio_of_sizes(
    given_type: str, wanted: str
) -> None:
    sizes = {
        "BW": 70_000, "LBM": 57_800, "BSA": 1e4 * body_surface_area(70, 1.75),
        "LBMJAMES128": 56_520, "LBMJANMA": 1000 * 9270 * 70 / (6680 + 216 * 70 / 1.75**2),
        "SUVbw": 70_000, "SUVlbm": 57_800, "SUVbsa": 1e4 * body_surface_area(70, 1.75),
    }  # fmt: skip

    ratio = factor(wanted, "GML", suv_type=given_type)

    assert ratio == pytest.approx(sizes[wanted] / sizes[given_type])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"injections": 2}, "(0054,0016)"),
        ({"weight": None}, "(0010,1030)"),
        ({"weight": float("nan")}, "(0010,1030)"),
        ({"dose": -1.0}, "(0018,1074)"),
        ({"dose": float("inf")}, "(0018,1074)"),
        ({"dose": 370e3}, "must be in Bq"),
        ({"half_life": None}, "(0018,1075)"),
        ({"elapsed": None, "elapsed_problem": "Series Time is missing"}, "Series Time is missing"),
        ({"decay_correction": ""}, "(0054,1102)"),
        ({"corrected": ("ATTN",)}, "(0028,0051)"),
        ({"decay_correction": "NONE"}, "(0054,1102)"),
    ],
)
def test_nothing_is_guessed(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RescaleError) as caught:
        factor(**changes)

    assert words in str(caught.value)


@given(
    st.floats(allow_nan=True), st.floats(allow_nan=True), st.floats(0, 1e6), st.floats(1, 1e6),
    st.sampled_from(SUV_UNITS),
)  # fmt: skip
def test_a_factor_is_positive_or_refused(
    dose: float, weight: float, elapsed: float, half_life: float, wanted: str
) -> None:
    try:
        given_factor = factor(
            wanted, dose=dose, weight=weight, elapsed=min(elapsed, 10 * half_life),
            half_life=half_life,
        )  # fmt: skip
    except RescaleError:
        return

    assert given_factor > 0

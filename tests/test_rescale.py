"""Stored values to output units, and padding (PS3.3 C.11.1, C.7.5.1.1.2): arithmetic only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dicomdata.errors import RescaleError
from dicomdata.rescale import LookupTable, Padding, Rescale, Window, as_signed

SLOPES = st.sampled_from([1.0, 2.0, -1.0, 0.5, 0.1, 7.56104e-09, 1.00000001, 53.0])
INTERCEPTS = st.sampled_from([0.0, -1024.0, -1024.5, 1e6, -0.1])
STORED_TYPES = st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4"])


def outputs(rescale: Rescale, stored: Any, dtype: str = "f4") -> np.ndarray[Any, Any]:
    words = np.asarray(stored)
    out = np.full(words.shape, 77, dtype)
    rescale.into(words, out)
    return out


def words(dtype: str) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    return arrays(np.dtype(dtype), st.integers(1, 8))


# --- float32 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slope", "intercept", "stored", "expected"),
    [
        pytest.param(0.5, 0.0, 9, 4.5, id="R1 half"),
        pytest.param(7.56104e-09, 0.0, 32767, 2.477526e-04, id="R3 tiny slope of a PET"),
        pytest.param(1.0, -1024.5, 100, -924.5, id="R4 fractional intercept"),
        pytest.param(1.0, -1024.0, 65535, 64511, id="R9 beyond int16"),
        pytest.param(1.00000001, -1024.0, 65535, 64511, id="R21 slope of nine digits"),
        pytest.param(-1.0, 0.0, 100, -100, id="falling"),
    ],
)
def test_an_output_is_slope_times_stored_plus_intercept(
    slope: float, intercept: float, stored: int, expected: float
) -> None:
    rescale = Rescale(slope, intercept)

    output = outputs(rescale, np.array([stored], "u2"))

    assert output[0] == pytest.approx(expected, rel=1e-5)
    assert output.dtype == np.float32


@given(data=st.data(), slope=SLOPES, intercept=INTERCEPTS, dtype=STORED_TYPES)
def test_float32_is_the_exact_output_rounded_once(
    data: st.DataObject, slope: float, intercept: float, dtype: str
) -> None:
    stored = data.draw(words(dtype))

    output = outputs(Rescale(slope, intercept), stored)

    exact = np.array([word * slope + intercept for word in stored.tolist()])
    assert output.tobytes() == exact.astype(np.float32).tobytes()


def test_whole_numbers_are_a_line_too() -> None:
    # An int has no `is_integer` before Python 3.12.
    rescale = Rescale(1, -1024)

    assert rescale == Rescale(1.0, -1024.0)
    assert rescale.whole
    assert outputs(rescale, np.array([24], "u2")).tolist() == [-1000]


@pytest.mark.parametrize("numbers", [(math.nan, 0.0), (math.inf, 0.0), (1.0, -math.inf)])
def test_a_line_is_finite(numbers: tuple[float, float]) -> None:
    with pytest.raises(RescaleError, match="finite"):
        Rescale(*numbers)


def test_an_output_beyond_float32_is_told_and_one_below_is_not() -> None:
    rescale = Rescale(1e38, 0.0)

    assert outputs(rescale, np.array([-3, 3], "i2")).tolist() == pytest.approx([-3e38, 3e38])
    with pytest.raises(RescaleError, match=r"-4e\+38 to 3e\+38 do not fit float32"):
        outputs(rescale, np.array([-4, 3], "i2"))


def test_a_slope_that_float32_takes_for_zero_is_told() -> None:
    with pytest.raises(RescaleError, match="too small for float32"):
        outputs(Rescale(1e-50, 0.0), np.array([1], "u2"))


def test_a_line_may_be_scaled() -> None:
    assert Rescale(2.0, -3.0).times(0.5) == Rescale(1.0, -1.5)
    with pytest.raises(RescaleError, match="finite"):
        Rescale(1e300, 0.0).times(1e300)


# --- int16 ----------------------------------------------------------------------------------------


@given(data=st.data(), slope=SLOPES, intercept=INTERCEPTS, dtype=STORED_TYPES)
def test_int16_is_the_exact_output_or_an_error(
    data: st.DataObject, slope: float, intercept: float, dtype: str
) -> None:
    stored = data.draw(words(dtype))
    rescale = Rescale(slope, intercept)
    exact = [word * slope + intercept for word in stored.tolist()]
    fits = all(-(2**15) <= value < 2**15 for value in exact)

    if rescale.whole and fits:
        assert outputs(rescale, stored, "i2").tolist() == exact
    else:
        with pytest.raises(RescaleError, match="int16"):
            outputs(rescale, stored, "i2")


def test_a_signed_ct_of_16_bits_is_not_proven_to_fit_and_yet_fits() -> None:
    rescale = Rescale(1.0, -1024.0)

    proven = rescale.proves_int16(bits_stored=16, signed=True)

    assert not proven
    assert outputs(rescale, np.array([-2000, 0, 1024], "i2"), "i2").tolist() == [-3024, -1024, 0]


@given(
    slope=SLOPES, intercept=INTERCEPTS, bits_stored=st.integers(1, 16), signed=st.booleans(),
)  # fmt: skip
def test_what_is_proven_to_fit_fits(
    slope: float, intercept: float, bits_stored: int, signed: bool
) -> None:
    rescale = Rescale(slope, intercept)
    low = -(2 ** (bits_stored - 1)) if signed else 0
    ends = np.array([low, low + 2**bits_stored - 1], np.int32)

    proven = rescale.proves_int16(bits_stored=bits_stored, signed=signed)

    assert tuple(sorted(ends * slope + intercept)) == rescale.ends(
        bits_stored=bits_stored, signed=signed
    )
    if proven:
        assert outputs(rescale, ends, "i2").tolist() == (ends * slope + intercept).tolist()


def test_an_output_one_too_large_is_told_with_its_value() -> None:
    with pytest.raises(RescaleError, match="from 0 to 32768 do not fit"):
        outputs(Rescale(1.0, 0.0), np.array([0, 32768], "u2"), "i2")


@given(
    data=st.data(), slope=SLOPES, intercept=INTERCEPTS, bits_stored=st.integers(1, 16),
    signed=st.booleans(),
)  # fmt: skip
def test_what_is_known_to_fit_needs_no_look(
    data: st.DataObject, slope: float, intercept: float, bits_stored: int, signed: bool
) -> None:
    rescale = Rescale(slope, intercept)
    low = -(2 ** (bits_stored - 1)) if signed else 0
    ends = st.integers(low, low + 2**bits_stored - 1)
    stored = np.array(data.draw(st.lists(ends, min_size=1)), "i2" if signed else "u2")
    out = np.empty(stored.shape, "i2")

    if rescale.proves_int16(bits_stored=bits_stored, signed=signed):
        rescale.into(stored, out, fits=True)
        assert out.tolist() == (stored * slope + intercept).tolist()


# --- windows --------------------------------------------------------------------------------------


@given(
    outputs=arrays(np.float32, st.integers(0, 6), elements=st.floats(width=32, allow_nan=True)),
    low=st.floats(-3000, 3000),
    width=st.floats(1e-3, 5000),
)
def test_a_window_is_the_share_of_its_width_clipped(
    outputs: np.ndarray[Any, Any], low: float, width: float
) -> None:
    shown = outputs.copy()

    Window(low, low + width).apply(shown)

    exact = np.clip((outputs.astype(np.float64) - low) / width, 0, 1)
    # Rounding of low, of the difference and of the width, as shares of the width.
    off = 4 * 2**-24 * (np.abs(low) + width) / width
    np.testing.assert_allclose(shown, exact, rtol=0, atol=off)


@given(
    data=st.data(),
    slope=st.sampled_from([1.0, 1.0, -1.0, 2.0, 0.37]),
    intercept=st.sampled_from([0.0, -1024.0, -70000.0, 40000.0, -0.5]),
    dtype=st.sampled_from(["u1", "i2", "u2", "i4"]),
    low=st.one_of(st.integers(-80000, 80000), st.sampled_from([-1000.5, 0.1, 2.0**24])),
    width=st.one_of(st.integers(1, 70000), st.sampled_from([0.25, 1e5 + 0.5])),
)
def test_a_window_in_one_step_is_that_in_two(
    data: st.DataObject, slope: float, intercept: float, dtype: str, low: float, width: float
) -> None:
    stored = data.draw(words(dtype))
    before = stored.copy()
    rescale, window = Rescale(slope, intercept), Window(low, low + width)
    shown = np.full(stored.shape, 77, np.float32)

    rescale.into_window(stored, shown, window)

    expected = outputs(rescale, stored)
    window.apply(expected)
    assert shown.tobytes() == expected.tobytes()
    assert stored.tobytes() == before.tobytes()
    assert [window.at(float(each)) for each in outputs(rescale, stored)] == expected.tolist()


# --- tables ---------------------------------------------------------------------------------------


def table(first: int, *entries: int, signed: bool = False) -> LookupTable:
    return LookupTable(first, np.array(entries, "<i2" if signed else "<u2").tobytes(), signed)


@pytest.mark.parametrize("dtype", ["f4", "i2"])
@given(data=st.data(), first=st.integers(-70000, 70000))
def test_a_table_gives_the_entry_of_each_value_and_its_ends_beyond(
    dtype: str, data: st.DataObject, first: int
) -> None:
    entries = data.draw(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=9))
    stored = data.draw(STORED_TYPES.flatmap(words))
    lut = table(first, *entries, signed=True)
    out = np.empty(stored.shape, dtype)

    lut.into(stored, out)

    last = len(entries) - 1
    expected = [entries[min(max(word - first, 0), last)] for word in stored.tolist()]
    assert out.tolist() == expected == [lut.at(word) for word in stored.tolist()]
    assert lut.ends(bits_stored=16, signed=True) == (min(entries), max(entries))


def test_a_table_is_proven_to_fit_int16_or_looked_at() -> None:
    assert table(0, 0, 32767).proves_int16(bits_stored=16, signed=False)
    large = table(0, 0, 40000)

    assert not large.proves_int16(bits_stored=16, signed=False)
    assert table_outputs(large, 0).tolist() == [0]
    with pytest.raises(RescaleError, match="40000"):
        table_outputs(large, 1)


def table_outputs(lut: LookupTable, *stored: int) -> np.ndarray[Any, Any]:
    out = np.empty(len(stored), "i2")
    lut.into(np.array(stored, "u2"), out)
    return out


# --- padding --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "bits", "signed", "meaning"),
    [(63536, 16, True, -2000), (63536, 16, False, 63536), (0x0FFF, 12, True, -1),
     (0x07FF, 12, True, 2047), (0x8000, 16, True, -32768), (0, 16, True, 0)],
)  # fmt: skip
def test_a_word_is_read_with_the_signedness_of_the_pixels(
    word: int, bits: int, signed: bool, meaning: int
) -> None:
    assert as_signed(word, bits=bits, signed=signed) == meaning


def test_padding_is_one_stored_value() -> None:
    mask = Padding(-2000, -2000).mask(np.array([-2001, -2000, -1999, 0], "i2"))

    assert mask.tolist() == [False, True, False, False]


@pytest.mark.parametrize("ends", [(-2000, -1500), (-1500, -2000)])
def test_padding_is_a_range_with_both_ends_either_way_around(ends: tuple[int, int]) -> None:
    stored = np.array([-2001, -2000, -1700, -1500, -1499], "i2")

    assert Padding(*ends).mask(stored).tolist() == [False, True, True, True, False]


def test_padding_that_no_pixel_can_hold_masks_nothing() -> None:
    stored = np.array([0, 255], "u1")

    assert not Padding(-2000, -2000).mask(stored).any()
    assert not Padding(300, 400).mask(stored).any()
    assert Padding(-2000, 0).mask(stored).tolist() == [True, False]


@given(data=st.data(), low=st.integers(-70000, 70000), width=st.integers(0, 70000))
def test_a_mask_is_what_its_range_says(data: st.DataObject, low: int, width: int) -> None:
    stored = data.draw(STORED_TYPES.flatmap(words))

    mask = Padding(low + width, low).mask(stored)

    assert mask.tolist() == [low <= word <= low + width for word in stored.tolist()]

"""Stored values to output units: both forms of the Modality LUT, and padding.

PS3.3 C.11.1: output = stored x Rescale Slope (0028,1053)
+ Rescale Intercept (0028,1052), in the units of Rescale Type (0028,1054);
or output = entry of the table in a Modality LUT Sequence (0028,3000).

Pure NumPy: nothing here opens a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import RescaleError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

AIR_HU = -1024.0
"""Output given to padding where the unit is HU: the floor of most CT scales, below air's -1000."""

LOWEST_TISSUE_HU = -900.0
"""Padding Values that mean more than this are also tissue (lung is -900 to -500): not masked."""

_INT16 = np.iinfo(np.int16)

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
_SMALLEST_FLOAT32 = float(np.finfo(np.float32).smallest_normal)
"""Ends of the numbers that float32 holds with all its digits."""

_EXACT_IN_FLOAT32 = 2**24
"""Whole numbers below this are exact in float32, so its arithmetic equals float64's."""


@dataclass(frozen=True, slots=True)
class Rescale:
    """A straight line from stored values to output units."""

    slope: float = 1.0
    """Output units per stored value."""

    intercept: float = 0.0
    """Output units at a stored value of zero; -1024 for most CT."""

    def __post_init__(self) -> None:
        # An int has no `is_integer` before Python 3.12.
        object.__setattr__(self, "slope", float(self.slope))
        object.__setattr__(self, "intercept", float(self.intercept))
        if not (math.isfinite(self.slope) and math.isfinite(self.intercept)):
            raise RescaleError(
                f"slope and intercept must be finite, got {self.slope} and {self.intercept}"
            )

    @property
    def whole(self) -> bool:
        """Whether every whole stored value becomes a whole output."""
        return self.slope.is_integer() and self.intercept.is_integer()

    def ends(self, *, bits_stored: int, signed: bool) -> tuple[float, float]:
        """Give the lowest and highest output of any stored value the header allows.

        Args:
            bits_stored: Bits Stored (0028,0101).
            signed: whether Pixel Representation (0028,0103) is 1.
        """
        low = -(2 ** (bits_stored - 1)) if signed else 0
        high = low + 2**bits_stored - 1
        low_end, high_end = sorted(map(self.at, (low, high)))
        return low_end, high_end

    def at(self, stored: int) -> float:
        """Give the output of one stored value."""
        return stored * self.slope + self.intercept

    def times(self, factor: float) -> Rescale:
        """Give the line whose outputs are `factor` times those of this one.

        Raises:
            RescaleError: if they are beyond all numbers.
        """
        return Rescale(self.slope * factor, self.intercept * factor)

    def proves_int16(self, *, bits_stored: int, signed: bool) -> bool:
        """Whether every stored value the header allows becomes a whole number that int16 holds.

        The proof is over what the header allows, not over the values of one slice, so the slices
        of a series cannot disagree. Where it fails (signed 16 bits and an intercept of -1024), the
        values themselves are checked before int16 is promised.
        """
        low, high = self.ends(bits_stored=bits_stored, signed=signed)
        return self.whole and _INT16.min <= low and high <= _INT16.max

    def into(
        self, stored: NDArray[np.integer[Any]], out: NDArray[Any], *, fits: bool = False
    ) -> None:
        """Write the outputs of `stored` into `out`, of the same shape, float32 or int16.

        Outputs are those of float64 arithmetic, rounded once to float32.

        Args:
            stored: of any shape.
            out: of the same shape.
            fits: whether it is known that every output is whole and fits int16, as
                `proves_int16` says of a header: then the values are not looked at.

        Raises:
            RescaleError: if `out` is int16 and an output is not whole or does not fit; or if
                an output is beyond float32.
        """
        if out.dtype == np.int16:
            if not fits:
                self._check_int16(stored)
            self._into_int16(stored, out)
        elif self._exact_in_float32(stored.dtype):
            self._into_float32(stored, out)
        else:
            self._check_float32(stored)
            products = np.multiply(stored, self.slope, dtype=np.float64)
            np.add(products, self.intercept, out=out, dtype=np.float64, casting="same_kind")

    def _into_float32(self, stored: NDArray[np.integer[Any]], out: NDArray[Any]) -> None:
        # A sum gives what the product does, in one pass where there is nothing to multiply.
        if self.slope != 1:
            stored = np.multiply(stored, np.float32(self.slope), out=out, casting="unsafe")
        np.add(stored, np.float32(self.intercept), out=out, dtype=np.float32, casting="unsafe")

    def into_window(
        self, stored: NDArray[np.integer[Any]], out: NDArray[np.float32], window: Window
    ) -> None:
        """Write the outputs of `stored`, shown in a window, into `out`, of the same shape.

        To the last bit what `into` and then `Window.apply` give; where all is whole, clipped as
        16-bit numbers on the way.

        Raises:
            RescaleError: as `into`.
        """
        low, high = window.low - self.intercept, window.high - self.intercept
        limits = np.iinfo(stored.dtype)
        plain = self.slope == 1 and stored.dtype.itemsize == 2 and high - low < 2**16
        whole = self.whole and window.whole and self._exact_in_float32(stored.dtype)
        if not (plain and whole and low <= limits.max and high >= limits.min):
            self.into(stored, out)
            window.apply(out)
            return
        inside = np.clip(stored, max(int(low), limits.min), min(int(high), limits.max))
        above = inside.view(np.uint16)
        above -= np.uint16(int(low) % 2**16)
        np.divide(above, np.float32(high - low), out=out, dtype=np.float32)

    def _exact_in_float32(self, dtype: np.dtype[Any]) -> bool:
        largest = 2 ** (8 * dtype.itemsize - (dtype.kind == "i"))
        reach = max(largest, largest * abs(self.slope) + abs(self.intercept))
        return self.whole and reach <= _EXACT_IN_FLOAT32

    def _check_float32(self, stored: NDArray[np.integer[Any]]) -> None:
        """Refuse outputs that float32 has no number for.

        The line alone tells nearly always, so that the values are hardly ever looked at.
        """
        limits = np.iinfo(stored.dtype)
        reach = max(abs(self.at(int(limits.min))), abs(self.at(int(limits.max))))
        if 0 < abs(self.slope) < _SMALLEST_FLOAT32:
            raise RescaleError(f"a slope of {self.slope:g} is too small for float32")
        if reach <= _LARGEST_FLOAT32 or stored.size == 0:
            return
        low, high = sorted(self.at(int(end)) for end in (stored.min(), stored.max()))
        if max(-low, high) > _LARGEST_FLOAT32:
            raise RescaleError(
                f"outputs from {low:g} to {high:g} do not fit float32: slope {self.slope:g}, "
                f"intercept {self.intercept:g}"
            )

    def _check_int16(self, stored: NDArray[np.integer[Any]]) -> None:
        if not self.whole:
            raise RescaleError(
                f"int16 needs a whole Rescale Slope and Intercept, "
                f"got {self.slope:g} and {self.intercept:g}: read float32"
            )
        limits = np.iinfo(stored.dtype)
        # Where even the last number of the type fits, the values need not be looked at.
        ends = ((limits.min, stored.min), (limits.max, stored.max))
        if not all(self._fits_int16(limit) or self._fits_int16(find()) for limit, find in ends):
            _check_ends_int16(map(self._exactly_at, (stored.min(), stored.max())))

    def _fits_int16(self, stored: int | np.integer[Any]) -> bool:
        return bool(_INT16.min <= self._exactly_at(stored) <= _INT16.max)

    def _exactly_at(self, stored: int | np.integer[Any]) -> int:
        return int(stored) * int(self.slope) + int(self.intercept)

    def _into_int16(self, stored: NDArray[np.integer[Any]], out: NDArray[Any]) -> None:
        # Every output fits, so arithmetic that wraps around at 16 bits ends where it should.
        if stored.dtype.itemsize == out.itemsize:
            words = stored.view(np.int16)
        else:
            words = out
            np.copyto(words, stored, casting="unsafe")
        if self.slope != 1:
            words = np.multiply(words, _wrapped(self.slope), out=out)
        np.add(words, _wrapped(self.intercept), out=out)


@dataclass(frozen=True, slots=True)
class LookupTable:
    """Outputs entry by entry: the one item of a Modality LUT Sequence (PS3.3 C.11.1.1)."""

    first: int
    """Stored value of the first entry; those below it have its output, too."""

    entries: bytes
    """Outputs of `first` and the stored values above it, little endian, 2 bytes each; stored
    values beyond the last have the last output."""

    signed: bool = False
    """Whether entries are signed: the standard says they are not, some writers say SS."""

    bits: int = 16
    """Bits of an entry, as LUT Descriptor (0028,3002) says; the standard knows 8 and 16."""

    @property
    def outputs(self) -> NDArray[np.integer[Any]]:
        """(entries,): the outputs, read-only."""
        return np.frombuffer(self.entries, "<i2" if self.signed else "<u2")

    def ends(self, *, bits_stored: int, signed: bool) -> tuple[float, float]:  # noqa: ARG002
        """Give the lowest and highest output, as `Rescale.ends` does."""
        return float(self.outputs.min()), float(self.outputs.max())

    def proves_int16(self, *, bits_stored: int, signed: bool) -> bool:
        """Whether every entry is a number that int16 holds."""
        low, high = self.ends(bits_stored=bits_stored, signed=signed)
        return _INT16.min <= low and high <= _INT16.max

    def at(self, stored: int) -> float:
        """Give the output of one stored value."""
        outputs = self.outputs
        return float(outputs[min(max(stored - self.first, 0), len(outputs) - 1)])

    def into(
        self, stored: NDArray[np.integer[Any]], out: NDArray[Any], *, fits: bool = False
    ) -> None:
        """Write the outputs of `stored` into `out`, as `Rescale.into` does.

        Raises:
            RescaleError: if `out` is int16 and an output does not fit.
        """
        indices = np.subtract(stored, self.first, dtype=np.int64)
        outputs = np.take(self.outputs, indices, mode="clip")
        if out.dtype == np.int16 and not fits:
            _check_ends_int16((int(outputs.min()), int(outputs.max())))
        np.copyto(out, outputs, casting="unsafe")


@dataclass(frozen=True, slots=True)
class Window:
    """A range of outputs that becomes 0 to 1; what lies below or above it becomes the end."""

    low: float
    """Output that becomes 0."""

    high: float
    """Output that becomes 1."""

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):  # a number beyond float32 is infinite in it
            low, width = np.float32(self.low), np.float32(self.high - self.low)
        if not (np.isfinite(low) and 0 < width < np.inf):
            raise ValueError(f"a window goes from low to high, got {self.low} and {self.high}")

    @property
    def whole(self) -> bool:
        """Whether both ends are whole numbers that float32 has."""
        return all(
            float(end).is_integer() and abs(end) <= _EXACT_IN_FLOAT32
            for end in (self.low, self.high)
        )

    def at(self, output: float) -> float:
        """Give what one output becomes."""
        shown = np.array([output], np.float32)
        self.apply(shown)
        return float(shown[0])

    def apply(self, outputs: NDArray[np.float32]) -> None:
        """Change outputs in place into (output - low) / (high - low), clipped; nan stays nan.

        In float32, step by step: what MONAI's `ScaleIntensityRange` makes of the same outputs, to
        the last bit.
        """
        with np.errstate(over="ignore"):  # infinity is clipped to what it should be
            outputs -= np.float32(self.low)
            outputs /= np.float32(self.high - self.low)
        np.clip(outputs, 0, 1, out=outputs)


@dataclass(frozen=True, slots=True)
class Padding:
    """Stored values that mean "no measurement here" (PS3.3 C.7.5.1.1.2)."""

    value: int
    """Pixel Padding Value (0028,0120), read with the signedness of the pixels."""

    limit: int
    """Pixel Padding Range Limit (0028,0121), likewise; `value` where there is none."""

    @property
    def ends(self) -> tuple[int, int]:
        """The lowest and the highest stored value that is padding, both included."""
        return min(self.value, self.limit), max(self.value, self.limit)

    def mask(self, stored: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Tell which stored values are padding; the shape of `stored`.

        Compared on stored values: after rescaling, -2000 would be -3024 HU.
        """
        low, high = self.ends
        limits = np.iinfo(stored.dtype)
        if high < limits.min or low > limits.max:
            return np.zeros(stored.shape, np.bool_)
        if low == high:
            return np.asarray(stored == low, np.bool_)
        inside = (stored >= max(low, limits.min)) & (stored <= min(high, limits.max))
        return np.asarray(inside, np.bool_)


def _check_ends_int16(ends: Iterable[int]) -> None:
    low, high = sorted(ends)
    if low < _INT16.min or high > _INT16.max:
        raise RescaleError(
            f"outputs from {low} to {high} do not fit int16 "
            f"({_INT16.min} to {_INT16.max}): read float32"
        )


def _wrapped(number: float) -> np.int16:
    """Give a whole number modulo 2**16, as int16 has it."""
    return np.int16(as_signed(int(number), bits=16, signed=True))


def as_signed(word: int, *, bits: int, signed: bool) -> int:
    """Read a 16-bit word written with either signedness as the pixels are: 63536 is -2000."""
    word &= 2**bits - 1
    return word - 2**bits if signed and word >= 2 ** (bits - 1) else word

"""Stored values to output units: the linear form of the Modality LUT, and padding.

PS3.3 C.11.1: output = stored x Rescale Slope (0028,1053)
+ Rescale Intercept (0028,1052), in the units of Rescale Type (0028,1054).

Pure NumPy: nothing here opens a file. Sequences of Modality LUT items are not
applied here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import RescaleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

AIR_HU = -1024.0
"""Output given to padding where the unit is HU: the floor of most CT scales, below air's -1000."""

LOWEST_TISSUE_HU = -900.0
"""Padding Values that mean more than this are also tissue (lung is -900 to -500): not masked."""

_INT16 = np.iinfo(np.int16)

_EXACT_IN_FLOAT32 = 2**24
"""Whole numbers below this are exact in float32, so its arithmetic equals float64's."""


@dataclass(frozen=True, slots=True)
class Rescale:
    """A straight line from stored values to output units."""

    slope: float = 1.0
    """Output units per stored value."""

    intercept: float = 0.0
    """Output units at a stored value of zero; -1024 for most CT."""

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
        low_end, high_end = sorted(stored * self.slope + self.intercept for stored in (low, high))
        return low_end, high_end

    def proves_int16(self, *, bits_stored: int, signed: bool) -> bool:
        """Whether every stored value the header allows becomes a whole number that int16 holds.

        The proof is over what the header allows, not over the values of one slice, so the slices
        of a series cannot disagree. Where it fails (signed 16 bits and an intercept of -1024), the
        values themselves are checked before int16 is promised.
        """
        low, high = self.ends(bits_stored=bits_stored, signed=signed)
        return self.whole and _INT16.min <= low and high <= _INT16.max

    def into(self, stored: NDArray[np.integer[Any]], out: NDArray[Any]) -> None:
        """Write the outputs of `stored` into `out`, of the same shape, float32 or int16.

        Outputs are those of float64 arithmetic, rounded once to float32.

        Raises:
            RescaleError: if `out` is int16 and an output is not whole or does not fit.
        """
        if out.dtype == np.int16:
            self._into_int16(stored, out)
        elif self._exact_in_float32(stored.dtype):
            np.multiply(stored, np.float32(self.slope), out=out, casting="unsafe")
            out += np.float32(self.intercept)
        else:
            out[...] = stored * np.float64(self.slope) + self.intercept

    def _exact_in_float32(self, dtype: np.dtype[Any]) -> bool:
        limits = np.iinfo(dtype)
        largest = max(abs(int(limits.min)), int(limits.max))
        reach = max(largest, largest * abs(self.slope) + abs(self.intercept))
        return self.whole and reach <= _EXACT_IN_FLOAT32

    def _into_int16(self, stored: NDArray[np.integer[Any]], out: NDArray[Any]) -> None:
        if not self.whole:
            raise RescaleError(
                f"int16 needs a whole Rescale Slope and Intercept, "
                f"got {self.slope:g} and {self.intercept:g}: read float32"
            )
        low, high = sorted(
            int(end) * int(self.slope) + int(self.intercept) for end in (stored.min(), stored.max())
        )
        if low < _INT16.min or high > _INT16.max:
            raise RescaleError(
                f"outputs from {low} to {high} do not fit int16 "
                f"({_INT16.min} to {_INT16.max}): read float32"
            )
        # Every output fits, so arithmetic that wraps around at 16 bits ends where it should.
        np.copyto(out, stored, casting="unsafe")
        if self.slope != 1:
            out *= _wrapped(self.slope)
        out += _wrapped(self.intercept)


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


def _wrapped(number: float) -> np.int16:
    """Give a whole number modulo 2**16, as int16 has it."""
    return np.int16(as_signed(int(number), bits=16, signed=True))


def as_signed(word: int, *, bits: int, signed: bool) -> int:
    """Read a 16-bit word written with either signedness as the pixels are: 63536 is -2000."""
    word &= 2**bits - 1
    return word - 2**bits if signed and word >= 2 ** (bits - 1) else word

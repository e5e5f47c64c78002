"""Stored values of one frame -> output units, by what its header says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import RescaleError
from dicomdata.rescale import AIR_HU, Rescale
from dicomdata.stack.units import output_line, padding_collides

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dicomdata.header import Kind
    from dicomdata.rescale import LookupTable, Window

_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True, slots=True)
class Output:
    """What stored values become."""

    unit: str
    """The output unit of the stack."""

    padding: float | str
    """What padded voxels become, in that unit: "air", "keep" or a number."""

    window: Window | None = None
    """What of it becomes 0 to 1, if that is asked for."""


def write_output(
    stored: NDArray[np.integer[Any]], out: NDArray[Any], kind: Kind, output: Output
) -> None:
    """Write the output units of stored values, and what padding becomes, into `out`.

    Args:
        stored: (rows, columns), of one frame.
        out: of the same shape, float32 or int16; float32 for a window.
        kind: what the frame's header says of its values.
        output: what they become.

    Raises:
        RescaleError: if `out` is int16 and an output is not whole or does not fit, or an output
            is beyond float32.
    """
    line = output_line(kind, output.unit) or Rescale()
    fill = None if kind.padding is None else _fill(kind, output.unit, output.padding)
    if kind.padding is None or fill is None:
        _apply(line, stored, out, kind, output.window)
        return
    if out.dtype == np.int16 and not (fill.is_integer() and _INT16.min <= fill <= _INT16.max):
        raise RescaleError(f"padding {fill} does not fit int16: read float32")
    padded = kind.padding.mask(stored)
    try:
        _apply(line, stored, out, kind, output.window)
    except RescaleError:
        if out.dtype != np.int16:
            raise
        # Padding may be far beyond int16 where no measured value is.
        measured = stored[~padded]
        stored = np.where(padded, measured.min() if measured.size else 0, stored)
        _apply(line, stored, out, kind, output.window)
    if padded.any():
        shown = fill if output.window is None else output.window.at(fill)
        np.copyto(out, shown, where=padded, casting="unsafe")


def _apply(
    line: Rescale | LookupTable,
    stored: NDArray[np.integer[Any]],
    out: NDArray[Any],
    kind: Kind,
    window: Window | None,
) -> None:
    """Write outputs into `out`, whatever padding is."""
    if window is None:
        fits = out.dtype == np.int16 and line.proves_int16(
            bits_stored=kind.bits_stored, signed=kind.signed
        )
        line.into(stored, out, fits=fits)
    elif isinstance(line, Rescale):
        line.into_window(stored, out, window)
    else:
        line.into(stored, out)
        window.apply(out)


def _fill(kind: Kind, unit: str, padding: float | str) -> float | None:
    """Give the output that padded voxels get; None where they stay as they are."""
    if padding == "keep" or (padding == "air" and padding_collides(kind, unit)):
        return None
    return fill_value(kind, unit, padding)


def fill_value(kind: Kind, unit: str, padding: float | str) -> float:
    """Give the output of voxels that no frame covers: as padding, or air where that is kept."""
    if not isinstance(padding, str):
        return float(padding)
    if unit == "HU":
        return AIR_HU
    line = output_line(kind, unit) or Rescale()
    return line.ends(bits_stored=kind.bits_stored, signed=kind.signed)[0]

"""A mask in whatever form it is handed over -> segments one above the other, each with a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import LabelError
from dicomdata.labels import Mask, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dicomdata.stack import Stack

    Segments = Sequence[str | Segment]

_LONGEST = 64
"""Characters of a Segment Label or an ROI Name (PS3.5 6.2, VR LO)."""


def segments_of(
    mask: Mask | NDArray[Any], stack: Stack, segments: Segments | None
) -> tuple[NDArray[Any], tuple[Segment, ...]]:
    """Give the voxels of each segment, and what it is; numbered from 1 in the order given.

    Args:
        mask: a `Mask` of the stack's shape; or an array: bool, 0 and 1, or fractions from 0 to 1,
            (segments, slices, rows, columns), or (slices, rows, columns) of one segment; or whole
            numbers (slices, rows, columns), of which n is the nth segment.
        stack: on whose grid it lies.
        segments: names, or more of each; of a `Mask`, its own by default.

    Returns:
        (segments, slices, rows, columns), bool, or float32 from 0 to 1.

    Raises:
        LabelError: if shapes, numbers or names do not go together.
    """
    if isinstance(mask, Mask):
        _check_grid(mask, stack)
        named = mask.segments if segments is None else segments
        voxels = mask.voxels
    else:
        if segments is None:
            raise LabelError("segments must be named: an array does not say what it shows")
        named, voxels = segments, np.asarray(mask)
    if voxels.ndim == 3:
        voxels = _one_above_the_other(voxels, len(named))
    if voxels.shape != (len(named), *stack.shape):
        raise LabelError(
            f"expected {len(named)} segments of shape {stack.shape}, (slices, rows, columns), got "
            f"an array of shape {voxels.shape}"
        )
    if not len(named):
        raise LabelError("there is no segment to write")
    return _as_shares(voxels), tuple(_numbered(each, i) for i, each in enumerate(named, 1))


def _check_grid(mask: Mask, stack: Stack) -> None:
    """Refuse a mask that lies on another grid than the stack it is to be written for."""
    same = mask.stack.shape == stack.shape and np.allclose(
        mask.stack.affine_lps, stack.affine_lps, rtol=0, atol=1e-6
    )
    if not same:
        raise LabelError(f"the mask lies on stack {mask.stack.id}, not on the grid of {stack.id}")


def _one_above_the_other(voxels: NDArray[Any], count: int) -> NDArray[Any]:
    """Part a map of numbers into its segments; one segment is one map."""
    if voxels.dtype == np.bool_ or np.issubdtype(voxels.dtype, np.floating) or count == 1:
        return voxels[None]
    highest, lowest = int(voxels.max(initial=0)), int(voxels.min(initial=0))
    if lowest < 0 or highest > count:
        raise LabelError(
            f"a map of {count} segments must hold the numbers 0 to {count}, got {lowest} to "
            f"{highest}"
        )
    return np.stack([voxels == number for number in range(1, count + 1)])


def _as_shares(voxels: NDArray[Any]) -> NDArray[Any]:
    """Give bool as it is, 0 and 1 as bool, and floats from 0 to 1 as float32."""
    if voxels.dtype == np.bool_:
        return voxels
    fractional = np.issubdtype(voxels.dtype, np.floating)
    lowest, highest = voxels.min(initial=0), voxels.max(initial=0)
    # Nan is no share either.
    if not (lowest >= 0 and highest <= 1):
        raise LabelError(f"a segment's voxels must be from 0 to 1, got {lowest} to {highest}")
    return voxels.astype(np.float32 if fractional else np.bool_)


def _numbered(segment: str | Segment, number: int) -> Segment:
    named = Segment(number, segment) if isinstance(segment, str) else segment
    if not 0 < len(named.name) <= _LONGEST or "\\" in named.name:
        raise LabelError(
            f"a segment's name must have 1 to {_LONGEST} characters and no backslash, got "
            f"{named.name!r}"
        )
    return Segment(number, named.name, named.category, named.type)

"""A mask in whatever form it is handed over -> segments, each with a name, plane by plane.

A map of a hundred segments would be a hundred times its size, were it laid out one segment above
the other: so a plane of a segment is made when it is asked for, and not kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import LabelError
from dicomdata.labels import Mask, Segment
from dicomdata.labels.records import HALF

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dicomdata.stack import Stack

    Segments = Sequence[str | Segment]

LONGEST = 64
"""Characters of a Segment Label, an ROI Name or a Series Description (PS3.5 6.2, VR LO)."""


@dataclass(frozen=True, eq=False, slots=True)
class Drawing:
    """What is drawn on the grid of a stack."""

    segments: tuple[Segment, ...]
    """What is shown, numbered from 1 in order."""

    voxels: NDArray[Any]
    """(segments, slices, rows, columns), bool, 0 and 1, or from 0 to 1; or a map of whole numbers
    (slices, rows, columns), in which n is the nth segment."""

    @property
    def fractional(self) -> bool:
        """Whether a voxel may be there in part."""
        return self.voxels.dtype.kind == "f"

    @property
    def mapped(self) -> bool:
        """Whether a voxel holds the number of its segment."""
        return self.voxels.ndim == 3

    def plane(self, index: int, number: int) -> NDArray[Any]:
        """Give slice `number` of a segment (rows, columns): bool, or float32 from 0 to 1."""
        if self.mapped:
            plane: NDArray[Any] = self.voxels[number] == index + 1
            return plane
        plane = self.voxels[index, number]
        return plane.astype(np.float32 if self.fractional else np.bool_, copy=False)

    def slices_drawn_on(self) -> NDArray[np.bool_]:
        """Tell which slices have a voxel of which segment, (segments, slices)."""
        if not self.mapped:
            return np.array([[plane.any() for plane in segment] for segment in self.voxels])
        count = len(self.segments)
        held = [np.bincount(plane.ravel(), minlength=count + 1)[1:] > 0 for plane in self.voxels]
        return np.array(held).T

    def labelmap(self, number: int) -> NDArray[np.uint16]:
        """Lay the segments of a slice flat, (rows, columns): 0 where nothing is.

        Raises:
            LabelError: if they overlap.
        """
        if self.mapped:
            numbers: NDArray[np.uint16] = self.voxels[number].astype(np.uint16)
            return numbers
        flat = np.zeros(self.voxels.shape[2:], np.uint16)
        for index, segment in enumerate(self.segments):
            there = self.plane(index, number)
            if flat[there].any():
                raise LabelError(
                    f"segment {segment.name!r} overlaps those before it on slice {number}, and one "
                    f"map can hold only one of them"
                )
            flat[there] = index + 1
        return flat

    def overlaps(self) -> bool:
        """Tell whether a voxel is in more than one segment."""
        if self.mapped or len(self.segments) == 1:
            return False
        for planes in self.voxels.swapaxes(0, 1):
            taken = np.zeros(planes.shape[1:], np.bool_)
            for plane in planes:
                there = plane >= HALF
                if (taken & there).any():
                    return True
                taken |= there
        return False


def segments_of(mask: Mask | NDArray[Any], stack: Stack, segments: Segments | None) -> Drawing:
    """Give what a mask shows; its segments are numbered from 1 in the order given.

    Args:
        mask: a `Mask` of the stack's shape; or an array: bool, 0 and 1, or fractions from 0 to 1,
            (segments, slices, rows, columns), or (slices, rows, columns) of one segment; or whole
            numbers (slices, rows, columns), of which n is the nth segment.
        stack: on whose grid it lies.
        segments: names, or more of each; of a `Mask`, its own by default.

    Raises:
        LabelError: if shapes, numbers or names do not go together.
    """
    if isinstance(mask, Mask):
        _check_grid(mask, stack)
        named = mask.segments if segments is None else segments
        voxels = mask.voxels
    else:
        voxels = _as_array(mask)
        if segments is None:
            raise LabelError("segments must be named: an array does not say what it shows")
        if isinstance(segments, str):
            raise LabelError(f"segments must be a list of names, got the text {segments!r}")
        named = segments
    mapped = voxels.ndim == 3 and voxels.dtype.kind in "iu" and len(named) > 1
    if voxels.ndim == 3 and not mapped:
        voxels = voxels[None]
    if voxels.shape != (stack.shape if mapped else (len(named), *stack.shape)):
        raise LabelError(
            f"expected {len(named)} segments of shape {stack.shape}, (slices, rows, columns), got "
            f"an array of shape {voxels.shape}"
        )
    if not len(named):
        raise LabelError("there is no segment to write")
    _check_values(voxels, len(named), mapped=mapped)
    return Drawing(tuple(_numbered(each, i) for i, each in enumerate(named, 1)), voxels)


def _as_array(mask: Any) -> NDArray[Any]:
    """Take an array as it is, and refuse what has axes of its own, or no numbers.

    A MetaTensor is (channel, x, y, z): a cube of it would be written turned around.
    """
    if hasattr(mask, "affine") or hasattr(mask, "affine_lps"):
        raise LabelError(
            f"a {type(mask).__name__} has a grid of its own: to_mask lays a prediction, and "
            f"read_label_file a file, on the grid of the stack"
        )
    try:
        voxels = np.asarray(mask)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LabelError(f"the mask is no array: {error}") from error
    if voxels.dtype.kind not in "biuf":
        raise LabelError(f"a mask holds numbers, or true and false, got type {voxels.dtype}")
    return voxels


def _check_grid(mask: Mask, stack: Stack) -> None:
    """Refuse a mask that lies on another grid than the stack it is to be written for."""
    own = mask.stack
    same = own.shape == stack.shape and np.allclose(
        own.affine_lps, stack.affine_lps, rtol=0, atol=1e-6
    )
    for ours, theirs in (
        (own.patient_id, stack.patient_id),
        (own.frame_of_reference_uid, stack.frame_of_reference_uid),
    ):
        # Of two patients, or scans, the grids are often the same.
        same = same and (ours == theirs or not ours or not theirs)
    if not same:
        raise LabelError(f"the mask lies on stack {own.id}, not on the grid of {stack.id}")


def _check_values(voxels: NDArray[Any], count: int, *, mapped: bool) -> None:
    lowest, highest = voxels.min(initial=0), voxels.max(initial=0)
    if mapped and (lowest < 0 or highest > count):
        raise LabelError(
            f"a map of {count} segments must hold the numbers 0 to {count}, got {lowest} to "
            f"{highest}"
        )
    # Nan is no share either.
    if not mapped and not (lowest >= 0 and highest <= 1):
        raise LabelError(f"a segment's voxels must be from 0 to 1, got {lowest} to {highest}")


def _numbered(segment: str | Segment, number: int) -> Segment:
    named = Segment(number, segment) if isinstance(segment, str) else segment
    check_text("a segment's name", named.name)
    if not named.name.strip():
        raise LabelError(
            f"a segment's name must have 1 to {LONGEST} characters, got {named.name!r}"
        )
    return replace(named, number=number)


def check_text(what: str, text: str, longest: int = LONGEST) -> None:
    """Refuse a text that its element cannot hold: longer, or of several values, or of lines."""
    odd = "\\" in text or any(ord(letter) < ord(" ") for letter in text)
    if len(text) > longest or odd:
        raise LabelError(
            f"{what} must have 1 to {longest} characters and no backslash, got {text!r}"
        )

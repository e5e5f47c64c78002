"""Predictions and labels onto one verified grid, by affines alone.

Voxel centres that are those of the stack, all of them and in whatever order, are copied. Others
are refused; or resampled, where that was asked for, and then the verdict says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import LabelError
from dicomdata.labels import LabelFinding, Mask, Segment, Verdict
from dicomdata.labels.placing import count_outside, place
from dicomdata.labels.records import HALF
from dicomdata.labels.resampling import resample as resample_voxels
from dicomdata.splits.grouping import compared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dicomdata.stack import Stack


def place_mask(
    voxels: NDArray[Any],
    affine_lps: NDArray[np.float64],
    stack: Stack,
    segments: Sequence[str | Segment],
    *,
    resample: bool = False,
) -> Mask:
    """Give an array that says where it lies as a `Mask` on the grid of a stack.

    Args:
        voxels: (segments, slices, rows, columns), bool, or floats from 0 to 1.
        affine_lps: (4, 4), (slice, row, column, 1) of the array -> LPS mm.
        stack: on whose grid the mask is wanted.
        segments: what each of them is.
        resample: take the nearest voxel, or between fractions what lies between them, where the
            array's voxel centres are not those of the stack. Otherwise it is refused.

    Raises:
        LabelError: if voxels and segments do not go together, a fraction is none, the affine is
            none, or the array lies on another grid.
    """
    named = tuple(
        Segment(number, each) if isinstance(each, str) else each
        for number, each in enumerate(segments, 1)
    )
    if voxels.ndim != 4 or len(voxels) != len(named):
        raise LabelError(
            f"stack {stack.id}: expected {len(named)} segments, (segments, slices, rows, columns), "
            f"got an array of shape {voxels.shape}"
        )
    given = np.asarray(affine_lps, np.float64)
    whole = given.shape == (4, 4) and bool(np.isfinite(given).all())
    # A last row of anything else is that of a transposed affine, or of none at all.
    if not whole or not np.allclose(given[3], (0, 0, 0, 1)) or np.linalg.det(given) == 0:
        raise LabelError(f"stack {stack.id}: no affine that places voxels: {given.tolist()}")
    shares = _as_shares(voxels, stack)
    placed, verdict, findings = _placed(shares, given, stack, resample=resample)
    return Mask(placed, named, stack, verdict, findings)


def onto_grid_of(prediction: Mask, label: Mask, *, resample: bool = False) -> Mask:
    """Give a prediction on the grid of the label it is to be compared with.

    Args:
        prediction: on its own stack.
        label: on the stack that counts.
        resample: see `place_mask`.

    Raises:
        LabelError: if the two are of different patients or frames of reference, or on different
            grids.
    """
    theirs, ours = prediction.stack, label.stack
    for what, mine, other in (
        ("patients", compared(ours.patient_id), compared(theirs.patient_id)),
        ("frames of reference", ours.frame_of_reference_uid, theirs.frame_of_reference_uid),
    ):
        # Files of volumes may say neither: then the grid alone decides.
        if mine and other and mine != other:
            raise LabelError(
                f"label on stack {ours.id}, prediction on {theirs.id}: of different {what}"
            )
    voxels, verdict, findings = _placed(
        prediction.voxels, theirs.affine_lps, ours, resample=resample
    )
    return Mask(
        voxels, prediction.segments, ours, _both(prediction.verdict, verdict),
        (*prediction.findings, *findings), prediction.path,
    )  # fmt: skip


def is_there(voxels: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which voxels of a segment count as in it: of fractions, those from one half on.

    Raises:
        LabelError: if a voxel is no number.
    """
    if voxels.dtype == np.bool_:
        return voxels
    if missing := int(np.count_nonzero(np.isnan(voxels))):
        raise LabelError(f"{missing} voxels of a segment are nan: neither in it nor out")
    there: NDArray[np.bool_] = voxels >= HALF
    return there


def _as_shares(voxels: NDArray[Any], stack: Stack) -> NDArray[Any]:
    """Give bool as it is, whole 0 and 1 as bool, floats from 0 to 1 as float32."""
    if voxels.dtype == np.bool_:
        return voxels
    lowest, highest = voxels.min(initial=0), voxels.max(initial=0)
    # Nan is no share either.
    if not (lowest >= 0 and highest <= 1):
        raise LabelError(
            f"stack {stack.id}: voxels of a segment must be from 0 to 1, got {lowest} to {highest}"
        )
    return voxels.astype(np.float32 if voxels.dtype.kind == "f" else np.bool_)


def _placed(
    voxels: NDArray[Any], affine: NDArray[np.float64], stack: Stack, *, resample: bool
) -> tuple[NDArray[Any], Verdict, tuple[LabelFinding, ...]]:
    """Give voxels (segments, slices, rows, columns) on the grid of a stack, and how."""
    shape = voxels.shape[1:]
    placement = place(affine, shape, stack.affine_lps, stack.shape)
    whole = placement is not None and (placement.start, placement.shape) == (
        (0, 0, 0),
        stack.shape,
    )
    if placement is not None and whole:
        text = "; ".join(placement.differences) or "voxel for voxel"
        return placement.turn(voxels), Verdict(placement.kind, placement.offset, text), ()
    told = f"{_described(shape, affine)} instead of {_described(stack.shape, stack.affine_lps)}"
    if not resample:
        raise LabelError(
            f"stack {stack.id}: the prediction lies on another grid, {told}: give it on the "
            f"stack's, or ask for it to be resampled, which is then told"
        )
    moved, furthest = resample_voxels(voxels, affine, stack.affine_lps, stack.shape)
    how = "nearest voxel" if voxels.dtype == np.bool_ else "linear between fractions"
    outside = sum(
        count_outside(is_there(part), affine, stack.affine_lps, stack.shape) for part in voxels
    )
    finding = LabelFinding(
        "outside", f"{outside} voxels lie outside the stack: left out", outside, "voxels"
    )
    verdict = Verdict("resampled", furthest, f"{how}, from {told}")
    return moved, verdict, (finding,) if outside else ()


def _both(first: Verdict, then: Verdict) -> Verdict:
    """Say of two steps what the boldest of them was."""
    if then.kind == "same_grid":
        return first
    kind = "resampled" if "resampled" in {first.kind, then.kind} else then.kind
    text = "; ".join(each.text for each in (first, then) if each.text)
    return Verdict(kind, max(first.offset, then.offset), text)


def _described(shape: Sequence[int], affine: NDArray[np.float64]) -> str:
    """Say what a grid is: voxels, steps and corner."""
    steps = " x ".join(f"{length:.5g}" for length in np.linalg.norm(affine[:3, :3], axis=0))
    corner = ", ".join(f"{place:.5g}" for place in affine[:3, 3])
    return f"{' x '.join(map(str, shape))} voxels of {steps} mm from ({corner})"

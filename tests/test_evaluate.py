"""`score`: overlap, distances in mm and volumes on the label's own grid, and what it refuses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own name for itself
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import (
    DiceMetric,
    HausdorffDistanceMetric,
    SurfaceDiceMetric,
    SurfaceDistanceMetric,
)
from numpy.testing import assert_array_equal

import dicomdata as dd
from dicomdata.evaluate.surfaces import compare_surfaces, surface_points
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Planned = Callable[..., dd.StackPlan]

SHAPE = (8, 9, 10)
SPACING = (2.5, 0.7, 0.9)

GRIDS: dict[str, dict[str, Any]] = {
    "straight": {},
    "finer": {"shape": (15, 17, 19), "step": 1.25, "pixel_spacing": (0.35, 0.45)},
    "leaning": {"orientation": (1, 0, 0, 0, 0.9396926, -0.3420201), "step": (0, 0, 5.0)},
    "one slice": {"shape": (1, 9, 10)},
    "another patient": {"patient_id": "OTHER"},
}


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory, planned: Planned) -> dict[str, dd.Stack]:
    """Stacks of one frame of reference, each on a grid of its own."""
    found = {}
    for name, changes in GRIDS.items():
        folder = tmp_path_factory.mktemp("grid")
        given: dict[str, Any] = {"shape": SHAPE, "pixel_spacing": SPACING[1:], "seed": name}
        write_series(folder, **{**given, "frame_of_reference_uid": "1.2.3", **changes})
        (found[name],) = planned(folder).stacks
    return found


@pytest.fixture(scope="module")
def stack(stacks: dict[str, dd.Stack]) -> dd.Stack:
    return stacks["straight"]


def box(
    slices: slice, rows: slice, columns: slice, shape: tuple[int, ...] = SHAPE
) -> NDArray[np.bool_]:
    voxels = np.zeros(shape, np.bool_)
    voxels[slices, rows, columns] = True
    return voxels


def masked(stack: dd.Stack, *voxels: NDArray[Any], names: tuple[str, ...] = ("Lung",)) -> dd.Mask:
    return dd.place_mask(np.stack(voxels), stack.affine_lps, stack, names)


ORGAN = box(slice(1, 4), slice(2, 6), slice(3, 8))
"""3 x 4 x 5 = 60 voxels."""

NOTHING = np.zeros(SHAPE, np.bool_)


# --- numbers known by hand ------------------------------------------------------------------------


def test_the_same_mask_scores_one_at_no_distance(stack: dd.Stack) -> None:
    label = masked(stack, ORGAN)

    (found,) = dd.score(label, label, dd.ScoringRules(tolerance_mm=0.0)).segments

    assert (found.dice, found.surface_dice, found.presence) == (1.0, 1.0, "both")
    assert (found.mean_distance_mm, found.hausdorff95_mm, found.hausdorff_mm) == (0, 0, 0)
    # 60 voxels of 2.5 x .7 x .9 mm.
    assert found.label_ml == pytest.approx(60 * 1.575 / 1000)
    assert found.difference_ml == 0


def test_a_shift_by_one_slice_costs_what_one_slice_costs(stack: dd.Stack) -> None:
    shifted = np.roll(ORGAN, 1, axis=0)

    found = dd.score(masked(stack, ORGAN), masked(stack, shifted)).of("Lung")

    # Two of three slices are common.
    assert found.dice == pytest.approx(2 / 3)
    assert found.hausdorff_mm == pytest.approx(2.5)
    assert found.surface_dice is None


def test_disjoint_masks_score_zero(stack: dd.Stack) -> None:
    label = box(slice(1, 3), slice(2, 6), slice(2, 6))
    prediction = box(slice(4, 6), slice(2, 6), slice(2, 6))

    found = dd.score(
        masked(stack, label), masked(stack, prediction), dd.ScoringRules(tolerance_mm=1.0)
    ).of("Lung")

    assert (found.dice, found.surface_dice) == (0.0, 0.0)
    # From slice 1 to slice 4, and back.
    assert found.hausdorff_mm == pytest.approx(7.5)


def test_volumes_are_in_ml_with_their_difference(stack: dd.Stack) -> None:
    larger = box(slice(0, 5), slice(2, 6), slice(3, 8))

    found = dd.score(masked(stack, ORGAN), masked(stack, larger)).of("Lung")

    assert found.prediction_ml == pytest.approx(0.1575)
    assert found.difference_ml == pytest.approx(0.063)


def test_distances_on_a_leaning_grid_are_those_of_the_patient(stacks: dict[str, dd.Stack]) -> None:
    leaning = stacks["leaning"]
    label, prediction = box(slice(2, 3), slice(4, 5), slice(5, 6)), NOTHING.copy()
    prediction[4, 4, 5] = True

    found = dd.score(masked(leaning, label), masked(leaning, prediction)).of("Lung")

    # Two slices further is 10 mm up the table, though slices are only 4.7 mm apart.
    assert leaning.slice_spacing == pytest.approx(4.698, abs=1e-3)
    assert found.hausdorff_mm == pytest.approx(10.0)
    assert found.label_ml == pytest.approx(4.698463 * 0.7 * 0.9 / 1000)


def test_the_nearest_point_of_a_leaning_grid_is_found_across_its_axes(
    stacks: dict[str, dd.Stack],
) -> None:
    affine = stacks["leaning"].affine_lps
    rng = np.random.default_rng(0)
    label, prediction = rng.random((2, *SHAPE)) < 0.1

    found = compare_surfaces(label, prediction, affine)

    points = [np.argwhere(each) @ affine[:3, :3].T for each in (label, prediction)]
    apart = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
    assert found.hausdorff_mm == pytest.approx(max(apart.min(0).max(), apart.min(1).max()))


def test_in_a_stack_of_one_slice_the_surface_is_an_outline(stacks: dict[str, dd.Stack]) -> None:
    flat = stacks["one slice"]
    square = box(slice(0, 1), slice(2, 7), slice(2, 7), (1, 9, 10))

    points = surface_points(square, flat.affine_lps)

    # 5 x 5, less the 3 x 3 within.
    assert len(points) == 16


def test_segments_that_overlap_are_each_compared_whole(stack: dd.Stack) -> None:
    tumour = box(slice(2, 3), slice(3, 5), slice(4, 6))
    label = masked(stack, ORGAN, tumour, names=("Lung", "Tumour"))
    prediction = masked(stack, tumour, ORGAN, names=("Tumour", "Lung"))

    scores = dd.score(label, prediction)

    assert [each.segment for each in scores.segments] == ["Lung", "Tumour"]
    assert [each.dice for each in scores.segments] == [1.0, 1.0]


def test_a_fraction_counts_from_one_half_on(stack: dd.Stack) -> None:
    shares = np.where(ORGAN, np.float32(0.5), np.float32(0.49))

    assert dd.score(masked(stack, ORGAN), masked(stack, shares)).of("Lung").dice == 1.0


# --- empty masks ----------------------------------------------------------------------------------


def test_what_neither_has_is_skipped(stack: dd.Stack) -> None:
    empty = masked(stack, NOTHING)

    found = dd.score(empty, empty).of("Lung")

    assert found.presence == "neither"
    assert math.isnan(found.dice)
    assert math.isnan(found.hausdorff95_mm)
    assert (found.label_ml, found.difference_ml) == (0, 0)


def test_what_neither_has_is_agreement_if_that_is_the_rule(stack: dd.Stack) -> None:
    empty = masked(stack, NOTHING)
    rules = dd.ScoringRules(both_empty="agree", tolerance_mm=1.0)

    found = dd.score(empty, empty, rules).of("Lung")

    assert (found.dice, found.surface_dice, found.hausdorff_mm) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("label", "prediction", "presence"),
    [(ORGAN, NOTHING, "label_only"), (NOTHING, ORGAN, "prediction_only")],
)
def test_what_only_one_has_scores_zero_at_infinite_distance(
    stack: dd.Stack, label: NDArray[Any], prediction: NDArray[Any], presence: str
) -> None:
    rules = dd.ScoringRules(both_empty="agree", tolerance_mm=1.0)

    found = dd.score(masked(stack, label), masked(stack, prediction), rules).of("Lung")

    assert (found.presence, found.dice, found.surface_dice) == (presence, 0.0, 0.0)
    assert found.mean_distance_mm == found.hausdorff95_mm == found.hausdorff_mm == math.inf


# --- one grid -------------------------------------------------------------------------------------


def test_a_prediction_on_another_grid_is_refused(stacks: dict[str, dd.Stack]) -> None:
    finer = stacks["finer"]
    prediction = masked(finer, np.ones(finer.shape, np.bool_))

    with pytest.raises(dd.LabelError, match=r"another grid, 15 x 17 x 19 voxels of 1.25 x 0.35"):
        dd.score(masked(stacks["straight"], ORGAN), prediction)


def test_a_prediction_on_another_grid_is_resampled_if_asked_and_told(
    stacks: dict[str, dd.Stack],
) -> None:
    finer = stacks["finer"]
    # Twice as fine: every other voxel centre is one of the stack.
    fine = np.zeros(finer.shape, np.bool_)
    fine[2:8, 4:12, 6:16] = True

    scores = dd.score(
        masked(stacks["straight"], ORGAN), masked(finer, fine), dd.ScoringRules(resample=True)
    )

    assert scores.of("Lung").dice == 1.0
    assert scores.verdict.kind == "resampled"
    assert "nearest voxel, from 15 x 17 x 19 voxels" in scores.verdict.text
    assert scores.stack.id == stacks["straight"].id


def test_a_prediction_with_its_slices_the_other_way_is_turned_and_told(stack: dd.Stack) -> None:
    turned = stack.reversed()

    scores = dd.score(masked(stack, ORGAN), masked(turned, ORGAN[::-1]))

    assert scores.of("Lung").dice == 1.0
    assert scores.verdict.kind == "reindexed"
    assert "flipped along slices" in scores.verdict.text


@given(order=st.permutations(range(3)), turned=st.lists(st.booleans(), min_size=3, max_size=3))
def test_axes_in_any_order_and_direction_are_the_same_mask(
    stack: dd.Stack, order: list[int], turned: list[bool]
) -> None:
    affine = stack.affine_lps[:, [*order, 3]].copy()
    voxels = ORGAN.transpose(order)
    for axis in np.flatnonzero(turned).tolist():
        affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
        affine[:3, axis] *= -1
        voxels = np.flip(voxels, axis)

    prediction = dd.place_mask(voxels[None], affine, stack, ["Lung"])

    assert_array_equal(prediction.of("Lung"), ORGAN)
    assert (prediction.verdict.kind == "same_grid") == (order == [0, 1, 2] and not any(turned))


@pytest.mark.parametrize("shift", [0.2, 0.5, 1.0])
def test_the_same_shape_somewhere_else_is_another_grid(stack: dd.Stack, shift: float) -> None:
    affine = stack.affine_lps.copy()
    affine[:3, 3] += shift * affine[:3, 1]

    with pytest.raises(dd.LabelError, match="another grid, 8 x 9 x 10 voxels"):
        dd.place_mask(ORGAN[None], affine, stack, ["Lung"])


def test_a_mirrored_prediction_is_no_prediction_of_the_same(stack: dd.Stack) -> None:
    # An array turned without its affine cannot be known, but it is not forgiven either.
    mirrored = masked(stack, ORGAN[:, ::-1])

    assert dd.score(masked(stack, ORGAN), mirrored).of("Lung").dice < 1


def test_a_prediction_of_1_mm_is_taken_to_the_nearest_voxels_as_simpleitk_does(
    stack: dd.Stack,
) -> None:
    fine = np.random.default_rng(0).random((21, 7, 9)) < 0.5
    affine = stack.affine_lps @ np.diag([0.4, 1 / 0.7, 1 / 0.9, 1.0])  # 1 mm each way
    affine[:3, 3] += (0.13, 0.22, 0.31)  # no voxel is as near as another

    found = dd.place_mask(fine[None], affine, stack, ["Lung"], resample=True)

    itk: Any = sitk
    moving, fixed = (itk.GetImageFromArray(each.astype(np.uint8)) for each in (fine, ORGAN))
    for image, where in ((moving, affine), (fixed, stack.affine_lps)):
        steps = np.linalg.norm(where[:3, :3], axis=0)
        image.SetSpacing(steps[::-1].tolist())
        image.SetOrigin(where[:3, 3].tolist())
        image.SetDirection((where[:3, :3] / steps)[:, ::-1].ravel().tolist())
    theirs = itk.Resample(moving, fixed, itk.Transform(), itk.sitkNearestNeighbor)
    assert_array_equal(found.of("Lung"), itk.GetArrayFromImage(theirs) == 1)
    assert found.verdict.kind == "resampled"


def test_a_part_of_the_grid_is_not_the_grid(stack: dd.Stack) -> None:
    with pytest.raises(dd.LabelError, match="another grid, 5 x 9 x 10 voxels"):
        dd.place_mask(ORGAN[None, :5], stack.affine_lps, stack, ["Lung"])


def test_what_lies_outside_the_grid_is_counted(stack: dd.Stack) -> None:
    affine = stack.affine_lps.copy()
    affine[:3, 3] -= 3.5 * affine[:3, 0]

    found = dd.place_mask(ORGAN[None], affine, stack, ["Lung"], resample=True)

    # Slices 1 to 3 lie 3.5 slices lower: those at -2.5 and -1.5 are outside.
    assert [finding.kind for finding in found.findings] == ["outside"]
    assert found.findings[0].amount == 40


def test_another_patients_prediction_is_refused(stacks: dict[str, dd.Stack]) -> None:
    with pytest.raises(dd.LabelError, match="of different patients"):
        dd.score(masked(stacks["straight"], ORGAN), masked(stacks["another patient"], ORGAN))


def test_another_frame_of_reference_is_refused(
    stack: dd.Stack, tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path, shape=SHAPE, pixel_spacing=SPACING[1:], frame_of_reference_uid="1.2.4")
    (other,) = planned(tmp_path).stacks

    with pytest.raises(dd.LabelError, match="of different frames of reference"):
        dd.score(masked(stack, ORGAN), masked(other, ORGAN))


# --- segments -------------------------------------------------------------------------------------


def test_segments_of_other_names_are_refused(stack: dd.Stack) -> None:
    with pytest.raises(dd.LabelError, match="has segments 'Lung', the prediction 'Heart'"):
        dd.score(masked(stack, ORGAN), masked(stack, ORGAN, names=("Heart",)))


def test_segments_of_other_names_are_compared_if_they_are_named(stack: dd.Stack) -> None:
    prediction = masked(stack, NOTHING, ORGAN, names=("Heart", "lung_left"))

    scores = dd.score(
        masked(stack, ORGAN), prediction, dd.ScoringRules(segments=(("Lung", "lung_left"),))
    )

    assert scores.of("Lung").dice == 1.0
    with pytest.raises(dd.LabelError, match="no segment 'Heart' was scored"):
        scores.of("Heart")


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.5])
def test_what_is_no_share_is_refused(stack: dd.Stack, value: float) -> None:
    with pytest.raises(dd.LabelError, match="must be from 0 to 1"):
        masked(stack, np.full(SHAPE, value, np.float32))


TRANSPOSED = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [10.0, 20.0, 30.0, 1.0]])


@pytest.mark.parametrize(
    "affine", [np.zeros((4, 4)), np.full((4, 4), math.nan), np.eye(3), TRANSPOSED]
)
def test_an_affine_that_places_nothing_is_refused(
    stack: dd.Stack, affine: NDArray[np.float64]
) -> None:
    with pytest.raises(dd.LabelError, match="no affine"):
        dd.place_mask(ORGAN[None], affine, stack, ["Lung"], resample=True)


@pytest.mark.parametrize(
    "rules",
    [
        {"tolerance_mm": -1.0},
        {"tolerance_mm": math.nan},
        {"tolerance_mm": "2"},
        {"both_empty": "one"},
        {"segments": "Lung"},
        {"segments": [("Lung",)]},
        {"segments": [1]},
        {"segments": ["Lung", ("Lung", "lung_left")]},
    ],
)
def test_rules_that_make_no_sense_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(dd.ConfigError):
        dd.ScoringRules(**rules)


# --- other people's numbers -----------------------------------------------------------------------


def blobs(seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two ragged masks that share a part."""
    rng = np.random.default_rng(seed)
    ragged = rng.random((2, *SHAPE)) < 0.7
    places = box(slice(1, 6), slice(1, 7), slice(2, 8)), box(slice(2, 8), slice(3, 9), slice(2, 7))
    return ragged[0] & places[0], ragged[1] & places[1]


# MONAI warns of an argument that it passes to itself.
@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges.always_return:FutureWarning")
@pytest.mark.parametrize("seed", range(3))
def test_monai_gives_the_same_numbers_on_a_straight_grid(stack: dd.Stack, seed: int) -> None:
    label, prediction = blobs(seed)
    tensors = [
        torch.from_numpy(each[None, None].astype(np.float32)) for each in (prediction, label)
    ]
    options: dict[str, Any] = {"include_background": True}

    def asked(metric: Any, **spacing: Any) -> float:
        return float(metric(*tensors, **spacing))

    found = dd.score(
        masked(stack, label), masked(stack, prediction), dd.ScoringRules(tolerance_mm=1.0)
    ).of("Lung")

    assert found.dice == pytest.approx(asked(DiceMetric(**options)))
    spaced: dict[str, Any] = {"spacing": SPACING}
    symmetric = SurfaceDistanceMetric(**options, symmetric=True)
    hausdorff = HausdorffDistanceMetric(**options)
    percentile = HausdorffDistanceMetric(**options, percentile=95)
    surface = SurfaceDiceMetric([1.0], **options, use_subvoxels=True)
    assert found.mean_distance_mm == pytest.approx(asked(symmetric, **spaced), rel=1e-5)
    assert found.hausdorff_mm == pytest.approx(asked(hausdorff, **spaced), rel=1e-5)
    assert found.hausdorff95_mm == pytest.approx(asked(percentile, **spaced), rel=1e-5)
    assert found.surface_dice == pytest.approx(asked(surface, **spaced), rel=1e-5)


def test_simpleitk_gives_the_same_numbers_on_a_straight_grid(stack: dd.Stack) -> None:
    # Convex, and neither within the other: then the furthest voxel is one of the surface.
    label, prediction = ORGAN, box(slice(2, 7), slice(1, 5), slice(5, 9))
    itk: Any = sitk
    images = [itk.GetImageFromArray(each.astype(np.uint8)) for each in (label, prediction)]
    for image in images:
        image.SetSpacing(SPACING[::-1])
    overlap, hausdorff = itk.LabelOverlapMeasuresImageFilter(), itk.HausdorffDistanceImageFilter()
    overlap.Execute(*images)
    hausdorff.Execute(*images)

    found = dd.score(masked(stack, label), masked(stack, prediction)).of("Lung")

    assert found.dice == pytest.approx(overlap.GetDiceCoefficient(1))
    assert found.hausdorff_mm == pytest.approx(hausdorff.GetHausdorffDistance())


# --- laws -----------------------------------------------------------------------------------------

ends = [st.tuples(st.integers(0, n - 3), st.integers(1, 2)) for n in SHAPE]
boxes = st.tuples(*ends).map(lambda drawn: box_of([slice(at, at + n) for at, n in drawn]))


def box_of(slices: list[slice]) -> NDArray[np.bool_]:
    return box(slices[0], slices[1], slices[2])


@given(label=boxes, prediction=boxes)
def test_scores_are_symmetric_and_within_their_bounds(
    stack: dd.Stack, label: NDArray[np.bool_], prediction: NDArray[np.bool_]
) -> None:
    rules = dd.ScoringRules(tolerance_mm=1.0)
    one, other = masked(stack, label), masked(stack, prediction)

    there, back = dd.score(one, other, rules).of("Lung"), dd.score(other, one, rules).of("Lung")

    assert there.dice == back.dice
    assert there.surface_dice == pytest.approx(back.surface_dice)
    assert there.mean_distance_mm == pytest.approx(back.mean_distance_mm)
    assert there.hausdorff95_mm == pytest.approx(back.hausdorff95_mm)
    assert there.difference_ml == -back.difference_ml
    assert 0 <= there.dice <= 1
    assert there.mean_distance_mm <= there.hausdorff_mm
    assert there.hausdorff95_mm <= there.hausdorff_mm
    assert (there.dice == 1) == (there.hausdorff_mm == 0)


@given(label=boxes, prediction=boxes, along=st.integers(0, 2))
def test_moving_both_masks_changes_nothing(
    stacks: dict[str, dd.Stack],
    label: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    along: int,
) -> None:
    leaning = stacks["leaning"]
    # No box reaches the last voxel of an axis.
    moved = [np.roll(each, 1, axis=along) for each in (label, prediction)]

    before = dd.score(masked(leaning, label), masked(leaning, prediction)).of("Lung")
    after = dd.score(masked(leaning, moved[0]), masked(leaning, moved[1])).of("Lung")

    assert after.dice == before.dice
    assert after.hausdorff_mm == pytest.approx(before.hausdorff_mm)
    assert after.mean_distance_mm == pytest.approx(before.mean_distance_mm)


@given(data=st.data(), at=st.tuples(*(st.integers(0, n - 2) for n in SHAPE)))
def test_two_voxels_are_as_far_apart_as_their_centres(
    stacks: dict[str, dd.Stack], data: st.DataObject, at: tuple[int, int, int]
) -> None:
    leaning = stacks["leaning"]
    to = data.draw(st.tuples(*(st.integers(0, n - 1) for n in SHAPE)))
    voxels = np.zeros((2, *SHAPE), np.bool_)
    voxels[0][at] = voxels[1][to] = True

    found = dd.score(masked(leaning, voxels[0]), masked(leaning, voxels[1])).of("Lung")

    step = leaning.affine_lps[:3, :3] @ (np.array(to) - at)
    assert found.hausdorff_mm == pytest.approx(float(np.linalg.norm(step)), abs=1e-9)


def test_placing_an_array_does_not_change_it(stack: dd.Stack) -> None:
    assert_array_equal(masked(stack, ORGAN).of("Lung"), ORGAN)

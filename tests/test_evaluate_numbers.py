"""Scores against other people's numbers, on every kind of grid; intervals; and what they cost."""

from __future__ import annotations

import math
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from scipy.stats import bootstrap as scipy_bootstrap

from dicomdata.evaluate import surfaces
from dicomdata.evaluate.summarising import bootstrap
from dicomdata.evaluate.surfaces import compare_surfaces
from dicomdata.evaluate.surfels import areas, crop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Voxels = NDArray[np.bool_]


def straight(*spacing: float) -> NDArray[np.float64]:
    return np.diag([*spacing, 1.0])


LEANING = np.array(
    [[0.0, 0.0, 0.8, 10.0], [1.7, 0.7, 0.0, -20.0], [4.6, 0.0, 0.0, 30.0], [0.0, 0.0, 0.0, 1.0]]
)
"""Slices of 0.7 x 0.8 mm, 4.6 mm apart, each 1.7 mm further along the rows than the one below."""


def random_masks(how: str, seed: int) -> tuple[Voxels, Voxels]:
    """Two masks of one grid; they reach its border, and may fill it or be one voxel."""
    generator = np.random.default_rng(seed)
    shape = tuple(int(n) for n in generator.integers(3, 11, 3))
    noise = generator.random((2, *shape))
    if how == "full":
        return np.ones(shape, np.bool_), noise[0] < 0.9
    if how == "one voxel":
        masks = np.zeros((2, noise[0].size), np.bool_)
        masks[[0, 1], generator.integers(0, noise[0].size, 2)] = True
        one, other = masks.reshape(2, *shape)
        return one, other
    if how == "smooth":
        noise = gaussian_filter(noise, (0, 1, 1, 1))
    one, other = noise > np.quantile(noise, 0.5)
    return one, other


def as_tensors(one: Voxels, other: Voxels) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (one, other))
    return first, second


# --- other people's numbers -----------------------------------------------------------------------


# MONAI warns of an argument that it passes to itself.
@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges.always_return:FutureWarning")
@pytest.mark.parametrize("how", ["ragged", "smooth", "full", "one voxel"])
@pytest.mark.parametrize("seed", range(4))
def test_straight_grids_give_the_numbers_of_monai(how: str, seed: int) -> None:
    masks = random_masks(how, seed)
    spacing = tuple(np.random.default_rng(seed).uniform(0.4, 4, 3).round(3).tolist())
    given_: dict[str, Any] = {"include_background": True, "spacing": spacing}

    found = compare_surfaces(*masks, straight(*spacing), tolerance_mm=1.0)

    pair = as_tensors(*masks)
    # The definition of its authors: areas, on the corners of voxels.
    shares = compute_surface_dice(*pair, [1.0], use_subvoxels=True, **given_)
    mean = compute_average_surface_distance(*pair, symmetric=True, **given_)
    furthest = compute_hausdorff_distance(*pair, **given_)
    assert found.within == pytest.approx(float(shares), rel=1e-5)
    assert found.mean_mm == pytest.approx(float(mean), rel=1e-5, abs=1e-6)
    assert found.hausdorff_mm == pytest.approx(float(furthest), rel=1e-5)


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges.always_return:FutureWarning")
@pytest.mark.parametrize("seed", range(4))
def test_a_stack_of_one_slice_has_an_outline_as_flat_images_have(seed: int) -> None:
    one, other = (mask[:1] for mask in random_masks("smooth", seed + 20))
    one[0, 1, 1] = other[0, 1, 0] = True

    found = compare_surfaces(one, other, straight(5.0, 0.7, 1.1), tolerance_mm=1.0)

    flat = as_tensors(one[0], other[0])
    options: dict[str, Any] = {"include_background": True, "spacing": (0.7, 1.1)}
    shares = compute_surface_dice(*flat, [1.0], use_subvoxels=True, **options)
    furthest = compute_hausdorff_distance(*flat, **options)
    assert found.within == pytest.approx(float(shares), rel=1e-5)
    assert found.hausdorff_mm == pytest.approx(float(furthest), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_leaning_grids_give_the_distances_of_all_pairs_of_points(seed: int) -> None:
    masks = random_masks("ragged", seed)

    found = compare_surfaces(*masks, LEANING)

    one, other = (np.argwhere(_outer(mask)) @ LEANING[:3, :3].T for mask in masks)
    pairs = np.linalg.norm(one[:, None] - other[None], axis=2)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    assert found.mean_mm == pytest.approx(np.concatenate([there, back]).mean())
    assert found.hausdorff_mm == pytest.approx(max(there.max(), back.max()))
    percentiles = np.percentile(there, 95), np.percentile(back, 95)
    assert found.hausdorff95_mm == pytest.approx(max(percentiles))


def _outer(mask: Voxels) -> Voxels:
    """Voxels with a face to the outside."""
    around = np.pad(mask, 1)
    inner = around.copy()
    for axis in range(3):
        for step in (-1, 1):
            inner &= np.roll(around, step, axis)
    outer: Voxels = (around & ~inner)[1:-1, 1:-1, 1:-1]
    return outer


# --- areas ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf_at_a_time", [True, False])
def test_deep_inside_a_surface_distances_are_those_of_all_pairs(
    monkeypatch: pytest.MonkeyPatch, *, leaf_at_a_time: bool
) -> None:
    lower = np.random.default_rng(0).random((60, 3))
    sphere = np.random.default_rng(1).normal(size=(6000, 3))
    sphere = 40 * sphere / np.linalg.norm(sphere, axis=1, keepdims=True)
    pairs = cdist(lower, sphere)
    # Few pairs at once, or leaves that are never looked at as a whole.
    monkeypatch.setattr(surfaces, "_PAIRS", 20_000)
    monkeypatch.setattr(surfaces, "_MANY", 2000 if leaf_at_a_time else 7000)

    there, back = surfaces._apart(lower, sphere)

    np.testing.assert_allclose(there, pairs.min(axis=1), rtol=1e-12)
    np.testing.assert_allclose(back, pairs.min(axis=0), rtol=1e-12)


def test_a_share_of_a_surface_is_one_of_its_area() -> None:
    # An upright cylinder of 18 mm radius and 36 mm height, and one that is 5 mm longer at each end:
    # the sides go with each other, the ends do not.
    spacing = (5.0, 0.8, 0.8)
    places = [
        (np.arange(n) - n / 2 + 0.2) * step for n, step in zip((14, 52, 52), spacing, strict=True)
    ]
    slices, rows, columns = np.meshgrid(*places, indexing="ij")
    round_ = rows**2 + columns**2 <= 18**2
    label, prediction = (round_ & (abs(slices) <= half) for half in (18, 23))

    found = compare_surfaces(label, prediction, straight(*spacing), tolerance_mm=1.2)

    # By hand, over 2 pi R: sides of 36 and 36 + 2 x 1.2 are near, and a rim of the inner ends; of
    # sides there are 36 and 46, and four ends of R/2. Counting voxels gives 0.27, most are at ends.
    rim = (18**2 - 16.8**2) / 18
    assert found.within == pytest.approx((36 + 38.4 + rim) / (36 + 46 + 2 * 18), abs=0.05)


def test_flat_pieces_are_as_large_as_the_voxels_faces() -> None:
    slice_step, row_step, column_step = LEANING[:3, :3].T
    faces = {
        0b11110000: np.cross(row_step, column_step),  # one slice in, the next out
        0b11001100: np.cross(slice_step, column_step),
        0b10101010: np.cross(slice_step, row_step),
    }

    found = areas(LEANING)

    for code, area in faces.items():
        assert found[code] == pytest.approx(np.linalg.norm(area))
    assert found[0] == found[255] == 0
    assert_allclose(found, found[::-1])  # inside out


@given(seed=st.integers(0, 99), angle=st.floats(0, 6), axis=st.integers(0, 2))
def test_turning_the_patient_changes_nothing(seed: int, angle: float, axis: int) -> None:
    masks = random_masks("smooth", seed)
    turn = np.eye(4)
    others = [each for each in range(3) if each != axis]
    turn[np.ix_(others, others)] = [
        [math.cos(angle), -math.sin(angle)],
        [math.sin(angle), math.cos(angle)],
    ]

    before = compare_surfaces(*masks, LEANING, tolerance_mm=2.0)
    after = compare_surfaces(*masks, turn @ LEANING, tolerance_mm=2.0)

    assert after.within == pytest.approx(before.within)
    assert after.mean_mm == pytest.approx(before.mean_mm)
    assert after.hausdorff95_mm == pytest.approx(before.hausdorff95_mm)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 4), (4, 1, 1), (1, 3, 3), (2, 2, 2)])
def test_the_smallest_grids_have_a_surface_too(shape: tuple[int, ...]) -> None:
    full = np.ones(shape, np.bool_)

    found = compare_surfaces(full, full, LEANING, tolerance_mm=0.0)

    assert (found.within, found.mean_mm, found.hausdorff95_mm, found.hausdorff_mm) == (1, 0, 0, 0)


# --- what it costs --------------------------------------------------------------------------------


def test_only_the_boxes_of_the_masks_are_worked_on() -> None:
    masks = np.zeros((2, 32, 256, 256), np.bool_)
    masks[0, 10:14, 100:110, 60:70] = masks[1, 11:15, 101:111, 61:71] = True
    label, prediction = masks
    compare_surfaces(
        label, prediction, LEANING, tolerance_mm=1.0
    )  # what is imported and kept on first use

    tracemalloc.start()
    compare_surfaces(label, prediction, LEANING, tolerance_mm=1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < label.nbytes / 4


def test_a_mask_is_cut_to_what_is_in_it() -> None:
    mask = np.zeros((5, 6, 7), np.bool_)
    mask[1, 2, 3] = mask[3, 2, 6] = True

    first, box = crop(mask)

    assert (first.tolist(), box.shape) == ([1, 2, 3], (3, 1, 4))
    assert np.shares_memory(box, mask)


# --- intervals ------------------------------------------------------------------------------------


def interval(
    values: Sequence[float], patients: Sequence[str], **changes: Any
) -> tuple[float, float]:
    options = {"seed": 0, "draws": 1000, "confidence": 0.95, **changes}
    return bootstrap(np.array(values, np.float64), patients, **options)


def test_with_one_case_a_patient_intervals_are_those_of_scipy() -> None:
    values = np.random.default_rng(0).beta(5, 2, 40)

    low, high = interval(values.tolist(), [f"P{number}" for number in range(40)], draws=20000)

    theirs = scipy_bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", random_state=1
    ).confidence_interval
    # Ends of other draws of 20000 differ by a fiftieth of the interval.
    assert (low, high) == pytest.approx(tuple(theirs), abs=(theirs.high - theirs.low) / 50)


@given(st.permutations(range(12)))
def test_an_interval_does_not_depend_on_the_order_of_cases(order: list[int]) -> None:
    values = [number**2 / 144 for number in range(12)]
    patients = [f"P{number // 3}" for number in range(12)]

    shuffled = interval([values[i] for i in order], [patients[i] for i in order])

    assert shuffled == interval(values, patients)


def test_patients_of_alike_cases_make_a_wider_interval_than_so_many_patients() -> None:
    values = [number // 5 / 10 for number in range(50)]

    low, high = interval(values, [f"P{number // 5}" for number in range(50)])
    few, many = interval(values, [f"P{number}" for number in range(50)])

    # Ten patients tell as much as ten, not as fifty: the square root of five.
    assert (high - low) / (many - few) == pytest.approx(math.sqrt(5), rel=0.15)


def test_what_is_no_number_or_without_end_is_drawn_for_nobody() -> None:
    values, patients = [0.5, math.nan, 0.7, math.inf, 0.9], ["A", "A", "B", "C", "D"]

    assert interval(values, patients) == interval([0.5, 0.7, 0.9], ["A", "B", "D"])
    assert all(map(math.isnan, interval([0.5, 0.7, math.inf], ["A", "A", "B"])))
    assert interval([0.5, 0.5, 0.5], ["A", "B", "C"]) == (0.5, 0.5)


def test_many_patients_are_drawn_in_parts() -> None:
    generator = np.random.default_rng(0)
    values = generator.random(3000)

    low, high = interval(values.tolist(), [f"P{number}" for number in range(3000)])

    # The standard error of a mean of 3000 numbers from 0 to 1.
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(1 / 12 / 3000), rel=0.1)

"""Real series against their references: each one right, or refused by name (see conftest.py)."""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from conftest import CORPUS

import dicomdata as dd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Planned = Callable[..., dd.StackPlan]
    PlanOf = Callable[[str], dd.StackPlan]

REFUSALS = {
    "4d": "repeated_position",
    "mixed": "",
    "mosaic": "mosaic",
    "multiframe": "",
    "nonuniform": "gap",
    "not-a-volume": "",
    "rgb": "colour",
}
"""Kind of entry -> what a refusal says; "" where entries have reasons of their own."""


@pytest.fixture(scope="module")
def plan_of(planned: Planned) -> PlanOf:
    """Scan and plan an entry of the corpus, once for all tests: they only read."""

    @cache
    def plan(entry: str) -> dd.StackPlan:
        return planned(CORPUS / entry)

    return plan


def sha1(voxels: NDArray[Any]) -> str:
    return hashlib.sha1(voxels.astype("<f4").tobytes(), usedforsecurity=False).hexdigest()


def reordered(affine: list[list[float]]) -> NDArray[np.float64]:
    """Turn an affine of (column, row, slice, 1) into one of (slice, row, column, 1)."""
    return np.array(affine)[:, [2, 1, 0, 3]]


def check_placement(stack: dd.Stack) -> None:
    """Compare the affine of each slice with what the file says, read by pydicom."""
    affine = stack.affine_lps
    tolerance = 0.1 * stack.slice_spacing
    for k, (path, frame) in enumerate(zip(stack.paths, stack.frames, strict=True)):
        plane = functional_groups(pydicom.dcmread(path, stop_before_pixels=True), frame.number)
        position = np.array(plane["ImagePositionPatient"], float)
        row, column = np.reshape(np.array(plane["ImageOrientationPatient"], float), (2, 3))
        down, along = map(float, plane["PixelSpacing"])
        np.testing.assert_allclose((affine @ (k, 0, 0, 1))[:3], position, atol=tolerance)
        np.testing.assert_allclose(affine[:3, 1], column * down, atol=2e-3 * down)
        np.testing.assert_allclose(affine[:3, 2], row * along, atol=2e-3 * along)


def functional_groups(header: pydicom.Dataset, number: int) -> dict[str, Any]:
    """Lay the functional groups of one frame flat; of a classic file, the file's own elements."""
    flat = {element.keyword: element.value for element in header if element.VR != "SQ"}
    for keyword, index in (
        ("SharedFunctionalGroupsSequence", 0),
        ("PerFrameFunctionalGroupsSequence", number),
    ):
        if keyword in header:
            for group in header[keyword].value[index]:
                if group.VR == "SQ" and group.value and not group.tag.is_private:
                    flat |= {element.keyword: element.value for element in group.value[0]}
    return flat


@lru_cache(maxsize=1)
def whole_file(path: str) -> pydicom.Dataset:
    """Read a file with pydicom, which keeps its pixels decoded: frames of one come in a row."""
    return pydicom.dcmread(path)


def output_units(path: str, number: int) -> NDArray[Any]:
    """Rescale one frame by hand: what pydicom decodes, by what the header says of that frame."""
    header = whole_file(path)
    groups = functional_groups(header, number)
    stored = header.pixel_array
    stored = stored[number] if stored.ndim > 2 else stored
    slope, intercept = (groups.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope is None or intercept is None:
        return stored.astype(np.float32)
    return (stored * float(slope) + float(intercept)).astype(np.float32)


# --- volumes --------------------------------------------------------------------------------------


@pytest.mark.corpus("volume")
def test_a_volume_equals_its_reference(
    entry: dict[str, Any], corpus: Path, plan_of: PlanOf
) -> None:
    plan, reference = plan_of(entry["id"]), entry["expected"]

    (stack,) = plan.stacks
    volume = dd.read_volume(stack, padding="keep")

    assert not plan.rejected
    assert sha1(volume.voxels) == reference["stats"]["sha1_f32"]
    assert volume.voxels.shape == tuple(reference["shape_zyx"])
    assert [path.rpartition("/")[2] for path in stack.paths] == reference["order"]
    # The step of a single slice is nominal: only its plane is known.
    known = slice(1, 4) if len(reference["order"]) == 1 else slice(0, 4)
    np.testing.assert_allclose(
        volume.affine_lps[:, known], reordered(reference["affine_lps"])[:, known], atol=2e-3
    )
    check_placement(stack)


@pytest.mark.corpus("volume", largest=10_000_000)
def test_int16_equals_float32_or_is_refused_by_name(
    entry: dict[str, Any], corpus: Path, plan_of: PlanOf
) -> None:
    (stack,) = plan_of(entry["id"]).stacks
    expected = dd.read_volume(stack, padding="keep").voxels
    whole = bool(np.all(expected == np.rint(expected)) and np.abs(expected).max() < 2**15)

    if not whole:
        with pytest.raises(dd.RescaleError, match="int16"):
            dd.read_volume(stack, dtype=np.int16, padding="keep")
        return
    volume = dd.read_volume(stack, dtype=np.int16, padding="keep")

    assert volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(volume.voxels, expected)


@pytest.mark.corpus("volume")
def test_only_ct_is_in_hounsfield_units(
    entry: dict[str, Any], corpus: Path, plan_of: PlanOf
) -> None:
    (stack,) = plan_of(entry["id"]).stacks

    header = pydicom.dcmread(stack.paths[0], stop_before_pixels=True)

    named = header.get("RescaleType", "HU") or "HU"
    if header.get("RescaleSlope") is None:
        assert stack.unit == "stored"
    else:
        assert stack.unit == (named if entry["modality"] == "CT" else "US")


@pytest.mark.corpus("volume")
def test_nothing_lies_below_air_once_padding_is_air(
    entry: dict[str, Any], corpus: Path, plan_of: PlanOf
) -> None:
    (stack,) = plan_of(entry["id"]).stacks
    padding = stack.frames[0].kind.padding
    if padding is None or stack.unit != "HU":
        return
    kept = dd.read_volume(stack, padding="keep").voxels

    voxels = dd.read_volume(stack).voxels

    rescale = stack.frames[0].kind.rescale
    assert rescale is not None
    padded = kept == padding.value * rescale.slope + rescale.intercept
    assert (voxels[padded] == -1024).all()
    np.testing.assert_array_equal(voxels[~padded], kept[~padded])


# --- everything else ------------------------------------------------------------------------------


@pytest.mark.corpus(*REFUSALS)
def test_what_is_no_single_volume_is_refused_by_name_or_right(
    entry: dict[str, Any], corpus: Path, plan_of: PlanOf
) -> None:
    plan = plan_of(entry["id"])

    refused = [row.reason for row in plan.outcomes if row.outcome == "rejected"]

    assert plan.stacks or refused
    for reason in refused:
        assert str(corpus / entry["id"]) in reason
    if not plan.stacks:
        assert any(REFUSALS[entry["expected"]["kind"]] in reason for reason in refused)
    for stack in plan.stacks:
        voxels = dd.read_volume(stack, padding="keep").voxels
        check_placement(stack)
        for k, frame in enumerate(stack.frames):
            np.testing.assert_array_equal(voxels[k], output_units(frame.path, frame.number))


@pytest.mark.corpus("nonuniform", "mosaic", "rgb", "not-a-volume")
def test_what_no_affine_can_place_makes_no_stack(
    entry: dict[str, Any], corpus: Path, plan_of: PlanOf
) -> None:
    plan = plan_of(entry["id"])

    outcomes = {row.outcome for row in plan.outcomes}

    assert plan.stacks == ()
    assert outcomes == {"rejected"}


@pytest.mark.corpus("4d")
def test_a_fourth_dimension_is_never_interleaved(
    entry: dict[str, Any], corpus: Path, plan_of: PlanOf
) -> None:
    plan = plan_of(entry["id"])

    positions = {stack.shape[0] for stack in plan.stacks}

    assert positions <= {entry["expected"]["n_positions"]}
    assert len(plan.stacks) in {0, entry["expected"]["n_volumes"]}


@pytest.mark.corpus("multiframe")
def test_a_multi_frame_file_is_right_or_says_that_it_has_no_place(
    entry: dict[str, Any], corpus: Path, plan_of: PlanOf, planned: Planned
) -> None:
    known = entry["expected"]
    plan = plan_of(entry["id"])
    without_place = {row.kind for row in plan.findings} == {"position_missing"}

    stacks = planned(corpus / entry["id"], dd.Policy.lenient()).stacks

    # Where a position is missing, it is the lenient policy that takes the frames as stored.
    assert bool(plan.stacks) != without_place
    assert sum(stack.shape[0] for stack in stacks) == known["frames"]
    assert all(stack.shape[1:] == tuple(known["shape_zyx"][1:]) for stack in stacks)
    if len(stacks) == 1 and not without_place:
        np.testing.assert_allclose(
            stacks[0].affine_lps, reordered(known["sitk_affine_lps"]), atol=2e-3
        )


# --- twins ----------------------------------------------------------------------------------------


def test_twins_in_other_encodings_have_identical_voxels(
    corpus: Path, expected: dict[str, Any], planned: Planned
) -> None:
    for twins in expected["invariants"]["identical_voxels"]:
        plans = [planned(corpus / twin, dd.Policy.lenient()) for twin in twins]
        volumes = [[dd.read_volume(stack, padding="keep") for stack in p.stacks] for p in plans]

        hashes = {tuple(sha1(volume.voxels) for volume in found) for found in volumes}

        assert len(hashes) == 1, twins
        assert all(volumes), twins
        for found in volumes[1:]:
            for volume, first in zip(found, volumes[0], strict=True):
                np.testing.assert_allclose(volume.affine_lps, first.affine_lps, atol=1e-3)


def test_twins_under_lossy_compression_stay_within_its_bound(
    corpus: Path, expected: dict[str, Any], planned: Planned
) -> None:
    for exact, lossy, bound in expected["invariants"]["bounded_loss"]:
        (stack,), (lossy_stack,) = planned(corpus / exact).stacks, planned(corpus / lossy).stacks
        voxels = dd.read_volume(stack, padding="keep").voxels

        difference = np.abs(voxels - dd.read_volume(lossy_stack, padding="keep").voxels)

        assert 0 < difference.max() <= bound
        assert [finding.kind for finding in lossy_stack.findings if finding.kind == "lossy"]


# --- trees ----------------------------------------------------------------------------------------


def test_every_file_of_a_tree_ends_in_one_place(
    corpus: Path, expected: dict[str, Any], planned: Planned
) -> None:
    for name, known in expected["trees"].items():
        root = corpus / name
        plan = planned(root)  # which checks the account

        outcomes = {row.path.removeprefix(f"{root}/"): row.outcome for row in plan.outcomes}

        assert len(outcomes) == known["files"]
        assert {path for path, outcome in outcomes.items() if outcome == "not DICOM"} == set(
            known["non_dicom"]
        )
        for path, what in known["dicom_without_image"]:
            assert outcomes[path] in {"other object", "rejected"}, path
            assert outcomes[path] == "other object" or "Directory" not in what, path
        used = {path for path, outcome in outcomes.items() if outcome == "used"}
        assert used.isdisjoint(path for path, _ in known["dicom_without_image"])


def test_the_whole_corpus_in_one_scan_loses_nothing(corpus: Path, planned: Planned) -> None:
    plan = planned(corpus)  # which checks the account

    outcomes = {row.outcome for row in plan.outcomes}

    assert {"used", "rejected", "other object", "not DICOM"} <= outcomes
    for stack in plan.stacks:
        check_placement(stack)

"""Series as archives hold them: what comes out is true, and what is resolvable comes out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

import dicomdata as dd
from dicomdata.testing.messes import MESSES, MessySeries, TrueVolume, corners, messy_series
from dicomdata.testing.phantoms import SeriesPhantom, write_series
from dicomdata.testing.strategies import series_phantoms

if TYPE_CHECKING:
    from collections.abc import Callable

    Planned = Callable[..., dd.StackPlan]


def is_true(volume: dd.Volume, truth: TrueVolume, *, aired: dd.Volume | None = None) -> bool:
    """Whether a volume has the place and every voxel of a true one.

    `volume` is read with padding kept, `aired` with padding as the policy has it.
    """
    shape = volume.voxels.shape
    if shape != truth.voxels.shape or not np.array_equal(volume.valid, truth.valid):
        return False
    apart = np.linalg.norm(corners(volume.affine_lps, shape) - truth.corners, axis=1)
    measured = ~truth.padded
    return (
        bool(apart.max() <= truth.tolerance)
        and np.array_equal(volume.voxels, truth.voxels)
        and (aired is None or np.array_equal(aired.voxels[measured], truth.voxels[measured]))
    )


def check(series: MessySeries, planned: Planned, policy: dd.Policy | None = None) -> None:
    """Hold what comes out against the truth: nothing wrong, nothing twice, nothing left out."""
    repair = policy is not None
    left, possible = [*series.volumes, *series.repaired * repair], [*series.possible]
    with TemporaryDirectory() as folder:
        series.write(Path(folder))

        plan = planned(Path(folder), policy)

        reasons = [str(rejection) for rejection in plan.rejected]
        reasons += [str(rejection) for rejection in plan.catalog.rejected if is_slice(rejection)]
        for stack in plan.stacks:
            try:
                kept, aired = dd.read_volume(stack, padding="keep"), dd.read_volume(stack)
            except dd.PixelError as error:
                reasons.append(str(error))
                continue
            # What has to come out is looked for first: two series may be the same.
            true = [truth for truth in left if is_true(kept, truth, aired=aired)]
            true = true or [truth for truth in possible if is_true(kept, truth, aired=aired)]
            assert true, f"wrong: {stack.shape} {stack.dimension} {list(map(str, stack.findings))}"
            # Two series may differ by less than the positions of one of them are rounded.
            found = min(true, key=lambda truth: truth.tolerance)
            left = [truth for truth in left if truth is not found]
            possible = [truth for truth in possible if truth is not found]
    assert not left, f"refused: {[truth.voxels.shape for truth in left]} {reasons}"
    refusals = series.refusals - (series.refusals if repair and series.repaired else frozenset())
    if len(possible) == len(series.possible):
        named = any(name in reason for name in refusals for reason in reasons)
        assert named == bool(refusals) == bool(reasons), f"{refusals}: {reasons}"


def is_slice(rejection: dd.Rejection) -> bool:
    return rejection.subject.endswith(".dcm")


@pytest.mark.parametrize("mess", MESSES)
@given(data=st.data())
def test_every_mess_gives_the_truth_or_a_refusal_by_name(
    data: st.DataObject, mess: str, planned: Planned
) -> None:
    check(data.draw(messy_series(mess)), planned)


@given(series=messy_series("gap") | messy_series("odd slice"))
def test_a_gap_is_filled_with_air_where_that_is_asked_for(
    series: MessySeries, planned: Planned
) -> None:
    check(series, planned, dd.Policy(gap="repair"))


@given(data=st.data(), scanner=series_phantoms(slices=(2, 5)))
def test_a_clean_ct_is_read_as_gdcm_reads_its_slices(
    data: st.DataObject, scanner: SeriesPhantom, planned: Planned
) -> None:
    # GDCM rescales no MR, wants High Bit to be the last of Bits Stored and one byte more than one.
    bits = 8 * scanner.plane(0).dtype.itemsize
    phantom = replace(scanner, modality="CT", bits_stored=bits, high_bit=bits - 1)
    with TemporaryDirectory() as folder:
        paths = write_series(folder, phantom)

        (stack,) = planned(Path(folder)).stacks

        volume = dd.read_volume(stack)
        assert list(stack.paths) == [str(path) for path in paths]
        for k, path in enumerate(paths):
            image = SimpleITK.ReadImage(str(path))
            words = SimpleITK.GetArrayFromImage(image)[0]
            assert np.array_equal(volume.voxels[k], words.astype(np.float32))
            for row, column in ((0, 0), (2, 0), (0, 3)):
                place = image.TransformIndexToPhysicalPoint((column, row, 0))  # type: ignore[no-untyped-call]
                np.testing.assert_allclose(
                    (volume.affine_lps @ (k, row, column, 1))[:3], place, rtol=0, atol=1e-6
                )


@pytest.mark.thorough
@settings(max_examples=3000)
@given(series=messy_series())
def test_thousands_of_messes_give_the_truth_or_a_refusal_by_name(
    series: MessySeries, planned: Planned
) -> None:
    check(series, planned)

"""Every trap, read by this package: the truth, or a refusal by name where refusing is right."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

import dicomdata as dd
from traps.suite import TRAPS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from traps.trap import Trap, Truth

    Planned = Callable[..., dd.StackPlan]


def sentence(trap: Trap) -> str:
    return f"{trap.name}: {trap.title}"


def read_all(plan: dd.StackPlan) -> tuple[list[dd.Volume], str]:
    """Every volume of a plan, and the words of all refusals, at planning and at reading."""
    volumes = []
    errors = [rejection.error for rejection in (*plan.catalog.rejected, *plan.rejected)]
    for stack in plan.stacks:
        try:
            volumes.append(dd.read_volume(stack))
        except dd.DicomDataError as error:
            errors.append(error)
    return volumes, "; ".join(f"{type(error).__name__}: {error}" for error in errors)


def is_at(volume: dd.Volume, truth: Truth, tolerance_mm: float) -> bool:
    """Whether a volume has the shape and the place of a truth."""
    if volume.voxels.shape != truth.voxels.shape:
        return False
    corners = np.stack(
        np.meshgrid(*[(0, n - 1) for n in truth.voxels.shape], (1,), indexing="ij")
    ).reshape(4, -1)
    off = (volume.affine_lps - truth.affine_lps) @ corners
    return float(np.abs(off).max()) <= tolerance_mm


def assert_true(volume: dd.Volume, truth: Truth) -> None:
    """Compare voxels with what float64 arithmetic gives, to the last place of float32."""
    expected = truth.voxels.astype(np.float32)
    np.testing.assert_array_max_ulp(volume.voxels, expected, maxulp=1)
    assert volume.unit == truth.unit
    assert volume.valid.tolist() == list(truth.valid or [True] * len(expected))
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    np.testing.assert_allclose(volume.affine_ras, to_ras @ volume.affine_lps, rtol=0, atol=1e-9)


@pytest.mark.parametrize("trap", TRAPS.values(), ids=sentence)
def test_a_trap_is_read_right_or_refused_by_name(
    trap: Trap, tmp_path: Path, planned: Planned
) -> None:
    trap.write(tmp_path)

    plan = planned(tmp_path, dd.Policy(**trap.policy))
    if trap.meanwhile is not None:
        trap.meanwhile(tmp_path)
    volumes, refusal = read_all(plan)

    if refusal or not trap.truth:
        assert trap.refusal, f"needless refusal: {refusal}"
        assert re.search(trap.refusal, refusal)
        assert not volumes
        return
    assert len(volumes) == len(trap.truth)
    for truth in trap.truth:
        at_its_place = [v for v in volumes if is_at(v, truth, trap.tolerance_mm)]
        assert at_its_place, [volume.affine_lps for volume in volumes]
        # Two phases lie at one place: they are told apart by their first voxel.
        volume = min(at_its_place, key=lambda v: abs(v.voxels.flat[0] - truth.voxels.flat[0]))
        assert_true(volume, truth)
    reported = {finding.kind for stack in plan.stacks for finding in stack.findings}
    reported |= {row.outcome for row in plan.outcomes}
    assert trap.findings <= reported

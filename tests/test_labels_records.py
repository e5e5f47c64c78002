"""What a mask is: read-only voxels on its stack's grid, names, and one number a voxel."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import dicomdata as dd
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from pathlib import Path

SAME = dd.Verdict("same_grid", 0.0, "made here")


@pytest.fixture
def stack(tmp_path: Path) -> dd.Stack:
    write_series(tmp_path)
    (only,) = dd.plan_stacks(dd.scan(tmp_path, progress=False)).stacks
    return only


def mask_of(stack: dd.Stack, voxels: np.ndarray, *names: str) -> dd.Mask:
    segments = tuple(dd.Segment(number, name) for number, name in enumerate(names, 1))
    return dd.Mask(voxels, segments, stack, SAME)


def test_a_mask_is_read_only_and_leaves_its_maker_free(stack: dd.Stack) -> None:
    voxels = np.zeros((1, *stack.shape), bool)

    mask = mask_of(stack, voxels, "Lung")

    with pytest.raises(ValueError, match="read-only"):
        mask.voxels[0, 0, 0, 0] = True
    voxels[0, 0, 0, 0] = True
    assert pickle.loads(pickle.dumps(mask)).voxels.sum() == 1


def test_a_mask_of_another_shape_is_refused(stack: dd.Stack) -> None:
    with pytest.raises(dd.LabelError, match=r"expected voxels of shape \(1, 5, 4, 6\)"):
        mask_of(stack, np.zeros((1, 5, 6, 4), bool), "Lung")


def test_a_segment_is_asked_for_by_its_name(stack: dd.Stack) -> None:
    voxels = np.zeros((3, *stack.shape), bool)
    voxels[1] = True
    mask = mask_of(stack, voxels, "Lung", "Liver", "Lung")

    assert mask.of("Liver").all()
    with pytest.raises(dd.LabelError, match="2 segments are called 'Lung'"):
        mask.of("Lung")
    with pytest.raises(dd.LabelError, match="0 segments are called 'Heart'"):
        mask.of("Heart")


def test_fractions_count_from_one_half_on(stack: dd.Stack) -> None:
    voxels = np.zeros((2, *stack.shape), np.float32)
    voxels[0, 0, 0, :3] = (0.49, 0.5, 1)
    voxels[1, 0, 0, 0] = 0.51

    flat = mask_of(stack, voxels, "Lung", "Liver").labelmap()

    assert flat.dtype == np.uint16
    assert_array_equal(flat[0, 0], [2, 1, 1, 0, 0, 0])

"""`GridPatches` and `reassemble`: windows and their predictions, as MONAI's sliding windows."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval, sliding_window_inference
from torch.utils.data import DataLoader
from volumes_to_cut import three_volumes, whole, xyz

import dicomdata as dd

if TYPE_CHECKING:
    from volumes_to_cut import Planned, Triple


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory, planned: Planned) -> tuple[dd.Stack, ...]:
    """Three CT volumes, all larger than a patch of (4, 6, 5)."""
    return three_volumes(tmp_path_factory.mktemp("archive"), planned)


# --- windows of a grid ----------------------------------------------------------------------------


@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    size=st.tuples(*[st.integers(1, 20)] * 3),
    overlap=st.sampled_from([0, 0.1, 0.25, 0.5, 0.7, 0.9]),
)
def test_windows_are_those_of_monai(shape: Triple, size: Triple, overlap: float) -> None:
    grid = dd.GridPatches(overlap=overlap)
    padded = tuple(map(max, shape, size))
    before = [max(want - length, 0) // 2 for length, want in zip(shape, size, strict=True)]
    interval = _get_scan_interval(padded, size, 3, (overlap,) * 3)
    expected = [
        tuple(axis.start - pad for axis, pad in zip(window, before, strict=True))
        for window in dense_patch_slices(padded, size, interval)
    ]

    count = grid.count(shape, size)

    assert count == len(expected)
    assert [grid.place(shape, size, number) for number in {0, count // 2, count - 1}] == [
        expected[number] for number in {0, count // 2, count - 1}
    ]
    assert list(itertools.product(*grid.axes(shape, size))) == expected


def test_a_grid_has_each_window_of_each_stack_once(stacks: tuple[dd.Stack, ...]) -> None:
    dataset = dd.PatchDataset(stacks, (4, 6, 5), where=dd.GridPatches(overlap=0))

    seen = [(sample["stack"], *sample["patch_start"].tolist()) for sample in dataset]

    assert len(seen) == len(set(seen)) == len(dataset) == 3 * 2 * 3 + 2 * 2 * 2 + 2 * 3 * 2
    assert seen[0] == (stacks[0].id, 0, 0, 0)
    assert seen[1] == (stacks[0].id, 0, 0, 5)
    assert seen[-1] == (stacks[2].id, 1, 10, 3)
    assert [key[0] for key in seen] == sorted(
        (key[0] for key in seen), key=[stack.id for stack in stacks].index
    )
    assert dataset[-1]["patch_start"].tolist() == [1, 10, 3]
    with pytest.raises(IndexError):
        dataset[len(dataset)]


SMALLER, LARGER, MIXED = (4, 6, 5), (12, 17, 16), (3, 14, 6)


@pytest.mark.parametrize("weight", ["constant", "gaussian"])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.6])
@pytest.mark.parametrize("size", [SMALLER, LARGER, MIXED])
def test_predictions_are_put_back_as_monais_sliding_windows(
    stacks: tuple[dd.Stack, ...], size: Triple, overlap: float, weight: Any
) -> None:
    # A network that says another thing of a voxel in each window.
    within = torch.rand((2, *xyz(size)), generator=torch.Generator().manual_seed(4))

    def network(images: torch.Tensor) -> torch.Tensor:
        return images * within

    stack = stacks[0]
    expected: Any = sliding_window_inference(
        whole(stack)[None], xyz(size), 2, network, overlap, weight, cval=-1024
    )
    windows = dd.PatchDataset([stack], size, where=dd.GridPatches(overlap=overlap))
    batches = DataLoader(windows, batch_size=3, collate_fn=dd.collate)

    result = dd.reassemble(
        ((batch["patch_start"], network(batch["image"])) for batch in batches), stack, weight=weight
    )

    torch.testing.assert_close(result.as_tensor(), expected[0].as_tensor(), rtol=1e-6, atol=1e-3)
    assert torch.equal(result.affine, whole(stack).affine)
    np.testing.assert_array_equal(dd.from_metatensor(result[:1]).affine_lps, stack.affine_lps)


def test_a_network_that_changes_nothing_gives_the_volume(stacks: tuple[dd.Stack, ...]) -> None:
    windows = dd.PatchDataset(stacks[1:2], (4, 6, 5), where=dd.GridPatches(overlap=0.5))

    result = dd.reassemble(
        ((sample["patch_start"], sample["image"]) for sample in windows), stacks[1]
    )

    assert torch.equal(result.as_tensor(), whole(stacks[1]).as_tensor())


def test_what_cannot_be_put_back_is_refused_by_name(stacks: tuple[dd.Stack, ...]) -> None:
    stack = stacks[0]
    windows = dd.PatchDataset([stack], (4, 6, 5), where=dd.GridPatches(overlap=0))
    pieces = [(sample["patch_start"], sample["image"]) for sample in windows]

    for patches, text in (
        (pieces[:-1], "24 voxels are in no patch"),
        ([], f"{math.prod(stack.shape)} voxels are in no patch"),
        ([(pieces[0][0], pieces[0][1].int())], "cannot be averaged"),
        ([((0, 0, 12), pieces[0][1])], r"\(0, 0, 12\) does not lie"),
        ([*pieces, (pieces[0][0], pieces[0][1][..., :2])], "one shape"),
    ):
        with pytest.raises(dd.ConfigError, match=rf"(?s){stack.id}.*{text}"):
            dd.reassemble(patches, stack)
    with pytest.raises(dd.ConfigError, match=r"\(B, C, X, Y, Z\); got \(3,\) and \(5, 6, 4\)"):
        dd.reassemble([(pieces[0][0], pieces[0][1][0])], stack)
    with pytest.raises(dd.ConfigError, match="weight='linear'"):
        dd.reassemble(pieces, stack, weight="linear")  # type: ignore[arg-type]

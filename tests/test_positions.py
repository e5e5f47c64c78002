"""Where patches are drawn, and `LabelPositions`, by which classes are balanced."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.transforms import SpatialCrop
from monai.transforms.utils import correct_crop_centers
from volumes_to_cut import three_volumes, xyz

import dicomdata as dd
from dicomdata.dataset import SampleIndex
from dicomdata.dataset.placement import about

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from volumes_to_cut import Planned, Triple


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory, planned: Planned) -> tuple[dd.Stack, ...]:
    """Three CT volumes, all larger than a patch of (4, 6, 5)."""
    return three_volumes(tmp_path_factory.mktemp("archive"), planned)


def starts_of(dataset: dd.PatchDataset, index: int = 0, *, times: int) -> list[Triple]:
    """Draw a patch of one stack many times: where they begin."""
    drawn = (dataset[SampleIndex(index, seed=1, epoch=epoch)] for epoch in range(times))
    return [tuple(sample["patch_start"].tolist()) for sample in drawn]


# --- uniform --------------------------------------------------------------------------------------


def test_every_place_is_equally_likely(stacks: tuple[dd.Stack, ...]) -> None:
    dataset = dd.PatchDataset(stacks, (8, 11, 14))

    starts = Counter(starts_of(dataset, times=600))

    # Two by two places along slices and rows, one along columns: 150 of each expected, and
    # 45 is four standard deviations.
    assert set(starts) == {(s, r, 0) for s in (0, 1) for r in (0, 1)}
    assert all(abs(count - 150) < 45 for count in starts.values())


# --- balanced -------------------------------------------------------------------------------------


def mask_of(stack: dd.Stack) -> NDArray[np.uint8]:
    """Ten voxels of class 1, two of class 7 at the ends of the volume, and background."""
    mask = np.zeros(stack.shape, np.uint8)
    mask[3, 5, 0:10:1] = 1
    mask[0, 0, 0] = mask[-1, -1, -1] = 7
    return mask


def corner_of(centre: Any, size: Triple, shape: Triple) -> tuple[int, ...]:
    """Say where MONAI begins a crop about a centre."""
    centres = correct_crop_centers(list(xyz(centre)), xyz(size), xyz(shape))
    crop: Any = SpatialCrop(roi_center=centres, roi_size=xyz(size))
    return tuple(axis.start for axis in reversed(crop.slices))


@given(size=st.integers(1, 40), more=st.integers(0, 40), part=st.floats(0, 1, exclude_max=True))
def test_a_patch_about_a_voxel_is_moved_as_monai_moves_it(
    size: int, more: int, part: float
) -> None:
    length = size + more
    centre = int(part * length)

    expected = corner_of((centre,) * 3, (size,) * 3, (length,) * 3)

    assert (about(centre, length, size),) * 3 == expected


def test_patches_about_a_class_are_monais(stacks: tuple[dd.Stack, ...]) -> None:
    size, stack = (4, 6, 5), stacks[0]
    index = dd.LabelPositions.of_masks(stacks[:1], mask_of)

    for label in (1, 7):
        where = dd.BalancedPatches(index=index, weights={label: 1})
        starts = starts_of(dd.PatchDataset(stacks[:1], size, where=where), times=150)
        centres = np.argwhere(mask_of(stack) == label)
        assert set(starts) == {corner_of(centre, size, stack.shape) for centre in centres}


def test_classes_are_drawn_by_their_weights(stacks: tuple[dd.Stack, ...]) -> None:
    index = dd.LabelPositions.of_masks(stacks, mask_of)
    assert index.classes == (0, 1, 7)

    def shares(**options: Any) -> dict[int, float]:
        # Patches of one voxel lie where their class is.
        dataset = dd.PatchDataset(
            stacks[:1], (1, 1, 1), where=dd.BalancedPatches(index=index, **options)
        )
        mask = mask_of(stacks[0])
        drawn = Counter(int(mask[start]) for start in starts_of(dataset, times=600))
        return {label: drawn[label] / 600 for label in (0, 1, 7)}

    # Of 600, four standard deviations are 0.08 at most.
    assert shares() == pytest.approx({0: 1 / 3, 1: 1 / 3, 7: 1 / 3}, abs=0.08)
    assert shares(weights={0: 3, 7: 1}) == pytest.approx({0: 0.75, 1: 0, 7: 0.25}, abs=0.08)
    # All foreground voxels alike: ten of class 1, two of class 7.
    assert shares(foreground=0.6) == pytest.approx({0: 0.4, 1: 0.5, 7: 0.1}, abs=0.08)
    assert shares(foreground=1)[0] == 0


def test_a_class_that_a_stack_has_not_leaves_its_share(stacks: tuple[dd.Stack, ...]) -> None:
    masks = [mask_of(stacks[0]), np.zeros(stacks[1].shape, bool)]
    index = dd.LabelPositions.of_masks(stacks[:2], masks)

    dataset = dd.PatchDataset(
        stacks[:2], (1, 1, 1), where=dd.BalancedPatches(index=index, foreground=0.9)
    )

    assert len(starts_of(dataset, 1, times=5)) == 5
    with pytest.raises(dd.ConfigError, match=rf"{stacks[1].id}.*has classes 0"):
        dd.PatchDataset(
            stacks[:2], (1, 1, 1), where=dd.BalancedPatches(index=index, weights={1: 1})
        )


def test_voxels_of_a_large_class_are_kept_in_part_and_evenly(
    stacks: tuple[dd.Stack, ...],
) -> None:
    mask = np.zeros(stacks[0].shape, np.int64)
    mask[::2] = 5

    one, same = (
        dd.LabelPositions.of_masks(stacks[:1], [mask], classes=(5,), per_class=200)
        for _ in range(2)
    )

    labels = one.of(stacks[0])
    kept = labels.positions[5]
    assert labels.counts == {5: 5 * 12 * 14}
    np.testing.assert_array_equal(kept, same.of(stacks[0]).positions[5])
    assert len(np.unique(kept)) == 200
    assert (mask.ravel()[kept] == 5).all()
    # Five slices share 200 evenly: 40 each, of which 22 is four standard deviations.
    slices = Counter((kept // (12 * 14)).tolist())
    assert all(abs(slices[number] - 40) < 22 for number in (0, 2, 4, 6, 8))


def test_all_voxels_of_a_small_class_are_kept(stacks: tuple[dd.Stack, ...]) -> None:
    index = dd.LabelPositions.of_masks(stacks, mask_of)

    for stack in stacks:
        for label in (0, 1, 7):
            np.testing.assert_array_equal(
                index.of(stack).positions[label], np.flatnonzero(mask_of(stack) == label)
            )


def test_an_index_is_saved_without_pickle(stacks: tuple[dd.Stack, ...], tmp_path: Path) -> None:
    index = dd.LabelPositions.of_masks(stacks, mask_of)

    index.save(tmp_path / "index")
    loaded = dd.LabelPositions.load(tmp_path / "index")

    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    for copy in (loaded, pickle.loads(pickle.dumps(index))):
        assert list(copy.stacks) == list(index.stacks)
        for stack in stacks:
            one, other = copy.of(stack), index.of(stack)
            assert (one.shape, one.counts) == (other.shape, other.counts)
            for label, positions in other.positions.items():
                np.testing.assert_array_equal(one.positions[label], positions)


def test_an_index_of_nothing_is_saved_too(tmp_path: Path) -> None:
    dd.LabelPositions.of_masks([], []).save(tmp_path / "index")

    assert dd.LabelPositions.load(tmp_path / "index").classes == ()


def test_a_file_that_is_no_index_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with pytest.raises(dd.FileError, match="index"):
        dd.LabelPositions.load(path)
    for damage in (b"", b"not an archive", pickle.dumps([1])):
        path.write_bytes(damage)
        with pytest.raises(dd.ConfigError, match="no index of label positions"):
            dd.LabelPositions.load(path)
    with open(path, "wb") as file:
        np.savez(file, format=np.array(99))
    with pytest.raises(dd.ConfigError, match="format 99, expected 1"):
        dd.LabelPositions.load(path)
    with pytest.raises(dd.FileError, match="cannot be written"):
        dd.LabelPositions.of_masks([], []).save(tmp_path / "no" / "index")


def test_a_mask_that_is_not_the_stacks_is_refused_by_name(stacks: tuple[dd.Stack, ...]) -> None:
    stack = stacks[0]
    for mask, text in (
        (np.zeros(stack.shape, np.float32), "of float32"),
        (np.zeros(xyz(stack.shape), np.uint8), r"shape \(14, 12, 9\)"),
    ):
        with pytest.raises(dd.LabelError, match=rf"{stack.id}.*{text}"):
            dd.LabelPositions.of_masks([stack], [mask])
    with pytest.raises(dd.ConfigError, match="1 masks for 3 stacks"):
        dd.LabelPositions.of_masks(stacks, [mask_of(stack)])
    with pytest.raises(dd.ConfigError, match="per_class=0"):
        dd.LabelPositions.of_masks([stack], mask_of, per_class=0)


def test_weights_that_mean_nothing_are_refused(stacks: tuple[dd.Stack, ...]) -> None:
    index = dd.LabelPositions.of_masks(stacks[:1], mask_of)

    options: Any
    for options, text in (
        ({"weights": {1: 1}, "foreground": 0.5}, "got both"),
        ({"weights": {1: -1}}, "expected 0 or more"),
        ({"weights": {1: 0}}, "one above 0"),
        ({"weights": {1: math.nan}}, "expected 0 or more"),
        ({"weights": {2: 1}}, "no voxel of class 2 in any stack; the index has 0, 1, 7"),
        ({"foreground": 1.5}, r"foreground=1\.5"),
    ):
        with pytest.raises(dd.ConfigError, match=text):
            dd.BalancedPatches(index=index, **options)
    with pytest.raises(dd.ConfigError, match=rf"{stacks[1].id}: not in the index"):
        dd.PatchDataset(stacks, (4, 6, 5), where=dd.BalancedPatches(index=index))
    with pytest.raises(dd.ConfigError, match="not in the index"):
        dd.PatchDataset([stacks[0].reversed()], (4, 6, 5), where=dd.BalancedPatches(index=index))

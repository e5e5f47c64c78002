"""`predict` and `to_mask`: what a network says, back on the grid of the stack it saw."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import SlidingWindowInferer
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    CropForegroundd,
    DivisiblePadd,
    Flipd,
    Lambdad,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)
from numpy.testing import assert_allclose, assert_array_equal

import dicomdata as dd
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Planned = Callable[..., dd.StackPlan]

SHAPE = (8, 12, 10)

TILTED: dict[str, Any] = {"orientation": (1, 0, 0, 0, 0.9396926, -0.3420201), "step": (0, 0, 5.0)}
OBLIQUE: dict[str, Any] = {"orientation": (0.8, 0.6, 0, 0, 0, -1)}


def organ() -> NDArray[np.bool_]:
    voxels = np.zeros(SHAPE, np.bool_)
    voxels[2:6, 3:9, 2:7] = True
    return voxels


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory, planned: Planned) -> dict[str, dd.Stack]:
    """Volumes of -1000 HU, with an organ of 500."""
    stored = np.where(organ(), 500, -1000).astype(np.int16)
    grids: dict[str, dict[str, Any]] = {"straight": {}, "tilted": TILTED, "oblique": OBLIQUE}
    found = {}
    for name, changes in grids.items():
        folder = tmp_path_factory.mktemp(name)
        write_series(
            folder, shape=SHAPE, stored=stored, slope=1, intercept=0, signed=True, seed=name,
            **changes,
        )  # fmt: skip
        (found[name],) = planned(folder).stacks
    return found


@pytest.fixture(scope="module")
def stack(stacks: dict[str, dd.Stack]) -> dd.Stack:
    return stacks["straight"]


def bright(batch: torch.Tensor) -> torch.Tensor:
    """Stand for a network: logits of background and organ, the organ from -250 HU on."""
    above = (batch + 250) / 100
    return torch.cat([-above, above], dim=1)


class Bright(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(0.9)
        self.frozen = torch.nn.Dropout(0.9).eval()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return bright(cast("torch.Tensor", self.dropout(self.frozen(batch))))


def lung(prediction: MetaTensor, stack: dd.Stack) -> NDArray[np.bool_]:
    mask = dd.to_mask(prediction, stack, ["Lung"], decide="argmax")
    return cast("NDArray[np.bool_]", mask.of("Lung"))


# --- patches --------------------------------------------------------------------------------------


def patches(*stacks: dd.Stack, **options: Any) -> dd.PatchDataset:
    where = dd.GridPatches(overlap=0.5)
    return dd.PatchDataset(stacks, (4, 6, 6), where=where, **options)


@pytest.mark.parametrize("name", ["straight", "tilted", "oblique"])
def test_patches_come_back_to_where_they_were(stacks: dict[str, dd.Stack], name: str) -> None:
    stack = stacks[name]

    found = dd.predict(bright, patches(stack), 0, activation="softmax", batch_size=3)

    assert found.shape == (2, *reversed(SHAPE))
    assert_array_equal(lung(found, stack), organ())
    assert_allclose(found.sum(0).numpy(), 1, atol=1e-6)


def test_of_several_stacks_the_one_asked_for_is_predicted(stacks: dict[str, dd.Stack]) -> None:
    dataset = patches(stacks["straight"], stacks["tilted"], stacks["oblique"])

    last = dd.predict(bright, dataset, -1, activation="softmax", weight="gaussian")

    assert_array_equal(lung(last, stacks["oblique"]), organ())
    with pytest.raises(dd.LabelError, match="another grid"):
        lung(last, stacks["tilted"])


def test_patches_and_a_sliding_window_agree(stack: dd.Stack) -> None:
    inferer = SlidingWindowInferer((6, 6, 4), overlap=0.5)

    one = dd.predict(bright, patches(stack), 0, activation="sigmoid")
    other = dd.predict(bright, dd.VolumeDataset([stack]), 0, activation="sigmoid", inferer=inferer)

    assert_allclose(one.numpy(), other.numpy(), atol=1e-6)


def test_a_network_predicts_in_evaluation_mode_and_is_left_as_it_was(stack: dd.Stack) -> None:
    network = Bright()

    found = dd.predict(network, patches(stack), 0, activation="softmax")

    assert_array_equal(lung(found, stack), organ())
    assert network.training
    assert network.dropout.training
    assert not network.frozen.training


@pytest.mark.parametrize("step", [Flipd("image", 0), Orientationd("image", "LPI")])
def test_patches_that_a_transform_has_moved_are_refused(stack: dd.Stack, step: Any) -> None:
    dataset = patches(stack, transform=Compose([step]))

    with pytest.raises(dd.ConfigError, match="a transform has moved it: predict whole volumes"):
        dd.predict(bright, dataset, 0, activation="softmax")


def test_patches_drawn_at_random_are_refused(stack: dd.Stack) -> None:
    with pytest.raises(dd.ConfigError, match="where=UniformPatches"):
        dd.predict(bright, dd.PatchDataset([stack], (4, 6, 6)), 0, activation="softmax")


# --- volumes, through transforms and back ---------------------------------------------------------

TRANSFORMS: dict[str, list[Any]] = {
    "none": [],
    "scaled": [ScaleIntensityRanged("image", -1000, 500, -1000, 500)],
    "flipped": [Flipd("image", 0)],
    "turned": [Orientationd("image", axcodes="PIR")],
    "padded": [DivisiblePadd("image", 16, value=-1000)],
    "cropped": [CropForegroundd("image", "image", select_fn=lambda image: image > 0, margin=1)],
    "cropped and turned": [
        CropForegroundd("image", "image", select_fn=lambda image: image > 0, margin=2),
        Orientationd("image", axcodes="LPS"),
        DivisiblePadd("image", 4, value=-1000),
    ],
}


@pytest.mark.filterwarnings("ignore::FutureWarning:monai")
@pytest.mark.parametrize("name", ["straight", "oblique"])
@pytest.mark.parametrize("steps", TRANSFORMS.values(), ids=list(TRANSFORMS))
def test_a_volume_comes_back_through_its_transform(
    stacks: dict[str, dd.Stack], name: str, steps: list[Any]
) -> None:
    dataset = dd.VolumeDataset([stacks[name]], Compose(steps) if steps else None)

    found = dd.predict(bright, dataset, 0, activation="softmax")

    assert_array_equal(lung(found, stacks[name]), organ())
    assert found.dtype == torch.float32


@pytest.mark.parametrize("name", ["straight", "tilted", "oblique"])
def test_a_resampled_volume_comes_back_to_the_grid(stacks: dict[str, dd.Stack], name: str) -> None:
    stack = stacks[name]
    transform = Compose([Spacingd("image", pixdim=(0.4, 0.6, 1.5))])

    found = dd.predict(bright, dd.VolumeDataset([stack], transform), 0, activation="softmax")

    truth = dd.place_mask(organ()[None], stack.affine_lps, stack, ["Lung"])
    mask = dd.to_mask(found, stack, ["Lung"], decide="argmax")
    # What was interpolated there and back is off by a voxel at the edges, and nowhere else.
    scored = dd.score(truth, mask).of("Lung")
    assert scored.dice > 0.8
    assert scored.hausdorff_mm <= max(np.linalg.norm(stack.affine_lps[:3, :3], axis=0)) + 1e-6
    assert mask.verdict.kind == "same_grid"


def test_a_transform_that_forgets_what_it_did_is_refused(stack: dd.Stack) -> None:
    def every_other(image: MetaTensor) -> MetaTensor:
        return cast("MetaTensor", image[..., ::2])

    transform = Compose([Lambdad("image", every_other)])

    with pytest.raises(dd.GeometryError, match="came back with shape"):
        dd.predict(bright, dd.VolumeDataset([stack], transform), 0, activation="softmax")


def test_a_single_transform_cannot_be_inverted_but_in_a_compose(stack: dd.Stack) -> None:
    dataset = dd.VolumeDataset([stack], Flipd("image", 0))

    with pytest.raises(dd.ConfigError, match="only a Compose can be inverted"):
        dd.predict(bright, dataset, 0, activation="softmax")


def test_a_transform_of_labels_too_is_inverted_for_the_image_alone(stack: dd.Stack) -> None:
    keys = ("image", "label")
    steps = [Flipd(keys, 0), Spacingd(keys, pixdim=(0.25, 0.4, 1.25), mode=("bilinear", "nearest"))]
    dataset = dd.VolumeDataset([stack], Compose(steps), labels=lambda _: organ().astype(np.uint8))

    found = dd.predict(bright, dataset, 0, activation="softmax")

    mask = dd.to_mask(found, stack, ["Lung"], decide="argmax")
    truth = dd.place_mask(organ()[None], stack.affine_lps, stack, ["Lung"])
    assert dd.score(truth, mask).of("Lung").dice > 0.8


def test_what_a_cache_kept_of_a_transform_is_inverted_too(stack: dd.Stack) -> None:
    transform = Compose([Flipd("image", 0), DivisiblePadd("image", 16, value=-1000)])
    dataset = dd.VolumeDataset([stack], transform, dd.MemoryCache("1 GB"))

    first, second = (dd.predict(bright, dataset, 0, activation="softmax") for _ in range(2))

    assert len(dataset.kept_transforms) == 2
    assert_array_equal(lung(first, stack), organ())
    assert_array_equal(second.numpy(), first.numpy())


# --- what a network gives -------------------------------------------------------------------------


def test_logits_are_no_probabilities(stack: dd.Stack) -> None:
    with pytest.raises(dd.ConfigError, match="which are no probabilities"):
        dd.predict(bright, dd.VolumeDataset([stack]), 0, activation="none")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda batch: [batch], "gives list"),
        (lambda batch: batch[..., :-1], r"gives \(1, 1, 10, 12, 7\) for \(1, 1, 10, 12, 8\)"),
        (lambda batch: batch * torch.nan, "no probabilities"),
    ],
)
def test_what_is_no_prediction_is_refused(stack: dd.Stack, network: Any, message: str) -> None:
    with pytest.raises(dd.ConfigError, match=message):
        dd.predict(network, dd.VolumeDataset([stack]), 0, activation="sigmoid")


def test_what_a_network_cannot_take_is_told_with_its_shape(stack: dd.Stack) -> None:
    # 10 rows are not to be halved twice.
    network = UNet(3, 1, 2, (2, 4, 8), (2, 2))

    with pytest.raises(dd.ConfigError, match=r"takes no \(1, 1, 10, 12, 8\): RuntimeError"):
        dd.predict(network, dd.VolumeDataset([stack]), 0, activation="softmax")


def test_softmax_of_one_channel_is_refused(stack: dd.Stack) -> None:
    with pytest.raises(dd.ConfigError, match="use 'sigmoid'"):
        dd.predict(lambda x: x, dd.VolumeDataset([stack]), 0, activation="softmax")


# --- masks ----------------------------------------------------------------------------------------


def test_each_channel_may_be_a_segment(stack: dd.Stack) -> None:
    found = dd.predict(bright, dd.VolumeDataset([stack]), 0, activation="sigmoid")

    mask = dd.to_mask(found, stack, ["Air", "Lung"], decide="each")

    assert_array_equal(mask.of("Air"), ~organ())
    assert_array_equal(mask.of("Lung"), organ())


def test_channels_and_segments_must_go_together(stack: dd.Stack) -> None:
    found = dd.predict(bright, dd.VolumeDataset([stack]), 0, activation="softmax")

    with pytest.raises(dd.LabelError, match="2 segments by 'argmax' need 3 channels"):
        dd.to_mask(found, stack, ["Air", "Lung"], decide="argmax")


def test_probabilities_are_resampled_before_they_are_decided(stack: dd.Stack) -> None:
    # One slice between two of the stack, moved by a quarter: shares of .25 and .75.
    affine = stack.affine_ras[:, [2, 1, 0, 3]].copy()
    affine[:3, 3] += 0.25 * affine[:3, 2]
    shares = torch.zeros(1, *reversed(SHAPE))
    shares[..., 3] = 1.0
    moved = MetaTensor(shares, affine=torch.from_numpy(affine))

    mask = dd.to_mask(moved, stack, ["Lung"], decide="each", resample=True)

    # Slice 3 of the stack lies a quarter before slice 3 of the prediction.
    assert np.flatnonzero(np.any(mask.of("Lung"), axis=(1, 2))).tolist() == [3]
    assert mask.verdict.kind == "resampled"
    with pytest.raises(dd.LabelError, match="another grid"):
        dd.to_mask(moved, stack, ["Lung"], decide="each")


def test_what_was_predicted_upright_goes_back_to_the_leaning_grid(
    stacks: dict[str, dd.Stack],
) -> None:
    leaning = stacks["tilted"]
    upright = dd.untilt(leaning)

    shares = dd.predict(bright, dd.VolumeDataset([upright]), 0, activation="softmax")
    mask = dd.to_mask(shares, leaning, ["Lung"], decide="argmax", resample=True)

    truth = dd.place_mask(organ()[None], leaning.affine_lps, leaning, ["Lung"])
    assert dd.score(truth, mask).of("Lung").dice > 0.9
    assert mask.verdict.kind == "resampled"


def test_scores_need_no_torch() -> None:
    program = "import sys, dicomdata as dd; dd.score, dd.evaluate; print('torch' in sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "False"

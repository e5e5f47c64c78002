"""A network's output on the grid of the stack it saw: `predict`, and as a mask: `to_mask`.

Patches are put together where they lie, whole volumes are taken back through the transforms, by
MONAI's own inverses. Either way the result lies on the stack's grid, or an error says that it
does not. One stack is in memory at a time, and of a grid of patches one batch. What a network says
of a stack as a whole is given by `predict_classes`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.post.dictionary import Invertd
from torch.utils.data import DataLoader, Subset

from dicomdata.dataset import GridPatches, PatchDataset, VolumeDataset, reassemble
from dicomdata.dataset.patches import PATCH_START
from dicomdata.errors import ConfigError, DicomDataError, GeometryError, LabelError
from dicomdata.evaluate.placing import place_mask
from dicomdata.labels.placing import SAME_CENTRE, place
from dicomdata.labels.records import HALF
from dicomdata.loader import collate
from dicomdata.metatensor import affine_lps_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from dicomdata.labels import Mask, Segment
    from dicomdata.stack import Stack

    Network = Callable[[torch.Tensor], torch.Tensor]
    Inferer = Callable[..., Any]

Activation: TypeAlias = Literal["softmax", "sigmoid", "none"]
"""What makes probabilities of a network's output: one class a voxel, each class by itself, or
nothing, for a network that gives probabilities."""

Decision: TypeAlias = Literal["argmax", "each"]
"""How probabilities become segments: the likeliest, channel 0 being background; or each channel a
segment, from one half on."""

_MOVED = 1e-3
"""By how much the affine of a patch may miss where it was cut, mm: nobody moves by so little."""

_ROUNDING = 1e-3
"""By how much a probability may miss 0 or 1: interpolation of what 16 bits hold."""


def predict(  # noqa: PLR0913 - network, volume, and how: all by name
    network: Network,
    dataset: VolumeDataset | PatchDataset,
    index: int,
    *,
    activation: Activation,
    inferer: Inferer | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    weight: Literal["constant", "gaussian"] = "constant",
    device: torch.device | str | None = None,
) -> MetaTensor:
    """Give what a network says of one stack of a dataset, on the grid of that stack.

    A `torch.nn.Module` is in evaluation mode meanwhile.

    Of a `PatchDataset` with `GridPatches`, all windows are predicted and averaged where they
    overlap. Of a `VolumeDataset`, the volume goes through its transform, and what the network says
    of it back: cropped, resampled, flipped and turned parts become what they were, linearly
    interpolated. What a crop left out is 0 in all channels.

    Args:
        network: (B, 1, X, Y, Z) -> (B, C, X, Y, Z), logits unless `activation` is "none".
        dataset: its transform is that of training, without what is random.
        index: which of ``dataset.stacks``.
        activation: see `Activation`; applied to what the windows of a volume come to together.
        inferer: how a whole volume is predicted, as MONAI's ``SlidingWindowInferer``; None gives
            the network all of it at once.
        batch_size: patches at a time.
        num_workers: processes that read them.
        weight: how much the voxels of a patch count, see `reassemble`.
        device: where the network is; None is where its first parameter is, or the CPU.

    Returns:
        (C, X, Y, Z), float32, probabilities from 0 to 1, on the CPU.

    Raises:
        ConfigError: if an argument makes no sense for the dataset, the network cannot take a batch
            or gives no probability of it, or a transform has moved a patch.
        GeometryError: if the transform cannot be inverted to the stack's grid.
        DicomDataError: if the stack cannot be read.
    """
    stack = dataset.stacks[index]
    where = _device_of(network) if device is None else torch.device(device)

    def run(batch: torch.Tensor) -> torch.Tensor:
        return _forward(network, batch, where, inferer)

    with _Evaluating(network), torch.no_grad():
        if isinstance(dataset, PatchDataset):
            if inferer is not None:
                raise ConfigError("inferer: patches of a grid need none")
            pieces = _predict_patches(run, dataset, index, batch_size, num_workers)
            whole = reassemble(pieces, stack, weight=weight)
            shares = _activated(whole.as_tensor(), activation, stack).cpu()
            placed = MetaTensor(shares, meta=whole.meta)
        elif weight != "constant" or (batch_size, num_workers) != (1, 0):
            raise ConfigError("batch_size, num_workers and weight are those of patches")
        else:
            placed = _predict_volume(run, dataset, index, activation)
    _check_grid(placed, stack)
    return placed


def predict_classes(
    network: Network,
    dataset: VolumeDataset,
    index: int,
    *,
    activation: Activation,
    device: torch.device | str | None = None,
) -> NDArray[np.float64]:
    """Give what a network says of one stack as a whole: the probability of each class.

    A `torch.nn.Module` is in evaluation mode meanwhile.

    Args:
        network: (1, 1, X, Y, Z) -> (1, C), logits unless `activation` is "none".
        dataset: its transform is that of training, without what is random.
        index: which of ``dataset.stacks``.
        activation: see `Activation`.
        device: see `predict`.

    Returns:
        (C,), from 0 to 1.

    Raises:
        ConfigError: if the network cannot take the volume, or gives something else, or no
            probabilities.
        DicomDataError: if the stack cannot be read.
    """
    where = _device_of(network) if device is None else torch.device(device)
    image = dataset[index][dataset.image]
    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    with _Evaluating(network), torch.no_grad():
        output = _ask(network, plain[None].to(where))
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != 1:
        found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ConfigError(
            f"the network gives {found} for {(1, *plain.shape)}: expected one tensor (1, C), a "
            f"number for each class"
        )
    logits = output.as_tensor() if isinstance(output, MetaTensor) else output
    shares = _activated(logits[0].to(torch.float64), activation, dataset.stacks[index])
    return cast("NDArray[np.float64]", shares.cpu().numpy())


def to_mask(
    prediction: MetaTensor,
    stack: Stack,
    segments: Sequence[str | Segment],
    *,
    decide: Decision,
    resample: bool = False,
) -> Mask:
    """Give probabilities as segments on the grid of a stack.

    Args:
        prediction: (C, X, Y, Z), from 0 to 1, with its affine: what `predict` gives.
        stack: on whose grid the mask is wanted.
        segments: of "argmax", channels 1 and on; of "each", all channels.
        decide: see `Decision`.
        resample: interpolate probabilities that lie on another grid, and say so in the verdict;
            otherwise they are refused.

    Raises:
        LabelError: if channels and segments do not go together, values are no probabilities, or
            they lie on another grid.
    """
    if decide not in {"argmax", "each"}:
        raise ConfigError(f"decide={decide!r}: expected 'argmax' or 'each'")
    channels = len(segments) + (decide == "argmax")
    if prediction.ndim != 4 or len(prediction) != channels:
        raise LabelError(
            f"stack {stack.id}: {len(segments)} segments by {decide!r} need {channels} channels, "
            f"(C, X, Y, Z), got a prediction of shape {tuple(prediction.shape)}"
        )
    if not isinstance(prediction, MetaTensor):
        raise LabelError(f"stack {stack.id}: a plain tensor does not say where it lies")
    voxels = prediction.as_tensor().detach().cpu().to(torch.float32).permute(0, 3, 2, 1).numpy()
    # As channels of a mask first, so that what is interpolated are probabilities.
    names = ["background", *segments] if decide == "argmax" else segments
    affine = affine_lps_of(prediction, (2, 1, 0))
    shares = place_mask(voxels, affine, stack, names, resample=resample)
    if decide == "each":
        decided = shares.voxels >= HALF
    else:
        likeliest = shares.voxels.argmax(axis=0)
        decided = np.stack([likeliest == number for number in range(1, channels)])
    made = place_mask(decided, stack.affine_lps, stack, segments)
    return replace(made, verdict=shares.verdict, findings=shares.findings)


class _Evaluating:
    """Keeps a network in evaluation mode, and gives each of its parts its own mode back."""

    def __init__(self, network: Network) -> None:
        self._modules = list(network.modules()) if isinstance(network, torch.nn.Module) else []
        self._modes = [module.training for module in self._modules]

    def __enter__(self) -> None:
        for module in self._modules:
            module.training = False

    def __exit__(self, *exception: object) -> None:
        for module, mode in zip(self._modules, self._modes, strict=True):
            module.training = mode


def _device_of(network: Network) -> torch.device:
    if isinstance(network, torch.nn.Module):
        for parameter in network.parameters():
            return parameter.device
    return torch.device("cpu")


def _forward(
    network: Network, batch: torch.Tensor, device: torch.device, inferer: Inferer | None
) -> torch.Tensor:
    """Give the network a batch (B, 1, X, Y, Z), as a plain tensor on its device."""
    plain = batch.as_tensor() if isinstance(batch, MetaTensor) else batch
    there = plain.to(device)
    # Some networks give several tensors, for deep supervision.
    ask = network if inferer is None else lambda given: inferer(given, network)
    output = _ask(ask, there)
    fits = (
        isinstance(output, torch.Tensor)
        and output.ndim == 5
        and (len(output), *output.shape[2:]) == (len(batch), *batch.shape[2:])
    )
    if not fits:
        found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ConfigError(
            f"the network gives {found} for {tuple(batch.shape)}: expected one tensor "
            f"(B, C, X, Y, Z) of the same size"
        )
    plain = output.as_tensor() if isinstance(output, MetaTensor) else output
    return plain.to(torch.float32)


def _ask(network: Callable[[torch.Tensor], Any], batch: torch.Tensor) -> Any:
    """Give whatever a network says of a batch.

    Raises:
        ConfigError: if it cannot take a batch of that shape.
    """
    try:
        return network(batch)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, DicomDataError):
            raise
        reason = next(iter(str(error).splitlines()), "")
        raise ConfigError(
            f"the network takes no {tuple(batch.shape)}: {type(error).__name__}: {reason}"
        ) from error


def _predict_patches(
    run: Network, dataset: PatchDataset, index: int, batch_size: int, num_workers: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Give where patches lie and what the network says of them, batch by batch."""
    grid = dataset.where
    if not isinstance(grid, GridPatches):
        raise ConfigError(
            f"where={type(grid).__name__}: to predict a stack takes all its windows, GridPatches"
        )
    counts = [grid.count(stack.shape, dataset.size_in(stack)) for stack in dataset.stacks]
    place = range(len(counts))[index]
    first = sum(counts[:place])
    windows = Subset(dataset, range(first, first + counts[place]))
    loader: DataLoader[Any] = DataLoader(
        windows, batch_size=batch_size, num_workers=num_workers, collate_fn=collate
    )
    for batch in loader:
        starts, image = batch[PATCH_START], batch[dataset.image]
        _check_places(image, starts, dataset.stacks[index])
        yield starts, run(image)


def _check_places(image: torch.Tensor, starts: torch.Tensor, stack: Stack) -> None:
    """Refuse patches that no longer lie where they were cut, as far as they say where they lie.

    Raises:
        ConfigError: if one does not: what the network says of it would be put elsewhere.
    """
    if not isinstance(image, MetaTensor):
        return
    affine = torch.from_numpy(stack.affine_ras.copy())
    expected = affine[:, [2, 1, 0, 3]].repeat(len(starts), 1, 1)
    expected[:, :3, 3] += starts.to(affine.dtype) @ affine[:3, :3].T
    moved = (image.affine - expected).abs().flatten(1).amax(1) > _MOVED
    if moved.any():
        raise ConfigError(
            f"stack {stack.id}: its patch at {tuple(starts[moved][0].tolist())} does not lie there "
            f"any more, a transform has moved it: predict whole volumes, through windows of an "
            f"inferer, which are taken back"
        )


def _predict_volume(
    run: Network, dataset: VolumeDataset, index: int, activation: Activation
) -> MetaTensor:
    """Predict a whole volume and take it back through the transform."""
    stack, key = dataset.stacks[index], dataset.image
    sample = dataset[index]
    image = sample[key]
    if not isinstance(image, MetaTensor):
        raise GeometryError(
            f"stack {stack.id}: the transform makes {type(image).__name__} of the image, which "
            f"does not say where it lies"
        )
    shares = _activated(run(image[None])[0], activation, stack).cpu()
    placed = MetaTensor(shares, meta=image.meta, applied_operations=image.applied_operations)
    transform = dataset.transform
    # What leaves no trace on the image left it where it was, or the grid will tell.
    if transform is None or not image.applied_operations:
        return placed
    if not isinstance(transform, Compose):
        raise ConfigError(
            f"transform {type(transform).__name__}: only a Compose can be inverted; its parts say "
            f"what they did"
        )
    # Linear, as probabilities may be: a nearest voxel would have to be a class.
    back = Invertd(keys="pred", transform=transform, orig_keys=key, nearest_interp=False)
    try:
        inverted = back({"pred": placed, key: image})["pred"]
    # What others' transforms raise is not to be foreseen.
    except Exception as error:
        raise GeometryError(
            f"stack {stack.id}: the transform cannot be inverted: {type(error).__name__}: {error}"
        ) from error
    # Interpolation may leave the range by its rounding.
    inverted.set_array(inverted.as_tensor().to(torch.float32).clamp(0, 1))
    return cast("MetaTensor", inverted)


def _activated(output: torch.Tensor, activation: Activation, stack: Stack) -> torch.Tensor:
    """Give probabilities of a network's output, channels first."""
    if activation not in {"softmax", "sigmoid", "none"}:
        raise ConfigError(f"activation={activation!r}: expected 'softmax', 'sigmoid' or 'none'")
    if activation == "softmax" and len(output) < 2:
        raise ConfigError("activation='softmax': of one channel it is always 1: use 'sigmoid'")
    shares = output
    if activation != "none":
        shares = output.softmax(0) if activation == "softmax" else output.sigmoid()
    low, high = (float(each) for each in torch.aminmax(shares))
    # Nan is no probability either.
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise ConfigError(
            f"stack {stack.id}: the network gives values from {low:g} to {high:g}, which are no "
            f"probabilities: say which activation makes them some"
        )
    return shares.clamp(0, 1)


def _check_grid(placed: MetaTensor, stack: Stack) -> None:
    """Refuse a prediction that is not voxel for voxel on the grid of its stack.

    Raises:
        GeometryError: if shape or affine differ.
    """
    _, *size = placed.shape
    shape = tuple(reversed(size))
    affine = affine_lps_of(placed, (2, 1, 0))
    found = place(affine, shape, stack.affine_lps, stack.shape) if len(shape) == 3 else None
    if shape != stack.shape or found is None or found.kind != "same_grid":
        raise GeometryError(
            f"stack {stack.id}: the prediction came back with shape {shape} and its corner at "
            f"{affine[:3, 3].round(3).tolist()}, expected {stack.shape} and "
            f"{stack.affine_lps[:3, 3].round(3).tolist()}, within {SAME_CENTRE} voxels: is there a "
            f"transform that cannot be inverted?"
        )

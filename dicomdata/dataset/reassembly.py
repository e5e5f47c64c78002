"""Predictions of patches -> one prediction on the stack's grid: `reassemble`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import compute_importance_map
from monai.utils.enums import MetaKeys

from dicomdata.errors import ConfigError
from dicomdata.metatensor import describe
from dicomdata.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dicomdata.stack import Stack

    Piece = tuple[torch.Tensor | Sequence[int], torch.Tensor]

Weight = Literal["constant", "gaussian"]
"""How much the voxels of a patch count: all alike, or less towards its borders."""


def reassemble(
    patches: Iterable[Piece],
    stack: Stack,
    *,
    weight: Weight = "constant",
    sigma_scale: float = 0.125,
) -> MetaTensor:
    """Put predictions back where their patches lie; where patches overlap, average.

    As MONAI's `sliding_window_inference` does for the windows of `GridPatches`. What was padded is
    left out.

    Args:
        patches: pairs of ``sample["patch_start"]`` and what was predicted of the patch, a tensor
            (C, X, Y, Z) of floating point; or of both as batches, (B, 3) and (B, C, X, Y, Z).
        stack: what they are patches of; all of them, and no other's.
        weight: "constant", or "gaussian", which trusts the middle of a patch more.
        sigma_scale: of "gaussian", standard deviation as a part of the patch's size.

    Returns:
        (C, X, Y, Z), float32 on the device of the predictions, with the stack's affine.

    Raises:
        ConfigError: if a voxel is in no patch, patches differ in shape, one lies outside the
            stack, or predictions are whole numbers, whose average means nothing.
    """
    total = count = weights = None
    for start, values in _apart(patches):
        _check_patch(values, start, stack)
        if total is None or count is None or weights is None:
            total, count = _zeros(values, stack)
            weights = _weights(values, weight, sigma_scale)
        if (len(total), *weights.shape) != values.shape:
            raise ConfigError(
                f"stack {stack.id}: patches of one stack must have one shape; the first is "
                f"{(len(total), *reversed(weights.shape))}, another is {_turned(values)}"
            )
        there, here = _overlap(start, tuple(weights.shape), stack.shape)
        total[:, *there].addcmul_(values[:, *here].to(torch.float32), weights[here])
        count[there] += weights[here]
    missing = math.prod(stack.shape) if count is None else int((count == 0).sum())
    if total is None or count is None or missing:
        raise ConfigError(
            f"stack {stack.id}: {missing} voxels are in no patch: predict every window of the "
            f"stack's GridPatches"
        )
    total /= count
    return _placed(total, stack)


def _apart(patches: Iterable[Piece]) -> Iterable[tuple[tuple[int, ...], torch.Tensor]]:
    """Give patches one by one, as (C, slices, rows, columns), with where they begin."""
    for start, values in patches:
        starts = torch.as_tensor(start)
        tensor = values.as_tensor() if isinstance(values, MetaTensor) else values
        if starts.ndim == 1:
            starts, tensor = starts[None], tensor[None]
        if tensor.ndim != 5 or starts.shape != (len(tensor), 3):
            raise ConfigError(
                f"expected starts (3,) and a prediction (C, X, Y, Z), or (B, 3) and "
                f"(B, C, X, Y, Z); got {tuple(torch.as_tensor(start).shape)} and "
                f"{tuple(values.shape)}"
            )
        for one, patch in zip(starts.tolist(), tensor.detach(), strict=True):
            yield tuple(one), patch.permute(0, 3, 2, 1)


def _check_patch(values: torch.Tensor, start: tuple[int, ...], stack: Stack) -> None:
    if not values.is_floating_point():
        raise ConfigError(
            f"stack {stack.id}: predictions of {values.dtype} cannot be averaged: reassemble "
            f"probabilities or logits, and take the argmax of the whole"
        )
    size = tuple(values.shape[1:])
    # Along each axis, the patch lies within the stack or the stack within the patch.
    fits = all(
        min(length - wanted, 0) <= first <= max(length - wanted, 0)
        for first, wanted, length in zip(start, size, stack.shape, strict=True)
    )
    if not fits:
        raise ConfigError(
            f"stack {stack.id}: a patch of {size} at {start} does not lie in its {stack.shape}"
        )


def _zeros(values: torch.Tensor, stack: Stack) -> tuple[torch.Tensor, torch.Tensor]:
    """Give what patches are added to: (C, slices, rows, columns), and one channel of the same.

    In memory they lie as the patches do: a network gives (X, Y, Z), a dataset (slices, rows,
    columns), and adding one to the other takes several times as long.
    """
    channels, shape = len(values), stack.shape
    if not values.is_contiguous():
        shape = shape[2], shape[1], shape[0]
    zeros = values.new_zeros((channels + 1, *shape), dtype=torch.float32)
    if not values.is_contiguous():
        zeros = zeros.permute(0, 3, 2, 1)
    return zeros[:channels], zeros[channels]


def _weights(values: torch.Tensor, weight: Weight, sigma_scale: float) -> torch.Tensor:
    """Give how much each voxel of a patch counts, (slices, rows, columns): MONAI's own map."""
    if weight not in {"constant", "gaussian"}:
        raise ConfigError(f"weight={weight!r}: expected 'constant' or 'gaussian'")
    _, *size = values.shape
    # In MONAI's order of axes: products of three factors are rounded by their order.
    size_xyz = (size[2], size[1], size[0])
    made = compute_importance_map(
        size_xyz, mode=weight, sigma_scale=sigma_scale, device=values.device
    )
    turned = made.permute(2, 1, 0)
    return turned.contiguous() if values.is_contiguous() else turned


def _overlap(
    start: tuple[int, ...], size: tuple[int, ...], shape: tuple[int, int, int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Give the box of the stack that a patch covers, and the same box in the patch."""
    ends = [
        (max(first, 0), min(first + wanted, length))
        for first, wanted, length in zip(start, size, shape, strict=True)
    ]
    there = tuple(slice(begin, end) for begin, end in ends)
    here = tuple(
        slice(begin - first, end - first) for first, (begin, end) in zip(start, ends, strict=True)
    )
    return there, here


def _turned(values: torch.Tensor) -> tuple[int, ...]:
    channels, *size = values.shape
    return (channels, *reversed(size))


def _placed(total: torch.Tensor, stack: Stack) -> MetaTensor:
    """Give voxels (C, slices, rows, columns) as MONAI has them, on the stack's grid."""
    # Of its voxels only the shape is asked for; what a network predicts is in no unit.
    volume = Volume(np.broadcast_to(np.float32(0), stack.shape), "", stack.valid, stack)
    meta: dict[str, Any] = {**describe(volume), str(MetaKeys.ORIGINAL_CHANNEL_DIM): 0}
    return MetaTensor(total.permute(0, 3, 2, 1), meta=meta)

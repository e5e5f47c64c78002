"""Samples -> batches: `collate`, for any DataLoader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import collate_meta_tensor_fn
from torch.utils.data import default_collate

from dicomdata.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SOURCE = "filename_or_obj"
"""Where MONAI keeps what an image was loaded from."""


def collate(samples: Sequence[Any]) -> Any:
    """Make a batch of samples: images are stacked, text becomes lists, numbers become tensors.

    As MONAI's `list_data_collate`, and like it undone by `decollate_batch`: samples may be lists
    of samples, as `RandCropByPosNegLabeld` gives them. Unlike it, images are stacked in the order
    they have in memory, and the batch is a view with the axes of its samples: copying a volume
    from one order of axes into another takes longer than reading it.

    Args:
        samples: dicts with the same keys, lists of such dicts, or tensors.

    Raises:
        ConfigError: if images differ in shape, or samples in keys; names both samples.
    """
    flat = [each for one in samples for each in (one if isinstance(one, list) else [one])]
    names = [_name(sample, number) for number, sample in enumerate(flat)]
    first = flat[0]
    if not isinstance(first, Mapping):
        return _collate_values(flat, names, "samples")
    for sample, name in zip(flat, names, strict=True):
        if odd := sample.keys() ^ first.keys():
            raise ConfigError(
                f"samples of one batch must have the same keys: "
                f"{', '.join(sorted(map(str, odd)))} is in only one of {names[0]} and {name}"
            )
    return {
        key: _collate_values([sample[key] for sample in flat], names, f"{key!r}") for key in first
    }


def _name(sample: Any, number: int) -> str:
    """Say which sample of a batch it is: by its stack where it has one."""
    values = list(sample.values()) if isinstance(sample, Mapping) else [sample]
    if isinstance(sample, Mapping) and isinstance(sample.get("stack"), str):
        return f"stack {sample['stack']}"
    for value in values:
        if isinstance(value, MetaTensor) and _SOURCE in value.meta:
            return str(value.meta[_SOURCE])
    return f"sample {number}"


def _collate_values(values: list[Any], names: list[str], what: str) -> Any:
    """Collate what all samples have under one key."""
    first = values[0]
    if not isinstance(first, torch.Tensor):
        return default_collate(values)
    for value, name in zip(values, names, strict=True):
        if value.shape != first.shape:
            raise ConfigError(
                f"{what}: images of one batch must have one shape; {names[0]} has "
                f"{tuple(first.shape)}, {name} has {tuple(value.shape)}: crop, pad or resize "
                f"them (RandSpatialCropd, ResizeWithPadOrCropd), or take batch_size=1"
            )
    return _stack_in_memory_order(values)


def _stack_in_memory_order(images: list[torch.Tensor]) -> torch.Tensor:
    """Stack tensors along a new first axis, copying each as it lies in memory."""
    strides = images[0].stride()
    slowest_first = sorted(range(len(strides)), key=lambda axis: strides[axis], reverse=True)
    laid_out = [image.permute(slowest_first) for image in images]
    # Both stack into shared memory in a worker, so that the batch is not copied once more.
    stack = collate_meta_tensor_fn if isinstance(images[0], MetaTensor) else default_collate
    batch: torch.Tensor = stack(laid_out)
    return batch.permute(0, *(1 + slowest_first.index(axis) for axis in range(len(strides))))

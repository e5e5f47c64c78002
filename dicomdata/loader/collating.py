"""Samples -> batches, for any DataLoader: `collate`, and `SharedCollate` for many large ones."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.utils.enums import TraceKeys
from torch.utils.data import default_collate, get_worker_info
from torch.utils.data._utils.collate import collate as collate_by_type
from torch.utils.data._utils.collate import default_collate_fn_map

from dicomdata.errors import ConfigError
from dicomdata.loader.blocks import BlockPool, Mappings, find_mappings
from dicomdata.loader.parcels import SMALL, Parcel

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    _Lend = Callable[[int], NDArray[np.uint8] | None]
    """Gives memory of so many bytes, or None."""

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
    return _collate(samples, _lend_nothing)


class SharedCollate:
    """A `collate` whose workers write batches into shared memory that is used again.

    The batches are those of `collate`, to the bit. A worker writes only where nothing in the
    trainer looks any more: not the batch, nor a view, a slice, a decollated sample or an array of
    it. So a batch that is kept never changes, and one that is written to changes nothing else.
    What is found in use is left alone: the worker takes other memory, up to `blocks`, and then
    sends the batch as `collate` does.

        loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=SharedCollate())

    Without workers, and where there is no anonymous shared memory (that is Linux), it is
    `collate`. So it is for samples that are not dicts.
    """

    def __init__(self, blocks: int = 32) -> None:
        """Make one; loaders and ranks may share it, or have one each.

        Args:
            blocks: how many tensors above 64 KiB a worker may have in shared memory at once. They
                are made as they are needed, of the size that is needed, and kept: two or three
                more than what a trainer holds and a worker prepares (``prefetch_factor``).

        Raises:
            ConfigError: if that is not at least 1.
        """
        if blocks < 1:
            raise ConfigError(f"blocks={blocks}: expected at least 1")
        self.blocks = blocks
        """How many tensors a worker may have in shared memory at once."""
        self._mappings = Mappings(secrets.token_hex(8))
        self._pool: BlockPool | None = None

    def __repr__(self) -> str:
        return f"SharedCollate(blocks={self.blocks})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _share_mappings, (self.blocks, self._mappings.name)

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Make a batch of samples, as `collate` does.

        Raises:
            ConfigError: if images differ in shape, or samples in keys; names both samples.
        """
        if get_worker_info() is None:
            return collate(samples)
        if self._pool is None or self._pool.owner != os.getpid():
            self._pool = BlockPool(self._mappings.name, self.blocks)
        return _collate(samples, self._pool.lend)


def _share_mappings(blocks: int, name: str) -> SharedCollate:
    """Give a copy, in a worker or beside the original: what one has mapped, the other finds."""
    copy = SharedCollate(blocks)
    copy._mappings = find_mappings(name)  # noqa: SLF001 - its own, made here
    return copy


def _lend_nothing(_size: int) -> None:
    """Have no memory to write a batch into."""


def _collate(samples: Sequence[Any], lend: _Lend) -> Any:
    """Make a batch; its large tensors lie in what is lent."""
    flat = [each for one in samples for each in (one if isinstance(one, list) else [one])]
    names = [_name(sample, number) for number, sample in enumerate(flat)]
    first = flat[0]
    if not isinstance(first, Mapping):
        return _collate_values(flat, names, "samples", _lend_nothing)
    for sample, name in zip(flat, names, strict=True):
        if odd := sample.keys() ^ first.keys():
            raise ConfigError(
                f"samples of one batch must have the same keys: "
                f"{', '.join(sorted(map(str, odd)))} is in only one of {names[0]} and {name}"
            )
    batch = {
        key: _collate_values([sample[key] for sample in flat], names, f"{key!r}", lend)
        for key in first
    }
    return batch if get_worker_info() is None else Parcel(batch)


def _name(sample: Any, number: int) -> str:
    """Say which sample of a batch it is: by its stack where it has one."""
    values = list(sample.values()) if isinstance(sample, Mapping) else [sample]
    if isinstance(sample, Mapping) and isinstance(sample.get("stack"), str):
        return f"stack {sample['stack']}"
    for value in values:
        if isinstance(value, MetaTensor) and _SOURCE in value.meta:
            return str(value.meta[_SOURCE])
    return f"sample {number}"


def _collate_values(values: list[Any], names: list[str], what: str, lend: _Lend) -> Any:
    """Collate what all samples have under one key."""
    first = values[0]
    if not isinstance(first, torch.Tensor):
        return _collate_plainly(values, lend)
    for value, name in zip(values, names, strict=True):
        if value.shape != first.shape:
            raise ConfigError(
                f"{what}: images of one batch must have one shape; {names[0]} has "
                f"{tuple(first.shape)}, {name} has {tuple(value.shape)}: crop, pad or resize "
                f"them (RandSpatialCropd, ResizeWithPadOrCropd), or take batch_size=1"
            )
    if not isinstance(first, MetaTensor):
        return _stack_in_memory_order(values, lend)
    batch = MetaTensor(_stack_in_memory_order([image.as_tensor() for image in values], lend))
    _describe(batch, values)
    return batch


def _collate_plainly(values: list[Any], lend: _Lend = _lend_nothing) -> Any:
    """Collate as PyTorch does, but for where tensors are put."""

    def stack(tensors: list[torch.Tensor], **_: Any) -> torch.Tensor:
        return _stack(tensors, lend)

    return collate_by_type(values, collate_fn_map={**default_collate_fn_map, torch.Tensor: stack})


def _describe(batch: MetaTensor, images: list[MetaTensor]) -> None:
    """Give a batch the metadata of its images, as MONAI does: what `decollate_batch` takes apart.

    Keys that only some images have are left out.
    """
    metas = [image.meta for image in images]
    keys = [key for key in metas[0] if all(key in meta for meta in metas)]
    batch.meta = _collate_plainly([{key: meta[key] for key in keys} for meta in metas])
    batch.applied_operations = [image.applied_operations or TraceKeys.NONE for image in images]
    batch.is_batch = True
    batch.spatial_ndim = min(*(image.spatial_ndim for image in images), max(batch.ndim - 1, 1))


def _stack_in_memory_order(images: list[torch.Tensor], lend: _Lend) -> torch.Tensor:
    """Stack tensors along a new first axis, copying each as it lies in memory."""
    strides = images[0].stride()
    slowest_first = sorted(range(len(strides)), key=lambda axis: strides[axis], reverse=True)
    batch = _stack([image.permute(slowest_first) for image in images], lend)
    return batch.permute(0, *(1 + slowest_first.index(axis) for axis in range(len(strides))))


def _stack(tensors: list[torch.Tensor], lend: _Lend) -> torch.Tensor:
    """Stack tensors of one shape, in a worker straight into the memory that they travel in."""
    size = sum(tensor.nbytes for tensor in tensors)
    # Written into memory of the first one's type, others would be cut to it without a word.
    alike = all(tensor.dtype == tensors[0].dtype for tensor in tensors)
    if size <= SMALL or not alike or get_worker_info() is None:
        return torch.stack(tensors)
    memory = lend(size) if _is_ordinary(tensors) else None
    if memory is None:
        stacked: torch.Tensor = default_collate(tensors)
        return stacked
    lent = torch.from_numpy(memory).view(tensors[0].dtype)
    return torch.stack(tensors, out=lent.view(len(tensors), *tensors[0].shape))


def _is_ordinary(tensors: list[torch.Tensor]) -> bool:
    """Whether tensors can be copied into memory of the machine as they are."""
    return all(
        tensor.device.type == "cpu" and tensor.layout is torch.strided and not tensor.requires_grad
        for tensor in tensors
    )

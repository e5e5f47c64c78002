"""Batches on their way from a worker to its trainer.

PyTorch sends each tensor through shared memory of its own: a file descriptor that is passed
through a socket, and a mapping on either side. For an affine of 128 bytes, that is half a
millisecond. Here small tensors travel in the message itself, those that lie in a block of shared
memory as a ticket, and all others as PyTorch sends them.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import torch
from monai.data.meta_tensor import MetaTensor

from dicomdata.loader import blocks

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = 2**16
"""Bytes of a tensor up to which it travels in the message: as much as a pipe takes at once."""


class Parcel(dict[Any, Any]):
    """A batch that a worker sends: in the worker a dict, and a plain dict where it arrives."""


def _reduce_parcel(parcel: Parcel) -> tuple[Any, ...]:
    """Say how a parcel is sent; of no concern to ``copy`` and ``torch.save``."""
    message = io.BytesIO()
    _Packer(message, pickle.HIGHEST_PROTOCOL).dump(dict(parcel))
    return pickle.loads, (message.getvalue(),)


ForkingPickler.register(Parcel, _reduce_parcel)


@dataclass(frozen=True, slots=True, eq=False)
class _Carrier:
    """What stands for a storage in a message; tensors that share one share it after it too."""

    open: Callable[..., torch.Tensor]
    """Gives its bytes as a tensor of uint8."""

    arguments: tuple[Any, ...]
    """Of `open`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return self.open, self.arguments


class _Packer(ForkingPickler):
    """Pickles a batch."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._carriers: dict[int, _Carrier | None] = {}

    def reducer_override(self, value: Any) -> Any:
        if type(value) not in {torch.Tensor, MetaTensor} or not _is_plain(value):
            return NotImplemented
        storage = value.untyped_storage()
        address = storage.data_ptr()
        if address not in self._carriers:
            self._carriers[address] = _carry(storage)
        if (carrier := self._carriers[address]) is None:
            return NotImplemented
        # A plain tensor's attributes are lost on PyTorch's way as well.
        state = value.__dict__ if isinstance(value, MetaTensor) else None
        layout = value.storage_offset(), tuple(value.shape), value.stride()
        return _rebuild, (carrier, value.dtype, layout, state)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether its storage, and how it lies there, are all there is to a tensor."""
    return (
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.requires_grad
        and not tensor.is_quantized
        and not tensor.is_nested
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def _carry(storage: torch.UntypedStorage) -> _Carrier | None:
    """Find a way for a storage; None for PyTorch's."""
    size = storage.nbytes()
    if size > SMALL:
        sent = blocks.send(storage.data_ptr(), size)
        return None if sent is None else _Carrier(_open_block, sent)
    # An empty one needs no way, and memory that was shared on purpose stays shared.
    if size == 0 or storage.is_shared():
        return None
    content = torch.empty(0, dtype=torch.uint8).set_(storage)
    return _Carrier(_open_bytes, (bytearray(content.numpy()),))


def _open_block(ticket: blocks.Ticket, passed: Any) -> torch.Tensor:
    return torch.from_numpy(blocks.receive(ticket, passed))


def _open_bytes(content: bytearray) -> torch.Tensor:
    return torch.frombuffer(content, dtype=torch.uint8)


def _rebuild(
    memory: torch.Tensor,
    dtype: torch.dtype,
    layout: tuple[int, tuple[int, ...], tuple[int, ...]],
    state: dict[str, Any] | None,
) -> torch.Tensor:
    """Give a tensor that lies in memory as it did in the worker's."""
    tensor = torch.empty(0, dtype=dtype).set_(memory.untyped_storage(), *layout)
    if state is None:
        return tensor
    image = tensor.as_subclass(MetaTensor)
    image.__dict__.update(state)
    return image

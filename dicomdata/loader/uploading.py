"""A batch -> the device that computes: int16 images go there as int16, and become float32 there.

That is half the bytes to prepare, to pin and to send, and nothing of their arithmetic is left to
the processor. A window is taken on the device, and gives to the last bit what `read_volume` and
the datasets make of the same voxels with `window`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from dicomdata.dataset.samples import WINDOW_UNIT, checked_window
from dicomdata.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicomdata.rescale import Window

_UNIT = "unit"
"""Where samples and images say what their voxels are."""


def upload(
    batch: Any,
    device: torch.device | str | int,
    *,
    window: tuple[float, float] | None = None,
    image: str | Sequence[str] = "image",
) -> Any:
    """Move the tensors of a batch to a device; int16 images become float32 there.

    Copies from page-locked memory (``DataLoader(pin_memory=True)``) are asynchronous: do not write
    to the batch itself afterwards. All others are over when this returns, so that memory which is
    used again, as that of `SharedCollate`, may be.

    Args:
        batch: what `collate` and `SharedCollate` give: dicts, lists and tuples of tensors, text
            and numbers; or a tensor, which is an image.
        device: where to, as PyTorch names it.
        window: (low, high) in output units, which become 0 and 1, as does all beyond. For int16
            images only, as a dataset with ``dtype=np.int16`` gives them.
        image: the key of the images, or several keys.

    Returns:
        The same batch on the device. Axes lie in memory as they did; a `MetaTensor` keeps what it
        says, but that its unit, and that of its sample, is "window" if one was taken. Labels and
        all other tensors keep their type, and what is no tensor is left as it is.

    Raises:
        ConfigError: if the window makes no sense, or there is no int16 image to take it of.
    """
    names = (image,) if isinstance(image, str) else tuple(image)
    checked = None if window is None else checked_window(window, np.dtype(np.float32))
    sender = _Sender(torch.device(device), checked, names)
    sent = sender.send(batch, "the batch" if isinstance(batch, torch.Tensor) else None)
    if window is not None and not sender.images:
        raise ConfigError(
            f"window={window!r}: the batch has no image named {' or '.join(map(repr, names))}; "
            f"it has {_describe_content(batch)}"
        )
    return sent


class _Sender:
    """Sends one batch, and counts its images."""

    def __init__(self, device: torch.device, window: Window | None, names: tuple[str, ...]) -> None:
        self.device, self.window, self.names = device, window, names
        self.images = 0

    def send(self, value: Any, image: str | None) -> Any:
        """Send a part of the batch.

        Args:
            value: tensor, collection, or anything else.
            image: the name of the image that it is, or is of; None for other parts.
        """
        if isinstance(value, torch.Tensor):
            return self._send_tensor(value, image)
        if isinstance(value, Mapping):
            return self._send_mapping(value, image)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self.send(each, image) for each in value))
        if isinstance(value, (list, tuple)):
            return type(value)(self.send(each, image) for each in value)
        return value

    def _send_mapping(self, values: Mapping[Any, Any], image: str | None) -> dict[Any, Any]:
        sent = {
            key: self.send(value, f"{key!r}" if key in self.names else image)
            for key, value in values.items()
        }
        if self.window is not None and _UNIT in sent and not sent.keys().isdisjoint(self.names):
            sent[_UNIT] = _windowed(sent[_UNIT])
        return sent

    def _send_tensor(self, tensor: torch.Tensor, image: str | None) -> torch.Tensor:
        # From ordinary memory, CUDA leaves open whether a copy goes on afterwards, and mostly it
        # does not. So that is asked for only of page-locked memory, which PyTorch's allocator
        # keeps until the copy is over.
        sent = tensor.to(self.device, non_blocking=tensor.is_pinned())
        if image is None:
            return sent
        self.images += 1
        if sent.dtype == torch.int16:
            return self._shown(sent)
        if self.window is not None:
            raise ConfigError(
                f"window={self.window.low, self.window.high}: {image} is {_type_name(sent)}, and a "
                f"window is taken here of int16 alone: give the dataset dtype=np.int16, or the "
                f"window and dtype=np.float32"
            )
        return sent

    def _shown(self, sent: torch.Tensor) -> torch.Tensor:
        """Make float32 of int16, there."""
        plain = sent.as_subclass(torch.Tensor)
        shown = plain.to(torch.float32) if self.window is None else _in_window(plain, self.window)
        if not isinstance(sent, MetaTensor):
            return shown
        described = shown.as_subclass(MetaTensor)
        described.__dict__.update(sent.__dict__)
        described.meta = dict(sent.meta)  # on the processor, `sent` is the caller's own
        if self.window is not None and _UNIT in described.meta:
            described.meta[_UNIT] = _windowed(described.meta[_UNIT])
        return described


def _in_window(outputs: torch.Tensor, window: Window) -> torch.Tensor:
    """Do what `Window.apply` does, with numbers of the same type and the same rounding.

    Clipped before the division, not after it: the same numbers, and no zero with a sign.
    """
    width = float(np.float32(window.high - window.low))
    above = outputs - torch.tensor(window.low, dtype=torch.float32)
    # On the device: by a number of the processor, CUDA would multiply with its reciprocal, which
    # is one rounding more.
    divisor = torch.full((), width, dtype=torch.float32, device=outputs.device)
    return above.clamp_(0.0, width).div_(divisor)


def _windowed(units: Any) -> Any:
    """Give the unit of windowed voxels, as often as there were units."""
    return [WINDOW_UNIT] * len(units) if isinstance(units, list) else WINDOW_UNIT


def _type_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _describe_content(batch: Any) -> str:
    """Say what is in a batch, for who expected something else."""
    if isinstance(batch, Mapping):
        return ", ".join(map(repr, batch)) or "nothing"
    return f"a {type(batch).__name__}"

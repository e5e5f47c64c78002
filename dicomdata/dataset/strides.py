"""How a tensor lies in memory, and how to let another lie the same way.

The sum of float32 numbers depends on their order, and PyTorch adds them in the order of memory:
what is to give the same result to the last bit must lie in memory as the original does. A crop
lies there with gaps, between its rows and between its slices. Where those are does not matter,
nor how wide; only whether there are any.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class MemoryLayout:
    """The order of a tensor's axes in memory, and where it has gaps."""

    shape: tuple[int, ...]
    """Of the tensor."""

    order: tuple[int, ...]
    """Its axes, the outermost in memory first."""

    gaps: tuple[bool, ...]
    """In that order: whether something else lies between the end of the axis and its next row."""

    @property
    def buffer_shape(self) -> tuple[int, ...]:
        """Of the least memory that it fits in, its axes in their order there."""
        return tuple(
            self.shape[axis] + gap for axis, gap in zip(self.order, self.gaps, strict=True)
        )

    @property
    def inside(self) -> tuple[slice, ...]:
        """The part of a buffer that is not gaps."""
        return tuple(slice(self.shape[axis]) for axis in self.order)

    def place(self, buffer: torch.Tensor) -> torch.Tensor:
        """Give the tensor that lies so in a buffer of `buffer_shape`: a view."""
        axes = range(len(self.order))
        return buffer[self.inside].permute(*(self.order.index(axis) for axis in axes))


def layout_of(tensor: torch.Tensor) -> MemoryLayout:
    """Tell how a tensor lies in memory."""
    shape, strides = tuple(tensor.shape), tensor.stride()
    # An axis of one voxel has no place in the order: PyTorch gives it any stride.
    order = sorted(range(tensor.ndim), key=lambda axis: (shape[axis] > 1, -strides[axis]))
    gaps = [False]
    for outer, axis in pairwise(order):
        gaps.append(shape[outer] > 1 and strides[outer] != strides[axis] * shape[axis])
    return MemoryLayout(shape, tuple(order), tuple(gaps))


def buffer_of(tensor: torch.Tensor) -> tuple[MemoryLayout, NDArray[Any]]:
    """Give a tensor as an array of the least memory that it fits in; shared if it has no gaps.

    Raises:
        TypeError: if numpy has no such type.
    """
    layout, array = layout_of(tensor), tensor.numpy()
    ordered = array.transpose(layout.order)
    if ordered.flags.c_contiguous:
        return layout, ordered
    # Zeros in the gaps: nothing of what lies there now.
    buffer = np.zeros(layout.buffer_shape, array.dtype)
    buffer[layout.inside] = ordered
    return layout, buffer


def as_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Give a tensor as float32, lying in memory as it does."""
    layout = layout_of(tensor)
    # From numpy: its fresh pages are larger, and not filled twice.
    buffer = torch.from_numpy(np.empty(layout.buffer_shape, np.float32))
    return layout.place(buffer).copy_(tensor)

"""Labels beside images: read onto the stack's grid, kept in the same cache, cut by the same box.

A dataset is given a function of a stack that gives its `Mask`, or an array of whole numbers on its
grid; `LabelFiles` is such a function for an archive whose labels lie in files.

Classes that overlap are bits of such a number, class n bit n - 1, until a sample is made of them:
so they are one volume for caches and boxes, as classes that do not are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from dicomdata.cache import NoCache
from dicomdata.errors import LabelError
from dicomdata.labels import Mask
from dicomdata.regions import Region
from dicomdata.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dicomdata.cache import VolumeCache
    from dicomdata.stack import Stack

LABEL_UNIT = "label"
"""The unit of voxels that are numbers of classes."""

_HIGHEST = 2**15 - 1
"""Highest class: labels are int16, half of what most programs make of them."""


class Labels(Protocol):
    """Gives the label of a stack: a function, or an object like `LabelFiles`. Picklable.

    One that has `channels` above 0 gives so many classes that may overlap: a mask of segments with
    these numbers, or whole numbers in which class n is bit n - 1.
    """

    def __call__(self, stack: Stack, /) -> Mask | NDArray[Any]:
        """Give a mask, or whole numbers (slices, rows, columns) on the grid of the stack.

        Raises:
            LabelError: if the stack has no label, or it does not lie on its grid.
        """
        ...


@runtime_checkable
class _Telling(Protocol):
    """Labels that a cache can keep: they say themselves what decides the voxels."""

    def cache_text(self, stack: Stack, /) -> str: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """Labels as a cache is given them."""

    labels: Labels
    cache_text: str


def read_labels(stack: Stack, region: Region | None = None, *, labels: _Reading) -> Volume:
    """Read the label of a stack, or a box of it, as a volume of classes, or of bits: int16."""
    given = labels.labels(stack)
    if isinstance(given, Mask) and given.stack.id != stack.id:
        raise LabelError(f"stack {stack.id}: its label is on the grid of stack {given.stack.id}")
    if isinstance(given, Mask):
        classes = given.bits() if channels_of(labels.labels) else given.labelmap()
    else:
        classes = np.asarray(given)
    check_classes(classes, stack, channels=channels_of(labels.labels))
    box = region or Region()
    slices, rows, columns = (slice(axis.start, axis.stop) for axis in box.within(stack.shape))
    # Never the caller's own array: a transform may write to what it is given.
    voxels = np.array(classes[slices, rows, columns], np.int16, order="C")
    return Volume(voxels, LABEL_UNIT, stack.valid[slices], stack, box)


def channels_of(labels: Any) -> int:
    """Tell how many classes the numbers that labels give hold as bits; 0 where they are classes."""
    return int(getattr(labels, "channels", 0))


class LabelReader:
    """Gives labels, or boxes of them, through a cache."""

    def __init__(self, labels: Labels, cache: VolumeCache) -> None:
        """Read `labels`; what can be kept of them is kept in `cache`."""
        self.labels, self.cache = labels, cache
        self.channels = channels_of(labels)
        """How many classes the voxels hold as bits; 0 where they are numbers of classes."""
        self._filled: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_filled": set()}

    def __call__(self, stack: Stack) -> NDArray[Any]:
        """Give the numbers that a stack's label is kept as, (slices, rows, columns) int16."""
        return self.read(stack).voxels

    def read(self, stack: Stack, region: Region | None = None) -> Volume:
        """Give the label of a stack, or a box of it.

        A label is read as a whole in any case. So where a cache keeps it, it is kept when the
        first box is asked for.
        """
        if isinstance(self.cache, NoCache) or not isinstance(self.labels, _Telling):
            return read_labels(stack, region, labels=_Reading(self.labels, ""))
        read = partial(read_labels, labels=_Reading(self.labels, self.labels.cache_text(stack)))
        if region is None:
            return self.cache.get(stack, read)
        if stack.id not in self._filled:
            self._filled.add(stack.id)
            whole = self.cache.get(stack, read)
            return _cut(whole, region)
        return self.cache.get(stack, read, region=region)


def _cut(volume: Volume, region: Region) -> Volume:
    box = tuple(slice(axis.start, axis.stop) for axis in region.within(volume.stack.shape))
    voxels = np.ascontiguousarray(volume.voxels[box])
    return Volume(voxels, volume.unit, volume.valid[box[0]], volume.stack, region)


def check_classes(classes: NDArray[Any], stack: Stack, *, channels: int = 0) -> None:
    """Make sure that an array is the label of a stack.

    Args:
        classes: the array.
        stack: what it is the label of.
        channels: how many classes its numbers hold as bits; 0 where they are classes.

    Raises:
        LabelError: if it is not of whole numbers from 0 to 32767 or bool, or of another shape, or
            has a bit of no class; names the stack.
    """
    if classes.dtype.kind not in "biu":
        raise LabelError(
            f"stack {stack.id}: its label is of {classes.dtype}: expected whole numbers or bool"
        )
    if classes.shape != stack.shape:
        raise LabelError(
            f"stack {stack.id}: its label has shape {classes.shape}: expected {stack.shape}, "
            f"(slices, rows, columns) of the stack"
        )
    if classes.min() < 0 or classes.max() > _HIGHEST:
        raise LabelError(
            f"stack {stack.id}: its label has classes {classes.min()} to {classes.max()}: expected "
            f"0 to {_HIGHEST}"
        )
    if channels and int(classes.max()) >> channels:
        raise LabelError(
            f"stack {stack.id}: its label has the number {classes.max()}: expected bits of "
            f"{channels} classes, below {1 << channels}"
        )

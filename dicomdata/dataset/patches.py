"""Stacks as a PyTorch dataset of patches: `PatchDataset`, which never reads a whole volume."""

from __future__ import annotations

import operator
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from dicomdata.dataset.placement import GridPatches, UniformPatches
from dicomdata.dataset.samples import (
    WINDOW_UNIT,
    StackDataset,
    checked_window,
    label_of,
    new_sample,
)
from dicomdata.dataset.seeding import generator_of
from dicomdata.errors import ConfigError, RescaleError
from dicomdata.regions import Region
from dicomdata.volume import Volume
from dicomdata.volume.units import fill_value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import SupportsIndex

    from numpy.typing import DTypeLike, NDArray

    from dicomdata.cache import VolumeCache
    from dicomdata.dataset.masks import Labels
    from dicomdata.dataset.placement import Placement, Triple
    from dicomdata.dataset.samples import Transform
    from dicomdata.rescale import Window
    from dicomdata.stack import Stack

PATCH_START = "patch_start"
"""The key of where a patch begins in its stack."""

PATCH_VALID = "patch_valid"
"""The key of which part of a patch is of the stack."""


class PatchDataset(StackDataset):
    """Patches of stacks as MONAI `MetaTensor`s, read without the rest of the volume.

    With `UniformPatches` or `BalancedPatches` the dataset has one visit a stack, of one patch or
    more; with `GridPatches` one sample a window, of all windows of all stacks.

    A sample is a dict, given to the transform, with what `VolumeDataset` says, and

    * ``"image"``: `MetaTensor` (1, X, Y, Z), with the patch's own exact affine;
    * ``"label"``, with `labels`: `MetaTensor` (1, X, Y, Z) int16, the same box of the stack's mask,
      numbers of classes, 0 in padding; or (C, X, Y, Z) uint8 of 0 and 1, where classes may overlap,
      one channel each;
    * ``"patch_start"``: (3,) int64, the patch's first voxel, (slice, row, column) of the stack;
      negative where padding lies before it;
    * ``"patch_valid"``: (3, 2) int64, first and end along slices, rows and columns of the patch's
      voxels that are the stack's: what lies outside is padding.

    Where a stack is smaller than the patch, it is padded on both sides, with air.

    What is drawn depends on seed, epoch and index alone where `EpochSampler` gives the indices;
    else on PyTorch's random numbers, which differ between workers and epochs.
    """

    def __init__(  # noqa: PLR0913 - where, how many, of what, and what is done to them: all by name
        self,
        stacks: Sequence[Stack],
        size: Sequence[int | None],
        *,
        where: Placement | GridPatches | None = None,
        per_visit: int = 1,
        transform: Transform | None = None,
        cache: VolumeCache | None = None,
        dtype: DTypeLike = np.float32,
        image: str = "image",
        fill: float | Literal["air", "refuse"] = "air",
        window: tuple[float, float] | None = None,
        labels: Labels | None = None,
        label: str = "label",
    ) -> None:
        """Make a dataset of patches; nothing is read yet.

        Args:
            stacks: what the patches are of, as in ``plan.stacks``.
            size: slices, rows and columns of a patch; None or -1 takes the whole axis.
            where: where they lie; None is `UniformPatches`.
            per_visit: how many patches of a stack in one sample, which is then a list of them;
                `collate` makes one batch of the lists of several.
            transform: done to each patch.
            cache: patches are cut from volumes it has; it keeps none for a patch: `warm` it.
            dtype: float32, or int16 where every voxel is whole and fits.
            image: the key of the patch in a sample.
            fill: what padding is: "air" is -1024 HU, or what the stack's policy says, or the
                lowest output in other units; a number; or "refuse", to allow no padding.
            window: (low, high) in output units, which become 0 and 1, as does all beyond; with
                padding, before the transform: what `read_volume` gives, quicker than a transform.
            labels: give the mask of a stack, as `LabelFiles` do; the cache keeps masks from the
                first patch on. Without a cache, a mask is read for each patch.
            label: the key of the mask in a sample.

        Raises:
            ConfigError: if the size, or another option, makes no sense, for a stack or at all;
                names the stack.
        """
        super().__init__(
            stacks, transform, cache, dtype=dtype, image=image, labels=labels, label=label
        )
        self.size = _checked_size(size)
        """(slices, rows, columns); None where a patch has the whole axis."""
        self.where = UniformPatches() if where is None else where
        self.per_visit = operator.index(per_visit)
        self.fill = fill
        self.window = None if window is None else checked_window(window, self.dtype)
        self._check()
        self._firsts = self._number_windows()

    def __len__(self) -> int:
        return self._firsts[-1] if self._firsts else len(self.stacks)

    def __getitem__(self, index: SupportsIndex) -> Any:
        """Read a patch, or the patches of a visit, and transform them.

        Raises:
            IndexError: if there is none; negative indices count from the end.
            DicomDataError: if a patch cannot be read.
        """
        number = range(len(self))[operator.index(index)]
        stack, starts = self._places(number, index)
        samples = self._transformed([self._patch(stack, start) for start in starts], index)
        if self.per_visit == 1:
            return samples[0]
        # A transform may give lists as well; `collate` takes lists of samples apart, not of lists.
        return [each for one in samples for each in (one if isinstance(one, list) else [one])]

    def size_in(self, stack: Stack) -> Triple:
        """Give slices, rows and columns of a patch of a stack."""
        s, r, c = (
            length if wanted is None else wanted
            for length, wanted in zip(stack.shape, self.size, strict=True)
        )
        return s, r, c

    def _check(self) -> None:
        """Refuse what cannot be had, before anything is read."""
        if self.per_visit < 1:
            raise ConfigError(f"per_visit={self.per_visit}: expected at least 1")
        if isinstance(self.where, GridPatches) and self.per_visit > 1:
            raise ConfigError(f"per_visit={self.per_visit}: a grid has each window once")
        if isinstance(self.fill, str) and self.fill not in {"air", "refuse"}:
            raise ConfigError(f"fill={self.fill!r}: expected 'air', 'refuse' or a number")
        for stack in self.stacks:
            size = self.size_in(stack)
            if self.fill == "refuse" and any(map(operator.gt, size, stack.shape)):
                raise ConfigError(
                    f"stack {stack.id}: a patch of {size} is larger than its {stack.shape}: "
                    f"take smaller patches, leave it out, or let it be padded"
                )
            if not isinstance(self.where, GridPatches):
                self.where.check(stack)

    def _number_windows(self) -> tuple[int, ...]:
        """Give the number of the first window of each stack, and how many there are at the end.

        Empty where there are no windows: places are drawn.
        """
        grid = self.where
        if not isinstance(grid, GridPatches):
            return ()
        counts = (grid.count(stack.shape, self.size_in(stack)) for stack in self.stacks)
        return tuple(accumulate(counts, initial=0))

    def _places(self, number: int, index: SupportsIndex) -> tuple[Stack, list[Triple]]:
        """Give the stack of a sample, and the first voxels of its patches."""
        where = self.where
        if isinstance(where, GridPatches):
            at = bisect_right(self._firsts, number) - 1
            stack, window = self.stacks[at], number - self._firsts[at]
            return stack, [where.place(stack.shape, self.size_in(stack), window)]
        stack, generator = self.stacks[number], generator_of(index)
        size = self.size_in(stack)
        return stack, [where.draw(stack, size, generator) for _ in range(self.per_visit)]

    def _patch(self, stack: Stack, start: Triple) -> dict[str, Any]:
        """Read a patch as a sample; only what of it lies in the stack is read."""
        size = self.size_in(stack)
        inside = _inside(start, size, stack.shape)
        if any(begin >= end for begin, end in inside):
            raise ConfigError(
                f"stack {stack.id}: a patch of {size} at {start} holds no voxel of {stack.shape}"
            )
        region = _region(start, inside)
        volume = self._read(stack, region)
        if volume.voxels.shape != size:
            volume = _padded(volume, start, size, fill=self._fill_of(stack))
        if self.window is not None:
            # After padding and the cache, which keeps the same volume for all windows, in int16.
            volume = _windowed(volume, self.window)
        sample = new_sample(volume, self.image)
        if self._labels is not None:
            label = self._labels.read(stack, region)
            if label.voxels.shape != size:
                label = _padded(label, start, size, fill=0)
            sample[self.label] = label_of(label, self._labels.channels)
        sample[PATCH_START] = torch.tensor(start)
        sample[PATCH_VALID] = torch.tensor(inside)
        return sample

    def _fill_of(self, stack: Stack) -> float:
        if not isinstance(self.fill, str):
            return float(self.fill)
        return fill_value(stack.frames[0].kind, stack.unit, stack.padding)


@dataclass(frozen=True, eq=False, slots=True)
class _PaddedVolume(Volume):
    """A box of a stack with padding about it; `region` is the box without."""

    start: Triple = (0, 0, 0)
    """Its first voxel, in voxels of the stack: negative where padding is before it."""

    @property
    def affine_lps(self) -> NDArray[np.float64]:
        """(4, 4), read-only: (slice, row, column, 1) of `voxels` -> LPS mm."""
        affine = self.stack.affine_lps.copy()
        affine[:3, 3] += affine[:3, :3] @ self.start
        affine.flags.writeable = False
        return affine


def _padded(volume: Volume, start: Triple, size: Triple, *, fill: float) -> Volume:
    """Put a box of a stack into a patch that is larger.

    Raises:
        RescaleError: if the patch is int16, and what it is padded with does not fit.
    """
    stack, dtype = volume.stack, volume.voxels.dtype
    if dtype == np.int16 and not (float(fill).is_integer() and abs(fill + 0.5) < 2**15):
        raise RescaleError(f"stack {stack.id}: padding {fill} does not fit int16: read float32")
    box = tuple(slice(first, end) for first, end in _inside(start, size, stack.shape))
    voxels: NDArray[Any] = np.full(size, fill, dtype)
    voxels[box] = volume.voxels
    valid = np.zeros(size[0], np.bool_)
    valid[box[0]] = volume.valid
    return _PaddedVolume(voxels, volume.unit, valid, stack, volume.region, start)


def _checked_size(size: Sequence[int | None]) -> tuple[int | None, ...]:
    """Give the size of a patch, None where it has the whole axis.

    Raises:
        ConfigError: if it is not three numbers of voxels.
    """
    try:
        checked = tuple(
            None if wanted is None or wanted == -1 else operator.index(wanted) for wanted in size
        )
    except TypeError as error:
        raise ConfigError(f"size={size!r}: expected three whole numbers") from error
    if len(checked) != 3 or any(wanted is not None and wanted < 1 for wanted in checked):
        raise ConfigError(
            f"size={tuple(size)}: expected slices, rows and columns, each at least 1, or None for "
            f"the whole axis"
        )
    return checked


def _windowed(volume: Volume, window: Window) -> Volume:
    """Give a patch with its voxels from 0 to 1, in place if they may be written to."""
    voxels = volume.voxels if volume.voxels.flags.writeable else volume.voxels.copy()
    window.apply(voxels)
    return replace(volume, voxels=voxels, unit=WINDOW_UNIT)


def _inside(start: Triple, size: Triple, shape: Triple) -> list[tuple[int, int]]:
    """Give first and end of the voxels of a patch that are the stack's, along each axis."""
    return [
        (max(-first, 0), min(wanted, length - first))
        for first, wanted, length in zip(start, size, shape, strict=True)
    ]


def _region(start: Triple, inside: list[tuple[int, int]]) -> Region:
    """Give the box of the stack that a patch holds."""
    return Region(
        *(
            slice(first + begin, first + end)
            for first, (begin, end) in zip(start, inside, strict=True)
        )
    )

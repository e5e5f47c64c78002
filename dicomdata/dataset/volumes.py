"""Stacks as a PyTorch dataset: `VolumeDataset`, one sample a volume."""

from __future__ import annotations

import operator
import os
import sys
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.cache import NoCache
from dicomdata.cache.kept import TransformedVolume
from dicomdata.catalog import scan
from dicomdata.catalog.schema import SERIES_COLUMNS
from dicomdata.catalog.selection import where
from dicomdata.dataset.prefix import Prefix, UnkeptError, read_transformed, restored
from dicomdata.dataset.samples import StackDataset, checked_window, label_of, new_sample
from dicomdata.errors import DicomDataWarning
from dicomdata.stack import plan_stacks
from dicomdata.volume import read_volume

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import SupportsIndex

    from numpy.typing import DTypeLike

    from dicomdata.cache import VolumeCache
    from dicomdata.cache.contract import Read
    from dicomdata.dataset.masks import Labels
    from dicomdata.dataset.samples import Transform
    from dicomdata.errors import Rejection
    from dicomdata.rescale import Window
    from dicomdata.stack import Policy, Stack, StackPlan


class VolumeDataset(StackDataset):
    """One sample a stack: the volume as a MONAI `MetaTensor`, and whose it is.

    A sample is a dict, given to the transform:

    * ``"image"``: `MetaTensor` (1, X, Y, Z), RAS, in output units: HU for CT;
    * ``"label"``, with `labels`: `MetaTensor` (1, X, Y, Z) int16 on the same grid, numbers of
      classes; or (C, X, Y, Z) uint8 of 0 and 1, where classes may overlap, one channel each;
    * ``"series_instance_uid"``, ``"study_instance_uid"``, ``"patient_id"``, ``"modality"``,
      ``"unit"``, and ``"stack"``, the id of the stack: text.

    A map-style dataset, and picklable if the transform is: a list of small plans and options. No
    file is open between samples, so it works under fork, spawn and forkserver.
    """

    def __init__(  # noqa: PLR0913 - what is read, what is done to it and what is kept: all by name
        self,
        stacks: Sequence[Stack],
        transform: Transform | None = None,
        cache: VolumeCache | None = None,
        *,
        dtype: DTypeLike = np.float32,
        image: str = "image",
        window: tuple[float, float] | None = None,
        keep_prefix: bool = True,
        labels: Labels | None = None,
        label: str = "label",
    ) -> None:
        """Make a dataset of stacks; nothing is read yet.

        Args:
            stacks: one sample each, as in ``plan.stacks``.
            transform: done to each sample.
            cache: keeps volumes between epochs, or what the first steps of a `Compose` made of
                them; None reads every time.
            dtype: float32, or int16 where every voxel is whole and fits.
            image: the key of the volume in a sample.
            window: (low, high) in output units, which become 0 and 1, as does all beyond: what
                `read_volume` gives, before the transform, and quicker than one.
            keep_prefix: whether the cache keeps the volumes after the deterministic steps at the
                beginning of a `Compose` (`kept_transforms`), so that they are taken once; else as
                they were before, which serves while the transform still changes.
            labels: give the mask of a stack, as `LabelFiles` do. With them a cache keeps volumes
                and labels as they were read: steps may change both at once.
            label: the key of the mask in a sample.

        Raises:
            ConfigError: if the window makes no sense.
        """
        super().__init__(
            stacks, transform, cache, dtype=dtype, image=image, labels=labels, label=label
        )
        self.window = None if window is None else _ends(checked_window(window, self.dtype))
        self.keep_prefix = keep_prefix
        self._most: int | None = None
        self.rejected: tuple[Rejection, ...] = ()
        """What `from_folder` and `from_plan` left out, and why."""

    @classmethod
    def from_folder(  # noqa: PLR0913 - every step has something to choose, all of it by name
        cls,
        root: str | os.PathLike[str],
        *,
        policy: Policy | None = None,
        catalog: str | os.PathLike[str] | None = None,
        keep: Sequence[str] = (),
        progress: bool | None = None,
        transform: Transform | None = None,
        cache: VolumeCache | None = None,
        dtype: DTypeLike = np.float32,
        window: tuple[float, float] | None = None,
        **select: Any,
    ) -> VolumeDataset:
        """Scan a folder, select series, plan stacks: the whole line in one call.

        Args:
            root: the folder, with all below it.
            policy: which findings to accept and to reject.
            catalog: where to keep what the scan found, so that the next is quick.
            keep: DICOM keywords to keep as more columns, to select by.
            progress: draw a progress bar on stderr; None draws if that is a terminal.
            transform: done to each sample.
            cache: keeps volumes between epochs, or what the first steps of the transform made.
            dtype: float32, or int16 where every voxel is whole and fits.
            window: (low, high) in output units, which become 0 and 1.
            select: conditions on series, as `Catalog.select` takes them: ``modality="CT"``,
                ``min_slices=32``.

        Returns:
            The dataset; `rejected` says what was left out and why, and a `DicomDataWarning` says
            that something was.

        Raises:
            CatalogError: if there is no such column to select by; before anything is read.
            FileError: if the root is no folder that can be listed.
        """
        where(select, (*SERIES_COLUMNS, *keep))
        found = scan(root, catalog=catalog, keep=keep, progress=progress)
        plan = plan_stacks(found.select(**select), policy)
        return cls.from_plan(plan, transform=transform, cache=cache, dtype=dtype, window=window)

    @classmethod
    def from_plan(
        cls,
        plan: StackPlan,
        *,
        transform: Transform | None = None,
        cache: VolumeCache | None = None,
        dtype: DTypeLike = np.float32,
        window: tuple[float, float] | None = None,
    ) -> VolumeDataset:
        """Make a dataset of all stacks of a plan; warns if something was left out.

        Args:
            plan: what is left out is in its `rejected`, and in that of its catalog.
            transform: done to each sample.
            cache: keeps volumes between epochs, or what the first steps of the transform made.
            dtype: float32, or int16 where every voxel is whole and fits.
            window: (low, high) in output units, which become 0 and 1.
        """
        dataset = cls(plan.stacks, transform, cache, dtype=dtype, window=window)
        damaged = plan.catalog.damaged
        dataset.rejected = (*plan.rejected, *damaged)
        refused = sum(bool(series.rejected) for series in plan.planned)
        if not plan.stacks or dataset.rejected:
            first = f"; the first: {dataset.rejected[0]}" if dataset.rejected else ""
            warnings.warn(
                f"{plan.catalog.root}: {len(plan.stacks)} volumes of {len(plan.planned)} series; "
                f"left out: {refused} series, whole or in part, and {len(damaged)} damaged files; "
                f"the dataset's `rejected` says why{first}",
                DicomDataWarning,
                stacklevel=_caller_level(),
            )
        return dataset

    def __len__(self) -> int:
        return len(self.stacks)

    def __getitem__(self, index: SupportsIndex) -> Any:
        """Read a sample, and transform it.

        Raises:
            IndexError: if there is none; negative indices count from the end.
            DicomDataError: if the volume cannot be read.
        """
        stack = self.stacks[operator.index(index)]
        sample, rest = self._begin(stack)
        (done,) = self._transformed([sample], index, rest)
        return done

    @property
    def read(self) -> Read:
        """What the cache is given to read a stack with: `warm` takes it, to fill the cache."""
        return self._read_of(self._prefix())

    def _read_of(self, prefix: Prefix | None) -> Read:
        if prefix is None:
            return partial(read_volume, dtype=self.dtype, window=self.window)
        return partial(
            read_transformed,
            prefix=prefix,
            image=self.image,
            dtype=self.dtype,
            window=self.window,
        )

    @property
    def kept_transforms(self) -> tuple[str, ...]:
        """Names of the steps whose result the cache keeps; none where it keeps volumes as read."""
        prefix = self._prefix()
        steps = () if prefix is None else prefix.steps.transforms[: prefix.count]
        return tuple(type(step).__name__ for step in steps)

    def _prefix(self) -> Prefix | None:
        """Find the steps whose result is kept: each time, for settings may have changed."""
        if not self.keep_prefix or self._most == 0 or isinstance(self.cache, NoCache):
            return None
        if self._labels is not None:
            return None
        return Prefix.of(self.transform, self._most)

    def _begin(self, stack: Stack) -> tuple[dict[str, Any], Transform | None]:
        """Give a sample as far as it is kept, and what is left to be done to it."""
        while prefix := self._prefix():
            try:
                kept = self.cache.get(stack, self._read_of(prefix))
            except UnkeptError as error:
                self._keep_less(str(error), error.last)
                continue
            if isinstance(kept, TransformedVolume):
                return restored(kept, prefix, self.image, self.window)
            self._keep_less(f"{type(self.cache).__name__} gives another type of volume", 0)
        volume = self.cache.get(stack, self._read_of(None))
        sample = new_sample(volume, self.image)
        if self._labels is not None:
            sample[self.label] = label_of(self._labels.read(stack), self._labels.channels)
        return sample, self.transform

    def _keep_less(self, reason: str, most: int) -> None:
        """Keep fewer steps from now on, and say why."""
        self._most = most
        warnings.warn(
            f"of the transform, {most} steps are kept, and the others taken each time: {reason}",
            DicomDataWarning,
            stacklevel=_caller_level(),
        )


def _ends(window: Window) -> tuple[float, float]:
    """Give a window as numbers that tell it from others: 0 and 0.0 are one."""
    return float(window.low), float(window.high)


def _caller_level() -> int:
    """Tell how many calls up a warning is about: to the first function outside this package."""
    here = os.path.dirname(os.path.dirname(__file__)) + os.sep
    level = 1
    while sys._getframe(level).f_code.co_filename.startswith(here):  # noqa: SLF001 - inspect.stack reads source files
        level += 1
    return level

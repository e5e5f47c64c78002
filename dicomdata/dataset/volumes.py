"""Stacks as a PyTorch dataset: `VolumeDataset`, one sample a volume."""

from __future__ import annotations

import operator
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.catalog import scan
from dicomdata.catalog.schema import SERIES_COLUMNS
from dicomdata.catalog.selection import where
from dicomdata.dataset.samples import StackDataset
from dicomdata.errors import DicomDataWarning
from dicomdata.stack import plan_stacks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import SupportsIndex

    from numpy.typing import DTypeLike

    from dicomdata.cache import VolumeCache
    from dicomdata.dataset.samples import Transform
    from dicomdata.errors import Rejection
    from dicomdata.stack import Policy, Stack, StackPlan


class VolumeDataset(StackDataset):
    """One sample a stack: the volume as a MONAI `MetaTensor`, and whose it is.

    A sample is a dict, given to the transform:

    * ``"image"``: `MetaTensor` (1, X, Y, Z), RAS, in output units: HU for CT;
    * ``"series_instance_uid"``, ``"study_instance_uid"``, ``"patient_id"``, ``"modality"``,
      ``"unit"``, and ``"stack"``, the id of the stack: text.

    A map-style dataset, and picklable if the transform is: a list of small plans and options. No
    file is open between samples, so it works under fork, spawn and forkserver.
    """

    def __init__(
        self,
        stacks: Sequence[Stack],
        transform: Transform | None = None,
        cache: VolumeCache | None = None,
        *,
        dtype: DTypeLike = np.float32,
        image: str = "image",
    ) -> None:
        """Make a dataset of stacks; nothing is read yet.

        Args:
            stacks: one sample each, as in ``plan.stacks``.
            transform: done to each sample.
            cache: keeps volumes between epochs, before the transform; None reads every time.
            dtype: float32, or int16 where every voxel is whole and fits.
            image: the key of the volume in a sample.
        """
        super().__init__(stacks, transform, cache, dtype=dtype, image=image)
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
            cache: keeps volumes between epochs.
            dtype: float32, or int16 where every voxel is whole and fits.
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
        return cls.from_plan(plan, transform=transform, cache=cache, dtype=dtype)

    @classmethod
    def from_plan(
        cls,
        plan: StackPlan,
        *,
        transform: Transform | None = None,
        cache: VolumeCache | None = None,
        dtype: DTypeLike = np.float32,
    ) -> VolumeDataset:
        """Make a dataset of all stacks of a plan; warns if something was left out.

        Args:
            plan: what is left out is in its `rejected`, and in that of its catalog.
            transform: done to each sample.
            cache: keeps volumes between epochs.
            dtype: float32, or int16 where every voxel is whole and fits.
        """
        dataset = cls(plan.stacks, transform, cache, dtype=dtype)
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
        (sample,) = self._transformed([self._sample(self._read(stack))], index)
        return sample


def _caller_level() -> int:
    """Tell how many calls up a warning is about: to the first function outside this package."""
    here = os.path.dirname(os.path.dirname(__file__)) + os.sep
    level = 1
    while sys._getframe(level).f_code.co_filename.startswith(here):  # noqa: SLF001 - inspect.stack reads source files
        level += 1
    return level

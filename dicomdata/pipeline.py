"""The whole line in one short function: read this first.

A folder of DICOM becomes batches for training in six steps, each a module of its own:
`scan`, `select`, `plan_stacks`, the cache, `VolumeDataset`, `collate`. `batches` takes them one
after the other; whoever needs something else in between writes these lines anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monai.data.dataloader import DataLoader

from dicomdata.catalog import scan
from dicomdata.catalog.schema import SERIES_COLUMNS
from dicomdata.catalog.selection import where
from dicomdata.dataset import VolumeDataset
from dicomdata.loader import collate
from dicomdata.stack import plan_stacks

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from dicomdata.cache import VolumeCache
    from dicomdata.catalog import Catalog
    from dicomdata.dataset import Transform
    from dicomdata.stack import Policy, StackPlan


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """What each step made; iterate over it for the batches of an epoch."""

    catalog: Catalog
    """The series that were found, selected or not, and the files that belong to none."""

    plan: StackPlan
    """The volumes of the selected series; `outcomes` accounts for every file under the root."""

    dataset: VolumeDataset
    """One sample a volume."""

    loader: DataLoader
    """Batches of samples."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)


def batches(  # noqa: PLR0913 - every step has something to choose, all of it by name
    root: str | os.PathLike[str],
    *,
    catalog: str | os.PathLike[str] | None = None,
    policy: Policy | None = None,
    transform: Transform | None = None,
    cache: VolumeCache | None = None,
    batch_size: int = 1,
    shuffle: bool = False,
    workers: int = 0,
    progress: bool | None = None,
    **select: Any,
) -> Pipeline:
    """Turn a folder of DICOM files into batches.

    Args:
        root: the folder, with all below it.
        catalog: where to keep what the scan finds; the next one reads only what changed.
        policy: which findings to accept and to reject; safe for training by default.
        transform: done to each sample, as in MONAI's `Compose` of dictionary transforms.
        cache: keeps volumes between epochs; None reads them every time.
        batch_size: samples a batch; more than one need a transform that gives them one shape.
        shuffle: another order in each epoch.
        workers: processes that read and transform; 0 does it in this one.
        progress: draw a progress bar on stderr; None draws if that is a terminal.
        select: conditions on series: ``modality="CT"``, ``slice_spacing=(0.5, 3.0)``.

    Raises:
        CatalogError: if there is no such column to select by; before anything is read.
        FileError: if the root is no folder that can be listed.
    """
    # A word that is misspelt is told before the scan, which may take an hour, not after it.
    where(select, tuple(SERIES_COLUMNS))

    # 1. Which series are there? Headers only, each file once. Text, reports and damaged files
    #    are set aside in `catalog.rejected`, with the reason.
    found = scan(root, catalog=catalog, progress=progress)

    # 2. Which of them are wanted? Columns of the catalog only.
    chosen = found.select(**select)

    # 3. Which volumes do they hold? Each is proven to lie on one grid, in known units, or it is
    #    rejected by name: `plan.rejected`. Still nothing but numbers from headers.
    plan = plan_stacks(chosen, policy)

    # 4. A sample is a volume: pixels are read when it is asked for, or taken from the cache, and
    #    become a MetaTensor in HU, RAS, ready for MONAI's transforms. Warns of what was left out.
    dataset = VolumeDataset.from_plan(plan, transform=transform, cache=cache)

    # 5. A batch is some samples. Any loader will do: the dataset gives the random transforms of
    #    each worker a state of their own. MONAI's is PyTorch's, with a seed for its own datasets.
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
    )
    return Pipeline(found, plan, dataset, loader)

"""Crops from two workers of a DataLoader, end to end; and the memory of four."""

from __future__ import annotations

import copy
import os
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dicomdata as dd
from benchmarks.measuring import fresh, reason, shared_mib, take_turns
from benchmarks.peers import monai_items, monai_load
from benchmarks.setup import stacks_under
from benchmarks.tables import OURS, Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.measuring import Run
    from benchmarks.setup import Setup

    Make = Callable[[Setup], Any]

WINDOW = (-1000.0, 400.0)
"""HU that become 0 and 1: of lungs."""

CROPS = 2
"""Crops of a volume each time it is visited."""

_VISITS_A_BATCH = 2
_FAST_VISITS = 48
"""Visits of an epoch that is timed, so many that beginning and end do not count; of readers that
load whole volumes, each volume once."""

_MILLISECONDS = 1000
_UNCHANGED = "CacheDataset(copy_cache=False)"
_FUSED = "dicomdata, fused window"
_SHARED = "dicomdata, fused window and transport"


def measure(setup: Setup) -> list[Table]:
    """Run epochs by turns, with workers that live on between them."""
    edge = setup.edge
    table = Table(f"2 workers, {CROPS} crops of {edge}^3 a volume, scaled and flipped", "ms a crop")
    contenders, weights = {}, {}
    for name, (make, loads_whole) in datasets().items():
        visits = setup.patients if loads_whole else _FAST_VISITS
        collate = dd.SharedCollate() if name == _SHARED else None
        contenders[name] = partial(_epoch, setup, make, visits, collate)
        weights[name] = float(visits * CROPS)
    take_turns(contenders, table, setup.rounds, scale=_MILLISECONDS, weights=weights)
    table.note = (
        f"Batches of {_VISITS_A_BATCH * CROPS} crops from {setup.patients} volumes, in the second "
        f"epoch and later ones. Scaling comes after cropping, where it is quickest."
    )
    for whole in ("MONAI ITKReader", "TorchIO"):
        table.ask(whole, 60)
    for cached in ("PersistentDataset", "CacheDataset"):
        table.ask(cached, 2.5)
    table.ask(_UNCHANGED, 1, text=f"equal to {_UNCHANGED}")
    table.ask(_UNCHANGED, 1.5, ours=_SHARED)
    return [table]


def measure_memory(setup: Setup) -> list[Table]:
    """Weigh a trainer with four workers, each in a fresh process."""
    table = Table(f"memory of 4 workers over {setup.patients} volumes", "MiB")
    for name in (OURS, _UNCHANGED):
        try:
            table.values[name] = fresh(weigh, setup, dataset=name)
        except RuntimeError as error:
            table.missing[name] = reason(error)
    table.values["imports alone"] = fresh(weigh_imports, setup)
    table.note = (
        "Proportional set size, added up over the trainer and its workers: a page that several "
        "hold counts once. PyTorch and MONAI themselves are in it."
    )
    table.ask(_UNCHANGED, 5)
    return [table]


def weigh(setup: Setup, dataset: str) -> float:
    """Give the most MiB that a trainer and four workers hold together, after each batch."""
    make, _ = datasets()[dataset]
    loader = _loader(make(setup), visits=8 * setup.patients, workers=4)
    return max(shared_mib(os.getpid()) for _ in loader)


def weigh_imports(_setup: Setup) -> float:
    """Give the MiB of a process that has imported PyTorch and MONAI's transforms."""
    import monai.transforms
    import torch.utils.data

    _ = torch.utils.data, monai.transforms
    return shared_mib(os.getpid())


def datasets() -> dict[str, tuple[Make, bool]]:
    """Give what makes each dataset, and whether it loads whole volumes each time."""
    found: dict[str, tuple[Make, bool]] = {
        OURS: (_patches, False),
        _FUSED: (partial(_patches, fused=True), False),
        _SHARED: (partial(_patches, fused=True), False),
        _UNCHANGED: (partial(_cached, copied=False), False),
        f"{_UNCHANGED}, scaled before": (partial(_cached, copied=False, scaled=True), False),
        "CacheDataset": (partial(_cached, copied=True), False),
        "PersistentDataset": (_persistent, False),
        "MONAI ITKReader": (whole_volumes, True),
        "TorchIO": (torchio_crops, True),
    }
    return found


def patches(setup: Setup, transform: Any, window: tuple[float, float] | None) -> Any:
    """Give ours: crops straight from DICOM, with no cache."""
    stacks = stacks_under(setup.archive)
    size = (setup.edge,) * 3
    return dd.PatchDataset(stacks, size, per_visit=CROPS, transform=transform, window=window)


def whole_volumes(setup: Setup) -> Any:
    """Give MONAI's plain dataset, which loads a volume and crops it."""
    from monai.data import Dataset

    return Dataset(monai_items(setup), _compose(*monai_load(), _crop(setup), _scale(), *_flips()))


def torchio_crops(setup: Setup) -> Any:
    """Give TorchIO's crops of whole volumes, scaled and flipped by its own transforms."""
    import torchio as tio

    subjects = [tio.Subject(image=tio.ScalarImage(item["image"])) for item in monai_items(setup)]
    scale = tio.RescaleIntensity((0, 1), in_min_max=WINDOW)
    transform = tio.Compose(
        [tio.Clamp(*WINDOW), scale, *(tio.RandomFlip(axis, 0.5) for axis in range(3))]
    )
    return _TorchioCrops(subjects, tio.UniformSampler(setup.edge), transform)


class _TorchioCrops:
    """Draws crops of a subject, and lets go of the volume again."""

    def __init__(self, subjects: list[Any], sampler: Any, transform: Any) -> None:
        self.subjects, self.sampler, self.transform = subjects, sampler, transform

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        # A subject keeps what it has loaded.
        subject = copy.deepcopy(self.subjects[index])
        crops = self.sampler(subject, CROPS)
        return [{"image": self.transform(crop)["image"]["data"]} for crop in crops]


def first_batch(dataset: Any) -> Any:
    """Start two workers and take one batch."""
    return next(iter(_loader(dataset, visits=len(dataset), workers=2)))


def _epoch(setup: Setup, make: Make, visits: int, collate: Any) -> Run:
    """Give what runs an epoch; its workers stay for the next."""
    loader = _loader(make(setup), visits=visits, workers=2, collate=collate)

    def run() -> None:
        for batch in loader:
            if batch["image"].shape[0] != _VISITS_A_BATCH * CROPS:
                raise ValueError(f"a batch of {tuple(batch['image'].shape)}")

    return run


def _loader(dataset: Any, *, visits: int, workers: int, collate: Any = None) -> Any:
    """Make a DataLoader that visits volumes at random; each library collates its own way."""
    from monai.data import list_data_collate
    from torch.utils.data import DataLoader, RandomSampler

    if collate is None:
        collate = dd.collate if isinstance(dataset, dd.PatchDataset) else list_data_collate
    return DataLoader(
        dataset,
        batch_size=_VISITS_A_BATCH,
        sampler=RandomSampler(dataset, replacement=True, num_samples=visits),
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=True,
        drop_last=True,
    )


def _patches(setup: Setup, *, fused: bool = False) -> Any:
    from monai.transforms import Compose

    transforms = _flips() if fused else [_scale(), *_flips()]
    return patches(setup, Compose(transforms), WINDOW if fused else None)


def _cached(setup: Setup, *, copied: bool, scaled: bool = False) -> Any:
    """Give MONAI's dataset in memory; one that copies shares its volumes with one that does not."""
    dataset = copy.copy(_loaded(setup, scaled=scaled))
    dataset.copy_cache = copied
    return dataset


@lru_cache
def _loaded(setup: Setup, *, scaled: bool) -> Any:
    from monai.data import CacheDataset

    crop, scale = _crop(setup), _scale()
    order = [scale, crop] if scaled else [crop, scale]
    transform = _compose(*monai_load(), *order, *_flips())
    return CacheDataset(monai_items(setup), transform, progress=False)


def _persistent(setup: Setup) -> Any:
    """Give MONAI's dataset on disk, after its first epoch."""
    from monai.data import PersistentDataset

    transform = _compose(*monai_load(), _crop(setup), _scale(), *_flips())
    folder = Path(setup.folder, "persistent")
    dataset = PersistentDataset(monai_items(setup), transform, cache_dir=folder)
    for number in range(len(dataset)):
        _ = dataset[number]
    return dataset


def _compose(*transforms: Any) -> Any:
    from monai.transforms import Compose

    return Compose(transforms)


def _crop(setup: Setup) -> Any:
    from monai.transforms import RandSpatialCropSamplesd

    size = (setup.edge,) * 3
    return RandSpatialCropSamplesd("image", size, num_samples=CROPS, random_size=False)


def _scale() -> Any:
    from monai.transforms import ScaleIntensityRanged

    return ScaleIntensityRanged("image", *WINDOW, 0, 1, clip=True)


def _flips() -> list[Any]:
    from monai.transforms import RandFlipd

    return [RandFlipd("image", prob=0.5, spatial_axis=axis) for axis in range(3)]

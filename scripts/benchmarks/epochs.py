"""Whole volumes in their second epoch, and what they take on the disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dicomdata as dd
from benchmarks.measuring import take_turns
from benchmarks.peers import monai_items, monai_load
from benchmarks.setup import fill, stacks_under
from benchmarks.tables import OURS, Table

if TYPE_CHECKING:
    from benchmarks.measuring import Run
    from benchmarks.setup import Setup

_MILLISECONDS = 1000
_MONAI = "PersistentDataset"
_RAW, _SMALL = "dicomdata, raw cache", "dicomdata, small cache"
_FOLDERS = {_MONAI: "monai", _RAW: "raw", _SMALL: "small"}

_MOST_VOLUMES = 4


def measure(setup: Setup) -> list[Table]:
    """Load volumes that a cache has."""
    volumes = min(setup.patients, _MOST_VOLUMES)
    times = Table("whole volume in the second epoch", "ms a volume", ours=_RAW)
    contenders = {
        _RAW: partial(_ours, setup, "raw"),
        _SMALL: partial(_ours, setup, "small"),
        f"{OURS}, no cache": partial(_ours, setup, ""),
        _MONAI: partial(_monai, setup),
    }
    take_turns(contenders, times, setup.rounds, scale=_MILLISECONDS / volumes)
    times.note = "In one process, as samples of a dataset: float32 MetaTensors."
    times.ask(_MONAI, 2)

    sizes = Table("a cached volume on the disk", "MiB", ours=_RAW)
    for name in times.values:
        if name not in _FOLDERS:
            continue
        files = [path for path in _folder(setup, name).rglob("*") if path.is_file()]
        sizes.values[name] = sum(path.stat().st_size for path in files) / volumes / 2**20
    # An entry has a kilobyte that describes it, so that two times can only be approached.
    sizes.ask(_MONAI, 1.99, text="half the disk of PersistentDataset")
    return [times, sizes]


def _ours(setup: Setup, layout: Any) -> Run:
    stacks = stacks_under(setup.archive)[:_MOST_VOLUMES]
    folder = Path(setup.folder, "epochs", layout)
    cache = dd.DiskCache(folder, layout=layout) if layout else None
    if cache is not None:
        fill(cache, stacks)
    dataset = dd.VolumeDataset(stacks, cache=cache)
    return _second_epoch(dataset)


def _monai(setup: Setup) -> Run:
    from monai.data import PersistentDataset
    from monai.transforms import Compose

    items, load = monai_items(setup)[:_MOST_VOLUMES], Compose(monai_load())
    return _second_epoch(PersistentDataset(items, load, cache_dir=_folder(setup, _MONAI)))


def _second_epoch(dataset: Any) -> Run:
    """Go through a dataset once, so that all is kept; give what goes through it again."""

    def run() -> None:
        for number in range(len(dataset)):
            _ = dataset[number]

    run()
    return run


def _folder(setup: Setup, name: str) -> Path:
    return Path(setup.folder, "epochs", _FOLDERS[name])

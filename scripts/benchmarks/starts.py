"""The first batch of a folder that was never seen, from a program that just started."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.loaders import WINDOW, first_batch, patches, torchio_crops, whole_volumes
from benchmarks.measuring import fresh, medians, reason
from benchmarks.tables import OURS, Table

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from benchmarks.setup import Setup

_MOST_ROUNDS = 3
"""A fresh process takes seconds to import what it needs."""

_IMPORTS = "importing torch and MONAI's transforms"


def measure(setup: Setup) -> list[Table]:
    """Start a program, scan, and wait for the first batch of two workers."""
    table = Table("first batch of a folder never seen", "s")
    samples = []
    for _ in range(min(setup.rounds, _MOST_ROUNDS)):
        sample = {}
        for name in _DATASETS:
            if name in table.missing:
                continue
            try:
                taken = fresh(start, setup, dataset=name)
            except RuntimeError as error:
                table.missing[name] = reason(error)
                continue
            sample[name], sample[_IMPORTS] = taken["batch"], taken["imports"]
        samples.append(sample)
    found = medians(samples)
    table.values = {name: found[name] for name in (*_DATASETS, _IMPORTS) if name in found}
    table.note = (
        f"{setup.patients} volumes, 2 workers, in fresh processes; the time beyond {_IMPORTS}, "
        f"which all of them pay and which has a row of its own."
    )
    table.limit(f"seconds beyond {_IMPORTS}", 1.5, table.values.get(OURS), "s")
    return [table]


def start(setup: Setup, dataset: str) -> dict[str, float]:
    """Import, then make a dataset of a folder and take a batch; seconds of each."""
    begin = time.perf_counter()
    import monai.transforms
    import torch

    _ = torch, monai.transforms
    imported = time.perf_counter()
    first_batch(_DATASETS[dataset](setup))
    return {"imports": imported - begin, "batch": time.perf_counter() - imported}


_DATASETS: dict[str, Callable[[Setup], Any]] = {
    OURS: partial(patches, transform=None, window=WINDOW),
    "MONAI ITKReader": whole_volumes,
    "TorchIO": torchio_crops,
}

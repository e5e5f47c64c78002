"""All works, by the names that `--only` takes, in the order they are done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import catalogs, crops, decoding, epochs, headers, loaders, starts, volumes
from benchmarks.measuring import fresh
from benchmarks.tables import Table, table_from_dict

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.setup import Setup

WORKS: dict[str, Callable[[Setup], list[Table]]] = {
    "headers": headers.measure,
    "catalog": catalogs.measure,
    "volume": volumes.measure,
    "crop": crops.measure,
    "codecs": decoding.measure,
    "loader": loaders.measure,
    "memory": loaders.measure_memory,
    "epoch": epochs.measure,
    "start": starts.measure,
}


def measure(setup: Setup, name: str) -> list[Table]:
    """Do a work in a process of its own, so that none inherits threads or memory of another."""
    return [table_from_dict(known) for known in fresh(tables_of, setup, name=name)]


def tables_of(setup: Setup, name: str) -> list[object]:
    """Do a work here; its tables, as JSON has them."""
    return [table.as_dict() for table in WORKS[name](setup)]

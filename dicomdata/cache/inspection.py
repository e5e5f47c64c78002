"""What lies in the folder of a cache: its entries, and which of them are damaged."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicomdata.cache.damage import DamagedEntryError
from dicomdata.cache.entry import check_entry, describe_entry, use_and_size
from dicomdata.errors import CacheError, Rejection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dicomdata.cache.entry import Layout


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A volume that is kept on disk."""

    key: str
    """What it is kept under: a digest of its files, and of how they were read."""

    stack: str
    """Id of its stack."""

    shape: tuple[int, int, int]
    """(slices, rows, columns)."""

    dtype: str
    """Type of the voxels as they are given; whole numbers may be kept as int16."""

    unit: str
    """Unit of the voxels."""

    layout: Layout
    """How it lies on disk."""

    bytes: int
    """What it takes there."""

    used_s: float
    """When it was last used, seconds since 1970."""


def list_entries(volumes: str) -> tuple[tuple[CacheEntry, ...], tuple[Rejection, ...]]:
    """Describe the entries in a folder, least recently used first, and tell which cannot be."""
    entries, damaged = [], []
    for path in _paths(volumes):
        key = _key_of(path)
        used_ns, size = use_and_size(path)
        try:
            said = describe_entry(path, key)
        except FileNotFoundError:
            # Dropped by another process since the folder was listed.
            continue
        except (DamagedEntryError, OSError) as error:
            damaged.append(_rejection(path, error))
            continue
        what = (said.stack, said.shape, said.dtype.name, said.unit, said.layout)
        entries.append(CacheEntry(key, *what, bytes=size, used_s=used_ns / 1e9))
    return tuple(sorted(entries, key=lambda entry: entry.used_s)), tuple(damaged)


def check_entries(volumes: str) -> tuple[Rejection, ...]:
    """Read all entries in a folder, compare their checksums, and give those that are damaged."""
    damaged = []
    for path in _paths(volumes):
        try:
            check_entry(path, _key_of(path))
        except (DamagedEntryError, OSError) as error:
            # One that another process dropped meanwhile is gone, not damaged.
            if os.path.isdir(path):
                damaged.append(_rejection(path, error))
    return tuple(damaged)


def _paths(volumes: str) -> Iterator[str]:
    names = sorted(os.listdir(volumes)) if os.path.isdir(volumes) else []
    return (os.path.join(volumes, name) for name in names)


def _key_of(path: str) -> str:
    return os.path.basename(path).partition(".")[0]


def _rejection(path: str, error: Exception) -> Rejection:
    text = f"{path}: damaged, and read anew when it is next asked for: {error}"
    return Rejection(path, CacheError(text))

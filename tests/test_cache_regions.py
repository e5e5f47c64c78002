"""Boxes of kept volumes: what they cost, counted in bytes, never in seconds."""

from __future__ import annotations

import tracemalloc
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dicomdata.cache import DiskCache, MemoryCache, NoCache
from dicomdata.catalog import scan
from dicomdata.regions import Region
from dicomdata.stack import Stack, plan_stacks
from dicomdata.testing.contracts import assert_same_volume, logged_read
from dicomdata.testing.phantoms import write_series
from dicomdata.volume import read_volume

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOX = Region(slice(2, 10), slice(32, 64), slice(64, 96))
"""8 x 32 x 32 voxels of a volume of 12 x 256 x 256."""

BOX_BYTES = 8 * 32 * 32 * 4
"""Of the box as float32."""

VOLUME_BYTES = 12 * 256 * 256 * 2
"""Of the volume as int16, the least that is ever kept of it."""


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    stored = np.random.default_rng(0).integers(0, 2000, (12, 256, 256), np.uint16)
    write_series(tmp_path / "series", stored=stored)
    return plan_stacks(scan(tmp_path / "series", progress=False)).stacks[0]


def bytes_allocated(function: Callable[[], object]) -> int:
    """Tell the most memory that Python and NumPy held at once while a function ran."""
    function()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_cache_reads_the_box_alone(stack: Stack, tmp_path: Path) -> None:
    log = tmp_path / "log"

    volume = NoCache().get(stack, partial(logged_read, log=str(log)), BOX)

    assert_same_volume(volume, read_volume(stack, BOX))
    assert log.read_text().partition(" ")[2] == f"{BOX}\n"


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_a_box_of_a_kept_volume_allocates_the_box_and_no_more(
    kind: str, dtype: type, stack: Stack, tmp_path: Path
) -> None:
    cache = MemoryCache() if kind == "memory" else DiskCache(tmp_path / "cache")
    read = partial(read_volume, dtype=dtype)
    cache.get(stack, read)

    allocated = bytes_allocated(lambda: cache.get(stack, read, BOX))

    # What else is needed is the plan of the stack, the entry's description, and such.
    assert allocated < 2 * BOX_BYTES
    assert allocated < VOLUME_BYTES / 10

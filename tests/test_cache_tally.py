"""What all processes did with a cache: added up by each, and lost by none that ends in order."""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING, Any

import pytest

from dicomdata.cache import DiskCache, MemoryCache
from dicomdata.catalog import scan
from dicomdata.regions import Region
from dicomdata.stack import Stack, plan_stacks
from dicomdata.testing.phantoms import write_series
from dicomdata.volume import read_volume

if TYPE_CHECKING:
    from pathlib import Path

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""Python 3.12 and later warn of forks beside threads: pytest may have some."""

BOX = Region(slices=slice(1))


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    write_series(tmp_path / "series")
    return plan_stacks(scan(tmp_path / "series", progress=False)).stacks[0]


def hit(cache: Any, stack: Stack, times: int) -> None:
    for _ in range(times):
        cache.get(stack, read_volume, BOX)


@FORKS
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_what_workers_did_is_added_up(kind: str, method: str, stack: Stack, tmp_path: Path) -> None:
    cache = MemoryCache() if kind == "memory" else DiskCache(tmp_path / "cache")
    cache.get(stack, read_volume)
    context: Any = multiprocessing.get_context(method)

    workers = [context.Process(target=hit, args=(cache, stack, times)) for times in (3, 70)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    hit(cache, stack, 2)

    totals = cache.totals()
    assert (totals.hits, totals.misses, totals.fills) == (75, 1, 1)
    assert totals.bytes == cache.statistics().bytes
    assert cache.statistics().hits == 2


def test_hits_are_told_some_at_a_time_and_all_else_at_once(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DiskCache(tmp_path / "cache")
    writes: list[int] = []
    pwrite = os.pwrite

    def counted(handle: int, content: bytes, offset: int) -> int:
        writes.append(len(content))
        return pwrite(handle, content, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    cache.get(stack, read_volume)
    filled = len(writes)
    hit(cache, stack, 128)

    # A miss and a fill, and 64 hits twice.
    assert (filled, len(writes)) == (2, 4)


def test_the_next_run_goes_on_counting(stack: Stack, tmp_path: Path) -> None:
    for _ in range(2):
        DiskCache(tmp_path / "cache").get(stack, read_volume, BOX)

    assert DiskCache(tmp_path / "cache").totals().misses == 0

    (tmp_path / "cache").mkdir()
    for _ in range(2):
        DiskCache(tmp_path / "cache").get(stack, read_volume, BOX)

    assert DiskCache(tmp_path / "cache").totals().misses == 2


def test_counts_that_were_cut_short_start_anew(stack: Stack, tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache")
    cache.get(stack, read_volume)
    (tmp_path / "cache" / "tally").write_bytes(b"\x01")

    hit(cache, stack, 3)

    assert (cache.totals().misses, cache.totals().hits) == (0, 3)
    assert cache.statistics().misses == 1


def test_looking_at_a_cache_that_is_not_there_makes_none(tmp_path: Path) -> None:
    assert DiskCache(tmp_path / "none").totals().hits == 0
    assert not (tmp_path / "none").exists()

"""The memory that caches share: counted once, bounded over all processes, and always given back."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dicomdata.cache import MemoryCache
from dicomdata.cache.memory import ProcessCache
from dicomdata.cache.shared import Room, find_room, share_folder
from dicomdata.catalog import scan
from dicomdata.errors import DicomDataWarning
from dicomdata.stack import Stack, plan_stacks
from dicomdata.testing.contracts import assert_same_volume, count_reads, logged_read
from dicomdata.testing.phantoms import write_series
from dicomdata.volume import read_volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VOLUME_BYTES = 5 * 64 * 64 * 2
"""Of each volume here, kept as int16."""

DESCRIPTION_BYTES = 4096
"""More than is kept beside the voxels of a volume."""

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""Python 3.12 and later warn of forks beside threads, which is what is tested."""


@pytest.fixture
def stacks(tmp_path: Path) -> list[Stack]:
    """Eight stacks, of whole numbers that int16 holds."""
    for number in range(8):
        stored = np.random.default_rng(number).integers(0, 2000, (5, 64, 64), np.uint16)
        write_series(tmp_path / "archive" / str(number), seed=str(number), stored=stored)
    return list(plan_stacks(scan(tmp_path / "archive", progress=False)).stacks)


def folder_of(cache: MemoryCache) -> Path:
    """Tell where a cache keeps its volumes."""
    assert cache._shared is not None
    return Path(cache._shared.path)


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def read_all(
    seed: int, cache: MemoryCache, stacks: list[Stack], read: Callable[..., Any]
) -> tuple[int, int]:
    """Read every volume twice, in another order in each process; give hits and misses."""
    order = np.random.default_rng(seed).permutation(len(stacks) * 2) % len(stacks)
    for number in order:
        assert_same_volume(cache.get(stacks[number], read), read_volume(stacks[number]))
    statistics = cache.statistics()
    return statistics.hits, statistics.misses


def send_counts(there: Any, cache: ProcessCache, stack: Stack) -> None:
    """Read a volume, and send hits and misses."""
    cache.get(stack, read_volume)
    statistics = cache.statistics()
    there.send((statistics.hits, statistics.misses))


# --- shared -------------------------------------------------------------------------------------


@FORKS
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_four_workers_over_eight_volumes_read_and_keep_each_once(
    method: str, stacks: list[Stack], tmp_path: Path
) -> None:
    cache, log = MemoryCache(), tmp_path / "log"
    read = partial(logged_read, log=str(log))
    work = partial(read_all, cache=cache, stacks=stacks, read=read)

    with multiprocessing.get_context(method).Pool(4) as pool:
        counted = pool.map(work, range(4), chunksize=1)

    assert count_reads(log) == 8
    assert sum(misses for _, misses in counted) == 8
    assert sum(hits for hits, _ in counted) == 4 * 16 - 8
    assert bytes_in(folder_of(cache)) < 8 * (VOLUME_BYTES + DESCRIPTION_BYTES)


@FORKS
def test_the_bound_holds_for_all_processes_together(stacks: list[Stack]) -> None:
    bound = 3 * (VOLUME_BYTES + DESCRIPTION_BYTES)
    cache = MemoryCache(bound)
    work = partial(read_all, cache=cache, stacks=stacks, read=read_volume)

    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(work, range(4), chunksize=1)

    assert 0 < bytes_in(folder_of(cache)) <= bound


def test_a_copy_shares_the_memory(stacks: list[Stack]) -> None:
    cache = MemoryCache("1 GB")
    cache.get(stacks[0], read_volume)

    copy = pickle.loads(pickle.dumps(cache))
    copy.get(stacks[0], read_volume)

    assert copy.max_bytes == 10**9
    assert copy.statistics().hits == 1


def test_the_memory_stays_while_a_copy_is_used(stacks: list[Stack]) -> None:
    cache = MemoryCache()
    cache.get(stacks[0], read_volume)
    copy = pickle.loads(pickle.dumps(cache))

    del cache
    copy.get(stacks[0], read_volume)

    assert copy.statistics().hits == 1


def test_a_copy_of_a_cache_that_is_gone_is_an_empty_one_of_the_same_size(
    stacks: list[Stack],
) -> None:
    cache = MemoryCache("1 GB")
    cache.get(stacks[0], read_volume)
    pickled = pickle.dumps(cache)
    del cache

    copy = pickle.loads(pickled)

    for _ in range(2):
        copy.get(stacks[0], read_volume)
    statistics = copy.statistics()
    assert copy.max_bytes == 10**9
    assert (statistics.misses, statistics.hits) == (1, 1)


@FORKS
def test_what_a_forked_child_fills_its_parent_has(stacks: list[Stack]) -> None:
    cache = MemoryCache()

    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(read_all, (0, cache, stacks[:1], read_volume))
    cache.get(stacks[0], read_volume)

    statistics = cache.statistics()
    assert (statistics.hits, statistics.misses) == (1, 0)


# --- given back ---------------------------------------------------------------------------------


def test_the_memory_is_given_back_when_the_cache_is_no_longer_used(stacks: list[Stack]) -> None:
    cache = MemoryCache()
    cache.get(stacks[0], read_volume)
    folder = folder_of(cache)
    assert folder.is_dir()

    del cache

    assert not folder.exists()
    assert not Path(f"{folder}.lock").exists()


@FORKS
def test_a_child_that_ends_leaves_the_memory_to_its_parent(stacks: list[Stack]) -> None:
    cache = MemoryCache()
    cache.get(stacks[0], read_volume)

    child = os.fork()
    if child == 0:
        del cache
        os._exit(0)
    os.waitpid(child, 0)

    cache.get(stacks[0], read_volume)
    assert cache.statistics().hits == 1


OWNER = """
import sys, time
from dicomdata.cache import MemoryCache
from dicomdata.catalog import scan
from dicomdata.stack import plan_stacks
from dicomdata.volume import read_volume

cache = MemoryCache()
stack = plan_stacks(scan(sys.argv[1], progress=False)).stacks[0]
cache.get(stack, read_volume)
print(cache._shared.path, flush=True)
if sys.argv[2] == "hangs":
    time.sleep(600)
"""
"""A process that keeps a volume, and ends or is ended."""


def test_a_process_that_ends_gives_its_memory_back(stacks: list[Stack]) -> None:
    argv = [sys.executable, "-c", OWNER, stacks[0].root, "ends"]

    done = subprocess.run(argv, capture_output=True, text=True, check=True)

    assert not os.path.exists(done.stdout.strip())


def test_the_memory_of_a_killed_process_is_given_back_by_the_next_cache(
    stacks: list[Stack],
) -> None:
    argv = [sys.executable, "-c", OWNER, stacks[0].root, "hangs"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        MemoryCache()
        assert bytes_in(left) > VOLUME_BYTES
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert left.is_dir()

    MemoryCache()

    assert not left.exists()
    assert not Path(f"{left}.lock").exists()


# --- shared by ranks ----------------------------------------------------------------------------


RANK = """
import functools, os, sys
from dicomdata.cache import MemoryCache
from dicomdata.catalog import scan
from dicomdata.stack import plan_stacks
from dicomdata.testing.contracts import logged_read

cache = MemoryCache(name="training")
stacks = plan_stacks(scan(sys.argv[1], progress=False)).stacks
read = functools.partial(logged_read, log=sys.argv[2])
for line in sys.stdin:
    if line == "read\\n":
        for stack in stacks:
            cache.get(stack, read)
    if line == "end\\n":
        break
    print(cache._shared.path, cache.statistics().hits, flush=True)
"""
"""A process as torchrun starts one for each rank: it does what it is told, and says where."""


class Rank:
    """One of them."""

    def __init__(self, root: str, log: Path, **environment: str) -> None:
        argv = [sys.executable, "-c", RANK, root, str(log)]
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def tell(self, what: str) -> tuple[Path, int]:
        """Have it do something, and give where it keeps volumes, and how many it found there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        path, hits = self.process.stdout.readline().split()
        return Path(path), int(hits)

    def end(self) -> None:
        """Let it end in order."""
        self.process.communicate("end\n")

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(stacks: list[Stack], tmp_path: Path) -> Iterator[Callable[[str], Rank]]:
    """Give a function that starts a rank of a run, which ends with the test."""
    ranks = []

    def start(run: str) -> Rank:
        rank = Rank(stacks[0].root, tmp_path / "log", TORCHELASTIC_RUN_ID=run)
        ranks.append(rank)
        return rank

    yield start
    for rank in ranks:
        if rank.process.poll() is None:
            rank.kill()


def test_ranks_share_what_one_of_them_kept_until_the_last_ends(
    start: Callable[[str], Rank], tmp_path: Path
) -> None:
    run = tmp_path.name
    one, two = start(run), start(run)

    folder, _ = one.tell("read")
    there, hits = two.tell("read")

    assert (there, hits) == (folder, 8)
    assert count_reads(tmp_path / "log") == 8
    one.end()
    assert folder.is_dir()
    assert two.tell("read")[1] == 16
    two.end()
    assert not folder.exists()
    assert not Path(f"{folder}.lock").exists()


def test_another_run_has_memory_of_its_own_and_can_take_none_away(
    start: Callable[[str], Rank], tmp_path: Path
) -> None:
    one, other = start(f"{tmp_path.name} 1"), start(f"{tmp_path.name} 2")
    folder, _ = one.tell("read")

    elsewhere, hits = other.tell("read")
    other.end()

    assert elsewhere != folder
    assert hits == 0
    assert not elsewhere.exists()
    assert one.tell("read")[1] == 8


def test_the_memory_of_ranks_that_were_all_killed_is_given_back_by_the_next_cache(
    start: Callable[[str], Rank], tmp_path: Path
) -> None:
    one, two = start(tmp_path.name), start(tmp_path.name)
    folder, _ = one.tell("read")
    two.tell("read")

    one.kill()
    MemoryCache()
    assert two.tell("read")[1] == 16
    two.kill()
    assert folder.is_dir()
    MemoryCache()

    assert not folder.exists()


def test_a_name_is_shared_within_a_process_and_by_copies(
    stacks: list[Stack], tmp_path: Path
) -> None:
    one, two = MemoryCache(name=tmp_path.name), MemoryCache("1 GB", name=tmp_path.name)
    one.get(stacks[0], read_volume)
    folder = folder_of(one)

    copy = pickle.loads(pickle.dumps(two))
    for cache in (two, copy):
        cache.get(stacks[0], read_volume)

    assert folder_of(two) == folder_of(copy) == folder
    assert (two.statistics().hits, copy.statistics().hits) == (1, 1)
    assert (copy.name, copy.max_bytes) == (tmp_path.name, 10**9)
    del one, two, cache
    assert folder.is_dir()
    del copy
    assert not folder.exists()


def test_who_comes_to_a_name_later_takes_the_bound_that_was_found_first(tmp_path: Path) -> None:
    assert find_room(1, [str(tmp_path)], name="training") is not None
    first = share_folder(Room(str(tmp_path), 1000), "training")

    # By now the first has filled the place: there is no room, and none is needed.
    room = find_room(2**60, [str(tmp_path)], name="training")

    assert room is not None
    assert share_folder(room, "training").room == first.room == 1000


# --- room, and whose it is ----------------------------------------------------------------------


def test_nobody_else_can_read_the_memory(stacks: list[Stack]) -> None:
    folder = folder_of(MemoryCache())

    assert folder.parent.stat().st_mode & 0o077 == 0


def test_a_place_where_others_could_write_is_not_used(tmp_path: Path) -> None:
    open_to_all, good = tmp_path / "open", tmp_path / "good"
    for place in (open_to_all, good):
        (place / f"dicomdata-{os.getuid()}").mkdir(parents=True, mode=0o700)
    (open_to_all / f"dicomdata-{os.getuid()}").chmod(0o777)

    room = find_room(1, [str(tmp_path / "missing"), str(open_to_all), str(good)])

    assert room is not None
    assert room.place == str(good)


def test_where_there_is_no_room_each_process_keeps_its_own_and_says_so(
    stacks: list[Stack],
) -> None:
    with pytest.warns(DicomDataWarning, match="each process keeps its own") as caught:
        cache = MemoryCache("1000 TB")
    copy = pickle.loads(pickle.dumps(cache))

    for each in (cache, cache, copy):
        assert_same_volume(each.get(stacks[0], read_volume), read_volume(stacks[0]))
    assert [warning.filename for warning in caught] == [__file__]
    assert (cache.statistics().hits, copy.statistics().hits) == (1, 0)


def test_the_cache_of_one_process_lets_the_least_recently_used_go(stacks: list[Stack]) -> None:
    cache = ProcessCache(2 * VOLUME_BYTES)
    one, two, three = stacks[:3]

    for stack in (one, two, one, three, one):
        cache.get(stack, read_volume)

    statistics = cache.statistics()
    assert (statistics.evictions, statistics.misses, statistics.hits) == (1, 3, 2)
    assert ProcessCache(VOLUME_BYTES - 1).get(one, read_volume).unit == "HU"


@FORKS
def test_a_forked_child_has_what_one_process_kept_and_counts_for_itself(
    stacks: list[Stack],
) -> None:
    cache = ProcessCache()
    cache.get(stacks[0], read_volume)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    process = context.Process(target=send_counts, args=(there, cache, stacks[0]))
    process.start()
    counted = here.recv()
    process.join()

    assert counted == (1, 0)
    assert cache.statistics().hits == 0

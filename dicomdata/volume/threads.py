"""Threads that decode: made for one call and gone with it, so that none is carried over a fork."""

from __future__ import annotations

import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

Job: TypeAlias = "Callable[[], None]"

_MOST_THREADS = 4
"""Threads of a call that was not told how many: beyond, the call would take the machine over."""

_JOBS_A_THREAD = 2
"""Jobs that are made before they are due, so that no thread waits for a file to be read."""


def thread_count(workers: int | None) -> int:
    """Give how many threads may decode: as many as are asked for, or as there are processors.

    Args:
        workers: how many; None is one a processor that this process may use, 4 at most, and one
            in a worker of a DataLoader, which has its processor for itself.

    Raises:
        ValueError: if it is less than 1.
    """
    if workers is not None:
        if workers < 1:
            raise ValueError(f"workers must be 1 or more, got {workers}")
        return workers
    # Only where torch is there already: reading does not need it.
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data is not None and torch_data.get_worker_info() is not None:
        return 1
    has_affinity = hasattr(os, "sched_getaffinity")
    processors = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(processors, _MOST_THREADS)


def run(jobs: Iterable[Job], threads: int) -> None:
    """Do jobs, on threads if there are to be several; they are made here, one after the other.

    Raises:
        Exception: the first in the order of the jobs, be it of making or of doing one; those that
            have begun come to their end first.
    """
    if threads == 1:
        for job in jobs:
            job()
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in _submitted(jobs, pool, threads * _JOBS_A_THREAD):
            done.result()


def _submitted(jobs: Iterable[Job], pool: ThreadPoolExecutor, most: int) -> Iterator[Future[None]]:
    """Give jobs to the threads, `most` of them ahead; give back in order what became of them."""
    pending: deque[Future[None]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(job))
            if len(pending) > most:
                yield pending.popleft()
    except Exception:
        # A job could not be made: what became of those before it is told first.
        yield from pending
        raise
    yield from pending

"""Threads that read: made for one call and gone with it, so that none is carried over a fork."""

from __future__ import annotations

import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from threading import Lock, Thread
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future

Job: TypeAlias = "Callable[[], None]"

Result = TypeVar("Result")

_MOST_THREADS = 4
"""Threads of a call that was not told how many: beyond, the call would take the machine over."""


def thread_count(workers: int | None) -> int:
    """Give how many threads may read: as many as are asked for, or as there are processors.

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
    """Do jobs on several threads, this one among them; each takes the next one when it is free.

    Jobs are made one after the other, by whichever thread is free: what making them uses needs
    no lock of its own.

    Raises:
        BaseException: the first in the order of the jobs, be it of making or of doing one; those
            that have begun come to their end first.
    """
    line = _Line(jobs)
    others = [Thread(target=line.work) for _ in range(threads - 1)]
    try:
        for thread in others:
            thread.start()
        line.work()
    finally:
        line.close()
        for thread in others:
            if thread.ident is not None:
                thread.join()
    if line.failures:
        raise min(line.failures, key=itemgetter(0))[1]


def in_order(jobs: Iterable[Callable[[], Result]], threads: int) -> Generator[Result, None, None]:
    """Do jobs on threads, a few ahead of what is asked for; give their results in order.

    Raises:
        Exception: the first in the order of the jobs, be it of making or of doing one.
    """
    if threads == 1:
        for job in jobs:
            yield job()
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in _submitted(jobs, pool, threads):
            yield done.result()


def _submitted(
    jobs: Iterable[Callable[[], Result]], pool: ThreadPoolExecutor, most: int
) -> Iterator[Future[Result]]:
    """Give jobs to the threads, `most` of them ahead; give back in order what became of them."""
    pending: deque[Future[Result]] = deque()
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


class _Line:
    """Jobs that wait to be done."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.failures: list[tuple[int, BaseException]] = []
        """Number of a job, and what was raised when it was made or done."""
        self._jobs = iter(jobs)
        self._taken = 0
        self._closed = False
        self._lock = Lock()

    def work(self) -> None:
        """Do one job after the other, until there is none or one has failed."""
        number = 0
        try:
            while True:
                with self._lock:
                    if self._closed:
                        return
                    self._taken = number = self._taken + 1
                    job = next(self._jobs, None)
                if job is None:
                    return
                job()
        # Whatever it is: a thread that is gone without a word would leave slices unwritten.
        except BaseException as error:  # noqa: BLE001
            self.failures.append((number, error))
            self.close()

    def close(self) -> None:
        """Give out no more jobs."""
        self._closed = True

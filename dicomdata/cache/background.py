"""Work that a process does for a cache while its callers go on: one job at a time, on one thread.

The thread is there while there is work, and never across a fork: a fork waits for the job in hand,
and what is asked for goes on after it. A process that ends finishes the job in hand, and drops what
is only asked for.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Job: TypeAlias = "Callable[[], None]"


class Background:
    """Does one job at a time for the callers of a process.

    A job that is handed over has a volume with it: whoever hands over the next one waits until it
    is done, so that no two lie in memory. A job that is asked for takes its volume when it begins,
    and may wait long.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._asked: OrderedDict[str, Job] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._paused = False
        self._waiting = 0
        self._troubles: list[Exception] = []
        _everyone.add(self)

    def hand_over(self, job: Job) -> None:
        """Have a job done at once, after waiting for the one in hand."""
        with self._change:
            self._waiting += 1
            try:
                self._change.wait_for(lambda: not self._busy and not self._paused)
            finally:
                self._waiting -= 1
            self._start(job)

    def ask_for(self, name: str, job: Job) -> None:
        """Have a job done when there is time, unless one of that name is asked for already."""
        with self._change:
            self._asked.setdefault(name, job)
            self._go_on()

    def finish(self) -> None:
        """Wait until all is done."""
        with self._change:
            self._change.wait_for(lambda: not self._busy and not self._asked)
            thread = self._thread
        if thread is not None:
            thread.join()

    def troubles(self) -> list[Exception]:
        """Give the errors of jobs, each once."""
        found = []
        while self._troubles:
            found.append(self._troubles.pop())
        return found

    def pause(self) -> None:
        """Wait for the job in hand, and begin no other."""
        with self._change:
            self._paused = True
            thread = self._thread
        # A job that forks cannot wait for itself.
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def resume(self) -> None:
        """Go on after a pause."""
        with self._change:
            self._paused = False
            self._go_on()
            self._change.notify_all()

    def _go_on(self) -> None:
        """Begin a job that is asked for, if none is in hand and nobody waits to hand one over."""
        idle = not (self._busy or self._waiting or self._paused)
        # A process that ends would wait for all of them.
        if self._asked and idle and threading.main_thread().is_alive():
            self._start(self._asked.popitem(last=False)[1])

    def _start(self, job: Job) -> None:
        self._busy = True
        self._thread = threading.Thread(target=self._work, args=(job,), name="dicomdata-cache")
        try:
            self._thread.start()
        except RuntimeError:
            # No more threads, or the process ends.
            self._thread = None
            self._work(job)

    def _work(self, job: Job) -> None:
        try:
            job()
        except Exception as error:  # noqa: BLE001 - told to the next caller, who can be reached
            self._troubles.append(error)
        with self._change:
            self._busy = False
            self._go_on()
            self._change.notify_all()


_everyone: weakref.WeakSet[Background] = weakref.WeakSet()
"""Those of this process."""


def _pause() -> None:
    for each in list(_everyone):
        each.pause()


def _resume() -> None:
    for each in list(_everyone):
        each.resume()


# The work is the parent's: a child has none of the threads.
os.register_at_fork(before=_pause, after_in_parent=_resume, after_in_child=_everyone.clear)

"""Shared memory that is used again: a worker writes batches into it, a trainer looks at them.

Making shared memory costs more than filling it: the kernel clears each page, and both processes
stumble over each page once. A worker therefore keeps a few blocks, and writes the next batch
where an older one was that the trainer has let go.

A block has one writer at a time, and no lock that a killed process could leave held. Its header
says whose turn it is, and only who has the turn changes it:

    FREE -> the worker fills it -> SENT -> the trainer unpickles it -> HELD -> the last tensor of
    the trainer that looks at it dies -> FREE

A block is memory without a name (`memfd_create`): whichever process ends, and however, the kernel
takes it back with the last mapping, and the size of ``/dev/shm`` does not bound it. Only Linux
has such memory; elsewhere `BlockPool.lend` gives none.
"""

from __future__ import annotations

import itertools
import mmap
import os
import sys
import threading
import weakref
from dataclasses import dataclass
from enum import IntEnum
from multiprocessing.reduction import DupFd
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import DicomDataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEADER = 64
"""Bytes before the data, for state and turn: a cache line, so that data keep their alignment."""


class _State(IntEnum):
    """Who may touch a block."""

    FREE = 0
    """The worker: to fill it, or to drop it."""

    SENT = 1
    """Nobody: it lies in the pipe between them."""

    HELD = 2
    """The trainer, until it lets go."""

    RETIRED = 3
    """The trainer and a child that it forked: neither knows when the other lets go, so that it
    is never used again."""

    DROPPED = 4
    """Nobody any more: the worker replaced it."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """Which block a batch lies in, as it is told to the trainer."""

    family: str
    """Name of the `Mappings` that keep the block mapped."""

    owner: int
    """Process id of the worker that filled it."""

    number: int
    """Of the block among those of its owner."""

    turn: int
    """How often the block was sent, this time included: a ticket is good for one turn."""

    room: int
    """Bytes of the block."""

    size: int
    """Bytes of it that are filled."""


class _Mapping:
    """A block as one process sees it."""

    def __init__(self, fd: int, room: int) -> None:
        # Populated: one call for all pages, where touching them one by one is a trap each.
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        self._memory = mmap.mmap(fd, _HEADER + room, flags=flags)
        self._header = np.frombuffer(self._memory, np.int64, 2)

    @property
    def state(self) -> int:
        return int(self._header[0])

    @state.setter
    def state(self, state: _State) -> None:
        # One aligned store. That nothing of the data is touched after it follows from the
        # reference count of a tensor's storage, which is atomic.
        self._header[0] = state

    @property
    def turn(self) -> int:
        return int(self._header[1])

    @turn.setter
    def turn(self, turn: int) -> None:
        self._header[1] = turn

    def view(self, size: int) -> NDArray[np.uint8]:
        """Give an array of the data; the memory stays mapped as long as it lives."""
        return np.frombuffer(self._memory, np.uint8, size, offset=_HEADER)


# --- the worker ---------------------------------------------------------------------------------


class _Block:
    """A block of this worker."""

    def __init__(self, number: int, room: int) -> None:
        """Make it.

        Raises:
            OSError: if there is no memory, or no file descriptor, left.
        """
        self.number, self.room = number, room
        self.fd: int | None = os.memfd_create("dicomdata-batch")
        try:
            os.ftruncate(self.fd, _HEADER + room)
            self.mapping = _Mapping(self.fd, room)
        except OSError:
            self._close()
            raise
        self._lent: weakref.ref[NDArray[np.uint8]] = _NOBODY

    @property
    def idle(self) -> bool:
        """Whether neither side looks at it."""
        # In this order: while the array lives, it may still be sent.
        return not self.lent and self.mapping.state == _State.FREE

    @property
    def lent(self) -> bool:
        """Whether a tensor of this worker lies in it."""
        return self._lent() is not None

    def lend(self, size: int) -> NDArray[np.uint8]:
        array = self.mapping.view(size)
        self._lent = weakref.ref(array)
        return array

    def lies_at(self, address: int) -> bool:
        """Whether what is lent of it begins there."""
        array = self._lent()
        return array is not None and array.ctypes.data == address

    def send(self, family: str, size: int) -> tuple[Ticket, Any] | None:
        """Hand it to the trainer, the first time with its memory; None if that was done before."""
        if self.mapping.state != _State.FREE:
            return None
        passed = None if self.fd is None else DupFd(self.fd)
        self._close()
        self.mapping.turn += 1
        self.mapping.state = _State.SENT
        ticket = Ticket(family, os.getpid(), self.number, self.mapping.turn, self.room, size)
        return ticket, passed

    def drop(self) -> None:
        """Leave it to the trainer to unmap it."""
        self._close()
        self.mapping.state = _State.DROPPED

    def _close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class BlockPool:
    """The blocks of one worker, made as they are needed."""

    def __init__(self, family: str, limit: int) -> None:
        self.family = family
        """Name of the trainer's `Mappings`."""
        self.owner = os.getpid()
        """The process it belongs to."""
        self.blocks: list[_Block] = []
        """All of them; at most `limit`. A new list at each change: another thread sends them."""
        self._limit = limit
        self._numbers = itertools.count()
        _pools.add(self)

    def lend(self, size: int) -> NDArray[np.uint8] | None:
        """Give memory that nobody looks at; None if all of it is in use, or none can be made."""
        self.blocks = [each for each in self.blocks if each.mapping.state != _State.RETIRED]
        idle = sorted((each for each in self.blocks if each.idle), key=lambda each: each.room)
        fitting = next((each for each in idle if each.room >= size), None) or self._make(size, idle)
        return None if fitting is None else fitting.lend(size)

    def forget_lent(self) -> None:
        """Never use again what a tensor of this process lies in."""
        self.blocks = [each for each in self.blocks if not each.lent]

    def _make(self, size: int, idle: list[_Block]) -> _Block | None:
        """Make a block, in the place of one that is too small if there are as many as may be."""
        if sys.platform != "linux" or (len(self.blocks) >= self._limit and not idle):
            return None
        if len(self.blocks) >= self._limit:
            idle[0].drop()
            self.blocks = [each for each in self.blocks if each is not idle[0]]
        try:
            block = _Block(next(self._numbers), size)
        except (OSError, ValueError):
            return None
        self.blocks = [*self.blocks, block]
        return block


def send(address: int, size: int) -> tuple[Ticket, Any] | None:
    """Hand over the block that begins at an address; None if that is in no block, or was sent."""
    for pool in _pools:
        for block in pool.blocks:
            if block.lies_at(address):
                return block.send(pool.family, size)
    return None


# --- the trainer --------------------------------------------------------------------------------


class Mappings:
    """The blocks that one process has mapped, to find them there when they come again."""

    def __init__(self, name: str) -> None:
        self.name = name
        """What tickets call it."""
        self.mapped: dict[tuple[int, int], _Mapping] = {}
        """By owner and number; always the same dict."""
        _families[name] = self
        # A child that is forked later could inherit batches that nobody here knows of any more.
        weakref.finalize(self, _retire_held, self.mapped).atexit = False

    def add(self, ticket: Ticket, mapping: _Mapping) -> None:
        """Keep a block that has just been mapped, in the place of what is over."""
        self._unmap_what_is_over()
        self.mapped[ticket.owner, ticket.number] = mapping

    def _unmap_what_is_over(self) -> None:
        """Let go of blocks that cannot come again: dropped, or of workers that have ended.

        Tensors that lie in them keep their memory.
        """
        alive = {owner: _is_alive(owner) for owner, _ in self.mapped}
        for (owner, number), mapping in list(self.mapped.items()):
            to_come = alive[owner] or mapping.state == _State.SENT
            if mapping.state == _State.DROPPED or not to_come:
                del self.mapped[owner, number]


def _retire_held(mapped: dict[tuple[int, int], _Mapping]) -> None:
    """Take those that this process looks at out of use for good."""
    for key, mapping in list(mapped.items()):
        if mapping.state == _State.HELD:
            mapping.state = _State.RETIRED
            del mapped[key]


def find_mappings(name: str) -> Mappings:
    """Give the mappings of a name in this process."""
    return _families.get(name) or Mappings(name)


def receive(ticket: Ticket, passed: Any) -> NDArray[np.uint8]:
    """Look at a block that was sent; it goes back when the array dies.

    Args:
        ticket: which block.
        passed: its memory, the first time that it is sent.

    Raises:
        DicomDataError: if it was received before, or by another process.
    """
    first = None if passed is None else _map(ticket, passed)
    with _forking:
        family = _families.get(ticket.family)
        if family and first:
            family.add(ticket, first)
        mapping = first or (family and family.mapped.get((ticket.owner, ticket.number)))
        if not mapping or (mapping.state, mapping.turn) != (_State.SENT, ticket.turn):
            raise DicomDataError(
                "a batch in shared memory was unpickled twice, or by two processes: it comes once"
            )
        # Without a family it would not be found when it comes again.
        mapping.state = _State.HELD if family else _State.RETIRED
        array = mapping.view(ticket.size)
        weakref.finalize(array, _give_back, mapping).atexit = False
    return array


def _map(ticket: Ticket, passed: Any) -> _Mapping:
    fd = passed.detach()
    try:
        return _Mapping(fd, ticket.room)
    finally:
        os.close(fd)


def _give_back(mapping: _Mapping) -> None:
    """Give a block back to its worker, unless it was retired: all that a child inherits was."""
    if mapping.state == _State.HELD:
        mapping.state = _State.FREE


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# --- forks --------------------------------------------------------------------------------------

_NOBODY: weakref.ref[Any] = weakref.ref(type("_Nobody", (), {})())
"""A reference to what has died."""

_pools: weakref.WeakSet[BlockPool] = weakref.WeakSet()
"""Those of this process, a worker."""

_families: weakref.WeakValueDictionary[str, Mappings] = weakref.WeakValueDictionary()
"""Those of this process, a trainer, by name."""

_forking = threading.RLock()
"""Held while a block is received, and while the process forks."""


def _before_fork() -> None:
    """Take all that a child would look at too out of use."""
    _forking.acquire()
    for family in list(_families.values()):
        _retire_held(family.mapped)
    for pool in list(_pools):
        pool.forget_lent()


def _in_parent() -> None:
    """Go on."""
    _forking.release()


def _in_child() -> None:
    """Forget what belongs to the parent."""
    global _forking  # noqa: PLW0603 - the parent's stays held here for ever
    _forking = threading.RLock()
    for family in list(_families.values()):
        family.mapped.clear()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_in_parent,
        after_in_child=_in_child,
    )

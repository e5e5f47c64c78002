"""Timing by turns, fresh processes, cold files, and memory."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from benchmarks.setup import Setup
    from benchmarks.tables import Table

Run: TypeAlias = Callable[[], Any]
"""Does the work once; what it gives is thrown away after the clock has stopped."""

Contenders: TypeAlias = Mapping[str, Callable[[], Run]]
"""Name -> what makes the contender ready; it raises ImportError where a library is missing."""

DOOR = Path(__file__).resolve().parents[1] / "bench.py"

INSIDE = "--inside"
"""What the door is told in a fresh process, before the name of a function and its arguments."""

_ANSWER = "bench answers: "
"""Marks the line that a fresh process ends with: libraries print what they like before."""


def ready(contenders: Contenders, table: Table) -> dict[str, Run]:
    """Make contenders ready; the table says which are missing, and why."""
    runs = {}
    for name, prepare in contenders.items():
        try:
            runs[name] = prepare()
        except Exception as error:  # noqa: BLE001 - a peer that fails is named, and others go on
            table.missing[name] = reason(error)
    return runs


def take_turns(  # noqa: PLR0913 - who, where to, how often, and three ways to count, by name
    contenders: Contenders,
    table: Table,
    rounds: int,
    *,
    scale: float,
    before: Run | None = None,
    weights: Mapping[str, float] | None = None,
) -> None:
    """Let contenders do their work by turns, and put the medians into the table.

    A machine whose speed drifts slows all of them alike. A first round is not counted.

    Args:
        contenders: who takes part.
        table: takes medians and who is missing.
        rounds: that count.
        scale: units of the table a second.
        before: done before each work, untimed.
        weights: contender -> how much work it does at once, where that differs.
    """
    runs = ready(contenders, table)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in tuple(runs.items()):
            if before is not None:
                before()
            start = time.perf_counter()
            try:
                result = run()
            except Exception as error:  # noqa: BLE001 - each reader raises kinds of its own
                table.missing[name] = reason(error)
                del runs[name]
                continue
            if number:
                taken[name].append(time.perf_counter() - start)
            del result
    for name in runs:
        weight = 1 if weights is None else weights[name]
        table.values[name] = statistics.median(taken[name]) * scale / weight


def medians(samples: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Give the median of each name over several rounds."""
    gathered: dict[str, list[float]] = {}
    for sample in samples:
        for name, value in sample.items():
            gathered.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in gathered.items()}


def reason(error: BaseException) -> str:
    """Say in a line why a contender is missing."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


def fresh(function: Callable[..., Any], setup: Setup, *, cores: int = 0, **arguments: Any) -> Any:
    """Call ``function(setup, **arguments)`` in a fresh process, on so many cores; 0 is all.

    Raises:
        RuntimeError: if it ends without an answer; with the last line that it wrote.
    """
    name = f"{function.__module__}:{function.__qualname__}"
    call = json.dumps({"setup": asdict(setup), "cores": cores, "arguments": arguments})
    done = subprocess.run(  # noqa: S603 - this very script
        [sys.executable, str(DOOR), INSIDE, name, call],
        capture_output=True,
        text=True,
        check=False,
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith(_ANSWER)]
    if not answers:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing written").splitlines()[-1]
        raise RuntimeError(f"{name} ended with status {done.returncode}: {last}")
    return json.loads(answers[-1].removeprefix(_ANSWER))


def answer(name: str, call: str) -> None:
    """Do in a fresh process what `fresh` asked for."""
    from benchmarks.setup import Setup

    asked = json.loads(call)
    if asked["cores"]:
        # Before any library counts processors.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked["cores"]])
    module, function = name.split(":")
    given = getattr(import_module(module), function)(Setup(**asked["setup"]), **asked["arguments"])
    print(_ANSWER + json.dumps(given), flush=True)


def drop(paths: Collection[Path]) -> None:
    """Let the system forget what files hold, so that they are read from the disk."""
    _let_go({str(path) for path in paths})
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _let_go(paths: Collection[str]) -> None:
    """Take pages of files out of this process's memory maps: the system keeps what is mapped."""
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, *_, path = line.split(maxsplit=5)
        if path in paths:
            start, end = (int(address, 16) for address in addresses.split("-"))
            size = ctypes.c_size_t(end - start)
            libc.madvise(ctypes.c_void_p(start), size, mmap.MADV_DONTNEED)


def still_kept(paths: Iterable[Path]) -> int:
    """Count the files whose middle is in memory: after `drop`, those that could not be dropped."""
    # A read that is not to wait tells less: it may start the very reading that it asks about.
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    kept = 0
    for path in paths:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as pages:
            here = ctypes.c_ubyte()
            begin = ctypes.addressof(ctypes.c_char.from_buffer(pages))
            middle = len(pages) // 2 // mmap.PAGESIZE * mmap.PAGESIZE
            if mincore(begin + middle, 1, ctypes.byref(here)):
                raise OSError(ctypes.get_errno(), f"{path}: mincore")
            kept += here.value & 1
    return kept


def peak_mib(run: Run) -> float:
    """Give the MiB of resident memory that a work adds at its peak."""
    # Linux keeps the high-water mark, and 5 sets it back to what is used now (proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mib("VmHWM")
    result = run()
    peak = _status_mib("VmHWM") - before
    del result
    return peak


def shared_mib(process: int) -> float:
    """Give the MiB of a process and its children, pages that several hold counted once."""
    total = 0.0
    for one in (process, *_children(process)):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            # It has ended meanwhile.
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return total


def _children(process: int) -> list[int]:
    """Give the children of a process, and theirs."""
    found: list[int] = []
    for listing in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, listing.read_text().split()):
            found += [child, *_children(child)]
    return found


def _status_mib(name: str) -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(name)).split()[1]) / 1024

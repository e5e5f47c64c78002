"""A volume of native slices as float32 HU, from memory and from the disk."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import dicomdata as dd
from benchmarks.measuring import drop, fresh, peak_mib, reason, still_kept, take_turns
from benchmarks.peers import dicomsdl_by_hand, monai_itk, pydicom_recipe, simpleitk
from benchmarks.setup import stacks_under
from benchmarks.tables import OURS, Table

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measuring import Contenders, Run
    from benchmarks.setup import Setup

_MILLISECONDS = 1000
_BARE = "bare read and convert"
_SEQUENTIAL = "reading the bytes in sequence"
_MONAI = "MONAI ITKReader"


def measure(setup: Setup) -> list[Table]:
    """Read one volume with every reader: from memory, with its peak, and from the disk."""
    shape = f"{setup.slices} x {setup.size} x {setup.size}"
    warm = Table(f"volume {shape}, float32, warm", "ms")
    take_turns(_contenders(setup), warm, setup.rounds, scale=_MILLISECONDS)
    for name in warm.values:
        try:
            warm.peaks[name] = fresh(peak, setup, reader=name)
        except RuntimeError as error:
            warm.missing[f"peak of {name}"] = reason(error)
    output = setup.slices * setup.size**2 * 4 / 2**20
    warm.note = f"The output is {output:.0f} MiB. A fresh process each for the peak of memory."
    warm.ask(_MONAI, 13)
    warm.ask("SimpleITK", 5)
    warm.ask("pydicom recipe", 4)
    warm.ask("dicomsdl by hand", 1.5)
    warm.ask(_BARE, 1 / 1.5, text="within 1.5 x of bare read and convert")
    warm.limit("peak memory: output and 10 %", 1.1 * output, warm.peaks.get(OURS), "MiB")
    return [warm, _measure_cold(setup, shape)]


def peak(setup: Setup, reader: str) -> float:
    """Give the MiB that a reader adds at its peak."""
    return peak_mib(_contenders(setup)[reader]())


def _measure_cold(setup: Setup, shape: str) -> Table:
    paths = setup.paths()
    table = Table(f"volume {shape}, float32, cold", "ms")
    contenders = dict(_contenders(setup))
    for name in (_BARE, "dicomdata, int16", "dicomdata, window"):
        del contenders[name]
    contenders[_SEQUENTIAL] = lambda: partial(_read_bytes, paths)
    before = partial(drop, paths)
    take_turns(contenders, table, setup.rounds, before=before, scale=_MILLISECONDS)
    drop(paths)
    table.note = (
        f"All files are dropped from memory before each (posix_fadvise); {still_kept(paths)} of "
        f"{len(paths)} were still there after it."
    )
    table.ask("SimpleITK", 4)
    table.ask(_SEQUENTIAL, 1, text="not slower than reading the bytes in sequence")
    return table


def _contenders(setup: Setup) -> Contenders:
    folder = setup.patient()
    return {
        OURS: partial(_ours, folder),
        "dicomdata, int16": partial(_ours, folder, dtype=np.int16),
        "dicomdata, window": partial(_ours, folder, window=(-1000, 400)),
        _BARE: partial(_bare, folder),
        "dicomsdl by hand": partial(dicomsdl_by_hand, folder),
        "SimpleITK": partial(simpleitk, folder),
        "pydicom recipe": partial(pydicom_recipe, folder),
        _MONAI: partial(monai_itk, folder),
    }


def _ours(folder: Path, **options: Any) -> Run:
    (stack,) = stacks_under(folder)
    return lambda: dd.read_volume(stack, **options).voxels


def _bare(folder: Path) -> Run:
    """Read words by offset into one buffer, and convert them: the least that can be done."""
    (stack,) = stacks_under(folder)
    frames = stack.frames
    words = np.empty(stack.shape[1:], np.int16)

    def run() -> Any:
        voxels = np.empty(stack.shape, np.float32)
        for frame, plane in zip(frames, voxels, strict=True):
            descriptor = os.open(frame.path, os.O_RDONLY)
            os.preadv(descriptor, [words.data], frame.offset)
            os.close(descriptor)
            np.add(words, np.float32(-1024), out=plane)
        return voxels

    return run


def _read_bytes(paths: list[Path]) -> None:
    """Read all bytes, file after file, into one buffer."""
    buffer = bytearray(max(path.stat().st_size for path in paths))
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        while os.readv(descriptor, [buffer]):
            pass
        os.close(descriptor)

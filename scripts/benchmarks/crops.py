"""One random box of a volume that was never loaded before."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import dicomdata as dd
from benchmarks.measuring import drop, still_kept, take_turns
from benchmarks.peers import monai_itk
from benchmarks.setup import fill, stacks_under
from benchmarks.tables import OURS, Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.measuring import Contenders, Run
    from benchmarks.setup import Setup

    Box = tuple[slice, slice, slice]

_MILLISECONDS = 1000
_MONAI = "MONAI ITKReader, whole and crop"
_RAW, _SMALL, _MEMORY = "dicomdata, raw cache", "dicomdata, small cache", "dicomdata, memory cache"
_COPY = "memcpy of the crop"


def measure(setup: Setup) -> list[Table]:
    """Read random boxes: from files, from caches, and as others do; warm and cold."""
    edge = setup.edge
    shape = f"crop of {edge} x {edge} x {edge}, float32"
    contenders = _contenders(setup)
    warm = Table(f"{shape}, warm", "ms")
    # Some take a millisecond: more rounds.
    take_turns(contenders, warm, 2 * setup.rounds, scale=_MILLISECONDS)
    warm.note = "Each time another box; no reader has loaded the volume before, but for caches."
    warm.ask(_MONAI, 150)
    warm.ask(_COPY, 1 / 2, ours=_RAW, text="from the raw cache within 2 x of memcpy of the crop")

    cold = Table(f"{shape}, cold", "ms")
    on_disk = {name: contenders[name] for name in (OURS, _RAW, _SMALL, _MONAI)}
    take_turns(on_disk, cold, setup.rounds, before=partial(_drop_all, setup), scale=_MILLISECONDS)
    _drop_all(setup)
    paths = _on_disk(setup)
    cold.note = (
        f"Files and caches are dropped from memory before each; {still_kept(paths)} of "
        f"{len(paths)} were still there after it."
    )
    cold.ask(_MONAI, 20)
    return [warm, cold]


def _contenders(setup: Setup) -> Contenders:
    return {
        OURS: partial(_ours, setup),
        _RAW: partial(_from_disk, setup, "raw"),
        _SMALL: partial(_from_disk, setup, "small"),
        _MEMORY: partial(_from_memory, setup),
        _COPY: partial(_copy, setup),
        _MONAI: partial(_monai, setup),
    }


def _boxes(setup: Setup, shape: tuple[int, ...]) -> Callable[[], Box]:
    """Give what draws a box: the same boxes for everyone, one after the other."""
    random = np.random.default_rng(0)
    edge = setup.edge

    def draw() -> Box:
        s, r, c = (int(random.integers(length - edge, endpoint=True)) for length in shape)
        return slice(s, s + edge), slice(r, r + edge), slice(c, c + edge)

    return draw


def _ours(setup: Setup) -> Run:
    (stack,) = stacks_under(setup.patient())
    draw = _boxes(setup, stack.shape)
    return lambda: dd.read_volume(stack, dd.Region(*draw())).voxels


def _from_disk(setup: Setup, layout: Any) -> Run:
    return _cached(setup, dd.DiskCache(_cache_folder(setup) / layout, layout=layout))


def _from_memory(setup: Setup) -> Run:
    return _cached(setup, dd.MemoryCache("1 GB"))


def _cached(setup: Setup, cache: dd.DiskCache | dd.MemoryCache) -> Run:
    """Keep the volume first, then cut boxes from what is kept."""
    (stack,) = stacks_under(setup.patient())
    fill(cache, [stack])
    draw = _boxes(setup, stack.shape)
    return lambda: cache.get(stack, dd.read_volume, dd.Region(*draw())).voxels


def _copy(setup: Setup) -> Run:
    (stack,) = stacks_under(setup.patient())
    voxels = dd.read_volume(stack).voxels
    draw = _boxes(setup, stack.shape)
    return lambda: np.copy(voxels[draw()])


def _monai(setup: Setup) -> Run:
    load = monai_itk(setup.patient())
    shape = setup.size, setup.size, setup.slices
    draw = _boxes(setup, shape)

    def run() -> Any:
        voxels = load()
        return voxels[draw()].clone()

    return run


def _cache_folder(setup: Setup) -> Path:
    return Path(setup.folder, "crop-cache")


def _on_disk(setup: Setup) -> list[Path]:
    """Give the files of the volume and of its caches."""
    cached = [path for path in _cache_folder(setup).rglob("*") if path.is_file()]
    return [*setup.paths(), *cached]


def _drop_all(setup: Setup) -> None:
    drop(_on_disk(setup))

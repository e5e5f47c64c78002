"""A compressed series as float32 HU: each codec on one core and on two."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import dicomdata as dd
from benchmarks.measuring import fresh, take_turns
from benchmarks.peers import pydicom_recipe, simpleitk
from benchmarks.setup import CODECS, stacks_under
from benchmarks.tables import OURS, Table, table_from_dict

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measuring import Run
    from benchmarks.setup import Setup

_MILLISECONDS = 1000
_ONE_THREAD = "dicomdata, one thread"
_BY_HAND = "imagecodecs by hand"

_ITEM = 8
"""Bytes of the head of an item, which each of these frames is one of (PS3.5 A.4)."""

_PLUGINS = {
    "JPEG 2000": ("pylibjpeg", "pillow", "gdcm"),
    "HTJ2K": ("pylibjpeg",),
    "JPEG-LS": ("pyjpegls", "gdcm"),
    "JPEG lossless": ("gdcm",),
    "RLE": ("pylibjpeg", "pydicom"),
}
"""pydicom's plugins by codec; one that is not installed is named as missing."""


def measure(setup: Setup) -> list[Table]:
    """Decode every codec: in a process that has one core, and in one that has two."""
    tables = []
    for codec in CODECS:
        one = table_from_dict(fresh(decode, setup, cores=1, codec=codec))
        two = table_from_dict(fresh(decode, setup, cores=2, codec=codec))
        one.work, two.work = f"{codec}, one core", f"{codec}, two cores"
        peers = [name for name in one.values if not name.startswith((OURS, _BY_HAND))]
        best = one.best(*peers) if peers else "other readers"
        one.ask(best, 1, text=f"not slower than the best of its peers, {best}")
        two.ask(_ONE_THREAD, 1.7, text="two cores against one thread")
        tables += [one, two]
    return tables


def decode(setup: Setup, codec: str) -> dict[str, Any]:
    """Decode one series by turns, on the cores that this process has; a table, as JSON has it."""
    folder = setup.compressed(codec)
    contenders: dict[str, Any] = {OURS: partial(_ours, folder)}
    if len(os.sched_getaffinity(0)) > 1:
        contenders[_ONE_THREAD] = partial(_ours, folder, workers=1)
    contenders |= {
        _BY_HAND: partial(_imagecodecs, folder, codec),
        "SimpleITK": partial(simpleitk, folder),
    }
    for plugin in _PLUGINS[codec]:
        prepare = partial(pydicom_recipe, folder, decoding_plugin=plugin)
        contenders[f"pydicom, {plugin}"] = prepare
    table = Table(codec, "ms a slice")
    slices = len(list(folder.iterdir()))
    take_turns(contenders, table, setup.rounds, scale=_MILLISECONDS / slices)
    stored = setup.size**2 * 2 * slices
    ratio = stored / sum(path.stat().st_size for path in folder.iterdir())
    table.note = f"{slices} slices of 12 bits, {ratio:.2f} : 1."
    return table.as_dict()


def _ours(folder: Path, **options: Any) -> Run:
    (stack,) = stacks_under(folder)
    return lambda: dd.read_volume(stack, **options).voxels


def _imagecodecs(folder: Path, codec: str) -> Run:
    """Decode by the library that we use most, from bytes whose place is known."""
    import imagecodecs

    decoder = {
        "JPEG 2000": imagecodecs.jpeg2k_decode,
        "HTJ2K": imagecodecs.htj2k_decode,
        "JPEG-LS": imagecodecs.jpegls_decode,
        "JPEG lossless": imagecodecs.jpegsof3_decode,
    }.get(codec)
    if decoder is None:
        raise NotImplementedError("DICOM's RLE has a header of its own")
    (stack,) = stacks_under(folder)
    frames = stack.frames

    def run() -> Any:
        voxels = np.empty(stack.shape, np.float32)
        for frame, plane in zip(frames, voxels, strict=True):
            descriptor = os.open(frame.path, os.O_RDONLY)
            encoded = os.pread(descriptor, frame.length, frame.offset)
            os.close(descriptor)
            np.add(decoder(encoded[_ITEM:]), np.float32(-1024), out=plane)
        return voxels

    return run

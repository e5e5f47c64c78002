"""A Stack -> its voxels in output units, on a grid: `read_volume`, and the `Volume` it gives.

Each file is opened once; of native frames only the rows of the region are read, of compressed
ones only the frames. Voxels are written once, where they will be: besides the volume itself each
thread has memory for a few slices.

`files` has volumes that are no DICOM, which stand where a stack stands: `formats` and `nifti` read
them, `claims` says what they say of themselves, `checksums` whether they are whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import ConfigError, RescaleError
from dicomdata.geometry import lps_to_ras
from dicomdata.pixels import FrameReader, check_claims
from dicomdata.regions import Region
from dicomdata.rescale import Window
from dicomdata.stack import Stack
from dicomdata.volume.files import VolumeFile, open_volume, read_voxels
from dicomdata.volume.resampling import resample
from dicomdata.volume.threads import in_order, run, thread_count
from dicomdata.volume.units import Output, fill_value, write_output

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import DTypeLike, NDArray

    from dicomdata.header import Frame
    from dicomdata.pixels import Pixels

__all__ = ["Volume", "VolumeFile", "open_volume", "read_volume"]

_DTYPES = (np.dtype(np.float32), np.dtype(np.int16))

_BLOCKS_A_THREAD = 4
"""Parts that each thread's share of the slices is cut into, so that none has to wait long for one
that got the harder slices."""

_LEAST_BLOCK = 2**24
"""Bytes of voxels of plain words below which a thread is not worth its beginning: 16 MiB take
fifty times as long."""

_WINDOW = "window"
"""Unit of voxels from 0 to 1, whatever they were measured in."""


@dataclass(frozen=True, eq=False, slots=True)
class Volume:
    """Voxels in output units on the grid of a Stack, or on a box of it."""

    voxels: NDArray[Any]
    """(slices, rows, columns), float32 or int16, in `unit`."""

    unit: str
    """"HU", "BQML", a Rescale Type, "stored", or "window": 0 to 1 of what was asked for."""

    valid: NDArray[np.bool_]
    """(slices,): whether the slice was measured, rather than filled in."""

    stack: Stack
    """Where it comes from."""

    region: Region = field(default_factory=Region)
    """Which box of the stack it is."""

    @property
    def affine_lps(self) -> NDArray[np.float64]:
        """(4, 4), read-only: (slice, row, column, 1) of `voxels` -> LPS mm."""
        affine = self.stack.affine_lps.copy()
        corner = [axis.start for axis in self.region.within(self.stack.shape)]
        affine[:3, 3] += affine[:3, :3] @ corner
        affine.flags.writeable = False
        return affine

    @property
    def affine_ras(self) -> NDArray[np.float64]:
        """(4, 4), read-only: (slice, row, column, 1) of `voxels` -> RAS mm."""
        return lps_to_ras(self.affine_lps)


def read_volume(  # noqa: PLR0913 - every step has something to choose, all of it by name
    stack: Stack,
    region: Region | None = None,
    *,
    dtype: DTypeLike = np.float32,
    padding: float | str | None = None,
    window: tuple[float, float] | None = None,
    workers: int | None = None,
) -> Volume:
    """Read a stack, or a box of it, in output units: HU for CT.

    Args:
        stack: what to read: a stack, or what `open_volume` gave.
        region: which box; the whole by default. Only its bytes are read.
        dtype: float32, or int16 where every voxel is whole and fits.
        padding: what padded voxels become, instead of what the stack's policy says: "air",
            "keep" or a number.
        window: (low, high) in output units, which become 0 and 1, as does all beyond: to the last
            bit what MONAI's `ScaleIntensityRange` makes of the volume. Only float32.
        workers: threads that decode compressed frames, or read plain words that lie in a file for
            each slice and become 16 MiB of voxels a thread, or more. None is one a processor, 4 at
            most, and 1 in a worker of a DataLoader.

    Raises:
        FileError: if a file cannot be read.
        StaleError: if a file or the catalog has changed since the stack was planned.
        PixelError: if a frame is cut short, undecodable, or contradicts its header.
        RescaleError: if int16 is asked for and a voxel is not whole or does not fit.
        ConfigError: if it is no stack.
        ValueError: if the region is empty, or `dtype`, `window` or `workers` make no sense.
    """
    if not isinstance(stack, Stack):
        raise ConfigError(
            f"read_volume: expected a stack, of plan.stacks or of open_volume, got {stack!r:.80}"
        )
    out_type = np.dtype(dtype)
    if out_type not in _DTYPES:
        raise ValueError(f"dtype must be float32 or int16, got {out_type}")
    if window is not None and out_type != np.float32:
        raise ValueError(f"a window gives float32 from 0 to 1, not {out_type}")
    fill = stack.padding if padding is None else padding
    output = Output(stack.unit, fill, None if window is None else Window(*window))
    threads = thread_count(workers)
    box = region or Region()
    slices, rows, columns = ranges = box.within(stack.shape)
    if isinstance(stack, VolumeFile):
        return _read_file(stack, box, out_type, output.window)
    frames = stack.frames if stack.sampling else stack.frames[slices.start : slices.stop]
    # Before memory is asked for: a header may claim anything.
    check_claims(frames)
    # Not zeros: numpy's fresh pages are touched once, when the values are written.
    voxels = np.empty((len(slices), len(rows), len(columns)), out_type)
    if stack.sampling or stack.shear:
        _resample(stack, ranges, voxels, output, threads)
    else:
        _read_frames(frames, (rows, columns), voxels, output, threads)
    unit = stack.unit if window is None else _WINDOW
    return Volume(voxels, unit, stack.valid[slices.start : slices.stop], stack, box)


def _read_file(
    file: VolumeFile, box: Region, dtype: np.dtype[Any], window: Window | None
) -> Volume:
    """Read a box of a volume file, which has no padding, and units as they are."""
    ranges = box.within(file.shape)
    voxels = read_voxels(file, ranges, dtype)
    if window is not None:
        window.apply(voxels)
    unit = file.unit if window is None else _WINDOW
    return Volume(voxels, unit, np.ones(len(ranges[0]), np.bool_), file, box)


def _read_frames(
    frames: Sequence[Frame],
    box: tuple[range, range],
    voxels: NDArray[Any],
    output: Output,
    threads: int,
) -> None:
    """Write rows and columns of frames into `voxels`, one slice each."""
    if len({frame.path for frame in frames}) < len(frames):
        # One reader, which opens a file once.
        _read_block(frames, box, voxels, output, threads)
        return
    # Threads that share nothing do not wait for each other.
    most = threads * _BLOCKS_A_THREAD if threads > 1 else 1
    if any(frame.kind.native for frame in frames):
        most = min(most, max(voxels.nbytes // _LEAST_BLOCK, 1))
    count = min(most, len(frames))
    ends = [len(frames) * number // count for number in range(count + 1)]
    blocks = (
        partial(_read_block, frames[first:stop], box, voxels[first:stop], output, 1)
        for first, stop in pairwise(ends)
    )
    run(blocks, min(threads, count))


def _read_block(
    frames: Sequence[Frame],
    box: tuple[range, range],
    voxels: NDArray[Any],
    output: Output,
    threads: int,
) -> None:
    """Read frames one after the other; decode and write them on threads."""
    # Plain words share the reader's memory, so they are written before the next ones are read.
    alone = any(frame.kind.native for frame in frames)
    with FrameReader(frames, box) as reader:
        jobs = (
            partial(_write, pixels, frames[piece], voxels[piece], output)
            for piece, pixels in reader.pieces()
        )
        run(jobs, 1 if alone else min(threads, len(frames)))


def _write(pixels: Pixels, frames: Sequence[Frame], out: NDArray[Any], output: Output) -> None:
    """Write what was read of frames of one kind into `out`, in output units."""
    stored = pixels()
    try:
        write_output(stored, out, frames[0].kind, output)
    except RescaleError as error:
        # One after the other, to tell which it was.
        for frame, own, plane in zip(frames, stored, out, strict=True):
            try:
                write_output(own, plane, frame.kind, output)
            except RescaleError as first:
                raise RescaleError(f"{frame.path}: {first}") from first
        raise RescaleError(f"{frames[0].path}: {error}") from error


def _planes(
    pixels: Pixels, frames: Sequence[Frame], shape: tuple[int, int], output: Output
) -> NDArray[np.float32]:
    """Give what was read of frames of one kind in output units, (frames, rows, columns)."""
    planes = np.empty((len(frames), *shape), np.float32)
    _write(pixels, frames, planes, output)
    return planes


def _resample(
    stack: Stack,
    box: tuple[range, range, range],
    voxels: NDArray[Any],
    output: Output,
    threads: int,
) -> None:
    """Write a box of a repaired stack into `voxels`."""
    frames = stack.frames
    # What lies between two frames is interpolated in output units, and clipped when it is there.
    plain = replace(output, window=None)
    # A shift along the rows needs columns beyond those of the box.
    columns = range(frames[0].kind.columns) if stack.shear else box[2]
    within = range(box[2].start - columns.start, box[2].stop - columns.start)

    def read(indices: list[int], rows: range) -> Generator[NDArray[np.float32], None, None]:
        wanted, shape = [frames[index] for index in indices], (len(rows), len(columns))
        alone = any(frame.kind.native for frame in wanted)
        with FrameReader(wanted, (rows, columns)) as reader:
            jobs = (
                partial(_planes, pixels, wanted[piece], shape, plain)
                for piece, pixels in reader.pieces()
            )
            for planes in in_order(jobs, 1 if alone else threads):
                yield from planes

    try:
        fill = fill_value(frames[0].kind, stack.unit, output.padding)
        resample(stack, (box[0], box[1], within), read, voxels, fill)
    except RescaleError as error:
        raise RescaleError(f"{frames[0].path}: {error}") from error
    if output.window is not None:
        for plane in voxels:
            output.window.apply(plane)

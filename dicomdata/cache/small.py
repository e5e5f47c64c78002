"""The `small` layout: compressed chunks in one file, each with its own checksum.

The file is one shard of zarr v3 (``sharding_indexed``): chunks of `CHUNK_SHAPE` in C order, then
an index of their offsets and lengths, and its crc32c. A chunk is compressed by blosc, without
loss, and followed by its crc32c; at the far edges of the array it is filled up with zeros.

The standard's chunks are read here, not by zarr-python: that takes longer to find a chunk than to
decompress it.
"""

from __future__ import annotations

import itertools
import math
import os
from functools import partial
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar

import google_crc32c
import imagecodecs
import numpy as np

from dicomdata.cache.damage import DamagedEntryError
from dicomdata.volume.threads import run, thread_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dicomdata.cache.damage import Box

CHUNK_SHAPE = (32, 32, 32)
"""(slices, rows, columns) of a chunk, 64 KiB of int16: small enough that a patch of 96 voxels a
side touches little more than twice its own volume, large enough to compress."""

_LEVEL = 2
"""Of 9: 40.1 % of the bytes of a CT; 5 makes it 39 %, and takes six times as long to fill."""

_CHUNKS_A_THREAD = 16
"""Chunks that are worth a thread: 2 ms of decompressing, where starting one takes 0.1."""

_CHUNKS_A_TURN = 256
"""Chunks that are compressed before they are written: 16 MiB of int16."""

_CRC_BYTES = 4

_INDEX = np.dtype("<u8")
"""Of an offset, or a length, in the index of a shard."""

_Cut: TypeAlias = tuple[int, slice, slice]
"""Along one axis: which chunk, where in it, where in what is wanted."""

_T = TypeVar("_T")


def small_codecs(dtype: np.dtype[Any]) -> list[dict[str, Any]]:
    """Describe the file in the words of zarr v3."""
    crc: dict[str, Any] = {"name": "crc32c"}
    plain = {"name": "bytes", "configuration": {"endian": "little"}}
    blosc = {
        "typesize": dtype.itemsize,
        "cname": "zstd",
        "clevel": _LEVEL,
        "shuffle": "shuffle",
        "blocksize": 0,
    }
    shard = {
        "chunk_shape": list(CHUNK_SHAPE),
        "codecs": [plain, {"name": "blosc", "configuration": blosc}, crc],
        "index_codecs": [plain, crc],
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": shard}]


def shard_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Give the shape of the whole chunks that an array of `shape` lies in."""
    return tuple(
        count * chunk for count, chunk in zip(_chunk_counts(shape), CHUNK_SHAPE, strict=True)
    )


def write_small(file: IO[bytes], voxels: NDArray[Any]) -> None:
    """Write an array of three axes, chunk by chunk, and the index.

    Raises:
        OSError: if the disk is full, or cannot be written.
    """
    places = list(np.ndindex(*_chunk_counts(voxels.shape)))
    index = np.zeros((len(places), 2), _INDEX)
    packed: dict[tuple[int, ...], bytes] = {}
    offset = 0
    # Some at a time, in their order: no more of them lie in memory than threads have in hand.
    for first in range(0, len(places), _CHUNKS_A_TURN):
        turn = places[first : first + _CHUNKS_A_TURN]
        parts = _shared_out(turn)
        run((partial(_pack, voxels, part, packed) for part in parts), len(parts))
        for number, place in enumerate(turn, start=first):
            length = file.write(packed.pop(place))
            index[number] = offset, length
            offset += length
    file.write(_sealed(index.tobytes()))


def _pack(
    voxels: NDArray[Any], places: Sequence[tuple[int, ...]], packed: dict[tuple[int, ...], bytes]
) -> None:
    """Compress chunks of an array into `packed`, by their places."""
    chunk = np.zeros(CHUNK_SHAPE, voxels.dtype.newbyteorder("<"))
    for place in places:
        corner = [at * length for at, length in zip(place, CHUNK_SHAPE, strict=True)]
        ends = [low + length for low, length in zip(corner, CHUNK_SHAPE, strict=True)]
        part = voxels[tuple(map(slice, corner, ends))]
        if part.shape != CHUNK_SHAPE:
            chunk[...] = 0
        chunk[tuple(map(slice, part.shape))] = part
        packed[place] = _sealed(_encode(chunk))


def read_small(
    file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], box: Box, out: NDArray[Any]
) -> None:
    """Read a box of an array, and the chunks that it touches alone.

    Args:
        file: what `write_small` wrote.
        shape: of the array.
        dtype: of the array.
        box: which part of it.
        out: where the box goes, in this or another type.

    Raises:
        DamagedEntryError: if it is not what was written.
    """
    counts = _chunk_counts(shape)
    index = _read_index(file, math.prod(counts)).reshape(*counts, 2).tolist()
    planes, bands, spans = map(_cuts, box, CHUNK_SHAPE)
    cuts = list(itertools.product(planes, bands, spans))

    def unpack(part: Sequence[tuple[_Cut, _Cut, _Cut]]) -> None:
        chunk = np.empty(CHUNK_SHAPE, dtype.newbyteorder("<"))
        words = memoryview(chunk.reshape(-1).view(np.uint8).data)
        for (i, z, to_z), (j, y, to_y), (k, x, to_x) in part:
            _decode(_read_sealed(file, *index[i][j][k]), words, file.name)
            out[to_z, to_y, to_x] = chunk[z, y, x]

    # Each thread has a buffer of its own, and writes to voxels of its own.
    parts = _shared_out(cuts)
    run((partial(unpack, part) for part in parts), len(parts))


def _shared_out(things: Sequence[_T]) -> list[Sequence[_T]]:
    """Share things out among as many threads as they are worth."""
    threads = max(1, min(thread_count(None), len(things) // _CHUNKS_A_THREAD))
    most = -(-len(things) // threads)
    return [things[first : first + most] for first in range(0, len(things), most)]


def _chunk_counts(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-length // chunk) for length, chunk in zip(shape, CHUNK_SHAPE, strict=True))


def _cuts(wanted: range, chunk: int) -> Iterator[_Cut]:
    """Cut indices at the edges of chunks: which chunk, where in it, where in what is wanted."""
    for place in range(wanted.start // chunk, (wanted.stop - 1) // chunk + 1):
        corner = place * chunk
        low, high = max(wanted.start, corner), min(wanted.stop, corner + chunk)
        yield (
            place,
            slice(low - corner, high - corner),
            slice(low - wanted.start, high - wanted.start),
        )


def _encode(chunk: NDArray[Any]) -> bytes:
    # As an array: of bytes, blosc would shuffle nothing, whatever type it is told.
    words: Any = chunk
    # One thread, and no state that outlives the call: a forked child can go on using it.
    packed = imagecodecs.blosc_encode(
        words, level=_LEVEL, compressor="zstd", shuffle="shuffle", numthreads=1
    )
    return bytes(packed)


def _decode(packed: bytes, words: memoryview, name: str) -> None:
    try:
        imagecodecs.blosc_decode(packed, numthreads=1, out=words)
    except (RuntimeError, ValueError) as error:
        raise DamagedEntryError(f"{name}: a chunk cannot be decompressed: {error}") from error


def _read_index(file: IO[bytes], chunks: int) -> NDArray[np.uint64]:
    length = 2 * chunks * _INDEX.itemsize + _CRC_BYTES
    offset = os.fstat(file.fileno()).st_size - length
    return np.frombuffer(_read_sealed(file, offset, length), _INDEX)


def _sealed(content: bytes) -> bytes:
    """Give bytes with their checksum behind them."""
    return content + _checksum(content)


def _checksum(content: bytes) -> bytes:
    checksum: int = google_crc32c.value(content)
    return checksum.to_bytes(_CRC_BYTES, "little")


def _read_sealed(file: IO[bytes], offset: int, length: int) -> bytes:
    """Read bytes whose checksum is behind them, and compare it."""
    if offset < 0:
        raise DamagedEntryError(f"{file.name}: cut short")
    content = os.pread(file.fileno(), length, offset)
    inside, written = content[:-_CRC_BYTES], content[-_CRC_BYTES:]
    if len(content) != length or _checksum(inside) != written:
        raise DamagedEntryError(f"{file.name}: {length} bytes at {offset} are not what was written")
    return inside

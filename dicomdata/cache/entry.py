"""How a kept volume lies on disk: a zarr v3 array of one chunk.

A folder with two files: ``zarr.json`` says what the array is, ``c.0.0.0`` is its one chunk, the
plain voxels in little endian and their crc32c. Any reader of zarr v3 opens it, and as a plain
file it can be mapped into memory. What zarr has no words for is in the attributes, with a digest
of all of ``zarr.json`` but itself.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import IO, TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from dicomdata.regions import Region
from dicomdata.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dicomdata.cache.kept import Kept
    from dicomdata.stack import Stack

METADATA = "zarr.json"
"""What the array is. Its modification time is when the entry was last used."""

CHUNK = "c.0.0.0"
"""The voxels, then four bytes of crc32c."""

_CRC_BYTES = 4


class DamagedEntryError(Exception):
    """An entry is not what was written: cut short, altered, or of another key."""


def write_entry(folder: str, key: str, kept: Kept, volume: Volume) -> None:
    """Write an entry into `folder`, which is there and empty, and wait until it is on the disk.

    Raises:
        OSError: if the disk is full, or cannot be written.
    """
    with open(os.path.join(folder, CHUNK), "wb") as file:
        checksum = 0
        for plane in kept.voxels:
            words = plane.astype(plane.dtype.newbyteorder("<"), copy=False).tobytes()
            checksum = google_crc32c.extend(checksum, words)
            file.write(words)
        file.write(checksum.to_bytes(_CRC_BYTES, "little"))
        _flush(file)
    with open(os.path.join(folder, METADATA), "wb") as file:
        file.write(json.dumps(_document(key, kept, volume), indent=1).encode())
        _flush(file)
    _mark_used(folder)
    flush_folder(folder)


def read_entry(folder: str, key: str, stack: Stack, verified: set[tuple[str, int, int]]) -> Volume:
    """Read an entry back, as the volume it was.

    Voxels that are kept as they are given become a copy-on-write map of the file: pages are read
    when they are touched and shared among processes, and what is written to stays private.
    Others are converted into a new array.

    Args:
        folder: the entry.
        key: what it must have been kept under.
        stack: whose volume it is.
        verified: entries whose checksum needs no second look; this one is added.

    Raises:
        FileNotFoundError: if there is none.
        DamagedEntryError: if it is not what was written.
        OSError: if it cannot be read.
    """
    layout = _read_layout(folder, key)
    with open(os.path.join(folder, CHUNK), "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if status.st_size != layout.kept_bytes + _CRC_BYTES:
            raise DamagedEntryError(f"{folder}: {status.st_size} bytes in the chunk")
        seen = (key, status.st_ino, status.st_mtime_ns)
        if layout.kept_dtype == layout.dtype:
            if seen not in verified:
                _read_chunk(file, layout, None, verify=True)
            voxels = _map_chunk(file, layout)
        else:
            voxels = np.empty(layout.shape, layout.dtype)
            _read_chunk(file, layout, voxels, verify=seen not in verified)
    verified.add(seen)
    _mark_used(folder)
    return Volume(voxels, layout.unit, layout.valid, stack, layout.region)


def flush_folder(folder: str) -> None:
    """Wait until the names in a folder are on the disk: a rename alone does not survive a crash."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _mark_used(folder: str) -> None:
    """Note the time: what was not used for longest leaves first. A read-only folder forgets."""
    # By our clock: the kernel's own moves in steps of milliseconds, in which much can happen.
    now = time.time_ns()
    with suppress(OSError):
        os.utime(os.path.join(folder, METADATA), ns=(now, now))


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class _Layout:
    """What zarr.json says."""

    shape: tuple[int, ...]
    kept_dtype: np.dtype[Any]
    """Of the chunk."""
    dtype: np.dtype[Any]
    """Of the voxels as they are given."""
    unit: str
    valid: NDArray[np.bool_]
    region: Region

    @property
    def kept_bytes(self) -> int:
        """Bytes of the chunk, without its checksum."""
        return int(np.prod(self.shape)) * self.kept_dtype.itemsize


def _document(key: str, kept: Kept, volume: Volume) -> dict[str, Any]:
    """Describe an array as zarr v3 asks, and what it means in the attributes."""
    ours = {
        "key": key,
        "stack": volume.stack.id,
        "dtype": kept.dtype.name,
        "unit": kept.unit,
        "valid": kept.valid.tolist(),
        "region": [[axis.start, axis.stop] for axis in kept.region.axes],
        "affine_lps": volume.affine_lps.tolist(),
    }
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(kept.voxels.shape),
        "data_type": kept.voxels.dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": list(kept.voxels.shape)},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": False if kept.voxels.dtype == np.bool_ else 0,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
        "dimension_names": ["slice", "row", "column"],
        "attributes": {"dicomdata": ours},
        "storage_transformers": [],
    }
    ours["digest"] = _digest(document)
    return document


def _digest(document: dict[str, Any]) -> str:
    ours = {**document["attributes"]["dicomdata"]}
    ours.pop("digest", None)
    text = json.dumps({**document, "attributes": {"dicomdata": ours}}, sort_keys=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _read_layout(folder: str, key: str) -> _Layout:
    path = os.path.join(folder, METADATA)
    with open(path, "rb") as file:
        content = file.read()
    # The digest vouches for all of it: what json or a key error says is damage.
    try:
        document = json.loads(content)
        ours = document["attributes"]["dicomdata"]
        intact = ours["digest"] == _digest(document) and ours["key"] == key
        if intact:
            return _Layout(
                shape=tuple(document["shape"]),
                kept_dtype=np.dtype(document["data_type"]),
                dtype=np.dtype(ours["dtype"]),
                unit=ours["unit"],
                valid=np.array(ours["valid"], np.bool_),
                region=Region(*(slice(*ends) for ends in ours["region"])),
            )
    except (ValueError, TypeError, LookupError) as error:
        raise DamagedEntryError(f"{path}: {error}") from error
    raise DamagedEntryError(f"{path}: its digest or key is another")


def _read_chunk(
    file: IO[bytes], layout: _Layout, out: NDArray[Any] | None, *, verify: bool
) -> None:
    """Read the chunk plane by plane, into `out` if given, comparing the checksum if asked to.

    Read, not mapped: an error of the disk is an exception here, where in a map it is a SIGBUS.
    """
    checksum = 0
    plane = np.empty(layout.shape[1:], layout.kept_dtype.newbyteorder("<"))
    words = memoryview(plane.data).cast("B")
    for k in range(layout.shape[0]):
        _read_fully(file, words)
        if verify:
            checksum = google_crc32c.extend(checksum, words.tobytes())
        if out is not None:
            out[k] = plane
    if verify:
        written = bytearray(_CRC_BYTES)
        _read_fully(file, memoryview(written))
        if int.from_bytes(written, "little") != checksum:
            raise DamagedEntryError(f"{file.name}: its checksum is another")


def _read_fully(file: IO[bytes], into: memoryview) -> None:
    done = 0
    while done < len(into):
        count = file.readinto(into[done:])  # type: ignore[attr-defined]
        if not count:
            raise DamagedEntryError(f"{file.name}: cut short")
        done += count


def _map_chunk(file: IO[bytes], layout: _Layout) -> NDArray[Any]:
    """Map the voxels into memory, copy-on-write: writable, and never written back."""
    # A map keeps a duplicate of the descriptor unless told not to, which Python can from 3.13.
    options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    pages = mmap.mmap(
        file.fileno(), layout.kept_bytes + _CRC_BYTES, access=mmap.ACCESS_COPY, **options
    )
    count = int(np.prod(layout.shape))
    words = np.frombuffer(pages, layout.kept_dtype.newbyteorder("<"), count)
    return words.reshape(layout.shape)

"""How a kept volume lies on disk: a zarr v3 array in one file, which any reader of zarr v3 opens.

A folder with two files: ``zarr.json`` says what the array is, ``c.0.0.0`` has the voxels. In the
`raw` layout these are the plain voxels in little endian and their crc32c, so that the file can be
mapped into memory; in the `small` layout they are compressed chunks (`dicomdata.cache.small`). What
zarr has no words for is in the attributes, with a digest of all of ``zarr.json`` but itself.
"""

from __future__ import annotations

import json
import mmap
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from dicomdata.cache.damage import DamagedEntryError
from dicomdata.cache.kept import Made, given
from dicomdata.cache.mounts import is_local
from dicomdata.cache.opened import MARK
from dicomdata.cache.raw import RawFile, raw_codecs, write_raw
from dicomdata.cache.small import read_small, shard_shape, small_codecs, write_small
from dicomdata.regions import Region
from dicomdata.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dicomdata.cache.damage import Box
    from dicomdata.cache.kept import Kept
    from dicomdata.cache.opened import OpenFile, OpenFiles
    from dicomdata.stack import Stack

METADATA = "zarr.json"
"""What the array is. Its modification time is when the entry was last used."""

CHUNK = "c.0.0.0"
"""The voxels, and four bytes of crc32c."""

Layout: TypeAlias = Literal["raw", "small"]
"""How the voxels lie in their file: plain, or compressed in chunks."""


@dataclass(frozen=True, slots=True)
class NewEntry:
    """What is to be written."""

    key: str
    """What it is kept under."""

    kept: Kept
    """The voxels, and what they mean."""

    volume: Volume
    """Whose voxels they are."""

    layout: Layout
    """How they are to lie on disk."""


@dataclass(frozen=True, slots=True)
class Description:
    """What zarr.json says."""

    key: str
    """What it is kept under."""

    stack: str
    """Id of the stack."""

    shape: tuple[int, int, int]
    """(slices, rows, columns)."""

    kept_dtype: np.dtype[Any]
    """Of the voxels as they lie in the file."""

    dtype: np.dtype[Any]
    """Of the voxels as they are given."""

    unit: str
    """Unit of the voxels."""

    valid: NDArray[np.bool_]
    """(slices,): which slices were measured."""

    region: Region
    """Which box of the stack it is."""

    layout: Layout
    """How the voxels lie in their file."""

    made: Made | None
    """What transforms made of it; None where it is as it was read."""


def write_entry(folder: str, entry: NewEntry, *, durable: bool) -> None:
    """Write an entry into `folder`, which is there and empty; if `durable`, wait for the disk.

    Raises:
        OSError: if the disk is full, or cannot be written.
    """
    with open(os.path.join(folder, CHUNK), "wb") as file:
        (write_small if entry.layout == "small" else write_raw)(file, entry.kept.voxels)
        if durable:
            _flush(file)
    with open(os.path.join(folder, METADATA), "wb") as file:
        file.write(json.dumps(_document(entry), indent=1).encode())
        if durable:
            _flush(file)
    _mark_used(folder)
    if durable:
        flush_folder(folder)


def read_entry(
    folder: str,
    key: str,
    stack: Stack,
    *,
    opened: OpenFiles,
    region: Region | None = None,
) -> Volume | None:
    """Read an entry back, as the volume it was, or a box of it.

    Voxels that are kept in the `raw` layout, as they are given, become a copy-on-write map of the
    file. Others are new, and no more of them is converted than is asked for.

    Args:
        folder: the entry.
        key: what it must have been kept under.
        stack: whose volume it is.
        opened: what this process knows of the files it read from; this one is added.
        region: which box of the stack; all that is kept by default.

    Returns:
        The volume; None if a box is asked for and what is kept is not the whole stack.

    Raises:
        ValueError: if the region is empty.
        FileNotFoundError: if there is none.
        DamagedEntryError: if it is not what was written.
        OSError: if it cannot be read.
    """
    said = describe_entry(folder, key)
    if region is not None and (said.made is not None or said.shape != stack.shape):
        return None
    box = (region or Region()).within(said.shape)
    with open(os.path.join(folder, CHUNK), "rb", buffering=0) as file:
        voxels = _read_box(file, said, box, opened.known(file))
    _mark_used(folder)
    valid = said.valid[box[0].start : box[0].stop].copy()
    return given(Volume(voxels, said.unit, valid, stack, region or said.region), said.made)


def describe_entry(folder: str, key: str) -> Description:
    """Read what an entry says of itself.

    Raises:
        FileNotFoundError: if there is none.
        DamagedEntryError: if it is not what was written, or of another key.
    """
    path = os.path.join(folder, METADATA)
    with open(path, "rb") as file:
        content = file.read()
    # The digest vouches for all of it: what json or a key error says is damage.
    try:
        said = _parse(content)
    except (ValueError, TypeError, LookupError) as error:
        raise DamagedEntryError(f"{path}: {error}") from error
    if said.key != key:
        raise DamagedEntryError(f"{path}: of the key {said.key}, expected {key}")
    return said


def check_entry(folder: str, key: str) -> None:
    """Read all of an entry, and compare its checksums.

    Raises:
        DamagedEntryError: if it is not what was written.
        OSError: if it cannot be read.
    """
    said = describe_entry(folder, key)
    with open(os.path.join(folder, CHUNK), "rb", buffering=0) as file:
        whole = Region().within(said.shape)
        if said.layout == "raw":
            RawFile(file, said.shape, said.kept_dtype).verify()
        else:
            read_small(file, said.shape, said.kept_dtype, whole, np.empty(said.shape, said.dtype))


def _read_box(file: IO[bytes], said: Description, box: Box, known: OpenFile) -> NDArray[Any]:
    if said.layout == "small":
        voxels = np.empty(tuple(map(len, box)), said.dtype)
        # The checksum of each chunk is compared whenever it is decompressed.
        read_small(file, said.shape, said.kept_dtype, box, voxels)
        return voxels
    raw = RawFile(file, said.shape, said.kept_dtype)
    whole, same = tuple(map(len, box)) == said.shape, said.kept_dtype == said.dtype
    if known.needs_check():
        # What must be converted anyway is, while it is read for its checksum.
        converted = np.empty(said.shape, said.dtype) if whole and not same else None
        raw.verify(converted)
        known.note_check()
        if converted is not None:
            return converted
    if not is_local(os.path.dirname(os.path.dirname(known.path))) or (whole and not same):
        return raw.read(box, said.dtype)
    if whole:
        return raw.map()
    if known.pages is None:
        known.pages = raw.map(mmap.ACCESS_READ)
    slices, rows, columns = (slice(indices.start, indices.stop) for indices in box)
    return known.pages[slices, rows, columns].astype(said.dtype, order="C")


def use_and_size(entry: str) -> tuple[int, int]:
    """Tell when an entry was last used, in ns, and how many bytes it takes; 0 once it is gone."""
    used = size = 0
    for file in (METADATA, CHUNK, MARK):
        # Another process may drop the entry meanwhile; what is half gone leaves first.
        with suppress(OSError):
            status = os.stat(os.path.join(entry, file))
            size += status.st_size
            used = status.st_mtime_ns if file == METADATA else used
    return used, size


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


def _document(entry: NewEntry) -> dict[str, Any]:
    """Describe an array as zarr v3 asks, and what it means in the attributes."""
    kept, shape = entry.kept, entry.kept.voxels.shape
    ours = {
        "key": entry.key,
        "stack": entry.volume.stack.id,
        "dtype": kept.dtype.name,
        "unit": kept.unit,
        "valid": kept.valid.tolist(),
        "region": [[axis.start, axis.stop] for axis in kept.region.axes],
        "affine_lps": entry.volume.affine_lps.tolist(),
        "layout": entry.layout,
        "sample": None if kept.made is None else kept.made.sample,
    }
    small = entry.layout == "small"
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": kept.voxels.dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": list(shard_shape(shape) if small else shape)},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": False if kept.voxels.dtype == np.bool_ else 0,
        "codecs": small_codecs(kept.voxels.dtype) if small else raw_codecs(),
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


# Parsed once in a process: a patch is cut in less time than its entry's description takes to read.
@lru_cache(maxsize=1024)
def _parse(content: bytes) -> Description:
    document = json.loads(content)
    ours = document["attributes"]["dicomdata"]
    if ours["digest"] != _digest(document):
        raise ValueError("its digest is another")
    return Description(
        key=ours["key"],
        stack=ours["stack"],
        shape=tuple(document["shape"]),
        kept_dtype=np.dtype(document["data_type"]),
        dtype=np.dtype(ours["dtype"]),
        unit=ours["unit"],
        valid=np.array(ours["valid"], np.bool_),
        region=Region(*(slice(*ends) for ends in ours["region"])),
        layout=ours["layout"],
        made=_parse_made(ours),
    )


def _parse_made(ours: dict[str, Any]) -> Made | None:
    sample = ours.get("sample")
    if sample is None:
        return None
    affine = np.array(ours["affine_lps"], np.float64)
    affine.flags.writeable = False
    return Made(sample, affine)

"""The `raw` layout: plain voxels in one file, which can be mapped into memory, and their crc32c."""

from __future__ import annotations

import math
import mmap
import os
import sys
from typing import IO, TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from dicomdata.cache.damage import DamagedEntryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dicomdata.cache.damage import Box

_CRC_BYTES = 4


def raw_codecs() -> list[dict[str, Any]]:
    """Describe the file in the words of zarr v3."""
    return [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


def write_raw(file: IO[bytes], voxels: NDArray[Any]) -> None:
    """Write an array plane by plane, in little endian, and its crc32c.

    Raises:
        OSError: if the disk is full, or cannot be written.
    """
    checksum = 0
    for plane in voxels:
        words = plane.astype(plane.dtype.newbyteorder("<"), copy=False).tobytes()
        checksum = google_crc32c.extend(checksum, words)
        file.write(words)
    file.write(checksum.to_bytes(_CRC_BYTES, "little"))


class RawFile:
    """What `write_raw` wrote, open for reading.

    It is read rather than mapped, but where a map is what is asked for: an error of the disk is an
    exception here, where in a map it is a SIGBUS, and the pages of a box cost less to copy than to
    map.
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Take an open file, unbuffered, of an array of this shape and type.

        Raises:
            DamagedEntryError: if it has another size.
        """
        self._file, self._shape, self._dtype = file, shape, dtype.newbyteorder("<")
        self._bytes = math.prod(shape) * dtype.itemsize
        size = os.fstat(file.fileno()).st_size
        if size != self._bytes + _CRC_BYTES:
            raise DamagedEntryError(f"{file.name}: {size} bytes, expected {self._bytes} and a crc")

    def verify(self, into: NDArray[Any] | None = None) -> None:
        """Read all of it plane by plane, `into` an array if given, and compare the checksum.

        Raises:
            DamagedEntryError: if it is another.
        """
        checksum = 0
        for k, plane in enumerate(self._bands(range(self._shape[0]), range(self._shape[1]))):
            checksum = google_crc32c.extend(checksum, plane.tobytes())
            if into is not None:
                into[k] = plane
        written = bytearray(_CRC_BYTES)
        self._read_fully(memoryview(written), self._bytes)
        if int.from_bytes(written, "little") != checksum:
            raise DamagedEntryError(f"{self._file.name}: its checksum is another")

    def read(self, box: Box, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Give a box of the array as a new array of type `dtype`: only its rows are read."""
        slices, rows, columns = box
        voxels = np.empty((len(slices), len(rows), len(columns)), dtype)
        inside = slice(columns.start, columns.stop)
        for k, band in enumerate(self._bands(slices, rows)):
            voxels[k] = band[:, inside]
        return voxels

    def map(self) -> NDArray[Any]:
        """Map all of the array into memory, copy-on-write: writable, and never written back.

        Pages are read when they are touched, and shared among processes until they are written to.
        """
        # A map keeps a duplicate of the descriptor unless told not to, which Python can from 3.13.
        options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        pages = mmap.mmap(self._file.fileno(), self._bytes, access=mmap.ACCESS_COPY, **options)
        return np.frombuffer(pages, self._dtype).reshape(self._shape)

    def _bands(self, slices: range, rows: range) -> Iterator[NDArray[Any]]:
        """Give the same rows of one slice after another; each is overwritten by the next."""
        _, height, width = self._shape
        band = np.empty((len(rows), width), self._dtype)
        words = memoryview(band.reshape(-1).view(np.uint8).data)
        for number in slices:
            self._read_fully(words, (number * height + rows.start) * width * band.itemsize)
            yield band

    def _read_fully(self, into: memoryview, offset: int) -> None:
        done = 0
        while done < len(into):
            count = os.preadv(self._file.fileno(), [into[done:]], offset + done)
            if not count:
                raise DamagedEntryError(f"{self._file.name}: cut short")
            done += count

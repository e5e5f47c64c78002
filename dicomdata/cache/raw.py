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

    Where all of it is wanted, it is read: an error of the disk is then an exception, where in a
    map it is a SIGBUS. The rows of a box are several times its bytes, and a map that is there
    already costs a copy of the box alone.
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
        checksum, (planes, height, width) = 0, self._shape
        for k in range(planes):
            words = self._read_rows(k, range(height))
            checksum = google_crc32c.extend(checksum, words)
            if into is not None:
                into[k] = np.frombuffer(words, self._dtype).reshape(height, width)
        written = self._read_fully(_CRC_BYTES, self._bytes)
        if int.from_bytes(written, "little") != checksum:
            raise DamagedEntryError(f"{self._file.name}: its checksum is another")

    def read(self, box: Box, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Give a box of the array as a new array of type `dtype`: only its rows are read."""
        slices, rows, columns = box
        voxels = np.empty((len(slices), len(rows), len(columns)), dtype)
        for k, out in zip(slices, voxels, strict=True):
            band = np.frombuffer(self._read_rows(k, rows), self._dtype)
            out[...] = band.reshape(len(rows), -1)[:, columns.start : columns.stop]
        return voxels

    def map(self, access: int = mmap.ACCESS_COPY) -> NDArray[Any]:
        """Map all of the array into memory, copy-on-write: writable, and never written back.

        Pages are read when they are touched, and shared among processes until they are written to.

        Args:
            access: `mmap.ACCESS_READ` for a map that none may write to.
        """
        # A map keeps a duplicate of the descriptor unless told not to, which Python can from 3.13.
        options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        pages = mmap.mmap(self._file.fileno(), self._bytes, access=access, **options)
        return np.frombuffer(pages, self._dtype).reshape(self._shape)

    def _read_rows(self, number: int, rows: range) -> bytes:
        """Read rows of a slice."""
        _, height, width = self._shape
        row_bytes = width * self._dtype.itemsize
        return self._read_fully(len(rows) * row_bytes, (number * height + rows.start) * row_bytes)

    def _read_fully(self, length: int, offset: int) -> bytes:
        # Into bytes of its own: crc32c takes no other, and into NumPy's memory, which begins 16
        # bytes into a page, the kernel copies at a quarter of the speed.
        words = os.pread(self._file.fileno(), length, offset)
        if len(words) == length:
            return words
        raise DamagedEntryError(f"{self._file.name}: cut short")

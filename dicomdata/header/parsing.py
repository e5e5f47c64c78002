"""pydicom, behind one door: a file -> a `pydicom.Dataset` without pixels, or a clear error.

pydicom raises eight kinds of exception on damaged bytes, warns through a process-wide filter,
and inflates without bound; what leaves this module is either a dataset or a `HeaderError`.
"""

from __future__ import annotations

import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from dicomdata.errors import HeaderError
from dicomdata.header.records import (
    DEFLATED,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

if TYPE_CHECKING:
    from pydicom import Dataset

UNDEFINED_LENGTH = 0xFFFFFFFF
"""Length of an element that ends at a delimiter (PS3.5 7.1.1)."""

PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
"""Float, Double Float and plain Pixel Data: PS3.3 C.7.6.24, C.7.6.25 and C.7.6.3."""

_META_GROUP = 0x0002

LARGEST_INFLATED = 64 * 1024 * 1024
"""Bytes a deflated file may grow to: 2 MB can hold 2 GB of zeros."""


class _Lock:
    """A lock that a forked child gets anew: its parent may have held it in another thread."""

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        # Within itself, one thread swaps filters in order.
        self.lock = threading.RLock()


_quiet = _Lock()
"""Python's warning filters belong to the process: two threads must not swap them at once."""


@contextmanager
def quietly() -> Iterator[None]:
    """Keep pydicom from warning, one thread at a time; what is wrong is found by looking."""
    with _quiet.lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Pixels(NamedTuple):
    """Where the value of Pixel Data lies in a file."""

    tag: int
    """One of `PIXEL_TAGS`."""

    offset: int
    """First byte of the value; -1 in a deflated file."""

    length: int
    """Bytes, or `UNDEFINED_LENGTH` where the pixels are encapsulated."""

    representation: str = ""
    """Value Representation of big endian pixels, where OB and OW differ; "" of others."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A dataset as pydicom read it, and what it was read from."""

    dataset: Dataset
    """Everything before the pixels."""

    transfer_syntax_uid: str
    """Transfer Syntax UID (0002,0010), or what pydicom made out where the file does not say."""

    little_endian: bool
    """Byte order of `dataset`."""

    pixels: Pixels | None
    """Where the pixels are; None where there are none."""

    inflated: bytes | None = None
    """Of a deflated file: the dataset, inflated."""

    pixels_at: int = 0
    """Of a deflated file: where the pixels begin in `inflated`."""

    def raw(self, tag: int) -> bytes | None:
        """Give the value of an element as written; a sequence has an empty one, None is absent."""
        holder = self.dataset.file_meta if tag >> 16 == _META_GROUP else self.dataset
        return raw_value(holder, tag)


def raw_value(holder: Dataset, tag: int) -> bytes | None:
    """Give the value of an element as written; a sequence has an empty one, None is absent."""
    if tag not in holder:
        return None
    value = holder.get_item(tag).value
    # File meta and Specific Character Set are decoded by pydicom as it reads them.
    if isinstance(value, str):
        return value.encode("ascii", "replace")
    if isinstance(value, Sequence) and all(isinstance(part, str) for part in value):
        return "\\".join(value).encode("ascii", "replace")
    return bytes(value) if isinstance(value, bytes | bytearray) else b""


def sequence_items(header: Dataset, tag: int) -> Sequence[Dataset]:
    """Give the items of a sequence; none where it is absent, empty, or no sequence."""
    if tag not in header:
        return ()
    element = header[tag]
    return element.value or () if element.VR == "SQ" else ()


def parse(path: str, file: BinaryIO, *, whole: bool = False) -> Parsed:
    """Read one open DICOM file up to its pixels, or the whole of it.

    Raises:
        HeaderError: if pydicom cannot, or a deflated file grows beyond `LARGEST_INFLATED`.
    """
    with quietly():
        try:
            return _parse(path, file, whole=whole)
        except HeaderError:
            raise
        # RecursionError, struct.error, NotImplementedError, zlib.error and others.
        except Exception as error:
            raise HeaderError(f"{path}: the header cannot be read: {error}") from error


def inflated_pixels(path: str, file: BinaryIO) -> bytes:
    """Inflate a deflated file; give the value of its Pixel Data.

    Raises:
        HeaderError: if it cannot be inflated within `LARGEST_INFLATED`, or has no pixels.
    """
    parsed = parse(path, file)
    if parsed.pixels is None or parsed.inflated is None:
        raise HeaderError(f"{path}: Pixel Data (7FE0,0010) is missing", keyword="PixelData")
    begin = parsed.pixels_at
    return parsed.inflated[begin : begin + parsed.pixels.length]


def _parse(path: str, file: BinaryIO, *, whole: bool) -> Parsed:
    import pydicom

    meta, syntax = None, ""
    begin = file.read(132)
    file.seek(0)
    if begin[128:] == b"DICM":
        file.seek(132)
        meta = pydicom.filereader.read_dataset(
            file, is_implicit_VR=False, is_little_endian=True, stop_when=_beyond_meta
        )
        syntax = str(meta.get("TransferSyntaxUID", ""))
        if syntax != DEFLATED:
            file.seek(0)
    if syntax == DEFLATED:
        file = _inflated(path, file)
    dataset = pydicom.dcmread(file, stop_before_pixels=not whole, force=True)
    implicit, little = dataset.original_encoding
    if not syntax:
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    if not syntax:
        by_order = EXPLICIT_VR_LITTLE_ENDIAN if little else EXPLICIT_VR_BIG_ENDIAN
        syntax = IMPLICIT_VR_LITTLE_ENDIAN if implicit else by_order
    pixels = _pixels_at(file, implicit=bool(implicit), little=bool(little))
    if pixels is None or not isinstance(file, BytesIO) or syntax != DEFLATED:
        return Parsed(dataset, syntax, bool(little), pixels)
    hidden = Pixels(pixels.tag, -1, pixels.length)
    return Parsed(dataset, syntax, bool(little), hidden, file.getvalue(), pixels.offset)


def _beyond_meta(tag: int, _representation: str | None, _length: int) -> bool:
    return tag >> 16 != _META_GROUP


def _inflated(path: str, file: BinaryIO) -> BytesIO:
    """Inflate the rest of a file (PS3.5 A.5), within bounds."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(file.read(), LARGEST_INFLATED)
    if inflater.unconsumed_tail:
        raise HeaderError(f"{path}: deflated, and larger than {LARGEST_INFLATED} bytes inflated")
    return BytesIO(content)


def _pixels_at(file: BinaryIO, *, implicit: bool, little: bool) -> Pixels | None:
    """Read the head of the pixel element before which pydicom stopped."""
    begin = file.tell()
    head = file.read(12)
    order = "<" if little else ">"
    if len(head) < 8:
        return None
    group, element = struct.unpack_from(order + "HH", head)
    tag = group << 16 | element
    if tag not in PIXEL_TAGS:
        return None
    if implicit:
        return Pixels(tag, begin + 8, struct.unpack_from(order + "L", head, 4)[0])
    length = struct.unpack_from(order + "L", head, 8)[0]
    representation = "" if little else head[4:6].decode("ascii", "replace")
    return Pixels(tag, begin + 12, length, representation)

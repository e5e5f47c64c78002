"""One frame, decoded by every decoder there is: do they agree?"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import PixelError
from dicomdata.header import read_header
from dicomdata.pixels.decoders import decoders_of
from dicomdata.pixels.decoding import decode, decode_with, read_encoded
from dicomdata.pixels.files import FrameFiles
from dicomdata.pixels.reading import read_stored
from dicomdata.pixels.words import check_kind, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dicomdata.header import Frame

    Read = Callable[[], NDArray[np.integer[Any]]]

_TRANSFORM_TOLERANCE = 2
"""Stored values by which two decoders of the same lossy image may differ: each may round an inverse
transform to 1 off the exact value (ISO/IEC 10918-2, 15444-4)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the decoders of one frame gave."""

    decoders: tuple[str, ...]
    """Those that decoded it; the first is the one whose values `read_stored` gives."""

    unable: dict[str, str] = field(default_factory=dict)
    """Those that did not, and why. A decoder need not know every kind of stream."""

    difference: int = 0
    """By how many stored values any of them differs from the first, at most."""

    allowed: int = 0
    """By how many it may: 0, but where decoders round a lossy transform."""

    @property
    def agree(self) -> bool:
        """Whether two decoders or more give the same; a single one has nobody to disagree with."""
        return self.difference <= self.allowed

    def __str__(self) -> str:
        """Say it in one line."""
        if not self.agree:
            return f"disagree by {self.difference}: {', '.join(self.decoders)}"
        if len(self.decoders) == 1:
            return f"only one decoder: {self.decoders[0]}"
        within = f" within {self.difference} (lossy)" if self.difference else ""
        return f"agree{within}: {', '.join(self.decoders)}"


def compare_decoders(frame: Frame) -> Comparison:
    """Decode one frame with every decoder that is installed, and compare what they give.

    Plain words are compared with what pydicom reads. Lossless images must be equal, and so must
    JPEG-LS, whose loss is in the encoder alone.

    Raises:
        FileError, StaleError: if the file cannot be read, or has changed.
        PixelError: if no decoder gives a frame as the header says.
    """
    check_kind(frame)
    if frame.kind.native or frame.offset < 0:
        return _compare(frame, _readers_of_words(frame), allowed=0)
    with FrameFiles() as files:
        encoded = read_encoded(frame, files)
    # What is not read is not compared; and some decoders bear only what another has decoded.
    decode(encoded, frame)
    exact = encoded.stream.lossless or encoded.stream.process == "JPEG-LS"
    readers: dict[str, Read] = {
        decoder.name: partial(decode_with, decoder, encoded, frame)
        for decoder in decoders_of(frame.kind.transfer_syntax_uid)
    }
    return _compare(frame, readers, allowed=0 if exact else _TRANSFORM_TOLERANCE)


def _readers_of_words(frame: Frame) -> dict[str, Read]:
    return {
        "dicomdata": lambda: read_stored(frame),
        "pydicom": lambda: _read_by_pydicom(frame),
    }


def _read_by_pydicom(frame: Frame) -> NDArray[np.integer[Any]]:
    """Read plain words as pydicom does; what they mean, it knows only where High Bit is lowest."""
    from pydicom.pixels.decoders.base import get_decoder

    header = read_header(frame.path, whole=True)
    options: dict[str, Any] = {"correct_unused_bits": False}
    words, _ = get_decoder(frame.kind.transfer_syntax_uid).as_array(
        header, index=frame.number, raw=True, validate=False, **options
    )
    return unpacked(words, frame.kind, high_bit=frame.kind.high_bit)


def _compare(frame: Frame, readers: dict[str, Read], *, allowed: int) -> Comparison:
    decoded: dict[str, NDArray[np.int64]] = {}
    unable: dict[str, Exception] = {}
    for name, read in readers.items():
        try:
            decoded[name] = read().astype(np.int64)
        # Each library has exceptions of its own.
        except Exception as error:  # noqa: BLE001
            unable[name] = error
    if not decoded:
        why = next(iter(unable.values()), "no decoder is installed")
        raise PixelError(f"{frame.path}: the pixels cannot be decoded: {why}")
    first, *others = decoded.values()
    difference = max((int(np.abs(first - other).max()) for other in others), default=0)
    told = {name: str(error) for name, error in unable.items()}
    return Comparison(tuple(decoded), told, difference, allowed)

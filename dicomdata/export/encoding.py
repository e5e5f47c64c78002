"""Planes of a label -> Pixel Data (7FE0,0010), one plane in memory after the other."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import LabelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from pydicom import Dataset

_LARGEST = 2**32 - 2
"""Bytes of a native element: its length has 32 bits, is even, and all ones means undefined."""


def set_pixels(
    made: Dataset, planes: Iterable[NDArray[Any]], count: int, *, compress: bool
) -> None:
    """Encode planes (rows, columns), bool, uint8 or uint16, as the header says; natively or by RLE.

    Raises:
        LabelError: if they are more than one file holds.
    """
    made.NumberOfFrames = count
    if compress:
        _set_compressed(made, planes)
        return
    size = (count * made.Rows * made.Columns * made.BitsAllocated + 7) // 8
    if size > _LARGEST:
        raise LabelError(
            f"{count} frames of {made.Rows} x {made.Columns} are {size} bytes, and one file holds "
            f'{_LARGEST}: write kind="labelmap" with compress=True, or several files'
        )
    # Written as it grows: a copy of it would be half a gigabyte for a hundred organs.
    words = BytesIO()
    for part in _packed(planes) if made.BitsAllocated == 1 else map(_little, planes):
        words.write(part)
    words.write(b"\0" * (size % 2))
    words.seek(0)
    made.add_new("PixelData", "OW" if made.BitsAllocated == 16 else "OB", words)


def _little(plane: NDArray[Any]) -> bytes:
    little: bytes = plane.astype(plane.dtype.newbyteorder("<"), copy=False).tobytes()
    return little


def _packed(planes: Iterable[NDArray[Any]]) -> Iterator[bytes]:
    """Pack bits, the first of a frame right after the last of the one before (PS3.5 8.2, A.2)."""
    left = np.zeros(0, np.bool_)
    for plane in planes:
        bits = np.concatenate([left, plane.ravel()])
        whole = bits.size // 8 * 8
        yield np.packbits(bits[:whole], bitorder="little").tobytes()
        left = bits[whole:]
    yield np.packbits(left, bitorder="little").tobytes()


def _set_compressed(made: Dataset, planes: Iterable[NDArray[Any]]) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.pixels.encoders.base import get_encoder
    from pydicom.uid import RLELossless

    encoder = get_encoder(RLELossless)
    frames = [
        encoder.encode(
            _little(plane),
            rows=made.Rows,
            columns=made.Columns,
            samples_per_pixel=1,
            photometric_interpretation=made.PhotometricInterpretation,
            bits_allocated=made.BitsAllocated,
            bits_stored=made.BitsStored,
            pixel_representation=0,
            number_of_frames=1,
        )
        for plane in planes
    ]
    made.file_meta.TransferSyntaxUID = RLELossless
    made.add_new("PixelData", "OB", encapsulate(frames))
    made["PixelData"].is_undefined_length = True

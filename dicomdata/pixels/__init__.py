"""Frames -> stored values: native words by offset, codecs by Transfer Syntax UID.

Stored values are what the scanner meant: garbage beyond Bits Stored is gone, and the sign is
extended (PS3.5 8.1.1). Nothing here rescales.

`words` reads plain words and gives them their meaning, `codestream` and `rle` say what a
compressed frame claims to be before it is decoded, `decoders` is the table of who decodes what,
`decoding` holds both against the header, `comparison` asks every decoder for the same frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dicomdata.pixels.comparison import Comparison, compare_decoders
from dicomdata.pixels.decoders import syntax_name
from dicomdata.pixels.decoding import decode_frame
from dicomdata.pixels.words import check_claim, read_deflated, read_native

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dicomdata.header import Frame

__all__ = ["Comparison", "check_claim", "compare_decoders", "read_stored", "syntax_name"]


def read_stored(frame: Frame, rows: range | None = None) -> NDArray[np.integer[Any]]:
    """Read the stored values of a frame, shape (rows, columns), in their own integer type.

    Args:
        frame: which frame; its file must be as it was when it was scanned.
        rows: which rows; all by default. Of a native frame only these are read from disk.

    Raises:
        FileError: if the file cannot be read.
        StaleError: if the file has changed since it was scanned.
        PixelError: if the pixels are cut short, undecodable, or contradict the header.
    """
    check_claim(frame)
    wanted = range(frame.kind.rows) if rows is None else rows
    if frame.kind.native:
        return read_native(frame, wanted)
    if frame.offset < 0:  # deflated as a whole
        return read_deflated(frame, wanted)
    return decode_frame(frame)[wanted.start : wanted.stop]

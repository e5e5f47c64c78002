"""Frames -> stored values: native words by offset, codecs by Transfer Syntax UID.

Stored values are what the scanner meant: garbage beyond Bits Stored is gone, and the sign is
extended (PS3.5 8.1.1). Nothing here rescales.

`reading` reads frame after frame and `files` opens what they lie in, `words` gives plain words
their meaning, `codestream` and `rle` say what a compressed frame claims to be before it is decoded,
`decoders` is the table of who decodes what, `decoding` holds both against the header, `comparison`
asks every decoder for the same frame.
"""

from __future__ import annotations

from dicomdata.pixels.comparison import Comparison, compare_decoders
from dicomdata.pixels.decoders import syntax_name
from dicomdata.pixels.reading import FrameReader, Pixels, read_stored
from dicomdata.pixels.words import check_claims

__all__ = [
    "Comparison",
    "FrameReader",
    "Pixels",
    "check_claims",
    "compare_decoders",
    "read_stored",
    "syntax_name",
]

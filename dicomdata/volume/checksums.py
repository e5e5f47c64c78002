"""Whether the compressed voxels of a MetaImage or NRRD file are whole: their checksums.

ITK inflates MetaImage without asking whether that went well, and stops before the end of a
compressed NRRD: of files with one bit flipped, it gave other voxels in place of an error.
"""

from __future__ import annotations

import os
import re
import zlib
from functools import lru_cache

from dicomdata.errors import FileError

_PIECE = 2**20
"""Bytes that are read at once."""

_EITHER = 47
"""What zlib is told so that it takes a gzip or a zlib stream, of any window."""

_HEAD_BYTES = 64 * 1024
"""Text of a header that is looked at."""

_COMPRESSED = re.compile(
    rb"^(CompressedData\s*=\s*True|encoding:\s*(gz|gzip))\s*$", re.MULTILINE | re.IGNORECASE
)

_VOXELS_AFTER = re.compile(rb"ElementDataFile\s*=\s*LOCAL\s*?\n|\r?\n\r?\n", re.IGNORECASE)
"""The last of the text in a file that has its voxels too: of MetaImage, or of NRRD."""


def check_compressed(files: tuple[str, ...]) -> None:
    """Inflate the voxels of a file to their end, if they are compressed by deflate.

    Args:
        files: the file, and that of its voxels where it is another.

    Raises:
        FileError: if it cannot be read, is cut short, or damaged.
    """
    try:
        with open(files[0], "rb") as file:
            head = file.read(_HEAD_BYTES)
        if not _COMPRESSED.search(head.partition(b"\n\n")[0]):
            return
        found = _VOXELS_AFTER.search(head)
        start = found.end() if len(files) == 1 and found else 0
        status = os.stat(files[-1])
        _inflate(files[-1], start, (status.st_size, status.st_mtime_ns))
    except (OSError, zlib.error) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{files[-1]}: cannot be read: {error}") from error


# Once a process for each file: it takes as long as reading it.
@lru_cache(maxsize=4096)
def _inflate(path: str, start: int, stamp: tuple[int, int]) -> None:
    """Inflate a file from a place on.

    Raises:
        FileError: if it ends before its stream does.
    """
    inflating = zlib.decompressobj(_EITHER)
    with open(path, "rb") as file:
        file.seek(start)
        while not inflating.eof and (piece := file.read(_PIECE)):
            while piece and not inflating.eof:
                # Bounded: a small file may inflate to a thousand times its size.
                inflating.decompress(piece, _PIECE)
                piece = inflating.unconsumed_tail
    if not inflating.eof:
        raise FileError(f"{path}: cut short: its voxels go on after its {stamp[0]} bytes")

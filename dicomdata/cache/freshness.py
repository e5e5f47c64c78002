"""Whether a stack's source files are still those it was planned from: one stat a file."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from dicomdata.volume import VolumeFile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dicomdata.regions import Region
    from dicomdata.stack import Stack

_OPENING = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
"""How a folder is opened, for the files in it to be looked up by their names alone."""


class _File(NamedTuple):
    folder: str
    name: str
    size: int
    mtime_ns: int


def is_fresh(stack: Stack, region: Region | None = None) -> bool:
    """Whether every source file still has the size and time it was planned with.

    One stat a file, no file is opened. Of a box, the files of its slices are looked at, which are
    those that would be read for it; of a stack that is resampled, or a volume file, all of them.

    Raises:
        StaleError: if the catalog has changed since and tells another story.
        ValueError: if the region is empty.
    """
    files = _files_of(stack)
    in_slices = not (stack.sampling or stack.shear or isinstance(stack, VolumeFile))
    if region is not None and in_slices:
        slices = region.within(stack.shape)[0]
        files = files[slices.start : slices.stop]
    # The frames of one file are looked at once.
    by_folder = groupby(dict.fromkeys(files), key=itemgetter(0))
    try:
        return all(_are_unchanged(folder, there) for folder, there in by_folder)
    except OSError:
        return False


def _are_unchanged(folder: str, files: Iterable[_File]) -> bool:
    """Whether files of a folder have their sizes and times.

    The kernel walks to the folder once, not once a file. It is opened anew each time: another
    folder may have taken its name.
    """
    handle = os.open(folder, _OPENING)
    try:
        for _, name, size, mtime_ns in files:
            status = os.stat(name, dir_fd=handle)
            if status.st_size != size or status.st_mtime_ns != mtime_ns:
                return False
    finally:
        os.close(handle)
    return True


# More than the stacks whose frames are remembered: to ask the catalog for them takes longer than to
# cut a patch, and this is 20 KB of a stack of 130 files.
@lru_cache(maxsize=1024)
def _files_of(stack: Stack) -> tuple[_File, ...]:
    """Give the file of each frame."""
    files = []
    for frame in stack.frames:
        folder, name = os.path.split(frame.path)
        files.append(_File(sys.intern(folder), name, frame.size, frame.mtime_ns))
    return tuple(files)

"""Which file systems keep a file whole for whoever has it mapped, though it lost its name.

Elsewhere, on NFS say, another machine may remove an entry while this one has it mapped: touching
its pages then ends the process with SIGBUS, where reading it is an error that can be met.
"""

from __future__ import annotations

import os
from functools import lru_cache

_LOCAL = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
)
"""File systems of Linux that only this machine writes to."""

_MOUNTS = "/proc/self/mountinfo"


# Asked once a folder: the list of mounts may be long.
@lru_cache(maxsize=64)
def is_local(folder: str) -> bool:
    """Whether only this machine writes to the file system of a folder; False where unknown."""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split() for line in file]
    except OSError:
        return False
    # Mount point, optional fields, a dash, type: the last mount over a folder is the one it has.
    types = {_unescape(line[4]): line[line.index("-", 6) + 1] for line in lines}
    place = os.path.realpath(folder)
    while place not in types and place != os.path.dirname(place):
        place = os.path.dirname(place)
    return types.get(place) in _LOCAL


def _unescape(path: str) -> str:
    """Give a path as it is: mountinfo writes white space and backslashes in octal."""
    for code in (" ", "\t", "\n", "\\"):
        path = path.replace(f"\\{ord(code):03o}", code)
    return path

"""What a volume is kept under, whether its sources are still the same, and sizes in words."""

from __future__ import annotations

import inspect
import os
import re
from functools import lru_cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import CacheError
from dicomdata.regions import Region

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dicomdata.cache.contract import Read
    from dicomdata.stack import Stack

_FORMAT = 1
"""Raised when what is kept, or how, changes: entries of other versions are never looked at."""

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b\s*", re.IGNORECASE)
_POWERS = {letter: power for power, letter in enumerate(" kmgtp")}


def cache_key(stack: Stack, read: Read) -> str:
    """Digest all that decides the voxels: the stack's files, how they are read, this format.

    Raises:
        CacheError: if `read` or one of its arguments cannot be told from another by its text.
    """
    settings = sorted(_settings_of(read).items())
    text = repr((_FORMAT, stack.fingerprint, stack.id, _name_of(read), settings))
    return blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def read_of(read: Read, region: Region | None) -> Read:
    """Give the function that reads a box where `read` reads all; `read` itself without a region.

    Raises:
        CacheError: if `read` takes no region, or has one already.
    """
    if region is None:
        return read
    given = read.keywords if isinstance(read, partial) else {}
    parameters = _parameters(_function_of(read))
    if "region" not in parameters:
        raise CacheError(f"{read!r} cannot read a box: it has no parameter `region`")
    own = given.get("region", parameters["region"].default)
    if own not in (None, inspect.Parameter.empty):
        raise CacheError(f"{read!r} reads a region of its own: ask for {region} of one without")
    return partial(read, region=region)


def is_fresh(stack: Stack) -> bool:
    """Whether every source file still has the size and time it was planned with.

    One stat a file, no file is opened.

    Raises:
        StaleError: if the catalog has changed since and tells another story.
    """
    planned = {frame.path: (frame.size, frame.mtime_ns) for frame in stack.frames}
    try:
        return all(_stamp(path) == stamp for path, stamp in planned.items())
    except OSError:
        return False


def parse_bytes(size: int | str | None) -> int | None:
    """Give a size in bytes: a number, or text as in "64 GB" (10^9) or "64 GiB" (2^30).

    Raises:
        CacheError: if it is no size, or not positive.
    """
    if isinstance(size, str):
        found = _SIZE.fullmatch(size)
        if not found:
            raise CacheError(f"max_bytes={size!r}: expected a size such as '64 GB' or '500 MiB'")
        number, letter, binary = found.groups()
        unit = (1024 if binary else 1000) ** _POWERS[letter.lower() or " "]
        size = int(float(number) * unit)
    if size is None:
        return None
    if type(size) is not int or size <= 0:
        raise CacheError(f"max_bytes={size!r}: expected a positive number of bytes, or '64 GB'")
    return size


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _function_of(read: Read) -> Any:
    return read.func if isinstance(read, partial) else read


def _name_of(read: Read) -> str:
    function = _function_of(read)
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "<none>")
    # Two lambdas share a name, and so do functions of two scripts: one got the other's voxels.
    if not module or module == "__main__" or "<" in name:
        raise CacheError(
            f"{function!r} cannot be told from another function by its name: "
            f"give read_volume, a functools.partial of it, or a function of an importable module"
        )
    return f"{module}.{name}"


def _settings_of(read: Read) -> dict[str, str]:
    """Give the keyword arguments of a reading function as text, defaults included."""
    given = {}
    if isinstance(read, partial):
        if read.args:
            raise CacheError(f"{read!r}: give its arguments by keyword")
        given = read.keywords
    function = _function_of(read)
    defaults = {
        name: each.default
        for name, each in _parameters(function).items()
        if each.default is not each.empty
    }
    settings = {**defaults, **given}
    # How many threads read changes no voxel.
    settings.pop("workers", None)
    return {name: _text_of(name, value) for name, value in settings.items()}


# Looked at once a function: it takes longer than to find an entry.
@lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _text_of(name: str, value: Any) -> str:
    if name == "dtype" and value is not None:
        return str(np.dtype(value))
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, tuple) and all(isinstance(each, int | float) for each in value):
        return repr(value)
    if isinstance(value, Region):
        return repr([(axis.start, axis.stop, axis.step) for axis in value.axes])
    raise CacheError(
        f"{name}={value!r}: a volume is kept under text, numbers, a dtype or a Region, "
        f"not under {type(value).__name__}"
    )

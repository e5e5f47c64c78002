"""What a volume is kept under, and sizes in words."""

from __future__ import annotations

import inspect
import re
from functools import lru_cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_args, runtime_checkable

import numpy as np

from dicomdata.errors import CacheError
from dicomdata.regions import Region

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dicomdata.cache.contract import Read
    from dicomdata.stack import Stack

_FORMAT = 1
"""Raised when what is kept, or how, changes: entries of other versions are never looked at."""

_T = TypeVar("_T")

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b\s*", re.IGNORECASE)
_POWERS = {letter: power for power, letter in enumerate(" kmgtp")}


@runtime_checkable
class Telling(Protocol):
    """An argument of a reading function that says itself what volumes are to be kept under."""

    @property
    def cache_text(self) -> str:
        """All of it that decides the voxels, as text."""
        ...


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


def check_choice(name: str, value: _T, known: Any) -> _T:
    """Give an option that is one of the words of a `Literal`.

    Raises:
        CacheError: if it is another.
    """
    if value not in get_args(known):
        raise CacheError(f"{name}={value!r}: expected one of {', '.join(get_args(known))}")
    return value


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
        # How many threads read changes no voxel.
        given = {name: value for name, value in read.keywords.items() if name != "workers"}
    defaults = _default_texts(_function_of(read), frozenset(given))
    return {**defaults, **{name: _text_of(name, value) for name, value in given.items()}}


# As the parameters: once a function, and arguments that are given to it.
@lru_cache(maxsize=64)
def _default_texts(function: Callable[..., Any], given: frozenset[str]) -> dict[str, str]:
    return {
        name: _text_of(name, each.default)
        for name, each in _parameters(function).items()
        if each.default is not each.empty and name not in given and name != "workers"
    }


# Looked at once a function: it takes longer than to find an entry.
@lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _text_of(name: str, value: Any) -> str:
    if isinstance(value, Telling):
        return value.cache_text
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

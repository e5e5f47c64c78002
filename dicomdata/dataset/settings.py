"""The settings of transforms as text: equal text, equal result.

What cannot be told from another by its value has no text: a lambda, a function of a script, an
object of a class that nobody vouches for. A name is taken for what it means only in libraries
whose version is part of the text too.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data.meta_obj import get_track_meta
from monai.transforms.traits import RandomizableTrait
from monai.transforms.transform import Transform

if TYPE_CHECKING:
    from collections.abc import Iterable

_VERSIONED = frozenset({"_operator", "builtins", "monai", "numpy", "torch"})
"""Packages whose functions and classes are what their names say: `environment` has the versions."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice)
"""Types whose `repr` is their value."""

_NAMED = (np.dtype, torch.dtype, torch.device, torch.Size)
"""Types whose text is their value."""

_CODE = (type, FunctionType, BuiltinFunctionType)


class UntoldError(Exception):
    """A value cannot be told from another by text."""


@dataclass(slots=True)
class Teller:
    """Says values as text, and notes the transforms that it met on the way, in a fixed order."""

    transforms: list[Transform] = field(default_factory=list)
    """Each once, as it was first met."""

    _within: list[int] = field(default_factory=list)

    def tell(self, value: Any) -> str:
        """Give a value as text, with all that it holds.

        Raises:
            UntoldError: if something in it has no text.
        """
        kind: Any = type(value)
        if isinstance(value, Enum):
            return f"{_name(kind)}.{value.name}"
        if kind in _PLAIN:
            return repr(value)
        if isinstance(value, _NAMED):
            return f"{kind.__name__} {value}"
        if isinstance(value, _CODE):
            return _name(value)
        if id(value) in self._within:
            raise UntoldError(f"{kind.__name__} holds itself")
        self._within.append(id(value))
        try:
            return f"{kind.__name__}({self._tell_parts(value)})"
        finally:
            self._within.pop()

    def _tell_parts(self, value: Any) -> str:
        kind = type(value)
        if kind in {list, tuple}:
            return self._join(value)
        if kind in {set, frozenset}:
            return ", ".join(sorted(self.tell(each) for each in value))
        if kind is dict:
            return self._join(part for pair in value.items() for part in pair)
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
            content = blake2b(np.ascontiguousarray(value).tobytes()).hexdigest()
            return f"{value.dtype.str} {value.shape} {content}"
        if kind is torch.Tensor:
            return self._tell_parts(value.detach().cpu().numpy())
        return self._tell_object(value)

    def _tell_object(self, value: Any) -> str:
        """Give an object of MONAI's as text: its class, and its attributes."""
        kind: Any = type(value)
        name = _name(kind)
        if not name.startswith("monai.") or isinstance(value, RandomizableTrait):
            raise UntoldError(f"{value!r} has no text")
        if isinstance(value, Transform) and all(value is not each for each in self.transforms):
            self.transforms.append(value)
        # `tracing` is kept for each thread, outside the state: whether the result says how it came.
        return f"{name} {getattr(value, 'tracing', '')} {self.tell(value.__getstate__())}"

    def _join(self, values: Iterable[Any]) -> str:
        return ", ".join(self.tell(each) for each in values)


def environment() -> str:
    """Name all else that decides what transforms make of the same voxels."""
    return f"{_versions()} {get_track_meta()} {torch.get_default_dtype()}"


@lru_cache(maxsize=1)
def _versions() -> str:
    # scipy's splines are behind some of MONAI's resampling; MONAI does without where it is missing.
    found = []
    for name in ("monai", "numpy", "scipy", "torch"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return " ".join(found)


# A class is looked up once: there are more of them in the settings than there are steps.
@lru_cache(maxsize=1024)
def _name(thing: Any) -> str:
    """Name a class or a function that is what its name says.

    Raises:
        UntoldError: if it was made on the spot, or its code may change without its name.
    """
    module, name = thing.__module__, thing.__qualname__
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not thing or module.partition(".")[0] not in _VERSIONED:
        raise UntoldError(f"{thing!r} cannot be told from another by its name")
    return f"{module}.{name}"

"""What a sample says besides its voxels, as plain values for JSON, and back without a difference.

Numbers, text, lists, tuples, dicts, small arrays and tensors, and MONAI's own words for things; a
value of another type has no plain form. Nothing is made or called because a file names it: only
the types below are.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Any

import monai.utils.enums
import numpy as np
import torch
from monai.utils.enums import TraceKeys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from monai.transforms.transform import Transform
    from numpy.typing import NDArray

_MOST_BYTES = 2**16
"""Of an array: what describes an image is smaller, and all of it is parsed for each sample."""

_NUMBERS = frozenset("biuf")
"""Kinds of numpy's types whose bytes are their value."""

_SEQUENCES = {"tuple": tuple, "Size": torch.Size, "dict": dict}
"""What is made of a list of values."""


class PlainError(Exception):
    """A value has no plain form."""


def to_plain(value: Any, transforms: Sequence[Transform] = ()) -> Any:
    """Give a value as JSON has it; a type that JSON has not becomes a dict of its name.

    Args:
        value: what to give.
        transforms: those that may be noted in it by their addresses, which become numbers.

    Raises:
        PlainError: if it, or something in it, has no plain form.
    """
    kind = type(value)
    if value is None or kind in {bool, int, str} or (kind is float and math.isfinite(value)):
        return value
    if kind in {list, tuple, torch.Size}:
        items = [to_plain(each, transforms) for each in value]
        return items if kind is list else {kind.__name__: items}
    if kind is dict:
        return {"dict": _pairs(value, transforms)}
    return _named(value)


def _named(value: Any) -> dict[str, Any]:
    """Give a value as a dict of its type's name.

    Raises:
        PlainError: if there is no name for its type.
    """
    kind = type(value)
    if kind is float:
        return {"float": repr(value)}
    if isinstance(value, Enum) and getattr(monai.utils.enums, kind.__name__, None) is kind:
        return {"word": [kind.__name__, value.name]}
    if kind is torch.Tensor and value.device.type == "cpu" and not value.requires_grad:
        return {"tensor": _bytes_of(_as_array(value))}
    if isinstance(value, np.ndarray | np.generic):
        return {"array" if kind is np.ndarray else "number": _bytes_of(np.asarray(value))}
    raise PlainError(f"a value of type {kind.__module__}.{kind.__qualname__}")


def from_plain(plain: Any, transforms: Sequence[Transform] = ()) -> Any:
    """Give the value back that `to_plain` took: equal, of the same types, and new.

    Args:
        plain: what it gave.
        transforms: those whose addresses were noted, in the same order.

    Raises:
        KeyError: if `to_plain` gives no such thing.
    """
    if isinstance(plain, list):
        return [from_plain(each, transforms) for each in plain]
    if not isinstance(plain, dict):
        return plain
    ((name, inside),) = plain.items()
    if name in _SEQUENCES:
        return _SEQUENCES[name](from_plain(inside, transforms))
    if name == "transform":
        return id(transforms[inside])
    return _MAKERS[name](inside)


def _pairs(value: Mapping[Any, Any], transforms: Sequence[Transform]) -> list[Any]:
    """Give the keys and values of a dict; of one that says what was applied, not the address."""
    applied = TraceKeys.CLASS_NAME in value
    numbers = {id(transform): number for number, transform in enumerate(transforms)}
    pairs = []
    for key, inside in value.items():
        plain = to_plain(inside, transforms)
        if applied and key == TraceKeys.ID and type(inside) is int:
            # One that is gone was made on the spot: MONAI has a word for an address of nobody.
            number = numbers.get(inside)
            plain = to_plain(TraceKeys.NONE) if number is None else {"transform": number}
        pairs.append([to_plain(key), plain])
    return pairs


def _as_array(tensor: torch.Tensor) -> NDArray[Any]:
    try:
        return tensor.numpy()
    except (TypeError, RuntimeError) as error:
        raise PlainError(f"a tensor of {tensor.dtype}, layout {tensor.layout}") from error


def _bytes_of(array: NDArray[Any]) -> list[Any]:
    if array.dtype.kind not in _NUMBERS or array.nbytes > _MOST_BYTES:
        raise PlainError(f"an array of {array.dtype}, {array.nbytes} bytes")
    return [array.dtype.str, list(array.shape), array.tobytes().hex()]


def _from_bytes(dtype: str, shape: list[int], content: str) -> NDArray[Any]:
    numbers = np.dtype(dtype)
    if numbers.kind not in _NUMBERS:
        raise ValueError(f"{dtype}: no type of a plain array")
    return np.frombuffer(bytes.fromhex(content), numbers).reshape(shape).copy()


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "word": lambda names: getattr(monai.utils.enums, names[0])[names[1]],
    "array": lambda said: _from_bytes(*said),
    "number": lambda said: _from_bytes(*said)[()],
    "tensor": lambda said: torch.from_numpy(_from_bytes(*said)),
}
"""What undoes `_named`, by the name of the type."""

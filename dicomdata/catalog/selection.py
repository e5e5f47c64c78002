"""Conditions on the columns of a catalog, as SQL."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

from dicomdata.errors import CatalogError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ENDS = {"min": ">=", "max": "<="}
_PAIR = 2


def where(conditions: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, list[Any]]:
    """Turn ``column=condition`` into SQL and its parameters; all must hold.

    A condition is a value; a list or set of values, any of which will do; or a pair
    ``(low, high)`` of numbers, both ends included, None for an open end. ``min_x=`` and
    ``max_x=`` are ranges with one end. Columns may be written as DICOM keywords.

    Raises:
        CatalogError: if there is no such column, or a condition makes no sense.
    """
    parts, parameters = ["1"], []
    for name, condition in conditions.items():
        column, end = _column(name, columns)
        if end:
            parts.append(f'"{column}" {_ENDS[end]} ?')
            parameters.append(_plain(name, condition))
        elif _is_range(condition):
            for operator, value in zip((">=", "<="), condition, strict=True):
                if value is not None:
                    parts.append(f'"{column}" {operator} ?')
                    parameters.append(value)
        elif isinstance(condition, list | tuple | set | frozenset):
            values = [_plain(name, value) for value in condition]
            parts.append(f'"{column}" IN (SELECT value FROM json_each(?))')  # noqa: S608
            parameters.append(json.dumps(values))
        elif condition is None:
            parts.append(f"""("{column}" IS NULL OR "{column}" = '')""")
        else:
            parts.append(f'"{column}" = ?')
            parameters.append(_plain(name, condition))
    return " AND ".join(parts), parameters


def _column(name: str, columns: Sequence[str]) -> tuple[str, str]:
    """Find a column, and whether the name asks for its "min" or "max"."""
    by_key = {_key(column): column for column in columns}
    if (key := _key(name)) in by_key:
        return by_key[key], ""
    end, _, rest = name.partition("_")
    if end in _ENDS and _key(rest) in by_key:
        return by_key[_key(rest)], end
    near = difflib.get_close_matches(name, columns, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise CatalogError(f"no column {name!r}; {hint}the columns are {', '.join(columns)}")


def _key(name: str) -> str:
    """SeriesInstanceUID and series_instance_uid are one column."""
    return name.replace("_", "").casefold()


def _is_range(condition: object) -> bool:
    return (
        isinstance(condition, tuple)
        and len(condition) == _PAIR
        and all(value is None or isinstance(value, int | float) for value in condition)
    )


def _plain(name: str, value: object) -> str | int | float:
    if isinstance(value, str | int | float):
        return value
    raise CatalogError(
        f"{name}={value!r}: a condition is text, a number, a list of them, or a (low, high) pair"
    )

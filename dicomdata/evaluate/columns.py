"""Which groups a stack is of, and whose it is: what a table of cases says beside its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from dicomdata.catalog import Catalog, Series
from dicomdata.errors import ConfigError
from dicomdata.splits.grouping import compared

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from dicomdata.stack import Stack

Groups: TypeAlias = "Sequence[str] | Mapping[str, Callable[[Series], object]]"
"""Columns of the catalog; or names, and what each is of a `Series`."""


class Grouped(Protocol):
    """A row that says which groups it is of."""

    @property
    def groups(self) -> tuple[tuple[str, str], ...]:
        """Column -> value, as text."""


Row = TypeVar("Row", bound=Grouped)

_OF_SERIES = frozenset({"patient_id", "series_instance_uid"})
"""Columns that a table of cases has too, with what the series has there."""


def patient_of(stack: Stack) -> str:
    """Say whose a stack is: the Patient ID as it is compared, else the study, else the stack."""
    return compared(stack.patient_id) or stack.study_instance_uid or stack.id


def groups_of(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Sort rows into all of them, ("", ""), and those of each value of each column."""
    groups: dict[tuple[str, str], list[Row]] = {("", ""): list(rows)} if rows else {}
    for column in dict(rows[0].groups) if rows else ():
        values = {dict(row.groups)[column] for row in rows}
        for value in sorted(values, key=_order):
            groups[column, value] = [row for row in rows if dict(row.groups)[column] == value]
    return groups


def _order(value: str) -> tuple[bool, float, str]:
    """Order numbers by size, before words."""
    try:
        number = float(value)
    except ValueError:
        return True, 0.0, value
    return False, number, value


class Columns:
    """Finds what the catalog says of a stack's series; each catalog is read once."""

    def __init__(self, by: Groups, taken: Collection[str]) -> None:
        """Group by `by`; the table has the columns `taken` for itself.

        Raises:
            ConfigError: if both have a name.
        """
        if isinstance(by, str):
            raise ConfigError(f"by={by!r}: expected several columns, as ({by!r},)")
        if double := {*taken} & {*by} - _OF_SERIES:
            raise ConfigError(f"by: {', '.join(sorted(double))} is what a score is called")
        self._by = by
        self._series: dict[str, dict[int, Series]] = {}

    def of(self, stack: Stack) -> tuple[tuple[str, str], ...]:
        """Give names and values of a stack's groups; "" where nothing is stated.

        Raises:
            ConfigError: if the catalog has no such column.
        """
        series = self._find(stack) if self._by else None
        return tuple((name, self._value(series, name)) for name in self._by)

    def _find(self, stack: Stack) -> Series | None:
        # A volume file is of no catalog.
        if not stack.catalog:
            return None
        if stack.catalog not in self._series:
            rows = Catalog(Path(stack.catalog)).series
            self._series[stack.catalog] = {series.id: series for series in rows}
        return self._series[stack.catalog].get(stack.series_id)

    def _value(self, series: Series | None, name: str) -> str:
        if series is None:
            return ""
        value: Any
        if isinstance(self._by, Mapping):
            value = self._by[name](series)
        else:
            known = series.columns_by_name
            if name not in known:
                raise ConfigError(f"by: no column {name!r}; there are {', '.join(known)}")
            value = known[name]
        return "" if value is None else str(value)

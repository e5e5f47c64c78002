"""The account: what became of every frame of every file, and every finding, as rows.

Rows are plain records; both tables save to CSV and to pandas.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    import os

    import pandas as pd


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one frame, or of a file that has none: a row of the account."""

    path: str
    """The file."""

    frame: int | None
    """Frame number, from 0; None for a file without frames."""

    outcome: str
    """One of "used", "duplicate", "localizer", "other object", "not DICOM", "rejected",
    "not selected"."""

    reason: str
    """Why it was not used; "" where it was."""

    stack: str
    """Id of the stack that uses it, or that the duplicate repeats; "" where there is none."""

    slice_number: int | None
    """Which slice of the stack it is, from 0; None where it is none, or only helps to resample."""


@dataclass(frozen=True, slots=True)
class FindingRow:
    """One finding about one stack, or about frames that became none."""

    series_instance_uid: str
    """Series Instance UID (0020,000E)."""

    stack: str
    """Id of the stack; "" where the finding is why there is none."""

    kind: str
    """A field of `Policy`, or the class of the error that has no finding."""

    choice: str
    """"accept", "repair" or "reject": what the policy said."""

    text: str
    """What was found, in words."""

    amount: float | None
    """How much, in `unit`."""

    unit: str
    """"mm", "degrees", "frames", or "" where there is no measure."""

    where: str
    """Slice numbers it concerns, with spaces between; "" where it concerns the whole stack."""


Row = TypeVar("Row", Outcome, FindingRow)


class Table(tuple[Row, ...], Generic[Row]):
    """Rows of one kind, that save to CSV and to pandas."""

    __slots__ = ()

    row: ClassVar[type[Any]]
    """What a row is."""

    integers: ClassVar[tuple[str, ...]] = ()
    """Columns of whole numbers that may be missing."""

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one line a row, with a header line."""
        names = self._names()
        with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows([getattr(row, name) for name in names] for row in self)

    def to_pandas(self) -> pd.DataFrame:
        """Give the rows as a table. Needs pandas."""
        import pandas as pd

        names = self._names()
        rows = [[getattr(row, name) for name in names] for row in self]
        frame = pd.DataFrame(rows, columns=names)
        return frame.astype(dict.fromkeys(self.integers, "Int64"))

    def _names(self) -> list[str]:
        return [field.name for field in fields(self.row)]


class Outcomes(Table[Outcome]):
    """The account: every frame of every file under the root, exactly once."""

    __slots__ = ()
    row = Outcome
    integers = ("frame", "slice_number")


class Findings(Table[FindingRow]):
    """Every finding about every stack, accepted, repaired or rejected."""

    __slots__ = ()
    row = FindingRow

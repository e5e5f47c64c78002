"""Labels of whole cases, from a table: one value for each patient, study or series.

A table is joined to stacks by text that people typed, exported and lost zeros of, so everything
that does not go together is told: cases without a label, rows that belong to nothing, keys that
occur twice, and those whose rows contradict each other.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from dicomdata.catalog import Catalog
from dicomdata.errors import ConfigError, FileError, LabelError
from dicomdata.stack import StackPlan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dicomdata.stack import Stack

By: TypeAlias = Literal["patient", "study", "series"]
"""What a row is about."""

Value: TypeAlias = "str | int | float"
"""A label."""

_FIELDS: dict[By, str] = {
    "patient": "patient_id",
    "study": "study_instance_uid",
    "series": "series_instance_uid",
}
"""What a row is about -> the attribute of a stack, and the key in a sample, that says so."""

_USUAL: dict[str, By] = {
    "patientid": "patient",
    "patient": "patient",
    "studyinstanceuid": "study",
    "studyuid": "study",
    "seriesinstanceuid": "series",
    "seriesuid": "series",
}
"""Usual names of columns, without case, spaces, dots and underscores."""

_SHOWN = 5
"""Names that a message gives; their number says how many more there are."""

_NOTHING = {"", "na", "n/a", "nan", "-nan", "null", "<na>", "#n/a", "#na", "#value!", "#div/0!"}
"""What programs write where there is no value. "None" may be a class."""

_TRUTH = {"true": 1, "false": 0}
"""Labels that programs write as words."""

_SHORTENED = re.compile(r"[0-9](\.[0-9]+)?E\+[0-9]+")
"""What spreadsheets make of a key of many digits."""

_FORMULA = re.compile(r'="(.*)"', re.DOTALL)
"""How spreadsheets are kept from taking the zeros off a key."""

_EXACT = 2**53
"""Whole numbers up to which floating point has them all."""

_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""Numbers as tables have them; Python would take 1_000 and infinity too."""

_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+")
"""Numbers as much of Europe writes them; 1,000 may be one, or a thousand."""

_PARQUET = (".parquet", ".pq")


@dataclass(frozen=True, slots=True)
class CaseLabels:
    """Labels of cases, by Patient ID, Study or Series Instance UID."""

    by: By
    """What the labels are of."""

    values: Mapping[str, Value]
    """Patient ID or UID -> label."""

    path: str = ""
    """The table they came from."""

    column: str = "label"
    """The column of the labels."""

    findings: tuple[str, ...] = ()
    """What was odd about the table, in words: keys twice, rows without key or label."""

    def of(self, stack: Stack) -> Value | None:
        """Give the label of a stack; None where it has none."""
        return self.values.get(getattr(stack, _FIELDS[self.by]).strip())

    def join(
        self,
        source: StackPlan | Iterable[Stack],
        *,
        missing: Literal["error", "drop"] | float = "error",
    ) -> LabelledCases:
        """Give stacks with their labels, and what did not go together.

        Args:
            source: a plan, or stacks. Of a plan it is known which rows are of cases of the catalog
                that the plan leaves out, and which are of none at all.
            missing: what to do with stacks that have no label: refuse, leave them out, or take
                this number for their label.

        Raises:
            LabelError: if a stack has no label and that is to be refused, or no row is of any.
        """
        stacks = source.stacks if isinstance(source, StackPlan) else tuple(source)
        known = {key for stack in stacks if (key := getattr(stack, _FIELDS[self.by]).strip())}
        here = known | (self._keys_of(source.catalog) if isinstance(source, StackPlan) else set())
        unmatched = tuple(key for key in self.values if key not in here)
        if stacks and len(unmatched) == len(self.values):
            raise LabelError(self._nothing_fits(known))
        without = tuple(stack for stack in stacks if self.of(stack) is None)
        if without and missing == "error":
            raise LabelError(self._lacks(without, unmatched))
        pairs = []
        for stack in stacks:
            value = self.of(stack)
            if value is None and not isinstance(missing, str):
                value = missing
            if value is not None:
                pairs.append((stack, value))
        return LabelledCases(
            stacks=tuple(stack for stack, _ in pairs),
            values=tuple(value for _, value in pairs),
            missing=without,
            unmatched=unmatched,
            unused=tuple(key for key in self.values if key in here - known),
            findings=self.findings,
        )

    def into(self, sample: dict[str, Any], *, name: str = "label") -> dict[str, Any]:
        """Give a sample, or one of `StackPlan.items()`, with its label.

        Made for `functools.partial`, or a `Compose` before MONAI's transforms.

        Raises:
            LabelError: if its case has no label.
        """
        key = str(sample[_FIELDS[self.by]]).strip()
        if key not in self.values:
            raise LabelError(f"{self._told}: {self.by} {key!r} has no label")
        return {**sample, name: self.values[key]}

    def counts(self) -> dict[Value, int]:
        """Give how often each label occurs, the most frequent first."""
        return dict(Counter(self.values.values()).most_common())

    @property
    def _told(self) -> str:
        return f"{self.path or 'labels'}: column {self.column!r}"

    def _keys_of(self, catalog: Catalog) -> set[str]:
        """Give the keys of every series of a catalog, of selected ones or not."""
        rows = Catalog(catalog.path).series
        return {getattr(series, _FIELDS[self.by]).strip() for series in rows} - {""}

    def _nothing_fits(self, known: set[str]) -> str:
        rows, cases = _some(list(self.values)), _some(sorted(known))
        return (
            f"{self._told}: of {len(self.values)} labels none is of a {self.by} there is: the rows "
            f"have {rows}, the cases {cases or 'none'}"
        )

    def _lacks(self, without: Sequence[Stack], unmatched: Sequence[str]) -> str:
        field = _FIELDS[self.by]
        names = list(dict.fromkeys(getattr(stack, field) for stack in without))
        near = get_close_matches(names[0], unmatched, n=1)
        hint = f", and a row of {near[0]!r} is of none: is it the same?" if near else ""
        return (
            f"{self._told}: {len(without)} stacks of {len(names)} cases have no label: "
            f"{_some(names)}{hint}; missing='drop' leaves them out"
        )


@dataclass(frozen=True, slots=True)
class LabelledCases:
    """Stacks with a label each, and what did not go together."""

    stacks: tuple[Stack, ...]
    """Those that have a label, in the order given."""

    values: tuple[Value, ...]
    """Their labels."""

    missing: tuple[Stack, ...]
    """Those the table has no label for: left out, or given the label for such."""

    unmatched: tuple[str, ...]
    """Keys of rows that are of nothing there is."""

    unused: tuple[str, ...]
    """Keys of rows whose case is in the catalog, and not among the stacks."""

    findings: tuple[str, ...]
    """What was odd about the table."""

    def by_series(self) -> dict[str, Value]:
        """Give Series Instance UID -> label, as `make_split` takes it to balance by."""
        return {
            stack.series_instance_uid: value
            for stack, value in zip(self.stacks, self.values, strict=True)
        }

    def __str__(self) -> str:
        """Say it in a few lines: counts of labels, and all that did not go together."""
        counts = ", ".join(f"{value}: {n}" for value, n in Counter(self.values).most_common())
        lines = [f"{len(self.stacks)} stacks with a label ({counts})"]
        if self.missing:
            names = [stack.id for stack in self.missing]
            lines.append(f"missing: {len(names)} stacks have none: {_some(names)}")
        if self.unmatched:
            told = _some(list(self.unmatched))
            lines.append(f"unmatched: {len(self.unmatched)} rows are of nothing there is: {told}")
        if self.unused:
            lines.append(f"unused: {len(self.unused)} rows are of cases that are left out")
        return "\n".join([*lines, *self.findings])


def read_case_labels(  # noqa: PLR0913 - a table has its own names for all of it
    path: str | os.PathLike[str],
    label: str,
    *,
    key: str | None = None,
    by: By | None = None,
    classes: Sequence[str] | None = None,
    conflict: Literal["error", "drop"] = "error",
) -> CaseLabels:
    """Read labels of cases from a CSV or Parquet file with a line of column names.

    Args:
        path: the table; Parquet, by its ending .parquet or .pq, needs pyarrow.
        label: the column of the labels. They are whole numbers, or numbers, if all of them are;
            1 and 0, if all are true or false.
        key: the column that says whose they are; None finds one called PatientID, patient_id,
            StudyInstanceUID, seriesuid and the like. Text: 007 is not 7.
        by: what the key is; None tells it by the name of its column.
        classes: names of classes; a label becomes its place among them, from 0.
        conflict: what to do where rows of one key have different labels: refuse, or leave all of
            them out, with a finding.

    Raises:
        FileError: if the table cannot be read.
        LabelError: if it has no such column, no label, one that is no class, or contradicts itself.
        ConfigError: if it is Parquet, and pyarrow is not installed.
    """
    name = os.fspath(path)
    columns, rows = _read_table(name)
    chosen, about = _key_column(name, columns, key, by)
    place = _place(name, columns, label)
    at = columns.index(chosen)
    found: dict[str, list[str]] = {}
    findings = []
    keyless = empty = 0
    for row in rows:
        who, value = _cell(row[at]), _cell(row[place])
        known = value.casefold() not in _NOTHING
        keyless += not who
        empty += bool(who) and not known
        if who and known:
            found.setdefault(who, []).append(value)
    for count, what in ((keyless, chosen), (empty, label)):
        if count:
            findings.append(f"incomplete: {count} rows have no {what!r}: left out")
    if shortened := [who for who in found if _SHORTENED.fullmatch(who)]:
        findings.append(
            f"shortened: {len(shortened)} keys look like numbers that a spreadsheet has cut: "
            f"{_some(shortened)}"
        )
    findings += _settle(name, found, conflict)
    if not found:
        raise LabelError(
            f"{name}: no row has both {chosen!r} and {label!r}, and no other beside it"
        )
    values = _typed(name, {who: told[0] for who, told in found.items()}, classes)
    return CaseLabels(about, values, name, label, tuple(findings))


def _read_table(path: str) -> tuple[list[str], Iterable[list[str]]]:
    """Give the names of the columns, and the rows as text, all of one length."""
    if path.lower().endswith(_PARQUET):
        return _read_parquet(path)
    text, delimiter = _read_text(path)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise LabelError(f"{path}: cannot be read as a table: {error}") from error
    if not lines:
        raise LabelError(f"{path}: has no line of column names")
    columns = [column.strip() for column in lines[0]]
    for number, row in enumerate(lines[1:], 2):
        if _holds_something(row) and len(row) != len(columns):
            raise LabelError(
                f"{path}: line {number}: expected {len(columns)} values, found {len(row)}"
            )
    return columns, [row for row in lines[1:] if _holds_something(row)]


def _read_text(path: str) -> tuple[str, str]:
    """Give the text of a table, and what parts its columns."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        # Excel begins with a byte order mark, and has a kind of text of two bytes a letter.
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: cannot be read: it is not UTF-8: {error.reason}") from error
    first, _, rest = text.partition("\n")
    # Excel can be told by a line of its own, and writes semicolons where the comma is a decimal
    # point.
    if told := re.fullmatch(r"sep=([,;\t|])\r?", first):
        return rest, told.group(1)
    names = re.sub(r'"[^"]*"', "", first)
    return text, max(",;\t", key=names.count)


def _holds_something(row: list[str]) -> bool:
    return any(cell.strip() for cell in row)


def _cell(text: str) -> str:
    """Give what a cell says, without what pads a UID, or keeps a spreadsheet from counting."""
    said = text.strip().strip("\0").strip()
    formula = _FORMULA.fullmatch(said)
    return formula.group(1).strip() if formula else said


def _read_parquet(path: str) -> tuple[list[str], Iterable[list[str]]]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(f"{path}: Parquet needs pyarrow: install it, or give a CSV") from error
    try:
        table = parquet.read_table(path)
    # pyarrow raises what it meets.
    except Exception as error:
        raise FileError(f"{path}: cannot be read: {error}") from error
    columns = [str(column) for column in table.column_names]
    return columns, _rows([table.column(i).to_pylist() for i in range(len(columns))])


def _rows(columns: Sequence[Sequence[Any]]) -> Iterator[list[str]]:
    """Give columns of values as rows of text; whole numbers without a point, and nothing as ""."""
    for row in zip(*columns, strict=True):
        yield ["" if _is_nothing(value) else _as_text(value) for value in row]


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole or isinstance(value, bool) else str(value)


def _key_column(path: str, columns: list[str], key: str | None, by: By | None) -> tuple[str, By]:
    """Find the column that says whose a row is, and what it is."""
    known = [column for column in columns if _plain(column) in _USUAL]
    if key is not None:
        _place(path, columns, key)
    elif by is not None:
        known = [column for column in known if _USUAL[_plain(column)] == by]
    chosen = known if key is None else [key]
    if len(chosen) != 1:
        raise LabelError(
            f"{path}: {len(chosen)} columns say whose a row is ({', '.join(chosen)}): name one by "
            f"key=, of {', '.join(columns)}"
        )
    about = by or _USUAL.get(_plain(chosen[0]))
    if about is None:
        raise LabelError(
            f"{path}: column {chosen[0]!r} does not say by its name whether it is of patients, "
            f"studies or series: give by="
        )
    return chosen[0], about


def _plain(column: str) -> str:
    return "".join(letter for letter in column.casefold() if letter not in " ._-")


def _place(path: str, columns: list[str], name: str) -> int:
    if columns.count(name) != 1:
        raise LabelError(
            f"{path}: {columns.count(name)} columns are called {name!r}: it has "
            f"{', '.join(columns)}"
        )
    return columns.index(name)


def _settle(path: str, found: dict[str, list[str]], conflict: str) -> Iterator[str]:
    """Say which keys occur more than once, and drop those whose labels differ."""
    repeated = [
        who for who, told in found.items() if len(told) > 1 and len({*map(_same, told)}) == 1
    ]
    torn = [who for who, told in found.items() if len({*map(_same, told)}) > 1]
    if repeated:
        yield f"duplicate: {len(repeated)} cases have the same label twice: {_some(repeated)}"
    if not torn:
        return
    text = (
        f"{len(torn)} cases have labels that contradict each other: "
        f"{_some([f'{who}: ' + ' and '.join(sorted({*found[who]})) for who in torn])}"
    )
    if conflict == "error":
        raise LabelError(f"{path}: {text}")
    for who in torn:
        del found[who]
    yield f"conflict: {text}: left out"


def _same(value: str) -> str | float:
    """Give what two labels have in common that say the same: 1 and 1.0 do."""
    return float(value) if _NUMBER.fullmatch(value) else value


def _typed(path: str, found: dict[str, str], classes: Sequence[str] | None) -> dict[str, Value]:
    """Give labels as places among classes, or as whole numbers, numbers or text."""
    if classes is not None:
        unknown = sorted({*found.values()} - {*classes})
        if unknown:
            raise LabelError(
                f"{path}: labels that are no class: {_some(unknown)}; expected {', '.join(classes)}"
            )
        return {who: list(classes).index(value) for who, value in found.items()}
    if all(_WHOLE.fullmatch(value) for value in found.values()):
        return {who: int(value) for who, value in found.items()}
    if all(_NUMBER.fullmatch(value) for value in found.values()):
        numbers = {who: float(value) for who, value in found.items()}
        # Where one cell is empty, many programs write whole numbers with a point.
        whole = all(abs(each) <= _EXACT and each.is_integer() for each in numbers.values())
        return {who: int(each) for who, each in numbers.items()} if whole else {**numbers}
    if all(value.casefold() in _TRUTH for value in found.values()):
        return {who: _TRUTH[value.casefold()] for who, value in found.items()}
    commas = [value for value in found.values() if _COMMA.fullmatch(value)]
    if commas and all(_NUMBER.fullmatch(value.replace(",", ".")) for value in found.values()):
        raise LabelError(
            f"{path}: labels with a comma, as {commas[0]!r}: write numbers with a point, or name "
            f"the classes"
        )
    return dict(found)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

"""What the commands print: tables, JSON, complaints; all of it escaped."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

import dicomdata as dd

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SHORT = 16
"""Letters up to which a cell of a table stays whole as long as longer ones can give way."""

_MOST_COMPLAINTS = 20
"""Rejections told one by one; the account of every file is what `outcomes` is for."""


def series_rows(catalog: dd.Catalog) -> list[dict[str, Any]]:
    """Give every column of every series, by name."""
    return [series.columns_by_name for series in catalog.series]


def stack_row(stack: dd.Stack, number: int) -> dict[str, Any]:
    """Describe a stack by plain values, stable in name."""
    return {
        "number": number,
        **{name: getattr(stack, name) for name in _STACK_FIELDS},
        "affine_lps": stack.affine_lps.tolist(),
        "findings": [asdict(finding) for finding in stack.findings],
    }


_STACK_FIELDS = (
    "id",
    "modality",
    "unit",
    "shape",
    "spacing",
    "patient_id",
    "study_instance_uid",
    "series_instance_uid",
    "frame_of_reference_uid",
    "dimension",
    "fingerprint",
)


def print_json(
    catalog: dd.Catalog, rejected: Sequence[dd.Rejection] = (), *, kept: bool, **rows: Any
) -> None:
    """Print one JSON document: where it comes from, the rows, and what was left out."""
    document = {
        "root": str(catalog.root),
        "catalog": str(catalog.path) if kept else None,
        **rows,
        "left_out": [
            {"subject": left.subject, "error": type(left.error).__name__, "reason": str(left)}
            for left in (*rejected, *catalog.rejected)
        ],
    }
    # ASCII: a file name that is no UTF-8 still gives a document that is.
    typer.echo(json.dumps(finite(document), allow_nan=False, indent=1))


def finite(value: Any) -> Any:
    """Replace what JSON has no word for, nan and infinities, by null."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def complain(rejections: Sequence[dd.Rejection]) -> int:
    """Tell on stderr what was left out; give the exit status."""
    serious = [left for left in rejections if not isinstance(left.error, tuple(_COMPANY))]
    told = [str(left) for left in serious[:_MOST_COMPLAINTS]]
    if len(serious) > _MOST_COMPLAINTS:
        more = len(serious) - _MOST_COMPLAINTS
        told.append(f"{more:,} more, as `dicomdata outcomes` tells")
    for kind, words in _COMPANY.items():
        found = [left for left in rejections if isinstance(left.error, kind)]
        if found:
            told.append((f"{len(found):,} {words}, as " if found[1:] else "") + str(found[0]))
    for line in told:
        typer.echo(f"left out: {plain(line)}", err=True)
    return 1 if rejections else 0


_COMPANY: dict[type[dd.DicomDataError], str] = {
    dd.NotDicomError: "files that are not DICOM",
    dd.OtherObjectError: "objects without frames of a volume",
}
"""What lies in most archives beside the images: counted rather than listed."""


def group_outcomes(
    rows: Iterable[dd.Outcome], root: os.PathLike[str]
) -> list[tuple[int, str, str, str]]:
    """Count frames whose outcome and reason are the same but for names and numbers.

    Returns:
        For each group, the largest first: how many, the outcome, the reason in one case, and the
        path of that case, below the root.
    """
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in rows:
        # The file and the series are named first, and have columns of their own.
        parts = row.reason.split(": ")
        named = [part for part in parts if str(root) in part or part.startswith("series ")]
        reason = ": ".join(part for part in parts if part not in named)
        reason = re.sub(r" \(\d+ frames\)$", "", reason)
        case = reason, os.path.relpath(row.path, root)
        groups.setdefault((row.outcome, re.sub(r"[\d.]+", "0", reason)), []).append(case)
    largest_first = sorted(groups.items(), key=lambda group: -len(group[1]))
    return [(len(found), outcome, *found[0]) for (outcome, _), found in largest_first]


def group_findings(rows: Iterable[dd.FindingRow]) -> list[tuple[int, str, str, str, str]]:
    """Count findings of one kind about which the policy says the same, the most frequent first.

    Returns:
        For each group: how many, the kind, the choice, the largest amount, and the words of that
        one.
    """
    groups: dict[tuple[str, str], list[dd.FindingRow]] = {}
    for row in rows:
        groups.setdefault((row.kind, row.choice), []).append(row)
    told = []
    for (kind, choice), found in sorted(groups.items(), key=lambda group: -len(group[1])):
        most = max(found, key=lambda row: -math.inf if row.amount is None else abs(row.amount))
        amount = "" if most.amount is None else f"{most.amount:.4g} {most.unit}"
        told.append((len(found), kind, choice, amount, most.text))
    return told


def write_csv(table: dd.Outcomes | dd.Findings, path: os.PathLike[str]) -> None:
    """Save a table.

    Raises:
        FileError: if it cannot be written.
    """
    try:
        table.to_csv(path)
    except OSError as error:
        raise dd.FileError(f"{path}: cannot be written: {error.strerror}") from error


def print_table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Draw a table on a terminal; plain columns of full width into a pipe."""
    cells = [[plain(str(cell)) for cell in row] for row in rows]
    numeric = [
        bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(titles))
    ]
    if sys.stdout.isatty():
        _draw_table(titles, cells, numeric)
        return
    widths = [max(len(row[i]) for row in (titles, *cells)) for i in range(len(titles))]
    for row in (titles, *cells):
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        typer.echo("  ".join(padded).rstrip())


def _draw_table(
    titles: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    columns = zip(*cells, strict=True) if cells else ((),) * len(titles)
    for title, column, right in zip(titles, columns, numeric, strict=True):
        short = max(len(cell) for cell in (title, *column)) <= _SHORT
        table.add_column(
            title,
            justify="right" if right else "left",
            overflow="ellipsis",
            no_wrap=short,
            min_width=None if short else 8,
        )
    for row in cells:
        # A Text, not a string: square brackets in a header are no markup.
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def plain(text: str) -> str:
    """Escape what a terminal would obey: control characters, line ends, bytes that are no text."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def count(number: int, noun: str) -> str:
    """Give a number with its noun, in the plural where it should be."""
    return f"{number:,} {noun if number == 1 or noun.endswith('s') else noun + 's'}"


def size(length: int) -> str:
    """Give a number of bytes in the unit a person would use."""
    power = min(4, max(0, int(math.log10(max(length, 1)) // 3)))
    return f"{length / 1000**power:.4g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def spacing(lengths: Iterable[float | None]) -> str:
    """Give spacings, mm, with three digits; a question mark for one that is not known."""
    return "x".join("?" if length is None else f"{length:.3g}" for length in lengths)


def shape(lengths: Iterable[int]) -> str:
    """Give numbers of slices, rows and columns."""
    return "x".join(map(str, lengths))

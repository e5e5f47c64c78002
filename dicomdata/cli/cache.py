"""`dicomdata cache`: what lies in the folder of a cache, and is it whole?"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import dicomdata as dd
from dicomdata.cli.printing import count, plain, print_table, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicomdata.cache import CacheEntry
    from dicomdata.cache.entry import Layout


class CacheLayout(StrEnum):
    """How new volumes lie in a cache."""

    raw = "raw"
    small = "small"

    @property
    def layout(self) -> Layout:
        """The word for it."""
        return "small" if self is CacheLayout.small else "raw"


def cache(
    folder: Annotated[Path, typer.Argument(help="Folder of a cache, as `warm --cache` takes it.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all of it, and compare the checksums.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Tell what FOLDER keeps: how many volumes, how many bytes, when they were last used.

    \b
    Examples:
      dicomdata cache ~/.cache/dicomdata
      dicomdata cache ~/.cache/dicomdata --verify

    \b
    Exit status:
      0  all went well
      1  entries are damaged, and would be read anew: stderr says which; only with --verify
      2  it is no folder of a cache: stderr says why
    """  # noqa: D301
    if not (folder / "volumes").is_dir():
        raise dd.CacheError(f"{folder}: no folder of a cache: it has no folder `volumes`")
    opened = dd.DiskCache(folder)
    entries, damaged = opened.entries(), opened.verify() if verify else ()
    if as_json:
        document = {
            "folder": str(folder),
            "entries": [asdict(entry) for entry in entries],
            "damaged": [left.subject for left in damaged] if verify else None,
            "totals": asdict(opened.totals()),
        }
        typer.echo(json.dumps(document, indent=1))
    else:
        _print(entries)
        whole = f", {len(damaged):,} damaged" if verify else ""
        typer.echo(f"{count(len(entries), 'volume')} in {plain(str(folder))}{whole}")
        done = opened.totals()
        typer.echo(
            f"since it was made, by all processes: {count(done.hits, 'hit')}, "
            f"{done.misses:,} misses, {count(done.fills, 'fill')} of {size(done.bytes)}, "
            f"{count(done.evictions, 'eviction')}"
        )
    for left in damaged:
        typer.echo(plain(str(left)), err=True)
    raise typer.Exit(1 if damaged else 0)


def _print(entries: Sequence[CacheEntry]) -> None:
    """Print a row for each layout, and one for all."""
    groups = {
        layout: [entry for entry in entries if entry.layout == layout]
        for layout in sorted({entry.layout for entry in entries})
    }
    print_table(
        ("layout", "volumes", "size", "oldest use", "newest use"),
        [
            (
                layout,
                len(found),
                size(sum(entry.bytes for entry in found)),
                *(_time(entry.used_s) for entry in (found[0], found[-1])),
            )
            for layout, found in groups.items()
        ],
    )


def _time(seconds: float) -> str:
    """Give a moment in UTC, to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")

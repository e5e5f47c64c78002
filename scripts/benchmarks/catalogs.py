"""A saved catalog of millions of frames: opened, selected from, and its size."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import dicomdata as dd
from benchmarks.measuring import fresh, medians
from benchmarks.tables import Table
from dicomdata.catalog.store import publish

if TYPE_CHECKING:
    from benchmarks.setup import Setup

_MULTIPLY = """
CREATE TEMP TABLE copy (turn INTEGER PRIMARY KEY);
WITH RECURSIVE counted (turn) AS (SELECT 1 UNION ALL
    SELECT turn + 1 FROM counted WHERE turn < {copies})
    INSERT INTO copy SELECT turn FROM counted;
INSERT INTO folder SELECT folder.id + turn * {folders}, folder.path || '-' || turn
    FROM copy, folder ORDER BY 1;
INSERT INTO file SELECT file.id + turn * {files}, folder + turn * {folders}, name, size,
    mtime_ns + turn FROM copy, file ORDER BY 1;
INSERT INTO series SELECT series.id + turn * {series},
    series_instance_uid || '.' || turn, {columns}
    FROM copy, series ORDER BY 1;
INSERT INTO frame SELECT frame.id + turn * {frames}, series + turn * {series},
    file + turn * {files}, frame.number, kind, randomblob(length(sop_instance_uid)),
    {frame_columns} FROM copy, frame ORDER BY 1;
"""
"""Copies what a scan has found many times, each with names and UIDs of its own, as long as they
were: rows that the package's own writer wrote, at the speed of SQLite."""


def measure(setup: Setup) -> list[Table]:
    """Write the catalog of a large archive, then open it in fresh processes."""
    path = Path(setup.folder, "large.catalog")
    frames = write_large(setup, path)
    found = medians(fresh(open_and_select, setup) for _ in range(setup.rounds))
    table = Table(f"catalog of {frames:,} frames", "ms", ours="open")
    table.values = {name: found[name] for name in ("open", "select", "frames of one series")}
    size = path.stat().st_size / frames
    table.note = (
        f"{found['series']:,.0f} series, {size:.0f} bytes a frame. Each time a process of its own "
        f"opens it, selects CT of 1 to 3 mm by its columns ({found['selected']:,.0f} series), and "
        f"reads the frames of one."
    )
    table.limit("open", 100, found["open"], "ms")
    table.limit("select", 500, found["select"], "ms")
    table.limit("bytes a frame", 200, size, "bytes")
    return [table]


def write_large(setup: Setup, path: Path) -> int:
    """Write a catalog of about `setup.frames` frames; give how many."""
    partial = path.with_suffix(".growing")
    scanned = dd.scan(setup.archive, progress=False)
    scanned.save(partial)
    with closing(sqlite3.connect(partial)) as connection:
        # Nothing is lost if this is cut short.
        connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
        numbers = {
            table: connection.execute(f"SELECT max(id) FROM {table}").fetchone()[0]  # noqa: S608
            for table in ("folder", "file", "series", "frame")
        }
        have = numbers["frame"]
        script = _MULTIPLY.format(
            copies=max(setup.frames // have - 1, 0) or 1,
            folders=numbers["folder"],
            files=numbers["file"],
            series=numbers["series"],
            frames=have,
            columns=", ".join(_columns(connection, "series")[2:]),
            frame_columns=", ".join(_columns(connection, "frame")[6:]),
        )
        connection.executescript(script)
        connection.commit()
        (count,) = connection.execute("SELECT count(*) FROM frame").fetchone()
    publish(partial, path)
    return int(count)


def open_and_select(setup: Setup) -> dict[str, float]:
    """Open the large catalog and use it; milliseconds, and how much was found."""
    start = time.perf_counter()
    catalog = dd.open_catalog(Path(setup.folder, "large.catalog"))
    root = catalog.root
    opened = time.perf_counter()
    selected = catalog.select(modality="CT", slice_spacing=(1.0, 3.0)).series
    chosen = time.perf_counter()
    frames = selected[len(selected) // 2].frames
    done = time.perf_counter()
    return {
        "open": (opened - start) * 1000,
        "select": (chosen - opened) * 1000,
        "frames of one series": (done - chosen) * 1000,
        "series": len(catalog.series),
        "selected": len(selected),
        "read": len(frames) + bool(root) - 1,
    }


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """Give the columns of a table, as SQL."""
    return [f'"{row[1]}"' for row in connection.execute(f"PRAGMA table_info({table})")]

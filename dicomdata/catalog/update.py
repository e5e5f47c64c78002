"""Bringing a catalog up to date with its folder: the only writer.

A first scan, a scan that was killed and starts again, and a refresh are one thing: walk, compare
with what is known, read what is new or changed, drop what has vanished. Work goes into
``<catalog>.partial``, committed as it goes, and is published by a rename.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.catalog.progress import track
from dicomdata.catalog.schema import (
    APPLICATION_ID,
    FORMAT,
    INSERT_FRAME,
    SCHEMA,
    SERIES_COLUMNS,
    as_path,
    as_stored,
    frame_row,
    kind_from_json,
    kind_to_json,
)
from dicomdata.catalog.store import (
    CHECKSUM_SUFFIX,
    check_file,
    check_replaceable,
    connect,
    publish,
    read_meta,
)
from dicomdata.errors import CatalogError, HeaderError
from dicomdata.geometry import COINCIDENT, unit_directions
from dicomdata.header import Instance, kept_tags
from dicomdata.scan import FoundFile, ReadFile, find_files, read_headers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from dicomdata.header import Kind

    Row = tuple[Any, ...]
    """The values of an INSERT."""

_COMMIT_EVERY_S = 2.0
"""Work lost when a scan is killed, at most."""

PARTIAL_SUFFIX = ".partial"

_OWN_SUFFIXES = ("", CHECKSUM_SUFFIX, PARTIAL_SUFFIX, PARTIAL_SUFFIX + "-journal",
                 CHECKSUM_SUFFIX + PARTIAL_SUFFIX)  # fmt: skip
"""What a catalog that lies below its own root puts there: no part of the archive."""

_FROM_KIND = ("study_instance_uid", "modality", "manufacturer", "manufacturer_model_name",
              "body_part_examined", "series_description", "series_number", "sop_class_uid",
              "transfer_syntax_uid", "frame_of_reference_uid", "image_type", "rows", "columns",
              "slice_thickness")  # fmt: skip
"""Columns of a series that are fields of its frames' kinds."""


def update_catalog(
    path: Path, root: str, *, keep: Sequence[str], workers: int, progress: bool | None
) -> None:
    """Make the catalog at `path` tell what lies under `root` now.

    A catalog or a partial one that is there already, of the same root and keywords, saves
    reading again what did not change. A catalog that tells the truth already is left alone.

    Raises:
        FileError: if the root cannot be listed.
        CatalogError: if the catalog cannot be written, or another scan is writing it.
    """
    tags = kept_tags(keep)
    known = {"root": root, "keep": json.dumps(list(keep))}
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    check_replaceable(path)
    own = {str(path) + suffix for suffix in _OWN_SUFFIXES}
    found = None
    if not partial.exists() and _can_be_trusted(path):
        found = _walk(root, own)
        if _still_true(path, known, found):
            return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(_open_partial(path, partial, known)) as connection:
            writer = _Writer(connection, root, tuple(keep))
            fresh = writer.drop_all_but(_walk(root, own) if found is None else found)
            reading = read_headers(fresh, keep=tags, workers=workers)
            try:
                for read in track(reading, total=len(fresh), show=progress, what="headers"):
                    writer.add(read)
            finally:
                # Ctrl-C and errors too: what was read is kept for the next scan.
                reading.close()
                writer.commit()
            writer.describe_series()
        publish(partial, path)
    except sqlite3.OperationalError as error:
        raise CatalogError(f"{partial}: the catalog cannot be written: {error}") from error
    except OSError as error:
        if error.filename is None or not str(error.filename).startswith(str(path.parent)):
            raise
        raise CatalogError(f"{path}: the catalog cannot be written: {error.strerror}") from error


def _walk(root: str, own: Collection[str]) -> list[FoundFile]:
    return [file for file in find_files(root) if file.path not in own]


def _can_be_trusted(path: Path) -> bool:
    """Whether a catalog was published whole, and can be opened."""
    try:
        check_file(path)
    except CatalogError:
        return False
    return path.with_name(path.name + CHECKSUM_SUFFIX).exists()


def _still_true(path: Path, known: dict[str, str], found: Sequence[FoundFile]) -> bool:
    """Whether a catalog tells of the files that were found, as they are now, and of no others."""
    try:
        with closing(connect(path)) as connection:
            if not _tells_of(connection, known):
                return False
            stamps = _read_stamps(connection)
            errors = dict(connection.execute("SELECT file, message FROM rejection").fetchall())
    except sqlite3.DatabaseError:
        return False
    begin = len(os.path.join(known["root"], ""))
    for file in found:
        stamp = stamps.pop(file.path[begin:], None)
        if stamp is None or stamp[1:] != (file.size, file.mtime_ns):
            return False
        if file.error is not None and errors.get(stamp[0]) != as_stored(str(file.error)):
            return False
    return not stamps


def _read_stamps(connection: sqlite3.Connection) -> dict[str, tuple[int, int, int]]:
    """Read of every file, by its path below the root: number, size, modification time in ns."""
    folders = {
        number: os.path.join(as_path(path), "") if path else ""
        for number, path in connection.execute("SELECT id, path FROM folder")
    }
    rows = connection.execute("SELECT folder, name, id, size, mtime_ns FROM file")
    return {folders[row[0]] + as_path(row[1]): row[2:] for row in rows}


def _open_partial(path: Path, partial: Path, known: dict[str, str]) -> sqlite3.Connection:
    """Open the catalog to write: an unfinished one, a copy of the published one, or a new one."""
    if partial.exists():
        connection = _writable(partial)
        if _tells_of(connection, known):
            return connection
        connection.close()
        partial.unlink()
    if path.exists():
        shutil.copyfile(path, partial)
        connection = _writable(partial)
        if _tells_of(connection, known):
            return connection
        connection.close()
        partial.unlink()
    connection = _writable(partial)
    connection.executescript(SCHEMA)
    for keyword in json.loads(known["keep"]):
        connection.execute(f'ALTER TABLE series ADD COLUMN "{keyword}" TEXT')
    connection.executemany(
        "INSERT INTO meta VALUES (?, ?)",
        [(name, as_stored(value)) for name, value in known.items()],
    )
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.commit()
    return connection


def _tells_of(connection: sqlite3.Connection, known: dict[str, str]) -> bool:
    """Whether a catalog is of this format, root and keywords, so that work can go on in it."""
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        meta = {name: as_path(value) for name, value in read_meta(connection).items()}
    except sqlite3.DatabaseError:
        return False
    return version == FORMAT and meta == known


def _writable(partial: Path) -> sqlite3.Connection:
    """Open a catalog to write, alone; what a killed scan left half written is rolled back."""
    connection = sqlite3.connect(partial, timeout=1.0)
    try:
        # No write-ahead log: it fails on read-only folders, and a rename would leave it behind.
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = DELETE", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN EXCLUSIVE")
        connection.commit()
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError:
        # Not a database at all: `_tells_of` finds out, and it is replaced.
        connection.rollback()
    return connection


class _Writer:
    """Rows in, with the ids that tie them together remembered."""

    def __init__(self, connection: sqlite3.Connection, root: str, keep: tuple[str, ...]) -> None:
        self._connection = connection
        self._begin = len(os.path.join(root, ""))
        self._keep = keep
        self._kind: tuple[Kind | None, int] = (None, 0)
        self._changed: set[int] = set()
        self._committed_at = time.monotonic()
        self._has_holes = False
        # Of each file what waits to be written: many rows at once take half the time.
        self._waiting: list[tuple[Row, list[Row], list[Row]]] = []
        (self._last_file,) = connection.execute("SELECT ifnull(max(id), 0) FROM file").fetchone()
        rows = connection.execute("SELECT path, id FROM folder").fetchall()
        self._folders: dict[str, int] = {as_path(path): number for path, number in rows}
        rows = connection.execute("SELECT attributes, id FROM kind").fetchall()
        self._kinds: dict[str, int] = dict(rows)
        rows = connection.execute(
            "SELECT id, series_instance_uid, patient_id, folder FROM series"
        ).fetchall()
        self._series = {_series_key(*key): number for number, *key in rows}

    def drop_all_but(self, found: Sequence[FoundFile]) -> list[FoundFile]:
        """Forget files that vanished or changed; give those that must be read."""
        known = _read_stamps(self._connection)
        fresh = []
        for file in found:
            path = file.path[self._begin :]
            if file.error is None and known.get(path, ())[1:] == (file.size, file.mtime_ns):
                del known[path]
            else:
                fresh.append(file)
        gone = json.dumps([number for number, *_ in known.values()])
        self._has_holes |= bool(known)
        chosen = "(SELECT value FROM json_each(?))"
        self._connection.execute(
            f"UPDATE series SET slices = NULL WHERE id IN "  # noqa: S608
            f"(SELECT series FROM frame WHERE file IN {chosen})",
            (gone,),
        )
        for table, column in (("frame", "file"), ("rejection", "file"), ("file", "id")):
            self._connection.execute(
                f"DELETE FROM {table} WHERE {column} IN {chosen}",  # noqa: S608
                (gone,),
            )
        self.commit()
        return fresh

    def add(self, read: ReadFile) -> None:
        """Add one file, and its frames or its error."""
        size, mtime_ns = read.file.size, read.file.mtime_ns
        if isinstance(read.result, Instance):
            # As they were when the header was read, not when the walk passed by.
            size, mtime_ns = read.result.size, read.result.mtime_ns
        folder, name = os.path.split(read.file.path[self._begin :])
        self._last_file = number = self._last_file + 1
        row = (number, self._folder(folder), as_stored(name), size, mtime_ns)
        frames: list[Row] = []
        rejections: list[Row] = []
        if isinstance(read.result, Instance):
            frames = self._frame_rows(read.result, number, folder)
        else:
            keyword = read.result.keyword if isinstance(read.result, HeaderError) else ""
            message = as_stored(str(read.result))
            rejections = [(number, type(read.result).__name__, keyword, message)]
        # In one step: Ctrl-C must not leave a file without what came of it.
        self._waiting.append((row, frames, rejections))
        if time.monotonic() - self._committed_at > _COMMIT_EVERY_S:
            self.commit()

    def commit(self) -> None:
        """Make durable what was added so far; all of it, or nothing."""
        waiting, self._waiting = self._waiting, []
        write = self._connection.executemany
        try:
            write("INSERT INTO file VALUES (?, ?, ?, ?, ?)", [row for row, _, _ in waiting])
            write(INSERT_FRAME, [row for _, frames, _ in waiting for row in frames])
            write(
                "INSERT INTO rejection VALUES (?, ?, ?, ?)",
                [row for _, _, rejections in waiting for row in rejections],
            )
            self._connection.commit()
        except BaseException:
            self._connection.rollback()
            raise
        self._committed_at = time.monotonic()

    def describe_series(self) -> None:
        """Fill in what is known of each series that changed; drop those that have no frames."""
        self._connection.execute("DELETE FROM series WHERE id NOT IN (SELECT series FROM frame)")
        changed = self._connection.execute("SELECT id FROM series WHERE slices IS NULL").fetchall()
        for (series,) in changed:
            described = _describe(self._connection, series, self._keep)
            names = ", ".join(f'"{name}" = ?' for name in described)
            self._connection.execute(
                f"UPDATE series SET {names} WHERE id = ?",  # noqa: S608
                (*described.values(), series),
            )
        self._connection.execute("DELETE FROM kind WHERE id NOT IN (SELECT kind FROM frame)")
        self.commit()
        if self._has_holes:
            self._connection.execute("VACUUM")

    def _folder(self, folder: str) -> int:
        if folder not in self._folders:
            cursor = self._connection.execute(
                "INSERT INTO folder (path) VALUES (?)", (as_stored(folder),)
            )
            self._folders[folder] = int(cursor.lastrowid or 0)
        return self._folders[folder]

    def _frame_rows(self, instance: Instance, file: int, folder: str) -> list[Row]:
        key = _series_key(instance.series_instance_uid, instance.patient_id, folder)
        if key not in self._series:
            cursor = self._connection.execute(
                "INSERT INTO series (series_instance_uid, patient_id, folder) VALUES (?, ?, ?)",
                (instance.series_instance_uid, instance.patient_id, as_stored(folder)),
            )
            self._series[key] = int(cursor.lastrowid or 0)
        series = self._series[key]
        if series not in self._changed:
            self._changed.add(series)
            self._connection.execute("UPDATE series SET slices = NULL WHERE id = ?", (series,))
        return [
            frame_row(frame, series=series, file=file, kind=self._kind_number(frame.kind))
            for frame in instance.frames
        ]

    def _kind_number(self, kind: Kind) -> int:
        # Frames that are read one after the other have the very same kind, mostly.
        if kind is self._kind[0]:
            return self._kind[1]
        attributes = kind_to_json(kind)
        if attributes not in self._kinds:
            cursor = self._connection.execute(
                "INSERT INTO kind (attributes) VALUES (?)", (attributes,)
            )
            self._kinds[attributes] = int(cursor.lastrowid or 0)
        self._kind = (kind, self._kinds[attributes])
        return self._kinds[attributes]


def _series_key(uid: str, patient_id: str, folder: str | bytes) -> tuple[str, str, str]:
    """Tell what makes files one series: its UID and patient; without a UID, the folder.

    One Series Instance UID under two patients is two series: such archives exist.
    """
    return uid, patient_id, "" if uid else as_path(folder)


def _describe(connection: sqlite3.Connection, series: int, keep: tuple[str, ...]) -> dict[str, Any]:
    """Say what is known of a series: the most common value of each column."""
    rows = connection.execute("SELECT kind, x, y, z FROM frame WHERE series = ?", (series,))
    places = rows.fetchall()
    counts = Counter(number for number, *_ in places)
    read = connection.execute(
        "SELECT id, attributes FROM kind WHERE id IN (SELECT kind FROM frame WHERE series = ?)",
        (series,),
    )
    kinds = {number: kind_from_json(attributes) for number, attributes in read}
    described: dict[str, Any] = {
        name: _most_common((getattr(kind, name), counts[number]) for number, kind in kinds.items())
        for name in _FROM_KIND
    }
    spacing = _most_common((kind.pixel_spacing, counts[number]) for number, kind in kinds.items())
    described["row_spacing"], described["column_spacing"] = spacing or (None, None)
    described["slice_spacing"] = _slice_spacing(places, kinds)
    described["slices"] = len(places)
    sizes = connection.execute(
        "SELECT folder.path, sum(file.size) FROM file JOIN folder ON folder.id = file.folder "
        "WHERE file.id IN (SELECT file FROM frame WHERE series = ?) GROUP BY folder.id",
        (series,),
    ).fetchall()
    described["bytes"] = sum(size for _, size in sizes)
    folder = os.path.commonpath([as_path(path) for path, _ in sizes])
    described["folder"] = as_stored(folder or os.curdir)
    for keyword in keep:
        # A keyword whose value changes within the series has no value for the series.
        values = {dict(kind.kept).get(keyword) for kind in kinds.values()}
        described[keyword] = values.pop() if len(values) == 1 else None
    return {name: described[name] for name in (*SERIES_COLUMNS, *keep) if name in described}


def _most_common(values: Iterable[tuple[Any, int]]) -> Any:
    """Give the value that is counted most often."""
    counted: Counter[Any] = Counter()
    for value, count in values:
        counted[value] += count
    most = max(counted.values())
    return min((key for key, count in counted.items() if count == most), key=repr)


def _slice_spacing(
    places: Sequence[tuple[int, float | None, float | None, float | None]], kinds: dict[int, Kind]
) -> float | None:
    """Median gap along the most common normal, mm; None for a single position.

    To choose series by; a `Stack` proves its spacing.

    Args:
        places: number of the kind and position of each frame.
        kinds: by their numbers.
    """
    orientations = {number: kind.orientation for number, kind in kinds.items() if kind.orientation}
    placed = [place for place in places if place[0] in orientations and place[1] is not None]
    if not placed:
        return None
    orientation = _most_common((orientations[number], 1) for number, *_ in placed)
    directions = unit_directions(orientation)
    normal = np.cross(directions[:3], directions[3:])
    positions = [place for number, *place in placed if orientations[number] == orientation]
    gaps = np.diff(np.sort(np.array(positions, np.float64) @ normal))
    gaps = gaps[gaps > COINCIDENT]
    return round(float(np.median(gaps)), 6) if gaps.size else None

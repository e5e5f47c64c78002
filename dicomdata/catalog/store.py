"""Catalog files: opened for reading, checked, read back; and published whole or not at all."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dicomdata import errors
from dicomdata.catalog.schema import (
    APPLICATION_ID,
    FORMAT,
    FRAMES_BY_ID,
    FRAMES_OF_SERIES,
    as_path,
    frame_from_row,
    kind_from_json,
)
from dicomdata.errors import CatalogError, DicomDataError, Rejection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dicomdata.header import Frame, Kind

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
"""SQLite's own header: magic, page size at 16, page count at 28."""

CHECKSUM_SUFFIX = ".blake2b"
"""Beside a catalog: its blake2b, checked by `Catalog.verify`."""


def connect(path: str | os.PathLike[str]) -> sqlite3.Connection:
    """Open a published catalog for reading; close it after use.

    Opened anew for each use, in well under a millisecond: nothing is held across threads, forks
    or processes. ``immutable`` needs no locks, so a read-only folder or a network disk will do.

    Raises:
        CatalogError: if there is none, or it is cut short, of another version, or no catalog.
    """
    check_file(path)
    uri = f"file:{quote(os.path.abspath(path))}?mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise CatalogError(f"{path}: the catalog cannot be opened: {error}") from error
    connection.execute("PRAGMA query_only = 1")
    return connection


def check_file(path: str | os.PathLike[str]) -> None:
    """Check the first hundred bytes of a catalog against its size.

    Raises:
        CatalogError: naming what is wrong.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise CatalogError(f"{path}: the catalog cannot be opened: {error.strerror}") from error
    number = {name: int.from_bytes(head[at : at + 4], "big") for name, at in
              (("pages", 28), ("version", 60), ("application", 68))}  # fmt: skip
    if not head.startswith(_MAGIC) or number["application"] != APPLICATION_ID:
        raise CatalogError(f"{path}: not a dicomdata catalog")
    if number["version"] != FORMAT:
        raise CatalogError(
            f"{path}: a catalog of format {number['version']}, "
            f"this version reads format {FORMAT}: scan again"
        )
    # SQLite writes a page size of 65536 as 1.
    page = int.from_bytes(head[16:18], "big")
    page = 65536 if page == 1 else page
    if size != number["pages"] * page:
        raise CatalogError(
            f"{path}: the catalog is cut short or damaged: "
            f"{size} bytes, expected {number['pages'] * page}"
        )


def check_replaceable(path: Path) -> None:
    """Refuse to put a catalog in the place of something else.

    Raises:
        CatalogError: if there is a file that is no catalog of any version.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise CatalogError(f"{path}: not a file to put a catalog in: {error.strerror}") from error
    application = int.from_bytes(head[68:72], "big")
    # A checksum beside it says that it was a catalog before it was damaged.
    known = (head.startswith(_MAGIC) and application == APPLICATION_ID) or path.with_name(
        path.name + CHECKSUM_SUFFIX
    ).exists()
    if head and not known:
        raise CatalogError(f"{path}: not a dicomdata catalog, and not overwritten")


def read_meta(connection: sqlite3.Connection) -> dict[str, str]:
    """Read what the catalog says of itself: its root, the keywords it keeps."""
    return dict(connection.execute("SELECT name, value FROM meta").fetchall())


def read_frames(
    connection: sqlite3.Connection, *, root: str, series: int | None = None, ids: Sequence[int] = ()
) -> list[tuple[int, Frame]]:
    """Read frames with their ids: those of a series, or those of `ids` in that order."""
    if series is not None:
        rows = connection.execute(FRAMES_OF_SERIES, (series,)).fetchall()
    else:
        rows = connection.execute(FRAMES_BY_ID, (json.dumps(list(ids)),)).fetchall()
    kinds = _read_kinds(connection, {row[6] for row in rows})
    frames = [frame_from_row(row, root, kinds) for row in rows]
    if series is not None:
        return frames
    found = dict(frames)
    if missing := [number for number in ids if number not in found]:
        raise errors.StaleError(
            f"{len(missing)} frames are no longer in the catalog: plan the stacks again"
        )
    return [(number, found[number]) for number in ids]


def read_rejections(connection: sqlite3.Connection, *, root: str) -> Iterator[Rejection]:
    """Read what the scan left out, by folder and name."""
    rows = connection.execute(
        "SELECT folder.path, file.name, rejection.error, rejection.keyword, rejection.message "
        "FROM rejection JOIN file ON file.id = rejection.file "
        "JOIN folder ON folder.id = file.folder"
    ).fetchall()
    for folder, name, kind, keyword, message in sorted(
        rows, key=lambda row: (as_path(row[0]), as_path(row[1]))
    ):
        error: DicomDataError = getattr(errors, kind)(as_path(message))
        if keyword and isinstance(error, errors.HeaderError):
            error.keyword = keyword
        yield Rejection(os.path.join(root, as_path(folder), as_path(name)), error)


def read_paths(
    connection: sqlite3.Connection, *, root: str, series: Iterable[int]
) -> Iterator[tuple[int, str, int]]:
    """Read (series, path, frame number) of every frame of some series."""
    rows = connection.execute(
        "SELECT frame.series, folder.path, file.name, frame.number FROM frame "
        "JOIN file ON file.id = frame.file JOIN folder ON folder.id = file.folder "
        "WHERE frame.series IN (SELECT value FROM json_each(?))",
        (json.dumps(list(series)),),
    )
    for number, folder, name, frame in rows:
        yield number, os.path.join(root, as_path(folder), as_path(name)), frame


def publish(partial: Path, path: Path) -> None:
    """Put a finished catalog in its place: durable, and whole at every moment."""
    with open(partial, "rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()
        os.fsync(file.fileno())
    checksum = path.with_name(path.name + CHECKSUM_SUFFIX)
    beside = checksum.with_name(checksum.name + ".partial")
    beside.write_text(f"{digest}  {path.name}\n")
    os.replace(partial, path)
    os.replace(beside, checksum)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def verify(path: Path) -> None:
    """Compare a catalog with the blake2b beside it.

    Raises:
        CatalogError: if they differ, or either is missing.
    """
    check_file(path)
    checksum = path.with_name(path.name + CHECKSUM_SUFFIX)
    try:
        expected = checksum.read_text().split()[0]
    except (OSError, IndexError) as error:
        raise CatalogError(f"{path}: no checksum beside it ({checksum.name})") from error
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "blake2b").hexdigest()
    if found != expected:
        raise CatalogError(f"{path}: the catalog is damaged: its blake2b is not {checksum.name}'s")


def run_query(path: str | os.PathLike[str], sql: str) -> list[dict[str, Any]]:
    """Run one read-only SQL statement; give its rows as dicts.

    Raises:
        CatalogError: if SQLite refuses it.
    """
    with closing(connect(path)) as connection:
        connection.set_authorizer(_reading_only)
        try:
            cursor = connection.execute(sql)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor]
        except sqlite3.Error as error:
            raise CatalogError(f"query: {error}: {sql}") from error


def temporary_path() -> Path:
    """Give a place for a catalog that nobody named; it goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix="dicomdata-"))
    owner = os.getpid()

    def remove() -> None:
        # A forked child must not take its parent's catalog away.
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder / "scan.catalog"


def _read_kinds(connection: sqlite3.Connection, ids: set[int]) -> dict[int, Kind]:
    rows = connection.execute(
        "SELECT id, attributes FROM kind WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(sorted(ids)),),
    )
    return {number: kind_from_json(attributes) for number, attributes in rows}


def _reading_only(action: int, *_details: object) -> int:
    allowed = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION,
               sqlite3.SQLITE_RECURSIVE}  # fmt: skip
    return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY

"""The catalog's tables, and its records as rows.

One SQLite file, normalised so that a frame costs at most 200 bytes: what frames share is a
`kind`, what files share is a `folder`. Rows are read back as the frozen records of `header`.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode, b64encode
from dataclasses import asdict, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from dicomdata.header import Frame, Kind
from dicomdata.rescale import LookupTable, Padding, Rescale
from dicomdata.uptake import Uptake

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

APPLICATION_ID = 0x44434D44
"""Marks a SQLite file as a catalog, in its header: "DCMD"."""

FORMAT = 2
"""Version of the tables below, kept as SQLite's user_version; raise it with every change."""

SERIES_COLUMNS = {
    "series_instance_uid": "TEXT",
    "study_instance_uid": "TEXT",
    "patient_id": "TEXT",
    "modality": "TEXT",
    "manufacturer": "TEXT",
    "manufacturer_model_name": "TEXT",
    "body_part_examined": "TEXT",
    "series_description": "TEXT",
    "series_number": "INTEGER",
    "sop_class_uid": "TEXT",
    "transfer_syntax_uid": "TEXT",
    "frame_of_reference_uid": "TEXT",
    "image_type": "TEXT",
    "rows": "INTEGER",
    "columns": "INTEGER",
    "row_spacing": "REAL",
    "column_spacing": "REAL",
    "slice_spacing": "REAL",
    "slice_thickness": "REAL",
    "slices": "INTEGER",
    "bytes": "INTEGER",
    "folder": "TEXT",
}
"""Column -> SQLite type of what is known of every series; kept keywords are added to them."""

_SERIES = ",\n    ".join(f'"{name}" {kind}' for name, kind in SERIES_COLUMNS.items())

_FRAME_COLUMNS = (
    "instance_number",
    "slice_location",
    "acquisition_number",
    "temporal_position",
    "trigger_time",
    "acquisition_time",
    "content_time",
    "offset",
    "length",
)
"""Fields of a `Frame` that are columns of the same name."""

_own_columns = attrgetter(*_FRAME_COLUMNS)

_ALL_FRAME_COLUMNS = ("sop_instance_uid", "x", "y", "z", "decimals", *_FRAME_COLUMNS)

SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE folder (id INTEGER PRIMARY KEY, path NOT NULL);
CREATE TABLE file (id INTEGER PRIMARY KEY, folder INTEGER NOT NULL, name NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL);
CREATE TABLE rejection (file INTEGER PRIMARY KEY, error TEXT NOT NULL, keyword TEXT NOT NULL,
    message NOT NULL);
CREATE TABLE kind (id INTEGER PRIMARY KEY, attributes TEXT NOT NULL UNIQUE);
CREATE TABLE series (id INTEGER PRIMARY KEY, {_SERIES});
CREATE TABLE frame (id INTEGER PRIMARY KEY, series INTEGER NOT NULL, file INTEGER NOT NULL,
    number INTEGER NOT NULL, kind INTEGER NOT NULL, {", ".join(_ALL_FRAME_COLUMNS)});
CREATE INDEX frame_of_series ON frame (series);
CREATE VIEW frames AS SELECT frame.id AS id, frame.series AS series,
    folder.path || '/' || file.name AS path, file.size AS size, file.mtime_ns AS mtime_ns,
    frame.number AS number, kind.attributes AS attributes,
    CASE typeof(frame.sop_instance_uid) WHEN 'blob'
        THEN replace(rtrim(hex(frame.sop_instance_uid), 'F'), 'A', '.')
        ELSE frame.sop_instance_uid END AS sop_instance_uid,
    {", ".join("frame." + name for name in _ALL_FRAME_COLUMNS[1:])}
    FROM frame JOIN file ON file.id = frame.file JOIN folder ON folder.id = file.folder
    JOIN kind ON kind.id = frame.kind;
"""  # noqa: S608 - made of constants
"""`series` and the view `frames` are what `Catalog.query` is for; paths are below the root."""

INSERT_FRAME = (
    f"INSERT INTO frame (series, file, number, kind, {', '.join(_ALL_FRAME_COLUMNS)}) "  # noqa: S608
    f"VALUES ({', '.join('?' * (4 + len(_ALL_FRAME_COLUMNS)))})"
)

_SELECT_FRAMES = (
    f"SELECT frame.id, folder.path, file.name, file.size, file.mtime_ns, frame.number, "  # noqa: S608
    f"frame.kind, {', '.join('frame.' + name for name in _ALL_FRAME_COLUMNS)} "
    f"FROM frame JOIN file ON file.id = frame.file JOIN folder ON folder.id = file.folder "
)
FRAMES_OF_SERIES = _SELECT_FRAMES + "WHERE frame.series = ?"
FRAMES_BY_ID = _SELECT_FRAMES + "WHERE frame.id IN (SELECT value FROM json_each(?))"  # noqa: S608

_UID = re.compile(r"[0-9.]+")
"""What a UID is made of (PS3.5 9.1); half of a frame's bytes would be its UID's text."""

_UNIT = 1000
"""Base in which three counts of decimals are packed into one number; no string has as many."""


def frame_row(frame: Frame, *, series: int, file: int, kind: int) -> tuple[Any, ...]:
    """Turn a frame into the values of `INSERT_FRAME`; what is empty takes one byte."""
    x, y, z = frame.position or (None, None, None)
    a, b, c = frame.decimals
    return (
        series,
        file,
        frame.number,
        kind,
        _pack_uid(frame.sop_instance_uid),
        _compact(x),
        _compact(y),
        _compact(z),
        (a * _UNIT + b) * _UNIT + c,
        *map(_compact, _own_columns(frame)),
    )


def frame_from_row(row: Sequence[Any], root: str, kinds: dict[int, Kind]) -> tuple[int, Frame]:
    """Turn a row of `FRAMES_OF_SERIES` or `FRAMES_BY_ID` into its id and frame."""
    number_of, folder, name, size, mtime_ns, number, kind, uid, x, y, z, packed, *rest = row
    own = dict(zip(_FRAME_COLUMNS, rest, strict=True))
    for column in ("acquisition_time", "content_time"):
        own[column] = own[column] or ""
    for column in ("slice_location", "trigger_time"):
        own[column] = None if own[column] is None else float(own[column])
    first, c = divmod(packed, _UNIT)
    return number_of, Frame(
        path=os.path.join(root, as_path(folder), as_path(name)),
        size=size,
        mtime_ns=mtime_ns,
        sop_instance_uid=_unpack_uid(uid),
        number=number,
        kind=kinds[kind],
        position=None if x is None else (float(x), float(y), float(z)),
        decimals=(*divmod(first, _UNIT), c),
        **own,
    )


_RECORDS: dict[str, Callable[..., Any]] = {
    "rescale": Rescale,
    "modality_lut": LookupTable,
    "padding": Padding,
    "uptake": Uptake,
}
"""Fields of a `Kind` that are records of their own."""


def kind_to_json(kind: Kind) -> str:
    """Write a kind as JSON, leaving out what is at its default; the same kind, the same text."""
    written = {
        field.name: value
        for field in fields(kind)
        if (value := getattr(kind, field.name)) != field.default
    }
    for name in _RECORDS.keys() & written.keys():
        written[name] = asdict(written[name])
    if "modality_lut" in written:
        # JSON has no bytes.
        entries = written["modality_lut"]["entries"]
        written["modality_lut"]["entries"] = b64encode(entries).decode("ascii")
    return json.dumps(written, sort_keys=True, separators=(",", ":"))


def kind_from_json(text: str) -> Kind:
    """Read a kind back; equal to the one written."""
    read = json.loads(text)
    if "modality_lut" in read:
        read["modality_lut"]["entries"] = b64decode(read["modality_lut"]["entries"])
    if "uptake" in read:
        read["uptake"]["corrected"] = tuple(read["uptake"]["corrected"])
    for name in _RECORDS.keys() & read.keys():
        read[name] = _RECORDS[name](**read[name])
    for name in ("orientation", "pixel_spacing"):
        if name in read:
            read[name] = tuple(read[name])
    read["kept"] = tuple((keyword, value) for keyword, value in read.get("kept", ()))
    return Kind(**read)


def as_stored(path: str) -> str | bytes:
    """Give a path as SQLite can keep it: text, or bytes where it is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def as_path(stored: str | bytes) -> str:
    """Undo `as_stored`."""
    return stored if isinstance(stored, str) else os.fsdecode(stored)


def _pack_uid(uid: str) -> str | bytes:
    """Write a UID with two characters a byte: digits as they are, a point as A, the end as F."""
    if not _UID.fullmatch(uid):
        return uid
    nibbles = uid.replace(".", "a")
    return bytes.fromhex(nibbles + "f" * (len(nibbles) % 2))


def _unpack_uid(packed: str | bytes) -> str:
    """Undo `_pack_uid`, as the view `frames` does in SQL."""
    if isinstance(packed, str):
        return packed
    return packed.hex().rstrip("f").replace("a", ".")


def _compact(value: Any) -> Any:
    """Whole floats are kept as integers, which take one to four bytes instead of eight."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**31 else value
    return None if value == "" else value

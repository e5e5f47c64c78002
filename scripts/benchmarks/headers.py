"""Headers with all fields of a catalog: one process, warm."""

from __future__ import annotations

import json
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dicomdata as dd
from benchmarks.measuring import fresh, medians, reason, take_turns
from benchmarks.tables import OURS, Table
from dicomdata.header.values import TAGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.measuring import Contenders
    from benchmarks.setup import Setup

    ReadAll = Callable[[list[str]], None]

_MOST_FILES = 400
"""Of the written archive: enough that one file more or less does not matter."""

_PIXELS = 0x7FE00010
"""Pixel Data, where a header ends."""

_MICROSECONDS = 1e6

_FIELDS = sorted(tag for tag in TAGS.values() if tag >> 16 != 0x0002)
"""What a catalog is made of, (PS3.6); the file meta information aside, which all of them read."""

_GENERATED, _CORPUS = "generated", "corpus"


def measure(setup: Setup) -> list[Table]:
    """Read every header of the archive, and of real files where there are some."""
    kinds = [_GENERATED, *([_CORPUS] if setup.corpus else [])]
    tables = {kind: Table(f"headers, {kind} files", "us a file") for kind in kinds}
    rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for kind in kinds:
        _list(setup, kind).write_text(json.dumps(_find(setup, kind)))
    for _ in range(setup.rounds):
        taken = {name: _one_pass(setup, name, tables) for name in _READERS}
        for kind in kinds:
            rounds[kind].append({name: t[kind] for name, t in taken.items() if kind in t})
    for kind, table in tables.items():
        count = len(_paths(setup, kind))
        table.note = f"{count} files; each reader in a process of its own, which has imported it."
        found = medians(rounds[kind])
        table.values = {name: found[name] for name in _READERS if name in found}
        table.ask("pydicom, fields read", 40)
        table.ask("GDCM scanner", 5)
        table.ask("dicomsdl", 1)
    return [*tables.values(), _measure_refresh(setup, tables[_GENERATED].values.get(OURS))]


def one_pass(setup: Setup, reader: str) -> dict[str, float]:
    """Read all headers with one reader, after a few others; microseconds a file."""
    read_all = _READERS[reader]()
    # Whatever is imported at the first use; files of another kind, or layouts would be known.
    read_all([str(path) for path in sorted(setup.compressed("RLE").iterdir())])
    taken = {}
    for kind in (_GENERATED, *([_CORPUS] if setup.corpus else [])):
        paths = _paths(setup, kind)
        start = time.perf_counter()
        read_all(paths)
        taken[kind] = (time.perf_counter() - start) / len(paths) * _MICROSECONDS
    return taken


def _one_pass(setup: Setup, reader: str, tables: dict[str, Table]) -> dict[str, float]:
    """Read with one reader in a fresh process; if it fails, the tables say why."""
    try:
        taken: dict[str, float] = fresh(one_pass, setup, reader=reader)
    except RuntimeError as error:
        for table in tables.values():
            table.missing[reader] = reason(error)
        return {}
    return taken


def _measure_refresh(setup: Setup, header: float | None) -> Table:
    """Bring a catalog up to date with an archive that did not change."""
    table = Table("refresh of an unchanged archive", "us a file", ours="dicomdata, refresh")
    path = Path(setup.folder, "refresh.catalog")
    catalog = dd.scan(setup.archive, catalog=path, progress=False)
    files = sum(series.slices for series in catalog.series)

    def scan_anew() -> Any:
        path.with_name("new.catalog").unlink(missing_ok=True)
        return dd.scan(setup.archive, catalog=path.with_name("new.catalog"), progress=False)

    contenders: Contenders = {
        "dicomdata, refresh": lambda: partial(catalog.refresh, progress=False),
        "dicomdata, first scan": lambda: scan_anew,
    }
    take_turns(contenders, table, setup.rounds, scale=_MICROSECONDS / files)
    table.note = f"{files} files. A first scan walks, reads headers and writes the catalog."
    if header is not None:
        table.values["dicomdata, headers alone"] = header
    table.ask("dicomdata, headers alone", 5)
    return table


def _list(setup: Setup, kind: str) -> Path:
    return Path(setup.folder, f"{kind}.json")


def _paths(setup: Setup, kind: str) -> list[str]:
    """Give the files to read, found before: a scan here would teach our reader their layouts."""
    paths: list[str] = json.loads(_list(setup, kind).read_text())
    return paths


def _find(setup: Setup, kind: str) -> list[str]:
    """Find the files to read: the archive's, or those real ones that hold one frame each."""
    if kind == _GENERATED:
        return [str(path) for path in sorted(setup.archive.rglob("*.dcm"))[:_MOST_FILES]]
    catalog = dd.scan(setup.corpus, progress=False)
    frames = Counter(path for _, path, _ in catalog.all_paths())
    return sorted(path for path, count in frames.items() if count == 1)


def _ours() -> ReadAll:
    def read_all(paths: list[str]) -> None:
        for path in paths:
            dd.read_instance(path)

    return read_all


def _pydicom(*, fields: bool) -> ReadAll:
    import pydicom

    def read_all(paths: list[str]) -> None:
        for path in paths:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            if fields:
                for tag in _FIELDS:
                    if tag in header:
                        _ = header[tag].value

    return read_all


def _gdcm() -> ReadAll:
    import gdcm

    def read_all(paths: list[str]) -> None:
        scanner = gdcm.Scanner()
        for tag in _FIELDS:
            scanner.AddTag(gdcm.Tag(tag >> 16, tag & 0xFFFF))
        if not scanner.Scan(paths):
            raise ValueError("gdcm.Scanner refused the files")

    return read_all


def _dicomsdl() -> ReadAll:
    import dicomsdl

    def read_all(paths: list[str]) -> None:
        for path in paths:
            dicomsdl.open(path, _PIXELS - 1).getValues(_FIELDS)

    return read_all


_READERS: dict[str, Callable[[], ReadAll]] = {
    OURS: _ours,
    "pydicom": partial(_pydicom, fields=False),
    "pydicom, fields read": partial(_pydicom, fields=True),
    "GDCM scanner": _gdcm,
    "dicomsdl": _dicomsdl,
}

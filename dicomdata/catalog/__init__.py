"""The Series found under a root, and what was rejected: one SQLite file, read once in a lifetime.

`scan` makes a catalog, `open_catalog` opens one. `schema` has the tables, `update` is the only
writer, `store` reads and publishes, `selection` turns conditions into SQL.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import closing
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicomdata.catalog.progress import track
from dicomdata.catalog.schema import SERIES_COLUMNS, as_path
from dicomdata.catalog.selection import where
from dicomdata.catalog.store import (
    check_file,
    check_replaceable,
    connect,
    publish,
    read_frames,
    read_meta,
    read_paths,
    read_rejections,
    run_query,
    temporary_path,
    verify,
)
from dicomdata.catalog.update import PARTIAL_SUFFIX, update_catalog
from dicomdata.errors import CatalogError, FileError, NotDicomError, OtherObjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd

    from dicomdata.errors import Rejection
    from dicomdata.header import Frame

__all__ = ["Catalog", "Series", "load_frames", "open_catalog", "scan", "track"]

_OWN_COLUMNS = slice(3, -1)
"""Fields of a `Series` that are columns of the same name."""

_WORKERS = 4
"""Threads that read headers: on a local disk two are busy, on a slow one all wait together."""


def scan(
    root: str | os.PathLike[str],
    *,
    catalog: str | os.PathLike[str] | None = None,
    keep: Sequence[str] = (),
    progress: bool | None = None,
    workers: int = _WORKERS,
) -> Catalog:
    """Read the headers of every file under a folder: which series there are.

    Any file names, any mixture of patients, studies and series. Files that cannot be used are in
    `Catalog.rejected`; no file is lost. Nothing under the root is written.

    Args:
        root: the folder; all below it is searched.
        catalog: where to keep the catalog. A scan that was killed goes on from there, and a
            finished one is brought up to date. Without it the catalog goes with the process,
            unless it is saved.
        keep: DICOM keywords to keep as more columns, as in ``("ConvolutionKernel",)``. Names,
            birth dates and free text are refused.
        progress: draw a progress bar on stderr; None draws if that is a terminal.
        workers: threads that read.

    Raises:
        FileError: if the root is no folder that can be listed.
        ConfigError: if a keyword cannot be kept.
        CatalogError: if the catalog cannot be written.
    """
    top = os.path.abspath(os.path.expanduser(root))
    if not os.path.isdir(top):
        raise FileError(f"{top}: no such folder")
    path = temporary_path() if catalog is None else _absolute(catalog)
    update_catalog(path, top, keep=keep, workers=workers, progress=progress)
    return Catalog(path)


def open_catalog(path: str | os.PathLike[str]) -> Catalog:
    """Open a saved catalog; reads a few rows, no headers and no frames.

    Raises:
        CatalogError: if there is none, or it is cut short, of another version, or no catalog.
    """
    return Catalog(_absolute(path))


@dataclass(frozen=True, slots=True)
class Series:
    """All Instances of one Series Instance UID, in no order: one row of a catalog.

    Where frames disagree, a field holds the most common value.
    """

    catalog: str
    """The catalog file it is a row of."""

    root: str
    """The folder that was scanned."""

    id: int
    """Number of the row."""

    series_instance_uid: str
    """Series Instance UID (0020,000E); "" where it was stripped, and the folder is the series."""

    study_instance_uid: str
    """Study Instance UID (0020,000D)."""

    patient_id: str
    """Patient ID (0010,0020)."""

    modality: str
    """Modality (0008,0060)."""

    manufacturer: str
    """Manufacturer (0008,0070)."""

    manufacturer_model_name: str
    """Manufacturer's Model Name (0008,1090)."""

    body_part_examined: str
    """Body Part Examined (0018,0015)."""

    series_description: str
    """Series Description (0008,103E)."""

    series_number: int | None
    """Series Number (0020,0011)."""

    sop_class_uid: str
    """SOP Class UID (0008,0016)."""

    transfer_syntax_uid: str
    """Transfer Syntax UID (0002,0010)."""

    frame_of_reference_uid: str
    """Frame of Reference UID (0020,0052)."""

    image_type: str
    """Image Type (0008,0008), values joined by a backslash."""

    rows: int
    """Rows (0028,0010)."""

    columns: int
    """Columns (0028,0011)."""

    row_spacing: float | None
    """Pixel Spacing (0028,0030), first value, mm."""

    column_spacing: float | None
    """Pixel Spacing (0028,0030), second value, mm."""

    slice_spacing: float | None
    """Median gap between positions along the normal, mm; a `Stack` proves its own."""

    slice_thickness: float | None
    """Slice Thickness (0018,0050), mm."""

    slices: int
    """Frames, of whatever kind."""

    bytes: int
    """Size of its files."""

    folder: str
    """The folder that holds all its files, below the root."""

    kept: tuple[tuple[str, str | None], ...] = ()
    """Keywords the scan was asked to keep; None where frames disagree."""

    @property
    def columns_by_name(self) -> dict[str, Any]:
        """Every column, kept ones included."""
        own = {name: getattr(self, name) for name in SERIES_COLUMNS}
        return {**own, **dict(self.kept)}

    @property
    def label(self) -> str:
        """Name the series in a message."""
        if self.series_instance_uid:
            return f"series {self.series_instance_uid}"
        return f"series without Series Instance UID in folder {self.folder!r}"

    @property
    def frames(self) -> tuple[Frame, ...]:
        """Its frames, in no order; read from the catalog."""
        return tuple(frame for _, frame in self.numbered_frames())

    def numbered_frames(self) -> list[tuple[int, Frame]]:
        """Give its frames with their row numbers, by which `load_frames` finds them."""
        with closing(connect(self.catalog)) as connection:
            return read_frames(connection, root=self.root, series=self.id)


@dataclass(frozen=True, slots=True)
class _Filter:
    """One call of `Catalog.select`."""

    predicate: Callable[[Series], bool] | None
    conditions: tuple[tuple[str, Any], ...]


class Catalog:
    """The Series found under a root and what was rejected.

    A path and the conditions of `select`; rows are read when asked for. It pickles, and holds no
    open file.
    """

    def __init__(self, path: Path, filters: tuple[_Filter, ...] = ()) -> None:
        check_file(path)
        self.path = path
        """The SQLite file."""
        self._filters = filters

    def __repr__(self) -> str:
        return f"Catalog({str(self.path)!r}, {len(self)} series)"

    def __len__(self) -> int:
        return len(self.series)

    @cached_property
    def root(self) -> Path:
        """The folder that was scanned."""
        return Path(as_path(self._meta["root"]))

    @cached_property
    def keep(self) -> tuple[str, ...]:
        """Keywords kept beside the usual columns."""
        return tuple(json.loads(self._meta["keep"]))

    @cached_property
    def series(self) -> tuple[Series, ...]:
        """The series that fulfil every condition selected by, in the order they were found."""
        columns = ["id", *_COLUMNS, *self.keep]
        parts, parameters = ["1"], []
        for chosen in self._filters:
            part, more = where(dict(chosen.conditions), (*SERIES_COLUMNS, *self.keep))
            parts.append(part)
            parameters += more
        wanted = ", ".join(f'"{name}"' for name in columns)
        with closing(connect(self.path)) as connection:
            rows = connection.execute(
                f"SELECT {wanted} FROM series WHERE {' AND '.join(parts)} ORDER BY id",  # noqa: S608
                parameters,
            ).fetchall()
        catalog, root, keep = str(self.path), str(self.root), self.keep
        found = (_series(row, catalog=catalog, root=root, keep=keep) for row in rows)
        predicates = [chosen.predicate for chosen in self._filters if chosen.predicate]
        return tuple(series for series in found if all(holds(series) for holds in predicates))

    @cached_property
    def rejected(self) -> tuple[Rejection, ...]:
        """Files under the root that belong to no series, each with the reason.

        Text files and DICOM objects without frames are told from damaged files by the type of
        their error. A selection has the same rejections: they were never in a series.
        """
        with closing(connect(self.path)) as connection:
            return tuple(read_rejections(connection, root=str(self.root)))

    @property
    def damaged(self) -> tuple[Rejection, ...]:
        """Those of `rejected` that should have been read: no text files, no reports."""
        harmless = NotDicomError, OtherObjectError
        return tuple(each for each in self.rejected if not isinstance(each.error, harmless))

    def select(
        self, predicate: Callable[[Series], bool] | None = None, /, **conditions: Any
    ) -> Catalog:
        """Keep the series that fulfil all conditions; reads columns only.

        A condition is a value (``modality="CT"``), a list of values, a range with both ends
        included (``slice_spacing=(0.5, 3.0)``), or ``min_slices=32``, ``max_rows=512``. Columns
        are the fields of `Series` and kept keywords; DICOM keywords work as names too.

        Args:
            predicate: a function of a `Series`, for whatever columns cannot say.
            conditions: by column.

        Raises:
            CatalogError: if there is no such column.
        """
        where(conditions, (*SERIES_COLUMNS, *self.keep))
        chosen = _Filter(predicate, tuple(conditions.items()))
        return Catalog(self.path, (*self._filters, chosen))

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Run read-only SQL over `series` and `frames`; give its rows.

        Raises:
            CatalogError: if SQLite refuses it, or it would write.
        """
        return run_query(self.path, sql)

    def to_pandas(self) -> pd.DataFrame:
        """Give the series as a table, one row each. Needs pandas."""
        import pandas as pd

        names = [*SERIES_COLUMNS, *self.keep]
        return pd.DataFrame([series.columns_by_name for series in self.series], columns=names)

    def save(self, path: str | os.PathLike[str]) -> Catalog:
        """Keep the catalog in a file, with its blake2b beside it; and go on from there.

        Raises:
            CatalogError: if this is a selection, or the file cannot be written.
        """
        if self._filters:
            raise CatalogError("a selection is not saved: save the catalog, and select from it")
        target = _absolute(path)
        check_replaceable(target)
        if target != self.path:
            partial = target.with_name(target.name + PARTIAL_SUFFIX)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.path, partial)
                publish(partial, target)
            except OSError as error:
                raise CatalogError(
                    f"{target}: the catalog cannot be written: {error.strerror}"
                ) from error
            self.path = target
            self._forget()
        return self

    def refresh(self, *, progress: bool | None = None, workers: int = _WORKERS) -> Catalog:
        """Bring the catalog up to date with its folder, in place; gives itself.

        Only files whose size or modification time changed are read again; vanished ones are
        dropped, new ones added. Stacks planned before stay as they were, and say so if they are
        read and are no longer true.
        """
        update_catalog(
            self.path, str(self.root), keep=self.keep, workers=workers, progress=progress
        )
        self._forget()
        return self

    def verify(self) -> None:
        """Check the file against the blake2b beside it.

        Raises:
            CatalogError: if it is damaged.
        """
        verify(self.path)

    def all_paths(self) -> Iterator[tuple[int, str, int]]:
        """Give (series id, path, frame number) of every frame, of selected series or not."""
        whole = Catalog(self.path)
        with closing(connect(self.path)) as connection:
            yield from read_paths(
                connection, root=str(self.root), series=[series.id for series in whole.series]
            )

    @property
    def _meta(self) -> dict[str, str]:
        with closing(connect(self.path)) as connection:
            return read_meta(connection)

    def _forget(self) -> None:
        for name in ("root", "keep", "series", "rejected"):
            self.__dict__.pop(name, None)


_COLUMNS = [field.name for field in fields(Series)][_OWN_COLUMNS]
_ARE_TEXT = [SERIES_COLUMNS[name] == "TEXT" for name in _COLUMNS]


def _series(row: Sequence[Any], *, catalog: str, root: str, keep: Sequence[str]) -> Series:
    """Turn a row of id, `_COLUMNS` and kept keywords into a `Series`."""
    own = [
        as_path(value or "") if is_text else value
        for value, is_text in zip(row[1:], _ARE_TEXT, strict=False)
    ]
    kept = tuple(zip(keep, row[1 + len(_COLUMNS) :], strict=True))
    # By place: ten thousand series are made at once.
    everything: list[Any] = [catalog, root, row[0], *own, kept]
    return Series(*everything)


def load_frames(catalog: str, ids: Sequence[int]) -> tuple[Frame, ...]:
    """Read frames by their row numbers, in that order.

    Raises:
        StaleError: if the catalog has changed since and they are gone.
        CatalogError: if the catalog cannot be opened.
    """
    with closing(connect(catalog)) as connection:
        root = as_path(read_meta(connection)["root"])
        return tuple(frame for _, frame in read_frames(connection, root=root, ids=ids))


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))

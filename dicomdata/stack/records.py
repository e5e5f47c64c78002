"""What planning gives: `Stack`s, the account of every file, and the plan that holds both."""

from __future__ import annotations

import csv
import os
import re
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.catalog import Catalog, Series, load_frames
from dicomdata.errors import NotDicomError, OtherObjectError, Rejection, StaleError
from dicomdata.geometry import Affine, affine_from_columns, as_vector, lps_to_ras

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from dicomdata.header import Frame
    from dicomdata.stack.policy import Finding, Policy

TOKEN_SUFFIX = ".dcmseries"
"""Ends the made-up path that stands for a stack in MONAI's items; no such file exists."""

NO_UID = "series"
"""Stands in the id of a stack for a Series Instance UID that is missing or malformed."""

_UID = re.compile(r"[0-9.]{1,64}")
"""What a UID is made of (PS3.5 9.1)."""

_FORMAT = 1
"""Raised when the same files under the same policy become another volume."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames in order on one grid: a volume that is proven, and not read yet.

    Small, frozen and picklable: it names its catalog, and takes its frames from there.
    """

    id: str
    """Series Instance UID and a digest of the frames: the same frames, the same id."""

    catalog: str
    """The catalog file that has its frames."""

    root: str
    """The folder that was scanned."""

    series_id: int
    """Row of its series in the catalog."""

    frame_ids: tuple[int, ...]
    """Rows of its frames in the catalog, in slice order."""

    shape: tuple[int, int, int]
    """(slices, rows, columns)."""

    affine_columns: Affine
    """Columns of `affine_lps`: slice, row and column steps, and the origin, mm."""

    slice_spacing: float
    """Distance between slices along the normal, mm."""

    unit: str
    """Unit of the voxels: "HU", "BQML", a Rescale Type, or "stored"."""

    findings: tuple[Finding, ...]
    """What is true of it and was accepted."""

    modality: str
    """Modality (0008,0060)."""

    patient_id: str
    """Patient ID (0010,0020)."""

    study_instance_uid: str
    """Study Instance UID (0020,000D)."""

    series_instance_uid: str
    """Series Instance UID (0020,000E)."""

    frame_of_reference_uid: str
    """Frame of Reference UID (0020,0052)."""

    dimension: tuple[str, str]
    """Which part of a series that is several volumes: element and value; ("", "") where it is
    the only one."""

    padding: float | str
    """What padded voxels become: "air", "keep", or a number."""

    fingerprint: str
    """Digest of files (paths, sizes, times, offsets), rescale and policy: changes when they do."""

    @property
    def affine_lps(self) -> NDArray[np.float64]:
        """(4, 4), read-only: (slice, row, column, 1) -> LPS mm; shear of a tilt included."""
        return affine_from_columns(self.affine_columns)

    @property
    def affine_ras(self) -> NDArray[np.float64]:
        """(4, 4), read-only: (slice, row, column, 1) -> RAS mm."""
        return lps_to_ras(self.affine_lps)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between slices along the normal, between rows, between columns, mm."""
        _, row, column, _ = (float(np.linalg.norm(axis)) for axis in self.affine_columns)
        return self.slice_spacing, row, column

    @property
    def frames(self) -> tuple[Frame, ...]:
        """Its frames in slice order.

        Raises:
            StaleError: if the catalog has changed since and tells another story.
        """
        return _frames_of(self)

    @property
    def paths(self) -> tuple[str, ...]:
        """Its files in slice order."""
        return tuple(frame.path for frame in self.frames)

    @property
    def sop_instance_uids(self) -> tuple[str, ...]:
        """SOP Instance UIDs in slice order."""
        return tuple(frame.sop_instance_uid for frame in self.frames)

    @property
    def token(self) -> str:
        """A path that does not exist and names the stack: "<root>/<id>.dcmseries"."""
        return os.path.join(self.root, self.id + TOKEN_SUFFIX)

    def reversed(self) -> Stack:
        """Give the same stack with its slices in the opposite order, and the affine to match."""
        step, row, column, origin = (np.array(axis) for axis in self.affine_columns)
        last = origin + step * (self.shape[0] - 1)
        columns = (as_vector(-step), as_vector(row), as_vector(column), as_vector(last))
        frames = self.frames[::-1]
        return replace(
            self,
            id=stack_id(frames, self.series_instance_uid, self.patient_id, self.dimension),
            frame_ids=self.frame_ids[::-1],
            affine_columns=columns,
            fingerprint=stack_fingerprint(frames, self.padding),
        )


def stack_id(
    frames: Sequence[Frame],
    series_instance_uid: str,
    patient_id: str,
    dimension: tuple[str, str] = ("", ""),
) -> str:
    """Name a stack by its series and what is in it, wherever its files lie and whenever written."""
    digest = blake2b(repr((patient_id, dimension)).encode(), digest_size=4)
    for frame in frames:
        digest.update(repr((frame.sop_instance_uid, frame.number, frame.position)).encode())
    return f"{series_prefix(series_instance_uid)}-{digest.hexdigest()}"


def series_prefix(series_instance_uid: str) -> str:
    """Give how the ids of a series' stacks begin: its UID, or "series" where that is no UID."""
    plain = _UID.fullmatch(series_instance_uid)
    # What is no UID could hold a slash, and an id is part of a path.
    return series_instance_uid if plain else NO_UID


def stack_fingerprint(frames: Sequence[Frame], padding: float | str) -> str:
    """Digest all that decides the voxels: files as they were, where pixels lie, what they mean."""
    digest = blake2b(f"{_FORMAT} padding={padding!r}".encode(), digest_size=16)
    for frame in frames:
        stamp = (frame.size, frame.mtime_ns, frame.number, frame.offset, frame.length)
        digest.update(os.fsencode(frame.path) + repr(stamp).encode())
        digest.update(repr((frame.kind.rescale, frame.kind.padding)).encode())
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _frames_of(stack: Stack) -> tuple[Frame, ...]:
    frames = load_frames(stack.catalog, stack.frame_ids)
    if stack_fingerprint(frames, stack.padding) != stack.fingerprint:
        raise StaleError(
            f"stack {stack.id}: its files are no longer those it was planned from: "
            f"plan the stacks again from the refreshed catalog"
        )
    return frames


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
    """Which slice of the stack it is, from 0."""


class Outcomes(tuple[Outcome, ...]):
    """The account: every frame of every file under the root, exactly once."""

    __slots__ = ()

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one line a row, with a header line."""
        names = [field.name for field in fields(Outcome)]
        with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows([getattr(row, name) for name in names] for row in self)

    def to_pandas(self) -> pd.DataFrame:
        """Give the rows as a table. Needs pandas."""
        import pandas as pd

        names = [field.name for field in fields(Outcome)]
        rows = [[getattr(row, name) for name in names] for row in self]
        return pd.DataFrame(rows, columns=names).astype({"frame": "Int64", "slice_number": "Int64"})


@dataclass(frozen=True, slots=True)
class SeriesPlan:
    """What planning made of one series."""

    series_id: int
    """Row of the series in the catalog."""

    stacks: tuple[Stack, ...]
    """Its volumes."""

    rejected: tuple[Rejection, ...]
    """Groups of its frames that make no volume, and why."""

    set_aside: tuple[Outcome, ...]
    """Its frames that no stack uses."""


@dataclass(frozen=True)
class StackPlan:
    """The stacks of a catalog, what was rejected, and the account of every file."""

    catalog: Catalog
    """What was planned."""

    policy: Policy
    """Under which policy."""

    planned: tuple[SeriesPlan, ...]
    """Series by series."""

    @cached_property
    def stacks(self) -> tuple[Stack, ...]:
        """The volumes, in the order of their series."""
        return tuple(stack for series in self.planned for stack in series.stacks)

    @cached_property
    def rejected(self) -> tuple[Rejection, ...]:
        """Groups of frames that make no volume, with the reason.

        Files that belong to no series are in `Catalog.rejected`.
        """
        return tuple(rejection for series in self.planned for rejection in series.rejected)

    @cached_property
    def outcomes(self) -> Outcomes:
        """The account of every file under the root, by path: each frame exactly once."""
        rows = [_left_out(rejection) for rejection in self.catalog.rejected]
        for series in self.planned:
            rows += series.set_aside
            for stack in series.stacks:
                rows += [
                    Outcome(frame.path, frame.number, "used", "", stack.id, number)
                    for number, frame in enumerate(stack.frames)
                ]
        planned = {series.series_id for series in self.planned}
        rows += [
            Outcome(path, frame, "not selected", "its series was not selected", "", None)
            for series, path, frame in self.catalog.all_paths()
            if series not in planned
        ]
        return Outcomes(sorted(rows, key=lambda row: (row.path, row.frame or 0)))

    def select(
        self, predicate: Callable[[Series], bool] | None = None, /, **conditions: Any
    ) -> StackPlan:
        """Keep the stacks of the series that fulfil all conditions, as `Catalog.select` does."""
        catalog = self.catalog.select(predicate, **conditions)
        chosen = {series.id for series in catalog.series}
        planned = tuple(series for series in self.planned if series.series_id in chosen)
        return StackPlan(catalog, self.policy, planned)

    def items(self, image: str = "image") -> list[dict[str, str | int | float]]:
        """Give one dict of plain strings and numbers a stack, for MONAI's datasets.

        `image` is a token that `StackReader` understands: a path that does not exist, so that no
        other reader can load what this package refused.
        """
        return [
            {
                image: stack.token,
                "fingerprint": stack.fingerprint,
                "series_instance_uid": stack.series_instance_uid,
                "study_instance_uid": stack.study_instance_uid,
                "patient_id": stack.patient_id,
                "modality": stack.modality,
                "unit": stack.unit,
            }
            for stack in self.stacks
        ]


def _left_out(rejection: Rejection) -> Outcome:
    error = rejection.error
    if isinstance(error, NotDicomError):
        outcome = "not DICOM"
    elif isinstance(error, OtherObjectError):
        outcome = "other object"
    else:
        outcome = "rejected"
    return Outcome(rejection.subject, None, outcome, str(error), "", None)

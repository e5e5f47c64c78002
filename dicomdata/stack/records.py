"""What planning gives: `Stack`s, and the plan that holds them and the account of every file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.catalog import Catalog, Series, load_frames
from dicomdata.errors import (
    GeometryError,
    HeaderError,
    NotDicomError,
    OtherObjectError,
    Rejection,
    StaleError,
)
from dicomdata.geometry import Affine, affine_from_columns, as_vector, lps_to_ras
from dicomdata.stack.account import FindingRow, Findings, Outcome, Outcomes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from dicomdata.header import Frame
    from dicomdata.stack.policy import Finding, Policy

TOKEN_SUFFIX = ".dcmseries"
"""Ends the made-up path that stands for a stack in MONAI's items; no such file exists."""

NO_UID = "series"
"""Stands in the id of a stack for a Series Instance UID that is missing or malformed."""

_UID = re.compile(r"[0-9.]{1,64}")
"""What a UID is made of (PS3.5 9.1)."""

_FORMAT = 2
"""Raised when the same files under the same policy become another volume."""

_STACKS_KEPT = 256
"""Stacks whose frames a process keeps: 20 MB of them, if each has 130. To read those of a stack
again takes 2 ms, half of what a box of it does."""


@dataclass(frozen=True, slots=True)
class Shear:
    """How far the frame of each slice lies from the corner of its grid, pixels."""

    start: tuple[float, float]
    """Along rows' and along columns' numbering, of slice 0."""

    step: tuple[float, float]
    """What each further slice adds."""

    def at(self, number: int) -> tuple[float, float]:
        """Give where pixel (0, 0) of slice `number`'s frame lies on the grid: (row, column)."""
        (row, column), (down, along) = self.start, self.step
        return row + number * down, column + number * along


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

    fingerprint: str = ""
    """Digest of files (paths, sizes, times, offsets), rescale and policy: changes when they do."""

    sampling: tuple[float | None, ...] = ()
    """Of a repaired stack: where among its frames each slice lies. 2.0 is frame 2, 2.25 is a
    quarter of the way to frame 3, None is nothing. Empty where slice k is frame k."""

    shear: Shear | None = None
    """Of a stack that `untilt` made: how far each frame is shifted within its plane."""

    def __repr__(self) -> str:
        shape, spacing = (
            " x ".join(f"{each:.4g}" for each in of) for of in (self.shape, self.spacing)
        )
        return f"{type(self).__name__}({self.id!r}, {shape}, {spacing} mm, {self.unit!r})"

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(slices,): whether the slice was measured, rather than filled in or interpolated."""
        places = self.sampling or (0.0,) * self.shape[0]
        return np.array([place is not None and place.is_integer() for place in places])

    @property
    def slice_numbers(self) -> tuple[int | None, ...]:
        """For each frame, which slice it is; None where it only helps to resample."""
        if not self.sampling:
            return tuple(range(self.shape[0]))
        measured = {place: number for number, place in enumerate(self.sampling)}
        return tuple(measured.get(float(index)) for index in range(len(self.frame_ids)))

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
        last = self.shape[0] - 1
        shear = self.shear
        if shear is not None:
            down, along = shear.step
            shear = Shear(shear.at(last), (-down, -along))
        turned = replace(
            self,
            frame_ids=self.frame_ids[::-1],
            affine_columns=(
                as_vector(-step),
                as_vector(row),
                as_vector(column),
                as_vector(origin + step * last),
            ),
            sampling=tuple(
                None if place is None else len(self.frame_ids) - 1 - place
                for place in reversed(self.sampling)
            ),
            shear=shear,
        )
        return identified(turned, self.frames[::-1])


def identified(stack: Stack, frames: Sequence[Frame]) -> Stack:
    """Give a stack its id and fingerprint, by what it is made of.

    The id tells what is in it, wherever its files lie and whenever they were written; the
    fingerprint all that decides the voxels, files as they were.
    """
    repaired = (stack.sampling, stack.shear) if stack.sampling or stack.shear else ()
    kind = frames[0].kind
    # What frames of one stack agree in: a converted copy may keep the UIDs of what it is made of.
    traits = (
        (kind.rows, kind.columns, kind.orientation, kind.pixel_spacing),
        (kind.bits_allocated, kind.bits_stored, kind.high_bit, kind.signed),
        kind.photometric_interpretation,
    )
    made = (stack.patient_id, stack.dimension, traits, *repaired)
    digest = blake2b(repr(made).encode(), digest_size=4)
    for frame in frames:
        digest.update(repr((frame.sop_instance_uid, frame.number, frame.position)).encode())
    name = f"{series_prefix(stack.series_instance_uid)}-{digest.hexdigest()}"
    return replace(stack, id=name, fingerprint=_fingerprint(stack, frames))


def series_prefix(series_instance_uid: str) -> str:
    """Give how the ids of a series' stacks begin: its UID, or "series" where that is no UID."""
    plain = _UID.fullmatch(series_instance_uid)
    # What is no UID could hold a slash, and an id is part of a path.
    return series_instance_uid if plain else NO_UID


def _fingerprint(stack: Stack, frames: Sequence[Frame]) -> str:
    made = (stack.padding, stack.unit, stack.sampling, stack.shear)
    digest = blake2b(f"{_FORMAT} {made!r}".encode(), digest_size=16)
    # Once a kind: a table of a Modality LUT is long.
    kinds = {id(frame.kind): frame.kind for frame in frames}
    meanings = {
        key: blake2b(repr(kind.meaning).encode(), digest_size=16).digest()
        for key, kind in kinds.items()
    }
    for frame in frames:
        stamp = (frame.size, frame.mtime_ns, frame.number, frame.offset, frame.length)
        digest.update(os.fsencode(frame.path) + repr(stamp).encode())
        digest.update(meanings[id(frame.kind)])
    return digest.hexdigest()


@lru_cache(maxsize=_STACKS_KEPT)
def _frames_of(stack: Stack) -> tuple[Frame, ...]:
    frames = load_frames(stack.catalog, stack.frame_ids)
    if _fingerprint(stack, frames) != stack.fingerprint:
        raise StaleError(
            f"stack {stack.id}: its files are no longer those it was planned from: "
            f"plan the stacks again from the refreshed catalog"
        )
    return frames


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

    not_selected: tuple[tuple[Stack, str], ...] = ()
    """Its volumes that a selection left out, and why."""

    def account(self) -> Iterator[Outcome]:
        """Give what became of each of its frames."""
        for stack in self.stacks:
            for frame, number in zip(stack.frames, stack.slice_numbers, strict=True):
                yield Outcome(frame.path, frame.number, "used", "", stack.id, number)
        reasons = {stack.id: reason for stack, reason in self.not_selected}
        for stack, reason in self.not_selected:
            for frame in stack.frames:
                yield Outcome(frame.path, frame.number, "not selected", reason, "", None)
        for row in self.set_aside:
            if row.stack in reasons:
                reason = reasons[row.stack]
                yield replace(row, outcome="not selected", reason=reason, stack="")
            else:
                yield row


@dataclass(frozen=True)
class StackPlan:
    """The stacks of a catalog, what was rejected, and the account of every file."""

    catalog: Catalog
    """What was planned."""

    policy: Policy
    """Under which policy."""

    planned: tuple[SeriesPlan, ...]
    """Series by series."""

    def __repr__(self) -> str:
        return (
            f"StackPlan({len(self.stacks)} stacks of {len(self.planned)} series, "
            f"{len(self.rejected)} rejected)"
        )

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
            rows += series.account()
        planned = {series.series_id for series in self.planned}
        rows += [
            Outcome(path, frame, "not selected", "its series was not selected", "", None)
            for series, path, frame in self.catalog.all_paths()
            if series not in planned
        ]
        return Outcomes(sorted(rows, key=lambda row: (row.path, row.frame or 0)))

    @cached_property
    def findings(self) -> Findings:
        """Every finding about its stacks, and about the frames that became none."""
        uids = {series.id: series.series_instance_uid for series in self.catalog.series}
        return Findings(
            row
            for series in self.planned
            for row in _finding_rows(series, uids.get(series.series_id, ""), self.policy)
        )

    def select(
        self,
        predicate: Callable[[Series], bool] | None = None,
        /,
        *,
        without: Collection[str] = (),
        **conditions: Any,
    ) -> StackPlan:
        """Keep the stacks of the series that fulfil all conditions, as `Catalog.select` does.

        Args:
            predicate: a function of a `Series`.
            without: kinds of finding that a stack must not have, as in ``{"tilt"}``.
            conditions: by column of the catalog.

        Raises:
            CatalogError: if there is no such column.
            ConfigError: if there is no such finding.
        """
        unwanted = {without} if isinstance(without, str) else frozenset(without)
        self.policy.check_names(unwanted)
        catalog = self.catalog.select(predicate, **conditions)
        chosen = {series.id for series in catalog.series}
        planned = tuple(series for series in self.planned if series.series_id in chosen)
        plan = StackPlan(catalog, self.policy, planned)
        return plan.select_stacks(
            lambda stack: unwanted.isdisjoint(finding.kind for finding in stack.findings)
        )

    def select_stacks(self, predicate: Callable[[Stack], bool]) -> StackPlan:
        """Keep the stacks of which a function is true: one phase of several, large ones.

        The account says of the others that they were not selected.
        """
        reason = "its stack was not selected"
        planned = []
        for series in self.planned:
            kept = tuple(stack for stack in series.stacks if predicate(stack))
            left = tuple((stack, reason) for stack in series.stacks if stack not in kept)
            planned.append(replace(series, stacks=kept, not_selected=(*series.not_selected, *left)))
        return StackPlan(self.catalog, self.policy, tuple(planned))

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
                "dimension": "=".join(stack.dimension) if stack.dimension[0] else "",
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


def _finding_rows(series: SeriesPlan, uid: str, policy: Policy) -> Iterator[FindingRow]:
    for stack in series.stacks:
        for found in stack.findings:
            where = " ".join(map(str, found.where))
            choice = str(getattr(policy, found.kind))
            yield FindingRow(
                uid, stack.id, found.kind, choice, found.text, found.amount, found.unit, where
            )
    for error in (rejection.error for rejection in series.rejected):
        kind, amount, unit, where = type(error).__name__, None, "", ""
        if isinstance(error, GeometryError):
            kind, amount, unit = error.finding, error.amount, error.unit
            where = " ".join(map(str, error.where))
        elif isinstance(error, HeaderError) and error.keyword == "ImagePositionPatient":
            kind = "position_missing"
        yield FindingRow(uid, "", kind, "reject", str(error), amount, unit, where)

"""What was decided: a `Split`, its file, and what has changed in a catalog since.

The file is JSON with a line for each group of cases, made to be read and compared by people too.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

from dicomdata.catalog import Catalog
from dicomdata.errors import DicomDataWarning, FileError, SplitError
from dicomdata.splits.grouping import cases_of, compared, is_uid, series_name, without_names
from dicomdata.stack import StackPlan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dicomdata.catalog import Series
    from dicomdata.splits.grouping import Case, Source
    from dicomdata.stack import Stack

FORMAT = "dicomdata split 1"
"""The first line of a file says so; raised when the same file would mean something else."""

SUM_TOLERANCE = 1e-9
"""By which shares may miss 1: 0.8 + 0.1 + 0.1 does, in binary."""

Changed = Literal["error", "warn", "ignore"]
"""What to do about cases that came or went since the split was made."""


@dataclass(frozen=True, slots=True)
class Group:
    """Cases that are never parted: one patient's, as far as headers tell."""

    part: str
    """Where they are: "train", or the number of a fold."""

    patients: tuple[str, ...]
    """Patient IDs; none where only a study holds them together."""

    studies: tuple[str, ...]
    """Study Instance UIDs."""

    series: tuple[str, ...]
    """Series Instance UIDs; "folder ..." where there is none. Empty once they are gone."""

    stratum: str = ""
    """What it was balanced by: a value, or several of different series; "" where it was not."""


@dataclass(frozen=True, slots=True)
class SplitChanges:
    """How the cases of a catalog differ from those that were split."""

    added: tuple[str, ...] = ()
    """Series of patients that are in the split: they are in their patient's part."""

    unknown: tuple[str, ...] = ()
    """Series of patients that are not: they are in no part, until the split is extended."""

    missing: tuple[str, ...] = ()
    """Series that are gone."""

    renamed: bool = False
    """Whether the same series are said to be of other patients or studies than they were."""

    def __bool__(self) -> bool:
        """Whether anything has changed."""
        return bool(self.added or self.unknown or self.missing or self.renamed)

    def __str__(self) -> str:
        """Say it in one line."""
        told = {
            "of known patients came, and are in their patients' parts": self.added,
            "of unknown patients came, and are in no part": self.unknown,
            "are gone": self.missing,
        }
        lines = [
            f"{len(series)} series {what} (the first: {series[0]})"
            for what, series in told.items()
            if series
        ]
        if self.renamed:
            lines.append("series have other Patient IDs or Study Instance UIDs than they had")
        return "; ".join(lines)


@dataclass(frozen=True, slots=True)
class Split:
    """Which patient is in which part."""

    seed: int
    """What the hash of each patient was made with."""

    shares: tuple[tuple[str, float], ...]
    """Parts and the share each was to have of all patients."""

    groups: tuple[Group, ...]
    """Every patient, with its part."""

    catalog_fingerprint: str
    """Digest of the cases it was made of: patients, studies and series."""

    balanced: bool = False
    """Whether parts were balanced, rather than drawn patient by patient."""

    stratify: str = ""
    """What they were balanced by: a column, or "labels"; "" where by nothing."""

    missing_patient: Literal["refuse", "study"] = "refuse"
    """What was to be done about series that nothing tells whose they are."""

    same: tuple[tuple[str, str], ...] = ()
    """Pairs of Patient IDs that were said to be one patient's."""

    anonymous: tuple[str, ...] = ()
    """Patient IDs that were said to stand for nobody."""

    findings: tuple[str, ...] = ()
    """What was decided besides, in words."""

    _places: _Places = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", _Places(self.groups, self.anonymous))

    @property
    def parts(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(name for name, _ in self.shares)

    @property
    def fingerprint(self) -> str:
        """Digest of who is where: two splits that have the same are the same to a training."""
        told = sorted((group.part, group.patients, group.studies) for group in self.groups)
        return blake2b(repr(told).encode(), digest_size=16).hexdigest()

    def part_of(self, case: Stack | Series) -> str | None:
        """Give the part of a stack or a series, by its patient, study or itself; None if unknown.

        Raises:
            SplitError: if its patient is in one part, and its study in another.
        """
        return self._places.part(case.patient_id, case.study_instance_uid, series_name(case))

    def stacks(
        self, source: StackPlan | Iterable[Stack], part: str, *, changed: Changed = "error"
    ) -> tuple[Stack, ...]:
        """Give the stacks of one part, in the order in which they were planned.

        Args:
            source: a plan, or stacks of one. A plan may be a selection: what it leaves out is not
                missing as long as its catalog has it.
            part: its name.
            changed: what to do where cases came or went since the split was made: raise, warn, or
                nothing. A new series of a patient that is known is in that patient's part; a new
                patient is in none. That a plan has no stack of the part is warned of.

        Raises:
            SplitError: if there is no such part, or the cases have changed.
        """
        if part not in self.parts:
            raise SplitError(f"no part {part!r} in the split: it has {', '.join(self.parts)}")
        given = source if isinstance(source, StackPlan) else tuple(source)
        if changed != "ignore":
            self._tell(self.changes(given), changed)
        stacks = given.stacks if isinstance(given, StackPlan) else given
        chosen = tuple(stack for stack in stacks if self.part_of(stack) == part)
        if not chosen and isinstance(given, StackPlan) and changed != "ignore":
            warnings.warn(f"part {part!r} has no stack in the plan", DicomDataWarning, stacklevel=2)
        return chosen

    def changes(self, source: Source) -> SplitChanges:
        """Compare the cases that were split with those there are now.

        Args:
            source: a catalog or a plan, whose catalog says what is gone, selected or not; of mere
                stacks, nothing is called gone.
        """
        cases = without_names(cases_of(source), self.anonymous)
        owners: dict[str, list[Group]] = {}
        for group in self.groups:
            for series in group.series:
                owners.setdefault(series, []).append(group)
        new: dict[bool, list[str]] = {True: [], False: []}
        renamed = False
        for case in cases:
            if case.series not in owners:
                known = self._places.part(case.patient_id, case.study, case.series) is not None
                new[known].append(case.series)
            elif not any(_is_of(case, group) for group in owners[case.series]):
                renamed = True
        gone: set[str] = set()
        if isinstance(source, Catalog | StackPlan):
            gone = owners.keys() - _all_series(source)
            # Of a selection, the digest of all tells nothing.
            if owners.keys() == {case.series for case in cases}:
                renamed |= fingerprint_of(cases) != self.catalog_fingerprint
        return SplitChanges(tuple(new[True]), tuple(new[False]), tuple(sorted(gone)), renamed)

    def fold(self, number: int) -> Split:
        """Give one fold as a split of its own: "val" is the fold, "train" all others.

        Raises:
            SplitError: if there is no such fold, or parts are no folds.
        """
        if str(number) not in self.parts:
            raise SplitError(f"no fold {number} in the split: it has {', '.join(self.parts)}")
        shares = dict(self.shares)
        held = shares[str(number)]
        groups = tuple(
            replace(group, part="val" if group.part == str(number) else "train")
            for group in self.groups
        )
        return replace(self, shares=(("train", 1 - held), ("val", held)), groups=groups)

    def counts(self) -> dict[str, tuple[int, int]]:
        """Give how many patients and how many series each part has."""
        present = [group for group in self.groups if group.series]
        patients = Counter(group.part for group in present)
        series = Counter(dict.fromkeys(self.parts, 0))
        for group in present:
            series[group.part] += len(group.series)
        return {part: (patients[part], series[part]) for part in self.parts}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the split as JSON, whole or not at all.

        Raises:
            FileError: if it cannot be written.
        """
        partial = f"{os.fspath(path)}.partial"
        try:
            with open(partial, "w", encoding="utf-8") as file:
                file.write(_to_text(self))
            os.replace(partial, path)
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Split:
        """Read a split back.

        Raises:
            FileError: if it cannot be read.
            SplitError: if it is no split, or is not as it was written.
        """
        try:
            with open(path, "rb") as file:
                text = file.read()
        except OSError as error:
            raise FileError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            document = json.loads(text)
            split = _from_document(document)
        # A file that nests a thousand lists is no split either.
        except (ValueError, TypeError, RecursionError) as error:
            raise SplitError(f"{path}: not a split: {error}") from error
        try:
            _check(split, _take(document, "fingerprint", str))
        except (SplitError, ValueError) as error:
            raise SplitError(f"{path}: {error}") from error
        return split

    @staticmethod
    def _tell(changes: SplitChanges, changed: Changed) -> None:
        if not changes:
            return
        text = f"the cases have changed since they were split: {changes}"
        if changed == "error":
            raise SplitError(
                f"{text}: select what was selected then, extend the split, or ask for "
                f"changed='warn'"
            )
        warnings.warn(text, DicomDataWarning, stacklevel=3)


class _Places:
    """Finds the part of a case."""

    def __init__(self, groups: Iterable[Group], anonymous: Iterable[str]) -> None:
        self._anonymous = {*map(compared, anonymous)}
        self._patients: dict[str, str] = {}
        self._studies: dict[str, str] = {}
        self._series: dict[str, str] = {}
        for group in groups:
            self._patients.update(dict.fromkeys(map(compared, group.patients), group.part))
            self._studies.update(dict.fromkeys(group.studies, group.part))
            self._series.update(dict.fromkeys(group.series, group.part))

    def part(self, patient_id: str, study: str, series: str) -> str | None:
        """Give the part of a case; None where neither patient nor study is known, nor it itself."""
        patient = compared(patient_id)
        if patient in self._anonymous:
            patient = ""
        found = {
            f"Patient ID {patient_id!r}": self._patients.get(patient),
            f"study {study}": self._studies.get(study),
        }
        # A folder may hold several patients' series that have no UID.
        if is_uid(series) or not (patient or study):
            found["series itself"] = self._series.get(series)
        told = {name: part for name, part in found.items() if part is not None}
        if len({*told.values()}) > 1:
            each = ", and its ".join(f"{name} is in {part}" for name, part in told.items())
            raise SplitError(f"series {series}: its {each}: extend the split, or leave it out")
        return next(iter(told.values()), None)


def check_shares(shares: Mapping[str, float]) -> None:
    """Refuse shares that do not make one whole.

    Raises:
        SplitError: if there are fewer than two, one has no name, or their sum is not 1.
    """
    told = ", ".join(f"{name}={share:g}" for name, share in shares.items())
    if len(shares) < 2 or not all(math.isfinite(share) and share > 0 for share in shares.values()):
        raise SplitError(f"shares {told}: expected two or more, each above 0")
    if not all(shares):
        raise SplitError(f"shares {told}: expected a name for each")
    if abs(sum(shares.values()) - 1) > SUM_TOLERANCE:
        raise SplitError(f"shares {told}: expected a sum of 1, found {sum(shares.values()):g}")


def _is_of(case: Case, group: Group) -> bool:
    """Tell whether a case is still said to be of a group's patients and studies."""
    patients = {"", *map(compared, group.patients)}
    return compared(case.patient_id) in patients and case.study in {"", *group.studies}


def fingerprint_of(cases: Iterable[Case]) -> str:
    """Digest which series are whose."""
    told = sorted((case.patient_id, case.study, case.series) for case in cases)
    return blake2b(repr(told).encode(), digest_size=16).hexdigest()


def _all_series(source: Catalog | StackPlan) -> set[str]:
    """Name every series of the catalog, of selected ones or not."""
    catalog = source if isinstance(source, Catalog) else source.catalog
    return {series_name(series) for series in Catalog(catalog.path).series}


def _to_text(split: Split) -> str:
    """Write a split with a line for each of its groups."""
    head = {
        "format": FORMAT,
        "seed": split.seed,
        "shares": dict(split.shares),
        "balanced": split.balanced,
        "stratify": split.stratify,
        "missing_patient": split.missing_patient,
        "same": [list(pair) for pair in split.same],
        "anonymous": list(split.anonymous),
        "catalog_fingerprint": split.catalog_fingerprint,
        "fingerprint": split.fingerprint,
        "findings": list(split.findings),
    }
    lines = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    groups = [
        json.dumps(
            {
                "part": group.part,
                **{name: getattr(group, name) for name in _LISTS},
                "stratum": group.stratum,
            }
        )
        for group in split.groups
    ]
    body = ",\n".join(f"  {group}" for group in groups)
    return "\n".join(["{", *lines, ' "groups": [', body, " ]", "}", ""])


_LISTS = ("patients", "studies", "series")
"""Of a group, the fields that hold several names."""


def _from_document(document: Any) -> Split:
    """Read what `_to_text` wrote.

    Raises:
        ValueError: if something is missing, or is not what it should be.
    """
    if (told := _take(document, "format", str)) != FORMAT:
        raise ValueError(f"its format is {told!r}, expected {FORMAT!r}")
    missing = _take(document, "missing_patient", str)
    if missing not in {"refuse", "study"}:
        raise ValueError(f"missing_patient is {missing!r}, expected 'refuse' or 'study'")
    shares = _take(document, "shares", dict)
    return Split(
        seed=_take(document, "seed", int),
        shares=tuple((name, float(_take(shares, name, int | float))) for name in shares),
        groups=tuple(
            Group(
                part=_take(group, "part", str),
                stratum=_take(group, "stratum", str),
                **{name: _take_names(group, name) for name in _LISTS},
            )
            for group in _take(document, "groups", list)
        ),
        catalog_fingerprint=_take(document, "catalog_fingerprint", str),
        balanced=_take(document, "balanced", bool),
        stratify=_take(document, "stratify", str),
        missing_patient="study" if missing == "study" else "refuse",
        same=tuple((str(left), str(right)) for left, right in _take(document, "same", list)),
        # Files of before there was such a thing have none.
        anonymous=_take_names(document, "anonymous") if "anonymous" in document else (),
        findings=_take_names(document, "findings"),
    )


def _take(table: Any, name: str, kind: Any) -> Any:
    """Give an entry of a table, if it is there and of its kind."""
    if not isinstance(table, dict) or name not in table:
        raise ValueError(f"it lacks {name!r}")
    value = table[name]
    # True is a whole number to Python.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(
            f"its {name!r} is {value!r}, which is no {getattr(kind, '__name__', kind)}"
        )
    return value


def _take_names(table: Any, name: str) -> tuple[str, ...]:
    values = _take(table, name, list)
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"its {name!r} holds something else than names: {values!r}")
    return tuple(values)


def _check(split: Split, fingerprint: str) -> None:
    """Refuse a split whose file was changed so that it leaks, or says something else at all."""
    check_shares(dict(split.shares))
    places: dict[tuple[str, str], str] = {}
    for group in split.groups:
        if group.part not in split.parts:
            raise SplitError(f"{group.patients or group.studies} are in no part: {group.part!r}")
        names = [("patient", compared(each)) for each in group.patients]
        names += [("study", each) for each in group.studies]
        names += [("series", each) for each in group.series if is_uid(each) or not names]
        for kind, name in names:
            if places.setdefault((kind, name), group.part) != group.part:
                raise SplitError(
                    f"{kind} {name} is in {places[kind, name]} and in {group.part}: it would leak"
                )
    if split.fingerprint != fingerprint:
        raise SplitError(
            f"who is where is not as it was written: that had the fingerprint {fingerprint}, this "
            f"has {split.fingerprint}: write that into the file if the change was meant"
        )

"""Makes splits, and takes them up again where cases came: `make_split`."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from dicomdata.errors import SplitError
from dicomdata.splits.assignment import balance, draw
from dicomdata.splits.grouping import (
    Case,
    Kin,
    cases_of,
    compared,
    findings_of,
    group_cases,
    unnamed,
    without_names,
)
from dicomdata.splits.records import SUM_TOLERANCE, Group, Split, check_shares, fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from dicomdata.splits.grouping import Members, Source

Strata: TypeAlias = "str | Mapping[str, Any]"
"""What to balance: a column of the catalog; or labels by series, study or patient."""

LABELS = "labels"
"""What a split says it was balanced by where that was no column."""


def make_split(  # noqa: PLR0913 - a split is a choice of several things, all of them by name
    source: Source,
    parts: Mapping[str, float] | int,
    *,
    seed: int,
    stratify: Strata | None = None,
    balanced: bool = False,
    missing_patient: Literal["refuse", "study"] = "refuse",
    same: Mapping[str, str] | None = None,
    anonymous: Collection[str] = (),
    previous: Split | None = None,
) -> Split:
    """Give every patient a part; nothing of one patient is ever in two.

    One patient is what shares a Patient ID (0010,0020), but for case and spaces, a Study Instance
    UID (0020,000D) or a Series Instance UID (0020,000E).

    Without `stratify` or `balanced`, the part of a patient depends on the Patient ID, the seed
    and the shares alone: who else is there changes nothing, and parts have their shares on average.
    With them, no part is further than two patients from its share, of all and of each stratum.
    That needs to know who is there, so the split of more cases is made from the one before, and
    whoever has a part keeps it.

    Args:
        source: a catalog, a plan, or a selection of either.
        parts: share of each part, as in ``{"train": 0.8, "val": 0.1, "test": 0.1}``; or a number
            of folds, which are called "0", "1" and so on.
        seed: a whole number; another one is another split.
        stratify: what to balance besides: a column of the catalog, or a label by Series Instance
            UID, Study Instance UID or Patient ID. A patient with several values is of a stratum
            with patients that have the same ones.
        balanced: balance the number of patients, as `stratify` does, without strata.
        missing_patient: what to do with cases that have no Patient ID, and no study that says whose
            they are: refuse, or let each study be a patient, which leaks if one has two.
        same: Patient ID -> another of the same patient: a copy that was made anonymous.
        anonymous: Patient IDs that stand for nobody, as "ANON" or "0" in every file: taken for
            missing, so `missing_patient` decides.
        previous: an earlier split of the same shares and seed, to be kept to.

    Raises:
        SplitError: if shares make no sense, a part would be empty, nothing says whose cases are,
            there is no such column, or patients that `previous` has parted turn out to be one.
    """
    shares, seed = _shares(parts), _whole(seed, "seed")
    if isinstance(anonymous, str):
        raise SplitError(f"anonymous={anonymous!r}: expected Patient IDs, [{anonymous!r}]")
    kin_of = dict(previous.same if previous else ()) | dict(same or {})
    if previous is not None:
        _check_previous(previous, shares, seed)
    nobody = tuple(sorted({*anonymous, *(previous.anonymous if previous else ())}))
    named = cases_of(source, columns=isinstance(stratify, str))
    cases = without_names(named, nobody)
    groups = group_cases(cases, Kin(kin_of, previous.groups if previous else ()))
    _check_named(groups, missing_patient)
    weigh = balanced or stratify is not None
    strata = _strata(groups, stratify)
    placed = {group.key: group.part for group in groups if group.part}
    left = {key: stratum for key, stratum in strata.items() if key not in placed}
    if weigh:
        kept = [(strata[key], part) for key, part in placed.items()]
        placed |= balance(left, seed, shares, kept)
    else:
        placed |= {key: draw(key, seed, shares) for key in left}
    findings = [*findings_of(groups, kin_of), *_unmet(named, nobody)]
    _check_filled(placed, shares, [*findings, *_one_name(groups, shares)], balanced=weigh)
    return Split(
        seed=seed,
        shares=tuple(shares.items()),
        groups=(
            *(_group(group, placed[group.key], strata[group.key]) for group in groups),
            *(_absent(previous.groups, groups) if previous else ()),
        ),
        catalog_fingerprint=fingerprint_of(cases),
        balanced=weigh,
        stratify=_name_of(stratify),
        missing_patient=missing_patient,
        same=tuple(sorted(kin_of.items())),
        anonymous=nobody,
        findings=(*findings, *_unlabelled(strata, stratify)),
    )


def _shares(parts: Mapping[str, float] | int) -> dict[str, float]:
    """Give the share of each part.

    Raises:
        SplitError: if there are fewer than two, or they do not make one whole.
    """
    if not isinstance(parts, Mapping):
        count = _whole(parts, "parts")
        if count < 2:
            raise SplitError(f"{count} folds: expected 2 or more")
        return {str(number): 1 / count for number in range(count)}
    shares = {str(name): float(share) for name, share in parts.items()}
    if len(shares) < len(parts):
        raise SplitError(f"parts {', '.join(map(repr, parts))}: expected different names")
    check_shares(shares)
    return shares


def _whole(number: Any, what: str) -> int:
    try:
        return operator.index(number)
    except TypeError:
        raise SplitError(f"{what}={number!r}: expected a whole number") from None


def _check_previous(previous: Split, shares: Mapping[str, float], seed: int) -> None:
    before = dict(previous.shares)
    if list(before) != list(shares) or any(
        abs(before[name] - share) > SUM_TOLERANCE for name, share in shares.items()
    ):
        raise SplitError(f"the earlier split has the shares {before}, and not {dict(shares)}")
    if previous.seed != seed:
        raise SplitError(f"the earlier split has the seed {previous.seed}, and not {seed}")


def _check_named(groups: Sequence[Members], missing_patient: str) -> None:
    if not groups:
        raise SplitError("there is no case to split")
    cases = unnamed(groups)
    if cases and missing_patient != "study":
        raise SplitError(
            f"{len(cases)} series have no Patient ID (0010,0020), so nothing says which of them "
            f"are one patient's (the first: {cases[0].series}): leave them out, or take each study "
            f"for a patient: missing_patient='study', or --missing-patient study"
        )


def _check_filled(
    placed: Mapping[str, str],
    shares: Mapping[str, float],
    findings: Sequence[str],
    *,
    balanced: bool,
) -> None:
    counts = Counter(placed.values())
    empty = [part for part in shares if not counts[part]]
    if empty:
        told = ", ".join(f"{part} {counts[part]}" for part in shares)
        way = "" if balanced else ", balance them"
        raise SplitError(
            f"{len(placed)} patients leave {', '.join(empty)} empty ({told}): take other "
            f"shares{way}, or more patients{''.join(f'; {finding}' for finding in findings)}"
        )


def _one_name(groups: Sequence[Members], shares: Mapping[str, float]) -> list[str]:
    """Suspect a Patient ID that has as many studies as there are parts to be that of nobody."""
    most = max(groups, key=lambda group: len(group.studies))
    if len({*map(compared, most.patients)}) != 1 or len(most.studies) < len(shares):
        return []
    name = most.patients[0]
    told = (
        f"the Patient ID {name!r} is that of {len(most.cases)} series in {len(most.studies)} "
        f"studies: if it stands for nobody, each study can be taken for a patient, though two of "
        f"them may be of one: anonymous=[{name!r}] and missing_patient='study', or --anonymous "
        f"{name} --missing-patient study"
    )
    return [told]


def _unmet(cases: Sequence[Case], anonymous: Sequence[str]) -> list[str]:
    """Say which Patient IDs were said to stand for nobody and are not there."""
    known = {compared(case.patient_id) for case in cases}
    unmet = [name for name in anonymous if compared(name) not in known]
    return [f"anonymous_unknown: no case has the Patient ID {name!r}" for name in unmet]


def _strata(groups: Sequence[Members], stratify: Strata | None) -> dict[str, str]:
    """Give the stratum of each group, by its key: its value, or the several that it has.

    Raises:
        SplitError: if there is no such column, or no label is of any case.
    """
    if stratify is None:
        return {group.key: "" for group in groups}
    if isinstance(stratify, Mapping):
        stratify = _compared_labels(stratify)
    strata = {group.key: _stratum(group, stratify) for group in groups}
    if isinstance(stratify, Mapping) and not any(strata.values()):
        raise SplitError(
            f"{len(stratify)} labels (the first of {next(iter(stratify), '')!r}) are of no series, "
            f"study or patient that is here"
        )
    return strata


def _compared_labels(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Give labels by names as they are compared, so that a patient's is found however spelt."""
    found: dict[str, Any] = {}
    for name, value in labels.items():
        if found.setdefault(compared(str(name)), value) != value:
            raise SplitError(f"labels: {name!r} has another one where it is spelt differently")
    return found


def _stratum(group: Members, stratify: Strata) -> str:
    values = {_value(case, stratify) for case in group.cases}
    return " + ".join(sorted(str(value) for value in values if value not in (None, "")))


def _value(case: Case, stratify: Strata) -> Any:
    if isinstance(stratify, Mapping):
        names = map(compared, (case.series, case.study, case.patient_id))
        return next((stratify[name] for name in names if name in stratify), None)
    if stratify not in case.columns:
        raise SplitError(f"no column {stratify!r}: the columns are {', '.join(case.columns)}")
    return case.columns[stratify]


def _unlabelled(strata: Mapping[str, str], stratify: Strata | None) -> list[str]:
    """Say who has nothing to be balanced by."""
    none = [key for key, stratum in strata.items() if not stratum]
    if stratify is None or not none:
        return []
    told = f"{len(none)} patients have no {_name_of(stratify)}, and are balanced among themselves"
    return [f"stratum_missing: {told}; the first is {none[0]}"]


def _name_of(stratify: Strata | None) -> str:
    if stratify is None:
        return ""
    return LABELS if isinstance(stratify, Mapping) else stratify


def _group(members: Members, part: str, stratum: str) -> Group:
    series = tuple(sorted({case.series for case in members.cases}))
    return Group(part, members.patients, members.studies, series, stratum)


def _absent(before: Sequence[Group], groups: Sequence[Members]) -> list[Group]:
    """Give the groups of which nothing is there any more: should they come back, they are known."""
    patients = {name for group in groups for name in group.patients}
    studies = {name for group in groups for name in group.studies}
    series = {case.series for group in groups for case in group.cases}
    return [
        replace(group, series=())
        for group in before
        if patients.isdisjoint(group.patients)
        and studies.isdisjoint(group.studies)
        and series.isdisjoint(group.series)
    ]

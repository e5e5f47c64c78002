"""Makes splits, and takes them up again where cases came: `make_split`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from dicomdata.errors import SplitError
from dicomdata.splits.assignment import balance, draw
from dicomdata.splits.grouping import Case, Kin, cases_of, findings_of, group_cases, unnamed
from dicomdata.splits.records import Group, Split, fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicomdata.splits.grouping import Members, Source

Strata: TypeAlias = "str | Mapping[str, Any]"
"""What to balance: a column of the catalog; or labels by series, study or patient."""

LABELS = "labels"
"""What a split says it was balanced by where that was no column."""

_SUM_TOLERANCE = 1e-9
"""By which shares may miss 1: 0.8 + 0.1 + 0.1 does, in binary."""


def make_split(  # noqa: PLR0913 - a split is a choice of several things, all of them by name
    source: Source,
    parts: Mapping[str, float] | int,
    *,
    seed: int,
    stratify: Strata | None = None,
    balanced: bool = False,
    missing_patient: Literal["refuse", "study"] = "refuse",
    same: Mapping[str, str] | None = None,
    previous: Split | None = None,
) -> Split:
    """Give every patient a part; nothing of one patient is ever in two.

    One patient is what shares a Patient ID (0010,0020), but for case and spaces, or a Study
    Instance UID (0020,000D).

    Without `stratify` or `balanced`, the part of a patient depends on the Patient ID, the seed
    and the shares alone: who else is there changes nothing, and parts have their shares on average.
    With them, no part is further than two patients from its share, of all and of each stratum.
    That needs to know who is there, so the split of more cases is made from the one before, and
    whoever has a part keeps it.

    Args:
        source: a catalog, a plan, or a selection of either.
        parts: share of each part, as in ``{"train": 0.8, "val": 0.1, "test": 0.1}``; or a number
            of folds, which are called "0", "1" and so on.
        seed: another seed is another split.
        stratify: what to balance besides: a column of the catalog, or a label by Series Instance
            UID, Study Instance UID or Patient ID. A patient with several values is of a stratum
            with patients that have the same ones.
        balanced: balance the number of patients, as `stratify` does, without strata.
        missing_patient: what to do with cases that have no Patient ID, and no study that says whose
            they are: refuse, or let each study be a patient, which leaks if one has two.
        same: Patient ID -> another of the same patient: a copy that was made anonymous.
        previous: an earlier split of the same shares and seed, to be kept to.

    Raises:
        SplitError: if shares make no sense, a part would be empty, nothing says whose cases are,
            there is no such column, or patients that `previous` has parted turn out to be one.
    """
    shares = _shares(parts)
    kin_of = dict(previous.same if previous else ()) | dict(same or {})
    if previous is not None:
        _check_previous(previous, shares, seed)
    cases = cases_of(source)
    groups = group_cases(cases, Kin(kin_of, previous.groups if previous else ()))
    _check_named(groups, missing_patient)
    weigh = balanced or stratify is not None
    strata = {group.key: _stratum(group, stratify) for group in groups}
    placed = {group.key: group.part for group in groups if group.part}
    left = {key: stratum for key, stratum in strata.items() if key not in placed}
    if weigh:
        kept = [(strata[key], part) for key, part in placed.items()]
        placed |= balance(left, seed, shares, kept)
    else:
        placed |= {key: draw(key, seed, shares) for key in left}
    _check_filled(placed, shares, balanced=weigh)
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
        findings=tuple(findings_of(groups)),
    )


def _shares(parts: Mapping[str, float] | int) -> dict[str, float]:
    """Give the share of each part.

    Raises:
        SplitError: if there are fewer than two, or they do not make one whole.
    """
    if not isinstance(parts, Mapping):
        if parts < 2:
            raise SplitError(f"{parts} folds: expected 2 or more")
        return {str(number): 1 / parts for number in range(parts)}
    shares = {str(name): float(share) for name, share in parts.items()}
    told = ", ".join(f"{name}={share:g}" for name, share in shares.items())
    if len(shares) < 2 or not all(math.isfinite(s) and s > 0 for s in shares.values()):
        raise SplitError(f"shares {told}: expected two or more, each above 0")
    if abs(sum(shares.values()) - 1) > _SUM_TOLERANCE:
        raise SplitError(f"shares {told}: expected a sum of 1, found {sum(shares.values()):g}")
    return shares


def _check_previous(previous: Split, shares: Mapping[str, float], seed: int) -> None:
    before = dict(previous.shares)
    if list(before) != list(shares) or any(
        abs(before[name] - share) > _SUM_TOLERANCE for name, share in shares.items()
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
            f"for a patient, with missing_patient='study'"
        )


def _check_filled(
    placed: Mapping[str, str], shares: Mapping[str, float], *, balanced: bool
) -> None:
    counts = Counter(placed.values())
    empty = [part for part in shares if not counts[part]]
    if empty:
        told = ", ".join(f"{part} {counts[part]}" for part in shares)
        way = "" if balanced else ", balance them"
        raise SplitError(
            f"{len(placed)} patients leave {', '.join(empty)} empty ({told}): take other "
            f"shares{way}, or more patients"
        )


def _stratum(group: Members, stratify: Strata | None) -> str:
    """Give the value of a group of cases, or the several that it has."""
    if stratify is None:
        return ""
    values = {_value(case, stratify) for case in group.cases}
    return " + ".join(sorted(str(value) for value in values if value not in (None, "")))


def _value(case: Case, stratify: Strata) -> Any:
    if isinstance(stratify, Mapping):
        names = (case.series, case.study, case.patient_id)
        return next((stratify[name] for name in names if name in stratify), None)
    if stratify not in case.columns:
        raise SplitError(f"no column {stratify!r}: the columns are {', '.join(case.columns)}")
    return case.columns[stratify]


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

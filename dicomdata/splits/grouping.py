"""Which series belong to one patient, as far as headers tell: what must never be parted.

Patient IDs that differ in case or spaces only are one patient's, and so are those that share a
study or a Series Instance UID: of two that are one patient, a mistake leaks; of two that are not,
it costs nothing. So one ID that two hospitals use is one patient's too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from unicodedata import normalize

from dicomdata.catalog import Catalog, Series
from dicomdata.errors import SplitError
from dicomdata.stack import Stack, StackPlan
from dicomdata.volume.files import VolumeFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

Source: TypeAlias = "Catalog | StackPlan | Iterable[Stack]"
"""What can be split: series, the volumes of series, or a choice of these."""

ISSUER = "IssuerOfPatientID"
"""Column of who gave a Patient ID, (0010,0021), if the scan was told to keep it."""

_SHOWN = 3
"""Patients or series that a message names; their number says how many more there are."""


@dataclass(frozen=True, slots=True)
class Case:
    """One series, by what tells whose it is."""

    patient_id: str
    """Patient ID (0010,0020); "" where there is none."""

    study: str
    """Study Instance UID (0020,000D); "" where there is none."""

    series: str
    """Series Instance UID (0020,000E), or the folder of a series that has none."""

    columns: Mapping[str, Any]
    """All columns of the catalog."""


@dataclass(frozen=True, slots=True)
class Members:
    """Cases that must stay together, and the name by which they are drawn."""

    key: str
    """The first of its patients, as they are compared; or of its studies, or its series."""

    cases: tuple[Case, ...]
    """Ordered by series."""

    patients: tuple[str, ...]
    """Patient IDs as written, ordered; those of an earlier split too."""

    studies: tuple[str, ...]
    """Study Instance UIDs, ordered; those of an earlier split too."""

    part: str = ""
    """Where an earlier split has put them; "" where it has not."""


def cases_of(source: Source, *, columns: bool = False) -> list[Case]:
    """Give the series of a catalog, or those that stacks are of, ordered by name.

    Args:
        source: a catalog, a plan, or stacks.
        columns: whether those of stacks are wanted as well, for which their catalog is opened.
    """
    if isinstance(source, Catalog):
        found = [_case_of_series(series) for series in source.series]
    elif isinstance(source, StackPlan):
        used = {stack.series_id for stack in source.stacks}
        rows = source.catalog.series
        found = [_case_of_series(series) for series in rows if series.id in used]
    else:
        found = [_case_of_stack(stack, columns=columns) for stack in source]
    cases = {(case.series, case.patient_id): case for case in found}
    return [cases[name] for name in sorted(cases)]


def without_names(cases: Iterable[Case], anonymous: Collection[str]) -> list[Case]:
    """Give cases whose Patient ID stands for nobody as cases that have none."""
    nobody = {*map(compared, anonymous)}
    return [
        replace(case, patient_id="") if compared(case.patient_id) in nobody else case
        for case in cases
    ]


def series_name(thing: Series | Stack) -> str:
    """Give the Series Instance UID, or what stands in for it: a file, or a folder."""
    if thing.series_instance_uid:
        return thing.series_instance_uid
    if isinstance(thing, VolumeFile):
        return f"{_FILE}{thing.path}"
    if isinstance(thing, Stack):
        thing = _series_of(thing)
    return f"{_FOLDER}{thing.folder}"


def is_uid(name: str) -> bool:
    """Tell whether a series is called by its UID, which no other patient's can have."""
    return not name.startswith((_FILE, _FOLDER))


_FILE, _FOLDER = "file ", "folder "
"""How a series without UID is called."""


def _case_of_series(series: Series) -> Case:
    return Case(
        series.patient_id,
        series.study_instance_uid,
        series_name(series),
        series.columns_by_name,
    )


def _case_of_stack(stack: Stack, *, columns: bool) -> Case:
    known: Mapping[str, Any] = {"modality": stack.modality, "unit": stack.unit}
    if columns and stack.catalog:
        known = {**_series_of(stack).columns_by_name, **known}
    return Case(stack.patient_id, stack.study_instance_uid, series_name(stack), known)


def _series_of(stack: Stack) -> Series:
    # One that is gone has no time; opening it says so.
    changed = os.stat(stack.catalog).st_mtime_ns if os.path.exists(stack.catalog) else 0
    return _rows(stack.catalog, changed)[stack.series_id]


@lru_cache(maxsize=2)
def _rows(catalog: str, _: int) -> dict[int, Series]:
    """Read the series of a catalog as it was changed last, once for all of its stacks."""
    return {series.id: series for series in Catalog(Path(catalog)).series}


def compared(patient_id: str) -> str:
    """Give a Patient ID as it is compared: spaces, case and widths tell no patients apart."""
    return " ".join(normalize("NFKC", patient_id).split()).casefold()


class Known(Protocol):
    """A group of an earlier split."""

    @property
    def part(self) -> str:
        """Where it is."""

    @property
    def patients(self) -> tuple[str, ...]:
        """Patient IDs."""

    @property
    def studies(self) -> tuple[str, ...]:
        """Study Instance UIDs."""

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its series."""


@dataclass(frozen=True, slots=True)
class Kin:
    """What is one patient's, besides what headers say."""

    same: Mapping[str, str]
    """Patient ID -> that of the same patient: a copy under another name."""

    known: Sequence[Known] = ()
    """The groups of an earlier split."""


def group_cases(cases: Sequence[Case], kin: Kin) -> list[Members]:
    """Put together what shares a patient, a study or a series, or did before; ordered by key.

    Raises:
        SplitError: if that joins what an earlier split has parted.
    """
    links = _Links()
    for left, right in kin.same.items():
        links.join(("patient", compared(left)), ("patient", compared(right)))
    named = [(_nodes(each.patients, each.studies, each.series), each) for each in kin.known]
    for nodes, _ in named:
        links.join(*nodes)
    for case in cases:
        links.join(*_nodes_of(case))
    together: dict[_Node, list[Case]] = {}
    for case in cases:
        together.setdefault(links.first(_nodes_of(case)[0]), []).append(case)
    earlier: dict[_Node, list[Known]] = {}
    for nodes, each in named:
        earlier.setdefault(links.first(nodes[0]), []).append(each)
    groups = [_members(node, found, earlier.get(node, ())) for node, found in together.items()]
    return sorted(groups, key=lambda group: group.key)


def unnamed(groups: Iterable[Members]) -> list[Case]:
    """Give the cases of which no header, and no study, says whose they are."""
    return [case for group in groups if not group.patients for case in group.cases]


def findings_of(groups: Sequence[Members], same: Mapping[str, str]) -> list[str]:
    """Say what was decided about whose the cases are, beyond their Patient IDs."""
    findings = _unmet(groups, same)
    if cases := unnamed(groups):
        findings.append(
            f"patient_missing: {len(cases)} series have no Patient ID, and each of their studies "
            f"counts as a patient, though two may be of one; the first is {cases[0].series}"
        )
    several = [group for group in groups if len({*map(compared, group.patients)}) > 1]
    if several:
        told = "; ".join(" = ".join(group.patients) for group in several[:_SHOWN])
        findings.append(
            f"patients_joined: {len(several)} groups have more than one Patient ID, by a common "
            f"study or series or as was said, and stay together: {told}"
        )
    spelt = [
        group for group in groups if len({*map(compared, group.patients)}) < len(group.patients)
    ]
    if spelt:
        told = "; ".join(" = ".join(map(repr, group.patients)) for group in spelt[:_SHOWN])
        findings.append(
            f"patient_spelling: {len(spelt)} groups have Patient IDs that differ in case or "
            f"spaces only, and stay together: {told}"
        )
    return findings + _issuers(groups)


def _unmet(groups: Sequence[Members], same: Mapping[str, str]) -> list[str]:
    """Say which patients were said to be the same and are not there: their names may be wrong."""
    known = {compared(name) for group in groups for name in group.patients}
    unmet = sorted({name for pair in same.items() for name in pair if compared(name) not in known})
    if not unmet:
        return []
    told = ", ".join(map(repr, unmet[:_SHOWN]))
    return [f"same_unknown: {len(unmet)} Patient IDs said to be others' are of no case: {told}"]


def _issuers(groups: Sequence[Members]) -> list[str]:
    """Say which Patient IDs were given by several, who may have meant several patients."""
    givers: dict[str, set[str]] = {}
    for group in groups:
        for case in group.cases:
            if issuer := str(case.columns.get(ISSUER) or ""):
                givers.setdefault(compared(case.patient_id), set()).add(issuer)
    several = [
        f"{name} of {' and '.join(sorted(issuers))}"
        for name, issuers in givers.items()
        if len(issuers) > 1
    ]
    if not several:
        return []
    told = f"{len(several)} Patient IDs were given by several issuers (0010,0021)"
    who = "; ".join(several[:_SHOWN])
    return [f"patient_issuers: {told}, and each stays together, as if of one patient: {who}"]


_Node: TypeAlias = tuple[str, str]
"""(one of `_KINDS`, what it is called)."""

_KINDS = ("patient", "study", "series")
"""Of nodes; the first that a group has names it."""


def _nodes(patients: Iterable[str], studies: Iterable[str], series: Iterable[str]) -> list[_Node]:
    """Give what a group is known by: a folder or a file only where there is nothing else."""
    named = [("patient", compared(each)) for each in patients if compared(each)]
    named += [("study", each) for each in studies if each]
    return named + [("series", each) for each in series if is_uid(each) or not named]


def _nodes_of(case: Case) -> list[_Node]:
    return _nodes([case.patient_id], [case.study], [case.series])


def _members(node: _Node, cases: list[Case], earlier: Sequence[Known]) -> Members:
    patients = {case.patient_id for case in cases if compared(case.patient_id)}
    patients.update(name for each in earlier for name in each.patients)
    studies = {case.study for case in cases if case.study}
    studies.update(name for each in earlier for name in each.studies)
    parts = {each.part for each in earlier}
    if len(parts) > 1:
        who = ", ".join(sorted(patients)) or cases[0].series
        raise SplitError(
            f"{who}: belong together now, by a common study or series or as was said, and the "
            f"earlier split has them in {' and '.join(sorted(parts))}: leave one of them out, or "
            f"make a new split"
        )
    kind, name = node
    return Members(
        # A patient's name alone: it must not matter what else is known of it.
        name if kind == "patient" else f"{kind} {name}",
        tuple(cases),
        tuple(sorted(patients)),
        tuple(sorted(studies)),
        *parts,
    )


class _Links:
    """Which nodes hang together."""

    def __init__(self) -> None:
        self._above: dict[_Node, _Node] = {}

    def first(self, node: _Node) -> _Node:
        """Give the one that stands for all that hang together with `node`: the first of them."""
        path = []
        while (above := self._above.setdefault(node, node)) != node:
            path.append(node)
            node = above
        for each in path:
            self._above[each] = node
        return node

    def join(self, *nodes: _Node) -> None:
        """Say that nodes hang together."""
        # The first is a patient where there is one.
        found = {self.first(node) for node in nodes}
        first, *others = sorted(found, key=lambda node: (_KINDS.index(node[0]), node[1]))
        for node in others:
            self._above[node] = first

"""Which series belong to one patient, as far as headers tell: what must never be parted.

Patient IDs that differ in case or spaces only are one patient's, and so are those that share a
study: of two that are one patient, a mistake leaks; of two that are not, it costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from dicomdata.catalog import Catalog, Series
from dicomdata.errors import SplitError
from dicomdata.stack import Stack, StackPlan
from dicomdata.volume.files import VolumeFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Source: TypeAlias = "Catalog | StackPlan | Iterable[Stack]"
"""What can be split: series, the volumes of series, or a choice of these."""

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


def cases_of(source: Source) -> list[Case]:
    """Give the series of a catalog, or those that stacks are of, ordered by name."""
    if isinstance(source, Catalog):
        found = [_case_of_series(series) for series in source.series]
    elif isinstance(source, StackPlan):
        used = {stack.series_id for stack in source.stacks}
        rows = source.catalog.series
        found = [_case_of_series(series) for series in rows if series.id in used]
    else:
        found = [_case_of_stack(stack) for stack in source]
    cases = {(case.series, case.patient_id): case for case in found}
    return [cases[name] for name in sorted(cases)]


def series_name(thing: Series | Stack) -> str:
    """Give the Series Instance UID, or what stands in for it: a file, or a folder."""
    if thing.series_instance_uid:
        return thing.series_instance_uid
    if isinstance(thing, VolumeFile):
        return f"file {thing.path}"
    if isinstance(thing, Stack):
        rows = Catalog(Path(thing.catalog)).series
        thing = next(series for series in rows if series.id == thing.series_id)
    return f"folder {thing.folder}"


def _case_of_series(series: Series) -> Case:
    return Case(
        series.patient_id,
        series.study_instance_uid,
        series_name(series),
        series.columns_by_name,
    )


def _case_of_stack(stack: Stack) -> Case:
    columns = {"modality": stack.modality, "unit": stack.unit}
    return Case(stack.patient_id, stack.study_instance_uid, series_name(stack), columns)


def compared(patient_id: str) -> str:
    """Give a Patient ID as it is compared: spaces and case tell no patients apart."""
    return " ".join(patient_id.split()).casefold()


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
    """Put together what shares a patient or a study, or shared one before; ordered by key.

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


def findings_of(groups: Sequence[Members]) -> list[str]:
    """Say what was decided about whose the cases are, beyond their Patient IDs."""
    findings = []
    if cases := unnamed(groups):
        findings.append(
            f"patient_missing: {len(cases)} series have no Patient ID, and each of their studies "
            f"counts as a patient; the first is {cases[0].series}"
        )
    several = [group for group in groups if len({*map(compared, group.patients)}) > 1]
    if several:
        told = "; ".join(" = ".join(group.patients) for group in several[:_SHOWN])
        findings.append(
            f"patients_joined: {len(several)} groups have more than one Patient ID, by a common "
            f"study or as was said, and stay together: {told}"
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
    return findings


_Node: TypeAlias = tuple[str, str]
"""("patient" | "study" | "series", what it is called)."""


def _nodes(patients: Iterable[str], studies: Iterable[str], series: Iterable[str]) -> list[_Node]:
    """Give what a group is known by: its series only where there is nothing else."""
    named = [("patient", compared(each)) for each in patients if compared(each)]
    named += [("study", each) for each in studies if each]
    return named or [("series", each) for each in series]


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
            f"{who}: belong together now, by a common study or as was said, and the earlier split "
            f"has them in {' and '.join(sorted(parts))}: leave one of them out, or make a new split"
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
        # "patient" sorts before "series" and "study": the first is a patient where there is one.
        first, *others = sorted({self.first(node) for node in nodes})
        for node in others:
            self._above[node] = first

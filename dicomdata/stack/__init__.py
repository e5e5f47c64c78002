"""A series -> `Stack`s: group, prove the grid, account for every frame.

`grouping` tells which frames could make one volume, `grid` proves that they do, `splitting` parts
those that are several volumes, `units` says in which units. No pixels are read, but of frames that
claim the same place: whether they are the same is told by their bytes. `repair` plans grids for
what lies on none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dicomdata.errors import DicomDataError, GeometryError, HeaderError, Rejection
from dicomdata.stack.account import FindingRow, Findings, Outcome, Outcomes
from dicomdata.stack.grid import Grid, nominal_grid, plane_of, prove_grid
from dicomdata.stack.grouping import (
    Group,
    NumberedFrame,
    canonical_order,
    drop_duplicates,
    group_by_pixels,
    group_frames,
)
from dicomdata.stack.partitions import SPLITTABLE
from dicomdata.stack.policy import Finding, Policy
from dicomdata.stack.records import SeriesPlan, Stack, StackPlan, identified
from dicomdata.stack.repair import LEAST_MEASURED, sample_evenly, untilt
from dicomdata.stack.splitting import split_by_dimension, split_by_frame_of_reference
from dicomdata.stack.units import check_pixels, find_unit, value_findings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicomdata.catalog import Catalog, Series

__all__ = [
    "Finding",
    "FindingRow",
    "Findings",
    "Outcome",
    "Outcomes",
    "Policy",
    "SeriesPlan",
    "Stack",
    "StackPlan",
    "plan_stacks",
    "stack_series",
    "untilt",
]

_FRAGMENT_FRAMES = 2
_FRAGMENT_SHARE = 0.05
"""A group of so few frames, beside a larger one, is a localizer or a left-over."""

_VOLUME_FRAMES = 3
"""Frames that a group needs before smaller ones count as beside it."""


def stack_series(series: Series, policy: Policy | None = None) -> list[Stack]:
    """Give the volumes of one series, by what their headers say.

    Raises:
        DicomDataError: the first reason why some of its frames make no volume:
            `GeometryError`, `HeaderError`, `RescaleError`. `plan_stacks` keeps the others.
    """
    plan = plan_series(series, policy or Policy())
    if plan.rejected:
        raise plan.rejected[0].error
    return list(plan.stacks)


def plan_stacks(catalog: Catalog, policy: Policy | None = None) -> StackPlan:
    """Find the volumes of every series of a catalog; nothing raises for a series.

    Args:
        catalog: all series, or those of a selection.
        policy: which findings to accept and to reject.
    """
    chosen = policy or Policy()
    planned = tuple(plan_series(series, chosen) for series in catalog.series)
    return StackPlan(catalog, chosen, planned)


@dataclass(slots=True)
class _Account:
    """What was decided so far about the frames of one series."""

    series: Series
    stacks: list[Stack] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    set_aside: list[Outcome] = field(default_factory=list)

    def reject(self, frames: Sequence[NumberedFrame], error: DicomDataError) -> None:
        """Leave frames out for one reason, which names the series and the first file."""
        first = frames[0].frame.path
        text = str(error) if first in str(error) else f"{first}: {error}"
        if len(frames) > 1:
            text = f"{text} ({len(frames)} frames)"
        text = f"{self.series.label}: {text}"
        named = type(error)(text)
        named.__dict__.update(error.__dict__)
        subject = first if len(frames) == 1 else self.series.series_instance_uid or first
        self.rejected.append(Rejection(subject, named))
        self.put_aside(frames, "rejected", text)

    def put_aside(
        self, frames: Sequence[NumberedFrame], outcome: str, reason: str, stack: str = ""
    ) -> None:
        """Record why frames are in no stack."""
        self.set_aside += [
            Outcome(frame.path, frame.number, outcome, reason, stack, None)
            for frame in (numbered.frame for numbered in frames)
        ]


def plan_series(series: Series, policy: Policy) -> SeriesPlan:
    """Decide about every frame of one series: in a stack, set aside, or rejected."""
    account = _Account(series)
    frames = canonical_order(series.numbered_frames())
    usable = _usable(frames, account, policy)
    groups = group_frames(usable)
    for group in groups:
        largest = groups[0]
        if group is not largest and _is_fragment(group, largest, len(usable)):
            _judge_fragment(group, largest, account, policy)
            continue
        for part in split_by_frame_of_reference(group):
            _judge(part, account, policy)
    return SeriesPlan(
        series.id, tuple(account.stacks), tuple(account.rejected), tuple(account.set_aside)
    )


def _usable(
    frames: Sequence[NumberedFrame], account: _Account, policy: Policy
) -> list[NumberedFrame]:
    """Leave out frames that are no samples of one quantity, or have no place, by name."""
    usable = []
    unplaced: dict[str, list[NumberedFrame]] = {}
    unusable: dict[str, tuple[DicomDataError, list[NumberedFrame]]] = {}
    for numbered in frames:
        frame = numbered.frame
        try:
            check_pixels(frame)
            if frame.position is None and policy.position_missing == "accept":
                unplaced.setdefault(frame.path, []).append(numbered)
                continue
            plane_of(frame)
        except (GeometryError, HeaderError) as error:
            # Frames with the same trouble are told of once.
            trouble = str(error).replace(frame.path, "")
            unusable.setdefault(trouble, (error, []))[1].append(numbered)
        else:
            usable.append(numbered)
    for reason, left_out in unusable.values():
        account.reject(left_out, reason)
    for members in unplaced.values():
        _judge_unplaced(members, account, policy)
    return usable


def _judge_unplaced(members: Sequence[NumberedFrame], account: _Account, policy: Policy) -> None:
    """Make the frames of one file a stack as they are stored, on a grid that is nominal."""
    for group in group_by_pixels(members):
        try:
            grid = nominal_grid([each.frame for each in group.frames])
            account.stacks.append(_build_stack(account.series, group, grid, policy))
        except DicomDataError as error:
            account.reject(group.frames, error)


def _is_fragment(group: Group, largest: Group, total: int) -> bool:
    few = len(group.frames) <= _FRAGMENT_FRAMES or len(group.frames) < _FRAGMENT_SHARE * total
    return few and len(largest.frames) >= max(_VOLUME_FRAMES, len(group.frames) + 1)


def _judge_fragment(group: Group, largest: Group, account: _Account, policy: Policy) -> None:
    """Set a few odd frames aside as a localizer, if the rest is regular without them."""
    used = {number for stack in account.stacks for number in stack.frame_ids}
    stack = next(
        (stack for stack in account.stacks if used & {f.number for f in largest.frames}), None
    )
    text = f"{len(group.frames)} frame(s) of another {group.difference(largest)} than the rest"
    if stack is None:
        error = GeometryError(f"not_a_volume: {text}, which makes no regular stack either")
        account.reject(group.frames, error)
        return
    try:
        finding = policy.check(Finding("localizer", text, len(group.frames), "frames"))
    except GeometryError as error:
        account.reject(group.frames, error)
        return
    place = account.stacks.index(stack)
    account.stacks[place] = replace(stack, findings=(*stack.findings, finding))
    account.put_aside(group.frames, "localizer", finding.text, stack.id)


def _judge(group: Group, account: _Account, policy: Policy) -> None:
    """Turn a group of frames into a stack, or into several, or reject it as a whole."""
    try:
        kept, duplicates, grid = _prove(group)
    except DicomDataError as error:
        problem = error.finding if isinstance(error, GeometryError) else ""
        if not _split(group, problem, account, policy):
            account.reject(group.frames, error)
        return
    problem = next((found.kind for found in grid.findings if found.kind in SPLITTABLE), "")
    # Several volumes are told apart before one that is broken is repaired.
    if _split(group, problem, account, policy):
        return
    try:
        stack = _build_stack(account.series, kept, grid, policy)
    except DicomDataError as error:
        account.reject(group.frames, error)
        return
    account.stacks.append(stack)
    account.put_aside(duplicates, "duplicate", "the same pixels at the same position", stack.id)


def _split(group: Group, problem: str, account: _Account, policy: Policy) -> bool:
    """Judge the volumes of a group one by one; say whether it is several, or contradicts itself."""
    try:
        parts = split_by_dimension(group, problem) if problem in SPLITTABLE else []
    except GeometryError as error:
        account.reject(group.frames, error)
        return True
    for part in parts:
        _judge(part, account, policy)
    return bool(parts)


def _prove(group: Group) -> tuple[Group, list[NumberedFrame], Grid]:
    """Drop duplicates and prove the grid of what is left; give it, the duplicates and the grid.

    Raises:
        GeometryError: naming the finding that stands in the way.
    """
    kept, duplicates = drop_duplicates(group.frames)
    findings = group.findings
    if duplicates:
        text = f"{len(duplicates)} frame(s) repeat another's position and pixels"
        findings = (*findings, Finding("duplicate", text, len(duplicates), "frames"))
    frames = [each.frame for each in kept]
    grid = prove_grid(frames, [plane_of(frame) for frame in frames])
    return replace(group, frames=tuple(kept), findings=findings), duplicates, grid


def _build_stack(series: Series, group: Group, grid: Grid, policy: Policy) -> Stack:
    """Describe the volume that frames make on a grid, if the policy takes it."""
    frames = [each.frame for each in group.frames]
    unit = find_unit(frames, policy.pet_unit)
    findings = (*group.findings, *grid.findings, *value_findings(frames, unit))
    for finding in findings:
        policy.check(finding)
    sampling = _sampling(grid, findings, policy)
    ordered = [frames[i] for i in grid.order]
    kind = ordered[0].kind
    stack = Stack(
        id="",
        catalog=series.catalog,
        root=series.root,
        series_id=series.id,
        frame_ids=tuple(group.frames[i].number for i in grid.order),
        shape=(len(sampling) or len(ordered), kind.rows, kind.columns),
        affine_columns=grid.columns,
        slice_spacing=grid.spacing,
        unit=unit,
        findings=findings,
        modality=kind.modality,
        patient_id=series.patient_id,
        study_instance_uid=kind.study_instance_uid,
        series_instance_uid=series.series_instance_uid,
        frame_of_reference_uid=kind.frame_of_reference_uid,
        dimension=group.dimension,
        padding=policy.padding,
        sampling=sampling,
    )
    stack = identified(stack, ordered)
    leans = any(finding.kind == "tilt" for finding in findings)
    return untilt(stack) if leans and policy.tilt == "repair" else stack


def _sampling(grid: Grid, findings: Sequence[Finding], policy: Policy) -> tuple[float | None, ...]:
    """Say what the slices of a repaired stack are made of; empty where nothing is to be repaired.

    Raises:
        GeometryError: if there is too little to make them of.
    """
    broken = next((each for each in findings if each.kind in ("gap", "variable_spacing")), None)
    if broken is None:
        return ()
    slices = round(grid.places[-1]) + 1
    if len(grid.places) < LEAST_MEASURED * slices:
        text = f"{broken.text}: not repaired, {len(grid.places)} frames are too few for {slices}"
        raise replace(broken, text=text).as_error()
    interpolate = broken.kind == "variable_spacing" or policy.fill == "interpolate"
    return sample_evenly(grid.places, interpolate=interpolate)

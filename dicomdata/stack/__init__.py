"""A series -> `Stack`s: group, prove the grid, account for every frame.

`grouping` tells which frames could make one volume, `grid` proves that they do, `splitting` parts
those that are several volumes, `units` says in which units. No pixels are read, but of frames that
claim the same place: whether they are the same is told by their bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dicomdata.errors import DicomDataError, GeometryError, HeaderError, Rejection
from dicomdata.stack.grid import plane_of, prove_grid
from dicomdata.stack.grouping import (
    Group,
    NumberedFrame,
    canonical_order,
    drop_duplicates,
    group_frames,
)
from dicomdata.stack.policy import Finding, Policy
from dicomdata.stack.records import (
    Outcome,
    Outcomes,
    SeriesPlan,
    Stack,
    StackPlan,
    stack_fingerprint,
    stack_id,
)
from dicomdata.stack.splitting import (
    SPLITTABLE,
    split_by_dimension,
    split_by_frame_of_reference,
)
from dicomdata.stack.units import check_pixels, find_unit, value_findings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicomdata.catalog import Catalog, Series

__all__ = [
    "Finding",
    "Outcome",
    "Outcomes",
    "Policy",
    "SeriesPlan",
    "Stack",
    "StackPlan",
    "plan_stacks",
    "stack_series",
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
    usable = _usable(frames, account)
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


def _usable(frames: Sequence[NumberedFrame], account: _Account) -> list[NumberedFrame]:
    """Leave out frames that are no samples of one quantity, or have no place, by name."""
    usable = []
    unusable: dict[str, tuple[DicomDataError, list[NumberedFrame]]] = {}
    for numbered in frames:
        try:
            check_pixels(numbered.frame)
            plane_of(numbered.frame)
        except (GeometryError, HeaderError) as error:
            # Frames with the same trouble are told of once.
            trouble = str(error).replace(numbered.frame.path, "")
            unusable.setdefault(trouble, (error, []))[1].append(numbered)
        else:
            usable.append(numbered)
    for reason, left_out in unusable.values():
        account.reject(left_out, reason)
    return usable


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
        finding = policy.check(Finding("localizer", text, len(group.frames)))
    except GeometryError as error:
        account.reject(group.frames, error)
        return
    account.put_aside(group.frames, "localizer", finding.text, stack.id)


def _judge(group: Group, account: _Account, policy: Policy) -> None:
    """Turn a group of frames into a stack, or into several, or reject it as a whole."""
    try:
        kept, duplicates = drop_duplicates(group.frames)
        stack = _build_stack(account.series, replace(group, frames=tuple(kept)), policy,
                             duplicates=len(duplicates))  # fmt: skip
    except DicomDataError as error:
        problem = error.finding if isinstance(error, GeometryError) else ""
        parts = split_by_dimension(group, problem) if problem in SPLITTABLE else []
        for part in parts:
            _judge(part, account, policy)
        if not parts:
            account.reject(group.frames, error)
        return
    account.stacks.append(stack)
    account.put_aside(duplicates, "duplicate", "the same pixels at the same position", stack.id)


def _build_stack(series: Series, group: Group, policy: Policy, *, duplicates: int) -> Stack:
    frames = [each.frame for each in group.frames]
    grid = prove_grid(frames, [plane_of(frame) for frame in frames])
    unit = find_unit(frames, policy.pet_unit)
    findings = [*group.findings, *grid.findings, *value_findings(frames, unit)]
    if duplicates:
        text = f"{duplicates} frame(s) repeat another's position and pixels"
        findings.append(Finding("duplicate", text, duplicates))
    for finding in findings:
        policy.check(finding)
    ordered = [frames[i] for i in grid.order]
    kind = ordered[0].kind
    return Stack(
        id=stack_id(ordered, series.series_instance_uid, series.patient_id, group.dimension),
        catalog=series.catalog,
        root=series.root,
        series_id=series.id,
        frame_ids=tuple(group.frames[i].number for i in grid.order),
        shape=(len(ordered), kind.rows, kind.columns),
        affine_columns=grid.columns,
        slice_spacing=grid.spacing,
        unit=unit,
        findings=tuple(findings),
        modality=kind.modality,
        patient_id=series.patient_id,
        study_instance_uid=kind.study_instance_uid,
        series_instance_uid=series.series_instance_uid,
        frame_of_reference_uid=kind.frame_of_reference_uid,
        dimension=group.dimension,
        padding=policy.padding,
        fingerprint=stack_fingerprint(ordered, policy.padding),
    )

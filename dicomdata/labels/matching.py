"""Which label object belongs to which stack: by the images it names, never by names of files."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dicomdata.catalog import scan
from dicomdata.errors import DicomDataError, LabelError, OtherObjectError, Rejection
from dicomdata.header import read_header
from dicomdata.labels.references import (
    SEGMENTATIONS,
    STRUCTURE_SETS,
    find_references,
    parsing,
    text_of,
)
from dicomdata.labels.segmentation import read_segmentation
from dicomdata.labels.structures import read_structures

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from dicomdata.labels.findings import Outside
    from dicomdata.labels.names import Missing, Wanted
    from dicomdata.labels.records import Mask
    from dicomdata.labels.references import References
    from dicomdata.stack import Stack, StackPlan

LabelKind = Literal["SEG", "RTSTRUCT"]

MatchedBy = Literal["images", "series", "frame_of_reference"]


@dataclass(frozen=True, slots=True)
class LabelMatch:
    """A label object and a stack that it belongs to; nothing of it is on the grid yet."""

    path: str
    """The label's file."""

    kind: LabelKind
    """"SEG" or "RTSTRUCT"."""

    stack: Stack
    """What it was drawn on."""

    by: MatchedBy
    """How that is known: it names images of the stack; or their series, which is one stack; or it
    names no image, and the stack is the only one of its frame of reference."""

    images: int
    """How many frames of the stack it names."""

    def read(
        self,
        *,
        segments: Wanted | None = None,
        missing: Missing = "error",
        resample: bool = False,
        by_images: bool = False,
        outside: Outside | None = None,
    ) -> Mask:
        """Read it onto the grid of its stack, as `read_segmentation` and `read_structures` do.

        Raises:
            FileError: if the file cannot be read.
            HeaderError: if it is damaged.
            LabelError: if it does not lie on the stack's grid.
        """
        read = read_segmentation if self.kind == "SEG" else read_structures
        return read(
            self.path,
            self.stack,
            segments=segments,
            missing=missing,
            resample=resample,
            by_images=by_images,
            outside=outside,
        )


@dataclass(frozen=True, slots=True)
class FoundLabels:
    """The label objects of an archive: which belong to which stack, and which to none."""

    matches: tuple[LabelMatch, ...]
    """By path; a label may belong to several stacks, and a stack may have several labels."""

    unmatched: tuple[Rejection, ...]
    """Label objects that belong to no stack of the plan, or cannot be read, and why."""

    def __repr__(self) -> str:
        return f"FoundLabels({len(self.matches)} matches, {len(self.unmatched)} unmatched)"

    def of(self, stack: Stack) -> tuple[LabelMatch, ...]:
        """Give the labels of one stack."""
        return tuple(match for match in self.matches if match.stack.id == stack.id)


def find_labels(plan: StackPlan, folder: str | os.PathLike[str] | None = None) -> FoundLabels:
    """Find the DICOM Segmentations and RT Structure Sets of a plan's stacks; nothing raises.

    Args:
        plan: the stacks, and a catalog which knows the other objects under its root.
        folder: where else labels lie, outside that root.
    """
    others = [*plan.catalog.rejected]
    if folder is not None:
        others += scan(folder, progress=False).rejected
    paths = {each.subject for each in others if isinstance(each.error, OtherObjectError)}
    stacks = _Stacks(plan.stacks)
    matches: list[LabelMatch] = []
    unmatched: list[Rejection] = []
    for path in sorted(paths):
        try:
            header = read_header(path)
            with parsing(path):
                kind = _kind(text_of(header, "SOPClassUID"))
            if kind is not None:
                matches += stacks.match(kind, find_references(path, header))
        except DicomDataError as error:
            unmatched.append(Rejection(path, error))
    return FoundLabels(tuple(matches), tuple(unmatched))


def _kind(sop_class_uid: str) -> LabelKind | None:
    if sop_class_uid in SEGMENTATIONS:
        return "SEG"
    return "RTSTRUCT" if sop_class_uid in STRUCTURE_SETS else None


class _Stacks:
    """The stacks of a plan, by what labels call them."""

    def __init__(self, stacks: Iterable[Stack]) -> None:
        self._by_series: dict[str, list[Stack]] = defaultdict(list)
        self._by_study: dict[str, list[Stack]] = defaultdict(list)
        self._by_frame_of_reference: dict[tuple[str, str], list[Stack]] = defaultdict(list)
        for stack in stacks:
            self._by_series[stack.series_instance_uid].append(stack)
            self._by_study[stack.study_instance_uid].append(stack)
            place = stack.frame_of_reference_uid, stack.patient_id
            self._by_frame_of_reference[place].append(stack)

    def match(self, kind: LabelKind, label: References) -> Iterator[LabelMatch]:
        """Give the stacks that a label belongs to.

        Raises:
            LabelError: if there is none, or nothing tells which of several is meant.
        """
        by_series = [
            stack for uid in sorted(label.series_instance_uids) for stack in self._by_series[uid]
        ]
        # Frames are looked up only of stacks that may be meant: a plan may have millions.
        candidates = by_series or self._by_study[label.study_instance_uid]
        counted = [(stack, _count(label, stack)) for stack in candidates]
        named = [(stack, count) for stack, count in counted if count]
        if named:
            return (LabelMatch(label.path, kind, stack, "images", n) for stack, n in named)
        if len(by_series) == 1:
            return iter([LabelMatch(label.path, kind, by_series[0], "series", 0)])
        if by_series or label.sources or label.series_instance_uids:
            raise LabelError(_not_among(label, by_series))
        beside = [
            stack
            for uid in label.frame_of_reference_uids
            for stack in self._by_frame_of_reference[uid, label.patient_id]
        ]
        if len(beside) != 1:
            raise LabelError(
                f"{label.path}: names no images, and {len(beside)} stacks of the plan have its "
                f"patient and frame of reference"
            )
        return iter([LabelMatch(label.path, kind, beside[0], "frame_of_reference", 0)])


def _count(label: References, stack: Stack) -> int:
    """Count the frames of a stack that a label names."""
    whole = {source.sop_instance_uid for source in label.sources if source.frame is None}
    parts = {(source.sop_instance_uid, source.frame) for source in label.sources}
    return sum(
        (frame.sop_instance_uid, frame.number) in parts or frame.sop_instance_uid in whole
        for frame in stack.frames
    )


def _not_among(label: References, siblings: list[Stack]) -> str:
    if siblings:
        return (
            f"{label.path}: names none of the images of the {len(siblings)} stacks of its series "
            f"{' and '.join(sorted(label.series_instance_uids))}"
        )
    series = " and ".join(sorted(label.series_instance_uids)) or "of no named series"
    return f"{label.path}: names {len(label.sources)} images {series}, of which the plan has none"

"""The labels of an archive, in files: which belong to a stack, and how they become its classes.

`LabelFiles` is a function of a stack, as datasets take it. It finds the files of all stacks first,
by the images that they name or by a table, and reads those of one when it is asked for them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from dicomdata.errors import ConfigError, FileError, HeaderError, LabelError
from dicomdata.labels.cases import CaseLabels
from dicomdata.labels.files import read_label_file
from dicomdata.labels.joining import Several, find_givers, join_masks, read_names
from dicomdata.labels.matching import find_labels
from dicomdata.labels.names import choose, select_segments
from dicomdata.labels.records import MOST_BITS, Mask, Segment
from dicomdata.labels.segmentation import read_segmentation
from dicomdata.labels.structures import read_structures
from dicomdata.volume.files import stamp
from dicomdata.volume.formats import files_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray

    from dicomdata.labels.findings import Outside
    from dicomdata.labels.names import Missing
    from dicomdata.stack import Stack, StackPlan

_FORMAT = 1
"""Raised when the same files become another label: what a cache has kept of them is stale then."""

DicomLabel = Literal["SEG", "RTSTRUCT"]

LabelKind = DicomLabel | Literal["file"]

LabelFile = tuple[LabelKind, str]
"""What a label is, and its path."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelFiles:
    """Labels of many stacks, in files: DICOM SEG, RTSTRUCT, NIfTI, and so on.

    Called with a stack, it reads its files and gives the classes, (slices, rows, columns) uint16:
    0 where nothing is labelled, n for the nth of `segments`; or bits, where classes are channels.
    """

    files: Mapping[str, tuple[LabelFile, ...]]
    """Id of a stack -> what each of its labels is, and its path. Together they are one label."""

    segments: Mapping[str, str]
    """Name of a class -> regular expression that whole names of segments fit; a value of a label
    file that has no name is called by its number. Nothing else is read."""

    missing: Literal["error", "empty"] = "error"
    """What to do where the labels of a stack have no segment of a class: refuse, or take it that
    there is none."""

    overlap: Literal["reject", "last", "channels"] = "reject"
    """What to do where classes overlap: refuse, let the last of them win, or give each class a
    channel of its own. Then samples have labels (C, X, Y, Z) uint8 of 0 and 1, a channel for each
    of `segments` and none for the background; at most 15."""

    several: Several = "reject"
    """What to do where several labels of a stack have one class: refuse, take what either has
    ("union"), or what the newest has ("newest": by Content Date and Time of a segmentation, and
    Structure Set Date and Time)."""

    resample: bool = False
    """Whether labels on other voxels than the stack's are resampled; otherwise they are refused."""

    by_images: bool = False
    """Whether the images that a DICOM label names are believed over its frame of reference."""

    outside: Outside = "reject"
    """What to do where a class lies partly outside the stack: refuse, or leave that out ("drop").
    Nobody sees a finding of a label that goes into a training."""

    classes: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Path of a label file that holds one class alone -> what that is called: whatever is not 0.
    Of other files, values and names in them tell."""

    refused: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Id of a stack -> why what there is for it is no label. Asking for it says the same."""

    findings: tuple[str, ...] = field(default=(), repr=False)
    """Labels that belong to no stack, have none of the classes, or are refused, and why."""

    def __repr__(self) -> str:
        told = f"{len(self.files)} stacks, {len(self.refused)} refused"
        return f"LabelFiles({told}, {', '.join(self.segments)})"

    def __post_init__(self) -> None:
        if not self.segments:
            raise ConfigError(
                "segments: expected a name and a pattern for each class: numbers of segments mean "
                "another thing in each file"
            )
        if self.channels > MOST_BITS:
            raise ConfigError(
                f"segments: {self.channels} classes with overlap='channels': expected at most "
                f"{MOST_BITS}, one for each bit of a voxel; the first too many is "
                f"{list(self.segments)[MOST_BITS]!r}"
            )

    @classmethod
    def find(
        cls,
        plan: StackPlan,
        segments: Mapping[str, str],
        *,
        kind: DicomLabel | Collection[DicomLabel] = "SEG",
        folder: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Self:
        """Find the DICOM labels of a plan's stacks, by the images that they name.

        Of several labels of a stack, those that have none of the classes are left out. Where two
        have one class, and `several` is not given, nothing says which is the truth: that stack is
        among `refused`, with the reason.

        Args:
            plan: the stacks.
            segments: name of a class -> pattern.
            kind: which objects are labels; one kind or both.
            folder: where else labels lie, outside the root of the plan's catalog.
            options: other fields.
        """
        found = find_labels(plan, folder)
        kinds = {kind} if isinstance(kind, str) else {*kind}
        files: dict[str, dict[str, LabelFile]] = {}
        for match in found.matches:
            if match.kind in kinds:
                # A folder may lie within the archive: one file by two names is one label.
                label = match.kind, match.path
                files.setdefault(match.stack.id, {}).setdefault(os.path.realpath(match.path), label)
        findings = [*map(str, found.unmatched)]
        made = cls({}, segments, **options)
        chosen: dict[str, tuple[LabelFile, ...]] = {}
        refused: dict[str, str] = {}
        for stack, each in files.items():
            try:
                chosen[stack] = made._choose([*each.values()], findings)
            except (LabelError, FileError, HeaderError) as error:
                refused[stack] = f"stack {stack}: {error}"
        findings += refused.values()
        return replace(made, files=chosen, refused=refused, findings=tuple(findings))

    @classmethod
    def from_table(
        cls,
        source: StackPlan | Iterable[Stack],
        table: CaseLabels | Sequence[CaseLabels] | Mapping[str, CaseLabels],
        segments: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Self:
        """Take label files from a table of paths by patient, study or series.

        A file that several stacks would have is the label of none of them: they are among
        `refused`, with the reason.

        Args:
            source: the stacks.
            table: what `read_case_labels` made of it; relative paths begin at the table's folder.
                Several, where a stack has several files: of one column each, or of other tables.
                Or class -> its column, of files that each hold one class: what is not 0 is that.
            segments: name of a class -> pattern; None takes the classes of `table` as they are.
            options: other fields.

        Raises:
            LabelError: if no row is of any stack.
        """
        columns = _columns_of(table)
        rows: dict[str, _Row] = {}
        for name, each in columns:
            joined = each.join(source, missing="drop")
            folder = os.path.dirname(os.path.abspath(each.path))
            for stack, value in zip(joined.stacks, joined.values, strict=True):
                path = os.path.join(folder, str(value))
                row = rows.setdefault(os.path.realpath(path), _Row(each.path, path))
                row.stacks.setdefault(stack.id)
                row.classes.setdefault(name)
        files: dict[str, tuple[LabelFile, ...]] = {}
        refused: dict[str, str] = {}
        for row in rows.values():
            for stack_id in row.stacks:
                files[stack_id] = (*files.get(stack_id, ()), ("file", row.path))
                if row.doubt:
                    refused.setdefault(stack_id, f"stack {stack_id}: {row.doubt}")
        if segments is None:
            segments = {name: re.escape(name) for name, _ in columns if name}
        classes = {row.path: name for row in rows.values() for name in row.classes if name}
        made = cls(files, segments, classes=classes, **options)
        for stack_id in (*files,) if classes else ():
            try:
                made._check_classes(files[stack_id])
            except LabelError as error:
                refused.setdefault(stack_id, f"stack {stack_id}: {error}")
        known = {stack_id: found for stack_id, found in files.items() if stack_id not in refused}
        findings = [finding for _, each in columns for finding in each.findings]
        return replace(made, files=known, refused=refused, findings=(*findings, *refused.values()))

    @property
    def channels(self) -> int:
        """How many classes have a channel of their own in a sample; 0 where one holds them all."""
        return len(self.segments) if self.overlap == "channels" else 0

    def has(self, stack: Stack) -> bool:
        """Whether a stack has a label."""
        return stack.id in self.files and stack.id not in self.refused

    def __call__(self, stack: Stack, /) -> NDArray[np.uint16]:
        """Read the label of a stack: numbers of classes, or bits where these are channels.

        Raises:
            LabelError: if it has none, or that does not lie on its grid, or lacks a segment.
            FileError: if a file cannot be read.
        """
        mask = self.read(stack)
        if self.overlap == "channels":
            return mask.bits()
        return mask.labelmap(overlap=self.overlap)

    def read(self, stack: Stack) -> Mask:
        """Read the label of a stack as one mask, with its verdict and findings."""
        labels = self._files_of(stack)
        if len(labels) == 1:
            return self._read(*labels[0], stack, missing=self.missing)
        # What one lacks another may have.
        masks = [self._read(*label, stack, missing="drop") for label in labels]
        return join_masks(masks, [*self.segments], several=self.several, missing=self.missing)

    def cache_text(self, stack: Stack, /) -> str:
        """Say what decides the label of a stack: its files as they are now, and how it is read."""
        stamps = []
        for kind, path in self._files_of(stack):
            files = files_of(path) if kind == "file" else (path,)
            stamps.append((kind, self.classes.get(path, ""), *map(stamp, files)))
        how = self.missing, self.overlap, self.several, self.resample, self.by_images, self.outside
        return repr((_FORMAT, stamps, list(self.segments.items()), how))

    def _read(self, kind: LabelKind, path: str, stack: Stack, *, missing: Missing) -> Mask:
        how: dict[str, Any] = {"resample": self.resample, "outside": self.outside}
        if path in self.classes:
            whole = _read_whole(path, stack, self.classes[path], **how)
            return select_segments(whole, self.segments, missing=missing)
        how |= {"segments": self.segments, "missing": missing}
        if kind == "file":
            return read_label_file(path, stack, **how)
        read = read_segmentation if kind == "SEG" else read_structures
        return read(path, stack, by_images=self.by_images, **how)

    def _files_of(self, stack: Stack) -> tuple[LabelFile, ...]:
        labels = self.files.get(stack.id)
        if stack.id in self.refused:
            raise LabelError(self.refused[stack.id])
        if not labels:
            raise LabelError(
                f"stack {stack.id}: has no label; {len(self.files)} other stacks have one"
            )
        return labels

    def _check_classes(self, labels: Sequence[LabelFile]) -> None:
        """Make sure that files of one class each have those that are asked for, each once.

        Raises:
            LabelError: if not: what would be refused in the midst of a training.
        """
        names = {path: [self.classes[path]] for _, path in labels}
        find_givers(names, self.segments, several=self.several)
        every = [name for each in names.values() for name in each]
        choose(" and ".join(names), every, self.segments, missing=self.missing)

    def _choose(self, labels: Sequence[LabelFile], findings: list[str]) -> tuple[LabelFile, ...]:
        """Of several labels of a stack, give those that have a class, by names of segments alone.

        One on other voxels, of something else, is no reason to refuse the others. All of them
        where none has a class: `read` tells what there is.

        Raises:
            LabelError: if two have one class: what would be refused in the midst of a training.
        """
        if len(labels) < 2:
            return tuple(labels)
        names = {path: read_names(path) for _, path in labels}
        givers = find_givers(names, self.segments, several=self.several) or list(names)
        findings += (f"{path}: has none of the classes" for path in names if path not in givers)
        return tuple(label for label in labels if label[1] in givers)


@dataclass(frozen=True, slots=True)
class _Row:
    """One file that a table names."""

    table: str
    path: str

    stacks: dict[str, None] = field(default_factory=dict)
    """Ids of the stacks that it would be the label of, in order."""

    classes: dict[str, None] = field(default_factory=dict)
    """What it would be; "" where its values tell."""

    @property
    def doubt(self) -> str:
        """Why it can be the label of no stack; "" where it can."""
        told = f"{self.table}: {self.path} would be"
        if len(self.stacks) > 1:
            first, second, *_ = self.stacks
            return (
                f"{told} the label of {len(self.stacks)} stacks, {first} and {second} among them: "
                f"give a row for each series"
            )
        if len(self.classes) > 1:
            return f"{told} {' and '.join(map(repr, self.classes))}: give each class a file"
        return ""


def _columns_of(
    table: CaseLabels | Sequence[CaseLabels] | Mapping[str, CaseLabels],
) -> list[tuple[str, CaseLabels]]:
    """Give tables with the class that each is of; "" where its files tell."""
    if isinstance(table, CaseLabels):
        return [("", table)]
    if isinstance(table, Mapping):
        return [*table.items()]
    return [("", each) for each in table]


def _read_whole(path: str, stack: Stack, name: str, **how: Any) -> Mask:
    """Read a label file that holds one class: its one segment, without a voxel where all are 0.

    Raises:
        LabelError: if it has several values, which nothing says are one class.
    """
    mask = read_label_file(path, stack, **how)
    if len(mask.segments) > 1:
        told = ", ".join(map(repr, mask.names))
        raise LabelError(
            f"{path}: has {len(mask.segments)} segments, {told}: expected one, which is {name!r}"
        )
    voxels = mask.voxels if mask.segments else np.zeros((1, *stack.shape), np.bool_)
    return replace(mask, voxels=voxels, segments=(Segment(1, name),))

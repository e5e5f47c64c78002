"""Labels beside images: read onto the stack's grid, kept in the same cache, cut by the same box.

A dataset is given a function of a stack that gives its `Mask`, or an array of whole numbers on its
grid. `LabelFiles` is such a function for an archive whose labels lie in files.

Classes that overlap are bits of such a number, class n bit n - 1, until a sample is made of them:
so they are one volume for caches and boxes, as classes that do not are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

import numpy as np

from dicomdata.cache import NoCache
from dicomdata.errors import ConfigError, FileError, LabelError
from dicomdata.labels import (
    CaseLabels,
    Mask,
    find_labels,
    read_label_file,
    read_segmentation,
    read_structures,
)
from dicomdata.labels.joining import Several, find_givers, join_masks, read_names
from dicomdata.labels.records import MOST_BITS
from dicomdata.regions import Region
from dicomdata.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from dicomdata.cache import VolumeCache
    from dicomdata.labels.findings import Outside
    from dicomdata.labels.names import Missing
    from dicomdata.stack import Stack, StackPlan

LABEL_UNIT = "label"
"""The unit of voxels that are numbers of classes."""

_HIGHEST = 2**15 - 1
"""Highest class: labels are int16, half of what most programs make of them."""

DicomLabel = Literal["SEG", "RTSTRUCT"]

LabelKind = DicomLabel | Literal["file"]

LabelFile = tuple[LabelKind, str]
"""What a label is, and its path."""


class Labels(Protocol):
    """Gives the label of a stack: a function, or an object like `LabelFiles`. Picklable.

    One that has `channels` above 0 gives so many classes that may overlap: a mask of segments with
    these numbers, or whole numbers in which class n is bit n - 1.
    """

    def __call__(self, stack: Stack, /) -> Mask | NDArray[Any]:
        """Give a mask, or whole numbers (slices, rows, columns) on the grid of the stack.

        Raises:
            LabelError: if the stack has no label, or it does not lie on its grid.
        """
        ...


@runtime_checkable
class _Telling(Protocol):
    """Labels that a cache can keep: they say themselves what decides the voxels."""

    def cache_text(self, stack: Stack, /) -> str: ...


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

    findings: tuple[str, ...] = field(default=(), repr=False)
    """Labels that belong to no stack, or have none of the classes, and why."""

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

        Of several labels of a stack, those that have none of the classes are left out.

        Args:
            plan: the stacks.
            segments: name of a class -> pattern.
            kind: which objects are labels; one kind or both.
            folder: where else labels lie, outside the root of the plan's catalog.
            options: other fields.

        Raises:
            LabelError: if two labels of a stack have one class, and `several` is not given:
                nothing says which of them is the truth.
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
        chosen = {stack: made._choose([*each.values()], findings) for stack, each in files.items()}
        return replace(made, files=chosen, findings=tuple(findings))

    @classmethod
    def from_table(
        cls,
        source: StackPlan | Iterable[Stack],
        table: CaseLabels | Sequence[CaseLabels],
        segments: Mapping[str, str],
        **options: Any,
    ) -> Self:
        """Take label files from a table of paths by patient, study or series.

        Args:
            source: the stacks.
            table: what `read_case_labels` made of it; relative paths begin at the table's folder.
                Several, where a stack has several files: of one column each, or of other tables.
            segments: name of a class -> pattern.
            options: other fields.

        Raises:
            LabelError: if no row is of any stack, or one row is of several stacks.
        """
        tables = [table] if isinstance(table, CaseLabels) else [*table]
        files: dict[str, tuple[LabelFile, ...]] = {}
        owners: dict[str, str] = {}
        for each in tables:
            joined = each.join(source, missing="drop")
            folder = os.path.dirname(os.path.abspath(each.path))
            for stack, value in zip(joined.stacks, joined.values, strict=True):
                path = os.path.join(folder, str(value))
                if path in owners:
                    raise LabelError(
                        f"{each.path}: {path} would be the label of stack {owners[path]} and of "
                        f"stack {stack.id}: give a row for each series"
                    )
                owners[path] = stack.id
                files[stack.id] = (*files.get(stack.id, ()), ("file", path))
        findings = tuple(finding for each in tables for finding in each.findings)
        return cls(files, segments, findings=findings, **options)

    @property
    def channels(self) -> int:
        """How many classes have a channel of their own in a sample; 0 where one holds them all."""
        return len(self.segments) if self.overlap == "channels" else 0

    def has(self, stack: Stack) -> bool:
        """Whether a stack has a label."""
        return stack.id in self.files

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
            try:
                status = os.stat(path)
            except OSError as error:
                raise FileError(f"{path}: cannot be read: {error.strerror}") from error
            stamps.append((kind, path, status.st_size, status.st_mtime_ns))
        how = self.missing, self.overlap, self.several, self.resample, self.by_images, self.outside
        return repr((stamps, list(self.segments.items()), how))

    def _read(self, kind: LabelKind, path: str, stack: Stack, *, missing: Missing) -> Mask:
        how: dict[str, Any] = {
            "segments": self.segments,
            "missing": missing,
            "resample": self.resample,
            "outside": self.outside,
        }
        if kind == "file":
            return read_label_file(path, stack, **how)
        read = read_segmentation if kind == "SEG" else read_structures
        return read(path, stack, by_images=self.by_images, **how)

    def _files_of(self, stack: Stack) -> tuple[LabelFile, ...]:
        labels = self.files.get(stack.id)
        if not labels:
            raise LabelError(
                f"stack {stack.id}: has no label; {len(self.files)} other stacks have one"
            )
        return labels

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


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """Labels as a cache is given them."""

    labels: Labels
    cache_text: str


def read_labels(stack: Stack, region: Region | None = None, *, labels: _Reading) -> Volume:
    """Read the label of a stack, or a box of it, as a volume of classes, or of bits: int16."""
    given = labels.labels(stack)
    if isinstance(given, Mask) and given.stack.id != stack.id:
        raise LabelError(f"stack {stack.id}: its label is on the grid of stack {given.stack.id}")
    if isinstance(given, Mask):
        classes = given.bits() if channels_of(labels.labels) else given.labelmap()
    else:
        classes = np.asarray(given)
    check_classes(classes, stack, channels=channels_of(labels.labels))
    box = region or Region()
    slices, rows, columns = (slice(axis.start, axis.stop) for axis in box.within(stack.shape))
    # Never the caller's own array: a transform may write to what it is given.
    voxels = np.array(classes[slices, rows, columns], np.int16, order="C")
    return Volume(voxels, LABEL_UNIT, stack.valid[slices], stack, box)


def channels_of(labels: Any) -> int:
    """Tell how many classes the numbers that labels give hold as bits; 0 where they are classes."""
    return int(getattr(labels, "channels", 0))


class LabelReader:
    """Gives labels, or boxes of them, through a cache."""

    def __init__(self, labels: Labels, cache: VolumeCache) -> None:
        """Read `labels`; what can be kept of them is kept in `cache`."""
        self.labels, self.cache = labels, cache
        self.channels = channels_of(labels)
        """How many classes the voxels hold as bits; 0 where they are numbers of classes."""
        self._filled: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_filled": set()}

    def __call__(self, stack: Stack) -> NDArray[Any]:
        """Give the numbers that a stack's label is kept as, (slices, rows, columns) int16."""
        return self.read(stack).voxels

    def read(self, stack: Stack, region: Region | None = None) -> Volume:
        """Give the label of a stack, or a box of it.

        A label is read as a whole in any case. So where a cache keeps it, it is kept when the
        first box is asked for.
        """
        if isinstance(self.cache, NoCache) or not isinstance(self.labels, _Telling):
            return read_labels(stack, region, labels=_Reading(self.labels, ""))
        read = partial(read_labels, labels=_Reading(self.labels, self.labels.cache_text(stack)))
        if region is None:
            return self.cache.get(stack, read)
        if stack.id not in self._filled:
            self._filled.add(stack.id)
            whole = self.cache.get(stack, read)
            return _cut(whole, region)
        return self.cache.get(stack, read, region=region)


def _cut(volume: Volume, region: Region) -> Volume:
    box = tuple(slice(axis.start, axis.stop) for axis in region.within(volume.stack.shape))
    voxels = np.ascontiguousarray(volume.voxels[box])
    return Volume(voxels, volume.unit, volume.valid[box[0]], volume.stack, region)


def check_classes(classes: NDArray[Any], stack: Stack, *, channels: int = 0) -> None:
    """Make sure that an array is the label of a stack.

    Args:
        classes: the array.
        stack: what it is the label of.
        channels: how many classes its numbers hold as bits; 0 where they are classes.

    Raises:
        LabelError: if it is not of whole numbers from 0 to 32767 or bool, or of another shape, or
            has a bit of no class; names the stack.
    """
    if classes.dtype.kind not in "biu":
        raise LabelError(
            f"stack {stack.id}: its label is of {classes.dtype}: expected whole numbers or bool"
        )
    if classes.shape != stack.shape:
        raise LabelError(
            f"stack {stack.id}: its label has shape {classes.shape}: expected {stack.shape}, "
            f"(slices, rows, columns) of the stack"
        )
    if classes.min() < 0 or classes.max() > _HIGHEST:
        raise LabelError(
            f"stack {stack.id}: its label has classes {classes.min()} to {classes.max()}: expected "
            f"0 to {_HIGHEST}"
        )
    if channels and int(classes.max()) >> channels:
        raise LabelError(
            f"stack {stack.id}: its label has the number {classes.max()}: expected bits of "
            f"{channels} classes, below {1 << channels}"
        )

"""Labels beside images: read onto the stack's grid, kept in the same cache, cut by the same box.

A dataset is given a function of a stack that gives its `Mask`, or an array of whole numbers on its
grid. `LabelFiles` is such a function for an archive whose labels lie in files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

import numpy as np

from dicomdata.cache import NoCache
from dicomdata.errors import ConfigError, FileError, LabelError
from dicomdata.labels import (
    Mask,
    find_labels,
    read_label_file,
    read_segmentation,
    read_structures,
    select_segments,
)
from dicomdata.regions import Region
from dicomdata.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from dicomdata.cache import VolumeCache
    from dicomdata.labels import CaseLabels
    from dicomdata.stack import Stack, StackPlan

LABEL_UNIT = "label"
"""The unit of voxels that are numbers of classes."""

_HIGHEST = 2**15 - 1
"""Highest class: labels are int16, half of what most programs make of them."""

LabelKind = Literal["SEG", "RTSTRUCT", "file"]


class Labels(Protocol):
    """Gives the label of a stack: a function, or an object like `LabelFiles`. Picklable."""

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
    """Labels of many stacks, each in a file of its own: DICOM SEG, RTSTRUCT, NIfTI, and so on.

    Called with a stack, it reads that file and gives the classes, (slices, rows, columns) uint16:
    0 where nothing is labelled, n for the nth of `segments`.
    """

    files: Mapping[str, tuple[LabelKind, str]]
    """Id of a stack -> what its label is, and its path."""

    segments: Mapping[str, str]
    """Name of a class -> regular expression that whole names of segments fit; a value of a label
    file that has no name is called by its number."""

    missing: Literal["error", "empty"] = "error"
    """What to do where a label has no segment of a class: refuse, or take it that there is none."""

    overlap: Literal["reject", "last"] = "reject"
    """What to do where classes overlap: refuse, or let the last of them win."""

    resample: bool = False
    """Whether labels on other voxels than the stack's are resampled; otherwise they are refused."""

    by_images: bool = False
    """Whether the images that a DICOM label names are believed over its frame of reference."""

    findings: tuple[str, ...] = field(default=(), repr=False)
    """Labels that belong to no stack, and why."""

    def __post_init__(self) -> None:
        if not self.segments:
            raise ConfigError(
                "segments: expected a name and a pattern for each class: numbers of segments mean "
                "another thing in each file"
            )

    @classmethod
    def find(
        cls,
        plan: StackPlan,
        segments: Mapping[str, str],
        *,
        kind: Literal["SEG", "RTSTRUCT"] = "SEG",
        folder: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Self:
        """Find the DICOM labels of a plan's stacks, by the images that they name.

        Args:
            plan: the stacks.
            segments: name of a class -> pattern.
            kind: which objects are labels.
            folder: where else labels lie, outside the root of the plan's catalog.
            options: other fields.

        Raises:
            LabelError: if a stack has several: nothing says which of them is the truth.
        """
        found = find_labels(plan, folder)
        files: dict[str, tuple[LabelKind, str]] = {}
        for match in found.matches:
            if match.kind != kind:
                continue
            if match.stack.id in files:
                raise LabelError(
                    f"stack {match.stack.id}: has two labels of kind {kind}, "
                    f"{files[match.stack.id][1]} and {match.path}: leave one of them out"
                )
            files[match.stack.id] = (kind, match.path)
        return cls(files, segments, findings=tuple(map(str, found.unmatched)), **options)

    @classmethod
    def from_table(
        cls,
        source: StackPlan | Iterable[Stack],
        table: CaseLabels,
        segments: Mapping[str, str],
        **options: Any,
    ) -> Self:
        """Take label files from a table of paths by patient, study or series.

        Args:
            source: the stacks.
            table: what `read_case_labels` made of it; relative paths begin at the table's folder.
            segments: name of a class -> pattern.
            options: other fields.

        Raises:
            LabelError: if no row is of any stack, or one row is of several stacks.
        """
        joined = table.join(source, missing="drop")
        folder = os.path.dirname(os.path.abspath(table.path))
        files: dict[str, tuple[LabelKind, str]] = {}
        owners: dict[str, str] = {}
        for stack, value in zip(joined.stacks, joined.values, strict=True):
            path = os.path.join(folder, str(value))
            if path in owners:
                raise LabelError(
                    f"{table.path}: {path} would be the label of stack {owners[path]} and of stack "
                    f"{stack.id}: give a row for each series"
                )
            owners[path] = stack.id
            files[stack.id] = ("file", path)
        return cls(files, segments, findings=table.findings, **options)

    def has(self, stack: Stack) -> bool:
        """Whether a stack has a label."""
        return stack.id in self.files

    def __call__(self, stack: Stack, /) -> NDArray[np.uint16]:
        """Read the label of a stack.

        Raises:
            LabelError: if it has none, or that does not lie on its grid, or lacks a segment.
            FileError: if the file cannot be read.
        """
        return self.read(stack).labelmap(overlap=self.overlap)

    def read(self, stack: Stack) -> Mask:
        """Read the label of a stack as a mask, with its verdict and findings."""
        kind, path = self._file_of(stack)
        if kind == "file":
            mask = read_label_file(path, stack, resample=self.resample)
        else:
            read = read_segmentation if kind == "SEG" else read_structures
            mask = read(path, stack, resample=self.resample, by_images=self.by_images)
        return select_segments(mask, self.segments, missing=self.missing)

    def cache_text(self, stack: Stack, /) -> str:
        """Say what decides the label of a stack: its file as it is now, and how it is read."""
        kind, path = self._file_of(stack)
        try:
            status = os.stat(path)
        except OSError as error:
            raise FileError(f"{path}: cannot be read: {error.strerror}") from error
        how = self.missing, self.overlap, self.resample, self.by_images
        stamp = status.st_size, status.st_mtime_ns
        return repr((kind, path, stamp, list(self.segments.items()), how))

    def _file_of(self, stack: Stack) -> tuple[LabelKind, str]:
        try:
            return self.files[stack.id]
        except KeyError:
            raise LabelError(
                f"stack {stack.id}: has no label; {len(self.files)} other stacks have one"
            ) from None


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """Labels as a cache is given them."""

    labels: Labels
    cache_text: str


def read_labels(stack: Stack, region: Region | None = None, *, labels: _Reading) -> Volume:
    """Read the label of a stack, or a box of it, as a volume of classes: int16."""
    given = labels.labels(stack)
    classes = given.labelmap() if isinstance(given, Mask) else np.asarray(given)
    if isinstance(given, Mask) and given.stack.id != stack.id:
        raise LabelError(f"stack {stack.id}: its label is on the grid of stack {given.stack.id}")
    _check(classes, stack)
    box = region or Region()
    slices, rows, columns = (slice(axis.start, axis.stop) for axis in box.within(stack.shape))
    # Never the caller's own array: a transform may write to what it is given.
    voxels = np.array(classes[slices, rows, columns], np.int16, order="C")
    return Volume(voxels, LABEL_UNIT, stack.valid[slices], stack, box)


class LabelReader:
    """Gives labels, or boxes of them, through a cache."""

    def __init__(self, labels: Labels, cache: VolumeCache) -> None:
        """Read `labels`; what can be kept of them is kept in `cache`."""
        self.labels, self.cache = labels, cache
        self._filled: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_filled": set()}

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


def _check(classes: NDArray[Any], stack: Stack) -> None:
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

"""Where the classes of masks are: `LabelPositions`, small enough to keep and to send to workers.

Looking for the voxels of a class takes longer than reading a patch: it is done once for a mask.
Of each class and stack a bounded number of voxels is kept, drawn evenly and always the same.

Classes that overlap are bits of a mask. A voxel of two of them is one of each; and one of those of
any class (`ANY_CLASS`), so that these may be drawn all alike.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Self
from zipfile import BadZipFile

import numpy as np

from dicomdata.dataset.masks import channels_of, check_classes
from dicomdata.errors import ConfigError, FileError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from dicomdata.stack import Stack

PER_CLASS = 4096
"""Voxels kept of a class in a stack: 16 KiB, and more places than a run visits in one stack."""

ANY_CLASS = -1
"""Stands for all classes but 0 in the index of classes that overlap."""

_FORMAT = 1
"""Of the file: raised when it holds something else."""


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What the numbers of a mask stand for."""

    kept: frozenset[int] | None
    """Classes to keep; None keeps all."""

    channels: int
    """How many classes the numbers hold as bits, class n as bit n - 1; 0 where they are classes."""

    def classes_of(self, value: int) -> list[int]:
        """Give the classes that a voxel of this number is of, those that are kept."""
        if not self.channels or not value:
            return [value] if self._keeps(value) else []
        bits = (bit for bit in range(1, self.channels + 1) if value >> (bit - 1) & 1)
        found = [bit for bit in bits if self._keeps(bit)]
        return [ANY_CLASS, *found] if found else []

    def where(self, mask: NDArray[Any], label: int, number: int) -> NDArray[np.bool_]:
        """Tell where a class is on a slice, (rows, columns)."""
        if not self.channels or not label:
            return np.asarray(mask[number] == label)
        wanted = range(1, self.channels + 1) if label == ANY_CLASS else [label]
        bits = sum(1 << (bit - 1) for bit in wanted if self._keeps(bit))
        return np.asarray((mask[number].astype(np.int32) & bits) != 0)

    def _keeps(self, label: int) -> bool:
        return self.kept is None or label in self.kept


@dataclass(frozen=True, slots=True, eq=False)
class StackLabels:
    """Where the classes of one stack are."""

    shape: tuple[int, int, int]
    """(slices, rows, columns) of the mask."""

    counts: Mapping[int, int]
    """For each class that is there, how many voxels are of it; where they may overlap, also for
    `ANY_CLASS`."""

    positions: Mapping[int, NDArray[np.unsignedinteger[Any]]]
    """For each of them, (n,) ascending: some or all of its voxels, as numbers of the voxels of
    `shape`, columns quickest."""

    @classmethod
    def of_mask(cls, mask: NDArray[Any], meaning: _Meaning, *, name: str, per_class: int) -> Self:
        """Look for the voxels of each class.

        Args:
            mask: (slices, rows, columns), of whole numbers.
            meaning: which classes a number stands for.
            name: what is drawn depends on it, and on nothing else.
            per_class: how many voxels of each.
        """
        # As int64, of which numpy sorts several times as many a second as of bytes.
        wide = mask.dtype if mask.dtype.itemsize == 8 else np.dtype(np.int64)
        found = [np.unique(plane.astype(wide), return_counts=True) for plane in mask]
        by_slice: dict[int, NDArray[np.int64]] = {}
        for number, (values, counts) in enumerate(found):
            for value, count in zip(values.tolist(), counts, strict=True):
                for label in meaning.classes_of(value):
                    by_slice.setdefault(label, np.zeros(len(mask), np.int64))[number] += count
        return cls(
            (mask.shape[0], mask.shape[1], mask.shape[2]),
            {label: int(by_slice[label].sum()) for label in sorted(by_slice)},
            {
                label: _drawn(
                    partial(meaning.where, mask, label),
                    by_slice[label],
                    mask.shape,
                    choice=(per_class, f"{name} {label}"),
                )
                for label in sorted(by_slice)
            },
        )


@dataclass(frozen=True, slots=True, eq=False)
class LabelPositions:
    """Where the classes of many stacks are, for `BalancedPatches`.

    Picklable; `save` writes it as a plain npz file, without pickle.
    """

    stacks: Mapping[str, StackLabels]
    """By the id of the stack."""

    @classmethod
    def of_masks(
        cls,
        stacks: Sequence[Stack],
        masks: Callable[[Stack], ArrayLike] | Sequence[ArrayLike],
        *,
        classes: Collection[int] | None = None,
        per_class: int = PER_CLASS,
        channels: int | None = None,
    ) -> Self:
        """Look at the mask of each stack, one after the other.

        Args:
            stacks: what the masks belong to.
            masks: a function that gives the mask of a stack, or as many masks as stacks: whole
                numbers or bool, (slices, rows, columns) of the stack. 0 is background. `LabelFiles`
                are such a function.
            classes: which to keep; None keeps all that there are.
            per_class: voxels kept of each class in a stack, drawn evenly among all of them: the
                same for the same mask, always.
            channels: how many classes may overlap, as bits of the masks: class n is bit n - 1. 0
                where numbers are classes; None is what `masks` say of themselves, else 0.

        Raises:
            ConfigError: if there are not as many masks as stacks.
            LabelError: if a mask is not of whole numbers, or not of its stack's shape; names the
                stack.
        """
        if per_class < 1:
            raise ConfigError(f"per_class={per_class}: expected at least 1")
        if not callable(masks) and len(masks) != len(stacks):
            raise ConfigError(f"{len(masks)} masks for {len(stacks)} stacks: expected one each")
        count = channels_of(masks) if channels is None else channels
        meaning = _Meaning(None if classes is None else frozenset(classes), count)
        made = {}
        for number, stack in enumerate(stacks):
            mask = np.asarray(masks(stack) if callable(masks) else masks[number])
            check_classes(mask, stack, channels=count)
            made[stack.id] = StackLabels.of_mask(mask, meaning, name=stack.id, per_class=per_class)
        return cls(made)

    @property
    def classes(self) -> tuple[int, ...]:
        """All classes that are in any stack, ascending."""
        found = {label for labels in self.stacks.values() for label in labels.counts}
        return tuple(sorted(found - {ANY_CLASS}))

    def of(self, stack: Stack) -> StackLabels:
        """Give where the classes of one stack are.

        Raises:
            ConfigError: if its mask was not looked at, or had another shape.
        """
        labels = self.stacks.get(stack.id)
        if labels is None:
            raise ConfigError(
                f"stack {stack.id}: not in the index of label positions, which has "
                f"{len(self.stacks)} other stacks: make it of these stacks"
            )
        if labels.shape != stack.shape:
            raise ConfigError(
                f"stack {stack.id}: its shape is {stack.shape}, its mask's was {labels.shape}"
            )
        return labels

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as an npz file, whole or not at all.

        Raises:
            FileError: if it cannot be written.
        """
        rows = [
            (number, label, count, len(labels.positions[label]))
            for number, labels in enumerate(self.stacks.values())
            for label, count in labels.counts.items()
        ]
        kept = [places for labels in self.stacks.values() for places in labels.positions.values()]
        arrays: dict[str, NDArray[Any]] = {
            "format": np.array(_FORMAT),
            "ids": np.array(list(self.stacks), np.str_),
            "shapes": np.array([labels.shape for labels in self.stacks.values()]).reshape(-1, 3),
            "rows": np.array(rows, np.int64).reshape(-1, 4),
            "positions": np.concatenate([*kept, np.empty(0, np.uint8)]),
        }
        target = os.fspath(path)
        partial = f"{target}.{secrets.token_hex(4)}.partial"
        try:
            with open(partial, "xb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
            os.replace(partial, target)
        except OSError as error:
            with suppress(OSError):
                os.unlink(partial)
            raise FileError(f"{target}: cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            FileError: if the file cannot be read.
            ConfigError: if it is something else, or damaged.
        """
        source = os.fspath(path)
        try:
            with open(source, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls(_unpacked(arrays))
        except OSError as error:
            raise FileError(f"{source}: cannot be read: {error.strerror}") from error
        except (BadZipFile, AttributeError, EOFError, IndexError, KeyError, ValueError) as error:
            raise ConfigError(f"{source}: no index of label positions: {error}") from error


def _drawn(
    where: Callable[[int], NDArray[np.bool_]],
    by_slice: NDArray[np.int64],
    shape: tuple[int, ...],
    *,
    choice: tuple[int, str],
) -> NDArray[np.unsignedinteger[Any]]:
    """Give some voxels of a class: a number of them, drawn evenly, as a name decides.

    Which of the class's voxels is drawn first; then only their slices are searched.

    Args:
        where: gives where the class is on a slice.
        by_slice: how often it is there.
        shape: (slices, rows, columns).
        choice: how many, and the name.
    """
    wanted, name = choice
    ends = np.cumsum(by_slice)
    total = int(ends[-1])
    seed = int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
    ranks = np.arange(total)
    if wanted < total:
        ranks = np.sort(np.random.default_rng(seed).choice(total, wanted, replace=False))
    of_slice = np.searchsorted(ends, ranks, side="right")
    plane = shape[1] * shape[2]
    # As few bytes as number all voxels.
    places = np.empty(len(ranks), np.min_scalar_type(shape[0] * plane))
    for number in np.unique(of_slice):
        here = of_slice == number
        first = ends[number] - by_slice[number]
        within = np.flatnonzero(where(int(number)))[ranks[here] - first]
        places[here] = within + int(number) * plane
    return places


def _unpacked(arrays: Mapping[str, NDArray[Any]]) -> dict[str, StackLabels]:
    """Give back what was packed into plain arrays."""
    if (version := int(arrays["format"])) != _FORMAT:
        raise ValueError(f"format {version}, expected {_FORMAT}")
    positions, rows = arrays["positions"], arrays["rows"]
    *parts, rest = np.split(positions, np.cumsum(rows[:, 3]))
    if rest.size:
        raise ValueError(f"{rest.size} positions too many")
    found: list[tuple[dict[int, int], dict[int, NDArray[Any]]]] = [({}, {}) for _ in arrays["ids"]]
    for (number, label, count, _), part in zip(rows.tolist(), parts, strict=True):
        counts, kept = found[number]
        counts[label], kept[label] = count, part
    return {
        str(name): StackLabels((int(s), int(r), int(c)), *labels)
        for name, (s, r, c), labels in zip(arrays["ids"], arrays["shapes"], found, strict=True)
    }

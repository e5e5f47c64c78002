"""What is in two parts at once: a patient, a study, a series, or the very same pixels.

Pixels are compared because names can be wrong: a copy that was made anonymous has another Patient
ID, another study and other UIDs, and the same pixels. Of plain words only a band of rows of each
frame is read; frames that agree there are then compared as a whole. Compressed frames have to be
decoded, so that a copy in another encoding is found as well. Sixteen bytes are kept of each frame:
50 MB of ten thousand volumes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import combinations
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dicomdata.catalog import track
from dicomdata.errors import DicomDataError, Rejection
from dicomdata.pixels import read_stored
from dicomdata.splits.grouping import compared, is_uid, series_name
from dicomdata.volume.files import VolumeFile, read_voxels
from dicomdata.volume.threads import run, thread_count

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from dicomdata.stack import Stack

_BAND = 16
"""Rows in the middle of a frame that are compared first: 16 kB of a CT, where a read of one row
costs as much."""

_DIGEST = 16
"""Bytes of a digest: no two of 10^12 frames share one by chance."""

_SHORT = 8
"""Bytes of it that are kept of each band: few bands share them by chance, and whole frames tell."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing that is in two parts."""

    kind: Literal["patient", "study", "series", "pixels"]
    """What is the same."""

    parts: tuple[str, str]
    """Where it is."""

    stacks: tuple[str, str]
    """Ids of a stack in each."""

    patients: tuple[str, str]
    """Their Patient IDs."""

    text: str
    """What was found, in words."""

    frames: int = 0
    """How many frames of the two stacks have the same pixels, of "pixels"."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Audit:
    """What comparing parts has found."""

    leaks: tuple[Leak, ...]
    """What is in two parts at once."""

    frames: int
    """How many frames were compared; 0 where pixels were not asked for."""

    blank: int
    """How many of them are of one value throughout, and say nothing of whose they are."""

    rejected: tuple[Rejection, ...]
    """Stacks whose frames could not be read, and why: nothing is known of their pixels."""

    @property
    def clean(self) -> bool:
        """Whether nothing leaks, as far as everything could be read."""
        return not (self.leaks or self.rejected)


def audit_split(
    parts: Mapping[str, Iterable[Stack]],
    *,
    pixels: bool = True,
    anonymous: Iterable[str] = (),
    progress: bool | None = None,
) -> Audit:
    """Look for what is in two parts at once; nothing raises for a stack.

    Args:
        parts: name -> stacks, however they were split:
            ``{part: split.stacks(plan, part) for part in split.parts}``.
        pixels: compare the pixels of all frames too. A leak is a frame whose stored values are
            those of another, up to a constant: a copy may have another Rescale Intercept. Each
            stack is told with the first one of another part that it shares frames with.
        anonymous: Patient IDs that stand for nobody, so that two parts may have them.
        progress: draw a progress bar on stderr; None draws if that is a terminal.
    """
    placed = [(part, stack) for part, stacks in parts.items() for stack in stacks]
    nobody = {*map(compared, anonymous)}
    leaks = [leak for kind in _NAMES for leak in _shared(placed, kind, nobody)]
    if not pixels:
        return Audit(tuple(leaks), 0, 0, ())
    seen = _Sketches()
    rejected = []
    for part, stack in track(placed, total=len(placed), show=progress, what="volumes"):
        try:
            seen.add(part, stack)
        except DicomDataError as error:
            rejected.append(Rejection(stack.id, error))
    for pair, frames in seen.matches(rejected).items():
        leaks.append(_pixel_leak(*pair, frames))
    return Audit(tuple(leaks), seen.frames, seen.blank, tuple(rejected))


_Placed = tuple[str, "Stack"]


def _series_uid(stack: Stack) -> str:
    name = series_name(stack)
    return name if is_uid(name) else ""


_NAMES: Mapping[Literal["patient", "study", "series"], Callable[[Stack], str]] = {
    "patient": lambda stack: compared(stack.patient_id),
    "study": attrgetter("study_instance_uid"),
    "series": _series_uid,
}
"""What a stack is called by that no other patient's may be; "" where it has none."""


def _shared(
    placed: Sequence[_Placed], kind: Literal["patient", "study", "series"], nobody: Collection[str]
) -> Iterator[Leak]:
    """Find what is in two parts by its name: one leak for each pair of parts."""
    first: dict[str, dict[str, Stack]] = {}
    for part, stack in placed:
        name = _NAMES[kind](stack)
        if name and not (kind == "patient" and name in nobody):
            first.setdefault(name, {}).setdefault(part, stack)
    for name, where in first.items():
        for (one, left), (other, right) in combinations(where.items(), 2):
            yield Leak(
                kind,
                (one, other),
                (left.id, right.id),
                (left.patient_id, right.patient_id),
                f"{kind} {name} is in {one} and in {other}",
            )


def _pixel_leak(left: _Placed, right: _Placed, frames: int) -> Leak:
    (one, a), (other, b) = left, right
    return Leak(
        "pixels",
        (one, other),
        (a.id, b.id),
        (a.patient_id, b.patient_id),
        f"{frames} frames of patient {a.patient_id!r} in {one} and of patient {b.patient_id!r} in "
        f"{other} have the same pixels: stacks {a.id} and {b.id}",
        frames,
    )


class _Sketches:
    """Digests of a band of each frame, and of whole frames where these agree."""

    def __init__(self) -> None:
        self.frames = 0
        self.blank = 0
        self._stacks: list[_Placed] = []
        self._bands: list[NDArray[np.uint64]] = []
        self._places: list[NDArray[np.int32]] = []

    def add(self, part: str, stack: Stack) -> None:
        """Read a band of every frame of a stack.

        Raises:
            DicomDataError: if a frame cannot be read; then nothing of the stack is kept.
        """
        digests = _digests(stack, range(_count(stack)), band=True)
        told = [index for index, digest in enumerate(digests) if digest is not None]
        short = b"".join(digest[:_SHORT] for digest in digests if digest is not None)
        self.frames += len(digests)
        self.blank += len(digests) - len(told)
        self._bands.append(np.frombuffer(short, np.uint64))
        number = np.full(len(told), len(self._stacks))
        self._places.append(np.stack([number, told], axis=1).astype(np.int32))
        self._stacks.append((part, stack))

    def matches(self, rejected: list[Rejection]) -> dict[tuple[_Placed, _Placed], int]:
        """Give the stacks of different parts that share frames, and how many they share."""
        whole: dict[bytes, set[int]] = {}
        for number, indices in self._suspects().items():
            _, stack = self._stacks[number]
            try:
                digests = _digests(stack, indices, band=False)
            except DicomDataError as error:
                rejected.append(Rejection(stack.id, error))
                continue
            for digest in digests:
                if digest is not None:
                    whole.setdefault(digest, set()).add(number)
        counts: Counter[tuple[int, int]] = Counter()
        for numbers in whole.values():
            counts.update(self._pairs(sorted(numbers)))
        return {
            (self._stacks[a], self._stacks[b]): frames for (a, b), frames in sorted(counts.items())
        }

    def _suspects(self) -> dict[int, list[int]]:
        """Give the frames whose bands are in several parts, by stack."""
        if not self._bands:
            return {}
        names = {part: number for number, (part, _) in enumerate(self._stacks)}
        parts = np.array([names[part] for part, _ in self._stacks])
        places = np.concatenate(self._places)
        _, bands = np.unique(np.concatenate(self._bands), return_inverse=True)
        of_parts = np.unique(np.stack([bands, parts[places[:, 0]]], axis=1), axis=0)
        several = np.bincount(of_parts[:, 0]) > 1
        found: dict[int, list[int]] = {}
        for number, index in places[several[bands]].tolist():
            found.setdefault(number, []).append(index)
        return found

    def _pairs(self, numbers: Sequence[int]) -> set[tuple[int, int]]:
        """Pair each stack with the first of another part: all pairs of a thousand are too many."""
        parts = [self._stacks[number][0] for number in numbers]
        others = [number for number, part in zip(numbers, parts, strict=True) if part != parts[0]]
        alike = [number for number, part in zip(numbers, parts, strict=True) if part == parts[0]]
        with_first = {(numbers[0], number) for number in others}
        return with_first | {
            (min(others[0], number), max(others[0], number)) for number in alike if others
        }


def _count(stack: Stack) -> int:
    return stack.shape[0] if isinstance(stack, VolumeFile) else len(stack.frames)


def _digests(stack: Stack, indices: Sequence[int], *, band: bool) -> list[bytes | None]:
    """Digest frames, or a band of rows in the middle of each; None where a frame is blank."""
    if isinstance(stack, VolumeFile):
        _file_voxels(stack)  # once, before threads ask for it
    digests: list[bytes | None] = [None] * len(indices)

    def job(number: int) -> None:
        index = indices[number]
        # A band of air says nothing: then the whole frame is asked.
        digest = _digest(_plane(stack, index, band=True)) if band else None
        digests[number] = digest or _digest(_plane(stack, index))

    run((partial(job, number) for number in range(len(indices))), thread_count(None))
    return digests


def _plane(stack: Stack, index: int, *, band: bool = False) -> NDArray[Any]:
    """Give the stored values of a frame, (rows, columns), or the band of rows in its middle."""
    if isinstance(stack, VolumeFile):
        plane: NDArray[Any] = _file_voxels(stack)[index]
        rows = _band(len(plane)) if band else range(len(plane))
        return plane[rows.start : rows.stop]
    frame = stack.frames[index]
    return read_stored(frame, _band(frame.kind.rows) if band else None)


# A compressed file is inflated from its beginning for every slice: one at a time is held.
@lru_cache(maxsize=1)
def _file_voxels(file: VolumeFile) -> NDArray[Any]:
    slices, rows, columns = map(range, file.shape)
    return read_voxels(file, (slices, rows, columns), np.dtype(np.float32))


def _band(rows: int) -> range:
    """Give the rows in the middle of a frame."""
    first = max((rows - _BAND) // 2, 0)
    return range(first, min(first + _BAND, rows))


def _digest(stored: NDArray[Any]) -> bytes | None:
    """Digest stored values, whatever their type and lowest value; None where all are equal."""
    # Whole numbers in floating point are digested as such: a file may hold what a frame does.
    with np.errstate(invalid="ignore"):
        values: NDArray[Any] = stored.astype(np.int64)
    if stored.dtype.kind == "f" and not np.array_equal(values, stored):
        values = stored
    lowest = np.fmin.reduce(values, axis=None)  # of what is a number
    values = values - (lowest if np.isfinite(lowest) else 0)
    if not values.any():
        return None
    digest = blake2b(repr(stored.shape).encode(), digest_size=_DIGEST)
    digest.update(values.tobytes())
    return digest.digest()

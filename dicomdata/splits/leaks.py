"""What is in two parts at once: a patient, a study, or the very same pixels.

Pixels are compared because names can be wrong: a copy that was made anonymous has another Patient
ID, another study and other UIDs, and the same pixels. Of plain words only a band of rows of each
frame is read; frames that agree there are then compared as a whole. Compressed frames have to be
decoded, so that a copy in another encoding is found as well.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dicomdata.catalog import track
from dicomdata.errors import DicomDataError, Rejection
from dicomdata.pixels import read_stored
from dicomdata.splits.grouping import compared
from dicomdata.volume.files import VolumeFile, read_voxels
from dicomdata.volume.threads import run, thread_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from dicomdata.stack import Stack

_BAND = 16
"""Rows in the middle of a frame that are compared first: 16 kB of a CT, where a read of one row
costs as much."""

_DIGEST = 16
"""Bytes of a digest: no two of 10^12 frames share one by chance."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing that is in two parts."""

    kind: Literal["patient", "study", "pixels"]
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
    parts: Mapping[str, Iterable[Stack]], *, pixels: bool = True, progress: bool | None = None
) -> Audit:
    """Look for what is in two parts at once; nothing raises for a stack.

    Args:
        parts: name -> stacks, however they were split:
            ``{part: split.stacks(plan, part) for part in split.parts}``.
        pixels: compare the pixels of all frames too. A leak is a frame whose stored values are
            those of another, up to a constant: a copy may have another Rescale Intercept.
        progress: draw a progress bar on stderr; None draws if that is a terminal.
    """
    placed = [(part, stack) for part, stacks in parts.items() for stack in stacks]
    leaks = [*_shared(placed, "patient"), *_shared(placed, "study")]
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


def _shared(placed: Sequence[_Placed], kind: Literal["patient", "study"]) -> Iterator[Leak]:
    """Find patients, or studies, that are in two parts: one leak for each pair of parts."""
    first: dict[str, dict[str, Stack]] = {}
    for part, stack in placed:
        for name in _names(stack, kind):
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


def _names(stack: Stack, kind: str) -> set[str]:
    if kind == "patient":
        return {compared(stack.patient_id)} - {""}
    return {stack.study_instance_uid} - {""}


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
        self._found: dict[bytes, list[tuple[int, int]]] = {}

    def add(self, part: str, stack: Stack) -> None:
        """Read a band of every frame of a stack.

        Raises:
            DicomDataError: if a frame cannot be read; then nothing of the stack is kept.
        """
        digests = _digests(stack)
        number = len(self._stacks)
        self._stacks.append((part, stack))
        self.frames += len(digests)
        for index, digest in enumerate(digests):
            if digest is None:
                self.blank += 1
            else:
                self._found.setdefault(digest, []).append((number, index))

    def matches(self, rejected: list[Rejection]) -> dict[tuple[_Placed, _Placed], int]:
        """Give the stacks of different parts that share frames, and how many they share."""
        counts: Counter[tuple[int, int]] = Counter()
        for places in self._found.values():
            if len({self._stacks[number][0] for number, _ in places}) < 2:
                continue
            for number, other in self._same_frames(places, rejected):
                counts[number, other] += 1
        return {
            (self._stacks[a], self._stacks[b]): frames for (a, b), frames in sorted(counts.items())
        }

    def _same_frames(
        self, places: Sequence[tuple[int, int]], rejected: list[Rejection]
    ) -> set[tuple[int, int]]:
        """Give the pairs of stacks of different parts whose frames are equal as a whole."""
        whole: dict[bytes, set[int]] = {}
        for number, index in places:
            _, stack = self._stacks[number]
            try:
                digest = _digest(_plane(stack, index))
            except DicomDataError as error:
                rejected.append(Rejection(stack.id, error))
                continue
            if digest is not None:
                whole.setdefault(digest, set()).add(number)
        return {
            pair
            for numbers in whole.values()
            for pair in combinations(sorted(numbers), 2)
            if self._stacks[pair[0]][0] != self._stacks[pair[1]][0]
        }


def _digests(stack: Stack) -> list[bytes | None]:
    """Digest a band of rows in the middle of each frame; None where a frame is blank."""
    if isinstance(stack, VolumeFile):
        _file_voxels(stack)  # once, before threads ask for it
    count = stack.shape[0] if isinstance(stack, VolumeFile) else len(stack.frames)
    digests: list[bytes | None] = [None] * count

    def job(index: int) -> None:
        # A band of air says nothing: then the whole frame is asked.
        band = _digest(_plane(stack, index, band=True))
        digests[index] = band or _digest(_plane(stack, index))

    run((partial(job, index) for index in range(count)), thread_count(None))
    return digests


def _plane(stack: Stack, index: int, *, band: bool = False) -> NDArray[Any]:
    """Give the stored values of a frame, (rows, columns), or the band of rows in its middle."""
    if isinstance(stack, VolumeFile):
        plane: NDArray[Any] = _file_voxels(stack)[index]
        rows = _band(len(plane)) if band else range(len(plane))
        return plane[rows.start : rows.stop]
    frame = stack.frames[index]
    return read_stored(frame, _band(frame.kind.rows) if band else None)


# A compressed file is inflated from its beginning for every slice: two are held, to be compared.
@lru_cache(maxsize=2)
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

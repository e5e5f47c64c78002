"""What reading labels gives: a `Mask` on the grid of a Stack, and the verdict on how it got there.

Pure records: nothing here opens a file. Arrays are (segments, slices, rows, columns), one segment
above the other, so that segments which overlap stay whole; only `Mask.labelmap` lays them flat,
and refuses to do so where that would lose voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from dicomdata.errors import LabelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dicomdata.stack import Stack

VerdictKind = Literal["same_grid", "reindexed", "resampled"]
"""How the voxels of a label came onto the grid of its stack; what cannot come there is refused."""

MOST_BITS = 15
"""Segments that `Mask.bits` holds at most: int16 has as many bits beside its sign."""

_HIGHEST = 2**16 - 1
"""Highest number of a segment in `Mask.labelmap`: that of uint16."""

HALF = 0.5
"""Share of a voxel from which a fractional segment counts as there."""


class Code(NamedTuple):
    """A coded concept (PS3.3 8.8, Code Sequence Macro)."""

    value: str
    """Code Value (0008,0100): "39607008"."""

    scheme: str
    """Coding Scheme Designator (0008,0102): "SCT"."""

    meaning: str
    """Code Meaning (0008,0104): "Lung"."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One thing that is labelled: a segment, a region of interest, a value of a label file."""

    number: int
    """Segment Number (0062,0004), ROI Number (3006,0022), or the value in a label file; above 0."""

    name: str
    """Segment Label (0062,0005), ROI Name (3006,0026); the number as text where there is none."""

    category: Code | None = None
    """Segmented Property Category Code Sequence (0062,0003); None where it is not said."""

    type: Code | None = None
    """Segmented Property Type Code Sequence (0062,000F); None where it is not said."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a label lies on the grid of its stack, and what was found on the way."""

    kind: VerdictKind
    """"same_grid": voxel for voxel. "reindexed": the same voxel centres in another order, or a part
    of them, copied exactly. "resampled": other centres; only where that was asked for."""

    offset: float
    """Furthest that a voxel centre of the label lies from the one it became, in voxels; of a
    resampled label, the furthest to the nearest centre."""

    text: str
    """Where the label came from and how, in words: "flipped along rows, slices 3 to 7 of 12"."""


@dataclass(frozen=True, slots=True)
class LabelFinding:
    """Something true of a label that a user may want to know."""

    kind: str
    """"outside", "overlap", "open_contour", "point", "empty" and the like."""

    text: str
    """What was found, in words; it names the segment."""

    amount: float | None = None
    """How much, in `unit`; None where there is no measure."""

    unit: Literal["", "mm", "voxels", "contours", "frames"] = ""
    """Of `amount`."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True, eq=False, slots=True)
class Mask:
    """Segments on the grid of a Stack."""

    voxels: NDArray[Any]
    """(segments, slices, rows, columns), read-only: bool, or float32 from 0 to 1 where the label is
    fractional. Segments may overlap."""

    segments: tuple[Segment, ...]
    """What each of them is, in the order of the first axis."""

    stack: Stack
    """On whose grid they lie."""

    verdict: Verdict
    """How they came there."""

    findings: tuple[LabelFinding, ...] = ()
    """What else is true of them: parts outside the stack, segments that overlap."""

    path: str = ""
    """The file they came from; "" where they were made in memory."""

    def __post_init__(self) -> None:
        expected = (len(self.segments), *self.stack.shape)
        if self.voxels.shape != expected:
            raise LabelError(
                f"{self.path or 'mask'}: expected voxels of shape {expected}, (segments, slices, "
                f"rows, columns), got {self.voxels.shape}"
            )
        # A view: whoever made the array may still write to it.
        view = self.voxels.view()
        view.flags.writeable = False
        object.__setattr__(self, "voxels", view)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the segments, in order; two may have the same."""
        return tuple(segment.name for segment in self.segments)

    def of(self, name: str) -> NDArray[Any]:
        """Give the voxels of the segment called `name`, (slices, rows, columns).

        Raises:
            LabelError: if none, or more than one, is called so.
        """
        places = [i for i, known in enumerate(self.names) if known == name]
        if len(places) != 1:
            raise LabelError(
                f"{self.path or 'mask'}: {len(places)} segments are called {name!r}, expected one "
                f"of {', '.join(map(repr, self.names))}"
            )
        voxels: NDArray[Any] = self.voxels[places[0]]
        return voxels

    def labelmap(self, *, overlap: Literal["reject", "last"] = "reject") -> NDArray[np.uint16]:
        """Lay the segments flat: each voxel holds the number of its segment, 0 where there is none.

        A fractional segment counts from one half on.

        Args:
            overlap: what to do where segments overlap: refuse, or let the last of them win.

        Returns:
            (slices, rows, columns), uint16.

        Raises:
            LabelError: if segments overlap and nothing else was asked for, or one has a number that
                uint16 does not hold, or 0, as some writers give.
        """
        flat = np.zeros(self.stack.shape, np.uint16)
        for segment, there in self.numbered():
            if overlap == "reject" and (lost := np.count_nonzero(flat[there])):
                raise LabelError(
                    f"{self.path or 'mask'}: segment {segment.name!r} shares {lost} voxels with "
                    f"those before it, and one array can hold only one of them"
                )
            flat[there] = segment.number
        return flat

    def bits(self) -> NDArray[np.uint16]:
        """Lay the segments flat, each as a bit: segment n is bit n - 1, so that overlaps stay.

        A fractional segment counts from one half on.

        Returns:
            (slices, rows, columns), uint16.

        Raises:
            LabelError: if a segment has a number below 1 or above 15.
        """
        flat = np.zeros(self.stack.shape, np.uint16)
        for segment, there in self.numbered(MOST_BITS):
            np.bitwise_or(flat, 1 << (segment.number - 1), out=flat, where=there)
        return flat

    def numbered(self, highest: int = _HIGHEST) -> Iterator[tuple[Segment, NDArray[np.bool_]]]:
        """Give each segment and where it is, (slices, rows, columns); of fractions, from half on.

        Args:
            highest: number that whoever asks can hold.

        Raises:
            LabelError: if one has a number that cannot be held, or 0.
        """
        for segment, voxels in zip(self.segments, self.voxels, strict=True):
            if not 0 < segment.number <= highest:
                raise LabelError(
                    f"{self.path or 'mask'}: segment {segment.name!r} has the number "
                    f"{segment.number}: expected 1 to {highest}; select_segments numbers anew"
                )
            yield segment, voxels if voxels.dtype == np.bool_ else voxels >= HALF

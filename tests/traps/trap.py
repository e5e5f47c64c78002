"""What a trap is, and the words that traps are described in.

Truths are written down or computed here from plain numbers, never by a reader. Points are in the
patient coordinate system, LPS, mm; arrays and indices are (slice, row, column).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    Vector = tuple[float, float, float]

AIR = -1024.0
"""What padding becomes where the unit is HU."""

ROW_STEP, COLUMN_STEP = 0.8, 0.5
"""From row to row and from column to column unless a trap says otherwise, mm: not square."""

ORIGIN = (-10.0, -20.0, -30.0)
"""Centre of the first voxel unless a trap says otherwise, mm."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """One volume that is right."""

    voxels: NDArray[np.float64]
    """(slices, rows, columns) in output units."""

    affine_lps: NDArray[np.float64]
    """(4, 4): (slice, row, column, 1) -> mm. Of a single slice the step means nothing."""

    also: tuple[NDArray[np.float64], ...] = ()
    """Voxels that are right as well, where more than one answer is: nan for padding."""

    unit: str = "HU"
    """What a reader that names units must say."""

    valid: tuple[bool, ...] = ()
    """Which slices were measured; empty where all were."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trap:
    """A series, and what to make of it.

    Every volume of `truth` must be given, unless the series is refused for `refusal`. Where there
    is no `refusal`, refusing is needless.
    """

    name: str
    """Short, for tables and for choosing."""

    title: str
    """What is odd about the series, for people."""

    write: Callable[[Path], object]
    """Write its files into a folder."""

    truth: tuple[Truth, ...] = ()
    """The volumes in it; none where there is no right one to give."""

    aside: tuple[Truth, ...] = ()
    """What may be given besides: a localizer."""

    refusal: str = ""
    """A pattern that the words of a refusal must match, where refusing is right."""

    findings: frozenset[str] = frozenset()
    """What must be reported of the volumes."""

    policy: Mapping[str, Any] = field(default_factory=dict)
    """What this package is asked for, as fields of `Policy`."""

    meanwhile: Callable[[Path], object] | None = None
    """What happens to the files after they are found and before they are read."""

    tolerance_mm: float = 1e-3
    """How far a voxel may be from where it is."""

    multi_frame: bool = False
    """Whether its files hold several frames each, which not every reader sets out to read."""

    asks_others: bool = True
    """Whether other readers can be asked: no, where it is about what only this package offers."""


def series(**changes: Any) -> Callable[[Path], object]:
    """Write a series: CT, five slices of 4 x 6, 2.5 mm apart, but for `changes`."""
    return partial(write_series, **changes)


def several(*writers: Callable[[Path], object]) -> Callable[[Path], object]:
    """Write several things into one folder."""

    def write(folder: Path) -> None:
        for each in writers:
            each(folder)

    return write


def place(
    *,
    origin: Sequence[float] = ORIGIN,
    slices: Sequence[float] = (0, 0, 2.5),
    rows: Sequence[float] = (0, ROW_STEP, 0),
    columns: Sequence[float] = (COLUMN_STEP, 0, 0),
) -> NDArray[np.float64]:
    """Give the affine of these steps from slice to slice, row to row and column to column, mm."""
    affine = np.eye(4)
    affine[:3] = np.transpose([slices, rows, columns, origin])
    return affine


def counted(slices: int = 5, *, start: float = -24) -> NDArray[np.float64]:
    """Give the HU of the default phantom: from -24 up by 1 a voxel, planes of 4 x 6."""
    return start + np.arange(slices * 24, dtype=np.float64).reshape(slices, 4, 6)


def words(slices: int = 5, *, start: int = 1000) -> NDArray[np.uint16]:
    """Give stored values: from `start` up by 1 a voxel, planes of 4 x 6."""
    return (start + np.arange(slices * 24)).astype(np.uint16).reshape(slices, 4, 6)


def flat(*values: float, dtype: Any = np.float64) -> NDArray[Any]:
    """Give planes of 4 x 6, each of one value."""
    planes: NDArray[Any] = np.tile(np.reshape(np.array(values, dtype), (-1, 1, 1)), (1, 4, 6))
    return planes


def striped(values: ArrayLike, dtype: Any = np.float64) -> NDArray[Any]:
    """Give five equal planes of 4 x 6, each row of which repeats these values."""
    planes: NDArray[Any] = np.tile(np.resize(np.array(values, dtype), 6), (5, 4, 1))
    return planes


def clean(slices: int = 5, **changes: Any) -> tuple[Truth, ...]:
    """Give the one volume of the default phantom, but for `changes`."""
    return (Truth(**{"voxels": counted(slices), "affine_lps": place(), **changes}),)


def is_volume(voxels: NDArray[np.float64], unit: str = "HU", **changes: Any) -> tuple[Truth, ...]:
    """Give one volume of these voxels, where the default phantom lies, but for `changes`."""
    return (Truth(voxels=voxels, affine_lps=place(), unit=unit, **changes),)

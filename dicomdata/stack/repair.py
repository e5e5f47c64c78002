"""Repairs: even, upright grids for frames that lie on none, and what each slice is made of.

Geometry only: `volume` does what is planned here. What was measured and what was not stays known,
slice by slice.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dicomdata.geometry import UNIFORM, as_vector
from dicomdata.stack.records import Shear, Stack, identified

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_MEASURED = 0.5
"""Share of a repaired stack's slices that frames must be there for: beyond, it is made up."""

_UPRIGHT = 1e-3
"""Sideways shift over a whole stack that needs no resampling, pixels."""


def sample_evenly(places: Sequence[float], *, interpolate: bool) -> tuple[float | None, ...]:
    """Say for each slice of an even lattice where among the frames it lies.

    Args:
        places: where each frame lies on the lattice, ascending from 0.
        interpolate: whether a slice where no frame lies is taken from between its neighbours.

    Returns:
        For each slice: 2.0 is frame 2, 2.25 is a quarter of the way to frame 3, None is nothing.
    """
    at = np.asarray(places, np.float64)
    numbers = np.arange(round(at[-1]) + 1)
    among = np.interp(numbers, at, np.arange(len(at)))
    nearest = np.rint(among).astype(np.int64)
    measured = np.abs(at[nearest] - numbers) <= UNIFORM
    return tuple(
        float(frame) if there else (float(between) if interpolate else None)
        for frame, there, between in zip(nearest, measured, among, strict=True)
    )


def untilt(stack: Stack) -> Stack:
    """Give a tilted stack on an upright grid: slices that stand at right angles to their step.

    The grid keeps spacing, orientation and slices, and grows by as many rows or columns as it
    takes to lose no pixel. Each slice is shifted within its plane by exactly what the affine
    says, linearly interpolated where that is no whole number of pixels; what no frame covers is
    air. A stack that does not lean is given back as it is.
    """
    step, row, column, origin = (np.array(axis) for axis in stack.affine_columns)
    normal = np.cross(column, row)
    normal /= np.linalg.norm(normal)
    upright = normal * (step @ normal)
    sideways = step - upright
    # Pixels by which each slice is further down its rows, and further along its columns.
    shift = tuple(float(sideways @ axis / (axis @ axis)) for axis in (row, column))
    last = stack.shape[0] - 1
    if stack.shear is not None or max(map(abs, shift)) * last <= _UPRIGHT:
        return stack
    low = [math.floor(min(0.0, last * each)) for each in shift]
    high = [math.ceil(max(0.0, last * each)) for each in shift]
    corner = origin + low[0] * row + low[1] * column
    slices, rows, columns = stack.shape
    moved = replace(
        stack,
        shape=(slices, rows + high[0] - low[0], columns + high[1] - low[1]),
        affine_columns=(as_vector(upright), as_vector(row), as_vector(column), as_vector(corner)),
        shear=Shear((-low[0] + 0.0, -low[1] + 0.0), (shift[0], shift[1])),
    )
    return identified(moved, stack.frames)

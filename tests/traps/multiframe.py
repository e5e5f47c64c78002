"""Traps of multi-frame files, whose frames are described in functional groups (PS3.3 C.7.6.16)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.testing.enhanced import write_enhanced
from dicomdata.testing.phantoms import Each
from traps.geometry import FILLED, GAPPED, WITHOUT_THREE
from traps.trap import Trap, Truth, clean, flat, is_volume, place, words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def enhanced(**changes: Any) -> Callable[[Path], object]:
    """Write an Enhanced CT of five frames, 4 x 6, 2.5 mm apart, but for `changes`."""
    return partial(write_enhanced, **changes)


MULTI_FRAME = (
    Trap(
        name="enh",
        title="Enhanced CT whose frames are stored as 2, 0, 3, 1, 4",
        write=enhanced(order=(2, 0, 3, 1, 4)),
        truth=clean(),
    ),
    Trap(
        name="enhs",
        title="Enhanced CT whose frames each have a Rescale Slope",
        write=enhanced(
            stored=flat(1000, 1010, 1020, 1010, 1000, dtype=np.uint16),
            slope=Each("1", "0.5", "0.25", "0.5", "1"),
            intercept="0",
        ),
        truth=is_volume(flat(1000, 505, 255, 505, 1000)),
    ),
    Trap(
        name="enhg",
        title="Enhanced CT without frame 3 of 6",
        write=enhanced(stored=GAPPED, positions=WITHOUT_THREE),
        truth=(Truth(voxels=FILLED, affine_lps=place()),),
        refusal=r"\bgap\b",
    ),
    Trap(
        name="G30",
        title="Enhanced CT whose Stack IDs 1, 2, 3 take turns along one volume",
        write=enhanced(
            stored=words(6),
            extra={
                "StackID": Each("1", "2", "3", "1", "2", "3"),
                "InStackPositionNumber": Each(1, 1, 1, 2, 2, 2),
                "DimensionIndexValues": Each((1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2)),
            },
        ),
        truth=clean(6),
    ),
)

TRAPS = tuple(replace(trap, multi_frame=True) for trap in MULTI_FRAME)

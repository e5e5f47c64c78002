"""Three volumes to take patches from, and MONAI's view of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dicomdata as dd
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Planned = Callable[..., dd.StackPlan]
    Triple = tuple[int, int, int]

SHAPES: tuple[Triple, ...] = ((9, 12, 14), (7, 11, 10), (5, 16, 8))
"""All larger than a patch of (4, 6, 5)."""


def three_volumes(root: Path, planned: Planned, **changes: Any) -> tuple[dd.Stack, ...]:
    """Write three CT series; give their stacks, of `SHAPES` in this order."""
    for number, shape in enumerate(SHAPES):
        write_series(root / str(number), seed=str(number), shape=shape, **changes)
    found = planned(root).stacks
    return tuple(sorted(found, key=lambda stack: SHAPES.index(stack.shape)))


def xyz(places: Any) -> tuple[int, ...]:
    """Turn (slice, row, column) into MONAI's (x, y, z)."""
    return tuple(int(place) for place in reversed(list(places)))


def whole(stack: dd.Stack) -> Any:
    """Give the whole volume, as MONAI has it."""
    return dd.to_metatensor(dd.read_volume(stack))

"""Damaged labels: whatever the bytes, out comes a mask or an error of ours, and never a warning."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

import dicomdata as dd
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Read = Callable[..., dd.Mask]
    Write = Callable[..., None]

PREAMBLE = 132
"""Bytes before the first element (PS3.10 7.1)."""


def damage(content: bytes, chance: random.Random) -> bytes:
    """Cut a file short, take bytes out of it, or change some."""
    damaged = bytearray(content)
    at = chance.randrange(PREAMBLE, len(content))
    if chance.random() < 0.15:
        return content[:at]
    if chance.random() < 0.15:
        del damaged[at : at + chance.randrange(1, 40)]
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        at = chance.randrange(PREAMBLE, len(damaged))
        damaged[at] = chance.choice([0, 32, 255, chance.randrange(48, 58), chance.randrange(256)])
    return bytes(damaged)


@pytest.mark.parametrize(
    ("write", "read", "fractional"),
    [
        (dd.write_segmentation, dd.read_segmentation, False),
        (dd.write_segmentation, dd.read_segmentation, True),
        (dd.write_structures, dd.read_structures, False),
    ],
    ids=["binary", "fractional", "contours"],
)
def test_a_damaged_label_is_read_or_refused(
    tmp_path: Path, write: Write, read: Read, fractional: bool
) -> None:
    write_series(tmp_path / "ct")
    (stack,) = dd.plan_stacks(dd.scan(tmp_path / "ct", progress=False)).stacks
    drawn = np.random.default_rng(0).random((2, *stack.shape)) > 0.5
    write(tmp_path / "label.dcm", drawn.astype(float) if fractional else drawn, stack, ["A", "B"])
    content = (tmp_path / "label.dcm").read_bytes()
    chance = random.Random(7)  # noqa: S311 - to repeat, not to hide

    refused = 0
    for _ in range(60):
        (tmp_path / "label.dcm").write_bytes(damage(content, chance))
        try:
            read(tmp_path / "label.dcm", stack, resample=True, by_images=True)
        except dd.DicomDataError as error:
            assert str(tmp_path / "label.dcm") in str(error)  # noqa: PT017 - of every one that comes
            refused += 1

    assert 10 < refused < 60

"""Hypothesis strategies for series whose truth is known: draw one, write it, compare.

    >>> @given(phantom=series_phantoms())
    ... def test_my_reader(phantom, tmp_path_factory):
    ...     write_series(tmp_path_factory.mktemp("series"), phantom)

`series_phantoms` draws clean series: one regular grid, anyhow oriented, tilted or not, in any
encoding and pixel format. What it draws, shrinks: to an axial stack of few voxels of zero.
`file_names`, `regions` and `orientations` draw what belongs to them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from hypothesis import strategies as st
from pydicom import uid

from dicomdata.regions import Region
from dicomdata.testing.phantoms import SeriesPhantom

if TYPE_CHECKING:
    from collections.abc import Sequence

NATIVE: Final = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
"""Transfer syntaxes that keep pixels as plain words (the last one deflates the whole)."""

LOSSLESS: Final = (
    uid.RLELossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
)
"""Transfer syntaxes that compress and give every bit back."""

_STEEPEST = 25
"""Degrees of gantry tilt: scanners reach 30."""

_NAME_CHARACTERS = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])


@st.composite
def orientations(draw: st.DrawFn) -> tuple[float, ...]:
    """Draw an Image Orientation (Patient): axial, coronal, sagittal, or any rotation of these."""
    # Every quaternion of small whole numbers is a rotation; the simplest is none.
    w, x, y, z = draw(st.tuples(*[st.integers(-5, 5)] * 4).filter(any))
    n = w * w + x * x + y * y + z * z
    row = (w * w + x * x - y * y - z * z, 2 * (x * y + w * z), 2 * (x * z - w * y))
    column = (2 * (x * y - w * z), w * w - x * x + y * y - z * z, 2 * (y * z + w * x))
    return tuple(part / n for part in (*row, *column))


@st.composite
def file_names(draw: st.DrawFn, count: int) -> list[str]:
    """Draw `count` different names that Linux allows, some of them in folders."""
    name = st.text(_NAME_CHARACTERS, min_size=1, max_size=12).filter(_is_name)
    # Names that differ in case only are one name on some disks.
    names = draw(st.lists(name, min_size=count, max_size=count, unique_by=str.casefold))
    folders = draw(st.lists(st.sampled_from(["", "a/", "a/b/"]), min_size=count, max_size=count))
    # A number keeps a file from having the name of a folder.
    return [f"{folders[k]}{k} {names[k]}" for k in range(count)]


@st.composite
def regions(draw: st.DrawFn, shape: Sequence[int]) -> Region:
    """Draw a box that holds at least one voxel of a volume of `shape`, as Python slices it."""
    axes = []
    for length in shape:
        start = draw(st.integers(0, length - 1))
        stop = draw(st.integers(start + 1, length))
        # The same box, counted from the other end, left open, or reaching beyond.
        first = draw(st.sampled_from([start, start - length] + [None] * (start == 0)))
        beyond = [None, length + 3] if stop == length else [stop - length]
        axes.append(slice(first, draw(st.sampled_from([stop, *beyond]))))
    return Region(*axes)


@st.composite
def series_phantoms(
    draw: st.DrawFn,
    *,
    slices: tuple[int, int] = (1, 5),
    transfer_syntaxes: Sequence[str] = NATIVE,
    tilted: bool = True,
) -> SeriesPhantom:
    """Draw a series that is one volume on a regular grid.

    Args:
        draw: hypothesis gives it.
        slices: fewest and most.
        transfer_syntaxes: encodings to choose from, `NATIVE` or `LOSSLESS`.
        tilted: whether slices may shift sideways evenly.
    """
    native = set(transfer_syntaxes) <= set(NATIVE)
    side = st.integers(1, 6) if native else st.integers(12, 16)
    shape = (draw(st.integers(*slices)), draw(side), draw(side))
    orientation = draw(orientations())
    return SeriesPhantom(
        orientation=orientation,
        origin=draw(st.tuples(*[_lengths(-500, 500)] * 3)),
        step=_step(orientation, draw(_lengths(0.3, 9)), *draw(_leans(tilted=tilted))),
        pixel_spacing=draw(st.tuples(_lengths(0.2, 3), _lengths(0.2, 3))),
        modality=draw(st.sampled_from(["CT", "MR"])),
        slope=draw(st.sampled_from(["1", "2", "0.5", "-1", "0.0037"])),
        intercept=draw(st.sampled_from(["0", "-1024", "-1000.5", "1000000"])),
        transfer_syntax_uid=draw(st.sampled_from(transfer_syntaxes)),
        **draw(_pixel_formats(shape, native=native)),
    )


@st.composite
def _pixel_formats(draw: st.DrawFn, shape: tuple[int, int, int], *, native: bool) -> dict[str, Any]:
    """Draw words and how they are to be read: any words at all, or what codecs can take."""
    allocated = draw(st.sampled_from([8, 16]))
    stored = draw(st.integers(allocated // 2 + 1, allocated))
    signed = draw(st.booleans())
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    if native:
        words = random.integers(0, 2**allocated, shape)
        high_bit = draw(st.integers(stored - 1, allocated - 1))
    else:
        # No bits beyond those stored, and little noise: some encoders fail where nothing is won.
        low = -(2 ** (stored - 1)) if signed else 0
        words = random.integers(0, 4, shape) + draw(st.sampled_from([low, 0, low + 2**stored - 4]))
        high_bit = stored - 1
    words = words.astype(f"u{allocated // 8}")
    return {
        "stored": words.view(f"i{allocated // 8}") if signed else words,
        "bits_stored": stored,
        "high_bit": high_bit,
        "signed": signed,
    }


def _leans(*, tilted: bool) -> st.SearchStrategy[tuple[float, float]]:
    """Draw how far a stack leans, degrees, and along which direction within its planes."""
    upright = st.just((0.0, 0.0))
    if not tilted:
        return upright
    return upright | st.tuples(st.floats(1, _STEEPEST), st.floats(0, 2 * math.pi))


def _lengths(low: float, high: float) -> st.SearchStrategy[float]:
    """Draw lengths of three decimals, mm."""
    whole = st.integers(math.ceil(low * 1000), math.floor(high * 1000))
    return whole.map(lambda thousandths: thousandths / 1000)


def _step(
    orientation: Sequence[float], spacing: float, lean: float, towards: float
) -> tuple[float, float, float]:
    """From slice to slice, mm: `spacing` along the normal, and sideways for a lean."""
    row, column = np.reshape(np.array(orientation), (2, 3))
    sideways = spacing * math.tan(math.radians(lean))
    within = math.cos(towards) * row + math.sin(towards) * column
    x, y, z = (spacing * np.cross(row, column) + sideways * within).tolist()
    return x, y, z


def _is_name(name: str) -> bool:
    return name not in {".", ".."} and len(name.encode()) < 200

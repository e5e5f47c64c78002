"""Labels in NIfTI, MetaImage and NRRD files onto the grid of a Stack: `read_label_file`.

Arrays are never compared: the file's affine says where its voxels are. Where their centres are
those of the stack, in whatever order, they are copied. Where they are not, the label is refused,
with a word if it would fit were it mirrored; or resampled, if that was asked for.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from dicomdata.errors import LabelError
from dicomdata.labels.findings import (
    check_outside,
    find_empty,
    find_outside,
    find_overlap,
    find_unmeasured,
)
from dicomdata.labels.names import choose
from dicomdata.labels.placing import count_outside, place
from dicomdata.labels.records import LabelFinding, Mask, Segment, Verdict
from dicomdata.labels.resampling import resample as resample_voxels
from dicomdata.volume.formats import read_box, read_file_header

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from dicomdata.labels.findings import Outside
    from dicomdata.labels.names import Missing, Wanted
    from dicomdata.stack import Stack
    from dicomdata.volume.claims import FileHeader

_HIGHEST = 2**16 - 1
"""Highest value of a label: that of uint16, in which `Mask.labelmap` holds it."""

_ROUNDING = 1e-3
"""By how much a value may miss a whole number: some programs store labels with a scale."""

_MOST_VALUES = 1024
"""Values that one label may have: a whole body has a few hundred structures, an image thousands."""

_MIRRORS = {
    "x and y": (-1, -1, 1),
    "x": (-1, 1, 1),
    "y": (1, -1, 1),
    "z": (1, 1, -1),
}
"""Axes of the patient -> signs: x and y together are RAS taken for LPS."""


def read_label_file(  # noqa: PLR0913 - what is read, and what is taken for right: all by name
    path: str | os.PathLike[str],
    stack: Stack,
    *,
    names: Mapping[int, str] | None = None,
    segments: Wanted | None = None,
    missing: Missing = "error",
    resample: bool = False,
    outside: Outside | None = None,
) -> Mask:
    """Read a label from a NIfTI, MetaImage or NRRD file onto the grid of a stack.

    Args:
        path: whole numbers, 0 where nothing is labelled.
        stack: the image it was drawn on: a `Stack`, or a `VolumeFile`.
        names: value -> name; a value that is not among them is refused. None takes the names that
            3D Slicer keeps in its segmentations, else the value as text.
        segments: name -> pattern, or names: only those are given memory, and what comes is that of
            `select_segments`, findings on them alone. None gives all.
        missing: what to do where none is called so, as in `select_segments`.
        resample: take the nearest voxel of the label where its centres are not those of the stack.
            Otherwise such a label is refused.
        outside: what to do where voxels of these segments lie outside the stack: refuse ("reject"),
            or leave them out with a finding ("drop"). None refuses: no file of this kind says
            whose it is. A label of which nothing lies inside is refused always.

    Returns:
        (segments, slices, rows, columns), bool; a segment for each name, or each value there is.

    Raises:
        FileError: if it cannot be read.
        HeaderError: if it is of another kind, or damaged.
        GeometryError: if it does not say where it lies, or contradicts itself about it.
        LabelError: if it is no label, has a value without name, lies mirrored, elsewhere, or partly
            outside the stack.
        ConfigError: if SimpleITK is not installed.
    """
    header = read_file_header(path)
    layers = _read_layers(header)
    every = _parts(header, layers, names)
    chosen = choose(header.path, [each.segment.name for each in every], segments, missing=missing)
    parts = [every[place] for place in chosen.places]
    laid = _lay(header, layers, stack, resample=resample)
    lost = {i: n for i, part in enumerate(parts) if (n := laid.outside[part.layer, part.value])}
    told = [f"{n} voxels of {parts[i].segment.name!r}" for i, n in lost.items()]
    hint = _mirror(header, stack) if lost else ""
    check_outside(header.path, stack, told, outside or "reject", hint)
    voxels = _split(laid.layers, parts, stack)
    read = tuple(part.segment for part in parts)
    findings = chain(
        find_outside(header.path, read, lost, voxels),
        find_overlap(voxels) if len(layers) > 1 else (),
        find_empty(read, voxels),
        () if every else [LabelFinding("empty", "nothing is labelled", 0, "voxels")],
        find_unmeasured(stack),
    )
    return chosen.of(Mask(voxels, read, stack, laid.verdict, tuple(findings), header.path))


@dataclass(frozen=True, slots=True)
class _Part:
    """Where a segment is in the file."""

    segment: Segment
    layer: int
    value: int


@dataclass(frozen=True, slots=True)
class _Laid:
    """Layers of values on the grid of a stack, and what did not come there."""

    layers: list[NDArray[np.uint16]]
    outside: Counter[tuple[int, int]]
    verdict: Verdict


def _read_layers(header: FileHeader) -> list[NDArray[np.uint16]]:
    """Read the values of a label, (slices, rows, columns) for each of its layers.

    Raises:
        LabelError: if they are none of a label.
    """
    slices, rows, columns = map(range, header.shape)
    stored = read_box(header, (slices, rows, columns))
    stored = stored.reshape(*header.shape, header.layers)
    low, high = stored.min(), stored.max()
    # A comparison with nan is false.
    if not (low >= 0 and high <= _HIGHEST):
        raise LabelError(
            f"{header.path}: expected values of a label, 0 to {_HIGHEST}, found {low} to {high}"
        )
    values = np.rint(stored).astype(np.uint16) if stored.dtype.kind == "f" else stored.astype("u2")
    if stored.dtype.kind == "f" and (odd := stored[np.abs(stored - values) > _ROUNDING]).size:
        raise LabelError(f"{header.path}: expected whole numbers, one a segment, found {odd[0]}")
    return [values[..., layer] for layer in range(header.layers)]


def _parts(
    header: FileHeader, layers: Sequence[NDArray[np.uint16]], names: Mapping[int, str] | None
) -> list[_Part]:
    """Say which segments there are, and by which values they are drawn.

    Raises:
        LabelError: if a value has no name, 0 has one, or there are too many of them.
    """
    found = [
        (layer, value)
        for layer, values in enumerate(layers)
        for value in np.flatnonzero(_count(values)).tolist()
        if value
    ]
    if len(found) > _MOST_VALUES:
        raise LabelError(
            f"{header.path}: {len(found)} different values: an image, and no label (of at most "
            f"{_MOST_VALUES})"
        )
    if names is None:
        known = _slicer_names(header)
    elif len(layers) > 1:
        raise LabelError(f"{header.path}: has layers: a value alone does not tell its segment")
    else:
        known = {(0, value): name for value, name in names.items()}
    if len(layers) > 1 and not known:
        raise LabelError(f"{header.path}: {len(layers)} values a voxel, as of a colour: no label")
    if names is None and not known:
        known = {place: str(place[1]) for place in found}
    if background := [name for (_, value), name in known.items() if value < 1]:
        raise LabelError(
            f"{header.path}: {background[0]!r} is the value 0, which is where nothing is labelled"
        )
    unnamed = sorted({value for layer, value in found if (layer, value) not in known})
    if unnamed:
        raise LabelError(
            f"{header.path}: the values {unnamed[:9]} have no name: expected "
            f"{sorted(value for _, value in known)}"
        )
    # Values are numbers of segments, but where layers use one twice.
    return [
        _Part(Segment(value if len(layers) == 1 else number, known[layer, value]), layer, value)
        for number, (layer, value) in enumerate(sorted(known), 1)
    ]


def _slicer_names(header: FileHeader) -> dict[tuple[int, int], str]:
    """Give what a segmentation of 3D Slicer calls its segments: (layer, value) -> name.

    Older ones tell neither layer nor value: each segment is a layer of its own there, of ones.

    Raises:
        LabelError: if two segments are drawn by one value of one layer.
    """
    names: dict[tuple[int, int], str] = {}
    found = (re.fullmatch(r"(Segment(\d+)_)(?:Name|LabelValue)", key) for key in header.text)
    for prefix, number in dict.fromkeys(each.groups() for each in found if each):
        value = header.text.get(f"{prefix}LabelValue", "1").strip()
        layer = header.text.get(f"{prefix}Layer", number if header.layers > 1 else "0").strip()
        if not (value.isdecimal() and layer.isdecimal()):
            continue
        name = header.text.get(f"{prefix}Name", value).strip()
        place = int(layer), int(value)
        if place in names:
            raise LabelError(
                f"{header.path}: {names[place]!r} and {name!r} are both the value {value} of layer "
                f"{layer}"
            )
        names[place] = name
    return names


def _count(values: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Count how often each value occurs, (65536,)."""
    counts = np.zeros(_HIGHEST + 1, np.int64)
    for plane in values:  # bincount makes 64-bit numbers of all it is given
        counts += np.bincount(plane.ravel(), minlength=_HIGHEST + 1)
    return counts


def _lay(
    header: FileHeader, layers: Sequence[NDArray[np.uint16]], stack: Stack, *, resample: bool
) -> _Laid:
    """Lay values on the grid of a stack.

    Raises:
        LabelError: if their centres are not those of the stack, and they are not to be resampled.
    """
    placement = place(header.affine_lps, header.shape, stack.affine_lps, stack.shape)
    mirror = _mirror(header, stack)
    if placement is None:
        # What fits the other way round, voxel for voxel, was never meant to be resampled.
        if mirror or not resample:
            raise _off_grid(header, stack)
        return _resampled(header, layers, stack)
    if mirror and any(placement.start):
        raise LabelError(
            f"{header.path}: lies off stack {stack.id} by {placement.start} voxels{mirror}"
        )
    if placement.overlap() is None:
        raise LabelError(f"{header.path}: lies wholly outside stack {stack.id}")
    outside: Counter[tuple[int, int]] = Counter()
    laid = []
    for number, values in enumerate(layers):
        grid = np.zeros(stack.shape, np.uint16)
        if placement.copy(values, grid):
            lost = _count(values) - _count(grid)
            outside.update({(number, v): int(lost[v]) for v in np.flatnonzero(lost).tolist() if v})
        laid.append(grid)
    text = "; ".join(placement.differences) or "voxel for voxel"
    return _Laid(laid, outside, Verdict(placement.kind, placement.offset, text))


def _resampled(header: FileHeader, layers: Sequence[NDArray[np.uint16]], stack: Stack) -> _Laid:
    """Take the nearest voxel of a label for each of the stack."""
    laid, offset = resample_voxels(
        np.stack(layers), header.affine_lps, stack.affine_lps, stack.shape
    )
    outside: Counter[tuple[int, int]] = Counter()
    for number, values in enumerate(layers):
        grid = stack.affine_lps, stack.shape
        if count_outside(values, header.affine_lps, *grid):
            for value in np.flatnonzero(_count(values)[1:]) + 1:
                there = values == value
                outside[number, int(value)] = count_outside(there, header.affine_lps, *grid)
    spacing = " x ".join(f"{each:.4g}" for each in _spacing(header))
    text = f"resampled to the nearest voxel from {header.shape} voxels of {spacing} mm"
    return _Laid(list(laid), outside, Verdict("resampled", offset, text))


def _split(
    layers: Sequence[NDArray[np.uint16]], parts: Sequence[_Part], stack: Stack
) -> NDArray[np.bool_]:
    """Give each segment voxels of its own, (segments, slices, rows, columns)."""
    # Memory of zeros is taken when it is written to: most segments are in few slices.
    voxels = np.zeros((len(parts), *stack.shape), np.bool_)
    index = {(part.layer, part.value): i for i, part in enumerate(parts)}
    for number, layer in enumerate(layers):
        for k, plane in enumerate(layer):
            for value in np.flatnonzero(np.bincount(plane.ravel())).tolist():
                if (number, value) in index:
                    np.equal(plane, value, out=voxels[index[number, value], k])
    return voxels


def _off_grid(header: FileHeader, stack: Stack) -> LabelError:
    spacing = " x ".join(f"{each:.5g}" for each in _spacing(header))
    expected = " x ".join(f"{each:.5g}" for each in stack.spacing)
    middle = [(length - 1) / 2 for length in header.shape]
    at = np.linalg.inv(stack.affine_lps) @ header.affine_lps @ (*middle, 1)
    return LabelError(
        f"{header.path}: lies on other voxels than stack {stack.id}: its middle is at slice "
        f"{at[0]:.2f}, row {at[1]:.2f}, column {at[2]:.2f} of {stack.shape}, its {header.shape} "
        f"voxels are {spacing} mm apart, expected {expected}"
        f"{_mirror(header, stack) or '; resample=True takes the nearest'}"
    )


def _spacing(header: FileHeader) -> Iterator[float]:
    """Give the distance between slices, rows and columns of a file, mm."""
    return (float(np.linalg.norm(axis)) for axis in header.affine_lps[:3, :3].T)


def _mirror(header: FileHeader, stack: Stack) -> str:
    """Say whether a label that does not fit would if it were mirrored; "" if it would not."""
    for name, signs in _MIRRORS.items():
        affine = np.diag([*signs, 1.0]) @ header.affine_lps
        placement = place(affine, header.shape, stack.affine_lps, stack.shape)
        if placement is not None and placement.shape == placement.grid and not any(placement.start):
            how = ", as where RAS is taken for LPS" if name == "x and y" else ""
            return f"; it is mirrored: it would fit with {name} negated{how}"
    return ""

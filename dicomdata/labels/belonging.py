"""Whether a label belongs to a stack: frames of reference, and which slice a source image is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dicomdata.errors import LabelError
from dicomdata.geometry import as_vector
from dicomdata.labels.records import LabelFinding
from dicomdata.labels.references import Source, find_references

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from pydicom import Dataset

    from dicomdata.header import Frame
    from dicomdata.stack import Stack


def check_frame_of_reference(
    path: str,
    uids: Collection[str],
    stack: Stack,
    parts: Iterable[frozenset[Source]] | None = None,
) -> tuple[LabelFinding, ...]:
    """Refuse a label that was drawn in another frame of reference than its stack's.

    Args:
        path: the label's file, for the error.
        uids: the frames of reference it names; none is a finding.
        stack: what it is to be laid on.
        parts: what each of its parts was drawn on, where images count for more: another frame of
            reference is a finding, if every part names an image of the stack.

    Raises:
        LabelError: naming both.
    """
    # Slices of one good volume sometimes have a frame of reference each.
    known = {frame.kind.frame_of_reference_uid for frame in stack.frames} - {""}
    if not uids or not known:
        whose = "the label" if not uids else f"stack {stack.id}"
        text = f"{whose} names no Frame of Reference UID (0020,0052): taken to be the same"
        return (LabelFinding("frame_of_reference_missing", text),)
    if not known.isdisjoint(uids):
        return ()
    text = (
        f"another Frame of Reference UID (0020,0052) than stack {stack.id}: expected "
        f"{' or '.join(sorted(known))}, got {' or '.join(sorted(uids))}"
    )
    ours = stack_sources(stack)
    if parts is None or any(sources.isdisjoint(ours) for sources in parts):
        hint = "; by_images=True takes it if all its parts name images of the stack"
        raise LabelError(f"{path}: {text}{hint if parts is None else ''}")
    return (LabelFinding("frame_of_reference_disagrees", text),)


def stack_sources(stack: Stack) -> dict[Source, int | None]:
    """Give which slice each frame of a stack is, by what labels call it.

    A frame that a file has alone is known by its instance, too. The slice is None of a frame that
    only helps to interpolate, and of what names several slices.
    """
    slices: dict[Source, int | None] = {}
    for frame, number in _frames_of(stack):
        for source in (
            Source(frame.sop_instance_uid, frame.number),
            Source(frame.sop_instance_uid, None),
        ):
            # Some archives give every slice the same UID, which then names none.
            slices[source] = None if source in slices else number
    return slices


def images_of(stack: Stack) -> dict[Source, Frame]:
    """Give the frames of a stack by what labels call them, but for names that several have."""
    by_slice = {number: frame for frame, number in _frames_of(stack)}
    named = stack_sources(stack)
    return {source: by_slice[number] for source, number in named.items() if number is not None}


def _frames_of(stack: Stack) -> Iterator[tuple[Frame, int | None]]:
    """Give the images of a stack and which slices they are; a volume in one file has none."""
    if len(stack.frames) == len(stack.slice_numbers):
        yield from zip(stack.frames, stack.slice_numbers, strict=True)


def drawn_on(
    path: str, header: Dataset, stack: Stack, parts: Sequence[frozenset[Source]]
) -> list[bool]:
    """Tell which parts of a label may be meant for a stack, by the images each was drawn on.

    All of them, but where the stack is one of several volumes at the same places, as a phase is:
    there, what was drawn on another volume is not its own.

    Args:
        path: the label's file, for the error.
        header: of the label.
        stack: what it is to be laid on.
        parts: what each part was drawn on; nothing where it does not say.

    Raises:
        LabelError: if all of it was drawn on other volumes of the stack's series.
    """
    ours = stack_sources(stack)
    known = [not sources.isdisjoint(ours) for sources in parts]
    if stack.dimension == ("", ""):
        return [True] * len(parts)
    if any(known):
        return [own or not sources for own, sources in zip(known, parts, strict=True)]
    named = find_references(path, header).series_instance_uids
    if any(parts) and stack.series_instance_uid in named:
        raise LabelError(
            f"{path}: drawn on other volumes of series {stack.series_instance_uid} than stack "
            f"{stack.id} ({' '.join(stack.dimension)})"
        )
    return [True] * len(parts)


def slice_offsets(stack: Stack) -> NDArray[np.float64]:
    """Give how far the frame of each slice lies from its place on the grid, (slices, 3), LPS mm.

    A label copies the position of the image it was drawn on, which rounding may have moved off
    the even lattice. Slices without a frame, and those of a sheared stack, have 0.
    """
    offsets = np.zeros((stack.shape[0], 3))
    if stack.shear is not None:
        return offsets
    affine = stack.affine_lps
    for frame, number in _frames_of(stack):
        if number is not None and frame.position is not None:
            place = affine[:3, :3] @ (number, 0, 0) + affine[:3, 3]
            offsets[number] = np.subtract(as_vector(frame.position), place)
    return offsets

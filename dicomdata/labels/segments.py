"""DICOM Segmentation -> its segments, and its frames with their places: no stack, no grid yet.

Of each frame: which segment it is of, where its plane lies, and what it was drawn on, from its own
functional groups or those that all share (PS3.3 A.51, C.8.20, C.7.6.16). Pixels are decoded frame
by frame, when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np

from dicomdata.errors import GeometryError, LabelError
from dicomdata.geometry import PlaneGeometry, as_vector
from dicomdata.labels.records import Code, Segment
from dicomdata.labels.references import (
    SEGMENTATIONS,
    Source,
    items_of,
    open_label,
    parsing,
    sources_of,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from pydicom import Dataset

SegmentationType = Literal["BINARY", "FRACTIONAL", "LABELMAP"]

_UNDOUBTED = 2**27
"""Pixels that a compressed file may claim whatever its size: an empty plane shrinks to nothing."""

_DENSEST = 1000
"""Pixels that one byte of a larger file may claim."""

_EVEN = (b"", b"\0", b"0")
"""What makes the length of Pixel Data even; highdicom takes an ASCII zero."""


class SegmentationFrame(NamedTuple):
    """One frame of a segmentation."""

    number: int
    """Which frame of the file, from 0."""

    segment: int | None
    """Number of its segment; None in a label map, which holds all."""

    plane: PlaneGeometry
    """Where it lies."""

    sources: frozenset[Source]
    """What it was drawn on, by its Derivation Image Sequence (0008,9124); empty if it is silent."""

    placed: bool = True
    """Whether it says itself where it lies; else `plane` begins at the origin, and only the image
    that it names says where."""


@dataclass(frozen=True, slots=True)
class SegmentationFile:
    """A DICOM Segmentation, described; its pixels are decoded as they are asked for."""

    path: str
    """The file."""

    type: SegmentationType
    """Segmentation Type (0062,0001)."""

    rows: int
    """Rows (0028,0010)."""

    columns: int
    """Columns (0028,0011)."""

    segments: tuple[Segment, ...]
    """By segment number, without the background of a label map."""

    frames: tuple[SegmentationFrame, ...]
    """As they are stored."""

    spacing_between_slices: float | None
    """Spacing Between Slices (0018,0088), mm: tells which planes were left out as empty."""

    maximum: int
    """Maximum Fractional Value (0062,000E): the stored value of 1; 1 where it is not fractional."""

    background: int
    """The stored value of a label map that is no segment: Pixel Padding Value (0028,0120), or 0."""

    frame_of_reference_uid: str
    """Frame of Reference UID (0020,0052); "" where it names none."""

    header: Dataset = field(repr=False)
    """The whole file, as pydicom gives it."""

    def pixels(self, frames: Sequence[SegmentationFrame]) -> Iterator[NDArray[Any]]:
        """Decode frames one by one, (rows, columns): bool, float32 from 0 to 1, or numbers.

        Raises:
            LabelError: if one cannot be decoded, or holds a value that its type does not have.
        """
        stored = self._stored([frame.number for frame in frames])
        while True:
            with parsing(self.path):
                plane = next(stored, None)
            if plane is None:
                return
            yield self._meant(plane)

    def _stored(self, numbers: list[int]) -> Iterator[NDArray[Any]]:
        from pydicom.pixels.utils import iter_pixels

        if not numbers:
            return
        if self.header.BitsAllocated == 1 and not _is_encapsulated(self.header):
            yield from self._unpacked(numbers)
            return
        # A label map may have a palette: the numbers are wanted, not its colours.
        for plane in iter_pixels(self.header, indices=numbers, raw=True):
            if plane.shape != (self.rows, self.columns):
                raise LabelError(
                    f"{self.path}: a frame of {self.rows} x {self.columns} decodes to {plane.shape}"
                )
            yield plane

    def _unpacked(self, numbers: list[int]) -> Iterator[NDArray[Any]]:
        """Unpack frames of single bits, which follow each other within bytes (PS3.5 8.2, A.2)."""
        packed = np.frombuffer(self.header.PixelData, np.uint8)
        size = self.rows * self.columns
        for number in numbers:
            begin = number * size
            held = packed[begin // 8 : (begin + size + 7) // 8]
            bits = np.unpackbits(held, bitorder="little")
            yield bits[begin % 8 : begin % 8 + size].reshape(self.rows, self.columns)

    def _meant(self, stored: NDArray[Any]) -> NDArray[Any]:
        if self.type == "LABELMAP":
            return stored
        highest = int(stored.max(initial=0))
        if highest > self.maximum or int(stored.min(initial=0)) < 0:
            raise LabelError(
                f"{self.path}: {self.type} stored values must be from 0 to {self.maximum}, got "
                f"{highest}"
            )
        if self.type == "BINARY":
            return stored.astype(np.bool_)
        return stored.astype(np.float32) / np.float32(self.maximum)


def parse_segmentation(path: str) -> SegmentationFile:
    """Read a DICOM Segmentation; its pixels are not decoded yet.

    Raises:
        FileError: if the file cannot be read.
        HeaderError: if it is not DICOM, or damaged.
        LabelError: if it is no segmentation, or does not say of each frame where it lies and
            which segment it is of.
    """
    header = open_label(path, SEGMENTATIONS, "a segmentation (SEG)")
    with parsing(path):
        return _parse(path, header)


def _parse(path: str, header: Dataset) -> SegmentationFile:
    kind = text_of(header, "SegmentationType")
    if kind not in {"BINARY", "FRACTIONAL", "LABELMAP"}:
        raise LabelError(
            f"{path}: Segmentation Type (0062,0001) must be BINARY, FRACTIONAL or LABELMAP, got "
            f"{kind!r}"
        )
    rows, columns = _size(path, header)
    frames, spacing = _frames(path, header, labelmap=kind == "LABELMAP")
    padding = header.get("PixelPaddingValue") if kind == "LABELMAP" else None
    background = 0 if padding is None else int(padding)
    segments = _segments(path, header, None if kind != "LABELMAP" else background)
    known = {segment.number for segment in segments}
    for frame in frames:
        if frame.segment is not None and frame.segment not in known:
            raise LabelError(
                f"{path}: frame {frame.number} is of segment {frame.segment}, which Segment "
                f"Sequence (0062,0002) does not describe: it has {sorted(known)}"
            )
    return SegmentationFile(
        path,
        cast("SegmentationType", kind),
        rows,
        columns,
        segments,
        frames,
        spacing,
        _maximum(path, header) if kind == "FRACTIONAL" else 1,
        background,
        text_of(header, "FrameOfReferenceUID"),
        header,
    )


def _size(path: str, header: Dataset) -> tuple[int, int]:
    """Give rows and columns, once the pixels can hold what is claimed."""
    if "PixelData" not in header:
        raise LabelError(f"{path}: Pixel Data (7FE0,0010) is missing")
    rows, columns = int(header.Rows), int(header.Columns)
    claimed = rows * columns * int(header.get("NumberOfFrames") or 1)
    held = len(header.PixelData)
    if _is_encapsulated(header):
        believable = rows * columns <= max(_UNDOUBTED, _DENSEST * held)
    else:
        believable = claimed * int(header.BitsAllocated) <= held * 8
        if header["PixelData"].is_undefined_length:
            raise LabelError(f"{path}: compressed, and no Transfer Syntax UID (0002,0010) says how")
    if not claimed or not believable:
        raise LabelError(
            f"{path}: Pixel Data (7FE0,0010) is {held} bytes, which cannot hold {rows} x {columns} "
            f"x {header.get('NumberOfFrames') or 1}"
        )
    if int(header.BitsAllocated) == 1 and not _is_encapsulated(header):
        _check_bits(path, header, rows * columns, claimed)
    return rows, columns


def _check_bits(path: str, header: Dataset, pixels: int, claimed: int) -> None:
    """Refuse single bits that do not follow each other from frame to frame (PS3.5 8.1.1).

    Some programs begin each frame, or each segment, with a new byte. Where frames are no whole
    bytes, all but the first would be read shifted.
    """
    if header.original_encoding[1] is False:
        raise LabelError(f"{path}: single bits in big endian words are not read")
    if pixels % 8 == 0:
        return
    held, expected = len(header.PixelData), (claimed + 7) // 8
    rest = header.PixelData[expected:]
    left = header.PixelData[expected - 1] >> (claimed % 8) if claimed % 8 else 0
    if left or held > expected + expected % 2 or rest not in _EVEN:
        raise LabelError(
            f"{path}: Pixel Data (7FE0,0010) holds {held} bytes, expected {expected} for {claimed} "
            f"single bits, and nothing but 0 after them: its frames of {pixels} bits do not follow "
            f"each other, but begin with new bytes"
        )


def _is_encapsulated(header: Dataset) -> bool:
    return bool(header.file_meta.TransferSyntaxUID.is_encapsulated)


def _maximum(path: str, header: Dataset) -> int:
    maximum = header.get("MaximumFractionalValue")
    if not maximum:
        raise LabelError(
            f"{path}: Maximum Fractional Value (0062,000E) must be above 0, got {maximum!r}"
        )
    return int(maximum)


def _segments(path: str, header: Dataset, background: int | None) -> tuple[Segment, ...]:
    segments = []
    for item in items_of(header, "SegmentSequence"):
        number = int(item.SegmentNumber)
        if number != background:
            segments.append(
                Segment(
                    number,
                    text_of(item, "SegmentLabel") or str(number),
                    _code(item, "SegmentedPropertyCategoryCodeSequence"),
                    _code(item, "SegmentedPropertyTypeCodeSequence"),
                )
            )
    if not segments:
        raise LabelError(f"{path}: Segment Sequence (0062,0002) describes no segment")
    numbers = [segment.number for segment in segments]
    if len(set(numbers)) < len(numbers):
        raise LabelError(f"{path}: Segment Number (0062,0004) repeats: {sorted(numbers)}")
    return tuple(sorted(segments, key=lambda segment: segment.number))


def _code(item: Dataset, keyword: str) -> Code | None:
    for code in items_of(item, keyword):
        value = next(
            (text for key in ("CodeValue", "LongCodeValue", "URNCodeValue")
             if (text := text_of(code, key))),
            "",
        )  # fmt: skip
        return Code(value, text_of(code, "CodingSchemeDesignator"), text_of(code, "CodeMeaning"))
    return None


def _frames(
    path: str, header: Dataset, *, labelmap: bool
) -> tuple[tuple[SegmentationFrame, ...], float | None]:
    """Describe every frame, by its own functional groups or those that all share."""
    shared = items_of(header, "SharedFunctionalGroupsSequence")[:1]
    own = items_of(header, "PerFrameFunctionalGroupsSequence")
    count = int(header.get("NumberOfFrames") or 1)
    if len(own) != count and not (count == 1 and not own and shared):
        raise LabelError(
            f"{path}: Number of Frames (0028,0008) is {count}, and Per-Frame Functional Groups "
            f"Sequence (5200,9230) describes {len(own)}"
        )
    frames = []
    spacing: float | None = None
    for number in range(count):
        groups = _Groups(f"{path}: frame {number}", (*own[number : number + 1], *shared))
        segment = None
        if not labelmap:
            segment = int(
                groups.value(
                    "SegmentIdentificationSequence",
                    "ReferencedSegmentNumber",
                    "Referenced Segment Number (0062,000B)",
                )
            )
        placed = groups.says_where()
        frames.append(SegmentationFrame(number, segment, groups.plane(), groups.sources(), placed))
        spacing = groups.spacing_between_slices()
    return tuple(frames), spacing


class _Groups(NamedTuple):
    """The functional groups of one frame: its own first, then those that all share."""

    where: str
    items: tuple[Dataset, ...]

    def macro(self, keyword: str) -> Dataset | None:
        for item in self.items:
            for found in items_of(item, keyword):
                return found
        return None

    def find(self, macro: str, keyword: str) -> Any:
        for item in self.items:
            for found in items_of(item, macro):
                if (value := found.get(keyword)) is not None and value != "":
                    return value
        return None

    def value(self, macro: str, keyword: str, name: str) -> Any:
        value = self.find(macro, keyword)
        if value is None:
            raise LabelError(f"{self.where}: {name} is missing, its own and that which all share")
        return value

    def says_where(self) -> bool:
        return self.find("PlanePositionSequence", "ImagePositionPatient") is not None

    def plane(self) -> PlaneGeometry:
        position = (0.0, 0.0, 0.0)
        if self.says_where() or not self.sources() or self._moved():
            position = self.value(
                "PlanePositionSequence",
                "ImagePositionPatient",
                "Image Position (Patient) (0020,0032)",
            )
        orientation = self.value(
            "PlaneOrientationSequence",
            "ImageOrientationPatient",
            "Image Orientation (Patient) (0020,0037)",
        )
        spacing = self.value("PixelMeasuresSequence", "PixelSpacing", "Pixel Spacing (0028,0030)")
        x, y, z, a, b, c = (float(number) for number in orientation)
        down, along = (float(number) for number in spacing)
        try:
            return PlaneGeometry(as_vector(position), (x, y, z), (a, b, c), down, along)
        except GeometryError as error:
            raise LabelError(f"{self.where}: {error}") from error

    def spacing_between_slices(self) -> float | None:
        measures = self.macro("PixelMeasuresSequence")
        spacing = None if measures is None else measures.get("SpacingBetweenSlices")
        return None if spacing is None else float(spacing)

    def sources(self) -> frozenset[Source]:
        named = (item for item in self._derived() if "ReferencedSOPInstanceUID" in item)
        return frozenset(source for item in named for source in sources_of(item))

    def _moved(self) -> bool:
        """Whether it is said that places are not those of the images (PS3.3 C.7.6.16.2.6)."""
        preserved = {text_of(item, "SpatialLocationsPreserved") for item in self._derived()}
        return not preserved <= {"", "YES"}

    def _derived(self) -> list[Dataset]:
        named = (items_of(item, "DerivationImageSequence") for item in self.items)
        derivations = next(filter(None, named), [])
        return [each for one in derivations for each in items_of(one, "SourceImageSequence")]

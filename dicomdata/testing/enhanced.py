"""Writes a small series as one multi-frame file, with functional groups (PS3.3 C.7.6.16).

`write_enhanced` writes what `phantoms.write_series` would, each element in the functional group
macro that the standard gives it: classic and multi-frame twins of one phantom must read alike.
As there, nothing is checked: what no file should hold is what a test may want to write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from pydicom import uid
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.filewriter import dcmwrite
from pydicom.tag import Tag

from dicomdata.testing.encoding import set_pixels
from dicomdata.testing.phantoms import (
    AUTO,
    Choice,
    PerSlice,
    SeriesPhantom,
    make_element,
    make_file_meta,
    make_header,
    phantom_uid,
    pick,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Edit: TypeAlias = Callable[[Dataset], None]
"""Changes a header in place before its pixels are put in."""

_SOP_CLASS_UIDS = {
    "CT": uid.EnhancedCTImageStorage,
    "MR": uid.EnhancedMRImageStorage,
    "PT": uid.EnhancedPETImageStorage,
}

_LEGACY = {
    uid.LegacyConvertedEnhancedCTImageStorage,
    uid.LegacyConvertedEnhancedMRImageStorage,
    uid.LegacyConvertedEnhancedPETImageStorage,
}

_FRAME_TYPES = {
    "CT": "CTImageFrameTypeSequence",
    "MR": "MRImageFrameTypeSequence",
    "PT": "PETFrameTypeSequence",
}

_MACROS = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameContentSequence": (
        "StackID",
        "InStackPositionNumber",
        "TemporalPositionIndex",
        "DimensionIndexValues",
        "FrameAcquisitionNumber",
        "FrameAcquisitionDateTime",
        "FrameReferenceDateTime",
    ),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRDiffusionSequence": ("DiffusionBValue", "DiffusionDirectionality"),
    "CardiacSynchronizationSequence": ("NominalCardiacTriggerDelayTime",),
}
"""Functional group macro -> the elements of a slice that belong there (PS3.3 C.7.6.16.2, C.8)."""

_ALWAYS_PER_FRAME = ("FrameContentSequence",)
"""A macro that shall not be shared (PS3.3 C.7.6.16.2)."""

_UNASSIGNED = "UnassignedPerFrameConvertedAttributesSequence"
"""Where a converted file keeps what no macro has a place for (PS3.3 C.7.6.16.2)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EnhancedPhantom:
    """A series to write as one file. The default is a clean enhanced CT of five frames."""

    series: SeriesPhantom = field(default_factory=SeriesPhantom)
    """What is written. Its `extra` elements go to the macro they belong to, if they have one.

    Auto, for its SOP Class UID: Enhanced CT, MR or PET by modality, else multi-frame grayscale
    word Secondary Capture. Its `file_names` count for nothing.
    """

    order: Sequence[int] | None = None
    """Which slice each frame holds, in the order they are stored; None: slice order."""

    name: str = "enhanced.dcm"
    """The file's name, which may have folders."""

    shared: Sequence[str] | Choice = AUTO
    """Keywords of the macros kept once for all frames, as in the first. Auto: those that are the
    same in all of them, but never Frame Content."""

    groups: Mapping[str, PerSlice] = field(default_factory=dict)
    """Further functional groups of each slice: keyword of the macro -> a list of Datasets. They
    replace those of the same name, and are never shared unless `shared` names them."""

    functional_groups: bool = True
    """Whether there are any; without, the elements of the first frame stay where they are."""

    offset_table: str = "basic"
    """Of encapsulated pixels: "basic", "empty" or "extended" (PS3.5 A.4)."""

    fragments: int = 1
    """Of encapsulated pixels: in how many pieces each frame is cut."""

    edit: Edit | None = None
    """What is done to the finished header: the way to spoil it."""


def write_enhanced(
    folder: Path | str,
    phantom: EnhancedPhantom | SeriesPhantom | None = None,
    **changes: Any,
) -> Path:
    """Write `phantom` as one multi-frame file into `folder`, making that if need be.

    Args:
        folder: where the file goes.
        phantom: a series, or one with the way it is laid out in a file.
        changes: to the fields of `EnhancedPhantom`, or of its series.

    Raises:
        FileExistsError: if the file is there and `overwrite` is false.
    """
    phantom = _changed(phantom, changes)
    series = phantom.series
    order = range(series.count) if phantom.order is None else phantom.order
    slices = [_slice_of(series, k) for k in order]
    headers = [make_header(each) for each in slices]
    for k, header in zip(order, headers, strict=True):
        _describe_frame(header, k, grouped=phantom.functional_groups)
    header = _join_headers(phantom, headers, list(order))
    if phantom.edit is not None:
        phantom.edit(header)
    path = Path(folder) / phantom.name
    path.parent.mkdir(parents=True, exist_ok=True)
    syntax = uid.UID(str(slices[0].transfer_syntax_uid))
    header.preamble = b"\0" * 128 if series.preamble else None
    header.file_meta = make_file_meta(header, syntax)
    _set_frames(header, phantom, headers, [each.plane(0) for each in slices])
    if not series.file_meta:
        del header.file_meta
    dcmwrite(
        path,
        header,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
        overwrite=series.overwrite,
    )
    return path


def _changed(
    phantom: EnhancedPhantom | SeriesPhantom | None, changes: Mapping[str, Any]
) -> EnhancedPhantom:
    """Apply changes to the fields of a phantom, and to those of its series."""
    if isinstance(phantom, SeriesPhantom):
        phantom = EnhancedPhantom(series=phantom)
    phantom = phantom or EnhancedPhantom()
    own = {one.name for one in fields(EnhancedPhantom)}
    phantom = replace(phantom, **{key: changes[key] for key in changes if key in own})
    rest = {key: changes[key] for key in changes if key not in own}
    return replace(phantom, series=replace(phantom.series, **rest))


def _slice_of(series: SeriesPhantom, k: int) -> SeriesPhantom:
    """Return one slice, of the multi-frame class that fits, and with the file's own UID."""
    changes: dict[str, Any] = {"file_names": AUTO}
    if series.sop_class_uid is AUTO:
        changes["sop_class_uid"] = _SOP_CLASS_UIDS.get(
            str(pick(series.modality, k)),
            uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        )
    if series.sop_instance_uid is AUTO:
        changes["sop_instance_uid"] = phantom_uid(series.seed, "enhanced")
    if series.instance_number is AUTO:
        changes["instance_number"] = 1
    return replace(series, **changes).only(k)


def _describe_frame(header: Dataset, k: int, *, grouped: bool) -> None:
    """Say which place a frame takes among the others, where the phantom does not."""
    if not grouped:
        return
    described = {"StackID": "1", "InStackPositionNumber": k + 1, "DimensionIndexValues": (1, k + 1)}
    for keyword, value in described.items():
        if keyword not in header:
            vr = {"StackID": "SH"}.get(keyword, "UL")
            header[keyword] = make_element(Tag(keyword), vr, value)


def _join_headers(
    phantom: EnhancedPhantom, headers: Sequence[Dataset], order: Sequence[int]
) -> Dataset:
    """Make one header of those of the frames: what is in a macro leaves the main dataset."""
    main = Dataset()
    main.update(headers[0])
    if "NumberOfFrames" not in main:
        main.NumberOfFrames = len(headers)
    if not phantom.functional_groups:
        return main
    frames = [_group(header, phantom.groups, k) for header, k in zip(headers, order, strict=True)]
    if main.get("SOPClassUID") in _LEGACY:
        _keep_unassigned(frames, headers)
    shared = Dataset()
    for keyword in _shared(phantom, frames):
        shared[keyword] = frames[0][keyword]
        for frame in frames:
            frame.pop(keyword, None)
    for keyword in (keyword for macro in _MACROS.values() for keyword in macro):
        main.pop(keyword, None)
    main.SharedFunctionalGroupsSequence = [shared]
    main.PerFrameFunctionalGroupsSequence = frames
    main.DimensionOrganizationSequence = [_dataset(DimensionOrganizationUID=phantom_uid("order"))]
    main.DimensionIndexSequence = [
        _dataset(
            DimensionOrganizationUID=phantom_uid("order"),
            DimensionIndexPointer=Tag(keyword),
            FunctionalGroupPointer=Tag("FrameContentSequence"),
        )
        for keyword in ("StackID", "InStackPositionNumber")
    ]
    return main


def _group(header: Dataset, groups: Mapping[str, PerSlice], k: int) -> Dataset:
    """Put the elements of one slice into their macros (PS3.3 C.7.6.16.2)."""
    frame = Dataset()
    for macro, keywords in _MACROS.items():
        item = Dataset()
        for keyword in keywords:
            if keyword in header:
                item[keyword] = header[keyword]
        if item:
            setattr(frame, macro, [item])
    macro = _FRAME_TYPES.get(str(header.get("Modality", "")), "")
    if macro and "ImageType" in header:
        written = header.get_item("ImageType").value
        item = Dataset()
        item["FrameType"] = DataElement(Tag("FrameType"), "CS", written, already_converted=True)
        setattr(frame, macro, [item])
    for keyword, value in groups.items():
        setattr(frame, keyword, pick(value, k))
    return frame


def _keep_unassigned(frames: Sequence[Dataset], headers: Sequence[Dataset]) -> None:
    """Put what differs between slices and has no macro where a conversion puts it."""
    placed = {Tag(keyword) for macro in _MACROS.values() for keyword in macro}
    for tag in headers[0].keys() - placed - {Tag("ImageType")}:
        if len({str(header.get(tag)) for header in headers}) == 1:
            continue
        for frame, header in zip(frames, headers, strict=True):
            if _UNASSIGNED not in frame:
                setattr(frame, _UNASSIGNED, [Dataset()])
            if tag in header:
                frame[_UNASSIGNED].value[0][tag] = header[tag]


def _shared(phantom: EnhancedPhantom, frames: Sequence[Dataset]) -> list[str]:
    """Choose the macros that are kept once."""
    if not isinstance(phantom.shared, Choice):
        return [keyword for keyword in phantom.shared if keyword in frames[0]]
    never = {*_ALWAYS_PER_FRAME, *phantom.groups, _UNASSIGNED}
    return [
        element.keyword
        for element in frames[0]
        if element.keyword not in never
        and all(frame.get(element.tag) == element for frame in frames)
    ]


def _dataset(**elements: Any) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def _set_frames(
    header: Dataset,
    phantom: EnhancedPhantom,
    headers: Sequence[Dataset],
    planes: Sequence[NDArray[Any]],
) -> None:
    """Put the pixels of all frames into `header`, natively or encapsulated (PS3.5 8 and A)."""
    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        set_pixels(header, np.stack(planes), syntax, phantom.series.compression)
        return
    encoded = []
    for own, plane in zip(headers, planes, strict=True):
        own.file_meta = header.file_meta
        set_pixels(own, plane, syntax, phantom.series.compression)
        encoded.append(next(generate_frames(own.PixelData, number_of_frames=1)))
    if "LossyImageCompression" in headers[0]:
        header.LossyImageCompression = headers[0].LossyImageCompression
    if phantom.offset_table == "extended":
        content, offsets, lengths = encapsulate_extended(encoded)
        header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths = offsets, lengths
    else:
        content = encapsulate(
            encoded,
            fragments_per_frame=phantom.fragments,
            has_bot=phantom.offset_table == "basic",
        )
    header[0x7FE00010] = DataElement(0x7FE00010, "OB", content, already_converted=True)
    header[0x7FE00010].is_undefined_length = True

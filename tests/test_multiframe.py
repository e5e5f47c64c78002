"""Multi-frame files: what each frame says of itself, and what it makes together with others.

A classic series and one file with functional groups, of the same phantom, must read alike; what a
file says twice, or not of every frame, is taken by rank or refused by name, and never shifted by
one frame.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.tag import Tag

import dicomdata as dd
from dicomdata.rescale import Rescale
from dicomdata.testing.enhanced import write_enhanced
from dicomdata.testing.phantoms import (
    Each,
    SeriesPhantom,
    make_element,
    phantom_uid,
    ramp,
    write_series,
)
from dicomdata.testing.strategies import LOSSLESS, NATIVE, series_phantoms

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Planned = Callable[..., dd.StackPlan]

SHUFFLED = (2, 0, 3, 1, 4)
SECONDARY_CAPTURE = uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage
GROUPS, PIXELS = b"\x00\x52\x29\x92", b"\xe0\x7f\x10\x00"
"""Tags of Shared Functional Groups Sequence and of Pixel Data, little endian."""

POSITIONS = [(-10, -20, -30 + 2.5 * k) for k in range(5)]


def only_stack(plan: dd.StackPlan) -> dd.Stack:
    assert not plan.rejected, [str(rejection) for rejection in plan.rejected]
    (stack,) = plan.stacks
    return stack


def only_error(plan: dd.StackPlan) -> str:
    """The text of the one rejection, of the scan or of the plan; there are no stacks."""
    assert plan.stacks == ()
    (rejection,) = (*plan.catalog.rejected, *plan.rejected)
    return str(rejection)


def first_voxels(stack: dd.Stack) -> list[float]:
    return [float(plane[0, 0]) for plane in dd.read_volume(stack).voxels]


def dimensions(plan: dd.StackPlan) -> list[tuple[str, str]]:
    assert not plan.rejected, [str(rejection) for rejection in plan.rejected]
    return sorted(stack.dimension for stack in plan.stacks)


def per_frame(header: Dataset) -> list[Dataset]:
    frames: list[Dataset] = header.PerFrameFunctionalGroupsSequence
    return frames


def item(**elements: Any) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


# --- order and twins ------------------------------------------------------------------------------


def test_frames_in_any_order_make_the_volume_of_their_positions(
    tmp_path: Path, planned: Planned
) -> None:
    # SimpleITK and MONAI give the stored order, and a spacing of 1.
    write_enhanced(tmp_path, order=SHUFFLED)

    stack = only_stack(planned(tmp_path))

    assert [frame.number for frame in stack.frames] == [1, 3, 0, 2, 4]
    assert stack.spacing == pytest.approx((2.5, 0.8, 0.5))
    assert first_voxels(stack) == [-24, 0, 24, 48, 72]


def test_highdicom_gives_the_same_volume(tmp_path: Path, planned: Planned) -> None:
    highdicom = pytest.importorskip("highdicom")
    path = write_enhanced(tmp_path, order=SHUFFLED, slope=Each(1, 2, 0.5, 1, 3))

    stack = only_stack(planned(tmp_path))

    theirs = highdicom.imread(path).get_volume()
    # Its slices run the other way.
    ours = stack.reversed()
    np.testing.assert_allclose(ours.affine_lps, theirs.affine, atol=1e-9)
    np.testing.assert_array_equal(dd.read_volume(ours).voxels, theirs.array)


@given(data=st.data(), phantom=series_phantoms())
def test_classic_and_multi_frame_twins_are_one(
    data: st.DataObject,
    phantom: SeriesPhantom,
    planned: Planned,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("twins")
    order = data.draw(st.permutations(range(phantom.count)))
    table = data.draw(st.sampled_from(["basic", "empty", "extended"]))
    write_series(folder / "classic", phantom)
    write_enhanced(folder / "enhanced", phantom, order=order, offset_table=table)

    classic = only_stack(planned(folder / "classic"))
    enhanced = only_stack(planned(folder / "enhanced"))

    np.testing.assert_array_equal(classic.affine_lps, enhanced.affine_lps)
    assert classic.unit == enhanced.unit
    np.testing.assert_array_equal(dd.read_volume(classic).voxels, dd.read_volume(enhanced).voxels)


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("table", ["basic", "empty", "extended"])
def test_frames_are_found_in_every_encoding(
    syntax: uid.UID, table: str, tmp_path: Path, planned: Planned
) -> None:
    write_enhanced(tmp_path, order=SHUFFLED, transfer_syntax_uid=syntax, offset_table=table)

    voxels = dd.read_volume(only_stack(planned(tmp_path))).voxels

    np.testing.assert_array_equal(voxels, ramp((5, 4, 6)).astype(np.float32) - 1024)


@pytest.mark.parametrize("table", ["basic", "empty"])
def test_frames_may_be_cut_into_fragments(table: str, tmp_path: Path, planned: Planned) -> None:
    options: dict[str, Any] = {
        "transfer_syntax_uid": uid.JPEG2000Lossless,
        "fragments": 3,
        "offset_table": table,
    }
    write_enhanced(tmp_path, order=SHUFFLED, **options)

    assert first_voxels(only_stack(planned(tmp_path))) == [-24, 0, 24, 48, 72]


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
def test_sequences_may_end_at_delimiters(syntax: uid.UID, tmp_path: Path, planned: Planned) -> None:
    def leave_open(header: Dataset) -> None:
        for element in header:
            if element.VR == "SQ":
                element.is_undefined_length = True
                for each in element.value:
                    each.is_undefined_length_sequence_item = True
                    leave_open(each)

    write_enhanced(tmp_path, order=SHUFFLED, transfer_syntax_uid=syntax, edit=leave_open)

    assert first_voxels(only_stack(planned(tmp_path))) == [-24, 0, 24, 48, 72]


def test_groups_of_unknown_representation_are_groups(tmp_path: Path, planned: Planned) -> None:
    # Archives that do not know an element pass it on as UN, in implicit encoding (PS3.5 6.2.2).
    implicit = write_enhanced(
        tmp_path / "implicit", order=SHUFFLED, transfer_syntax_uid=uid.ImplicitVRLittleEndian
    ).read_bytes()
    begin, end = implicit.index(GROUPS), implicit.index(PIXELS)
    explicit = write_enhanced(tmp_path / "unknown", order=SHUFFLED)
    content = explicit.read_bytes()
    known = content[content.index(GROUPS) : content.index(PIXELS)]
    explicit.write_bytes(content.replace(known, as_unknown(implicit[begin:end])))

    stack = only_stack(planned(explicit.parent))

    assert first_voxels(stack) == [-24, 0, 24, 48, 72]


def as_unknown(elements: bytes) -> bytes:
    """Give implicit elements the head of explicit ones of VR UN (PS3.5 7.1.2)."""
    written = b""
    while elements:
        end = 8 + int.from_bytes(elements[4:8], "little")
        written += elements[:4] + b"UN\0\0" + elements[4:end]
        elements = elements[end:]
    return written


def test_an_odd_number_of_bytes_a_frame_moves_no_frame(tmp_path: Path, planned: Planned) -> None:
    stored = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    write_enhanced(tmp_path, stored=stored, slope=1, intercept=0)

    voxels = dd.read_volume(only_stack(planned(tmp_path))).voxels

    np.testing.assert_array_equal(voxels, stored)


# --- values ---------------------------------------------------------------------------------------


def test_every_frame_has_a_slope_of_its_own(tmp_path: Path, planned: Planned) -> None:
    # SimpleITK, MONAI and pydicom's apply_rescale give 1000, 1010, 1020.
    stored = np.full((3, 4, 6), [[[1000]], [[1010]], [[1020]]], np.uint16)
    write_enhanced(tmp_path, stored=stored, slope=Each(1, 0.5, 0.25), intercept=0)

    assert first_voxels(only_stack(planned(tmp_path))) == [1000, 505, 255]


@pytest.mark.parametrize("shared", [(), ("PixelValueTransformationSequence",)])
def test_slopes_are_read_per_frame_and_shared(
    shared: tuple[str, ...], tmp_path: Path, planned: Planned
) -> None:
    write_enhanced(tmp_path, slope=2, intercept=-10, shared=shared)

    assert first_voxels(only_stack(planned(tmp_path)))[:2] == [1990, 2038]


def test_a_frame_outranks_what_is_shared_and_that_the_main_dataset(
    tmp_path: Path, planned: Planned
) -> None:
    def say_all(header: Dataset) -> None:
        header.RescaleSlope, header.RescaleIntercept = 7, 700
        header.PixelSpacing = [9, 9]
        header.ImagePositionPatient = [1, 1, 1]
        header.ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
        transformation = item(RescaleSlope=5, RescaleIntercept=500)
        header.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [transformation]

    write_enhanced(tmp_path, slope=Each(1, 1, 1, 1, 2), intercept=0, edit=say_all)

    stack = only_stack(planned(tmp_path))

    assert first_voxels(stack) == [1000, 1024, 1048, 1072, 2192]
    assert stack.spacing == pytest.approx((2.5, 0.8, 0.5))
    np.testing.assert_array_equal(stack.affine_lps[:3, 3], [-10, -20, -30])


def test_a_macro_is_not_completed_from_elsewhere(tmp_path: Path, planned: Planned) -> None:
    # A slope without its intercept is no rescale: not the main dataset's intercept with it.
    def halve(header: Dataset) -> None:
        header.RescaleIntercept = 500
        shared = header.SharedFunctionalGroupsSequence[0]
        del shared.PixelValueTransformationSequence[0].RescaleIntercept

    path = write_enhanced(tmp_path, edit=halve)

    frames = dd.read_instance(path).frames

    assert {frame.kind.rescale for frame in frames} == {None}


def test_padding_at_the_top_level_holds_for_all_frames(tmp_path: Path, planned: Planned) -> None:
    stored = ramp((3, 4, 6)).astype(np.int16)
    stored[:, 0, 0] = -2000
    write_enhanced(tmp_path, stored=stored, pixel_padding_value=-2000, intercept=0)

    assert first_voxels(only_stack(planned(tmp_path))) == [-1024, -1024, -1024]


def test_frames_say_what_they_are(tmp_path: Path) -> None:
    path = write_enhanced(
        tmp_path,
        modality="MR",
        image_type=Each(*[("ORIGINAL", "PRIMARY", "M", "NONE")] * 4, ("DERIVED", "P", "PHASE")),
        extra={
            "EffectiveEchoTime": Each(1.5, 1.5, 1.5, 1.5, 30.25),
            "DiffusionBValue": 1000.0,
            "NominalCardiacTriggerDelayTime": 12.5,
            "TemporalPositionIndex": 3,
            "FrameAcquisitionNumber": 4,
            "FrameAcquisitionDateTime": "20200229235959.5+0100",
        },
    )

    first, *_, last = dd.read_instance(path).frames

    assert (first.kind.image_type, last.kind.image_type) == (
        "ORIGINAL\\PRIMARY\\M\\NONE",
        "DERIVED\\P\\PHASE",
    )
    assert (first.kind.echo_time, last.kind.echo_time) == (1.5, 30.25)
    assert (last.kind.b_value, last.trigger_time) == (1000, 12.5)
    assert (last.temporal_position, last.acquisition_number) == (3, 4)
    assert last.acquisition_time == "235959.5"


# --- whose element is it --------------------------------------------------------------------------


def test_elements_of_other_macros_are_not_the_frames(tmp_path: Path, planned: Planned) -> None:
    foreign = item(
        ReferencedSOPInstanceUID="1.9",
        SOPInstanceUID="1.9",
        SOPClassUID="1.9",
        ImagePositionPatient=[1, 2, 3],
        ImageOrientationPatient=[0, 1, 0, 0, 0, 1],
        PixelSpacing=[9, 9],
        RescaleSlope=9,
        RescaleIntercept=9,
        Rows=9,
        StudyInstanceUID="1.9",
        NumberOfFrames=9,
        FrameType="OTHER",
        DiffusionBValue=9.0,
    )
    macros = (
        "ReferencedImageSequence",
        "DerivationImageSequence",
        "RealWorldValueMappingSequence",
        "CTPositionSequence",
        "IrradiationEventIdentificationSequence",
        "FrameAnatomySequence",
        "ConversionSourceAttributesSequence",
        "UnassignedPerFrameConvertedAttributesSequence",
        "UnassignedSharedConvertedAttributesSequence",
    )
    write_enhanced(tmp_path / "plain")
    # Per frame, and written after those that count; the same nested in those that count.
    path = write_enhanced(
        tmp_path / "foreign", groups={macro: [foreign] for macro in macros}, edit=nest
    )

    plain, stack = only_stack(planned(tmp_path / "plain")), only_stack(planned(path.parent))

    np.testing.assert_array_equal(stack.affine_lps, plain.affine_lps)
    np.testing.assert_array_equal(dd.read_volume(stack).voxels, dd.read_volume(plain).voxels)
    assert set(stack.sop_instance_uids) == {phantom_uid("series", "enhanced")}
    assert {frame.kind.image_type for frame in stack.frames} == {"ORIGINAL\\PRIMARY\\AXIAL"}


def nest(header: Dataset) -> None:
    """Put a foreign position within the macro of the position."""
    for frame in per_frame(header):
        inner = item(ImagePositionPatient=[7, 7, 7])
        frame.PlanePositionSequence[0].ReferencedImageSequence = [inner]


def test_private_groups_are_not_read(tmp_path: Path, planned: Planned) -> None:
    def add_private(header: Dataset) -> None:
        for frame in per_frame(header):
            block = frame.private_block(0x2005, "SOMEONE", create=True)
            block.add_new(0x0F, "SQ", [item(ImagePositionPatient=[7, 7, 7], RescaleSlope=9)])

    write_enhanced(tmp_path, edit=add_private)

    stack = only_stack(planned(tmp_path))

    assert first_voxels(stack) == [-24, 0, 24, 48, 72]
    np.testing.assert_array_equal(stack.affine_lps[:3, 3], [-10, -20, -30])


# --- what cannot be told is refused ---------------------------------------------------------------


def forget_position(header: Dataset) -> None:
    del per_frame(header)[2].PlanePositionSequence


def empty_position(header: Dataset) -> None:
    per_frame(header)[2].PlanePositionSequence = []


def void_position(header: Dataset) -> None:
    per_frame(header)[2].PlanePositionSequence[0].ImagePositionPatient = None


def bury_position(header: Dataset) -> None:
    macro = per_frame(header)[2].PlanePositionSequence
    per_frame(header)[2].PlanePositionSequence = [item(PlanePositionSequence=macro)]


def empty_frame(header: Dataset) -> None:
    per_frame(header)[2].clear()


def stray_position(header: Dataset) -> None:
    forget_position(header)
    header.ImagePositionPatient = [-10, -20, -25]


@pytest.mark.parametrize(
    "edit",
    [forget_position, empty_position, void_position, bury_position, empty_frame, stray_position],
    ids=lambda edit: edit.__name__,
)
def test_a_frame_without_the_position_that_others_have_is_an_error(
    edit: Callable[[Dataset], None], tmp_path: Path
) -> None:
    path = write_enhanced(tmp_path, edit=edit)

    with pytest.raises(dd.HeaderError) as caught:
        dd.read_instance(path)

    assert str(caught.value) == (
        f"{path}: Image Position (Patient) (0020,0032) is missing in the functional groups of "
        f"frame 2 of 5, counted from 0; other frames have it"
    )


def test_a_frame_without_the_slope_that_others_have_is_an_error(tmp_path: Path) -> None:
    def forget(header: Dataset) -> None:
        del per_frame(header)[4].PixelValueTransformationSequence

    path = write_enhanced(tmp_path, shared=(), edit=forget)

    with pytest.raises(dd.HeaderError, match=r"Rescale Slope \(0028,1053\) is missing .* frame 4"):
        dd.read_instance(path)


@pytest.mark.parametrize("change", [-1, 1])
def test_groups_of_more_or_fewer_frames_are_an_error(change: int, tmp_path: Path) -> None:
    def resize(header: Dataset) -> None:
        frames = list(per_frame(header))
        header.PerFrameFunctionalGroupsSequence = frames[:change] if change < 0 else [
            *frames, frames[-1]]  # fmt: skip

    path = write_enhanced(tmp_path, edit=resize)

    with pytest.raises(dd.HeaderError, match=r"Number Of Frames \(0028,0008\) is 5, and frames"):
        dd.read_instance(path)


@pytest.mark.parametrize("number", ["3", "6", "4", "1", "", "many", "-5"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_a_wrong_number_of_frames_is_an_error(
    number: str, syntax: uid.UID, tmp_path: Path, planned: Planned
) -> None:
    def miscount(header: Dataset) -> None:
        header["NumberOfFrames"] = make_element(Tag("NumberOfFrames"), "IS", number)
        frames = list(per_frame(header))
        count = int(number) if number.isdigit() else 1
        header.PerFrameFunctionalGroupsSequence = [*frames, frames[0]][:count]

    write_enhanced(tmp_path, transfer_syntax_uid=syntax, edit=miscount)

    plan = planned(tmp_path)

    # Where one frame is left, its pixels are not those of one frame.
    if plan.stacks:
        with pytest.raises(dd.PixelError):
            dd.read_volume(plan.stacks[0])
    else:
        assert "Number Of Frames (0028,0008)" in only_error(plan)


def test_a_macro_of_two_items_is_an_error(tmp_path: Path) -> None:
    def double(header: Dataset) -> None:
        macro = per_frame(header)[1].PlanePositionSequence
        macro.append(item(ImagePositionPatient=[0, 0, 0]))

    path = write_enhanced(tmp_path, edit=double)

    with pytest.raises(dd.HeaderError, match=r"\(0020,9113\) must have one item, got 2"):
        dd.read_instance(path)


def test_shared_groups_of_two_items_are_an_error(tmp_path: Path) -> None:
    def double(header: Dataset) -> None:
        header.SharedFunctionalGroupsSequence.append(Dataset())

    path = write_enhanced(tmp_path, edit=double)

    with pytest.raises(dd.HeaderError, match=r"\(5200,9229\) must have one item, got 2"):
        dd.read_instance(path)


def test_a_gap_is_refused_by_name(tmp_path: Path, planned: Planned) -> None:
    # highdicom puts in slices of 0 HU, dcm2niix a spacing of 3.125.
    positions = [POSITIONS[k] for k in (0, 1, 3, 4)]
    write_enhanced(tmp_path, positions=positions, order=(2, 0, 3, 1))

    assert "gap" in only_error(planned(tmp_path))


@pytest.mark.parametrize("value", ["0\\0\\5\\1", "a\\0\\5", "1e400\\0\\5"])
def test_a_malformed_position_is_an_error(value: str, tmp_path: Path) -> None:
    path = write_enhanced(tmp_path, positions=[*POSITIONS[:4], value])

    with pytest.raises(dd.HeaderError, match=r"Image Position \(Patient\) \(0020,0032\) must be"):
        dd.read_instance(path)


def test_a_file_cut_short_is_an_error_of_its_pixels(tmp_path: Path, planned: Planned) -> None:
    path = write_enhanced(tmp_path)
    path.write_bytes(path.read_bytes()[:-50])

    stack = only_stack(planned(tmp_path))

    with pytest.raises(dd.PixelError, match=r"enhanced\.dcm"):
        dd.read_volume(stack)


# --- several volumes in one file, one volume in several -------------------------------------------


def test_stack_ids_on_one_lattice_are_one_volume(tmp_path: Path, planned: Planned) -> None:
    # ITK and older dcm2niix make one volume of each Stack ID.
    write_enhanced(tmp_path, shape=(6, 4, 6), extra={"StackID": Each(*"123123")})

    stack = only_stack(planned(tmp_path))

    assert stack.shape == (6, 4, 6)
    assert stack.spacing[0] == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("keyword", "values", "dimension"),
    [
        ("TemporalPositionIndex", (1, 2), "TemporalPositionIdentifier"),
        ("FrameAcquisitionNumber", (1, 2), "AcquisitionNumber"),
        ("NominalCardiacTriggerDelayTime", (0.0, 40.5), "TriggerTime"),
        ("FrameAcquisitionDateTime", ("20200101100000", "20200101100130"), "AcquisitionTime"),
        ("FrameReferenceDateTime", ("20200101100000", "20200101100130"), "AcquisitionTime"),
        ("DiffusionBValue", (0.0, 1000.0), "DiffusionBValue"),
        ("EffectiveEchoTime", (2.5, 30.25), "EchoTime"),
        ("ImageType", (("ORIGINAL", "M"), ("ORIGINAL", "P")), "ImageType"),
    ],
)
def test_a_fourth_dimension_makes_several_stacks(
    keyword: str, values: tuple[Any, Any], dimension: str, tmp_path: Path, planned: Planned
) -> None:
    write_enhanced(
        tmp_path,
        positions=[position for position in POSITIONS for _ in values],
        shape=(10, 4, 6),
        modality="MR",
        extra={keyword: Each(*values * 5)},
        order=(9, 0, 8, 1, 7, 2, 6, 3, 5, 4),
    )

    plan = planned(tmp_path)

    assert {name for name, _ in dimensions(plan)} == {dimension}
    # Frame 2 k of the ramp is the first of its pair: 1000, 1048, 1096 and so on.
    assert sorted(map(first_voxels, plan.stacks)) == [
        [1000 + 24 * (2 * k + i) for k in range(5)] for i in (0, 1)
    ]


def test_dimension_index_values_tell_volumes_apart(tmp_path: Path, planned: Planned) -> None:
    # Two directions of diffusion: nothing else that is read differs.
    def index_direction(header: Dataset) -> None:
        header.DimensionIndexSequence[0].DimensionIndexPointer = 0x00189075

    write_enhanced(
        tmp_path,
        positions=POSITIONS * 2,
        shape=(10, 4, 6),
        extra={"DimensionIndexValues": lambda k: (1 + k // 5, 1 + k % 5)},
        edit=index_direction,
    )

    plan = planned(tmp_path)

    assert dimensions(plan) == [("DimensionIndexValues", "1"), ("DimensionIndexValues", "2")]


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_dimensions_may_be_as_many_as_are_indexed(
    syntax: uid.UID, tmp_path: Path, planned: Planned
) -> None:
    # Moment, direction of diffusion, polarity, position.
    def index(header: Dataset) -> None:
        pointers = (0x00209128, 0x00189075, 0x00189089, 0x00200032)
        header.DimensionIndexSequence = [item(DimensionIndexPointer=tag) for tag in pointers]

    write_enhanced(
        tmp_path,
        positions=POSITIONS[:3] * 8,
        shape=(24, 4, 6),
        transfer_syntax_uid=syntax,
        extra={
            "DimensionIndexValues": lambda k: (
                1 + k // 12,
                1 + k // 6 % 2,
                1 + k // 3 % 2,
                1 + k % 3,
            )
        },
        edit=index,
    )

    plan = planned(tmp_path)

    corners = [(moment, one, other) for moment in (1, 2) for one in (1, 2) for other in (1, 2)]
    values = ["\\".join(map(str, corner)) for corner in corners]
    assert dimensions(plan) == [("DimensionIndexValues", value) for value in values]
    assert sorted(first_voxels(stack)[0] for stack in plan.stacks) == list(range(-24, 552, 72))


def test_a_localizer_of_three_planes_is_three_groups(tmp_path: Path, planned: Planned) -> None:
    planes = ((1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1))
    steps = ((0, 0, 5), (0, 5, 0), (5, 0, 0))
    write_enhanced(
        tmp_path,
        modality="MR",
        shape=(9, 4, 6),
        positions=[tuple(k * part for part in step) for step in steps for k in range(3)],
        orientation=Each(*(plane for plane in planes for _ in range(3))),
    )

    plan = planned(tmp_path)

    assert not plan.rejected
    assert [stack.shape for stack in plan.stacks] == [(3, 4, 6)] * 3
    assert {tuple(stack.affine_lps[:3, 0]) for stack in plan.stacks} == {
        (0, 0, 5), (0, 5, 0), (-5, 0, 0),
    }  # fmt: skip


def test_several_files_and_classic_ones_make_one_volume(tmp_path: Path, planned: Planned) -> None:
    phantom = SeriesPhantom(shape=(7, 4, 6))
    whole = [phantom.plane(k) for k in range(7)]
    positions = [phantom.position(k) for k in range(7)]
    for name, slices in (("a.dcm", (6, 1, 3)), ("b.dcm", (4, 0))):
        write_enhanced(
            tmp_path,
            name=name,
            stored=[whole[k] for k in slices],
            positions=[positions[k] for k in slices],
            sop_instance_uid=phantom_uid(name),
        )
    for k in (2, 5):
        write_series(tmp_path, phantom.only(k))

    stack = only_stack(planned(tmp_path))

    assert stack.spacing[0] == pytest.approx(2.5)
    np.testing.assert_array_equal(dd.read_volume(stack).voxels, np.stack(whole) - 1024.0)


def test_a_file_for_each_phase_makes_a_stack_of_each(tmp_path: Path, planned: Planned) -> None:
    for phase in (0, 1, 2):
        write_enhanced(
            tmp_path,
            name=f"{phase}.dcm",
            stored=ramp((5, 4, 6)) + 100 * phase,
            sop_instance_uid=f"1.2.{phase}",
        )

    plan = planned(tmp_path)

    assert dimensions(plan) == [("SOPInstanceUID", f"1.2.{phase}") for phase in range(3)]
    assert sorted(first_voxels(stack)[0] for stack in plan.stacks) == [-24, 76, 176]


def test_a_gap_between_two_files_is_a_gap(tmp_path: Path, planned: Planned) -> None:
    for name, start in (("a.dcm", -30), ("b.dcm", -15)):
        write_enhanced(
            tmp_path, name=name, origin=(-10, -20, start), sop_instance_uid=f"1.{-start}"
        )

    # Ten slices 2.5 mm apart, and one missing between the files.
    assert "gap" in only_error(planned(tmp_path))


def test_a_file_and_its_classic_source_in_one_series_are_duplicates(
    tmp_path: Path, planned: Planned
) -> None:
    write_enhanced(tmp_path, order=SHUFFLED)
    write_series(tmp_path)

    stack = only_stack(planned(tmp_path))

    assert [finding.amount for finding in stack.findings if finding.kind == "duplicate"] == [5]


# --- other kinds of multi-frame files -------------------------------------------------------------


def test_a_converted_file_reads_like_its_source(tmp_path: Path, planned: Planned) -> None:
    phantom = SeriesPhantom(
        sop_class_uid=uid.LegacyConvertedEnhancedCTImageStorage,
        slope=Each(1, 2, 1, 2, 1),
        instance_number=Each(5, 4, 3, 2, 1),
        slice_location=Each(1, 2, 3, 4, 5),
        extra={"AcquisitionNumber": Each(1, 2, 3, 4, 5), "AcquisitionTime": Each(*"12345")},
    )
    write_series(tmp_path / "classic", phantom)
    write_enhanced(tmp_path / "converted", phantom, order=SHUFFLED)

    classic = only_stack(planned(tmp_path / "classic"))
    converted = only_stack(planned(tmp_path / "converted"))

    np.testing.assert_array_equal(classic.affine_lps, converted.affine_lps)
    np.testing.assert_array_equal(dd.read_volume(classic).voxels, dd.read_volume(converted).voxels)
    for one, other in zip(classic.frames, converted.frames, strict=True):
        assert one.instance_number == other.instance_number
        assert one.slice_location == other.slice_location
        assert one.acquisition_number == other.acquisition_number
        assert one.acquisition_time == other.acquisition_time


def test_a_secondary_capture_with_places_is_a_volume(tmp_path: Path, planned: Planned) -> None:
    write_enhanced(
        tmp_path, sop_class_uid=SECONDARY_CAPTURE, order=SHUFFLED, slope=1, intercept=-1024
    )

    assert first_voxels(only_stack(planned(tmp_path))) == [-24, 0, 24, 48, 72]


def test_frames_without_a_place_are_refused(tmp_path: Path, planned: Planned) -> None:
    def forget(header: Dataset) -> None:
        for frame in per_frame(header):
            del frame.PlanePositionSequence

    write_enhanced(tmp_path, sop_class_uid=SECONDARY_CAPTURE, edit=forget)

    assert "Image Position (Patient) (0020,0032) is missing" in only_error(planned(tmp_path))


def test_one_position_is_not_that_of_many_frames(tmp_path: Path, planned: Planned) -> None:
    # Identical frames at one place would otherwise be duplicates, and a volume of one slice.
    write_enhanced(
        tmp_path,
        sop_class_uid=SECONDARY_CAPTURE,
        stored=np.ones((5, 4, 6), np.uint16),
        functional_groups=False,
        extra={"FrameIncrementPointer": [0x00182001], "PageNumberVector": [1, 2, 3, 4, 5]},
    )

    assert "Image Position (Patient) (0020,0032) is missing" in only_error(planned(tmp_path))


def test_shared_groups_alone_hold_for_all_frames(tmp_path: Path, planned: Planned) -> None:
    def forget(header: Dataset) -> None:
        del header.PerFrameFunctionalGroupsSequence

    path = write_enhanced(tmp_path, edit=forget)

    frames = dd.read_instance(path).frames

    assert {frame.kind.pixel_spacing for frame in frames} == {(0.8, 0.5)}
    assert {frame.position for frame in frames} == {None}


# --- nuclear medicine -----------------------------------------------------------------------------


def write_tomogram(folder: Path, *, spacing: str = "-2.5", **changes: Any) -> Path:
    """Write a reconstructed tomogram of five slices, each 4 x 6."""
    place: dict[str, Any] = {
        "ImagePositionPatient": [-10, -20, -30],
        "ImageOrientationPatient": [1, 0, 0, 0, 0, -1],
    }
    elements: dict[str, Any] = {
        "ImageType": ("ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"),
        "FrameIncrementPointer": [0x00540080],
        "SliceVector": [1, 2, 3, 4, 5],
        "DetectorInformationSequence": [item(**place)],
        **changes,
    }
    return write_enhanced(
        folder,
        modality="NM",
        sop_class_uid=uid.NuclearMedicineImageStorage,
        functional_groups=False,
        positions=[None] * 5,
        orientation=None,
        spacing_between_slices=spacing,
        extra=elements,
    )


@pytest.mark.parametrize(("spacing", "last"), [("2.5", -10), ("-2.5", -30)])
def test_slices_of_a_tomogram_follow_the_first(
    spacing: str, last: float, tmp_path: Path, planned: Planned
) -> None:
    # A row runs to x, a column to -z: their product, the normal, is y.
    write_tomogram(tmp_path, spacing=spacing)

    stack = only_stack(planned(tmp_path))

    ends = sorted(frame.position[1] for frame in stack.frames if frame.position)
    assert (ends[0], ends[-1]) == ((-20, -10) if last == -10 else (-30, -20))
    assert stack.frames[0 if spacing == "2.5" else -1].number == 0
    assert stack.spacing == pytest.approx((2.5, 0.8, 0.5))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"SpacingBetweenSlices": ""}, "Spacing Between Slices (0018,0088)"),
        ({"SpacingBetweenSlices": "0"}, "Spacing Between Slices (0018,0088)"),
        ({"DetectorInformationSequence": None}, "Image Position (Patient) (0020,0032)"),
        ({"DetectorInformationSequence": []}, "Detector Information Sequence (0054,0022)"),
        ({"DetectorInformationSequence": [Dataset()]}, "Image Position (Patient) (0020,0032)"),
        ({"SliceVector": [2, 1, 3, 4, 5]}, "Slice Vector (0054,0080)"),
        ({"SliceVector": [1, 2, 3, 4]}, "Slice Vector (0054,0080)"),
        ({"FrameIncrementPointer": [0x00540090]}, "Image Position (Patient) (0020,0032)"),
        ({"FrameIncrementPointer": [0x00540060, 0x00540080]}, "Image Position (Patient)"),
    ],
)
def test_a_tomogram_that_does_not_say_where_it_lies_is_refused(
    changes: dict[str, Any], text: str, tmp_path: Path, planned: Planned
) -> None:
    write_tomogram(tmp_path, **changes)

    assert text in only_error(planned(tmp_path))


# --- bounds ---------------------------------------------------------------------------------------


def test_a_thousand_frames_are_read_in_bounded_time(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path, shape=(1000, 2, 2), slope=Each(*range(1, 1001)))

    start = time.process_time()
    frames = dd.read_instance(path).frames
    seconds = time.process_time() - start

    assert len(frames) == 1000
    assert frames[999].kind.rescale == Rescale(1000, -1024)
    assert seconds < 5  # 0.2 where this was written


@pytest.mark.parametrize("groups", [True, False], ids=["shared groups", "no groups"])
def test_claims_of_many_frames_are_held_against_the_file(groups: bool, tmp_path: Path) -> None:
    def claim(header: Dataset) -> None:
        header.pop("PerFrameFunctionalGroupsSequence", None)
        header.NumberOfFrames = 2**31 - 1

    path = write_enhanced(tmp_path, functional_groups=groups, edit=claim)

    start = time.process_time()
    with pytest.raises(dd.HeaderError, match=r"Number Of Frames \(0028,0008\)"):
        dd.read_instance(path)
    assert time.process_time() - start < 1


# --- real files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "d2n/philips_enhanced_anatomical_001",
        "d2n/siemens_multiframe_anatomical_001",
        "dcmqi/ct24_enhanced",
    ],
)
def test_real_files_lie_where_other_readers_put_them(
    name: str, corpus: Path, expected: dict[str, Any], planned: Planned
) -> None:
    (entry,) = (entry for entry in expected["series"] if entry["id"] == name)
    stack = only_stack(planned(corpus / name))

    # Theirs maps (column, row, slice); ours may count slices from the other end.
    theirs = np.array(entry["expected"]["sitk_affine_lps"])[:, [2, 1, 0, 3]]
    ours = [stack.affine_lps, stack.reversed().affine_lps]

    nearest = min(np.abs(affine - theirs).max() for affine in ours)
    # Positions are written to a hundredth of a millimetre or so.
    assert nearest < 0.005


def test_a_real_series_in_time_is_a_stack_of_each_moment(
    corpus: Path, expected: dict[str, Any], planned: Planned
) -> None:
    name = "d2n/philips_enhanced_fmri_001"
    (entry,) = (entry for entry in expected["series"] if entry["id"] == name)
    columns, rows, slices, times = entry["expected"]["dcm2niix"][0]["shape"]

    plan = planned(corpus / name)

    assert [stack.shape for stack in plan.stacks] == [(slices, rows, columns)] * times
    assert dimensions(plan) == [("TemporalPositionIdentifier", str(k)) for k in (1, 2, 3, 4)]


def test_a_real_file_and_its_classic_twin_are_one(corpus: Path, planned: Planned) -> None:
    classic = only_stack(planned(corpus / "dcmqi/ct24_classic"))
    enhanced = only_stack(planned(corpus / "dcmqi/ct24_enhanced"))

    np.testing.assert_allclose(classic.affine_lps, enhanced.affine_lps, atol=1e-9)
    np.testing.assert_array_equal(dd.read_volume(classic).voxels, dd.read_volume(enhanced).voxels)


@pytest.mark.parametrize(("written", "frames"), [("+2", 2), ("2 ", 2), ("02", 2)])
def test_a_number_of_frames_may_be_written_with_a_sign(
    written: str, frames: int, tmp_path: Path
) -> None:
    path = write_enhanced(tmp_path, shape=(2, 4, 6), edit=lambda header: spell(header, written))

    assert len(dd.read_instance(path).frames) == frames


@pytest.mark.parametrize("written", ["2.0", "two", "-2"])
def test_a_number_of_frames_that_is_none_is_an_error(written: str, tmp_path: Path) -> None:
    path = write_enhanced(tmp_path, shape=(2, 4, 6), edit=lambda header: spell(header, written))

    with pytest.raises(dd.HeaderError, match=r"Number Of Frames \(0028,0008\) must be a whole"):
        dd.read_instance(path)


def spell(header: Dataset, number: str) -> None:
    """Write Number of Frames as it stands, whatever an IS allows."""
    header[0x00280008] = make_element(Tag(0x00280008), "IS", number)

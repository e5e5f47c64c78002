"""Stored values to output units from files: tables of a Modality LUT, spacings, PET."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.sequence import Sequence

import dicomdata as dd
from dicomdata.catalog.schema import kind_from_json, kind_to_json
from dicomdata.header.elements import read_elements
from dicomdata.header.nested import ITEM_TAGS, SEQUENCES, items_by_pydicom
from dicomdata.testing.enhanced import write_enhanced
from dicomdata.testing.phantoms import Each, write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Planned = Callable[..., dd.StackPlan]

XA = "1.2.840.10008.5.1.4.1.1.12.1"
XRF = "1.2.840.10008.5.1.4.1.1.12.2"

NATIVE = (
    uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)  # fmt: skip


def words(*values: int, dtype: str = "u2") -> NDArray[Any]:
    """One slice of one row."""
    return np.array(values, dtype).reshape(1, 1, -1)


def table(
    descriptor: tuple[int, int, int], data: Any, *, vr: str = "OW", kind: str | None = "US"
) -> DataElement:
    """A Modality LUT Sequence of one item."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", list(descriptor))
    if kind is not None:
        item.ModalityLUTType = kind
    item["LUTData"] = DataElement(0x00283006, vr, data, already_converted=True)
    return DataElement("ModalityLUTSequence", "SQ", Sequence([item]))


def words_of(*values: int) -> bytes:
    return np.array(values, "<u2").tobytes()


def write_table(folder: Path, sequence: DataElement, **changes: Any) -> list[Path]:
    options = {"slope": None, "intercept": None, "extra": {"ModalityLUTSequence": sequence}}
    return write_series(folder, **{**options, **changes})


def volume_of(folder: Path, planned: Planned, **options: Any) -> dd.Volume:
    (stack,) = planned(folder).stacks
    return dd.read_volume(stack, **options)


def findings_of(volume: dd.Volume) -> set[str]:
    return {finding.kind for finding in volume.stack.findings}


def refusal(plan: dd.StackPlan) -> str:
    assert plan.stacks == ()
    (reason,) = {row.reason for row in plan.outcomes}
    return reason


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", NATIVE)
def test_a_table_gives_the_output_of_each_stored_value(
    syntax: str, tmp_path: Path, planned: Planned
) -> None:
    data = words_of(0, 10, 300, 65535)
    if syntax == uid.ExplicitVRBigEndian:
        data = np.frombuffer(data, "<u2").astype(">u2").tobytes()
    write_table(
        tmp_path, table((4, 100, 16), data), stored=words(100, 101, 102, 103),
        transfer_syntax_uid=syntax,
    )  # fmt: skip

    volume = volume_of(tmp_path, planned)

    assert volume.voxels.ravel().tolist() == [0, 10, 300, 65535]
    assert volume.unit == "US"


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_values_beyond_a_table_get_its_ends(dtype: Any, tmp_path: Path, planned: Planned) -> None:
    write_table(tmp_path, table((2, 100, 16), words_of(7, 9)), stored=words(0, 99, 100, 101, 65535))

    volume = volume_of(tmp_path, planned, dtype=dtype)

    assert volume.voxels.ravel().tolist() == [7, 7, 7, 9, 9]
    assert volume.voxels.dtype == dtype


def test_the_first_stored_value_has_the_sign_of_the_pixels(
    tmp_path: Path, planned: Planned
) -> None:
    stored = words(-2001, -2000, -1999, 32767, dtype="i2")
    write_table(tmp_path, table((2, 63536, 16), words_of(7, 9)), stored=stored)

    assert volume_of(tmp_path, planned).voxels.ravel().tolist() == [7, 7, 9, 9]


def test_no_entries_mean_65536(tmp_path: Path, planned: Planned) -> None:
    outputs = np.arange(65536, dtype="<u2")[::-1]
    write_table(tmp_path, table((0, 0, 16), outputs.tobytes()), stored=words(0, 1, 65535))

    assert volume_of(tmp_path, planned).voxels.ravel().tolist() == [65535, 65534, 0]


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("packed", [True, False])
def test_entries_of_8_bits_are_bytes_or_words(
    packed: bool, syntax: str, tmp_path: Path, planned: Planned
) -> None:
    order = "<u2" if syntax == uid.ExplicitVRLittleEndian else ">u2"
    values = np.array([200, 1, 3, 255, 0], "u1")
    pairs = np.append(values, np.uint8(0)).view("<u2") if packed else values.astype("u2")
    write_table(
        tmp_path, table((5, 0, 8), pairs.astype(order).tobytes()), stored=words(0, 1, 2, 3, 4),
        transfer_syntax_uid=syntax,
    )  # fmt: skip

    assert volume_of(tmp_path, planned).voxels.ravel().tolist() == values.tolist()


@pytest.mark.parametrize(
    ("vr", "data", "outputs"),
    [("US", [0, 40000], [0, 40000]), ("SS", [-1000, 400], [-1000, 400]),
     ("OW", words_of(0, 40000), [0, 40000])],
)  # fmt: skip
def test_entries_have_the_sign_they_are_written_with(
    vr: str, data: Any, outputs: list[int], tmp_path: Path, planned: Planned
) -> None:
    write_table(tmp_path, table((2, 0, 16), data, vr=vr), stored=words(0, 1))

    assert volume_of(tmp_path, planned).voxels.ravel().tolist() == outputs


def test_a_table_of_12_bits_is_taken_as_16_with_a_finding(tmp_path: Path, planned: Planned) -> None:
    # R16: pydicom raises.
    data = np.arange(4096, dtype="<u2")
    data[5] = 5000
    write_table(tmp_path, table((4096, 0, 12), data.tobytes()), stored=words(4, 5, 4095))

    volume = volume_of(tmp_path, planned)

    assert volume.voxels.ravel().tolist() == [4, 5000, 4095]
    assert "modality_lut_bits" in findings_of(volume)


@pytest.mark.parametrize(
    ("modality", "kind", "unit"),
    [("CR", "US", "US"), ("CR", "OD", "OD"), ("CR", None, "US"), ("CT", "HU", "HU"),
     ("CT", None, "US"), ("MR", "HU", "US"), ("CT", "US", "US")],
)  # fmt: skip
def test_the_unit_of_a_table_is_what_it_says(
    modality: str, kind: str | None, unit: str, tmp_path: Path, planned: Planned
) -> None:
    write_table(tmp_path, table((2, 0, 16), words_of(0, 1), kind=kind), modality=modality)

    assert volume_of(tmp_path, planned).unit == unit


def test_a_table_is_applied_as_pydicom_applies_it(tmp_path: Path, planned: Planned) -> None:
    rng = np.random.default_rng(1)
    outputs = rng.integers(0, 65536, 200, dtype="u2")
    stored = rng.integers(0, 400, (3, 5, 7), dtype="u2")
    sequence = table((200, 100, 16), outputs.tolist(), vr="US")
    paths = write_table(tmp_path, sequence, stored=stored)
    theirs = [apply_modality_lut(stored[k], pydicom.dcmread(path)) for k, path in enumerate(paths)]

    volume = volume_of(tmp_path, planned)

    np.testing.assert_array_equal(volume.voxels, np.stack(theirs))


@pytest.mark.parametrize(
    ("sequence", "element"),
    [
        pytest.param(table((5, 0, 16), words_of(1, 2)), "(0028,3006)", id="too short"),
        pytest.param(table((5, 0, 8), bytes(4)), "(0028,3006)", id="too short for bytes"),
        pytest.param(table((0, 0, 16), words_of(1, 2)), "(0028,3006)", id="0 means 65536"),
        pytest.param(table((2, 0, 8), words_of(1, 300)), "(0028,3006)", id="300 in 8 bits"),
        pytest.param(table((2, 0, 32), words_of(1, 300)), "(0028,3002)", id="32 bits"),
        pytest.param(table((2, 0), words_of(1, 2)), "(0028,3002)", id="two numbers"),  # type: ignore[arg-type]
        pytest.param(
            DataElement(0x00283000, "SQ", Sequence([Dataset()])), "(0028,3002)", id="empty item"
        ),
        pytest.param(
            DataElement(0x00283000, "SQ", Sequence([*table((1, 0, 16), b"\1\0").value] * 2)),
            "(0028,3000)", id="two tables",
        ),
    ],
)  # fmt: skip
def test_a_malformed_table_is_refused_by_file_and_element(
    sequence: DataElement, element: str, tmp_path: Path, planned: Planned
) -> None:
    (path,) = write_table(tmp_path, sequence, stored=words(1))

    reason = refusal(planned(tmp_path))

    assert element in reason
    assert str(path) in reason


def test_an_empty_sequence_is_no_table(tmp_path: Path, planned: Planned) -> None:
    empty = DataElement(0x00283000, "SQ", Sequence([]))
    write_table(tmp_path, empty, stored=words(100), slope=1, intercept=-1024)

    volume = volume_of(tmp_path, planned)

    assert (volume.unit, volume.voxels.item()) == ("HU", -924)


def test_a_table_beside_a_rescale_that_does_nothing_is_applied(
    tmp_path: Path, planned: Planned
) -> None:
    sequence = table((2, 0, 16), words_of(7, 9))
    write_table(tmp_path, sequence, stored=words(0, 1), slope=1, intercept=0)

    assert volume_of(tmp_path, planned).voxels.ravel().tolist() == [7, 9]


def test_a_table_beside_a_rescale_that_does_something_is_refused(
    tmp_path: Path, planned: Planned
) -> None:
    (path,) = write_table(
        tmp_path, table((2, 0, 16), words_of(7, 9)), stored=words(0), slope=1, intercept=-1024
    )

    reason = refusal(planned(tmp_path))

    assert "(0028,3000)" in reason
    assert "(0028,1053)" in reason
    assert str(path) in reason


def test_a_slice_without_table_among_others_that_have_one_is_refused(
    tmp_path: Path, planned: Planned
) -> None:
    sequence = table((2, 0, 16), words_of(7, 9))
    write_series(
        tmp_path, slope=None, intercept=None,
        extra={"ModalityLUTSequence": Each(sequence, None, sequence, sequence, sequence)},
    )  # fmt: skip

    assert "missing" in refusal(planned(tmp_path))


@pytest.mark.parametrize("sop_class", [XA, XRF])
@pytest.mark.parametrize("how", ["table", "rescale"])
def test_projections_keep_their_stored_values(
    how: str, sop_class: str, tmp_path: Path, planned: Planned
) -> None:
    # R17: there the Modality LUT leads back to the intensity of the beam.
    options: dict[str, Any] = {"modality": "XA" if sop_class == XA else "RF", "stored": words(0, 1)}
    if how == "table":
        write_table(tmp_path, table((2, 0, 16), words_of(7, 9)), sop_class_uid=sop_class, **options)
    else:
        write_series(tmp_path, sop_class_uid=sop_class, slope=3, intercept=5, **options)

    volume = volume_of(tmp_path, planned)

    assert volume.voxels.ravel().tolist() == [0, 1]
    assert volume.unit == "stored"
    assert "modality_lut_ignored" in findings_of(volume)


def test_int16_is_refused_where_an_entry_in_use_does_not_fit(
    tmp_path: Path, planned: Planned
) -> None:
    sequence = table((3, 0, 16), words_of(7, 40000, 9))
    write_table(tmp_path / "used", sequence, stored=words(0, 1))
    write_table(tmp_path / "unused", sequence, stored=words(0, 2))

    with pytest.raises(dd.RescaleError, match="40000"):
        volume_of(tmp_path / "used", planned, dtype=np.int16)
    assert volume_of(tmp_path / "unused", planned, dtype=np.int16).voxels.ravel().tolist() == [7, 9]


def test_padding_is_compared_before_a_table_and_becomes_its_lowest_output(
    tmp_path: Path, planned: Planned
) -> None:
    stored = words(-2000, 0, 1, dtype="i2")
    write_table(
        tmp_path, table((2, 0, 16), words_of(9, 7)), stored=stored, modality="CR",
        pixel_padding_value=-2000,
    )  # fmt: skip

    assert volume_of(tmp_path, planned).voxels.ravel().tolist() == [7, 9, 7]
    assert volume_of(tmp_path, planned, padding=-5).voxels.ravel().tolist() == [-5, 9, 7]


def test_a_table_survives_the_catalog(tmp_path: Path, planned: Planned) -> None:
    write_table(tmp_path, table((3, 63536, 12), [-1, 5, 7], vr="SS"), stored=words(1, dtype="i2"))
    (stack,) = planned(tmp_path).stacks
    kind = stack.frames[0].kind

    again = kind_from_json(kind_to_json(kind))

    assert again == kind
    assert hash(again) == hash(kind)
    assert kind.modality_lut is not None
    assert (kind.modality_lut.first, kind.modality_lut.bits) == (-2000, 12)
    assert kind.modality_lut.outputs.tolist() == [-1, 5, 7]


# --- the items of sequences -----------------------------------------------------------------------


def decoy(depth: int, *, undefined: bool) -> DataElement:
    """Sequences within sequences, of which each holds elements that are wanted one level up."""
    inside = Dataset()
    for _ in range(depth):
        outside = Dataset()
        outside.RadionuclideTotalDose = 1
        outside.add_new("LUTDescriptor", "US", [9, 9, 9])
        outside.ReferencedStudySequence = Sequence([inside])
        for item in (inside, outside):
            item.is_undefined_length_sequence_item = undefined
        outside["ReferencedStudySequence"].is_undefined_length = undefined
        inside = outside
    return inside["ReferencedStudySequence"]


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_items_are_read_as_pydicom_reads_them(
    count: int, undefined: bool, syntax: str, tmp_path: Path
) -> None:
    items = []
    for number in range(count):
        item = Dataset()
        item.RadionuclideTotalDose = f"{370e6 + number:.0f}"
        item.add_new("LUTDescriptor", "SS", [2, -2000, 16])
        item["ReferencedStudySequence"] = decoy(3, undefined=undefined)
        item.is_undefined_length_sequence_item = undefined
        items.append(item)
    sequence = DataElement("RadiopharmaceuticalInformationSequence", "SQ", Sequence(items))
    sequence.is_undefined_length = undefined
    (path,) = write_series(
        tmp_path, shape=(1, 2, 2), transfer_syntax_uid=syntax,
        extra={
            "RadiopharmaceuticalInformationSequence": sequence,
            "ReferencedStudySequence": decoy(2, undefined=undefined),
        },
    )  # fmt: skip

    read = read_elements(str(path), SEQUENCES)

    assert read.items == items_by_pydicom(str(path), pydicom.dcmread(path))
    doses = [item.values[ITEM_TAGS["RadionuclideTotalDose"]] for item in read.items[0x00540016]]
    assert [float(dose) for dose in doses] == [370e6 + number for number in range(count)]
    assert 0x00283000 not in read.items


def test_a_sequence_within_another_is_not_taken_for_one_of_the_main_dataset(
    tmp_path: Path, planned: Planned
) -> None:
    outer = Dataset()
    outer["ModalityLUTSequence"] = table((2, 0, 16), words_of(7, 9))
    nested = DataElement("ReferencedImageSequence", "SQ", Sequence([outer]))
    write_series(tmp_path, stored=words(100), extra={"ReferencedImageSequence": nested})

    assert volume_of(tmp_path, planned).voxels.item() == -924


# --- rescale --------------------------------------------------------------------------------------


def test_a_slope_whose_outputs_leave_float32_is_refused(tmp_path: Path, planned: Planned) -> None:
    paths = write_series(
        tmp_path, stored=np.array([1, 0], "u2").reshape(2, 1, 1), modality="MR",
        slope=Each("1e300", "1e300"), intercept="0",
    )  # fmt: skip

    with pytest.raises(dd.RescaleError, match="float32") as caught:
        volume_of(tmp_path, planned)

    assert str(paths[0]) in str(caught.value)


def test_rescale_types_that_differ_are_no_one_stack(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, rescale_type=Each("HU", "HU", "mgml", "HU", "HU"))

    assert "several units: HU, mgml" in refusal(planned(tmp_path))


def test_a_window_is_kept_as_text_and_never_used(tmp_path: Path) -> None:
    # R24.
    write_series(tmp_path, extra={"WindowCenter": ("50", "400"), "WindowWidth": ("", "x")})

    catalog = dd.scan(tmp_path, progress=False, keep=("WindowCenter",))

    (stack,) = dd.plan_stacks(catalog).stacks
    assert dict(stack.frames[0].kind.kept) == {"WindowCenter": "50\\400"}
    assert stack.unit == "HU"


# --- spacing --------------------------------------------------------------------------------------


def test_three_pixel_spacings_are_told(tmp_path: Path, planned: Planned) -> None:
    # G26.
    write_series(tmp_path, pixel_spacing=("0.8", "0.5", "3"))

    volume = volume_of(tmp_path, planned)

    assert volume.stack.spacing == (2.5, 0.8, 0.5)
    assert "pixel_spacing" in findings_of(volume)
    assert planned(tmp_path, dd.Policy(pixel_spacing="reject")).stacks == ()


@pytest.mark.parametrize("spacing", [None, ""])
def test_a_detectors_spacing_is_used_where_there_is_no_other(
    spacing: str | None, tmp_path: Path, planned: Planned
) -> None:
    # G27.
    write_series(
        tmp_path, pixel_spacing=spacing, modality="CR",
        extra={"ImagerPixelSpacing": ("0.2", "0.1")},
    )  # fmt: skip

    volume = volume_of(tmp_path, planned)

    assert volume.stack.spacing == (2.5, 0.2, 0.1)
    assert "detector_spacing" in findings_of(volume)


def test_pixel_spacing_outranks_that_of_the_detector(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, extra={"ImagerPixelSpacing": ("0.2", "0.1")})

    volume = volume_of(tmp_path, planned)

    assert volume.stack.spacing == (2.5, 0.8, 0.5)
    assert "detector_spacing" not in findings_of(volume)


@pytest.mark.parametrize("missing", ["ImagePositionPatient", "ImageOrientationPatient"])
def test_a_detectors_spacing_gives_a_frame_without_a_place_none(
    missing: str, tmp_path: Path
) -> None:
    (path,) = write_series(
        tmp_path, shape=(1, 2, 2), pixel_spacing=None,
        extra={"ImagerPixelSpacing": ("0.2", "0.1"), missing: None},
    )  # fmt: skip

    (frame,) = dd.read_instance(path).frames

    assert frame.kind.pixel_spacing is None


@pytest.mark.parametrize("spacing", [("nan", "1"), ("0.2", "0"), "0.2"])
def test_a_malformed_detectors_spacing_is_refused_by_name(
    spacing: Any, tmp_path: Path, planned: Planned
) -> None:
    write_series(
        tmp_path, shape=(1, 2, 2), pixel_spacing=None, extra={"ImagerPixelSpacing": spacing}
    )

    assert "Imager Pixel Spacing (0018,1164)" in refusal(planned(tmp_path))


# --- multi-frame ----------------------------------------------------------------------------------


def test_an_enhanced_ct_says_hu_in_its_functional_groups(tmp_path: Path, planned: Planned) -> None:
    # R18.
    stored = np.array([1000, 1010, 1020], "u2").reshape(3, 1, 1)
    write_enhanced(
        tmp_path, stored=stored, slope=Each(1, 0.5, 0.25), intercept=0, rescale_type="HU"
    )

    volume = volume_of(tmp_path, planned)

    assert volume.voxels.ravel().tolist() == [1000, 505, 255]
    assert volume.unit == "HU"

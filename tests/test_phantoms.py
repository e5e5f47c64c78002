"""What the phantoms write is what they say, as pydicom reads it: tests of what tests stand on."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataelem import DataElement
from pydicom.encaps import get_frame

from dicomdata.testing.phantoms import Each, SeriesPhantom, ramp, write_series
from dicomdata.testing.thorax import ThoraxArchive, thorax_archive

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

POSITION = "ImagePositionPatient"


def written(path: Path, keyword: str) -> bytes:
    """Return the bytes of one element, as they lie in the file, without what pads them."""
    value = pydicom.dcmread(path).get_item(keyword).value
    assert isinstance(value, bytes | None)
    return (value or b"").rstrip(b" \0")


def pixels(paths: list[Path]) -> NDArray[Any]:
    return np.stack([pydicom.dcmread(path).pixel_array for path in paths])


def test_the_default_is_a_clean_ct(tmp_path: Path) -> None:
    paths = write_series(tmp_path)

    headers = [pydicom.dcmread(path) for path in paths]

    np.testing.assert_array_equal(pixels(paths), ramp((5, 4, 6)))
    assert [header[POSITION].value for header in headers] == [
        [-10, -20, -30 + 2.5 * k] for k in range(5)
    ]
    assert {header.SOPClassUID for header in headers} == {uid.CTImageStorage}
    assert [header.InstanceNumber for header in headers] == [1, 2, 3, 4, 5]
    assert len({header.SOPInstanceUID for header in headers}) == 5
    assert len({header.SeriesInstanceUID for header in headers}) == 1
    assert (headers[0].RescaleSlope, headers[0].RescaleIntercept) == (1, -1024)
    assert headers[0].PixelSpacing == [0.8, 0.5]


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    one = write_series(tmp_path / "one", extra={"AcquisitionNumber": 1})
    two = write_series(tmp_path / "two", extra={"AcquisitionNumber": 1})

    assert [path.name for path in one] == [path.name for path in two]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_another_seed_is_another_series_in_the_same_folder(tmp_path: Path) -> None:
    paths = write_series(tmp_path, seed="one") + write_series(tmp_path, seed="two")

    headers = [pydicom.dcmread(path) for path in paths]

    assert len(set(paths)) == 10
    for keyword, count in {
        "StudyInstanceUID": 2,
        "SeriesInstanceUID": 2,
        "SOPInstanceUID": 10,
    }.items():
        assert len({header[keyword].value for header in headers}) == count


def test_names_tell_nothing_of_the_order(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=(20, 1, 1))

    assert sorted(paths) != paths
    assert [pydicom.dcmread(path)[POSITION].value[2] for path in paths] == [
        -30 + 2.5 * k for k in range(20)
    ]


def test_names_may_be_given_with_folders(tmp_path: Path) -> None:
    listed = write_series(tmp_path, shape=(2, 1, 1), file_names=["a/x", "b/y.dcm"])
    counted = write_series(tmp_path, shape=(2, 1, 1), file_names=lambda k: f"IM{k:03d}")

    assert listed == [tmp_path / "a/x", tmp_path / "b/y.dcm"]
    assert counted == [tmp_path / "IM000", tmp_path / "IM001"]
    assert all(path.is_file() for path in listed + counted)


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    paths = write_series(tmp_path)

    with pytest.raises(FileExistsError):
        write_series(tmp_path)
    write_series(tmp_path, stored=ramp((5, 4, 6)) + 1, overwrite=True)

    np.testing.assert_array_equal(pixels(paths), ramp((5, 4, 6)) + 1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"stored": np.zeros((3, 2, 2), "u2"), "positions": [None]}, "1 positions for 3 slices"),
        ({"shape": (3, 2, 2), "file_names": lambda _: "same"}, "3 slices cannot share 1 file name"),
    ],
)
def test_slices_need_a_position_and_a_name_each(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        write_series(tmp_path, **changes)


def test_changes_lie_over_a_phantom(tmp_path: Path) -> None:
    phantom = SeriesPhantom(modality="MR", patient_id="A")

    (path,) = write_series(tmp_path, phantom, shape=(1, 2, 2), patient_id="B")

    assert pydicom.dcmread(path).Modality == "MR"
    assert pydicom.dcmread(path).PatientID == "B"


@pytest.mark.parametrize(
    ("modality", "sop_class_uid", "slope", "intercept"),
    [
        ("CT", uid.CTImageStorage, 1, -1024),
        ("MR", uid.MRImageStorage, None, None),
        ("PT", uid.PositronEmissionTomographyImageStorage, 1, 0),
        ("OT", uid.SecondaryCaptureImageStorage, None, None),
    ],
)
def test_a_modality_brings_its_class_and_its_rescale(
    tmp_path: Path, modality: str, sop_class_uid: str, slope: object, intercept: object
) -> None:
    header = pydicom.dcmread(write_series(tmp_path, modality=modality)[0])

    assert header.SOPClassUID == header.file_meta.MediaStorageSOPClassUID == sop_class_uid
    assert (header.get("RescaleSlope"), header.get("RescaleIntercept")) == (slope, intercept)


def test_positions_are_written_as_text_stands(tmp_path: Path) -> None:
    positions = [
        "0\\0\\nan",
        ("0.10", "1,5", "x"),
        "12345678901234567890",
        "",
        (1, 2.5, -1e-7),
        None,
    ]

    paths = write_series(tmp_path, positions=positions)

    assert [written(path, POSITION) for path in paths[:-1]] == [
        b"0\\0\\nan",
        b"0.10\\1,5\\x",
        b"12345678901234567890",
        b"",
        b"1\\2.5\\-1e-07",
    ]
    assert POSITION not in pydicom.dcmread(paths[-1])


def test_positions_may_be_an_array(tmp_path: Path) -> None:
    paths = write_series(tmp_path, positions=np.array([[0, 0, 1.5], [0, 0, 4]]))

    assert [written(path, POSITION) for path in paths] == [b"0\\0\\1.5", b"0\\0\\4"]


def test_numbers_fit_a_decimal_string(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, positions=[(1 / 3, -1000 / 7, 0.1)])

    assert written(path, POSITION) == b"0.33333333333333\\-142.85714285714\\0.1"


def test_a_distance_steps_along_the_normal(tmp_path: Path) -> None:
    sagittal = (0, 1, 0, 0, 0, -1)

    paths = write_series(tmp_path, shape=(2, 1, 1), orientation=sagittal, origin=(0, 0, 0), step=2)

    assert pydicom.dcmread(paths[1])[POSITION].value == [-2, 0, 0]


def test_a_vector_steps_as_a_tilted_gantry_does(tmp_path: Path) -> None:
    angle = np.deg2rad(20)
    tilted = (1, 0, 0, 0, np.cos(angle), -np.sin(angle))

    paths = write_series(tmp_path, orientation=tilted, origin=(0, 0, 0), step=(0, 0, 5))

    last = pydicom.dcmread(paths[-1])
    assert last[POSITION].value == [0, 0, 20]
    assert last.ImageOrientationPatient == pytest.approx(tilted)


def test_each_slice_may_have_its_own_value(tmp_path: Path) -> None:
    paths = write_series(
        tmp_path,
        slope=Each(1, 0.5, None, "", (1, 2)),
        instance_number=Each(3, 1, 5, None, 4),
        slice_location=lambda k: 10 * k,
        frame_of_reference_uid=Each("1.2", "1.3", "1.2", "1.2", "1.2"),
    )

    headers = [pydicom.dcmread(path) for path in paths]

    slopes = [header.get("RescaleSlope", "absent") for header in headers]
    assert slopes == [1, 0.5, "absent", None, [1, 2]]
    assert [header.get("InstanceNumber") for header in headers] == [3, 1, 5, None, 4]
    assert [header.SliceLocation for header in headers] == [0, 10, 20, 30, 40]
    assert headers[1].FrameOfReferenceUID == "1.3"


def test_extra_elements_go_by_keyword_tag_or_function(tmp_path: Path) -> None:
    private = DataElement(0x00131010, "LO", "A")

    (keyed,) = write_series(
        tmp_path / "keyed",
        shape=(1, 1, 1),
        extra={"PatientName": "Doe^Jane", 0x00180060: 120, 0x00131010: private},
    )
    counted = write_series(
        tmp_path / "counted",
        shape=(3, 1, 1),
        extra=lambda k: {"TemporalPositionIdentifier": k, "ImageType": ("A", "B")},
    )

    header = pydicom.dcmread(keyed)
    assert (header.PatientName, header.KVP) == ("Doe^Jane", 120)
    assert header[0x00131010].value == "A"
    headers = [pydicom.dcmread(path) for path in counted]
    assert [header.TemporalPositionIdentifier for header in headers] == [0, 1, 2]
    assert headers[0].ImageType == ["A", "B"]


def test_extra_elements_overrule_and_remove_the_others(tmp_path: Path) -> None:
    paths = write_series(
        tmp_path,
        shape=(2, 2, 2),
        extra={"Rows": 7, "PixelSpacing": None, "Modality": Each("CT", "")},
    )

    headers = [pydicom.dcmread(path) for path in paths]
    assert headers[0].Rows == 7
    assert "PixelSpacing" not in headers[0]
    assert [header.Modality for header in headers] == ["CT", ""]


def test_values_that_the_standard_forbids_are_written(tmp_path: Path) -> None:
    (path,) = write_series(
        tmp_path,
        shape=(1, 1, 1),
        sop_instance_uid="not a uid",
        slice_thickness="123456789.123456789",
        instance_number="1.5",
        pixel_padding_value="",
        extra={"StudyDate": "yesterday", "PatientID": "x" * 100, "Manufacturer": "Mëdical"},
    )

    assert written(path, "SOPInstanceUID") == b"not a uid"
    assert written(path, "SliceThickness") == b"123456789.123456789"
    assert written(path, "InstanceNumber") == b"1.5"
    assert written(path, "StudyDate") == b"yesterday"
    assert written(path, "PatientID") == b"x" * 100
    assert written(path, "Manufacturer").decode() == "Mëdical"
    assert pydicom.dcmread(path)["PixelPaddingValue"].is_empty


@pytest.mark.parametrize(("vr", "padding"), [("US", 63536), ("SS", -2000)])
def test_padding_has_the_value_representation_asked_for(
    tmp_path: Path, vr: str, padding: int
) -> None:
    (path,) = write_series(
        tmp_path,
        stored=np.full((1, 2, 2), -2000, np.int16),
        pixel_padding_value=padding,
        pixel_padding_range_limit=padding + 500,
        pixel_padding_vr=vr,
    )

    header = pydicom.dcmread(path)
    assert (header["PixelPaddingValue"].VR, header.PixelPaddingValue) == (vr, padding)
    assert (header["PixelPaddingRangeLimit"].VR, header.PixelPaddingRangeLimit) == (
        vr,
        padding + 500,
    )
    assert header.PixelRepresentation == 1


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
def test_native_pixels_come_back(tmp_path: Path, syntax: str, dtype: str) -> None:
    stored = (np.arange(2 * 3 * 3).reshape(2, 3, 3) * 5).astype(dtype)

    paths = write_series(tmp_path, stored=stored, transfer_syntax_uid=syntax)

    assert pydicom.dcmread(paths[0]).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(pixels(paths), stored)
    assert pixels(paths).dtype == stored.dtype


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
@pytest.mark.parametrize(
    ("syntax", "error"),
    [
        (uid.RLELossless, 0),
        (uid.JPEGLSLossless, 0),
        (uid.JPEGLSNearLossless, 2),
        (uid.JPEG2000Lossless, 0),
        (uid.JPEG2000, 10),
        (uid.HTJ2KLossless, 0),
        (uid.HTJ2K, 10),
    ],
)
def test_compressed_pixels_come_back(tmp_path: Path, syntax: str, error: int, dtype: str) -> None:
    smooth = np.add.outer(np.arange(20), np.arange(16))[None]
    stored = (smooth * (7 if dtype == "u1" else 100) - (500 if dtype == "i2" else 0)).astype(dtype)

    paths = write_series(tmp_path, stored=stored, transfer_syntax_uid=syntax)

    header = pydicom.dcmread(paths[0])
    assert header.file_meta.TransferSyntaxUID == syntax
    assert header.get("LossyImageCompression") == ("01" if error else None)
    assert np.abs(pixels(paths).astype(int) - stored).max() <= error
    assert pixels(paths).dtype == stored.dtype


@pytest.mark.parametrize(
    ("syntax", "bits", "error"),
    [
        (uid.JPEGBaseline8Bit, 8, 8),
        (uid.JPEGExtended12Bit, 12, 20),
        (uid.JPEGLossless, 16, 0),
        (uid.JPEGLosslessSV1, 16, 0),
    ],
)
def test_jpeg_pixels_come_back_as_bits(tmp_path: Path, syntax: str, bits: int, error: int) -> None:
    smooth = np.add.outer(np.arange(12), np.arange(10))[None]
    stored = (smooth * 10).astype("u1") if bits == 8 else (smooth * 100).astype("u2")
    signed = stored - 500 if error == 0 else stored

    (path,) = write_series(
        tmp_path,
        stored=signed.view("i2") if error == 0 else stored,
        bits_stored=bits,
        transfer_syntax_uid=syntax,
    )

    decoded = imagecodecs.jpeg_decode(get_frame(pydicom.dcmread(path).PixelData, 0))
    assert np.abs(decoded.astype(int) - signed[0]).max() <= error


def test_the_encoder_may_be_told_more(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 4096, (1, 16, 16)).astype("u2")

    (path,) = write_series(
        tmp_path,
        stored=stored,
        transfer_syntax_uid=uid.JPEGLSNearLossless,
        compression={"jls_error": 40},
    )

    assert 2 < np.abs(pixels([path]).astype(int) - stored).max() <= 40


def test_each_slice_may_have_its_own_transfer_syntax(tmp_path: Path) -> None:
    syntaxes = (uid.ExplicitVRLittleEndian, uid.RLELossless, uid.ImplicitVRLittleEndian)

    paths = write_series(tmp_path, shape=(3, 4, 6), transfer_syntax_uid=Each(*syntaxes))

    found = tuple(pydicom.dcmread(path).file_meta.TransferSyntaxUID for path in paths)
    assert found == syntaxes
    np.testing.assert_array_equal(pixels(paths), ramp((3, 4, 6)))


def test_words_are_written_with_their_garbage(tmp_path: Path) -> None:
    words = np.array([[[0xF3E8, 0x0FFF]]], np.uint16)

    (path,) = write_series(tmp_path, stored=words, bits_stored=12, signed=True)

    header = pydicom.dcmread(path)
    assert header.PixelData == b"\xe8\xf3\xff\x0f"
    assert (header.BitsAllocated, header.BitsStored, header.HighBit) == (16, 12, 11)
    assert header.PixelRepresentation == 1


def test_the_header_may_lie_about_the_pixels(tmp_path: Path) -> None:
    (path,) = write_series(
        tmp_path, shape=(1, 2, 2), bits_allocated=8, bits_stored=12, high_bit=15, extra={"Rows": 9}
    )

    header = pydicom.dcmread(path)
    assert (header.BitsAllocated, header.BitsStored, header.HighBit) == (8, 12, 15)
    assert (header.Rows, len(header.PixelData)) == (9, 8)


def test_slices_may_differ_in_shape(tmp_path: Path) -> None:
    planes = [np.zeros((4, 6), "u2"), np.zeros((8, 6), "u2")]

    paths = write_series(tmp_path, stored=planes)

    assert [pydicom.dcmread(path).pixel_array.shape for path in paths] == [(4, 6), (8, 6)]


def test_colour_has_samples(tmp_path: Path) -> None:
    stored = np.arange(2 * 3 * 3, dtype="u1").reshape(1, 2, 3, 3)

    (path,) = write_series(tmp_path, stored=stored, photometric_interpretation="RGB")

    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, stored[0])
    assert pydicom.dcmread(path).SamplesPerPixel == 3


def test_a_file_may_lack_its_preamble(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, shape=(1, 2, 2), preamble=False)

    assert path.read_bytes()[:4] == b"\x02\x00\x00\x00"
    assert pydicom.dcmread(path, force=True).Modality == "CT"


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
def test_a_file_may_be_a_bare_data_set(tmp_path: Path, syntax: str) -> None:
    (path,) = write_series(
        tmp_path, shape=(1, 2, 2), preamble=False, file_meta=False, transfer_syntax_uid=syntax
    )

    assert path.read_bytes()[:4] == b"\x08\x00\x05\x00"
    assert pydicom.dcmread(path, force=True).Rows == 2


def test_one_slice_alone_is_what_it_is_in_its_series(tmp_path: Path) -> None:
    phantom = SeriesPhantom(
        slice_location=Each(1, 2, 3, 4, 5), extra=lambda k: {"AcquisitionNumber": k}
    )

    paths = write_series(tmp_path / "all", phantom)
    (alone,) = write_series(tmp_path / "alone", phantom.only(3))

    assert alone.name == paths[3].name
    assert alone.read_bytes() == paths[3].read_bytes()


def test_one_slice_alone_makes_a_duplicate(tmp_path: Path) -> None:
    phantom = SeriesPhantom()

    paths = write_series(tmp_path, phantom)
    (again,) = write_series(
        tmp_path, phantom.only(2), sop_instance_uid="1.2.3", file_names=["again.dcm"]
    )

    one, other = pydicom.dcmread(paths[2]), pydicom.dcmread(again)
    assert one.SOPInstanceUID != other.SOPInstanceUID == "1.2.3"
    assert {element.keyword for element in one if element != other[element.tag]} == {
        "SOPInstanceUID"
    }


def test_phantoms_need_neither_pytest_nor_hypothesis_nor_codecs() -> None:
    code = (
        "import sys, dicomdata.testing, dicomdata.testing.thorax;"
        "print({'pytest', 'hypothesis', 'imagecodecs', 'torch', 'monai'} & set(sys.modules))"
    )

    answer = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )

    assert answer.stdout.strip() == "set()"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> ThoraxArchive:
    return thorax_archive(tmp_path_factory.mktemp("thorax"), slices=16, size=128)


def test_a_thorax_says_what_lidc_says(tmp_path: Path) -> None:
    paths = thorax_archive(tmp_path, slices=3).patients[0].paths

    (header,) = (h for h in map(pydicom.dcmread, paths) if h.InstanceNumber == 80)

    assert written(paths[1], POSITION) == b"-166\\-171.699997\\-207.5"
    expected = {
        "SliceLocation": -207.5,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.703125, 0.703125],
        "SliceThickness": 2.5,
        "Rows": 512,
        "Columns": 512,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "PixelPaddingValue": 63536,
        "PatientPosition": "FFS",
        "KVP": 120,
        "ConvolutionKernel": "STANDARD",
        "BodyPartExamined": "CHEST",
        "WindowCenter": -600,
        "WindowWidth": 1600,
        "Manufacturer": "GE MEDICAL SYSTEMS",
        "ManufacturerModelName": "LightSpeed Plus",
        "PatientIdentityRemoved": "YES",
        "PatientID": "PHANTOM-0001",
        "PatientName": "",
    }
    assert {keyword: header[keyword].value for keyword in expected} == expected
    assert header["PixelPaddingValue"].VR == "US"
    assert header.private_block(0x0013, "CTP")[0x10].VR == "LO"


def test_a_thorax_has_the_voxels_and_the_affine_it_gives(archive: ThoraxArchive) -> None:
    (patient,) = archive.patients

    headers = [pydicom.dcmread(path) for path in patient.paths]

    stored = np.stack([header.pixel_array for header in headers])
    np.testing.assert_array_equal(stored - 1024, patient.hu)
    for k, header in enumerate(headers):
        np.testing.assert_allclose(patient.affine_lps[:3] @ [k, 0, 0, 1], header[POSITION].value)
    np.testing.assert_allclose(patient.affine_lps[:3, 1], [0, headers[0].PixelSpacing[0], 0])
    assert [header.InstanceNumber for header in headers] == sorted(
        (header.InstanceNumber for header in headers), reverse=True
    )


def test_a_thorax_is_padded_outside_its_circle(archive: ThoraxArchive) -> None:
    (patient,) = archive.patients
    middles = np.arange(128) - 63.5
    outside = middles[:, None] ** 2 + middles**2 > 64**2

    assert (patient.hu[:, outside] == -3024).all()
    assert patient.hu[:, ~outside].min() >= -1024


def test_a_thorax_has_lungs_of_air_and_bones_in_soft_tissue(archive: ThoraxArchive) -> None:
    (patient,) = archive.patients
    body = patient.hu > -300

    assert -900 < np.median(patient.hu[patient.lung]) < -700
    assert 0.08 < patient.lung.mean() < 0.25
    assert 0 < np.median(patient.hu[body]) < 100
    assert 0.02 < (patient.hu[body] > 300).mean() < 0.2


def test_a_thorax_has_a_localizer_a_duplicate_and_a_stray_text(archive: ThoraxArchive) -> None:
    (patient,) = archive.patients

    axial, localizer, duplicate = (
        pydicom.dcmread(path)
        for path in (patient.duplicate_of, patient.localizer, patient.duplicate)
    )

    assert localizer.SeriesInstanceUID == duplicate.SeriesInstanceUID == patient.series_instance_uid
    assert localizer.ImageOrientationPatient == [1, 0, 0, 0, 0, -1]
    assert localizer.ImageType[2] == "LOCALIZER"
    assert duplicate.SOPInstanceUID != axial.SOPInstanceUID
    assert duplicate.PixelData == axial.PixelData
    assert duplicate[POSITION] == axial[POSITION]
    with pytest.raises(pydicom.errors.InvalidDicomError):
        pydicom.dcmread(archive.text)
    assert sorted(archive.paths) == sorted(p for p in archive.root.rglob("*") if p.is_file())


def test_a_thorax_is_the_same_twice(archive: ThoraxArchive, tmp_path: Path) -> None:
    again = thorax_archive(tmp_path, slices=16, size=128)

    for one, other in zip(archive.paths, again.paths, strict=True):
        assert one.relative_to(archive.root) == other.relative_to(again.root)
        assert one.read_bytes() == other.read_bytes()


def test_patients_differ_and_lie_mixed(tmp_path: Path) -> None:
    patients = thorax_archive(tmp_path, slices=8, size=32, patients=2, seed=6).patients

    assert [patient.patient_id for patient in patients] == ["PHANTOM-0007", "PHANTOM-0008"]
    assert len({patient.study_instance_uid for patient in patients}) == 2
    assert (patients[0].hu != patients[1].hu).any()
    for patient in patients:
        assert len({path.parent for path in patient.paths}) == 2

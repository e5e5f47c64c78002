"""One file's header: the fast reader against pydicom, what is kept, and what is refused."""

from __future__ import annotations

import pickle
import warnings
import zlib
from dataclasses import FrozenInstanceError, fields, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from pydicom import uid
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

import dicomdata as dd
from dicomdata.header import kept_tags
from dicomdata.header.elements import read_elements
from dicomdata.header.parsing import parse, quietly
from dicomdata.header.records import new_frame, new_instance
from dicomdata.header.values import TAGS
from dicomdata.testing.phantoms import SeriesPhantom, write_series
from dicomdata.testing.strategies import LOSSLESS, NATIVE, series_phantoms

if TYPE_CHECKING:
    from collections.abc import Iterator

WANTED = frozenset(TAGS.values())

BUNDLED = Path(pydicom.__file__).parent / "data"
"""Odd and broken files that come with pydicom."""


def one_file(folder: Path, **changes: Any) -> Path:
    return write_series(folder, **{"shape": (1, 4, 6), **changes})[0]


def frame_of(path: Path) -> dd.Frame:
    (frame,) = dd.read_instance(path).frames
    return frame


def assert_read_alike(path: Path) -> bool:
    """Compare the walk over elements with pydicom; whether the file could be read."""
    try:
        fast = read_elements(str(path), WANTED)
    except dd.DicomDataError:
        return False
    with path.open("rb") as file:
        slow = parse(str(path), file)
    for keyword, tag in TAGS.items():
        ours, theirs = fast.values.get(tag), slow.raw(tag)
        if keyword == "TransferSyntaxUID":
            # Made out by pydicom where the file does not say.
            theirs = slow.transfer_syntax_uid.encode()
        assert (ours is None) == (theirs is None), f"{path}: {keyword}"
        # Files are padded to even lengths, and pydicom takes that away from file meta.
        assert (ours or b"").rstrip(b" \0") == (theirs or b"").rstrip(b" \0"), f"{path}: {keyword}"
    assert fast.pixels == slow.pixels, path
    assert fast.big_endian == (not slow.little_endian), path
    return True


def files_below(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


# --- records --------------------------------------------------------------------------------------


def test_a_record_that_is_built_is_as_one_that_is_called(tmp_path: Path) -> None:
    instance = dd.read_instance(one_file(tmp_path))
    for record, build in ((instance.frames[0], new_frame), (instance, new_instance)):
        values = [getattr(record, field.name) for field in fields(record)]

        built: Any = build(*values)
        called: Any = type(record)(*values)

        assert type(built) is type(called)
        assert (built, hash(built), repr(built)) == (called, hash(called), repr(called))
        assert pickle.loads(pickle.dumps(built)) == replace(built) == called
        with pytest.raises(FrozenInstanceError):
            built.path = "elsewhere"
        with pytest.raises(TypeError):
            build(*values[1:])


# --- the fast reader ------------------------------------------------------------------------------


@given(phantom=series_phantoms(slices=(1, 1), transfer_syntaxes=(*NATIVE, *LOSSLESS)))
def test_every_encoding_is_read_as_pydicom_reads_it(
    phantom: SeriesPhantom, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (path,) = write_series(tmp_path_factory.mktemp("series"), phantom)

    assert assert_read_alike(path)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param({"preamble": False}, id="no preamble"),
        pytest.param({"preamble": False, "file_meta": False}, id="a bare data set"),
        pytest.param(
            {"preamble": False, "file_meta": False,
             "transfer_syntax_uid": uid.ImplicitVRLittleEndian},
            id="a bare implicit data set",
        ),
    ],
)  # fmt: skip
def test_files_without_a_beginning_are_read(layout: dict[str, Any], tmp_path: Path) -> None:
    path = one_file(tmp_path, **layout)

    frame = frame_of(path)

    assert assert_read_alike(path)
    assert frame.position == (-10, -20, -30)


def nested(depth: int, *, undefined: bool) -> DataElement:
    """Sequences within sequences."""
    content = Dataset()
    content.CodeValue = "deepest"
    for _ in range(depth):
        content, inner = Dataset(), content
        inner.is_undefined_length_sequence_item = undefined
        content.ContentSequence = Sequence([inner, inner])
        content["ContentSequence"].is_undefined_length = undefined
    return content["ContentSequence"]


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
@pytest.mark.parametrize("undefined", [True, False])
def test_sequences_are_stepped_over_however_their_length_is_told(
    undefined: bool, syntax: str, tmp_path: Path
) -> None:
    elements: dict[str | int, Any] = {
        "ContentSequence": nested(3, undefined=undefined),
        "ReferencedImageSequence": DataElement("ReferencedImageSequence", "SQ", Sequence()),
        0x00091010: DataElement(0x00091010, "UN", b"\1" * 20_000),
        0x00090010: DataElement(0x00090010, "LO", "PRIVATE"),
    }
    path = one_file(tmp_path, extra=elements, transfer_syntax_uid=syntax)

    frame = frame_of(path)

    assert assert_read_alike(path)
    assert frame.position == (-10, -20, -30)


def test_pydicoms_own_files_are_read_as_pydicom_reads_them() -> None:
    alike = [assert_read_alike(path) for path in files_below(BUNDLED)]

    assert sum(alike) > 150


def test_the_corpus_is_read_as_pydicom_reads_it(corpus: Path) -> None:
    alike = [assert_read_alike(path) for path in files_below(corpus)]

    assert sum(alike) > 600


@pytest.mark.corpus("volume", largest=5_000_000)
def test_real_headers_mean_what_pydicom_says_they_mean(entry: dict[str, Any], corpus: Path) -> None:
    for name in entry["files"]:
        path = corpus / entry["id"] / name
        header = pydicom.dcmread(path, stop_before_pixels=True)

        frame = frame_of(path)

        kind = frame.kind
        assert frame.position == tuple(map(float, header.ImagePositionPatient))
        assert kind.orientation == tuple(map(float, header.ImageOrientationPatient))
        assert kind.pixel_spacing == tuple(map(float, header.PixelSpacing))
        assert (kind.rows, kind.columns) == (header.Rows, header.Columns)
        assert (kind.bits_allocated, kind.bits_stored, kind.high_bit, int(kind.signed)) == (
            header.BitsAllocated,
            header.BitsStored,
            header.HighBit,
            header.PixelRepresentation,
        )
        if (slope := header.get("RescaleSlope")) is not None:
            assert kind.rescale is not None
            assert kind.rescale.slope == float(slope)
            assert kind.rescale.intercept == float(header.RescaleIntercept)
        assert frame.sop_instance_uid == header.SOPInstanceUID
        assert frame.instance_number == header.InstanceNumber
        assert kind.transfer_syntax_uid == header.file_meta.TransferSyntaxUID


# --- what is kept ---------------------------------------------------------------------------------


def test_an_instance_says_what_it_belongs_to(tmp_path: Path) -> None:
    path = one_file(tmp_path, patient_id="P1", series_instance_uid="1.2", study_instance_uid="1.3")

    instance = dd.read_instance(path)

    assert (instance.path, instance.size) == (str(path), path.stat().st_size)
    assert instance.mtime_ns == path.stat().st_mtime_ns
    assert (instance.patient_id, instance.series_instance_uid) == ("P1", "1.2")
    assert instance.frames[0].kind.study_instance_uid == "1.3"


def test_a_frame_knows_where_its_pixels_lie(tmp_path: Path) -> None:
    words = np.arange(24, dtype="u2").reshape(1, 4, 6)
    path = one_file(tmp_path, stored=words)

    frame = frame_of(path)

    content = path.read_bytes()[frame.offset : frame.offset + frame.length]
    assert content == words.tobytes()


def test_names_and_birth_dates_are_nowhere_in_an_instance(tmp_path: Path) -> None:
    path = one_file(
        tmp_path,
        extra={
            "PatientName": "Secret^Person",
            "PatientBirthDate": "19510723",
            "AccessionNumber": "ACC12345",
            "ReferringPhysicianName": "Secret^Doctor",
            "ImageComments": "call Secret at home",
        },
    )

    written = repr(dd.read_instance(path))

    for secret in ("Secret", "19510723", "ACC12345"):
        assert secret not in written


@pytest.mark.parametrize(
    ("keyword", "value", "text"),
    [("ConvolutionKernel", "B30f", "B30f"), ("KVP", "120", "120"), ("Rows", None, "4"),
     ("ImageType", ("A", "B"), "A\\B"), ("RedPaletteColorLookupTableDescriptor", None, None),
     ("DiffusionBValue", 1000.5, "1000.5")],
)  # fmt: skip
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_kept_keywords_are_kept_as_text(
    keyword: str, value: Any, text: str | None, syntax: str, tmp_path: Path
) -> None:
    extra = {} if value is None else {keyword: value}
    path = one_file(tmp_path, extra=extra, transfer_syntax_uid=syntax)

    (frame,) = dd.read_instance(path, keep=kept_tags([keyword])).frames

    assert dict(frame.kind.kept).get(keyword) == text


@pytest.mark.parametrize(
    "keyword",
    ["PatientName", "PatientBirthDate", "AccessionNumber", "OperatorsName", "ImageComments",
     "PixelData", "ContentSequence", "PatientAddress", "NoSuchThing", "Rows; DROP TABLE series"],
)  # fmt: skip
def test_what_may_identify_a_person_or_is_no_keyword_cannot_be_kept(keyword: str) -> None:
    with pytest.raises(dd.ConfigError, match="keep: "):
        kept_tags([keyword])


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize(
    ("character_set", "encoded", "text"),
    [
        ("ISO_IR 100", "Thorax für Ärzte".encode("latin-1"), "Thorax für Ärzte"),
        ("ISO_IR 192", "胸部 CT".encode(), "胸部 CT"),
        ("ISO_IR 144", "Грудь".encode("iso8859_5"), "Грудь"),
        (
            DataElement("SpecificCharacterSet", "CS", ["", "ISO 2022 IR 87"]),
            b"\x1b$B6;It\x1b(B CT",
            "胸部 CT",
        ),
        (None, "Ärzte".encode("latin-1"), "Ärzte"),
    ],
)
def test_text_is_decoded_by_its_character_set(
    character_set: Any, encoded: bytes, text: str, syntax: str, tmp_path: Path
) -> None:
    described = DataElement(0x0008103E, "LO", encoded, already_converted=True)
    path = one_file(
        tmp_path,
        extra={"SpecificCharacterSet": character_set, 0x0008103E: described},
        transfer_syntax_uid=syntax,
    )

    assert frame_of(path).kind.series_description == text


def test_text_of_an_unknown_character_set_is_taken_for_latin_1(tmp_path: Path) -> None:
    described = DataElement(0x0008103E, "LO", b"\xc4rzte", already_converted=True)
    path = one_file(tmp_path, extra={"SpecificCharacterSet": "ISO_IR 100", 0x0008103E: described})
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 999"))

    assert frame_of(path).kind.series_description == "Ärzte"


def test_the_header_of_any_dicom_file_can_be_read_whole(tmp_path: Path) -> None:
    path = one_file(tmp_path)

    header = dd.read_header(path)

    assert header.Modality == "CT"
    assert header.file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian
    assert "PixelData" not in header


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"DICM", b"hello, this is text named .dcm\n" * 9, bytes(4096), b"\x89PNG\r\n" * 40,
     bytes(128) + b"DICX" + bytes(100), b"{}", b"PK\3\4" + bytes(200)],
)  # fmt: skip
def test_what_is_not_dicom_is_told_so(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(content)

    for read in (dd.read_instance, dd.read_header):
        with pytest.raises(dd.NotDicomError, match="not DICOM") as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("sop_class", "words"),
    [
        (uid.BasicTextSRStorage, "structured report"),
        (uid.RTStructureSetStorage, "RTSTRUCT"),
        (uid.RTPlanStorage, "RTPLAN"),
        (uid.RTDoseStorage, "RTDOSE"),
        (uid.SegmentationStorage, "SEG"),
        (uid.GrayscaleSoftcopyPresentationStateStorage, "presentation state"),
        (uid.MediaStorageDirectoryStorage, "DICOMDIR"),
        (uid.RawDataStorage, "raw data"),
        (uid.SpatialRegistrationStorage, "registration"),
        (uid.EncapsulatedPDFStorage, "encapsulated document"),
        (uid.TwelveLeadECGWaveformStorage, "waveform"),
        ("1.2.3.4.5", "1.2.3.4.5"),
    ],
)
def test_objects_without_frames_are_recognised_by_name(
    sop_class: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "object"
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID, header.PatientID = sop_class, "1.2.3", "P"
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = uid.UID(sop_class)
    header.save_as(path, enforce_file_format=True)

    with pytest.raises(dd.OtherObjectError, match=words) as caught:
        dd.read_instance(path)

    assert str(path) in str(caught.value)
    assert dd.read_header(path).PatientID == "P"


def test_an_image_without_pixels_misses_them_by_name(tmp_path: Path) -> None:
    path = one_file(tmp_path)
    header = pydicom.dcmread(path)
    del header.PixelData
    header.save_as(path)

    with pytest.raises(dd.HeaderError, match=r"Pixel Data \(7FE0,0010\) is missing") as caught:
        dd.read_instance(path)

    assert caught.value.keyword == "PixelData"


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated"])
def test_an_image_without_a_size_misses_it_by_name(keyword: str, tmp_path: Path) -> None:
    path = one_file(tmp_path, extra={keyword: None})

    with pytest.raises(dd.HeaderError, match="is missing") as caught:
        dd.read_instance(path)

    assert caught.value.keyword == keyword
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "keyword"),
    [
        ({"positions": [("1,5", "0", "0")]}, "ImagePositionPatient"),
        ({"extra": {"ImageOrientationPatient": (1, 0, 0)}}, "ImageOrientationPatient"),
        ({"pixel_spacing": ("0", "1")}, "PixelSpacing"),
        ({"slope": ("1", "2")}, "RescaleSlope"),
        ({"intercept": "none"}, "RescaleIntercept"),
        ({"pixel_padding_value": [1, 2]}, "PixelPaddingValue"),
    ],
)
def test_a_malformed_element_is_named(
    changes: dict[str, Any], keyword: str, tmp_path: Path
) -> None:
    path = one_file(tmp_path, **changes)

    with pytest.raises(dd.HeaderError, match=str(path)) as caught:
        dd.read_instance(path)

    tag = TAGS[keyword]
    assert caught.value.keyword == keyword
    assert f"({tag >> 16:04X},{tag & 0xFFFF:04X})" in str(caught.value)


def test_what_is_only_reported_may_be_malformed(tmp_path: Path) -> None:
    path = one_file(
        tmp_path, slice_location="1,5", slice_thickness="thin", instance_number="first",
        extra={"EchoTime": "1\\2", "TriggerTime": "nan", "GantryDetectorTilt": "??"},
    )  # fmt: skip

    frame = frame_of(path)

    assert (frame.slice_location, frame.instance_number, frame.trigger_time) == (None, None, None)
    assert (frame.kind.slice_thickness, frame.kind.gantry_detector_tilt) == (None, None)


@pytest.mark.parametrize("syntax", [*NATIVE, uid.RLELossless])
def test_a_file_cut_anywhere_is_an_error_that_names_it(syntax: str, tmp_path: Path) -> None:
    path = one_file(tmp_path, shape=(1, 16, 16), transfer_syntax_uid=syntax)
    content = path.read_bytes()
    # Native words end the file; of compressed ones there are items and a delimiter.
    header_ends = content.find(b"\xe0\x7f\x10\x00") if syntax != NATIVE[2] else -1
    whole = header_ends if header_ends > 0 else len(content) - 600

    for length in range(1, whole, 37):
        path.write_bytes(content[:length])

        with pytest.raises(dd.HeaderError, match=str(path)):
            dd.read_instance(path)


# --- hostile --------------------------------------------------------------------------------------


def test_two_hundred_nested_sequences_break_themselves_only(tmp_path: Path) -> None:
    content = b""
    for _ in range(200):
        item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + content + b"\xfe\xff\x0d\xe0\0\0\0\0"
        content = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    path = one_file(tmp_path)
    plain = path.read_bytes()
    at = plain.index(b"\x28\x00\x02\x00US")  # before Samples per Pixel
    head = b"\x20\x00\x11\x92SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    tail = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    path.write_bytes(plain[:at] + head + content + tail + plain[at:])

    try:
        frame = frame_of(path)
    except dd.HeaderError as error:
        assert str(path) in str(error)  # noqa: PT017 - either will do, so nothing must be raised
    else:
        assert frame.position == (-10, -20, -30)


def test_a_deflated_file_is_not_inflated_without_bound(tmp_path: Path) -> None:
    path = one_file(tmp_path, transfer_syntax_uid=uid.DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    ends = 132 + 12 + int.from_bytes(content[140:144], "little")
    dataset = zlib.decompress(content[ends:], -zlib.MAX_WBITS)
    bomb = BytesIO()
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb.write(packer.compress(dataset[: dataset.index(b"\xe0\x7f\x10\x00")]))
    bomb.write(packer.compress(b"\xe0\x7f\x10\x00OW\0\0" + (2**27).to_bytes(4, "little")))
    for _ in range(128):
        bomb.write(packer.compress(bytes(2**20)))
    bomb.write(packer.flush())
    path.write_bytes(content[:ends] + bomb.getvalue())
    assert path.stat().st_size < 2**20

    with pytest.raises(dd.HeaderError, match="larger than 67108864 bytes") as caught:
        dd.read_instance(path)

    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({"Rows": 65535, "Columns": 65535}, id="a huge picture"),
        pytest.param({"NumberOfFrames": "2147483647"}, id="two billion frames"),
        pytest.param({"NumberOfFrames": "999999999", "Rows": 0, "Columns": 0}, id="of no size"),
        pytest.param({"NumberOfFrames": "99999999999999999999"}, id="frames beyond counting"),
        pytest.param({"Rows": 0}, id="no rows"),
        pytest.param({"BitsAllocated": 0, "BitsStored": 0}, id="no bits"),
        pytest.param({"BitsStored": 60000, "HighBit": 59999}, id="many bits"),
    ],
)
def test_claims_larger_than_the_file_allocate_nothing(
    claims: dict[str, Any], tmp_path: Path
) -> None:
    path = one_file(tmp_path, extra=claims)

    plan = dd.plan_stacks(dd.scan(tmp_path, progress=False))

    for stack in plan.stacks:
        with pytest.raises(dd.PixelError, match=str(path)):
            dd.read_volume(stack)
    assert {row.outcome for row in plan.outcomes} <= {"used", "rejected"}


def test_an_element_longer_than_the_file_is_a_header_cut_short(tmp_path: Path) -> None:
    path = one_file(tmp_path)
    content = bytearray(path.read_bytes())
    at = content.index(b"\x20\x00\x32\x00DS")  # Image Position (Patient)
    content[at + 6 : at + 8] = (0xFFF0).to_bytes(2, "little")
    path.write_bytes(content)

    with pytest.raises(dd.HeaderError, match=r"cut short.*\(0020,0032\)") as caught:
        dd.read_instance(path)

    assert str(path) in str(caught.value)


@pytest.mark.thorough
def test_no_flip_of_bytes_breaks_more_than_the_file(tmp_path: Path) -> None:
    path = one_file(tmp_path, transfer_syntax_uid=uid.JPEG2000Lossless, shape=(1, 16, 16))
    content = path.read_bytes()
    random = np.random.default_rng(0)

    for _ in range(20_000):
        broken = bytearray(content)
        for at in random.integers(0, len(content), random.integers(1, 6)):
            broken[at] = random.integers(0, 256)
        path.write_bytes(broken[: random.integers(len(content) // 2, len(content) + 1)])
        try:
            frames = dd.read_instance(path).frames
        except dd.DicomDataError as error:
            assert str(path) in str(error)  # noqa: PT017 - most are refused, some are whole
        else:
            assert frames


def test_an_image_that_ends_before_its_rows_is_damaged_and_no_other_object(tmp_path: Path) -> None:
    # Cut where an element ends: nothing but the SOP class tells that pixels should follow.
    (path, *_) = write_series(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\x28\x00\x10\x00US")])

    with pytest.raises(dd.HeaderError, match=r"Pixel Data \(7FE0,0010\) is missing") as caught:
        dd.read_instance(path)

    assert type(caught.value) is dd.HeaderError


def test_one_that_keeps_quiet_may_ask_another_who_does(tmp_path: Path) -> None:
    (path, *_) = write_series(tmp_path)

    with quietly():
        header = dd.read_instance(path)
        warnings.warn("not to be seen", UserWarning, stacklevel=1)

    assert header.frames
    with pytest.warns(UserWarning, match="seen again"):
        warnings.warn("seen again", UserWarning, stacklevel=1)

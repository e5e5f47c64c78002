"""Headers read by what was learned of others: they say what a walk says, and cost one read."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

import dicomdata as dd
from dicomdata.header import kept_tags
from dicomdata.header.decode import decode_instance
from dicomdata.header.elements import read_elements
from dicomdata.header.frames import PARTS
from dicomdata.header.memo import Memo
from dicomdata.header.templates import Templates
from dicomdata.header.values import TAGS, Values
from dicomdata.testing.mutations import harmless, mutations
from dicomdata.testing.phantoms import Each, SeriesPhantom, write_series
from dicomdata.testing.strategies import LOSSLESS, NATIVE, series_phantoms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from dicomdata.header.elements import Elements

WANTED = frozenset(TAGS.values())


class Learner:
    """Reads headers with what it learned of those it read before, and of no others."""

    def __init__(self) -> None:
        self.templates, self.memo = Templates(), Memo[Any]()

    def elements(self, path: Path) -> Elements:
        return read_elements(str(path), WANTED, known=self.templates)

    def instance(self, path: Path) -> dd.Instance:
        return decode_instance(self.elements(path), {}, known=self.memo)


def outcome(read: Callable[[Path], Any], path: Path) -> Any:
    """Give what is read, or the error in words."""
    try:
        return read(path)
    except dd.DicomDataError as error:
        return type(error).__name__, str(error)
    except Exception as error:  # noqa: BLE001 - `read_instance` makes one error of all of them
        return "HeaderError", repr(error)


def assert_as_walked(learner: Learner, path: Path) -> Any:
    """Compare what a learner reads with what a reader that knows nothing reads."""
    assert outcome(learner.elements, path) == outcome(Learner().elements, path), path
    read = outcome(learner.instance, path)
    assert read == outcome(Learner().instance, path), path
    return read


def taught(paths: Iterable[Path]) -> Learner:
    learner = Learner()
    for path in paths:
        learner.instance(path)
    return learner


def walks(learner: Learner, path: Path) -> bool:
    """Whether a file has to be walked."""
    return learner.elements(path).template is None


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    """Five slices, whose UIDs, positions and times differ, some in length."""
    return write_series(
        tmp_path / "series",
        shape=(5, 4, 6),
        positions=[("-10", "-20", f"{z}.25") for z in (-100, -5, 0, 1, 1000)],
        extra={"SeriesDescription": "thorax", "SliceThickness": "2.5", "StationName": "here"},
    )


# --- the same answers -----------------------------------------------------------------------------


@given(phantom=series_phantoms(slices=(2, 5), transfer_syntaxes=(*NATIVE, *LOSSLESS)))
def test_a_series_of_any_kind_is_read_as_it_is_walked(
    phantom: SeriesPhantom, tmp_path_factory: pytest.TempPathFactory
) -> None:
    paths = write_series(tmp_path_factory.mktemp("series"), phantom)
    learner = Learner()

    for path in [*paths, *reversed(paths)]:
        assert_as_walked(learner, path)


def test_the_corpus_is_read_as_it_is_walked(corpus: Path) -> None:
    paths = sorted(path for path in corpus.rglob("*") if path.is_file())
    learner = Learner()

    for path in paths:
        assert_as_walked(learner, path)
    for number in np.random.default_rng(0).permutation(len(paths))[:300]:
        assert_as_walked(learner, paths[number])


@pytest.mark.corpus("volume", largest=5_000_000)
def test_real_values_are_those_that_pydicom_reads(entry: dict[str, Any], corpus: Path) -> None:
    paths = [corpus / entry["id"] / name for name in entry["files"]]
    learner = taught(paths)

    for path in paths:
        header = pydicom.dcmread(path, stop_before_pixels=True)

        (frame,) = learner.instance(path).frames

        assert frame.sop_instance_uid == header.SOPInstanceUID
        assert frame.position == tuple(map(float, header.ImagePositionPatient))
        assert frame.instance_number == header.InstanceNumber
        assert (frame.kind.rows, frame.kind.columns) == (header.Rows, header.Columns)


# --- files that are nearly alike ------------------------------------------------------------------


def spliced(path: Path, tag: int, change: Callable[[bytes, int], bytes]) -> None:
    """Change an explicit element of a file, given the file's bytes and where it begins."""
    content = path.read_bytes()
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    path.write_bytes(change(content, content.index(head, 132)))


def other_representation(content: bytes, at: int) -> bytes:
    return content[: at + 4] + b"LT" + content[at + 6 :]


def other_tag(content: bytes, at: int) -> bytes:
    return content[: at + 2] + bytes([content[at + 2] ^ 1]) + content[at + 3 :]


def inserted(content: bytes, at: int) -> bytes:
    """Put an element before this one, and shorten the next by as much, so that all else lies."""
    length = struct.unpack_from("<H", content, at + 6)[0]
    end = at + 8 + length
    tag = struct.unpack_from("<HH", content, at)
    more = struct.pack("<HH2sH", tag[0], tag[1] - 1, b"SH", 2) + b"x "
    return content[:at] + more + content[at:end] + content[end:]


def longer(content: bytes, at: int) -> bytes:
    length = struct.unpack_from("<H", content, at + 6)[0]
    return content[: at + 6] + struct.pack("<H", length + 2) + content[at + 8 :]


def endless(content: bytes, at: int) -> bytes:
    return content[: at + 6] + b"\xfe\xff" + content[at + 8 :]


def cut(content: bytes, at: int) -> bytes:
    return content[: at + 7]


@pytest.mark.parametrize(
    "change", [other_representation, other_tag, inserted, longer, endless, cut]
)
@pytest.mark.parametrize(
    "keyword", ["SOPInstanceUID", "SeriesDescription", "InstanceNumber", "ImagePositionPatient",
                "Rows", "PatientID"],
)  # fmt: skip
def test_a_file_that_is_nearly_alike_is_read_as_it_is_walked(
    keyword: str, change: Callable[[bytes, int], bytes], series: list[Path]
) -> None:
    learner = taught(series)

    spliced(series[2], TAGS[keyword], change)

    assert_as_walked(learner, series[2])
    assert_as_walked(learner, series[3])


def test_an_element_and_a_shorter_neighbour_do_not_pass_for_the_old_ones(
    series: list[Path],
) -> None:
    # Sixteen bytes of Series Description become an element of ten and a description of six.
    learner = taught(series)
    content = series[1].read_bytes()
    old = b"\x08\x00\x3e\x10LO\x06\x00thorax"
    new = b"\x08\x00\x3e\x10LO\x00\x00" + b"\x08\x00\x3f\x10LO\x00\x00"
    padded = content.replace(b"\x08\x00\x10\x10SH\x04\x00here", b"\x08\x00\x10\x10SH\x02\x00he")
    assert len(padded.replace(old, new)) == len(content)
    series[1].write_bytes(padded.replace(old, new))

    instance = assert_as_walked(learner, series[1])

    assert instance.frames[0].kind.series_description == ""


def test_file_meta_information_that_is_no_plain_list_is_not_taken_for_one(
    series: list[Path],
) -> None:
    learner = taught(series)
    content = series[1].read_bytes()
    version = b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01"
    endless = version[:8] + b"\xff\xff\xff\xff" + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    assert version in content
    series[1].write_bytes(content.replace(version, endless))

    assert_as_walked(learner, series[1])
    assert walks(learner, series[1])


def with_sequence(inner: str) -> dict[str | int, Any]:
    """Give a sequence of undefined length whose item holds elements of the main dataset's tags."""
    item = Dataset()
    item.ImagePositionPatient = [inner, "0", "0"]
    item.Rows, item.SeriesDescription = 7, inner
    item.is_undefined_length_sequence_item = True
    sequence = DataElement("ReferencedImageSequence", "SQ", Sequence([item]))
    sequence.is_undefined_length = True
    return {"ReferencedImageSequence": sequence}


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_elements_in_sequences_are_never_taken_for_those_outside(
    syntax: str, tmp_path: Path
) -> None:
    paths = [
        write_series(
            tmp_path / str(number), shape=(1, 4, 6), extra=with_sequence("9" * number),
            transfer_syntax_uid=syntax,
        )[0]
        for number in range(1, 5)
    ]  # fmt: skip
    learner = taught(paths[:2])

    for path in paths:
        assert not walks(learner, path)
        instance = assert_as_walked(learner, path)
        assert instance.frames[0].position == (-10, -20, -30)
        assert instance.frames[0].kind.rows == 4


def test_any_single_byte_of_a_header_may_change(series: list[Path]) -> None:
    learner = taught(series[:3])
    content = series[3].read_bytes()
    header = content.index(b"\xe0\x7f\x10\x00") + 12
    random = np.random.default_rng(1)

    for at in range(128, header):
        broken = bytearray(content)
        broken[at] ^= 1 << random.integers(0, 8)
        series[3].write_bytes(broken)

        assert_as_walked(learner, series[3])


def test_a_file_may_end_anywhere(series: list[Path]) -> None:
    learner = taught(series)
    content = series[1].read_bytes()
    header = content.index(b"\xe0\x7f\x10\x00") + 12

    for length in range(0, header + 2, 3):
        series[1].write_bytes(content[:length])

        assert_as_walked(learner, series[1])


@pytest.mark.parametrize("draw", [mutations, harmless])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutations_are_read_as_they_are_walked(
    draw: Any, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mutated")
    paths = write_series(folder, shape=(3, 4, 6), extra=with_sequence("1"))
    learner = taught(paths)

    mutation = data.draw(draw(paths[2].read_bytes()))
    mutation.write(paths[2])

    assert_as_walked(learner, paths[2])
    assert_as_walked(learner, paths[1])


def test_every_value_of_a_header_may_be_another(series: list[Path]) -> None:
    learner = taught(series)
    content = series[2].read_bytes()
    others = {"US": 16, "DS": "7", "IS": "7", "TM": "070809", "UI": "1.9"}
    tags = [each.tag for each in pydicom.dcmread(series[2], stop_before_pixels=True)]

    for tag in tags:
        series[2].write_bytes(content)
        header = pydicom.dcmread(series[2])
        text = "ISO_IR 101" if tag == TAGS["SpecificCharacterSet"] else "OTHER"
        header[tag].value = others.get(header[tag].VR, text)
        header.save_as(series[2])

        assert_as_walked(learner, series[2])
        assert_as_walked(learner, series[3])


def test_another_character_set_gives_the_same_bytes_another_text(tmp_path: Path) -> None:
    described = DataElement(0x0008103E, "LO", b"\xc4rzte", already_converted=True)
    paths = [
        write_series(
            tmp_path / name, shape=(1, 4, 6),
            extra={"SpecificCharacterSet": name, 0x0008103E: described},
        )[0]
        for name in ("ISO_IR 100", "ISO_IR 144")
    ]  # fmt: skip
    learner = Learner()

    texts = [learner.instance(path).frames[0].kind.series_description for path in paths * 2]

    assert texts == ["Ärzte", "Фrzte"] * 2


def test_kept_keywords_are_those_that_were_asked_for(series: list[Path]) -> None:
    station, nothing = kept_tags(["StationName"]), kept_tags([])

    kinds = [
        dd.read_instance(path, keep=keep).frames[0].kind
        for path in series
        for keep in (station, nothing, kept_tags(["Modality", "StationName"]))
    ]

    assert [kind.kept for kind in kinds[:3]] == [
        (("StationName", "here"),),
        (),
        (("Modality", "CT"), ("StationName", "here")),
    ]
    assert kinds[3:6] == kinds[:3]


# --- what it costs --------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The system calls that open or read."""
    made: list[str] = []
    for name in ("open", "pread", "read", "fdopen"):
        original = getattr(os, name)

        def spy(*given: Any, _name: str = name, _original: Any = original, **named: Any) -> Any:
            made.append(_name)
            return _original(*given, **named)

        monkeypatch.setattr(os, name, spy)
    return made


def test_a_header_costs_one_open_and_one_read(series: list[Path], calls: list[str]) -> None:
    dd.read_instance(series[0])
    dd.read_instance(series[1])
    calls.clear()

    for path in series:
        dd.read_instance(path)

    assert calls == ["open", "pread"] * len(series)


def test_a_header_with_a_large_private_element_costs_two_reads(
    tmp_path: Path, calls: list[str]
) -> None:
    extra = {
        0x00290010: DataElement(0x00290010, "LO", "PRIVATE"),
        0x00291010: DataElement(0x00291010, "OB", bytes(100_000)),
    }
    paths = write_series(tmp_path, shape=(4, 4, 6), extra=extra)
    learner = taught(paths)
    calls.clear()

    for path in paths:
        learner.elements(path)

    assert calls == ["open", "pread", "pread"] * len(paths)


@pytest.mark.parametrize("syntax", NATIVE[:2])
def test_only_the_first_file_of_a_series_is_walked(syntax: str, tmp_path: Path) -> None:
    # What differs is met one element after the other, in values of any length.
    paths = write_series(
        tmp_path,
        shape=(20, 4, 6),
        transfer_syntax_uid=syntax,
        extra={
            "StudyDate": Each(*(["20240101"] * 10 + ["20240102"] * 10)),
            "SliceLocation": Each(*(str(10**number) for number in range(20))),
            "StationName": Each(*(["A"] * 15 + [""] * 4 + ["AB"])),
            **with_sequence("1"),
        },
    )
    learner = Learner()

    walked = [walks(learner, path) for path in paths]
    again = [learner.elements(path).template for path in paths]

    assert walked == [True] + [False] * 19
    assert len(set(again)) == 1


def test_series_that_take_turns_are_walked_once_each(tmp_path: Path) -> None:
    series = [
        write_series(tmp_path / str(number), series_instance_uid=f"1.{number}")
        for number in range(30)
    ]
    learner = Learner()

    turns = [
        [learner.elements(path).template for path in turn] for turn in zip(*series, strict=True)
    ]

    assert turns[0] == [None] * 30
    assert None not in turns[1] + turns[2] + turns[3] + turns[4]
    assert len(learner.templates) == 30


def test_files_of_two_layouts_in_a_series_are_walked_once_each(tmp_path: Path) -> None:
    one = write_series(tmp_path / "one")
    other = write_series(tmp_path / "other", extra={"StationName": "here"})
    learner = Learner()

    turns = [
        learner.elements(path).template for pair in zip(one, other, strict=True) for path in pair
    ]

    assert turns[:2] == [None, None]
    assert None not in turns[2:]


# What frames hold, and the decoders of values.
DECODERS = ("text", "floats", "place", "number", "integer", "word", "double", "double_word")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keywords whose values are decoded."""
    keywords: list[str] = []
    for name in DECODERS:
        original = getattr(Values, name)

        def spy(own: Values, keyword: str, *given: Any, _original: Any = original) -> Any:
            keywords.append(keyword)
            return _original(own, keyword, *given)

        monkeypatch.setattr(Values, name, spy)
    return keywords


def test_only_what_differs_is_decoded(series: list[Path], decoded: list[str]) -> None:
    learner = taught(series)
    decoded.clear()

    learner.instance(series[3])

    assert set(decoded) == {"SOPInstanceUID", "ImagePositionPatient", "InstanceNumber"}


def test_a_frame_is_made_of_the_elements_that_are_said(tmp_path: Path) -> None:
    # The time of a frame is looked for in three elements: written, each hides the next.
    rich = {"FrameAcquisitionDateTime": "20240101120000", "SliceLocation": "1", "TriggerTime": "2"}
    for number, extra in enumerate([{}, rich, dict.fromkeys(rich, "")]):
        (path,) = write_series(tmp_path / str(number), shape=(1, 4, 6), extra=extra)
        elements = read_elements(str(path), WANTED, known=Templates())
        for part in PARTS:
            asked: set[int] = set()

            class Noted(dict[int, bytes]):
                def get(self, tag: int, default: Any = None, *, _asked: set[int] = asked) -> Any:
                    _asked.add(tag)
                    return super().get(tag, default)

            part.decode(Values(replace(elements, values=Noted(elements.values))))

            assert asked <= part.tags | {TAGS["SpecificCharacterSet"]}


def test_the_slices_of_a_series_share_one_kind(series: list[Path]) -> None:
    kinds = [dd.read_instance(path).frames[0].kind for path in series]

    assert all(kind is kinds[0] for kind in kinds)


def test_what_is_learned_is_bounded(tmp_path: Path) -> None:
    learner = Learner()
    for number in range(100):
        extra = {0x00090010 + i: DataElement(0x00090010 + i, "LO", "X") for i in range(number)}
        (path,) = write_series(
            tmp_path / str(number), shape=(1, 4, 6), extra=extra, series_instance_uid=f"1.{number}"
        )
        learner.instance(path)

    assert len(learner.templates) == 64
    assert len(learner.memo) <= 8 * 1024


# --- threads and processes ------------------------------------------------------------------------


def test_threads_may_read_different_families_at_once(tmp_path: Path) -> None:
    families = [
        write_series(
            tmp_path / str(number), shape=(6, 4, 6),
            extra={"StationName": "here", "SeriesDescription": "x" * number},
            transfer_syntax_uid=NATIVE[number % 2],
        )
        for number in range(4)
    ]  # fmt: skip
    learner = Learner()
    expected = {path: Learner().instance(path) for paths in families for path in paths}

    def read(paths: list[Path]) -> list[tuple[Path, dd.Instance]]:
        return [(path, learner.instance(path)) for _ in range(40) for path in paths]

    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(read, families):
            assert all(instance == expected[path] for path, instance in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_reads_on_with_what_its_parent_learned(series: list[Path]) -> None:
    expected = [dd.read_instance(path) for path in series]

    if (child := os.fork()) == 0:
        same = [dd.read_instance(path) for path in series] == expected
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)

    assert status == 0

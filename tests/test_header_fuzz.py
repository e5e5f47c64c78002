"""Damaged and hostile files: read as an independent reader reads them, or refused cleanly.

Every file is read in a process of its own kind, which is watched: it must answer within seconds,
must not die, and must not take memory for what a header only claims.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import warnings
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from conftest import CORPUS
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid

import dicomdata as dd
from dicomdata.header import read_instance
from dicomdata.testing.enhanced import write_enhanced
from dicomdata.testing.mutations import Layout, Mutation, bomb, harmless, mutations, nested
from dicomdata.testing.phantoms import SeriesPhantom, write_series

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

LONGEST_S = 5
"""Seconds of a processor that a reader may take for one file, however busy the machine is."""

_LONGEST_WAIT_S = 120
"""Seconds after which a reader waits for what never comes: the whole time of a busy machine."""

MOST_MEMORY = 256 * 2**20
"""Bytes that reading a file may take beyond what the process had."""

_UNKNOWN = "?"
"""Stands for what pydicom raises an error over."""

_CORPUS = (
    "pydicom_data/emri_small", "pydicom_data/emri_small_RLE", "wg04/ct1_rle", "wg04/ct1_unc",
    "pydicom/dicomdir_98892001_CT2N", "pydicom/dicomdir_98892003_MR1__s00", "dcm_qa_decubitus",
    "dcm_qa_ct", "dcm_qa_nih", "dcm_qa_frag", "dcm_qa_12bit", "cmb_crc", "d2n", "totalseg", "_seg",
    "_rt", "_trees", "monai", "dcmqi", "rtutils",
)  # fmt: skip
"""Folders of real files; of each, the smallest is changed."""

_LARGEST_SEED = 600_000
"""Bytes of a real file that is changed thousands of times."""


# --- the other reader -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a reader made of a file."""

    error: str = ""
    """Class and text of the error; "" where there is none."""

    clean: bool = True
    """Whether the error is one of ours."""

    value: Any = None
    """Values by keyword, or volumes; None where there is an error."""

    memory: int = 0
    """Bytes taken beyond what the process had."""


_FIELDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID",
    "FrameOfReferenceUID", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "RescaleSlope", "RescaleIntercept", "InstanceNumber", "AcquisitionNumber", "NumberOfFrames",
)  # fmt: skip


_GROUPED = frozenset({
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
    "RescaleIntercept",
})  # fmt: skip
"""What a functional group says of a frame, among `_FIELDS`."""


def oracle(path: str) -> dict[str, Any]:
    """Read a file with pydicom: values by keyword, of the first frame, and where the pixels lie."""
    content = BytesIO(Path(path).read_bytes())
    header = pydicom.dcmread(content, force=True, stop_before_pixels=True)
    first = frame_of(header)
    known: dict[str, Any] = {name: plain(first, name) for name in _FIELDS}
    known["TransferSyntaxUID"] = plain(header.file_meta, "TransferSyntaxUID")
    at = content.tell()
    implicit, little = header.original_encoding
    head = content.read(12)
    known["offset"] = at + (8 if implicit else 12) if len(head) == 12 else None
    known["little"] = little
    return known


def frame_of(header: pydicom.Dataset, number: int = 0) -> pydicom.Dataset:
    """Lay the functional groups of a frame over the elements beside them."""
    flat = pydicom.Dataset()
    flat.update(header)
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for groups in (*shared[:1], *frames[number : number + 1]):
        for group in groups:
            if group.VR == "SQ" and group.value and not group.tag.is_private:
                own = group.value[0]
                flat.update({each.tag: each for each in own if each.keyword in _GROUPED})
    return flat


def plain(header: pydicom.Dataset, name: str) -> Any:
    """Give a value as text, number or list of numbers; `_UNKNOWN` where pydicom cannot."""
    try:
        value = header.get(name)
        if value is None or value == "":
            return None
        several = isinstance(value, pydicom.multival.MultiValue | list)
        if name.endswith("UID") or name == "PatientID":
            return ("\\".join(map(str, value)) if several else str(value)).strip(" \0")
        if several:
            return [float(part) for part in value]
        return float(value)
    # pydicom has many kinds of error for values that are none.
    except Exception:  # noqa: BLE001
        return _UNKNOWN


def ours(path: str) -> dict[str, Any]:
    """Read a file with this package: the same as `oracle`."""
    instance = read_instance(path)
    frame = instance.frames[0]
    kind = frame.kind
    rescale = kind.rescale
    return {
        "SOPClassUID": kind.sop_class_uid,
        "SOPInstanceUID": frame.sop_instance_uid,
        "StudyInstanceUID": kind.study_instance_uid,
        "SeriesInstanceUID": instance.series_instance_uid,
        "PatientID": instance.patient_id,
        "FrameOfReferenceUID": kind.frame_of_reference_uid,
        "Rows": kind.rows,
        "Columns": kind.columns,
        "BitsAllocated": kind.bits_allocated,
        "BitsStored": kind.bits_stored,
        "HighBit": kind.high_bit,
        "PixelRepresentation": int(kind.signed),
        "ImagePositionPatient": frame.position,
        "ImageOrientationPatient": kind.orientation,
        "PixelSpacing": kind.pixel_spacing,
        "RescaleSlope": None if rescale is None else rescale.slope,
        "RescaleIntercept": None if rescale is None else rescale.intercept,
        "InstanceNumber": frame.instance_number,
        "NumberOfFrames": len(instance.frames),
        "TransferSyntaxUID": kind.transfer_syntax_uid,
        "offset": frame.offset,
    }


def voxels_of_ours(folder: str) -> list[Any]:
    """Plan and read what is in a folder: padding kept, each volume with its affine."""
    plan = dd.plan_stacks(dd.scan(folder, progress=False, workers=1))
    volumes: list[Any] = []
    for stack in plan.stacks:
        try:
            volume = dd.read_volume(stack, padding="keep")
        except dd.DicomDataError as error:
            volumes.append(f"{type(error).__name__} {error}")
        else:
            volumes.append((volume.voxels, volume.affine_lps, stack.unit))
    return volumes


def disagreements(
    known: dict[str, Any], found: dict[str, Any], before: dict[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Say where two readers differ: keyword -> (pydicom, ours).

    Where pydicom cannot read a value, there is none, or the one before the damage.
    """
    apart = {}
    for name, theirs in known.items():
        if name not in found or is_same(name, theirs, found[name], known):
            continue
        if theirs == _UNKNOWN and found[name] in (None, "", 1, before.get(name)):
            continue
        apart[name] = (theirs, found[name])
    return apart


def is_same(name: str, theirs: Any, mine: Any, known: dict[str, Any]) -> bool:
    """Whether two readers read the same, as far as the standard says what is to be read."""
    absent = theirs in (None, "")
    if theirs == _UNKNOWN:
        return False
    if name.startswith("Rescale"):
        # One without the other says nothing.
        alone = None in (known["RescaleSlope"], known["RescaleIntercept"])
        same = mine is None if alone else mine == theirs
    elif name == "NumberOfFrames":
        same = mine == (1 if absent else max(theirs, 1))
    elif name == "BitsStored":
        same = mine == (theirs or known["BitsAllocated"])
    elif name == "offset":
        # Fragments begin behind the table of offsets.
        same = mine == -1 or mine >= theirs
    elif isinstance(mine, tuple):
        same = isinstance(theirs, list) and list(mine) == theirs[: len(mine)]
    elif isinstance(theirs, str):
        # No character set is said for what may only be ASCII, and one UID has no several values.
        same = mine.strip() == theirs.strip() or not theirs.isascii() or "\\" in theirs
    else:
        # A label that is no whole number is none.
        same = (mine or None) == (theirs or None) or (name == "InstanceNumber" and mine is None)
        # Where it is not said, it is made out.
        same = same or (absent and name in {"HighBit", "TransferSyntaxUID"})
    return bool(same)


# --- the watched process --------------------------------------------------------------------------


def serve(connection: Connection) -> None:
    """Answer requests until there are no more: (what, path) -> `Answer`."""
    warnings.simplefilter("ignore")
    # pydicom's plugin for RLE panics on damaged frames, which is no news here.
    os.environ["RUST_BACKTRACE"] = "0"
    # A claim of terabytes shall fail here, and not reach the machine.
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))
    doors = {"ours": ours, "oracle": oracle, "volumes": voxels_of_ours, "pixels": voxels_of_oracle}
    while True:
        try:
            what, path = connection.recv()
        except EOFError:
            return
        before = forget_peak()
        signal.setitimer(signal.ITIMER_PROF, LONGEST_S)  # which ends the process, even in C
        try:
            answer = Answer(value=doors[what](path))
        except dd.DicomDataError as error:
            answer = Answer(f"{type(error).__name__} {error}", "MemoryError" not in str(error))
        except BaseException as error:  # noqa: BLE001
            answer = Answer(f"{type(error).__name__} {error}", clean=False)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send((answer, peak() - before))


def forget_peak() -> int:
    """Forget the most memory that was ever held; give what is held now, bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Give the most memory that was held since, bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class Watched:
    """A process that reads files, and is replaced when it hangs or dies."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def ask(self, what: str, path: Path) -> Answer:
        """Read a file, or plan and read a folder."""
        try:
            self.connection.send((what, str(path)))
            if not self.connection.poll(_LONGEST_WAIT_S):
                self.stop()
                return Answer("hangs", clean=False)
            answer, memory = self.connection.recv()
        except (EOFError, OSError):
            ended = self.process
            self.stop()
            hung = ended.exitcode == -signal.SIGPROF
            return Answer("hangs" if hung else "crashes", clean=False)
        return Answer(answer.error, answer.clean, answer.value, memory)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.start()


@pytest.fixture(scope="session")
def watched() -> Iterator[Watched]:
    """One process for all files; imports are done before the watch begins."""
    watched = Watched()
    with TemporaryDirectory() as folder:
        (path,) = write_series(folder, shape=(1, 2, 3))
        for what, where in (
            ("ours", path),
            ("oracle", path),
            ("volumes", Path(folder)),
            ("pixels", path),
        ):
            assert not watched.ask(what, where).error
    yield watched
    watched.process.kill()
    watched.process.join()
    watched.connection.close()


# --- what is changed ------------------------------------------------------------------------------

_TINY = SeriesPhantom(shape=(1, 12, 14), slope="2", extra={"AcquisitionTime": "120000.5"})


class Seeds(dict[str, bytes]):
    """Files by name; megabytes are not worth reading in a report."""

    def __repr__(self) -> str:
        return f"Seeds({', '.join(self)})"


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Seeds:
    """Small files in every encoding that headers are read from, by name."""
    folder = tmp_path_factory.mktemp("seeds")
    syntaxes = {
        "explicit": uid.ExplicitVRLittleEndian,
        "implicit": uid.ImplicitVRLittleEndian,
        "big endian": uid.ExplicitVRBigEndian,
        "deflated": uid.DeflatedExplicitVRLittleEndian,
        "rle": uid.RLELossless,
        "jpeg-ls": uid.JPEGLSLossless,
    }
    seeds = {
        name: write_series(folder / name, _TINY, transfer_syntax_uid=syntax)[0].read_bytes()
        for name, syntax in syntaxes.items()
    }
    enhanced = write_enhanced(folder / "enhanced", series=SeriesPhantom(shape=(3, 3, 4)))
    return Seeds(seeds, enhanced=enhanced.read_bytes())


@pytest.fixture(scope="session")
def real_files() -> Seeds:
    """Real files of many makers, by name."""
    if not (CORPUS / "expected.json").is_file():
        pytest.skip(f"no real series in {CORPUS} (DICOMDATA_CORPUS)")
    seeds = Seeds()
    for name in _CORPUS:
        files = [path for path in sorted((CORPUS / name).rglob("*")) if path.is_file()]
        small = [path for path in files if 1000 < path.stat().st_size <= _LARGEST_SEED]
        if small:
            seeds[name] = min(small, key=lambda path: path.stat().st_size).read_bytes()
    return seeds


def voxels_of_oracle(path: str) -> list[Any]:
    """Read the pixels of each frame with pydicom, in output units by the first frame's rescale."""
    known = oracle(path)
    header = pydicom.dcmread(path, force=True)
    allocated, stored = (
        int(known["BitsAllocated"]),
        int(known["BitsStored"] or known["BitsAllocated"]),
    )
    high_bit = stored - 1 if known["HighBit"] is None else int(known["HighBit"])
    rows, columns = int(known["Rows"]), int(known["Columns"])
    if known["TransferSyntaxUID"] in _NATIVE or not known["TransferSyntaxUID"]:
        order = "<" if known["little"] else ">"
        words = header.get_item(0x7FE00010).value
        planes = np.frombuffer(words[: len(words) // (allocated // 8) * (allocated // 8)],
                               f"{order}u{allocated // 8}").astype(np.int64)  # fmt: skip
        planes = planes[: planes.size // (rows * columns) * rows * columns]
        planes = planes.reshape(-1, rows, columns) >> (high_bit + 1 - stored)
    else:
        planes = np.atleast_3d(header.pixel_array).reshape(-1, rows, columns).astype(np.int64)
    planes &= 2**stored - 1
    if known["PixelRepresentation"] == 1:
        planes = np.where(planes >= 2 ** (stored - 1), planes - 2**stored, planes)
    volumes = []
    for number, plane in enumerate(planes):
        own = frame_of(header, number)
        slope, intercept = plain(own, "RescaleSlope"), plain(own, "RescaleIntercept")
        whole = slope is not None and intercept is not None
        volumes.append((plane * slope + intercept if whole else plane).astype(np.float32))
    return volumes


_NATIVE = {
    uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian,
}  # fmt: skip


# --- laws -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What both readers made of a file."""

    header: Answer
    """Our header."""

    volumes: Answer
    """Our volumes, where there is a header."""

    their_header: Answer
    their_planes: Answer


def read(watched: Watched, mutation: Mutation, *, compare: bool = True) -> Reading:
    """Read a file, with pydicom too unless that takes seconds or gigabytes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mutated"
        mutation.write(path)
        header = watched.ask("ours", path)
        volumes = Answer(value=[]) if header.error else watched.ask("volumes", Path(folder))
        if not compare:
            return Reading(header, volumes, Answer(), Answer())
        planes = watched.ask("pixels", path) if volumes.value else Answer(value=[])
        return Reading(header, volumes, watched.ask("oracle", path), planes)


def check_manners(reading: Reading) -> None:
    """An answer, or an error of ours, in time and within bounds."""
    for answer in (reading.header, reading.volumes):
        assert answer.clean, answer.error
        assert answer.memory <= MOST_MEMORY, f"{answer.memory >> 20} MiB"


def check_header(reading: Reading, before: Reading, damage: frozenset[str]) -> None:
    """What is read is what pydicom reads, or what was there before the damage."""
    mine, theirs, old = reading.header.value, reading.their_header.value, before.header.value or {}
    if mine is None:
        return
    if theirs is not None:
        apart = disagreements(theirs, mine, old)
        if "representation" in damage:
            # A VR that is not the dictionary's is damage too, and the dictionary a way to read it.
            apart = {n: p for n, p in apart.items() if p[1] != old.get(n) and n != "offset"}
    elif damage <= _KEEPS_VALUES:
        kept = mine.keys() - {"offset", "TransferSyntaxUID"}
        apart = {n: (old.get(n), mine[n]) for n in kept if mine[n] not in (old.get(n), None, "")}
    else:
        apart = {}
    assert not apart, f"keyword: (pydicom, ours): {apart} {reading.their_header.error}"


_KEEPS_VALUES = frozenset({"cut", "length", "order", "sequences", "meta", "representation"})
"""Damage after which a value is what it was, or is not found."""


def check_voxels(reading: Reading, before: Reading, damage: frozenset[str]) -> None:
    """Every slice that is read is a frame as pydicom reads it, or as it was before the damage."""
    header, whole = reading.their_header.value or {}, before.volumes.value or ()
    if reading.their_planes.error and not damage <= _KEEPS_VALUES:
        return
    # pydicom has no decoder for some real files: what they hold is tested elsewhere.
    old = before.their_planes.value or [p for v in whole if not isinstance(v, str) for p in v[0]]
    theirs = [*(reading.their_planes.value or []), *old]
    for volume in reading.volumes.value or ():
        if isinstance(volume, str):
            continue
        voxels, affine, _ = volume
        for plane in voxels:
            same = any(np.array_equal(plane, other) for other in theirs)
            assert same, (plane.ravel()[:4], [other.ravel()[:4] for other in theirs])
        places, spacing = header.get("ImagePositionPatient"), header.get("PixelSpacing")
        if len(voxels) > 1 or "representation" in damage:
            continue
        if isinstance(places, list) and isinstance(spacing, list):
            np.testing.assert_allclose(affine[:3, 3], places, rtol=0, atol=1e-6)
            lengths = np.linalg.norm(affine[:3, 1:3], axis=0)
            np.testing.assert_allclose(lengths, spacing[:2], rtol=1e-6)


def check(watched: Watched, mutation: Mutation, before: Reading) -> None:
    """Hold what is read of a changed file against pydicom and against the file as it was."""
    reading = read(watched, mutation)
    damage = frozenset(mutation.name.split(", "))

    check_manners(reading)
    check_header(reading, before, damage)
    check_voxels(reading, before, damage)


def many(share: int) -> settings:
    """So many times the examples of the profile: one file takes 20 ms where a series takes 200."""
    profile = settings.default
    assert profile is not None
    return settings(max_examples=share * profile.max_examples)


@many(10)
@given(data=st.data())
def test_a_damaged_header_is_read_as_pydicom_reads_it_or_refused(
    data: st.DataObject, phantoms: Seeds, watched: Watched
) -> None:
    content = phantoms[data.draw(st.sampled_from(sorted(phantoms)))]
    before = unchanged(watched, content)

    check(watched, data.draw(mutations(content)), before)


@many(5)
@given(data=st.data())
def test_a_damaged_real_header_is_read_as_pydicom_reads_it_or_refused(
    data: st.DataObject, real_files: Seeds, watched: Watched
) -> None:
    content = real_files[data.draw(st.sampled_from(sorted(real_files)))]
    before = unchanged(watched, content)

    check(watched, data.draw(mutations(content)), before)


@pytest.mark.thorough
@settings(max_examples=20_000)
@given(data=st.data())
def test_tens_of_thousands_of_damaged_headers_are_read_or_refused(
    data: st.DataObject,
    phantoms: Seeds,
    real_files: Seeds,
    watched: Watched,
) -> None:
    seeds = Seeds(phantoms, **real_files)
    content = seeds[data.draw(st.sampled_from(sorted(seeds)))]

    check(watched, data.draw(mutations(content)), unchanged(watched, content))


@many(3)
@given(data=st.data())
def test_a_harmless_change_changes_nothing(
    data: st.DataObject, phantoms: Seeds, watched: Watched
) -> None:
    content = phantoms[data.draw(st.sampled_from(sorted(phantoms)))]
    before = unchanged(watched, content)
    mutation = data.draw(harmless(content))

    reading = read(watched, mutation)

    check_manners(reading)
    assert not reading.header.error
    assert {**reading.header.value, "offset": 0} == {**before.header.value, "offset": 0}
    assert [str(each) for each in reading.volumes.value] == [
        str(each) for each in before.volumes.value
    ]


@many(2)
@given(data=st.data())
def test_a_damaged_file_does_its_neighbours_no_harm(data: st.DataObject, watched: Watched) -> None:
    phantom = SeriesPhantom(shape=(4, 3, 4), modality="MR", slope="1", intercept="0")
    broken = data.draw(st.integers(0, 3))
    with TemporaryDirectory() as folder:
        paths = write_series(folder, phantom)
        data.draw(mutations(paths[broken].read_bytes())).write(paths[broken])

        answer = watched.ask("volumes", Path(folder))

    assert answer.clean, answer.error
    whole = [k for k in range(4) if k != broken]
    for volume in answer.value or ():
        if isinstance(volume, str):
            assert str(paths[broken]) in volume
            continue
        voxels, affine, _ = volume
        for number, plane in enumerate(voxels):
            place = (affine @ (number, 0, 0, 1))[:3]
            # Within what is still called even, or uniform, of a step of 2.5 mm.
            near = [
                k
                for k in whole
                if np.linalg.norm(place - np.array(phantom.position(k), float)) <= 0.25
            ]
            assert all(np.array_equal(plane, phantom.plane(k)) for k in near)


@pytest.mark.parametrize("mebibytes", [63, 65, 2000])
def test_a_deflated_bomb_is_read_or_refused_within_bounds(
    mebibytes: int, phantoms: Seeds, watched: Watched
) -> None:
    whole = unchanged(watched, phantoms["explicit"])
    content = bomb(phantoms["explicit"], mebibytes * 2**20)

    reading = read(watched, Mutation("bomb", (content,)), compare=False)

    check_manners(reading)
    if mebibytes < 64:
        assert [str(each) for each in reading.volumes.value] == [
            str(each) for each in whole.volumes.value
        ]
    else:
        assert "deflated" in reading.header.error


@pytest.mark.parametrize("seed", ["explicit", "implicit", "rle", "jpeg-ls", "deflated", "enhanced"])
@pytest.mark.parametrize("frames", ["", "1000000"])
def test_a_size_that_is_only_claimed_takes_no_memory(
    seed: str, frames: str, phantoms: Seeds, watched: Watched
) -> None:
    content = claimed(phantoms["explicit" if seed == "deflated" else seed], frames)
    if seed == "deflated":
        content = bomb(content, 0)

    reading = read(watched, Mutation("claim", (content,)), compare=False)

    check_manners(reading)
    assert reading.header.error or all(isinstance(each, str) for each in reading.volumes.value)


def claimed(content: bytes, frames: str) -> bytes:
    """Let a file claim 65535 rows and columns, and so many frames."""
    changes = {0x00280010: b"\xff\xff", 0x00280011: b"\xff\xff", 0x00280008: frames.encode()}
    for tag, value in changes.items():
        layout = Layout(content)
        at = layout.find(tag)
        if at is not None:
            content = layout.with_value(at, value + b" " * (len(value) % 2))
        elif value:
            head = layout.head(tag, b"IS", len(value))
            content = Mutation("", layout.with_inserted(tag, [head + value])).content
    return content


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("defined", [True, False])
@pytest.mark.parametrize("depth", [1, 30, 300])
def test_sequences_nest_as_deep_as_they_like(
    depth: int, defined: bool, ended: bool, phantoms: Seeds, watched: Watched
) -> None:
    whole = unchanged(watched, phantoms["explicit"])
    layout = Layout(phantoms["explicit"])
    inside = nested(layout, 0x00081140, depth, defined=defined, ended=ended)
    mutation = Mutation("sequences", layout.with_inserted(0x00081140, [inside]))

    reading = read(watched, mutation, compare=False)

    check_manners(reading)
    told = reading.header.error or {**reading.header.value, "offset": 0}
    legal = (ended or defined) and (depth <= 30 or defined)
    assert told == {**whole.header.value, "offset": 0} or (not legal and reading.header.error)


@lru_cache
def unchanged(watched: Watched, content: bytes) -> Reading:
    """Read a file as it was."""
    return read(watched, Mutation("nothing", (content,)))

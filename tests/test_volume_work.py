"""What reading a volume costs: opens, reads, memory, threads; and which of its errors is told."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import uid

import dicomdata as dd
from dicomdata.pixels import FrameReader
from dicomdata.testing.encoding import write_fragments
from dicomdata.testing.enhanced import write_enhanced
from dicomdata.testing.phantoms import Each, write_series
from dicomdata.testing.strategies import LOSSLESS
from dicomdata.volume.threads import thread_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Planned = Callable[..., dd.StackPlan]

opened: Counter[str] = Counter()
"""How often each file was opened in this process, while `counting_opens`."""

_counts = threading.Event()


def _count(event: str, details: tuple[Any, ...]) -> None:
    if event == "open" and _counts.is_set():
        opened[str(details[0])] += 1


sys.addaudithook(_count)


@contextmanager
def counting_opens() -> Iterator[Counter[str]]:
    opened.clear()
    _counts.set()
    try:
        yield opened
    finally:
        _counts.clear()


def stack_of(folder: Path, planned: Planned, policy: dd.Policy | None = None) -> dd.Stack:
    (stack,) = planned(folder, policy).stacks
    assert stack.frames  # read from the catalog, before anything is counted
    return stack


# --- opens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [None, 1, 3])
@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.JPEGLSLossless, uid.DeflatedExplicitVRLittleEndian]
)
def test_a_file_of_many_frames_is_opened_once(
    syntax: str, workers: int | None, tmp_path: Path, planned: Planned
) -> None:
    shape = (40, 16, 16)
    path = write_enhanced(tmp_path, shape=shape, transfer_syntax_uid=syntax)
    stack = stack_of(tmp_path, planned)

    with counting_opens() as count:
        volume = dd.read_volume(stack, workers=workers)

    assert count[str(path)] == 1
    assert volume.voxels.shape == shape


def test_files_whose_frames_alternate_are_opened_once_each(
    tmp_path: Path, planned: Planned
) -> None:
    # Two files of twenty frames; the slices of a stack come from one and the other in turn.
    for part in (0, 1):
        positions = [(0.0, 0.0, 2.5 * (2 * k + part)) for k in range(20)]
        write_enhanced(
            tmp_path, shape=(20, 4, 4), positions=positions, name=f"{part}.dcm",
            sop_instance_uid=Each(*[f"2.25.{part + 1}"] * 20),
        )  # fmt: skip
    stack = stack_of(tmp_path, planned)

    with counting_opens() as count:
        volume = dd.read_volume(stack)

    assert len(volume.voxels) == 40
    assert [number for path, number in count.items() if path.endswith(".dcm")] == [1, 1]


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_files_of_one_frame_are_opened_once_each_and_none_stays_open(
    syntax: str, tmp_path: Path, planned: Planned
) -> None:
    paths = write_series(tmp_path, shape=(50, 4, 4), transfer_syntax_uid=syntax)
    stack = stack_of(tmp_path, planned)
    before = len(os.listdir("/dev/fd"))

    with counting_opens() as count:
        dd.read_volume(stack)

    assert [count[str(path)] for path in paths] == [1] * 50
    assert len(os.listdir("/dev/fd")) == before


def test_a_repaired_stack_opens_each_file_once(tmp_path: Path, planned: Planned) -> None:
    path = write_enhanced(
        tmp_path, shape=(5, 4, 4), positions=[(0.0, 0.0, z) for z in (0.0, 2.5, 5, 10, 12.5)]
    )
    stack = stack_of(tmp_path, planned, dd.Policy(gap="repair"))

    with counting_opens() as count:
        dd.read_volume(stack)

    assert count[str(path)] == 1


FEW_DESCRIPTORS = """
import resource, sys
import numpy as np
import dicomdata as dd

(stack,) = dd.plan_stacks(dd.scan(sys.argv[1], progress=False)).stacks
whole = dd.read_volume(stack)
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
held = [open("/dev/null") for _ in range(20)]
resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1].fileno() + 1, most))
held.pop().close()
print(np.array_equal(dd.read_volume(stack).voxels, whole.voxels))
"""


def test_one_descriptor_is_enough(tmp_path: Path) -> None:
    write_series(tmp_path, shape=(50, 4, 4))

    done = subprocess.run(
        [sys.executable, "-c", FEW_DESCRIPTORS, tmp_path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout.split() == ["True"]


# --- reads ----------------------------------------------------------------------------------------


def place_of(buffers: Any) -> tuple[int, int]:
    """Give the address and the length of the one buffer that is read into."""
    (buffer,) = buffers
    return np.frombuffer(buffer, "u1").ctypes.data, memoryview(buffer).nbytes


def test_native_frames_are_read_once_each_and_no_more_than_their_band(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path, shape=(6, 16, 16))
    stack = stack_of(tmp_path, planned)
    preadv, reads = os.preadv, []

    def counted(descriptor: int, buffers: Any, offset: int, *flags: int) -> int:
        reads.append(place_of(buffers)[1])
        return preadv(descriptor, buffers, offset, *flags)

    monkeypatch.setattr(os, "preadv", counted)
    dd.read_volume(stack, dd.Region(rows=slice(2, 6)))

    # One that has to wait for the disk is told so first, and asks again.
    assert set(reads) == {4 * 16 * 2}
    assert 6 <= len(reads) <= 7


def test_native_frames_are_read_into_the_same_half_mebibyte(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four bands of rows fit in it: of 256 columns, few become float32.
    write_series(tmp_path, stored=np.zeros((20, 256, 256), "u2"))
    stack = stack_of(tmp_path, planned)
    preadv, places = os.preadv, set()

    def counted(descriptor: int, buffers: Any, offset: int, *flags: int) -> int:
        places.add(place_of(buffers)[0])
        return preadv(descriptor, buffers, offset, *flags)

    monkeypatch.setattr(os, "preadv", counted)
    dd.read_volume(stack, dd.Region(columns=slice(7, 20)))

    assert len(places) == 4
    assert max(places) - min(places) == 3 * 2**17


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="the system does not tell")
def test_of_what_is_in_memory_nothing_is_asked(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path, shape=(40, 16, 16))
    stack = stack_of(tmp_path, planned)
    preadv, asked = os.preadv, []

    def warm(descriptor: int, buffers: Any, offset: int, *_flags: int) -> int:
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", warm)
    monkeypatch.setattr(os, "posix_fadvise", lambda *details: asked.append(details))
    dd.read_volume(stack)

    assert not asked


NO_NOWAIT = [BlockingIOError(errno.EAGAIN, ""), OSError(errno.EOPNOTSUPP, "")]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice")
@pytest.mark.parametrize("cold", [*NO_NOWAIT, 5])
def test_a_cold_disk_is_asked_for_exactly_what_will_be_read_and_before_its_turn(
    cold: OSError | int, tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path, shape=(40, 16, 16))
    stack = stack_of(tmp_path, planned)
    preadv, events = os.preadv, []

    def asked(_descriptor: int, offset: int, length: int, _advice: int) -> None:
        events.append(("asked", offset, length))

    def counted(descriptor: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags:
            if isinstance(cold, int):
                return cold  # no more than so many bytes are in memory
            raise cold
        events.append(("read", offset, memoryview(buffers[0]).nbytes))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "posix_fadvise", asked)
    monkeypatch.setattr(os, "preadv", counted)
    dd.read_volume(stack, dd.Region(rows=slice(2, 6)))

    asks = [event[1:] for event in events if event[0] == "asked"]
    reads = [event[1:] for event in events if event[0] == "read"]
    assert asks == reads
    assert len(reads) == 40
    # Before the n-th read, n + 15 more frames were asked for, as long as there are any.
    for number, place in enumerate(k for k, event in enumerate(events) if event[0] == "read"):
        assert place - number == min(number + 16, 40)


def test_a_disk_that_gets_cold_is_asked_from_there_on(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_series(tmp_path, shape=(40, 16, 16))
    stack = stack_of(tmp_path, planned)
    opens = {path.stat().st_ino: number for number, path in enumerate(paths)}
    preadv, asked = os.preadv, []

    def counted(descriptor: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags and opens[os.fstat(descriptor).st_ino] >= 10:
            raise BlockingIOError(errno.EAGAIN, "")
        return preadv(descriptor, buffers, offset)

    def advised(descriptor: int, *_: int) -> None:
        asked.append(opens[os.fstat(descriptor).st_ino])

    monkeypatch.setattr(os, "preadv", counted)
    monkeypatch.setattr(os, "posix_fadvise", advised)
    voxels = dd.read_volume(stack).voxels

    assert asked == list(range(10, 40))
    monkeypatch.undo()
    np.testing.assert_array_equal(voxels, dd.read_volume(stack).voxels)


def test_a_deflated_file_of_many_frames_is_inflated_once(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_enhanced(
        tmp_path, shape=(9, 4, 4), transfer_syntax_uid=uid.DeflatedExplicitVRLittleEndian
    )
    stack = stack_of(tmp_path, planned)
    decompressobj, inflated = zlib.decompressobj, []

    def counted(*options: Any) -> Any:
        inflated.append(options)
        return decompressobj(*options)

    monkeypatch.setattr(zlib, "decompressobj", counted)
    volume = dd.read_volume(stack)

    assert len(inflated) == 1
    expected = pydicom.dcmread(path).pixel_array - 1024.0
    np.testing.assert_array_equal(volume.voxels, expected)


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "options"),
    [
        pytest.param({}, {}, id="float32"),
        pytest.param({}, {"dtype": np.int16}, id="int16"),
        pytest.param({"bits_stored": 12}, {"dtype": np.int16}, id="12 bits as int16"),
        pytest.param({"slope": 2}, {"dtype": np.int16}, id="slope 2 as int16"),
        pytest.param({"bits_stored": 12}, {}, id="12 bits"),
        pytest.param({"slope": "1.5"}, {}, id="a fractional slope"),
        pytest.param({"pixel_padding_value": 1000}, {}, id="padding"),
        pytest.param({"pixel_padding_value": 1000}, {"dtype": np.int16}, id="padding as int16"),
        pytest.param({}, {"window": (-1000, 400)}, id="window"),
        pytest.param({"transfer_syntax_uid": uid.JPEGLSLossless}, {"workers": 1}, id="JPEG-LS"),
        pytest.param({"transfer_syntax_uid": uid.RLELossless}, {"workers": 2}, id="RLE, 2 threads"),
        pytest.param({"transfer_syntax_uid": uid.ExplicitVRBigEndian}, {}, id="big endian"),
    ],
)
def test_there_is_no_second_copy_of_the_volume(
    header: dict[str, Any], options: dict[str, Any], tmp_path: Path, planned: Planned
) -> None:
    # A tenth of it is far above what threads and a few frames take, however they are scheduled.
    stored = np.random.default_rng(0).integers(900, 2000, (2, 256, 256)).astype("u2")
    write_series(tmp_path, stored=np.tile(stored, (40, 1, 1)), **header)
    stack = stack_of(tmp_path, planned)
    dd.read_volume(stack, **options)  # imports what it needs

    tracemalloc.start()
    volume = dd.read_volume(stack, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak <= 1.1 * volume.voxels.nbytes


# --- threads --------------------------------------------------------------------------------------


def scene(slices: int = 6) -> NDArray[np.uint16]:
    """Slices of waves, each another, which every codec makes smaller."""
    k, rows, columns = np.mgrid[:slices, :32, :32]
    waves: NDArray[np.float64] = 1000 + 100 * k + 50 * np.sin(rows / 5) + columns
    return waves.astype(np.uint16)


@pytest.mark.parametrize("workers", [None, 1, 2, 5])
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_any_number_of_threads_gives_the_same_voxels(
    syntax: str, workers: int | None, tmp_path: Path, planned: Planned
) -> None:
    stored = scene()
    write_series(
        tmp_path, stored=stored, bits_stored=12, transfer_syntax_uid=syntax,
        slope=Each(*range(1, 7)),
    )  # fmt: skip
    stack = stack_of(tmp_path, planned)

    volume = dd.read_volume(stack, workers=workers)
    box = dd.read_volume(stack, dd.Region(slice(1, 5), slice(3, 9), slice(4, 5)), workers=workers)

    slopes = np.arange(1, 7)[:, None, None]
    np.testing.assert_array_equal(volume.voxels, stored * slopes - 1024.0)
    np.testing.assert_array_equal(box.voxels, volume.voxels[1:5, 3:9, 4:5])


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("fill", ["air", "interpolate"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEGLSLossless])
def test_a_repaired_stack_is_the_same_on_any_number_of_threads(
    syntax: str, fill: Any, workers: int, tmp_path: Path, planned: Planned
) -> None:
    stored = scene(7)
    depths = [0, 2.5, 5, 7.5, 15, 17.5, 20]
    paths = write_series(
        tmp_path, stored=stored, transfer_syntax_uid=syntax,
        positions=[(0.0, 0.0, z) for z in depths],
    )  # fmt: skip
    stack = stack_of(tmp_path, planned, dd.Policy(gap="repair", fill=fill))
    threads = threading.active_count()

    with counting_opens() as count:
        volume = dd.read_volume(stack, workers=workers)

    measured = stored - 1024.0
    between = measured[3] + (measured[4] - measured[3]) * np.array([1, 2])[:, None, None] / 3
    expected = between if fill == "interpolate" else np.full_like(between, -1024)
    np.testing.assert_array_equal(volume.voxels[[0, 1, 2, 3, 6, 7, 8]], measured)
    np.testing.assert_allclose(volume.voxels[4:6], expected, rtol=1e-5)
    assert [count[str(path)] for path in paths] == [1] * 7
    assert threading.active_count() == threads


@pytest.mark.parametrize("workers", [1, 3])
def test_slices_of_several_encodings_keep_their_order(
    workers: int, tmp_path: Path, planned: Planned
) -> None:
    # Plain words are read into the same memory: they are written before the next ones are.
    stored = scene(9)
    plain, packed = uid.ExplicitVRLittleEndian, uid.RLELossless
    write_series(
        tmp_path, stored=stored, bits_stored=12,
        transfer_syntax_uid=Each(plain, plain, plain, packed, plain, packed, packed, plain, plain),
    )  # fmt: skip
    stack = stack_of(tmp_path, planned)

    volume = dd.read_volume(stack, workers=workers)

    np.testing.assert_array_equal(volume.voxels, stored - 1024.0)


@pytest.mark.parametrize("workers", [1, 2])
def test_compressed_frames_are_decoded_on_threads_that_end_with_the_call(
    workers: int, tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path, stored=scene(), transfer_syntax_uid=uid.JPEGLSLossless)
    stack = stack_of(tmp_path, planned)
    jpegls_decode, decoding = imagecodecs.jpegls_decode, set()
    together = threading.Barrier(workers, timeout=30)

    def watched(encoded: bytes) -> Any:
        decoding.add(threading.get_ident())
        together.wait()  # breaks unless as many decode at once
        return jpegls_decode(encoded)

    monkeypatch.setattr(imagecodecs, "jpegls_decode", watched)
    before = threading.active_count()
    dd.read_volume(stack, workers=workers)

    assert len(decoding) == workers
    assert threading.get_ident() in decoding
    assert threading.active_count() == before


def test_a_small_box_of_plain_words_starts_no_thread(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path)
    stack = stack_of(tmp_path, planned)
    monkeypatch.setattr(threading.Thread, "start", None)

    assert dd.read_volume(stack, workers=4).voxels.shape == stack.shape


@pytest.mark.parametrize(("workers", "more"), [(1, 0), (2, 1), (4, 1)])
def test_a_thread_reads_at_least_16_mebibytes_of_plain_words(
    workers: int, more: int, tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = np.random.default_rng(0).integers(0, 2**12, (2, 256, 256)).astype("u2")
    paths = write_series(tmp_path, stored=np.tile(stored, (72, 1, 1)), slope=Each(*[1, 2, 3] * 48))
    stack = stack_of(tmp_path, planned)  # 36 MiB of float32
    start, started = threading.Thread.start, []

    def counted(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", counted)

    with counting_opens() as count:
        voxels = dd.read_volume(stack, workers=workers).voxels

    # Besides the one that asks.
    assert len(started) == more
    assert [count[str(path)] for path in paths] == [1] * 144
    slopes = np.tile([1, 2, 3], 48)[:, None, None]
    np.testing.assert_array_equal(voxels, np.tile(stored, (72, 1, 1)) * slopes - 1024.0)


@pytest.mark.parametrize("workers", [0, -1])
def test_no_threads_at_all_are_refused(workers: int, tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path)
    stack = stack_of(tmp_path, planned)

    with pytest.raises(ValueError, match=f"workers must be 1 or more, got {workers}"):
        dd.read_volume(stack, workers=workers)


def test_as_many_threads_as_processors_and_never_more_than_4(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for processors in (1, 3, 64):
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda _, n=processors: set(range(n)), raising=False
        )

        assert thread_count(None) == min(processors, 4)
        assert thread_count(7) == 7


class ThreadCounts:
    """A dataset of how many threads would decode."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return thread_count(None)


def test_a_worker_of_a_dataloader_decodes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.data import DataLoader

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    counts: Any = ThreadCounts()

    assert [int(batch) for batch in DataLoader(counts, num_workers=1)] == [1, 1]
    assert [int(batch) for batch in DataLoader(counts)] == [4, 4]


@contextmanager
def plain_fork() -> Iterator[int]:
    child = os.fork()
    yield child
    if child:
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_forked_after_a_call_decodes_on_threads_of_its_own(
    tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path, stored=scene(), transfer_syntax_uid=uid.JPEGLSLossless)
    stack = stack_of(tmp_path, planned)
    whole = dd.read_volume(stack, workers=2).voxels

    with plain_fork() as child:
        if not child:
            same = np.array_equal(dd.read_volume(stack, workers=2).voxels, whole)
            os._exit(0 if same else 1)


# --- errors ---------------------------------------------------------------------------------------


def spoil(path: Path) -> None:
    """Put noise in place of a compressed frame, so that it is refused before it is decoded."""
    write_fragments(path, [b"\0" * 64], uid.JPEGLSLossless)


def cut(path: Path) -> None:
    """Cut a compressed frame short and end it, so that it is refused when it is decoded."""
    encoded = bytes(imagecodecs.jpegls_encode(scene(1)[0]))
    write_fragments(path, [encoded[: len(encoded) // 2] + b"\xff\xd9"], uid.JPEGLSLossless)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({2: cut, 4: spoil}, id="decoding fails first"),
        pytest.param({2: spoil, 4: cut}, id="reading fails first"),
        pytest.param({2: cut, 3: cut, 4: cut, 5: cut}, id="many fail"),
        pytest.param({5: cut}, id="the last fails"),
        pytest.param({0: spoil}, id="the first fails"),
    ],
)
def test_the_first_error_is_that_of_the_first_slice(
    damage: dict[int, Callable[[Path], None]], workers: int, tmp_path: Path, planned: Planned
) -> None:
    paths = write_series(tmp_path, stored=scene(), transfer_syntax_uid=uid.JPEGLSLossless)
    for number, spoils in damage.items():
        spoils(paths[number])
    stack = stack_of(tmp_path, planned)

    with pytest.raises(dd.PixelError) as caught:
        dd.read_volume(stack, workers=workers)

    assert str(paths[min(damage)]) in str(caught.value)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_first_error_of_a_repaired_stack_is_that_of_its_first_slice(
    workers: int, tmp_path: Path, planned: Planned
) -> None:
    paths = write_series(
        tmp_path, stored=scene(), transfer_syntax_uid=uid.JPEGLSLossless,
        positions=[(0.0, 0.0, z) for z in (0, 2.5, 5, 10, 12.5, 15)],
    )  # fmt: skip
    for path in (paths[2], paths[3], paths[5]):
        cut(path)
    spoil(paths[4])
    stack = stack_of(tmp_path, planned, dd.Policy(gap="repair"))
    files = len(os.listdir("/dev/fd"))

    with pytest.raises(dd.PixelError, match=str(paths[2])):
        dd.read_volume(stack, workers=workers)

    assert len(os.listdir("/dev/fd")) == files


def test_of_slices_that_are_read_together_the_first_that_does_not_fit_is_named(
    tmp_path: Path, planned: Planned
) -> None:
    stored = np.full((9, 4, 4), 1000, "u2")
    stored[[3, 5], 2, 1] = 60000
    paths = write_series(tmp_path, stored=stored)
    stack = stack_of(tmp_path, planned)

    with pytest.raises(dd.RescaleError, match=f"{paths[3]}: outputs from -24 to 58976 do not fit"):
        dd.read_volume(stack, dtype=np.int16)

    assert dd.read_volume(stack, dd.Region(slice(0, 3)), dtype=np.int16).voxels.max() == -24


@pytest.mark.unaccounted
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEGLSLossless])
def test_a_file_that_is_gone_is_told_when_its_turn_comes(
    syntax: str, tmp_path: Path, planned: Planned
) -> None:
    # Both were asked for before the first slice was read.
    paths = write_series(tmp_path, stored=scene(), transfer_syntax_uid=syntax)
    stack = stack_of(tmp_path, planned)
    paths[4].unlink()
    paths[2].write_bytes(b"another")

    with pytest.raises(dd.StaleError) as stale:
        dd.read_volume(stack)
    with pytest.raises(dd.FileError) as gone:
        dd.read_volume(stack, dd.Region(slices=slice(3, None)))

    assert str(paths[2]) in str(stale.value)
    assert str(paths[4]) in str(gone.value)
    assert dd.read_volume(stack, dd.Region(slices=slice(0, 2))).voxels.shape == (2, 32, 32)


@pytest.mark.unaccounted
def test_a_file_that_changes_between_two_of_its_frames_is_stale(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_enhanced(tmp_path, shape=(5, 4, 4))
    stack = stack_of(tmp_path, planned)
    preadv = os.preadv

    def read_and_change(*arguments: Any) -> int:
        count = preadv(*arguments)
        with path.open("ab") as file:
            file.write(b"\0\0")
        return count

    monkeypatch.setattr(os, "preadv", read_and_change)

    with pytest.raises(dd.StaleError, match=str(path)):
        dd.read_volume(stack)


def test_memory_of_one_reader_is_not_that_of_another(tmp_path: Path) -> None:
    paths = write_series(tmp_path, shape=(2, 4, 4))
    first, second = (dd.read_instance(path).frames[0] for path in paths)

    with FrameReader([first]) as one, FrameReader([second]) as other:
        stored = one.read([first])()
        before = stored.copy()
        other.read([second])

        np.testing.assert_array_equal(stored, before)


def test_a_frame_of_another_size_is_stale_however_its_file_is_open(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, shape=(1, 4, 4))
    (frame,) = dd.read_instance(path).frames

    with FrameReader() as reader:
        reader.read([frame])
        with pytest.raises(dd.StaleError, match=str(path)):
            reader.read([replace(frame, mtime_ns=frame.mtime_ns - 1)])

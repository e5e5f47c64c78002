"""Encapsulated Pixel Data: which fragments are whose, with tables of offsets, without, or odd."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread, uid

import dicomdata as dd
from dicomdata.pixels import read_stored
from dicomdata.testing.encoding import write_fragments
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WORDS = np.random.default_rng(0).integers(0, 2**16, (3, 16, 16)).astype("u2")

DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"


def encode(words: NDArray[Any]) -> bytes:
    """Encode to an even number of bytes, as fragments should have."""
    encoded = bytes(imagecodecs.jpeg2k_encode(words, level=0, codecformat="j2k", reversible=True))
    return encoded + b"\0" * (len(encoded) % 2)


FRAMES = [encode(plane) for plane in WORDS]


def halves(frame: bytes) -> list[bytes]:
    middle = len(frame) // 4 * 2
    return [frame[:middle], frame[middle:]]


def write_frames(
    folder: Path, fragments: list[bytes], syntax: str = uid.JPEG2000Lossless, **options: Any
) -> Path:
    """Write a file of three frames of 16 x 16 in these fragments."""
    (path,) = write_series(folder, stored=np.zeros((1, 16, 16), "u2"))
    write_fragments(path, fragments, syntax, **{"NumberOfFrames": 3, **options})
    return path


def read_all(path: Path) -> NDArray[Any]:
    return np.array([read_stored(frame) for frame in dd.read_instance(path).frames])


def offsets(frames: list[list[bytes]]) -> list[int]:
    """Where the first fragment of each frame begins, item headers counted."""
    lengths = [sum(8 + len(fragment) for fragment in frame) for frame in frames]
    return [sum(lengths[:number]) for number in range(len(lengths))]


SPLIT = [halves(FRAMES[0]), [FRAMES[1]], halves(FRAMES[2])]
PIECES = [fragment for frame in SPLIT for fragment in frame]


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        pytest.param([], id="empty"),
        pytest.param(offsets(SPLIT), id="right"),
        pytest.param(None, id="left out"),
        pytest.param([0, 0, 0], id="of zeros"),
        pytest.param([0, 10, 20], id="beside the fragments"),
        pytest.param([0, 4_000_000_000, 4_100_000_000], id="beyond the file"),
        pytest.param([0, 100], id="too short"),
    ],
)
@pytest.mark.parametrize("split", [True, False])
def test_frames_are_found_with_a_table_or_without(
    split: bool, table: list[int] | None, tmp_path: Path
) -> None:
    path = write_frames(tmp_path, PIECES if split else FRAMES, table=table)

    np.testing.assert_array_equal(read_all(path), WORDS)


def test_an_extended_table_says_where_frames_begin(tmp_path: Path) -> None:
    # RLE has no mark by which a frame's first fragment could be told from its others.
    planes = [plane.astype(">u2").view("u1").reshape(256, 2).T for plane in WORDS]
    literal = [[b"\x7f" + part.tobytes() for part in plane.reshape(4, 128)] for plane in planes]
    encoded = [
        struct.pack("<16L", 2, 64, 64 + 258, *[0] * 13) + b"".join(parts) for parts in literal
    ]
    split = [halves(encoded[0]), [encoded[1]], halves(encoded[2])]
    pieces = [fragment for frame in split for fragment in frame]
    table = struct.pack("<3Q", *offsets(split))
    lengths = struct.pack("<3Q", *map(len, encoded))

    path = write_frames(
        tmp_path,
        pieces,
        uid.RLELossless,
        ExtendedOffsetTable=table,
        ExtendedOffsetTableLengths=lengths,
    )
    untold = write_frames(tmp_path / "untold", pieces, uid.RLELossless)

    np.testing.assert_array_equal(read_all(path), WORDS)
    with pytest.raises(dd.HeaderError, match=r"\(0028,0008\) is 3, and the fragments"):
        read_all(untold)


# --- numbers that do not fit ----------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4, 1000])
@pytest.mark.parametrize("table", [[], offsets([[frame] for frame in FRAMES])])
def test_another_number_of_frames_than_there_are_images_is_refused(
    table: list[int], count: int, tmp_path: Path
) -> None:
    path = write_frames(tmp_path, FRAMES, table=table, NumberOfFrames=count)

    with pytest.raises(dd.HeaderError, match=r"\(0028,0008\)") as caught:
        read_all(path)

    assert str(path) in str(caught.value)


def test_one_frame_of_three_images_is_refused(tmp_path: Path) -> None:
    path = write_frames(tmp_path, FRAMES, NumberOfFrames=1)

    with pytest.raises(dd.PixelError, match="another image begins"):
        read_all(path)


def test_no_fragment_at_all_is_refused(tmp_path: Path) -> None:
    path = write_frames(tmp_path, [], NumberOfFrames=1)

    with pytest.raises((dd.PixelError, dd.HeaderError), match=str(path)):
        read_all(path)


# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_a_missing_delimiter_at_the_end_of_the_file_is_not_missed(
    count: int, tmp_path: Path
) -> None:
    path = write_frames(tmp_path, FRAMES[:count], NumberOfFrames=count)
    content = path.read_bytes()
    assert content.endswith(DELIMITER)
    path.write_bytes(content.removesuffix(DELIMITER))

    np.testing.assert_array_equal(read_all(path), WORDS[:count])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("lost", [9, 40, 200])
def test_a_file_that_ends_within_its_last_fragment_is_refused(
    lost: int, count: int, tmp_path: Path
) -> None:
    path = write_frames(tmp_path, FRAMES[:count], NumberOfFrames=count)
    path.write_bytes(path.read_bytes()[:-lost])

    with pytest.raises(dd.PixelError, match=str(path)):
        read_all(path)


def test_elements_behind_the_pixels_are_no_pixels(tmp_path: Path) -> None:
    path = write_frames(tmp_path, FRAMES)
    header = dcmread(path)
    header.add_new(0xFFFCFFFC, "OB", bytes(1000))
    header.save_as(path)

    np.testing.assert_array_equal(read_all(path), WORDS)


@pytest.mark.parametrize("count", [1, 3])
def test_fragments_of_odd_length_are_read(count: int, tmp_path: Path) -> None:
    odd = [frame.rstrip(b"\0") for frame in FRAMES]
    odd = [frame if len(frame) % 2 else frame + b"\0" for frame in odd]
    path = write_frames(tmp_path, odd[:count], NumberOfFrames=count)

    np.testing.assert_array_equal(read_all(path), WORDS[:count])


def test_an_empty_fragment_is_no_frame(tmp_path: Path) -> None:
    path = write_frames(tmp_path, [FRAMES[0], b"", FRAMES[1], FRAMES[2]])

    np.testing.assert_array_equal(read_all(path), WORDS)


def test_a_frame_that_lost_a_fragment_is_refused(tmp_path: Path) -> None:
    path = write_frames(tmp_path, [halves(FRAMES[0])[0], FRAMES[1], FRAMES[2]])

    with pytest.raises(dd.PixelError, match=str(path)):
        read_all(path)

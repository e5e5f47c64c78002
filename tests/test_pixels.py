"""Words to stored values: bits, signs, encodings, and streams that lie (PS3.5 8 and A)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

import dicomdata as dd
from dicomdata.pixels import read_stored
from dicomdata.testing.phantoms import write_series
from dicomdata.testing.strategies import LOSSLESS, NATIVE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LOSSY = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.HTJ2K,
)


def write_one(folder: Path, words: NDArray[Any], **changes: Any) -> Path:
    """Write one slice of the given words."""
    return write_series(folder, stored=words[None], **changes)[0]


def stored_values(path: Path, rows: range | None = None) -> NDArray[Any]:
    (frame,) = dd.read_instance(path).frames
    return read_stored(frame, rows)


def smooth(dtype: str, *, bits: int) -> NDArray[Any]:
    """A picture of 16 x 16 that codecs like, with both ends of what `bits` can hold."""
    low = -(2 ** (bits - 1)) if dtype.startswith("i") else 0
    picture = np.arange(256).reshape(16, 16) * (2**bits - 1) // 255
    words: NDArray[Any] = (low + picture).astype(dtype)
    return words


# --- bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "options", "expected"),
    [
        pytest.param(
            [0xF3E8], {"bits_stored": 12}, [1000], id="R11 garbage above the bits stored"
        ),
        pytest.param(
            [0x0FFF, 0x0800, 0x07FF, 0xF001],
            {"bits_stored": 12, "signed": True},
            [-1, -2048, 2047, 1],
            id="R12 signed 12 bits",
        ),
        pytest.param(
            [0x3E80, 0x3E8F], {"bits_stored": 12, "high_bit": 15}, [1000, 1000],
            id="R13 high bit 15",
        ),
        pytest.param(
            [0x8000, 0x7FF0], {"bits_stored": 12, "high_bit": 15, "signed": True}, [-2048, 2047],
            id="signed at high bit 15",
        ),
        pytest.param([0x13E8], {"bits_stored": 12}, [1000], id="R14 an overlay in bit 12"),
        pytest.param([63536], {"signed": True}, [-2000], id="P1 signed 16 bits"),
        pytest.param([0xFF], {"bits_stored": 1}, [1], id="one bit of a word"),
    ],
)  # fmt: skip
def test_stored_values_are_the_bits_stored_and_their_sign(
    words: list[int], options: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    path = write_one(tmp_path, np.array([words], "u2"), **options)

    stored = stored_values(path)

    assert stored.tolist() == [expected]


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_every_native_width_in_every_byte_order(dtype: str, syntax: str, tmp_path: Path) -> None:
    ends = np.iinfo(dtype)
    words = np.array([[ends.min, 0, 1], [2, 100, ends.max]], dtype)
    path = write_one(tmp_path, words, transfer_syntax_uid=syntax)

    stored = stored_values(path)

    np.testing.assert_array_equal(stored, words)
    assert stored.dtype == np.dtype(dtype)


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS])
def test_a_band_of_rows_is_a_part_of_the_whole(syntax: str, tmp_path: Path) -> None:
    words = smooth("u2", bits=12)
    path = write_one(tmp_path, words, bits_stored=12, transfer_syntax_uid=syntax)

    stored = stored_values(path, range(3, 9))

    np.testing.assert_array_equal(stored, words[3:9])


def test_a_frame_of_odd_length_is_read_without_its_padding_byte(tmp_path: Path) -> None:
    words = np.arange(15, dtype="u1").reshape(3, 5)

    assert stored_values(write_one(tmp_path, words)).tolist() == words.tolist()


# --- big endian -----------------------------------------------------------------------------------


def write_big_endian_bytes(
    folder: Path, pixels: NDArray[Any], representation: str, frames: int = 1
) -> Path:
    """Write 8-bit pixels as Explicit VR Big Endian, in bytes (OB) or in words (OW, PS3.5 A.3)."""
    path = write_one(folder, pixels[0], transfer_syntax_uid=uid.ExplicitVRBigEndian)
    header = pydicom.dcmread(path)
    content = pixels.tobytes() + b"\0" * (pixels.size % 2)
    if representation == "OW":
        content = np.frombuffer(content, "<u2").astype(">u2").tobytes()
    header["PixelData"].VR = representation
    header.PixelData = content
    if frames > 1:
        header.NumberOfFrames = frames
    header.save_as(path)
    return path


@pytest.mark.parametrize("representation", ["OB", "OW"])
@pytest.mark.parametrize("shape", [(4, 6), (3, 5), (1, 1)])
def test_bytes_in_big_endian_words_lie_in_pairs(
    shape: tuple[int, int], representation: str, tmp_path: Path
) -> None:
    pixels = np.arange(1, 1 + np.prod(shape), dtype="u1").reshape(1, *shape)
    path = write_big_endian_bytes(tmp_path, pixels, representation)

    np.testing.assert_array_equal(stored_values(path), pixels[0])
    np.testing.assert_array_equal(stored_values(path), pydicom.dcmread(path).pixel_array)
    np.testing.assert_array_equal(stored_values(path, range(1, shape[0])), pixels[0, 1:])


@pytest.mark.parametrize("representation", ["OB", "OW"])
def test_pairs_go_across_frames_of_odd_length(representation: str, tmp_path: Path) -> None:
    pixels = np.arange(45, dtype="u1").reshape(3, 3, 5)
    path = write_big_endian_bytes(tmp_path, pixels, representation, frames=3)

    frames = dd.read_instance(path).frames

    np.testing.assert_array_equal([read_stored(frame) for frame in frames], pixels)
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, pixels)
    np.testing.assert_array_equal(read_stored(frames[1], range(1, 3)), pixels[1, 1:])


def test_a_catalog_remembers_which_bytes_lie_in_pairs(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype="u1").reshape(1, 4, 6)
    write_big_endian_bytes(tmp_path / "files", pixels, "OW")
    dd.scan(tmp_path / "files", catalog=tmp_path / "a.catalog", progress=False)

    (series,) = dd.open_catalog(tmp_path / "a.catalog").series

    np.testing.assert_array_equal(read_stored(series.frames[0]), pixels[0])


# --- deflated -------------------------------------------------------------------------------------


def test_deflated_words_twice_as_many_as_the_header_says_are_refused(tmp_path: Path) -> None:
    syntax = uid.DeflatedExplicitVRLittleEndian
    path = write_one(tmp_path, smooth("u2", bits=12), transfer_syntax_uid=syntax)
    header = pydicom.dcmread(path)
    header.Rows = 8
    header.save_as(path)

    with pytest.raises((dd.PixelError, dd.HeaderError), match=str(path)):
        stored_values(path)


def test_deflated_frames_are_told_apart(tmp_path: Path) -> None:
    syntax = uid.DeflatedExplicitVRLittleEndian
    words = np.arange(90, dtype="u2").reshape(3, 5, 6)
    path = write_one(tmp_path, words[0], transfer_syntax_uid=syntax)
    header = pydicom.dcmread(path)
    header.NumberOfFrames, header.PixelData = 3, words.tobytes()
    header.save_as(path)

    frames = dd.read_instance(path).frames

    np.testing.assert_array_equal([read_stored(frame) for frame in frames], words)


# --- frames that are none -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "element"),
    [
        ({"samples_per_pixel": 3}, "Samples per Pixel (0028,0002)"),
        ({"bits_allocated": 1, "bits_stored": 1, "high_bit": 0}, "Bits Allocated (0028,0100)"),
        ({"bits_allocated": 64}, "Bits Allocated (0028,0100)"),
        ({"bits_stored": 17}, "Bits Stored 17"),
        ({"high_bit": 10}, "High Bit 10"),
        ({"rows": 0}, "0 x 16"),
    ],
)
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_a_header_that_makes_no_sense_is_refused_before_anything_is_read(
    changes: dict[str, Any], element: str, syntax: str, tmp_path: Path
) -> None:
    path = write_one(tmp_path, smooth("u2", bits=12), bits_stored=12, transfer_syntax_uid=syntax)
    (frame,) = dd.read_instance(path).frames

    with pytest.raises(dd.PixelError) as caught:
        read_stored(replace(frame, kind=replace(frame.kind, **changes)))

    assert str(path) in str(caught.value)
    assert element in str(caught.value)


# --- codecs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize(
    ("dtype", "bits"), [("u1", 8), ("u2", 12), ("u2", 16), ("i2", 12), ("i2", 16)]
)
def test_a_lossless_codec_gives_every_bit_back(
    dtype: str, bits: int, syntax: str, tmp_path: Path
) -> None:
    words = smooth(dtype, bits=bits)
    path = write_one(tmp_path, words, bits_stored=bits, transfer_syntax_uid=syntax)

    stored = stored_values(path)

    np.testing.assert_array_equal(stored, words)
    assert stored.dtype == np.dtype(dtype)


@pytest.mark.parametrize("syntax", LOSSY)
def test_a_lossy_codec_stays_near_and_is_known_as_lossy(syntax: str, tmp_path: Path) -> None:
    bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
    words = smooth("u1" if bits == 8 else "u2", bits=bits)
    path = write_one(tmp_path, words, bits_stored=bits, transfer_syntax_uid=syntax)

    stored = stored_values(path)

    off = np.abs(stored.astype(int) - words.astype(int)).max()
    assert off <= 2**bits // 16
    assert dd.read_instance(path).frames[0].kind.lossy


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_a_frame_in_several_fragments_is_put_together(syntax: str, tmp_path: Path) -> None:
    words = smooth("u2", bits=12)
    path = write_one(tmp_path, words, bits_stored=12, transfer_syntax_uid=syntax)
    header = pydicom.dcmread(path)
    (frame,) = generate_frames(header.PixelData, number_of_frames=1)
    header.PixelData = encapsulate([frame], fragments_per_frame=3, has_bot=False)
    header.save_as(path)

    stored = stored_values(path)

    np.testing.assert_array_equal(stored, words)


def test_an_unknown_encoding_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write_one(tmp_path, smooth("u2", bits=12), transfer_syntax_uid=uid.RLELossless)
    header = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    header.save_as(path, enforce_file_format=False)

    with pytest.raises(dd.PixelError, match=r"1\.2\.840\.10008\.1\.2\.4\.100") as caught:
        stored_values(path)

    assert str(path) in str(caught.value)


# --- streams that lie -----------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [*LOSSLESS, *LOSSY])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_a_stream_cut_short_never_decodes(kept: float, syntax: str, tmp_path: Path) -> None:
    bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
    words = smooth("u1" if bits == 8 else "u2", bits=bits)
    path = write_one(tmp_path, words, bits_stored=bits, transfer_syntax_uid=syntax)
    header = pydicom.dcmread(path)
    (frame,) = generate_frames(header.PixelData, number_of_frames=1)
    header.PixelData = encapsulate([frame[: int(len(frame) * kept) // 2 * 2]])
    header.save_as(path)

    with pytest.raises(dd.PixelError) as caught:
        stored_values(path)

    assert str(path) in str(caught.value)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_a_stream_of_another_size_than_the_header_says_is_refused(
    syntax: str, tmp_path: Path
) -> None:
    words = smooth("u2", bits=12)
    path = write_one(tmp_path, words, bits_stored=12, transfer_syntax_uid=syntax)
    header = pydicom.dcmread(path)
    header.Rows = 8
    header.save_as(path)

    with pytest.raises(dd.PixelError, match=r"16|128|256") as caught:
        stored_values(path)

    assert str(path) in str(caught.value)


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless])
def test_a_stream_of_more_bits_than_the_header_says_is_refused(syntax: str, tmp_path: Path) -> None:
    words = smooth("u2", bits=16)
    path = write_one(tmp_path, words, transfer_syntax_uid=syntax)
    header = pydicom.dcmread(path)
    header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
    header.save_as(path)

    with pytest.raises(dd.PixelError) as caught:
        stored_values(path)

    assert str(path) in str(caught.value)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_noise_in_place_of_a_stream_is_refused(syntax: str, tmp_path: Path) -> None:
    words = smooth("u2", bits=12)
    path = write_one(tmp_path, words, bits_stored=12, transfer_syntax_uid=syntax)
    header = pydicom.dcmread(path)
    noise = np.random.default_rng(0).bytes(510) + b"\xff\xd9"
    header.PixelData = encapsulate([noise])
    header.save_as(path)

    with pytest.raises(dd.PixelError) as caught:
        stored_values(path)

    assert str(path) in str(caught.value)


def test_words_fewer_than_rows_times_columns_are_refused(tmp_path: Path) -> None:
    path = write_one(tmp_path, smooth("u2", bits=12))
    header = pydicom.dcmread(path)
    header.Columns = 17
    header.save_as(path)

    with pytest.raises(dd.PixelError, match="512 bytes, expected 544") as caught:
        stored_values(path)

    assert str(path) in str(caught.value)
    assert "(7FE0,0010)" in str(caught.value)


def test_a_few_bytes_after_the_last_word_are_ignored(tmp_path: Path) -> None:
    words = smooth("u2", bits=12)
    path = write_one(tmp_path, words)
    header = pydicom.dcmread(path)
    header.PixelData += bytes(20)
    header.save_as(path)

    np.testing.assert_array_equal(stored_values(path), words)


def test_words_are_not_taken_for_fragments(tmp_path: Path) -> None:
    path = write_one(tmp_path, smooth("u2", bits=12), transfer_syntax_uid=uid.JPEG2000Lossless)
    content = path.read_bytes()
    at = content.index(b"\xe0\x7f\x10\x00")
    words = smooth("u2", bits=12).tobytes()
    path.write_bytes(
        content[:at] + b"\xe0\x7f\x10\x00OW\0\0" + len(words).to_bytes(4, "little") + words
    )

    with pytest.raises((dd.PixelError, dd.HeaderError), match=str(path)):
        stored_values(path)


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.HTJ2KLossless])
@pytest.mark.parametrize(("bits", "word"), [(16, 64536), (12, 0xC18)])
def test_a_sign_that_the_stream_does_not_know_is_that_of_the_header(
    bits: int, word: int, syntax: str, tmp_path: Path
) -> None:
    # R20: -1000 as an unsigned word in the codestream; decoders differ.
    words = np.full((16, 16), word, "u2")
    path = write_one(tmp_path, words, bits_stored=bits, signed=True, transfer_syntax_uid=syntax)

    assert np.unique(stored_values(path)).tolist() == [-1000]


def test_a_lossless_jpeg_that_wraps_around_gives_every_bit_back(tmp_path: Path) -> None:
    # R19: predictor 52 and difference -180 are 128, and not 0 or 255.
    words = np.random.default_rng(0).integers(0, 256, (16, 16)).astype("u1")
    words[:2, :2] = [[52, 128], [0, 255]]
    path = write_one(tmp_path, words, transfer_syntax_uid=uid.JPEGLosslessSV1)

    np.testing.assert_array_equal(stored_values(path), words)


def test_words_twice_as_many_as_the_header_says_are_refused(tmp_path: Path) -> None:
    # Half of them would look like a picture, and be none.
    path = write_one(tmp_path, smooth("u2", bits=12))
    header = pydicom.dcmread(path)
    header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
    header.save_as(path)

    with pytest.raises((dd.PixelError, dd.HeaderError), match=str(path)):
        stored_values(path)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_fragments_are_not_taken_for_words(syntax: str, tmp_path: Path) -> None:
    path = write_one(tmp_path, smooth("u2", bits=12), transfer_syntax_uid=syntax)
    header = pydicom.dcmread(path)
    header.PixelData = encapsulate([header.PixelData])
    header["PixelData"].is_undefined_length = True
    header.save_as(path)

    with pytest.raises((dd.PixelError, dd.HeaderError), match=str(path)):
        stored_values(path)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_floating_point_pixels_are_refused_or_right(dtype: str, tmp_path: Path) -> None:
    values = np.array([[0.5, -1.25], [1000, 3]], dtype)
    write_one(tmp_path, values, slope=1, intercept=0)

    plan = dd.plan_stacks(dd.scan(tmp_path, progress=False))

    assert plan.stacks or plan.outcomes[0].outcome == "rejected"
    for stack in plan.stacks:
        np.testing.assert_array_equal(dd.read_volume(stack).voxels[0], values)


@pytest.mark.parametrize("value", [None, 2])
def test_words_whose_sign_nobody_knows_are_refused(value: int | None, tmp_path: Path) -> None:
    path = write_one(tmp_path, smooth("u2", bits=12), extra={"PixelRepresentation": value})

    with pytest.raises(dd.HeaderError, match=r"Pixel Representation \(0028,0103\)"):
        stored_values(path)

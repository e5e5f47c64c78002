"""Compressed frames: every codec against others, and streams that contradict their header."""

from __future__ import annotations

import struct
import tracemalloc
from io import BytesIO
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its own name for itself
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.encaps import generate_frames

import dicomdata as dd
from dicomdata.pixels import read_stored
from dicomdata.pixels.huffman import took_all
from dicomdata.testing.encoding import write_fragments
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

LOSSLESS = (
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
)

LOSSY = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.HTJ2K,
)

PYDICOM_CANNOT = {uid.JPEGLossless, uid.JPEGLosslessSV1}
"""Without the plugins that are not free, or take the process down."""


def write_one(folder: Path, words: NDArray[Any], **changes: Any) -> Path:
    """Write one slice of the given words, rescaled by nothing."""
    return write_series(folder, stored=words[None], slope=1, intercept=0, **changes)[0]


def write_stream(folder: Path, encoded: bytes, syntax: str, **changes: Any) -> Path:
    """Write a file of 16 x 16 whose only fragment is a stream made elsewhere."""
    words = np.zeros((16, 16), changes.pop("dtype", "u2"))
    elements = {key: changes.pop(key) for key in tuple(changes) if key[0].isupper()}
    path = write_one(folder, words, **changes)
    write_fragments(path, [encoded], syntax, **elements)
    return path


def stored_values(path: Path) -> NDArray[Any]:
    (frame,) = dd.read_instance(path).frames
    return read_stored(frame)


def stream_of(path: Path) -> bytes:
    """Give the one compressed frame of a file."""
    (frame,) = generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1)
    return frame


def scene(bits: int, *, signed: bool = False, shape: tuple[int, int] = (32, 24)) -> NDArray[Any]:
    """Rings and a little noise, up to both ends of what `bits` can hold."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    rings = np.sin(np.hypot(rows - 9, columns - 4) / 2) / 2 + 0.5
    noise = np.random.default_rng(bits).normal(0, 0.01, shape)
    values = ((rings + noise).clip(0, 1) * (2**bits - 1)).astype(np.int64)
    low = -(2 ** (bits - 1)) if signed else 0
    words: NDArray[Any] = (values + low).astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")
    return words


# --- against others -------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 13, 16])
def test_a_lossless_codec_gives_what_went_in_and_what_pydicom_gets_out(
    bits: int, signed: bool, syntax: str, tmp_path: Path
) -> None:
    words = scene(bits, signed=signed)
    path = write_one(tmp_path, words, bits_stored=bits, transfer_syntax_uid=syntax)

    stored = stored_values(path)

    np.testing.assert_array_equal(stored, words)
    assert stored.dtype == words.dtype
    if syntax not in PYDICOM_CANNOT:
        np.testing.assert_array_equal(stored, pydicom.dcmread(path).pixel_array)


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (16, False), (16, True)])
def test_lossless_jpeg_of_any_predictor_equals_gdcm(
    bits: int, signed: bool, predictor: int, tmp_path: Path
) -> None:
    words = scene(bits, signed=signed)
    path = write_one(
        tmp_path,
        words,
        bits_stored=bits,
        transfer_syntax_uid=uid.JPEGLossless,
        compression={"predictor": predictor},
    )

    stored = stored_values(path)

    np.testing.assert_array_equal(stored, words)
    np.testing.assert_array_equal(stored, sitk.GetArrayFromImage(sitk.ReadImage(path))[0])


@pytest.mark.parametrize("syntax", LOSSY)
def test_a_lossy_codec_gives_what_pydicom_gets_out(syntax: str, tmp_path: Path) -> None:
    bits = 12 if syntax != uid.JPEGBaseline8Bit else 8
    words = scene(bits)
    path = write_one(tmp_path, words, bits_stored=bits, transfer_syntax_uid=syntax)

    stored = stored_values(path)

    if syntax == uid.JPEGExtended12Bit:  # of which pydicom reads 8 bits only
        expected = sitk.GetArrayFromImage(sitk.ReadImage(path))[0]
    else:
        # Lossy images may leave the range of 12 bits, and pydicom leaves them there.
        expected = pydicom.dcmread(path).pixel_array.clip(0, 2**bits - 1)
    # Decoders of one transform round it to 1 off the exact value; JPEG-LS decodes exactly.
    tolerance = 0 if syntax == uid.JPEGLSNearLossless else 2
    np.testing.assert_allclose(stored.astype(int), expected, atol=tolerance, rtol=0)
    assert 0 < np.abs(stored.astype(int) - words).max() <= 2**bits // 16


def test_extended_jpeg_of_8_bits_is_read(tmp_path: Path) -> None:
    words = scene(8)
    path = write_one(tmp_path, words, transfer_syntax_uid=uid.JPEGExtended12Bit)

    np.testing.assert_allclose(
        stored_values(path).astype(int), pydicom.dcmread(path).pixel_array, atol=2
    )


@pytest.mark.parametrize("near", [1, 3, 10])
@pytest.mark.parametrize("signed", [False, True])
def test_near_lossless_stays_as_near_as_it_says(signed: bool, near: int, tmp_path: Path) -> None:
    words = scene(12, signed=signed)
    if signed:
        # Near the ends a signed word could wrap around: encoders must keep away from them.
        words = words // 2
    path = write_one(
        tmp_path,
        words,
        bits_stored=12,
        transfer_syntax_uid=uid.JPEGLSNearLossless,
        compression={"jls_error": near},
    )

    off = np.abs(stored_values(path).astype(int) - words)

    if not signed:
        assert 0 < off.max() <= near
    np.testing.assert_array_equal(stored_values(path), pydicom.dcmread(path).pixel_array)


@given(
    syntax=st.sampled_from(LOSSLESS),
    bits=st.integers(8, 16),
    signed=st.booleans(),
    shape=st.tuples(st.integers(16, 20), st.integers(16, 20)),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_words_come_back_through_every_lossless_codec(
    syntax: str,
    bits: int,
    signed: bool,
    shape: tuple[int, int],
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # Noise costs more bits than plain words take, which pydicom's encoders refuse: half is flat.
    random = np.random.default_rng(seed)
    low = -(2 ** (bits - 1)) if signed else 0
    values = low + random.integers(0, 2**bits, shape)
    values[: shape[0] * 2 // 3] = values[0, 0]
    words = values.astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    folder = tmp_path_factory.mktemp("noise")
    path = write_one(folder, words, bits_stored=bits, transfer_syntax_uid=syntax)

    np.testing.assert_array_equal(stored_values(path), words)


def test_encoded_files_of_scanners_are_read_as_pydicom_reads_them(corpus: Path) -> None:
    read = set()
    for file in sorted(corpus.rglob("*")):
        try:
            frames = dd.read_instance(file).frames
        except (dd.DicomDataError, OSError):
            continue
        kind = frames[0].kind
        syntax = kind.transfer_syntax_uid
        if kind.native or kind.samples_per_pixel > 1 or (file.parent, syntax) in read:
            continue
        stored = np.array([read_stored(frame) for frame in frames])
        if syntax in PYDICOM_CANNOT:
            header = pydicom.dcmread(file, stop_before_pixels=True)
            slope, intercept = header.get("RescaleSlope", 1), header.get("RescaleIntercept", 0)
            expected = sitk.GetArrayFromImage(sitk.ReadImage(file))
            stored = stored * float(slope) + float(intercept)
        else:
            expected = np.reshape(pydicom.dcmread(file).pixel_array, stored.shape)
        np.testing.assert_array_equal(stored, expected, err_msg=str(file))
        read.add((file.parent, syntax))

    assert len({syntax for _, syntax in read}) >= 6


# --- lossless JPEG, by hand -----------------------------------------------------------------------


def lossless_jpeg(differences: list[list[int]], *, bits: int = 8, restart: int = 0) -> bytes:
    """Encode differences as they are given (ISO/IEC 10918-1 H), with codes of 5 bits for all."""
    bit_string, scans = "", []
    for count, row in enumerate(differences):
        if restart and count and count % restart == 0:
            scans.append(bit_string)
            bit_string = ""
        for difference in row:
            category = abs(difference).bit_length()
            low = difference if difference >= 0 else difference + 2**category - 1
            bit_string += f"{category:05b}" + (f"{low:0{category}b}" if category else "")
    scans.append(bit_string)
    content = b""
    for number, scan in enumerate(scans):
        padded = scan + "1" * (-len(scan) % 8)
        packed = int(padded, 2).to_bytes(len(padded) // 8).replace(b"\xff", b"\xff\0")
        content += packed + (bytes([0xFF, 0xD0 + number % 8]) if number + 1 < len(scans) else b"")
    rows, columns = len(differences), len(differences[0])
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])  # 17 codes of 5 bits
    segments = [
        (0xC4, table),
        (0xC3, struct.pack(">BHHBBBB", bits, rows, columns, 1, 1, 0x11, 0)),
        *([(0xDD, struct.pack(">H", restart * columns))] if restart else []),
        (0xDA, bytes([1, 1, 0, 1, 0, 0])),
    ]
    written = b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", 2 + len(body)) + body for marker, body in segments
    )
    return b"\xff\xd8" + written + content + b"\xff\xd9"


def test_a_difference_that_leaves_8_bits_wraps_around(tmp_path: Path) -> None:
    # R19: the prediction 52 and the difference -180 are 128: sums are modulo 2**16 (H.1.2.1), and
    # of those the lowest 8 bits are kept. The first prediction is 128.
    flat = [[0] * 16 for _ in range(15)]
    encoded = lossless_jpeg([[52 - 128, -180, *[0] * 14], *flat])
    path = write_stream(tmp_path, encoded, uid.JPEGLosslessSV1, dtype="u1")

    stored = stored_values(path)

    assert stored[0, :3].tolist() == [52, 128, 128]
    # In a row's first column the prediction is what stands above.
    assert (stored[1:] == 52).all()


def test_a_difference_of_half_the_range_needs_no_bits(tmp_path: Path) -> None:
    # Category 16 is the one difference 32768 (H.1.2.2), and no bits follow its code.
    path = write_one(tmp_path, np.zeros((16, 16), "u2"))
    words = np.zeros((16, 16), "u2")
    words[0, 1::2] = 32768
    encoded = encode_sv1(words, 16)
    write_fragments(path, [encoded], uid.JPEGLosslessSV1)

    np.testing.assert_array_equal(stored_values(path), words)


def test_restart_markers_are_not_taken_for_the_end(tmp_path: Path) -> None:
    # Each restart begins anew with the prediction 128.
    rows = [[-100 + row, *[1] * 15] for row in range(16)]
    encoded = lossless_jpeg(rows, restart=1)
    path = write_stream(tmp_path, encoded, uid.JPEGLossless, dtype="u1")

    expected = np.arange(16)[:, None] + 28 + np.arange(16)

    np.testing.assert_array_equal(stored_values(path), expected)


# --- signs and bits -------------------------------------------------------------------------------


def encode_j2k(words: NDArray[Any], bits: int) -> bytes:
    return bytes(
        imagecodecs.jpeg2k_encode(
            words, level=0, codecformat="j2k", reversible=True, bitspersample=bits
        )
    )


def encode_ht(words: NDArray[Any], _bits: int) -> bytes:
    return bytes(imagecodecs.htj2k_encode(words, reversible=True))


def encode_jls(words: NDArray[Any], _bits: int) -> bytes:
    return bytes(imagecodecs.jpegls_encode(words))


def encode_sv1(words: NDArray[Any], bits: int) -> bytes:
    return bytes(imagecodecs.jpeg_encode(words, lossless=True, predictor=1, bitspersample=bits))


ENCODERS: dict[str, Callable[[NDArray[Any], int], bytes]] = {
    uid.JPEG2000Lossless: encode_j2k,
    uid.HTJ2KLossless: encode_ht,
    uid.JPEGLSLossless: encode_jls,
    uid.JPEGLosslessSV1: encode_sv1,
}


@pytest.mark.parametrize("syntax", ENCODERS)
@pytest.mark.parametrize(
    ("word", "options", "expected"),
    [
        pytest.param(0x13E8, {"bits_stored": 12}, 1000, id="R14 an overlay in bit 12"),
        pytest.param(0xF3E8, {"bits_stored": 12}, 1000, id="R11 garbage above"),
        pytest.param(0xFFFF, {"bits_stored": 12, "signed": True}, -1, id="R12 signed 12 bits"),
        pytest.param(0x1800, {"bits_stored": 12, "signed": True}, -2048, id="R12 with an overlay"),
        pytest.param(0x3E8F, {"bits_stored": 12, "high_bit": 15}, 1000, id="R13 high bit 15"),
        pytest.param(64536, {"signed": True}, -1000, id="R20 a sign the stream does not know"),
    ],
)
def test_bits_beyond_those_stored_travel_through_a_codec_and_are_masked(
    word: int, options: dict[str, Any], expected: int, syntax: str, tmp_path: Path
) -> None:
    words = np.full((16, 16), word, "u2")
    path = write_stream(tmp_path, ENCODERS[syntax](words, 16), syntax, **options)

    assert np.unique(stored_values(path)).tolist() == [expected]


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_sign_of_a_stream_may_be_unknown_to_the_header_as_long_as_it_is_not_used(
    bits: int, tmp_path: Path
) -> None:
    words = np.abs(scene(bits, signed=True, shape=(16, 16)).astype(int) // 2)
    words = words.astype("i1" if bits == 8 else "i2")
    encoded = bytes(imagecodecs.htj2k_encode(words, reversible=True))
    dtype = "u1" if bits == 8 else "u2"
    path = write_stream(
        tmp_path, encoded, uid.HTJ2KLossless, dtype=dtype, bits_stored=words.itemsize * 8
    )

    np.testing.assert_array_equal(stored_values(path), words)


def test_negative_values_that_the_header_calls_unsigned_are_refused(tmp_path: Path) -> None:
    # R20, the reverse: -1000, or 64536? Readers differ.
    words = np.full((16, 16), -1000, "i2")
    encoded = bytes(imagecodecs.htj2k_encode(words, reversible=True))
    path = write_stream(tmp_path, encoded, uid.HTJ2KLossless)

    with pytest.raises(dd.PixelError, match=r"Pixel Representation \(0028,0103\)"):
        stored_values(path)


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLosslessSV1])
def test_a_sign_bit_below_bits_stored_is_refused_only_where_it_is_set(
    syntax: str, tmp_path: Path
) -> None:
    # 0xC18 in 12 bits is 3096, or -1000; 1000 is 1000 in any number of bits.
    plain = ENCODERS[syntax](np.full((16, 16), 1000, "u2"), 12)
    doubtful = ENCODERS[syntax](np.full((16, 16), 0xC18, "u2"), 12)

    read = stored_values(write_stream(tmp_path / "plain", plain, syntax, signed=True))
    path = write_stream(tmp_path / "doubtful", doubtful, syntax, signed=True)

    assert np.unique(read).tolist() == [1000]
    with pytest.raises(dd.PixelError, match="12 bits"):
        stored_values(path)


def test_what_lossy_compression_moved_beyond_white_is_white(tmp_path: Path) -> None:
    # A stream of 16 bits does not know that 4095 is the end: it rings to both sides of an edge.
    words = np.zeros((16, 16), "u2")
    words[4:12, 4:12] = 4095
    encoded = bytes(
        imagecodecs.jpeg2k_encode(
            words, level=60, codecformat="j2k", reversible=False, bitspersample=16
        )
    )
    assert imagecodecs.jpeg2k_decode(encoded).max() > 4095
    path = write_stream(tmp_path, encoded, uid.JPEG2000, bits_stored=12)

    stored = stored_values(path).astype(int)

    assert stored.max() == 4095
    assert np.abs(stored - words).max() < 300


def test_bits_that_are_overlays_or_overshoot_are_refused(tmp_path: Path) -> None:
    # The wavelet is reversible, and the Transfer Syntax says it may have been thinned out.
    encoded = encode_j2k(np.full((16, 16), 0x13E8, "u2"), 16)
    path = write_stream(tmp_path, encoded, uid.JPEG2000, bits_stored=12)

    with pytest.raises(dd.PixelError, match="clip or to mask"):
        stored_values(path)


# --- streams that contradict the header -----------------------------------------------------------


def claim(encoded: bytes, syntax: str, rows: int, columns: int) -> bytes:
    """Change the size that a stream says it has."""
    if encoded.startswith(b"\xff\x4f"):
        return encoded[:8] + struct.pack(">2L", columns, rows) + encoded[16:]
    marker = b"\xff\xf7" if syntax == uid.JPEGLSLossless else b"\xff\xc3"
    at = encoded.index(marker) + 5
    return encoded[:at] + struct.pack(">HH", rows, columns) + encoded[at + 4 :]


@pytest.mark.parametrize("syntax", ENCODERS)
def test_a_stream_that_claims_to_be_huge_allocates_nothing(syntax: str, tmp_path: Path) -> None:
    encoded = ENCODERS[syntax](scene(16, shape=(16, 16)), 16)
    path = write_stream(tmp_path, claim(encoded, syntax, 65535, 65535), syntax)
    (frame,) = dd.read_instance(path).frames

    tracemalloc.start()
    with pytest.raises(dd.PixelError, match="65535 x 65535") as caught:
        read_stored(frame)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert str(path) in str(caught.value)
    assert peak < 2**20


@pytest.mark.parametrize("syntax", ENCODERS)
def test_a_header_that_claims_to_be_huge_with_its_stream_is_refused(
    syntax: str, tmp_path: Path
) -> None:
    encoded = ENCODERS[syntax](scene(16, shape=(16, 16)), 16)
    path = write_stream(
        tmp_path, claim(encoded, syntax, 65535, 65535), syntax, Rows=65535, Columns=65535
    )

    with pytest.raises(dd.PixelError, match="65535 x 65535 is beyond what is decoded"):
        stored_values(path)


@pytest.mark.parametrize("syntax", [*ENCODERS, uid.RLELossless])
def test_a_few_bytes_are_not_believed_to_be_a_gigabyte(syntax: str, tmp_path: Path) -> None:
    if syntax == uid.RLELossless:
        encoded = rle([packed(HIGH), packed(LOW)])
    else:
        encoded = ENCODERS[syntax](scene(16, shape=(16, 16)), 16)
        encoded = claim(encoded, syntax, 30_000, 30_000)
    path = write_stream(tmp_path, encoded, syntax, Rows=30_000, Columns=30_000)

    with pytest.raises(dd.PixelError, match="too few for 30000 x 30000"):
        stored_values(path)


@pytest.mark.parametrize("syntax", ENCODERS)
def test_rows_for_columns_are_refused(syntax: str, tmp_path: Path) -> None:
    encoded = ENCODERS[syntax](scene(16, shape=(8, 32)), 16)
    path = write_stream(tmp_path, encoded, syntax, Rows=32, Columns=8)

    with pytest.raises(dd.PixelError, match=r"8 x 32, .* is 32 x 8"):
        stored_values(path)


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEG2000Lossless])
def test_a_stream_of_three_samples_is_no_grey_frame(syntax: str, tmp_path: Path) -> None:
    colours = np.zeros((16, 16, 3), "u1")
    encoded = (
        bytes(imagecodecs.jpeg_encode(colours))
        if syntax == uid.JPEGBaseline8Bit
        else encode_j2k(colours, 8)
    )
    path = write_stream(tmp_path, encoded, syntax, dtype="u1")

    with pytest.raises(dd.PixelError, match=r"3 samples, Samples per Pixel \(0028,0002\) is 1"):
        stored_values(path)


@pytest.mark.parametrize("syntax", ENCODERS)
def test_more_bits_than_are_allocated_are_refused(syntax: str, tmp_path: Path) -> None:
    # Every value would fit 8 bits.
    encoded = ENCODERS[syntax](np.arange(256, dtype="u2").reshape(16, 16), 16)
    path = write_stream(tmp_path, encoded, syntax, dtype="u1")

    with pytest.raises(dd.PixelError, match=r"16 bits, Bits Allocated \(0028,0100\) is 8"):
        stored_values(path)


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (uid.JPEG2000Lossless, lambda words: imagecodecs.jpeg2k_encode(
            words, level=60, codecformat="j2k", reversible=False)),
        (uid.HTJ2KLossless, lambda words: imagecodecs.htj2k_encode(words, reversible=False)),
        (uid.JPEGLSLossless, lambda words: imagecodecs.jpegls_encode(words, 2)),
        (uid.JPEGLosslessSV1, lambda words: imagecodecs.jpeg_encode(words, bitspersample=12)),
    ],
    ids=["JPEG 2000", "HTJ2K", "JPEG-LS", "JPEG"],
)  # fmt: skip
def test_a_lossy_stream_is_not_taken_for_a_lossless_one(
    syntax: str, encode: Callable[[NDArray[Any]], bytes], tmp_path: Path
) -> None:
    # The volume would not be known as lossy.
    path = write_stream(tmp_path, encode(scene(12, shape=(16, 16))), syntax, bits_stored=12)

    with pytest.raises(dd.PixelError, match="lossy, Transfer Syntax UID") as caught:
        stored_values(path)

    assert syntax in str(caught.value)


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (uid.MPEG2MPML, "MPEG2"),
        (uid.MPEG4HP41, "MPEG-4"),
        ("1.2.840.10008.1.2.4.94", "JPIP"),
        ("1.2.840.10008.1.2.4.53", "JPEG"),
        ("1.2.826.0.1.3680043.2.1143.9", ""),
    ],
)
def test_a_transfer_syntax_that_nobody_decodes_is_named(
    syntax: str, name: str, tmp_path: Path
) -> None:
    path = write_stream(tmp_path, encode_j2k(scene(12, shape=(16, 16)), 12), syntax)

    with pytest.raises(dd.PixelError) as caught:
        stored_values(path)

    assert all(part in str(caught.value) for part in (str(path), syntax, name))


def test_a_transfer_syntax_younger_than_pydicom_is_named_too(tmp_path: Path) -> None:
    path = write_stream(tmp_path, encode_j2k(scene(12, shape=(16, 16)), 12), uid.MPEG4HP41)
    content = path.read_bytes().replace(uid.MPEG4HP41.encode(), b"1.2.840.10008.1.2.4.110")
    path.write_bytes(content)

    with pytest.raises(dd.PixelError, match=r"1\.2\.840\.10008\.1\.2\.4\.110 \(JPEG XL Lossless\)"):
        stored_values(path)


# --- ends -----------------------------------------------------------------------------------------

CODESTREAMS = tuple(ENCODERS)


@pytest.mark.parametrize("syntax", CODESTREAMS)
@pytest.mark.parametrize("padding", [b"\0", b"\xff", b"\0\0", b"\xff" * 15, bytes(300)])
def test_padding_behind_the_end_is_stepped_over(
    padding: bytes, syntax: str, tmp_path: Path
) -> None:
    words = scene(16, shape=(16, 16))
    path = write_stream(tmp_path, ENCODERS[syntax](words, 16) + padding, syntax)

    np.testing.assert_array_equal(stored_values(path), words)


@pytest.mark.parametrize("syntax", CODESTREAMS)
def test_an_end_marker_in_the_padding_is_no_end(syntax: str, tmp_path: Path) -> None:
    encoded = ENCODERS[syntax](scene(16, shape=(16, 16)), 16)
    cut = encoded[: len(encoded) // 2].rstrip(b"\xff")
    path = write_stream(tmp_path, cut + bytes(50) + b"\xff\xd9", syntax)

    with pytest.raises(dd.PixelError, match=str(path)):
        stored_values(path)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("syntax", [*LOSSLESS, *LOSSY])
def test_a_stream_cut_short_and_given_an_end_is_refused(
    syntax: str, kept: float, tmp_path: Path
) -> None:
    # As by a writer that lost the last fragments. Decoders fill up with grey, and say nothing.
    bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
    path = write_one(tmp_path, scene(bits), bits_stored=bits, transfer_syntax_uid=syntax)
    encoded = stream_of(path).rstrip(b"\0").removesuffix(b"\xff\xd9")
    cut = encoded[: int(len(encoded) * kept)].rstrip(b"\xff")
    write_fragments(path, [cut + b"\xff\xd9"], syntax)

    with pytest.raises(dd.PixelError, match=str(path)):
        stored_values(path)


PICTURES = ("rings", "flat", "black", "noise")


def picture_of(name: str, bits: int) -> NDArray[Any]:
    """Draw a small picture of as many bits."""
    rings = scene(bits, shape=(12, 9))
    noise = np.random.default_rng(0).integers(0, 2**bits, rings.shape).astype(rings.dtype)
    flat = np.full_like(rings, 2 ** (bits - 1))
    return {"rings": rings, "flat": flat, "black": np.zeros_like(rings), "noise": noise}[name]


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("predictor", range(1, 5))
def test_a_lossless_jpeg_that_lacks_any_byte_is_never_taken_for_whole(
    predictor: int, bits: int, picture: str
) -> None:
    words = picture_of(picture, bits)
    options: dict[str, Any] = {"lossless": True, "predictor": predictor, "bitspersample": bits}
    encoded = bytes(imagecodecs.jpeg_encode(words, **options))
    begin = encoded.index(b"\xff\xda") + 10

    assert took_all(encoded, imagecodecs.jpeg8_decode(encoded))
    for end in range(begin, len(encoded) - 2):
        cut = encoded[:end] + b"\xff\xd9"
        assert not took_all(cut, imagecodecs.jpeg8_decode(cut)), f"{end} of {len(encoded)} bytes"
    # Nor does an image vouch for other data than its own.
    longer = encoded[:-2] + b"\x5a" + encoded[-2:]
    assert not took_all(longer, imagecodecs.jpeg8_decode(encoded))


@given(
    differences=st.lists(st.integers(-(2**11), 2**11), min_size=8, max_size=40),
    cut=st.integers(0, 60),
)
def test_what_is_taken_for_whole_decodes_alike_whatever_comes_behind_it(
    differences: list[int], cut: int
) -> None:
    # Cut within a byte, which is filled up as an encoder does: what is left may be an image, too.
    encoded = lossless_jpeg([differences], bits=16)
    begin = encoded.index(b"\xff\xda") + 10
    data = encoded[begin:-2].replace(b"\xff\0", b"\xff")
    cost = sum(5 + abs(difference).bit_length() for difference in differences)
    kept = f"{int.from_bytes(data):0{8 * len(data)}b}"[: max(cost - cut, 0)]
    kept += "1" * (-len(kept) % 8)
    short = int(kept or "0", 2).to_bytes(len(kept) // 8).replace(b"\xff", b"\xff\0")

    decoded, *others = (
        imagecodecs.jpeg8_decode(encoded[:begin] + short + behind + b"\xff\xd9")
        for behind in (b"", b"\xa5" * 64, b"\0" * 64, b"\xff\0" * 64)
    )

    whole = took_all(encoded[:begin] + short + b"\xff\xd9", decoded)
    assert whole or cut
    assert not whole or all(np.array_equal(decoded, other) for other in others)


@pytest.mark.parametrize(("predictor", "times"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (7, 2)])
def test_a_lossless_jpeg_is_decoded_once_where_it_says_what_it_cost(
    predictor: int, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_one(
        tmp_path,
        scene(12),
        bits_stored=12,
        transfer_syntax_uid=uid.JPEGLossless,
        compression={"predictor": predictor},
    )
    jpeg8_decode, decoded = imagecodecs.jpeg8_decode, []

    def counted(encoded: bytes) -> Any:
        decoded.append(encoded)
        return jpeg8_decode(encoded)

    monkeypatch.setattr(imagecodecs, "jpeg8_decode", counted)

    np.testing.assert_array_equal(stored_values(path), scene(12))
    assert len(decoded) == times


@pytest.mark.parametrize("syntax", CODESTREAMS)
def test_two_images_are_not_one_frame(syntax: str, tmp_path: Path) -> None:
    encoded = ENCODERS[syntax](scene(16, shape=(16, 16)), 16)
    path = write_stream(tmp_path, encoded, syntax)
    write_fragments(path, [encoded, encoded], syntax)

    with pytest.raises(dd.PixelError, match="another image"):
        stored_values(path)


@pytest.mark.parametrize("open_ended", [False, True])
@pytest.mark.parametrize("tile", [None, (16, 16), (20, 10)])
def test_tiles_are_stepped_over(
    tile: tuple[int, int] | None, open_ended: bool, tmp_path: Path
) -> None:
    words = scene(8, shape=(40, 30))
    written = BytesIO()
    options: dict[str, Any] = {"no_jp2": True, "irreversible": False}
    if tile is not None:
        options["tile_size"] = tile
    Image.fromarray(words).save(written, "JPEG2000", **options)
    encoded = written.getvalue()
    if open_ended:
        # The last tile-part may leave its length out (15444-1 A.4.2).
        last = encoded.rindex(b"\xff\x90\x00\x0a") + 6
        encoded = encoded[:last] + bytes(4) + encoded[last + 4 :]
    path = write_stream(tmp_path, encoded, uid.JPEG2000Lossless, dtype="u1", Rows=40, Columns=30)

    np.testing.assert_array_equal(stored_values(path), words)


def test_a_codestream_left_in_its_jp2_file_is_found(tmp_path: Path) -> None:
    words = scene(16, shape=(16, 16))
    encoded = bytes(imagecodecs.jpeg2k_encode(words, level=0, codecformat="jp2", reversible=True))
    path = write_stream(tmp_path, encoded, uid.JPEG2000Lossless)

    np.testing.assert_array_equal(stored_values(path), words)


# --- RLE ------------------------------------------------------------------------------------------


def packed(content: bytes) -> bytes:
    """Pack bytes as they are, none repeated (PS3.5 G.3)."""
    runs = [content[start : start + 128] for start in range(0, len(content), 128)]
    literal = b"".join(bytes([len(run) - 1]) + run for run in runs)
    return literal + b"\0" * (len(literal) % 2)


def rle(segments: list[bytes]) -> bytes:
    offsets = np.cumsum([64, *map(len, segments[:-1])]).tolist()
    return struct.pack("<16L", len(segments), *offsets, *[0] * (15 - len(segments))) + b"".join(
        segments
    )


WORDS = np.arange(256, dtype="<u2").reshape(16, 16) * 257 + 1
HIGH, LOW = WORDS.view("u1")[:, 1::2].tobytes(), WORDS.view("u1")[:, ::2].tobytes()


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_rle_holds_words_of_any_width_the_highest_byte_first(dtype: str, tmp_path: Path) -> None:
    ends = np.iinfo(dtype)
    words = np.array([[ends.min, 0, 1, ends.max] * 4] * 16, dtype)
    planes = words.astype(words.dtype.newbyteorder(">")).view("u1").reshape(256, -1).T
    path = write_stream(
        tmp_path, rle([packed(plane.tobytes()) for plane in planes]), uid.RLELossless, dtype=dtype
    )

    stored = stored_values(path)

    np.testing.assert_array_equal(stored, words)
    assert stored.dtype == words.dtype


@pytest.mark.parametrize(
    ("word", "options", "expected"),
    [
        pytest.param(0xF3E8, {"bits_stored": 12}, 1000, id="R11"),
        pytest.param(0x3E8F, {"bits_stored": 12, "high_bit": 15}, 1000, id="R13"),
        pytest.param(
            0x8000, {"bits_stored": 12, "high_bit": 15, "signed": True}, -2048, id="R13 signed"
        ),
    ],
)
def test_rle_holds_words_as_they_lie_in_an_uncompressed_file(
    word: int, options: dict[str, Any], expected: int, tmp_path: Path
) -> None:
    planes = [packed(bytes([byte]) * 256) for byte in divmod(word, 256)]
    path = write_stream(tmp_path, rle(planes), uid.RLELossless, **options)

    assert np.unique(stored_values(path)).tolist() == [expected]


@pytest.mark.parametrize("padding", [b"", b"\0\0", b"\x80\x80", b"\0" * 8])
def test_rle_made_by_hand_is_read_whatever_it_is_padded_with(
    padding: bytes, tmp_path: Path
) -> None:
    encoded = rle([packed(HIGH), packed(LOW)]) + padding
    path = write_stream(tmp_path, encoded, uid.RLELossless)

    np.testing.assert_array_equal(stored_values(path), WORDS)


@pytest.mark.parametrize(
    "segments",
    [
        pytest.param([packed(HIGH[:-1]), packed(LOW)], id="the first is short"),
        pytest.param([packed(HIGH), packed(LOW[:-1])], id="the second is short"),
        pytest.param([packed(HIGH + LOW[:4]), packed(LOW[:-4])], id="right in the sum"),
        pytest.param([packed(HIGH), packed(LOW + HIGH[:16])], id="a row too many"),
        pytest.param([packed(HIGH), packed(LOW + bytes(16))], id="a black row too many"),
        pytest.param([packed(HIGH)], id="one segment"),
        pytest.param([packed(HIGH), packed(LOW), packed(LOW)], id="three segments"),
        pytest.param([packed(HIGH), packed(LOW)[:-20]], id="cut short"),
        pytest.param([packed(HIGH), b""], id="an empty segment"),
    ],
)
def test_rle_gives_exactly_as_many_bytes_as_there_are_pixels(
    segments: list[bytes], tmp_path: Path
) -> None:
    path = write_stream(tmp_path, rle(segments), uid.RLELossless)

    with pytest.raises(dd.PixelError, match=r"RLE segment|cannot be decoded") as caught:
        stored_values(path)

    assert str(path) in str(caught.value)


def test_rle_segments_that_lie_beyond_the_frame_are_refused(tmp_path: Path) -> None:
    encoded = struct.pack("<16L", 2, 64, 99_999, *[0] * 13) + packed(HIGH) + packed(LOW)
    path = write_stream(tmp_path, encoded, uid.RLELossless)

    with pytest.raises(dd.PixelError, match="RLE segments begin at"):
        stored_values(path)


# --- second opinions ------------------------------------------------------------------------------


def is_missing(*_: object, **__: object) -> None:
    raise imagecodecs.DelayedImportError("jpeg2k")


def fails(*_: object, **__: object) -> None:
    raise RuntimeError("out of luck")


@pytest.mark.parametrize("why", [is_missing, fails])
def test_pydicoms_decoders_stand_behind_imagecodecs(
    why: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = scene(12, shape=(16, 16))
    path = write_one(tmp_path, words, bits_stored=12, transfer_syntax_uid=uid.JPEG2000Lossless)
    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", why)

    np.testing.assert_array_equal(stored_values(path), words)


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLSLossless])
@pytest.mark.parametrize(("bits", "signed"), [(12, True), (16, True), (8, False)])
def test_a_second_opinion_knows_signs_as_the_first_does(
    bits: int, signed: bool, syntax: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = scene(bits, signed=signed)
    path = write_one(tmp_path, words, bits_stored=bits, transfer_syntax_uid=syntax)
    for name in ("jpeg2k_decode", "jpegls_decode"):
        monkeypatch.setattr(imagecodecs, name, fails)

    np.testing.assert_array_equal(stored_values(path), words)


def test_what_a_decoder_gives_is_held_against_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_one(tmp_path, scene(12, shape=(16, 16)), transfer_syntax_uid=uid.JPEG2000Lossless)
    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", lambda _: np.zeros((8, 32), "u2"))

    with pytest.raises(dd.PixelError, match=r"shape \(8, 32\), expected"):
        stored_values(path)


def test_without_any_decoder_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_one(tmp_path, scene(12), bits_stored=12, transfer_syntax_uid=uid.JPEGExtended12Bit)
    monkeypatch.setattr(imagecodecs, "jpeg8_decode", is_missing)

    with pytest.raises(dd.PixelError, match="cannot be decoded"):
        stored_values(path)


# --- damage ---------------------------------------------------------------------------------------


@given(
    syntax=st.sampled_from([*LOSSLESS, *LOSSY]),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_damaged_bytes_give_an_error_that_names_the_file_or_a_frame(
    syntax: str, places: list[tuple[float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
    path = write_one(
        tmp_path_factory.mktemp("damage"), scene(bits), bits_stored=bits, transfer_syntax_uid=syntax
    )
    damaged = bytearray(stream_of(path))
    for place, value in places:
        damaged[int(place * (len(damaged) - 1))] = value
    write_fragments(path, [bytes(damaged)], syntax)

    try:
        told = str(stored_values(path).shape)
    except dd.PixelError as error:
        told = str(error)

    assert told == "(32, 24)" or str(path) in told

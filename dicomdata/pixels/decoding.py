"""One compressed frame -> its stored values, held against the header on the way.

The image's own header is compared with the DICOM header before it is decoded, what is decoded
afterwards: a contradiction is an error, never a guess about which of them is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import PixelError
from dicomdata.header import join_fragments
from dicomdata.pixels.codestream import Codestream, read_codestream
from dicomdata.pixels.decoders import SYNTAXES, decoders_of, syntax_name
from dicomdata.pixels.huffman import took_all
from dicomdata.pixels.rle import read_rle_header
from dicomdata.pixels.words import DENSEST, UNDOUBTED, unpacked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dicomdata.header import Frame
    from dicomdata.pixels.decoders import Decoder, Syntax
    from dicomdata.pixels.files import FrameFiles


_HUFFMAN_CODED = frozenset({"JPEG", "JPEG lossless"})
"""Processes whose data do not tell how much of them there should be. (JPEG-LS and JPEG 2000 do.)"""

_END_OF_IMAGE = b"\xff\xd9"

_OTHER_BITS = b"\xa5" * 64
"""Neither the zeros nor the ones that decoders fill up with, and enough for any sample."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One compressed frame, read and believed, not yet decoded."""

    content: bytes
    """The image, without wrapping or padding."""

    stream: Codestream
    """What it says of itself, which agrees with the header."""


def decode(encoded: Encoded, frame: Frame) -> NDArray[np.integer[Any]]:
    """Decode one compressed frame; its stored values, (rows, columns).

    Raises:
        PixelError: if the frame cannot be decoded, or contradicts the header.
    """
    refusal: Exception | None = None
    for decoder in decoders_of(frame.kind.transfer_syntax_uid):
        if refusal is not None and not decoder.second_opinion:
            continue
        try:
            return decode_with(decoder, encoded, frame)
        except PixelError:
            raise
        except (ImportError, NotImplementedError):
            continue
        # Each library has exceptions of its own.
        except Exception as error:  # noqa: BLE001
            refusal = refusal or error
    told = "no decoder is installed" if refusal is None else refusal
    raise PixelError(f"{frame.path}: the pixels cannot be decoded: {told}") from refusal


def read_encoded(frame: Frame, files: FrameFiles) -> Encoded:
    """Read one compressed frame, and hold what it says of itself against the header.

    Raises:
        FileError, StaleError: if the file cannot be read, or has changed.
        PixelError: if the frame is cut short, or contradicts the header.
    """
    kind = frame.kind
    syntax = SYNTAXES.get(kind.transfer_syntax_uid)
    if syntax is None:
        raise PixelError(
            f"{frame.path}: no decoder for Transfer Syntax {syntax_name(kind.transfer_syntax_uid)}"
        )
    try:
        content = join_fragments(files.read(frame))
    except ValueError as error:
        raise PixelError(
            f"{frame.path}: the fragments of Pixel Data are damaged: {error}"
        ) from error
    try:
        rle = "RLE" in syntax.processes
        stream = read_rle_header(content, kind) if rle else read_codestream(content)
    except ValueError as error:
        raise PixelError(f"{frame.path}: the pixels cannot be decoded: {error}") from error
    _check_stream(stream, syntax, frame)
    return Encoded(content[stream.begin : stream.end], stream)


def _check_stream(stream: Codestream, syntax: Syntax, frame: Frame) -> None:
    """Refuse an image that is not the one the header describes."""
    kind = frame.kind
    encoded_bytes = stream.end - stream.begin
    wrong = ""
    if stream.process not in syntax.processes or syntax.lossless > stream.lossless:
        loss = "" if stream.lossless else ", lossy"
        name = syntax_name(kind.transfer_syntax_uid)
        wrong = f"are {stream.process}{loss}, Transfer Syntax UID (0002,0010) is {name}"
    elif (stream.rows, stream.columns) != (kind.rows, kind.columns):
        wrong = (
            f"decode to {stream.rows} x {stream.columns}, Rows (0028,0010) x Columns (0028,0011) "
            f"is {kind.rows} x {kind.columns}"
        )
    elif stream.samples != kind.samples_per_pixel:
        wrong = (
            f"have {stream.samples} samples, Samples per Pixel (0028,0002) is "
            f"{kind.samples_per_pixel}"
        )
    elif stream.precision > kind.bits_allocated:
        wrong = f"have {stream.precision} bits, Bits Allocated (0028,0100) is {kind.bits_allocated}"
    elif kind.bits_stored < stream.precision <= kind.high_bit:
        wrong = (
            f"have {stream.precision} bits, Bits Stored (0028,0101) is {kind.bits_stored} and "
            f"High Bit (0028,0102) {kind.high_bit}"
        )
    elif kind.frame_bytes > max(UNDOUBTED, DENSEST * encoded_bytes):
        wrong = f"are {encoded_bytes} bytes, too few for {kind.rows} x {kind.columns}"
    if wrong:
        raise PixelError(f"{frame.path}: the pixels {wrong}")


def decode_with(decoder: Decoder, encoded: Encoded, frame: Frame) -> NDArray[np.integer[Any]]:
    """Decode with one decoder; its stored values, (rows, columns).

    Raises:
        PixelError: if the image lacks data, or what it gives is not what the header describes.
        Exception: of its own, if the decoder cannot.
    """
    decoded = decoder.decode(encoded.content, encoded.stream)
    if encoded.stream.process in _HUFFMAN_CODED and not _is_whole(encoded, decoded):
        # Decoders fill up what is missing: with other bits behind it, a whole image is the same.
        data = encoded.content[: -len(_END_OF_IMAGE)].rstrip(b"\xff")
        again = decoder.decode(data + _OTHER_BITS + _END_OF_IMAGE, encoded.stream)
        if not np.array_equal(decoded, again):
            raise PixelError(
                f"{frame.path}: the compressed pixels are cut short: they end before the image does"
            )
    return _as_stored(decoded, encoded.stream, frame)


def _is_whole(encoded: Encoded, decoded: NDArray[Any]) -> bool:
    """Whether an image is known to lack no data, without decoding it again."""
    return encoded.stream.process == "JPEG lossless" and took_all(encoded.content, decoded)


def _as_stored(decoded: NDArray[Any], stream: Codestream, frame: Frame) -> NDArray[np.integer[Any]]:
    """Turn decoded samples into stored values: the header's bits, and its sign.

    Raises:
        PixelError: if the samples are not those that image and header describe.
    """
    kind = frame.kind
    is_whole = decoded.dtype.kind in "iu" and decoded.dtype.itemsize * 8 >= stream.precision
    if decoded.shape != (kind.rows, kind.columns) or not is_whole:
        raise PixelError(
            f"{frame.path}: the pixels decode to {decoded.dtype} of shape {decoded.shape}, "
            f"expected {stream.precision} bits of shape {(kind.rows, kind.columns)}"
        )
    _check_sign(decoded, stream, frame)
    width = f"{'i' if kind.signed else 'u'}{kind.bits_allocated // 8}"
    ends_at_0 = kind.high_bit == kind.bits_stored - 1
    if stream.precision > kind.bits_stored and ends_at_0 and stream.signed == kind.signed:
        decoded = _without_overshoot(decoded, stream, frame)
    words = decoded.astype(width, copy=False)
    # Words that reach up to High Bit lie as in an uncompressed file; others end at bit 0.
    whole = stream.precision > kind.high_bit
    return unpacked(words, kind, high_bit=kind.high_bit if whole else kind.bits_stored - 1)


def _check_sign(decoded: NDArray[Any], stream: Codestream, frame: Frame) -> None:
    """Refuse words of which two signs are possible.

    Without a sign of its own, an image holds the words of signed pixels as they are (PS3.5
    8.2.1). That tells what they mean if it has all of Bits Stored.
    """
    kind = frame.kind
    if stream.signed == kind.signed:
        return
    if not stream.signed and stream.precision >= kind.bits_stored:
        return
    # In two's complement, and whichever type the decoder gave: the sign's bit.
    words = decoded.view(f"u{decoded.dtype.itemsize}")
    if (words & (1 << (stream.precision - 1))).any():
        has, says = ("a sign", "unsigned") if stream.signed else ("no sign", "signed")
        raise PixelError(
            f"{frame.path}: the pixels decode to {stream.precision} bits with {has} and the "
            f"highest set, Pixel Representation (0028,0103) says they are {says} in "
            f"{kind.bits_stored}"
        )


def _without_overshoot(decoded: NDArray[Any], stream: Codestream, frame: Frame) -> NDArray[Any]:
    """Clip what lossy compression moved beyond Bits Stored: 4097 in 12 bits is white.

    Bits above those stored of what was kept exactly are something else (overlays, PS3.5 8.1.2),
    and are masked later: 5096 in 12 bits is 1000.
    """
    kind = frame.kind
    thinned_out = stream.process == "JPEG 2000" and not SYNTAXES[kind.transfer_syntax_uid].lossless
    if stream.lossless and not thinned_out:
        return decoded
    low = -(2 ** (kind.bits_stored - 1)) if kind.signed else 0
    clipped = decoded.clip(low, low + 2**kind.bits_stored - 1)
    if stream.lossless and not np.array_equal(clipped, decoded):
        # The wavelet is exact; whether all that it gave was kept, nothing says.
        raise PixelError(
            f"{frame.path}: the pixels decode to {decoded.min()} to {decoded.max()}, beyond Bits "
            f"Stored (0028,0101) {kind.bits_stored}, and may be lossy: it cannot be told whether "
            f"to clip or to mask them"
        )
    return clipped

"""Transfer Syntax UID -> its decoders, in the order they are asked.

imagecodecs comes first: it releases Python's lock while it decodes. Behind it stand the decoders
that pydicom knows and finds installed (pylibjpeg with openjpeg and rle, pyjpegls, pillow).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.pixels.rle import decode_rle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from dicomdata.pixels.codestream import Codestream


@dataclass(frozen=True, slots=True)
class Decoder:
    """One library's decoder of one kind of compression."""

    name: str
    """The library, and which part of it."""

    decode: Callable[[bytes, Codestream], NDArray[Any]]
    """(one compressed image, what it says of itself) -> samples, (rows, columns).

    Raises ImportError or NotImplementedError if it is not there or never learnt this, and
    whatever it likes if the image is damaged.
    """

    second_opinion: bool = True
    """Whether it may be asked for what another has refused. Not one that gives noise for a damaged
    image, nor one that makes it fit, nor one that takes the process down."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """How the pixels of one Transfer Syntax are compressed."""

    processes: frozenset[str]
    """Which `Codestream.process`es it may hold."""

    lossless: bool
    """Whether it promises that every bit comes back."""

    decoders: tuple[Decoder, ...]
    """Those of imagecodecs."""


def decoders_of(uid: str) -> Iterator[Decoder]:
    """Give the decoders of a Transfer Syntax in `SYNTAXES`, best first, pydicom's behind ours."""
    yield from SYNTAXES[uid].decoders
    yield from _known_to_pydicom(uid)


def syntax_name(uid: str) -> str:
    """Give a Transfer Syntax in words and numbers."""
    from pydicom.uid import UID

    name = _YOUNGER.get(uid) or UID(uid).name
    return uid if name == uid else f"{uid} ({name})"


_YOUNGER = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}
"""Transfer Syntaxes younger than pydicom's list."""


def _decode_jpeg(encoded: bytes, _stream: Codestream) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.jpeg8_decode(encoded))


def _decode_sof3(encoded: bytes, _stream: Codestream) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.jpegsof3_decode(encoded))


def _decode_jpegls(encoded: bytes, _stream: Codestream) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.jpegls_decode(encoded))


def _decode_jpeg2000(encoded: bytes, _stream: Codestream) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.jpeg2k_decode(encoded))


def _decode_htj2k(encoded: bytes, _stream: Codestream) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.htj2k_decode(encoded))


def _known_to_pydicom(uid: str) -> Iterator[Decoder]:
    """Give what pydicom finds installed for a Transfer Syntax."""
    from pydicom.pixels.decoders.base import get_decoder

    for plugin in sorted(get_decoder(uid).available_plugins, key=_LAST.__eq__):
        name = plugin if plugin == "pydicom" else f"pydicom with {plugin}"
        # What ours refuses as RLE, they cut or fill up to the size they were told.
        strict = plugin != _LAST and SYNTAXES[uid] is not _RLE
        yield Decoder(name, _Plugin(uid, plugin), second_opinion=strict)


_LAST = "gdcm"
"""The plugin asked last: it took the process down on damaged frames."""


@dataclass(frozen=True, slots=True)
class _Plugin:
    """Decodes with one plugin of pydicom, which is told what the image says, not the header."""

    uid: str
    plugin: str

    def __call__(self, encoded: bytes, stream: Codestream) -> NDArray[Any]:
        from pydicom.encaps import encapsulate
        from pydicom.pixels.decoders.base import get_decoder

        options: dict[str, Any] = {
            "rows": stream.rows,
            "columns": stream.columns,
            "samples_per_pixel": stream.samples,
            "number_of_frames": 1,
            "bits_allocated": word_bits(stream.precision),
            "bits_stored": stream.precision,
            "pixel_representation": int(stream.signed),
            "photometric_interpretation": "MONOCHROME2",
            "apply_j2k_sign_correction": False,
            "apply_jls_sign_correction": False,
            "correct_unused_bits": False,
        }
        try:
            array, _ = get_decoder(self.uid).as_array(
                encapsulate([encoded], has_bot=False),
                index=0,
                raw=True,
                validate=False,
                decoding_plugin=self.plugin,
                **options,
            )
        except (Exception, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as panic:
            # A plugin written in Rust panics, which Python does not count among its exceptions.
            raise RuntimeError(str(panic)) from panic
        return array


def word_bits(precision: int) -> int:
    """Give the bits of the smallest word that holds samples of `precision` bits."""
    return next((bits for bits in (8, 16) if precision <= bits), 32)


_LIBJPEG = Decoder("imagecodecs with libjpeg-turbo", _decode_jpeg)
# It decodes damaged images. Not liblj92, which imagecodecs has too: they take the process down.
_SOF3 = Decoder("imagecodecs with jpegsof3", _decode_sof3, second_opinion=False)
_CHARLS = Decoder("imagecodecs with CharLS", _decode_jpegls)
_OPENJPEG = Decoder("imagecodecs with OpenJPEG", _decode_jpeg2000)
# Twice as fast as OpenJPEG, but imagecodecs loses its errors: damaged images decode to noise.
_OPENJPH = Decoder("imagecodecs with OpenJPH", _decode_htj2k, second_opinion=False)
_PACKBITS = Decoder("imagecodecs with PackBits", decode_rle)

_JPEG = Syntax(frozenset({"JPEG"}), lossless=False, decoders=(_LIBJPEG,))
_LOSSLESS_JPEG = Syntax(frozenset({"JPEG lossless"}), lossless=True, decoders=(_LIBJPEG, _SOF3))
_RLE = Syntax(frozenset({"RLE"}), lossless=True, decoders=(_PACKBITS,))
_JPEG_LS = frozenset({"JPEG-LS"})
_JPEG2000 = frozenset({"JPEG 2000"})

SYNTAXES = {
    "1.2.840.10008.1.2.4.50": _JPEG,  # baseline, 8 bits
    "1.2.840.10008.1.2.4.51": _JPEG,  # extended, 8 or 12 bits
    "1.2.840.10008.1.2.4.57": _LOSSLESS_JPEG,
    "1.2.840.10008.1.2.4.70": _LOSSLESS_JPEG,  # first-order prediction
    "1.2.840.10008.1.2.4.80": Syntax(_JPEG_LS, lossless=True, decoders=(_CHARLS,)),
    "1.2.840.10008.1.2.4.81": Syntax(_JPEG_LS, lossless=False, decoders=(_CHARLS,)),
    "1.2.840.10008.1.2.4.90": Syntax(_JPEG2000, lossless=True, decoders=(_OPENJPEG,)),
    "1.2.840.10008.1.2.4.91": Syntax(_JPEG2000, lossless=False, decoders=(_OPENJPEG,)),
    "1.2.840.10008.1.2.4.201": Syntax(_JPEG2000, lossless=True, decoders=(_OPENJPEG, _OPENJPH)),
    "1.2.840.10008.1.2.4.202": Syntax(_JPEG2000, lossless=True, decoders=(_OPENJPEG, _OPENJPH)),
    "1.2.840.10008.1.2.4.203": Syntax(_JPEG2000, lossless=False, decoders=(_OPENJPEG, _OPENJPH)),
    "1.2.840.10008.1.2.5": _RLE,
}
"""Transfer Syntax UID -> how it is compressed, and who decodes it (PS3.6 table A-1)."""

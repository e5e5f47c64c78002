"""Encodes the pixels of a phantom in any transfer syntax (PS3.5 8 and A).

Native pixels need nothing but pydicom; compressed ones pydicom's plugins or imagecodecs, which
are imported where they are used.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import dcmread, dcmwrite, uid
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

_NATIVE = {
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
}

_BY_PYDICOM: dict[str, dict[str, Any]] = {
    uid.RLELossless: {},
    uid.JPEGLSLossless: {},
    uid.JPEGLSNearLossless: {"jls_error": 2},
}
"""Transfer syntaxes that pydicom encodes (`Dataset.compress`), and what it is told by default."""

_BY_IMAGECODECS: dict[str, tuple[str, dict[str, Any]]] = {
    uid.JPEGBaseline8Bit: ("jpeg_encode", {"level": 90}),
    uid.JPEGExtended12Bit: ("jpeg_encode", {"level": 90}),
    uid.JPEGLossless: ("jpeg_encode", {"lossless": True, "predictor": 6}),
    uid.JPEGLosslessSV1: ("jpeg_encode", {"lossless": True, "predictor": 1}),
    uid.JPEG2000Lossless: ("jpeg2k_encode", {"codecformat": "j2k", "reversible": True, "level": 0}),
    uid.JPEG2000: ("jpeg2k_encode", {"codecformat": "j2k", "reversible": False, "level": 90}),
    uid.HTJ2KLossless: ("htj2k_encode", {"reversible": True}),
    uid.HTJ2KLosslessRPCL: ("htj2k_encode", {"reversible": True, "tlm": True}),
    uid.HTJ2K: ("htj2k_encode", {"reversible": False, "level": 0.0001}),
}
"""Those that imagecodecs encodes: pydicom cannot, or not where a picture is small."""

_LOSSY = {
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.HTJ2K,
}


def set_pixels(
    header: Dataset,
    words: NDArray[Any],
    transfer_syntax_uid: str,
    compression: Mapping[str, Any],
) -> None:
    """Put the pixels of one slice, (rows, columns) or (rows, columns, samples), into `header`.

    Args:
        header: all else of the slice; its Bits Stored is what a codec is told.
        words: what is encoded, as it is: nothing is masked or shifted.
        transfer_syntax_uid: how; `header.file_meta` has it already.
        compression: what the encoder is told besides what it is told here.

    Raises:
        KeyError: if nothing here encodes to `transfer_syntax_uid`.
    """
    syntax = uid.UID(transfer_syntax_uid)
    if syntax in _LOSSY:
        header.LossyImageCompression = "01"
    if syntax in _NATIVE:
        element = _encode_natively(words, syntax)
    elif syntax in _BY_PYDICOM:
        options = {**_BY_PYDICOM[syntax], **compression}
        header.compress(syntax, np.ascontiguousarray(words), generate_instance_uid=False, **options)
        return
    else:
        content = _encode_with_imagecodecs(words, syntax, int(header.BitsStored), compression)
        element = DataElement(0x7FE00010, "OB", encapsulate([content]), already_converted=True)
        element.is_undefined_length = True
    header[element.tag] = element


def write_fragments(
    path: Path | str,
    fragments: Sequence[bytes],
    transfer_syntax_uid: str,
    *,
    table: Sequence[int] | None = (),
    **changes: Any,
) -> None:
    """Put compressed fragments in place of the pixels of a file, however odd they are.

    Args:
        path: a file that `write_series` wrote.
        fragments: one item each (PS3.5 A.4), as they are: an odd length is not padded.
        transfer_syntax_uid: what the file is to say they are.
        table: Basic Offset Table; None leaves its item out.
        **changes: keyword -> value of other elements to change.
    """
    header = dcmread(path)
    header.file_meta.TransferSyntaxUID = uid.UID(transfer_syntax_uid)
    offsets = [] if table is None else [struct.pack(f"<{len(table)}L", *table)]
    items = [
        b"\xfe\xff\x00\xe0" + struct.pack("<L", len(content)) + content
        for content in (*offsets, *fragments)
    ]
    element = DataElement(0x7FE00010, "OB", b"".join(items), already_converted=True)
    element.is_undefined_length = True
    header[element.tag] = element
    for keyword, value in changes.items():
        setattr(header, keyword, value)
    dcmwrite(path, header, implicit_vr=False, little_endian=True)


def _encode_natively(words: NDArray[Any], syntax: uid.UID) -> DataElement:
    """Encode without compression: Pixel Data, Float Pixel Data or Double Float Pixel Data."""
    content = words.astype(
        words.dtype.newbyteorder("<" if syntax.is_little_endian else ">")
    ).tobytes()
    content += b"\0" * (len(content) % 2)
    if words.dtype.kind == "f":
        tag, vr = {4: (0x7FE00008, "OF"), 8: (0x7FE00009, "OD")}[words.itemsize]
    else:
        # Without Explicit VR, Pixel Data is OW whatever it holds (PS3.5 A.1).
        tag, vr = 0x7FE00010, "OB" if words.itemsize == 1 and not syntax.is_implicit_VR else "OW"
    return DataElement(tag, vr, content, already_converted=True)


def _encode_with_imagecodecs(
    words: NDArray[Any], syntax: uid.UID, bits_stored: int, compression: Mapping[str, Any]
) -> bytes:
    """Encode one frame with JPEG, JPEG 2000 or HTJ2K."""
    name, options = _BY_IMAGECODECS[syntax]
    if name != "htj2k_encode":
        options = {"bitspersample": bits_stored, **options}
    options = {**options, **compression}
    import imagecodecs

    if name == "jpeg_encode":
        # JPEG knows no sign: the bits stored travel as they are (PS3.5 8.2.1).
        words = words.view(f"u{words.itemsize}") & (2 ** options["bitspersample"] - 1)
    return bytes(getattr(imagecodecs, name)(words, **options))

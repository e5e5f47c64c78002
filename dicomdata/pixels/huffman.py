"""Lossless JPEG: whether the image took all the data there is, told from the image itself.

Nothing in the data says how much of them there should be, and decoders fill up what is missing.
But what was decoded says what it cost: each sample is a difference from its neighbours, each
difference a code of known length (ISO/IEC 10918-1 H.1.2). A decoder that ran out of data gave
samples for which it had no bits, so that the sum is more than there was.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DHT, _SOF3, _SOS, _DRI = 0xC4, 0xC3, 0xDA, 0xDD

_PREDICTORS = range(1, 5)
"""Those of sums. Halves (5 to 7) take longer to work out than the image takes to decode again."""

_UNKNOWN = 200
"""Cost of a difference that has no code, in bits: more than any has."""

_LONGEST = 32
"""Bits of the longest difference: a code of 16 and 16 more (H.1.2.2)."""


@dataclass(frozen=True, slots=True)
class _Scan:
    """How the differences of an image are made and coded."""

    precision: int
    """Bits of a sample."""

    predictor: int
    """Selection value 1 to 4 (table H.1)."""

    table: bytes
    """Numbers of codes of each length, then the categories in the order of their codes."""

    begin: int
    """Where the data begin."""


def took_all(encoded: bytes, decoded: NDArray[Any]) -> bool:
    """Whether decoding took all data up to the end of the image, and not a bit more.

    Two things are held against the data: the sum of what all samples cost, and, bit by bit, the
    codes of the last `_LONGEST` samples. Of an image that lacks data the first sample that lacks
    some is among those, or the sum is too much: each sample costs a bit at least.

    Args:
        encoded: one lossless JPEG image of one component, to its end marker.
        decoded: (rows, columns), what a decoder made of it.

    Returns:
        False also where it cannot be told: restarts, other predictors, or sums that leave the
        precision.
    """
    scan = _read_scan(encoded)
    if scan is None or decoded.ndim != 2 or decoded.dtype.kind != "u":
        return False
    differences = _differences(decoded.astype(np.uint16, copy=False), scan)
    costs = np.take(_costs(scan.table), differences)
    cost = int(costs.sum(axis=1, dtype=np.uint32).sum(dtype=np.int64))
    # Behind an FF of data stands a zero; those before the end marker are none of data (B.1.1.5).
    end = len(encoded[:-2].rstrip(b"\xff"))
    data = np.frombuffer(encoded, np.uint8, end - scan.begin, scan.begin)
    data_bytes = len(data) - int(np.count_nonzero(data == 0xFF))
    # The last byte is filled up (F.1.2.3).
    filling = 8 * data_bytes - cost
    if not 0 <= filling < 8:
        return False
    # Twice what the last differences may take, for the zeros that are taken out.
    tail = encoded[max(scan.begin, end - _LONGEST * _LONGEST // 4) : end].replace(
        b"\xff\0", b"\xff"
    )
    written = f"{int.from_bytes(tail, 'big'):0{8 * len(tail)}b}"[: 8 * len(tail) - filling]
    return written.endswith(_codes_of(differences.ravel()[-_LONGEST:].tolist(), scan.table))


def _read_scan(encoded: bytes) -> _Scan | None:
    """Read the segments of an image that was walked before, up to its data.

    None of an image with restarts, or of another predictor.
    """
    offset, precision = 2, 0
    tables: dict[int, bytes] = {}
    while True:
        marker = encoded[offset + 1]
        if marker == 0xFF:  # fill
            offset += 1
            continue
        length = int.from_bytes(encoded[offset + 2 : offset + 4], "big")
        segment = encoded[offset + 4 : offset + 2 + length]
        offset += 2 + length
        if marker == _DHT:
            tables.update(_tables(segment))
        elif marker == _SOF3:
            precision = segment[0]
        elif marker == _DRI and any(segment):
            return None
        elif marker == _SOS:
            table = tables.get(segment[2] >> 4)
            if table is None or segment[3] not in _PREDICTORS:
                return None
            return _Scan(precision, segment[3], table, offset)


def _tables(segment: bytes) -> dict[int, bytes]:
    """Take a segment of Huffman tables apart: class and number -> counts and categories."""
    tables = {}
    while len(segment) > 17:
        end = 17 + sum(segment[1:17])
        tables[segment[0]] = segment[1:end]
        segment = segment[end:]
    return tables


def _differences(samples: NDArray[np.uint16], scan: _Scan) -> NDArray[np.uint16]:
    """Give the difference of each sample from its prediction, modulo 2**16 (H.1.2.1)."""
    differences = np.empty_like(samples)
    differences[:1, :1] = samples[:1, :1] - np.uint16(2 ** (scan.precision - 1))
    np.subtract(samples[0, 1:], samples[0, :-1], out=differences[0, 1:])
    np.subtract(samples[1:, 0], samples[:-1, 0], out=differences[1:, 0])
    left, above, before = samples[1:, :-1], samples[:-1, 1:], samples[:-1, :-1]
    predicted = (left, above, before, None)[scan.predictor - 1]
    if predicted is None:
        predicted = left + above - before
    np.subtract(samples[1:, 1:], predicted, out=differences[1:, 1:])
    return differences


@lru_cache(maxsize=8)
def _costs(table: bytes) -> NDArray[np.uint8]:
    """Give what each difference, modulo 2**16, costs in bits."""
    lengths = np.full(17, _UNKNOWN, np.uint8)
    for category, (length, _) in _codes(table).items():
        lengths[category] = length
    magnitudes = np.abs(np.arange(2**16, dtype=np.uint16).view(np.int16).astype(np.int32))
    categories = np.frexp(magnitudes)[1]
    # The one difference of category 16 needs no bits behind its code.
    costs: NDArray[np.uint8] = lengths[categories] + (categories % 16).astype(np.uint8)
    return costs


@lru_cache(maxsize=8)
def _codes(table: bytes) -> dict[int, tuple[int, int]]:
    """Give each category's code: its length, and the code itself (C.2)."""
    codes, code, categories = {}, 0, iter(table[16:])
    for length, count in enumerate(table[:16], 1):
        for _, category in zip(range(count), categories, strict=False):
            if category <= 16:
                codes[category] = (length, code)
            code += 1
        code <<= 1
    return codes


def _codes_of(differences: list[int], table: bytes) -> str:
    """Write differences as an encoder does, in zeros and ones."""
    codes, bits = _codes(table), ""
    for word in differences:
        difference = word - 2**16 if word > 2**15 else word
        category = abs(difference).bit_length()
        length, code = codes.get(category, (0, 0))
        bits += f"{code:0{length}b}"
        if 0 < category < 16:
            low = difference if difference > 0 else difference + 2**category - 1
            bits += f"{low:0{category}b}"
    return bits

"""Many stacks in few bytes, for the workers of a DataLoader: column by column, compressed.

What stacks of one archive share costs nothing this way, and frames that follow each other in the
catalog next to nothing. About 90 bytes a stack are left, which are random: digits of its UIDs, its
fingerprint, its place.
"""

from __future__ import annotations

import bz2
import pickle
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dicomdata.geometry import Affine

_NAMES = tuple(field.name for field in fields(Stack))

_DIGEST = re.compile(r"[0-9a-f]{32}")
"""A fingerprint, as planning makes it."""

_OWN_UID = "@"
"""Stands for the Series Instance UID at the beginning of a stack's id."""


def pack(stacks: Sequence[Stack]) -> tuple[bytes, ...]:
    """Give stacks as compressed columns, one a field; all in one where some are no DICOM."""
    if any(type(stack) is not Stack for stack in stacks):
        return (bz2.compress(pickle.dumps(tuple(stacks))),)
    columns: dict[str, Any] = {name: [getattr(stack, name) for stack in stacks] for name in _NAMES}
    uids = columns["series_instance_uid"]
    columns["id"] = [
        name.replace(uid, _OWN_UID, 1) for name, uid in zip(columns["id"], uids, strict=True)
    ]
    if all(map(_DIGEST.fullmatch, columns["fingerprint"])):
        columns["fingerprint"] = bytes.fromhex("".join(columns["fingerprint"]))
    columns["affine_columns"] = _pack_numbers(columns["affine_columns"])
    columns["frame_ids"] = _pack_ids(columns["frame_ids"])
    return tuple(bz2.compress(pickle.dumps(column)) for column in columns.values())


def unpack(packed: Iterable[bytes]) -> tuple[Stack, ...]:
    """Give back the stacks that were packed."""
    packed = tuple(packed)
    if len(packed) == 1:
        whole: tuple[Stack, ...] = pickle.loads(bz2.decompress(packed[0]))  # noqa: S301 - as below
        return whole
    columns: dict[str, Any] = {
        name: pickle.loads(bz2.decompress(column))  # noqa: S301 - it came in the pickle of a dataset
        for name, column in zip(_NAMES, packed, strict=True)
    }
    uids = columns["series_instance_uid"]
    columns["id"] = [
        name.replace(_OWN_UID, uid, 1) for name, uid in zip(columns["id"], uids, strict=True)
    ]
    if isinstance(columns["fingerprint"], bytes):
        columns["fingerprint"] = _DIGEST.findall(columns["fingerprint"].hex())
    columns["affine_columns"] = _unpack_numbers(columns["affine_columns"])
    columns["frame_ids"] = _unpack_ids(*columns["frame_ids"])
    return tuple(Stack(*values) for values in zip(*columns.values(), strict=True))


def _pack_numbers(affines: Iterable[Affine]) -> str:
    """Give affines as text, first number by first number: shorter than eight bytes each."""
    rows = ((number for vector in affine for number in vector) for affine in affines)
    return " ".join(repr(number) for column in zip(*rows, strict=True) for number in column)


def _unpack_numbers(text: str) -> Iterator[Affine]:
    """Undo `_pack_numbers`."""
    numbers = [float(number) for number in text.split()]
    count = len(numbers) // 12
    for row in range(count):
        a, b, c, d, e, f, g, h, i, j, k, m = numbers[row::count]
        yield (a, b, c), (d, e, f), (g, h, i), (j, k, m)


def _pack_ids(column: Iterable[tuple[int, ...]]) -> tuple[list[Any], bytes]:
    """Give rows of the catalog as ranges where they are such, the others in one run of bytes."""
    kept: list[Any] = []
    others = []
    for ids in column:
        step = ids[1] - ids[0] if len(ids) > 1 else 1
        found = range(ids[0], ids[-1] + (1 if step > 0 else -1), step or 1)
        if len(found) == len(ids) and tuple(found) == ids:
            kept.append(found)
            continue
        above = np.array(ids) - min(ids)
        dtype = np.min_scalar_type(int(above.max()))
        others.append(above.astype(dtype).tobytes())
        kept.append((min(ids), len(ids), dtype.str))
    return kept, b"".join(others)


def _unpack_ids(kept: list[Any], others: bytes) -> Iterator[tuple[int, ...]]:
    """Undo `_pack_ids`."""
    offset = 0
    for each in kept:
        if isinstance(each, range):
            yield tuple(each)
            continue
        lowest, count, dtype = each
        above = np.frombuffer(others, dtype, count, offset)
        offset += above.nbytes
        yield tuple((above.astype(np.int64) + lowest).tolist())

"""Which part a patient gets: by a hash of who it is, or so that parts are balanced.

`draw` looks at one patient and nothing else: others may come and go, and it stays. Nothing that
does so can balance parts, since of two patients it does not know whether the other is there.
`balance` looks at all of them; what it decided holds because it is kept in a file, and taken up
from there when others come.
"""

from __future__ import annotations

import json
from collections import Counter
from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BITS = 64
"""Of the hash: parts of 10^9 patients are still as large as they should be."""


def rank(key: str, seed: int) -> int:
    """Give where a patient stands among all that could be, from 0 to 2^64 - 1."""
    text = json.dumps([seed, key])
    return int.from_bytes(blake2b(text.encode(), digest_size=_BITS // 8).digest(), "big")


def draw(key: str, seed: int, shares: Mapping[str, float]) -> str:
    """Give the part of a patient, by its name, the seed and the shares alone.

    Args:
        key: the patient.
        seed: another seed is another split.
        shares: of each part, in order; their sum is 1.
    """
    place = rank(key, seed) / 2**_BITS
    ends = accumulate(shares.values())
    # The last part has what rounding leaves of the sum.
    return next(
        (part for part, end in zip(shares, ends, strict=True) if place < end), [*shares][-1]
    )


def balance(
    strata: Mapping[str, str],
    seed: int,
    shares: Mapping[str, float],
    kept: Sequence[tuple[str, str]] = (),
) -> dict[str, str]:
    """Give each patient a part, so that all parts have their share of all, and of each stratum.

    Patients come in the order of their strata and hashes; each goes to the part that lacks most,
    in its stratum and altogether.

    Args:
        strata: patient -> stratum, of those that have no part yet.
        seed: another seed is another split.
        shares: of each part; their sum is 1.
        kept: (stratum, part) of each patient that has one, and keeps it.

    Returns:
        Patient -> part. Started with nothing, no part is further than two patients from its share,
        of a stratum or of all.
    """
    inside = Counter(kept)
    total = Counter(part for _, part in kept)
    size = Counter(stratum for stratum, _ in kept)
    chosen: dict[str, str] = {}
    for key in sorted(strata, key=lambda key: (strata[key], rank(key, seed))):
        stratum = strata[key]
        size[stratum] += 1
        lacks = {
            part: share * (size[stratum] + size.total()) - (inside[stratum, part] + total[part])
            for part, share in shares.items()
        }
        part = max(shares, key=lambda part: lacks[part])
        inside[stratum, part] += 1
        total[part] += 1
        chosen[key] = part
    return chosen

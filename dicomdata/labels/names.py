"""Names of segments as people write them -> the names that a training asks for."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from dicomdata.errors import ConfigError, LabelError
from dicomdata.labels.records import LabelFinding, Mask, Segment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def select_segments(
    mask: Mask,
    patterns: Mapping[str, str],
    *,
    missing: Literal["error", "empty", "drop"] = "error",
    others: Literal["drop", "error"] = "drop",
) -> Mask:
    """Give the segments that are asked for, under the names they are asked for by.

    Several segments that one pattern fits become one. They are numbered from 1, in the order asked
    for, so that a number means the same in every case.

    Args:
        mask: what was read.
        patterns: name -> regular expression that the whole name of a segment fits, as in
            ``{"lung": "(?i)lung.*|pulmo", "tumour": "GTV ?[0-9]*"}``. Case counts unless the
            expression says otherwise.
        missing: what to do where no segment fits a pattern: refuse; an empty segment, with a
            finding; or no segment, with a finding, the numbers of the others unchanged.
        others: what to do with segments that no pattern fits: leave them out, with a finding, or
            refuse.

    Raises:
        LabelError: if a pattern fits no segment, or a segment fits none and that is refused; or a
            segment fits several patterns.
        ConfigError: if a pattern is no regular expression.
    """
    chosen = _match(mask, patterns)
    left = [name for i, name in enumerate(mask.names) if not any(i in each for each in chosen)]
    lacking = [name for name, found in zip(patterns, chosen, strict=True) if not found]
    subject = mask.path or "mask"
    if (lacking and missing == "error") or (left and others == "error"):
        told = ", ".join(map(repr, mask.names)) or "none"
        what = (
            f"no segment is {', '.join(map(repr, lacking))}"
            if lacking and missing == "error"
            else f"segments that nothing asks for: {', '.join(map(repr, left))}"
        )
        raise LabelError(f"{subject}: {what}; it has {told}")
    findings = [*mask.findings]
    for name, found in zip(patterns, chosen, strict=True):
        if not found:
            findings.append(LabelFinding("missing", f"no segment is {name!r}"))
        elif len(found) > 1:
            joined = ", ".join(repr(mask.names[i]) for i in found)
            findings.append(LabelFinding("joined", f"{name!r} is {joined}", len(found)))
    if left:
        findings.append(
            LabelFinding("left_out", f"not asked for: {', '.join(map(repr, left))}", len(left))
        )
    wanted = [
        (number, name, found)
        for number, (name, found) in enumerate(zip(patterns, chosen, strict=True), 1)
        if found or missing != "drop"
    ]
    voxels = np.zeros((len(wanted), *mask.stack.shape), mask.voxels.dtype)
    for out, (_, _, found) in zip(voxels, wanted, strict=True):
        for i in found:
            # Of fractions the larger; of bool, either.
            np.maximum(out, mask.voxels[i], out=out)
    segments = tuple(_renamed(mask, number, name, found) for number, name, found in wanted)
    return replace(mask, voxels=voxels, segments=segments, findings=tuple(findings))


def _match(mask: Mask, patterns: Mapping[str, str]) -> list[list[int]]:
    """Give the places of the segments that fit each pattern.

    Raises:
        LabelError: if a segment fits several.
        ConfigError: if a pattern is no regular expression.
    """
    compiled = {}
    for name, pattern in patterns.items():
        try:
            compiled[name] = re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{name!r}: {pattern!r} is no regular expression: {error}") from error
    fitting = {
        known: [name for name, pattern in compiled.items() if pattern.fullmatch(known)]
        for known in mask.names
    }
    for known, names in fitting.items():
        if len(names) > 1:
            raise LabelError(
                f"{mask.path or 'mask'}: segment {known!r} fits the patterns of "
                f"{' and of '.join(map(repr, names))}: expected one"
            )
    return [
        [i for i, known in enumerate(mask.names) if name in fitting[known]] for name in patterns
    ]


def _renamed(mask: Mask, number: int, name: str, found: Sequence[int]) -> Segment:
    """Give a segment its new name and number; its codes stay where it is one alone."""
    if len(found) == 1:
        return replace(mask.segments[found[0]], number=number, name=name)
    return Segment(number, name)

"""Names of segments as people write them -> the names that a training asks for.

What is asked for is chosen by names alone (`choose`), before a voxel is read; so that of a label
with a hundred segments only the wanted ones take time and memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from dicomdata.errors import ConfigError, LabelError
from dicomdata.labels.records import LabelFinding, Segment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dicomdata.labels.records import Mask

Missing = Literal["error", "empty", "drop"]
"""What to do where no segment is called as asked: refuse, an empty segment, or none."""

Wanted = Mapping[str, str] | Sequence[str]
"""Name of a class -> pattern of the names of its segments; or the names themselves."""


def select_segments(
    mask: Mask,
    patterns: Mapping[str, str],
    *,
    missing: Missing = "error",
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
    chosen = choose(mask.path or "mask", mask.names, patterns, missing=missing, others=others)
    return chosen.of(mask, chosen.places)


class _Class(NamedTuple):
    """A segment that is asked for."""

    number: int
    name: str
    joins: int
    """How many segments of the label it is made of."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which segments of a label are asked for, and what becomes of them."""

    places: tuple[int, ...]
    """Which of the label's segments, class by class."""

    classes: tuple[_Class, ...] | None
    """What they become; None where they stay as they are."""

    findings: tuple[LabelFinding, ...] = ()
    """What is missing, joined and left out."""

    def of(self, mask: Mask, places: Sequence[int] | None = None) -> Mask:
        """Give the classes of a mask.

        Args:
            mask: what was read.
            places: where in it the chosen segments are; None where it has them alone, in order.
        """
        if self.classes is None:
            return mask
        rows = iter(range(len(self.places)) if places is None else places)
        groups = [[next(rows) for _ in range(each.joins)] for each in self.classes]
        return replace(
            mask,
            voxels=_joined(mask.voxels, groups),
            segments=tuple(map(_renamed, [mask] * len(groups), self.classes, groups)),
            findings=(*mask.findings, *self.findings),
        )


def choose(
    subject: str,
    names: Sequence[str],
    wanted: Wanted | None,
    *,
    missing: Missing = "error",
    others: Literal["drop", "error"] = "drop",
) -> Chosen:
    """Choose segments by what they are called, as `select_segments` says.

    Args:
        subject: the label, for errors.
        names: of its segments.
        wanted: patterns, or names; None takes all as they are.
        missing: what to do where no segment fits.
        others: what to do with segments that nothing fits.

    Raises:
        LabelError: if what is asked for is not there, or a segment is asked for twice.
        ConfigError: if a pattern is no regular expression.
    """
    if wanted is None:
        return Chosen(tuple(range(len(names))), None)
    patterns = patterns_of(wanted)
    fitting = _match(subject, names, patterns)
    left = [name for i, name in enumerate(names) if not any(i in each for each in fitting)]
    lacking = [name for name, found in zip(patterns, fitting, strict=True) if not found]
    if (lacking and missing == "error") or (left and others == "error"):
        told = ", ".join(map(repr, names)) or "none"
        what = (
            f"no segment is {', '.join(map(repr, lacking))}"
            if lacking and missing == "error"
            else f"segments that nothing asks for: {', '.join(map(repr, left))}"
        )
        raise LabelError(f"{subject}: {what}; it has {told}")
    findings = []
    for name, found in zip(patterns, fitting, strict=True):
        if not found:
            findings.append(find_missing(name))
        elif len(found) > 1:
            joined = ", ".join(repr(names[i]) for i in found)
            findings.append(LabelFinding("joined", f"{name!r} is {joined}", len(found)))
    if left:
        text = f"not asked for: {', '.join(map(repr, left))}"
        findings.append(LabelFinding("left_out", text, len(left)))
    classes = tuple(
        _Class(number, name, len(found))
        for number, (name, found) in enumerate(zip(patterns, fitting, strict=True), 1)
        if found or missing != "drop"
    )
    return Chosen(tuple(i for found in fitting for i in found), classes, tuple(findings))


def patterns_of(wanted: Wanted) -> Mapping[str, str]:
    """Give name -> pattern; a plain name fits itself alone.

    Raises:
        ConfigError: if names are no list of different names.
    """
    if isinstance(wanted, Mapping):
        return wanted
    if isinstance(wanted, str) or len(set(wanted)) < len(wanted):
        raise ConfigError(
            f"segments={wanted!r}: expected a list of different names, or a pattern for each name"
        )
    return {name: re.escape(name) for name in wanted}


def find_missing(name: str) -> LabelFinding:
    """Tell of a class that no segment is of."""
    return LabelFinding("missing", f"no segment is {name!r}")


def merge(out: NDArray[np.generic], part: NDArray[np.generic]) -> None:
    """Put a segment (slices, rows, columns) over another: of fractions the larger; of bool, either.

    Slices without it are not touched: memory of zeros is taken when it is written to.
    """
    for below, above in zip(out, part, strict=True):
        if above.any():
            np.maximum(below, above, out=below)


def _match(subject: str, names: Sequence[str], patterns: Mapping[str, str]) -> list[list[int]]:
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
        for known in names
    }
    for known, fits in fitting.items():
        if len(fits) > 1:
            raise LabelError(
                f"{subject}: segment {known!r} fits the patterns of "
                f"{' and of '.join(map(repr, fits))}: expected one"
            )
    return [[i for i, known in enumerate(names) if name in fitting[known]] for name in patterns]


def _joined(voxels: NDArray[np.generic], groups: Sequence[list[int]]) -> NDArray[np.generic]:
    """Give the segments of each group as one, (groups, slices, rows, columns)."""
    if groups == [[i] for i in range(len(voxels))]:
        return voxels
    joined = np.zeros((len(groups), *voxels.shape[1:]), voxels.dtype)
    for out, group in zip(joined, groups, strict=True):
        for i in group:
            merge(out, voxels[i])
    return joined


def _renamed(mask: Mask, wanted: _Class, group: Sequence[int]) -> Segment:
    """Give a segment its new name and number; its codes stay where it is one alone."""
    if len(group) == 1:
        return replace(mask.segments[group[0]], number=wanted.number, name=wanted.name)
    return Segment(wanted.number, wanted.name)

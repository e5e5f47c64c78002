"""One prediction against one label, on the label's grid: `score`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Literal

import numpy as np

from dicomdata.errors import ConfigError, LabelError
from dicomdata.evaluate.placing import is_there, onto_grid_of
from dicomdata.evaluate.surfaces import SurfaceDistances, compare_surfaces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dicomdata.labels import LabelFinding, Mask, Verdict
    from dicomdata.stack import Stack

Presence = Literal["both", "label_only", "prediction_only", "neither"]
"""Where a segment has voxels at all."""

_NAN = math.nan
_NO_DISTANCES = SurfaceDistances(_NAN, _NAN, _NAN, _NAN)
_SAME_SURFACE = SurfaceDistances(0.0, 0.0, 0.0, 1.0)
_ONE_SURFACE = SurfaceDistances(math.inf, math.inf, math.inf, 0.0)


@dataclass(frozen=True, slots=True)
class ScoringRules:
    """What is decided about a score before it is computed; a `Report` states it."""

    segments: Sequence[str | tuple[str, str]] = ()
    """Names of the segments to compare, or pairs of a label's name and the prediction's. Empty:
    all, and both must have the same."""

    tolerance_mm: float | None = None
    """Distance between surfaces that is no error, for surface Dice; None: no surface Dice."""

    both_empty: Literal["skip", "agree"] = "skip"
    """What a segment gives that neither has a voxel of: nothing, nan and left out of all means; or
    agreement, Dice 1 and distance 0."""

    resample: bool = False
    """Whether a prediction on another grid is resampled to the label's; otherwise it is refused."""

    def __post_init__(self) -> None:
        if isinstance(self.segments, str):
            raise ConfigError(f"segments={self.segments!r}: expected names, ({self.segments!r},)")
        for each in self.segments:
            if not (isinstance(each, str) or _is_pair(each)):
                raise ConfigError(f"segments: {each!r} is neither a name nor a pair of names")
        named = [each if isinstance(each, str) else each[0] for each in self.segments]
        if twice := {name for name in named if named.count(name) > 1}:
            raise ConfigError(
                f"segments: {', '.join(sorted(twice))} comes twice, and would count so"
            )
        tolerance = self.tolerance_mm
        if tolerance is not None and not (_is_number(tolerance) and 0 <= tolerance < math.inf):
            raise ConfigError(f"tolerance_mm={tolerance!r}: expected a length, 0 or more")
        if self.both_empty not in {"skip", "agree"}:
            raise ConfigError(f"both_empty={self.both_empty!r}: expected 'skip' or 'agree'")


@dataclass(frozen=True, slots=True)
class SegmentScore:
    """How one segment was predicted. nan: there is nothing to compare, and the rule is to skip."""

    segment: str
    """Name, the label's."""

    presence: Presence
    """Which of the two have a voxel of it."""

    dice: float
    """2 |A and B| / (|A| + |B|), 0 to 1; 0 where one of them is empty."""

    surface_dice: float | None
    """Share of the area of both surfaces that is within the tolerance of the other; None without a
    tolerance."""

    mean_distance_mm: float
    """Of all surface points of either to the other's surface; inf where one is empty."""

    hausdorff95_mm: float
    """95th percentile of each direction, the larger of the two; inf where one is empty."""

    hausdorff_mm: float
    """The largest of these distances; inf where one is empty."""

    label_ml: float
    """Volume of the label."""

    prediction_ml: float
    """Volume of the prediction."""

    @property
    def difference_ml(self) -> float:
        """Volume of the prediction less that of the label."""
        return self.prediction_ml - self.label_ml


@dataclass(frozen=True, slots=True)
class Score:
    """How one prediction did, segment by segment."""

    segments: tuple[SegmentScore, ...]
    """In the order of the label's, or of the rules'."""

    stack: Stack
    """On whose grid they were compared: the label's."""

    verdict: Verdict
    """How the prediction came there."""

    findings: tuple[LabelFinding, ...]
    """What else is true of the prediction: parts outside the stack."""

    rules: ScoringRules
    """Under which it was computed."""

    def of(self, segment: str) -> SegmentScore:
        """Give the score of the segment of a name.

        Raises:
            LabelError: if there is none.
        """
        for each in self.segments:
            if each.segment == segment:
                return each
        known = ", ".join(repr(each.segment) for each in self.segments)
        raise LabelError(f"no segment {segment!r} was scored; there are {known}")


def score(label: Mask, prediction: Mask, rules: ScoringRules | None = None) -> Score:
    """Compare a prediction with a label on the label's grid.

    Fractional segments count from one half on. Where segments overlap, each is compared whole.

    Args:
        label: the truth, on its stack.
        prediction: on the same grid; its slices or axes may run the other way.
        rules: which segments, at what tolerance, and what to do with empty and resampled ones.

    Raises:
        LabelError: if the two are not on one grid and resampling was not asked for, are of
            different patients or frames of reference, or have not the same segments.
    """
    chosen = rules or ScoringRules()
    pairs = pair_names(label, prediction, chosen)
    placed = onto_grid_of(prediction, label, resample=chosen.resample)
    affine = label.stack.affine_lps
    scores = tuple(
        _compared(name, is_there(label.of(name)), is_there(placed.of(theirs)), affine, chosen)
        for name, theirs in pairs
    )
    return Score(scores, label.stack, placed.verdict, placed.findings, chosen)


def pair_names(label: Mask, prediction: Mask, rules: ScoringRules) -> list[tuple[str, str]]:
    """Give the names of the segments to compare: the label's, the prediction's."""
    if rules.segments:
        return [(each, each) if isinstance(each, str) else each for each in rules.segments]
    if set(label.names) != set(prediction.names):
        raise LabelError(
            f"stack {label.stack.id}: the label has segments {_listed(label.names)}, the "
            f"prediction {_listed(prediction.names)}: say which to compare"
        )
    return [(name, name) for name in label.names]


def _is_pair(names: object) -> bool:
    return (
        isinstance(names, Sequence)
        and len(names) == len(("label", "prediction"))
        and all(isinstance(name, str) for name in names)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _compared(
    name: str,
    label: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    affine: NDArray[np.float64],
    rules: ScoringRules,
) -> SegmentScore:
    """Score one segment, (slices, rows, columns) of both."""
    sizes = int(np.count_nonzero(label)), int(np.count_nonzero(prediction))
    common = int(np.count_nonzero(label & prediction))
    presence = _presence(*sizes)
    if presence == "both":
        dice = 2 * common / sum(sizes)
        apart = compare_surfaces(label, prediction, affine, tolerance_mm=rules.tolerance_mm)
    elif presence == "neither":
        skip = rules.both_empty == "skip"
        dice, apart = (_NAN, _NO_DISTANCES) if skip else (1.0, _SAME_SURFACE)
    else:
        dice, apart = 0.0, _ONE_SURFACE
    # mm3 to ml; a leaning grid's voxels are as large as the determinant says.
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    return SegmentScore(
        segment=name,
        presence=presence,
        dice=dice,
        surface_dice=None if rules.tolerance_mm is None else apart.within,
        mean_distance_mm=apart.mean_mm,
        hausdorff95_mm=apart.hausdorff95_mm,
        hausdorff_mm=apart.hausdorff_mm,
        label_ml=sizes[0] * voxel_ml,
        prediction_ml=sizes[1] * voxel_ml,
    )


def _presence(label: int, prediction: int) -> Presence:
    if label and prediction:
        return "both"
    if label:
        return "label_only"
    return "prediction_only" if prediction else "neither"

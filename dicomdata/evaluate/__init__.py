"""Predictions against labels, on the grid of the source images.

`score` compares one prediction with one label: `placing` brings the two onto one grid or refuses
to, `surfaces` measures distances in mm, `surfels` areas. `evaluate` does so for many cases and
gives a `Report` (`records`), with intervals over patients (`summarising`) and a page of the worst
(`page`). `predict` gives a network's output on the grid of a stack, `to_mask` segments of it
(`predicting`); of all this, they and `predict_classes` alone need torch. `evaluate_classes`
compares classes of whole cases (`classifying`, `rates`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dicomdata.evaluate.classifying import (
    ClassCase,
    ClassReport,
    ClassRow,
    ClassSummary,
    evaluate_classes,
)
from dicomdata.evaluate.evaluating import evaluate
from dicomdata.evaluate.keeping import KeptMasks
from dicomdata.evaluate.placing import place_mask
from dicomdata.evaluate.records import Case, CaseRow, Report, Summary
from dicomdata.evaluate.scoring import Score, ScoringRules, SegmentScore, score

if TYPE_CHECKING:
    from dicomdata.evaluate.predicting import predict, predict_classes, to_mask

__all__ = [
    "Case",
    "CaseRow",
    "ClassCase",
    "ClassReport",
    "ClassRow",
    "ClassSummary",
    "KeptMasks",
    "Report",
    "Score",
    "ScoringRules",
    "SegmentScore",
    "Summary",
    "evaluate",
    "evaluate_classes",
    "place_mask",
    "predict",
    "predict_classes",
    "score",
    "to_mask",
]


def __getattr__(name: str) -> Any:
    if name in {"predict", "predict_classes", "to_mask"}:
        from dicomdata.evaluate import predicting  # torch and MONAI take seconds

        return getattr(predicting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

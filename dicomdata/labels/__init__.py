"""Labels onto the grid of a Stack: what is labelled, and how it lies there.

`records` says what reading a label gives: a `Mask`, with a verdict on its geometry. `placing` tells
by affines which voxel of a stack each voxel of a label is, `resampling` is for labels on another
grid, where that was asked for. `segmentation` reads DICOM SEG, with `segments` and `planes`;
`structures` reads RTSTRUCT, with `roi` and `contours`. `references` finds what a label says it
belongs to, `belonging` holds that against a stack, `matching` against all stacks of a plan.
`files` reads NIfTI, MetaImage and NRRD; `names` chooses segments by what they are called, `joining`
makes one mask of several labels of a stack; `cases` reads tables with a label for each patient,
study or series. `archive` knows the label files of all stacks, and gives each its classes.
"""

from __future__ import annotations

from dicomdata.labels.archive import LabelFiles
from dicomdata.labels.belonging import slice_offsets
from dicomdata.labels.cases import CaseLabels, LabelledCases, read_case_labels
from dicomdata.labels.files import read_label_file
from dicomdata.labels.matching import FoundLabels, LabelMatch, find_labels
from dicomdata.labels.names import select_segments
from dicomdata.labels.records import Code, LabelFinding, Mask, Segment, Verdict
from dicomdata.labels.segmentation import read_segmentation
from dicomdata.labels.structures import read_structures

__all__ = [
    "CaseLabels",
    "Code",
    "FoundLabels",
    "LabelFiles",
    "LabelFinding",
    "LabelMatch",
    "LabelledCases",
    "Mask",
    "Segment",
    "Verdict",
    "find_labels",
    "read_case_labels",
    "read_label_file",
    "read_segmentation",
    "read_structures",
    "select_segments",
    "slice_offsets",
]

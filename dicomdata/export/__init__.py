"""Masks on the grid of a Stack -> files that refer to its images.

`segmentation` writes DICOM SEG, `structures` RTSTRUCT along the lines of `tracing`; `masks` takes a
mask in whatever form it is handed over, `sources` says what a new object takes over from the images
it was made from.
"""

from __future__ import annotations

from dicomdata.export.files import write_volume
from dicomdata.export.segmentation import write_segmentation
from dicomdata.export.structures import write_structures

__all__ = ["write_segmentation", "write_structures", "write_volume"]

"""Samples -> batches for any DataLoader.

`collate`, `SharedCollate` for many large ones, and `EpochSampler`, which can be resumed.
"""

from __future__ import annotations

from dicomdata.loader.collating import SharedCollate, collate
from dicomdata.loader.sampling import EpochSampler

__all__ = ["EpochSampler", "SharedCollate", "collate"]

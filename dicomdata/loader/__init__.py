"""Samples -> batches for any DataLoader: `collate`, and `EpochSampler`, which can be resumed."""

from __future__ import annotations

from dicomdata.loader.collating import collate
from dicomdata.loader.sampling import EpochSampler

__all__ = ["EpochSampler", "collate"]

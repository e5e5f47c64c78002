"""Samples -> batches for any DataLoader.

`collate`, `SharedCollate` for many large ones, `EpochSampler`, which can be resumed, and `upload`,
which brings a batch to the device that computes.
"""

from __future__ import annotations

from dicomdata.loader.collating import SharedCollate, collate
from dicomdata.loader.sampling import EpochSampler
from dicomdata.loader.uploading import upload

__all__ = ["EpochSampler", "SharedCollate", "collate", "upload"]

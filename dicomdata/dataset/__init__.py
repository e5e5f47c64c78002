"""Stacks as PyTorch datasets: map-style, picklable, no open files between samples.

`volumes` has one sample a volume. `seeding` makes a sample depend on its seed, epoch and index
alone, whoever reads it.
"""

from __future__ import annotations

from dicomdata.dataset.seeding import SampleIndex, seeded
from dicomdata.dataset.volumes import Transform, VolumeDataset

__all__ = ["SampleIndex", "Transform", "VolumeDataset", "seeded"]

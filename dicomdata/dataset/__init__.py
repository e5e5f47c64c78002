"""Stacks as PyTorch datasets: map-style, picklable, no open files between samples.

`volumes` has one sample a volume, `patches` one or more a patch; `samples` is what they share, and
`masks` gives them labels on the same grid.
`placement` says where patches lie, `positions` where the classes of masks are, and `reassembly`
puts predictions back. `prefix` is what a cache keeps of a transform: of its `steps`, told apart by
their `settings`, voxels that lie in memory as `strides` says, and all else as `plain` values.
`packing` makes stacks small for workers. `seeding` makes a sample depend on its seed, epoch and
index alone, whoever reads it.
"""

from __future__ import annotations

from dicomdata.dataset.masks import Labels
from dicomdata.dataset.patches import PatchDataset
from dicomdata.dataset.placement import BalancedPatches, GridPatches, Placement, UniformPatches
from dicomdata.dataset.positions import LabelPositions
from dicomdata.dataset.reassembly import reassemble
from dicomdata.dataset.samples import Transform
from dicomdata.dataset.seeding import SampleIndex, seeded
from dicomdata.dataset.volumes import VolumeDataset

__all__ = [
    "BalancedPatches",
    "GridPatches",
    "LabelPositions",
    "Labels",
    "PatchDataset",
    "Placement",
    "SampleIndex",
    "Transform",
    "UniformPatches",
    "VolumeDataset",
    "reassemble",
    "seeded",
]

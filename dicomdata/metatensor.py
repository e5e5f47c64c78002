"""A `Volume` as a MONAI `MetaTensor`, and back: where (slices, rows, columns) meet (X, Y, Z).

MONAI counts voxels (x, y, z) = (column, row, slice) and maps them to RAS. Both begin and end
here, as a view: memory stays in (slices, rows, columns), whatever the order of the axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.utils.enums import MetaKeys, SpaceKeys

from dicomdata.errors import GeometryError
from dicomdata.geometry import lps_to_ras

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dicomdata.volume import Volume

_SWAPPED = (2, 1, 0, 3)
"""Columns of an affine of (x, y, z, 1), given those of (slice, row, column, 1); and back."""


def to_metatensor(volume: Volume, *, dtype: torch.dtype | None = torch.float32) -> MetaTensor:
    """Give a volume as MONAI has it: shape (1, X, Y, Z), affine (x, y, z, 1) -> RAS mm.

    Shares memory with the volume, unless the type changes or its voxels are read-only.

    Args:
        volume: what was read, whole or a part.
        dtype: type of the voxels; None keeps int16.
    """
    voxels = volume.voxels if volume.voxels.flags.writeable else volume.voxels.copy()
    # Converted before the axes are turned: this way memory stays in order.
    tensor = torch.from_numpy(voxels).to(dtype=dtype)
    return MetaTensor(tensor.permute(2, 1, 0)[None], meta=metadata(volume))


def metadata(volume: Volume) -> dict[str, Any]:
    """Give what the `MetaTensor` of a volume says."""
    return {**describe(volume), str(MetaKeys.ORIGINAL_CHANNEL_DIM): 0}


def describe(volume: Volume) -> dict[str, Any]:
    """Give the metadata of a volume: the same keys always, tensors, tuples, text and numbers.

    No arrays, which would make `PersistentDataset` recompute; no None, which does not collate;
    nothing of the patient.
    """
    affine = torch.from_numpy(volume.affine_ras[:, _SWAPPED])
    stack = volume.stack
    return {
        str(MetaKeys.AFFINE): affine,
        str(MetaKeys.ORIGINAL_AFFINE): affine.clone(),
        str(MetaKeys.SPACE): str(SpaceKeys.RAS),
        str(MetaKeys.SPATIAL_SHAPE): tuple(reversed(volume.voxels.shape)),
        "filename_or_obj": stack.token,
        "unit": volume.unit,
        "modality": stack.modality,
        "series_instance_uid": stack.series_instance_uid,
        # Text: numbers of slices that were filled in, counted from the first of the volume.
        "filled_slices": " ".join(map(str, np.flatnonzero(~volume.valid))),
    }


@dataclass(frozen=True, slots=True, eq=False)
class PlacedVoxels:
    """Voxels and where they are: a `Volume` without its source."""

    voxels: NDArray[Any]
    """(slices, rows, columns)."""

    affine_lps: NDArray[np.float64]
    """(4, 4), read-only: (slice, row, column, 1) -> LPS mm."""

    @property
    def affine_ras(self) -> NDArray[np.float64]:
        """(4, 4), read-only: (slice, row, column, 1) -> RAS mm."""
        return lps_to_ras(self.affine_lps)


def from_metatensor(tensor: torch.Tensor) -> PlacedVoxels:
    """Give back the voxels of a (1, X, Y, Z) tensor, and where they are in the patient.

    The exact inverse of `to_metatensor`. Of a tensor that was flipped, turned, cropped or
    resampled, "slices" are its last axis: the affine says which way they lie.

    Raises:
        GeometryError: if it is not one channel of three axes, or says nothing of its place.
    """
    if not isinstance(tensor, MetaTensor):
        raise GeometryError("expected a MetaTensor: a plain tensor does not say where it is")
    if tensor.ndim != 4 or tensor.shape[0] != 1:
        raise GeometryError(
            f"expected a tensor of shape (1, X, Y, Z), got {tuple(tensor.shape)}: take a batch "
            f"apart with decollate_batch, and channels one by one"
        )
    voxels = tensor.as_tensor().detach().cpu().numpy()[0].transpose(2, 1, 0)
    return PlacedVoxels(voxels, affine_lps_of(tensor, _SWAPPED[:3]))


def affine_lps_of(tensor: MetaTensor, axes: Sequence[int]) -> NDArray[np.float64]:
    """Give the (4, 4) affine of a tensor for its spatial axes in another order, read-only.

    Args:
        tensor: with an affine of three spatial axes, which are counted from 0.
        axes: their order: (2, 1, 0) for an affine of (slice, row, column, 1).
    """
    affine = np.asarray(tensor.affine.cpu().numpy()[:, [*axes, 3]], np.float64)
    if tensor.meta.get(MetaKeys.SPACE) != SpaceKeys.LPS:
        affine = lps_to_ras(affine)  # its own inverse
    affine.flags.writeable = False
    return affine

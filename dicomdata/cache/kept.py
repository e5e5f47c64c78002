"""What is kept of a volume: its voxels, as int16 where that loses nothing, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import CacheError
from dicomdata.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dicomdata.regions import Region
    from dicomdata.stack import Stack


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A volume as it is kept, without the stack: that is known when it is asked for."""

    voxels: NDArray[Any]
    """(slices, rows, columns), contiguous: int16 where `dtype` is float32 and it is exact."""

    dtype: np.dtype[Any]
    """Type of the voxels as they were read, and will be given."""

    unit: str
    """Unit of the voxels."""

    valid: NDArray[np.bool_]
    """(slices,): which slices were measured."""

    region: Region
    """Which box of the stack it is."""

    def volume(self, stack: Stack, region: Region | None = None) -> Volume:
        """Give what was kept, or a box of it: no other voxel is copied or converted.

        Args:
            stack: whose volume it is.
            region: which box of the stack; all that was kept by default.

        Returns:
            The volume; its arrays are new.

        Raises:
            ValueError: if the region is empty.
        """
        if region is None:
            return Volume(
                self.voxels.astype(self.dtype), self.unit, self.valid.copy(), stack, self.region
            )
        ranges = region.within(stack.shape)
        slices, rows, columns = (slice(indices.start, indices.stop) for indices in ranges)
        voxels = self.voxels[slices, rows, columns].astype(self.dtype, order="C")
        return Volume(voxels, self.unit, self.valid[slices].copy(), stack, region)

    def has(self, region: Region | None, stack: Stack) -> bool:
        """Whether a box of the stack can be cut from what was kept: not where that is a box."""
        return region is None or self.voxels.shape == stack.shape


def keep(volume: Volume) -> Kept:
    """Take what is kept of a volume; shares memory with it unless int16 will do.

    Raises:
        CacheError: if its voxels are no numbers.
    """
    voxels = volume.voxels
    if voxels.dtype.kind not in "biuf":
        raise CacheError(f"voxels of type {voxels.dtype} cannot be kept")
    exact = as_int16(voxels) if voxels.dtype == np.float32 else None
    smallest = np.ascontiguousarray(voxels) if exact is None else exact
    return Kept(smallest, voxels.dtype, volume.unit, volume.valid.copy(), volume.region)


def as_int16(voxels: NDArray[np.float32]) -> NDArray[np.int16] | None:
    """Give float32 voxels as int16; None where that would lose a single bit.

    Bits are compared, not values: -0.0 equals 0 and is not the same.
    """
    narrow = np.empty(voxels.shape, np.int16)
    # Slice by slice: both conversions stay within the processor's cache, and a no comes early.
    with np.errstate(invalid="ignore"):
        for plane, small in zip(voxels, narrow, strict=True):
            small[...] = plane
            wide = small.astype(np.float32)
            if not np.array_equal(
                wide.view(np.uint32), np.ascontiguousarray(plane).view(np.uint32)
            ):
                return None
    return narrow

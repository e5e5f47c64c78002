"""What is kept of a volume: its voxels, as int16 where that loses nothing, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dicomdata.errors import CacheError
from dicomdata.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dicomdata.regions import Region
    from dicomdata.stack import Stack


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What transforms made of a volume, besides the voxels."""

    sample: str
    """All else there is to it, as JSON text: for who transformed it to read."""

    affine_lps: NDArray[np.float64]
    """(4, 4), read-only: indices of the voxels and 1 -> LPS mm; of several channels, which follow
    each other along the first axis, for the first."""


@dataclass(frozen=True, slots=True, eq=False)
class TransformedVolume(Volume):
    """What transforms made of a volume, voxels of a shape of their own: what caches can keep."""

    made: Made = field(kw_only=True)
    """What it is besides its voxels."""

    @property
    def affine_lps(self) -> NDArray[np.float64]:
        """(4, 4), read-only: indices of `voxels` and 1 -> LPS mm."""
        return self.made.affine_lps


def given(volume: Volume, made: Made | None) -> Volume:
    """Give back what was kept: a volume, or what transforms made of one."""
    if made is None:
        return volume
    return TransformedVolume(
        volume.voxels, volume.unit, volume.valid, volume.stack, volume.region, made=made
    )


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

    made: Made | None = None
    """What transforms made of it; None where it is as it was read."""

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
            whole = self.voxels.astype(self.dtype)
            volume = Volume(whole, self.unit, self.valid.copy(), stack, self.region)
            return given(volume, self.made)
        ranges = region.within(stack.shape)
        slices, rows, columns = (slice(indices.start, indices.stop) for indices in ranges)
        voxels = self.voxels[slices, rows, columns].astype(self.dtype, order="C")
        return Volume(voxels, self.unit, self.valid[slices].copy(), stack, region)

    def has(self, region: Region | None, stack: Stack) -> bool:
        """Whether a box of the stack can be cut from what was kept: not where that is a box."""
        return region is None or (self.made is None and self.voxels.shape == stack.shape)


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
    made = volume.made if isinstance(volume, TransformedVolume) else None
    return Kept(smallest, voxels.dtype, volume.unit, volume.valid.copy(), volume.region, made)


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

"""`StackReader`: MONAI's ``LoadImaged`` on the stacks of a plan.

    catalog = dd.scan("/data/ct").save("ct.catalog")
    items = dd.plan_stacks(catalog.select(modality="CT")).items()
    load = LoadImaged("image", reader=dd.StackReader(catalog), ensure_channel_first=True)
    dataset = CacheDataset(items, Compose([load, ...]))

An item names a stack by a path that does not exist, "<root>/<stack id>.dcmseries". `LoadImage`
lets its other readers try what one of them could not read, so a real path would make ITK load
what was refused here; and it hides the type of an error that is raised while a file is opened.
So opening only takes the name, and everything that can fail happens when the data is asked for.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils.enums import MetaKeys
from monai.utils.misc import ensure_tuple

from dicomdata.catalog import Catalog, open_catalog, scan
from dicomdata.errors import ConfigError, GeometryError, StaleError
from dicomdata.metatensor import describe
from dicomdata.stack import Policy, Stack, plan_stacks
from dicomdata.stack.records import NO_UID, TOKEN_SUFFIX, series_prefix
from dicomdata.volume import Volume, read_volume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

_SAME_PLACE_MM = 1e-3
"""Affines that differ by less place voxels alike."""

_PREAMBLE_BYTES = 128
_MAGIC = b"DICM"
"""After the preamble of a DICOM file (PS3.10 7.1)."""


@dataclass(frozen=True, slots=True)
class NamedStacks:
    """What `StackReader.read` gives: names that `StackReader.get_data` looks up."""

    names: tuple[str, ...]
    """Tokens of `StackPlan.items`, or folders."""


class StackReader(ImageReader):
    """Reads stacks for MONAI: the items of a plan, or folders that hold one volume.

    A path and options: it pickles, keeps nothing between `read` and `get_data`, and threads may
    share it. By name in a bundle: ``{"_target_": "dicomdata.reader.StackReader", "catalog": ...}``.
    """

    def __init__(
        self,
        catalog: str | os.PathLike[str] | Catalog | None,
        policy: Policy | None = None,
        *,
        allow_paths: bool = False,
        dtype: DTypeLike = np.float32,
    ) -> None:
        """Read the stacks of a catalog.

        Args:
            catalog: where they were planned from, a file or the catalog itself; None if only
                folders are read.
            policy: the one they were planned under.
            allow_paths: read folders too, each if it holds exactly one volume and nothing that
                was rejected. Their headers are read anew each time.
            dtype: float32, or int16 where every voxel is whole and fits; `LoadImage` converts to
                its own `dtype` after that, unless that is None.

        Raises:
            CatalogError: if the catalog cannot be opened.
            ConfigError: if there is neither a catalog nor `allow_paths`.
        """
        super().__init__()
        if catalog is None and not allow_paths:
            raise ConfigError("StackReader needs a catalog, or allow_paths=True to read folders")
        if catalog is not None:
            opened = catalog if isinstance(catalog, Catalog) else open_catalog(catalog)
            catalog = str(opened.path)
        self.catalog = catalog
        self.policy = policy or Policy()
        self.allow_paths = allow_paths
        self.dtype = np.dtype(dtype)

    def verify_suffix(
        self, filename: Sequence[os.PathLike[str] | str] | os.PathLike[str] | str
    ) -> bool:
        """Whether all names are tokens, or folders where those are allowed."""
        names = [os.fspath(name) for name in ensure_tuple(filename)]
        return all(
            name.endswith(TOKEN_SUFFIX) or (self.allow_paths and os.path.isdir(name))
            for name in names
        )

    def read(
        self, data: Sequence[os.PathLike[str] | str] | os.PathLike[str] | str, **_options: Any
    ) -> NamedStacks:
        """Take the names of what is to be read; looks at no file that is a stack's.

        Raises:
            ConfigError: if a name is a file of another format, which another reader may read.
        """
        names = tuple(os.fspath(name) for name in ensure_tuple(data))
        for name in names:
            if os.path.isfile(name) and not _is_dicom(name):
                raise ConfigError(f"{name}: not a stack, and not DICOM")
        return NamedStacks(names)

    def get_data(self, img: NamedStacks) -> tuple[NDArray[Any], dict[str, Any]]:
        """Read the stacks: voxels (X, Y, Z), or (channels, X, Y, Z) of several on one grid.

        Returns:
            The voxels, contiguous, and the metadata of the first.

        Raises:
            DicomDataError: if a stack is not found, was rejected, or cannot be read.
            GeometryError: if several stacks are not on one grid.
        """
        arrays, first = [], None
        for name in img.names:
            volume = self._read_stack(name)
            first = first or volume
            if not _same_grid(first, volume):
                raise GeometryError(
                    f"channels must share one grid: {first.stack.token} and {name} do not"
                )
            arrays.append(_as_xyz(volume.voxels))
        if first is None:
            raise ConfigError("no stack was named")
        no_channel = float("nan")
        meta = {**describe(first), str(MetaKeys.ORIGINAL_CHANNEL_DIM): no_channel}
        if len(arrays) == 1:
            return arrays[0], meta
        return np.stack(arrays), {**meta, str(MetaKeys.ORIGINAL_CHANNEL_DIM): 0}

    def _read_stack(self, name: str) -> Volume:
        if name.endswith(TOKEN_SUFFIX) and self.catalog is not None:
            status = os.stat(self.catalog)
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            stack = _find_stack(self.catalog, stamp, self.policy, name)
            return read_volume(stack, dtype=self.dtype)
        if self.allow_paths and os.path.isdir(name):
            return self._read_folder(name)
        expected = f"a token of StackPlan.items(), which ends in {TOKEN_SUFFIX}"
        if self.allow_paths:
            expected = f"a folder, or {expected}"
        raise ConfigError(f"{name}: expected {expected}")

    def _read_folder(self, folder: str) -> Volume:
        with tempfile.TemporaryDirectory(prefix="dicomdata-") as scratch:
            catalog = scan(folder, catalog=os.path.join(scratch, "catalog"), progress=False)
            plan = plan_stacks(catalog, self.policy)
            refused = [*plan.rejected, *catalog.damaged]
            if len(plan.stacks) != 1 or refused:
                because = f", as in: {refused[0]}" if refused else ""
                raise GeometryError(
                    f"{folder}: expected one volume, found {len(plan.stacks)}, "
                    f"and {len(refused)} rejected{because}"
                )
            return read_volume(plan.stacks[0], dtype=self.dtype)


@lru_cache(maxsize=256)
def _find_stack(
    catalog: str,
    _stamp: tuple[int, int, int],  # another catalog under the same name is another catalog
    policy: Policy,
    name: str,
) -> Stack:
    """Plan the one series that a token names, and give the stack.

    Raises:
        DicomDataError: why the series was rejected; `StaleError` if the stack is not in it.
    """
    wanted = os.path.basename(name).removesuffix(TOKEN_SUFFIX)
    prefix, _, _ = wanted.rpartition("-")
    chosen = open_catalog(catalog)
    if prefix == NO_UID:
        chosen = chosen.select(lambda each: series_prefix(each.series_instance_uid) == NO_UID)
    else:
        chosen = chosen.select(series_instance_uid=prefix)
    plan = plan_stacks(chosen, policy)
    for stack in plan.stacks:
        for each in (stack, stack.reversed()):
            if each.id == wanted:
                return each
    if plan.rejected:
        raise plan.rejected[0].error
    raise StaleError(
        f"{name}: the catalog {catalog} has no such stack: it was refreshed since, or the items "
        f"come from another catalog or another policy; plan the stacks again"
    )


def _is_dicom(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(_PREAMBLE_BYTES + len(_MAGIC)).endswith(_MAGIC)


def _same_grid(one: Volume, other: Volume) -> bool:
    return one.voxels.shape == other.voxels.shape and np.allclose(
        one.affine_lps, other.affine_lps, rtol=0, atol=_SAME_PLACE_MM
    )


def _as_xyz(voxels: NDArray[Any]) -> NDArray[Any]:
    """Turn (slices, rows, columns) into a contiguous (X, Y, Z), which `LoadImage` insists on.

    Row by row, and each plane copied before it is turned: the plane fits the processor's cache,
    the volume does not, and this takes a fifth of the time.
    """
    slices, rows, columns = voxels.shape
    turned = np.empty((columns, rows, slices), voxels.dtype)
    for row in range(rows):
        turned[:, row, :] = np.ascontiguousarray(voxels[:, row, :]).T
    return turned

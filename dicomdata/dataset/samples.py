"""What all datasets of stacks share: what a sample says, and how it is transformed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from torch.utils.data import Dataset, get_worker_info

from dicomdata.cache import NoCache
from dicomdata.dataset.masks import LabelReader
from dicomdata.dataset.packing import pack, unpack
from dicomdata.dataset.seeding import SampleIndex, seeded
from dicomdata.errors import ConfigError
from dicomdata.metatensor import metadata, to_metatensor
from dicomdata.rescale import Window
from dicomdata.stack import StackPlan
from dicomdata.volume import read_volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import SupportsIndex

    from numpy.typing import DTypeLike, NDArray

    from dicomdata.cache import VolumeCache
    from dicomdata.dataset.masks import Labels
    from dicomdata.regions import Region
    from dicomdata.stack import Stack
    from dicomdata.volume import Volume

Transform: TypeAlias = "Callable[[Any], Any]"
"""What is done to a sample: MONAI's dictionary transforms, or any function of a dict."""


WINDOW_UNIT = "window"
"""The unit of voxels that a window made 0 to 1, as `read_volume` calls it."""


class StackDataset(Dataset[Any]):
    """A map-style dataset of stacks: a list of small plans and options, with no open file.

    Picklable if the transform is; works under fork, spawn and forkserver.
    """

    def __init__(  # noqa: PLR0913 - what all datasets are given, by name
        self,
        stacks: Sequence[Stack],
        transform: Transform | None,
        cache: VolumeCache | None,
        *,
        dtype: DTypeLike,
        image: str,
        labels: Labels | None,
        label: str,
    ) -> None:
        if isinstance(stacks, StackPlan):
            raise ConfigError("stacks: expected the stacks of a plan, plan.stacks, got the plan")
        self.stacks = tuple(stacks)
        """What the samples are made of, in order."""
        self.transform = transform
        self.cache = NoCache() if cache is None else cache
        self.dtype = np.dtype(dtype)
        self.image, self.label = image, label
        if labels is not None and image == label:
            raise ConfigError(f"image={image!r} and label={label!r}: expected two names")
        self._labels = None if labels is None else LabelReader(labels, self.cache)
        self._seed: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "stacks": pack(self.stacks)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "stacks": unpack(state["stacks"])})

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def _read(self, stack: Stack, region: Region | None = None) -> Volume:
        """Read a stack, or a box of it, through the cache."""
        read = partial(read_volume, dtype=self.dtype)
        if region is None:
            return self.cache.get(stack, read)
        return self.cache.get(stack, read, region=region)

    def _transformed(
        self, samples: list[Any], index: SupportsIndex, rest: Transform | None = None
    ) -> list[Any]:
        """Transform the samples that one index gives, from its own randomness if it has that.

        Args:
            samples: what to transform.
            index: which sample of the dataset they are.
            rest: what is left of the transform to be done to them; all of it by default.
        """
        if self.transform is None:
            return samples
        # Not `or`: to ask a `Compose` whether it is true seeds all its steps anew.
        transform = self.transform if rest is None else rest
        if isinstance(index, SampleIndex):
            with seeded(self.transform, index.entropy):
                return [transform(sample) for sample in samples]
        self._seed_worker()
        return [transform(sample) for sample in samples]

    def _seed_worker(self) -> None:
        """Give each worker of a DataLoader random transforms of its own, once an epoch.

        A worker's copy of a MONAI transform has the state of its parent's: without this, all
        workers would draw the same crops.
        """
        info = get_worker_info()
        reseed = getattr(self.transform, "set_random_state", None)
        if info is not None and info.seed != self._seed and reseed is not None:
            reseed(seed=info.seed % 2**32)
            self._seed = info.seed


def label_of(volume: Volume, channels: int) -> MetaTensor:
    """Give a volume of classes as a sample has it.

    Args:
        volume: numbers of classes; or bits, class n bit n - 1.
        channels: how many bits; 0 of numbers.

    Returns:
        (1, X, Y, Z) int16, numbers of classes; or (channels, X, Y, Z) uint8, 0 and 1.
    """
    if not channels:
        return to_metatensor(volume, dtype=None)
    voxels: NDArray[np.uint8] = np.empty((channels, *volume.voxels.shape), np.uint8)
    for bit, channel in enumerate(voxels):
        np.not_equal(volume.voxels & (1 << bit), 0, out=channel.view(np.bool_))
    # In memory the axes stay as they are read, as those of the image do.
    tensor = torch.from_numpy(voxels).permute(0, 3, 2, 1)
    return MetaTensor(tensor, meta=metadata(volume))


def new_sample(volume: Volume, image: str) -> dict[str, Any]:
    """Give a volume as a sample: itself, and whose it is."""
    return {image: to_metatensor(volume, dtype=None), **fields_of(volume)}


def fields_of(volume: Volume) -> dict[str, Any]:
    """Say whose a volume is, and what it shows."""
    stack = volume.stack
    return {
        "series_instance_uid": stack.series_instance_uid,
        "study_instance_uid": stack.study_instance_uid,
        "patient_id": stack.patient_id,
        "modality": stack.modality,
        "unit": volume.unit,
        "stack": stack.id,
    }


def checked_window(window: tuple[float, float], dtype: np.dtype[Any]) -> Window:
    """Give the window, which makes float32 of float32.

    Raises:
        ConfigError: if it is none, or the voxels are of another type.
    """
    try:
        checked = Window(*window)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"window={window!r}: {error}") from error
    if dtype != np.float32:
        raise ConfigError(f"window={window!r}: gives float32 from 0 to 1, not {dtype}")
    return checked

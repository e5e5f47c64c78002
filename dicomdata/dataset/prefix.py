"""The deterministic prefix of a `Compose`: taken once for each stack, and kept in a cache.

`Prefix` is the steps that are kept, and what they are kept under. `read_transformed` reads a stack
and takes them; a cache calls it where it has no result. `restored` makes the sample anew that they
made, to the last bit of its voxels and the last word about them; `Prefix.finish` takes the steps
that are left.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from dicomdata.cache.kept import Made, TransformedVolume, as_int16
from dicomdata.dataset.plain import PlainError, from_plain, to_plain
from dicomdata.dataset.samples import WINDOW_UNIT, fields_of, new_sample
from dicomdata.dataset.settings import Teller, UntoldError, environment
from dicomdata.dataset.steps import Steps
from dicomdata.dataset.strides import MemoryLayout, as_float32, buffer_of, layout_of
from dicomdata.metatensor import affine_lps_of, metadata
from dicomdata.volume import Volume, read_volume

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from monai.transforms.transform import Transform
    from numpy.typing import DTypeLike

    from dicomdata.stack import Stack

_WHOLE = frozenset({torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
"""Types of whole numbers that numpy has too."""

_UNIT = "transformed"
"""Of kept voxels: what the transforms made of HU is no longer HU."""

_STATE = frozenset(vars(MetaTensor(torch.zeros(1, 1, 1, 1))))
"""The attributes of a `MetaTensor`; one that has more of them says what is not kept."""


class UnkeptError(Exception):
    """What a step made cannot be kept; `last` is how many before it can be."""

    def __init__(self, text: str, last: int) -> None:
        """Say what cannot be kept, and how many steps can."""
        super().__init__(text)
        self.last = last


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """The first steps of a `Compose`, which always make the same of the same volume."""

    steps: Steps
    """All of them."""

    count: int
    """How many of them are kept."""

    cache_text: str
    """Digest of their classes, settings, and all else that decides what they make."""

    transforms: tuple[Transform, ...]
    """They and those that they are made of: which of them was applied is part of a sample."""

    @classmethod
    def of(cls, transform: Any, most: int | None = None) -> Prefix | None:
        """Find the prefix of a transform, of `most` steps; None where nothing is to be kept."""
        steps, teller = Steps.of(transform), Teller()
        told: list[tuple[str, int]] = []
        for step in steps.certain[:most]:
            try:
                text = teller.tell(step)
            except UntoldError:
                break
            told.append((text, len(teller.transforms)))
        count = steps.whole(len(told))
        if not count:
            return None
        try:
            how = Teller().tell(steps.how)
        except UntoldError:
            return None
        text = "\n".join((environment(), how, *(text for text, _ in told[:count])))
        digest = blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()
        return cls(steps, count, digest, tuple(teller.transforms[: told[count - 1][1]]))

    def take(self, sample: dict[str, Any], image: str) -> dict[str, Any]:
        """Take the steps, one after the other.

        Raises:
            UnkeptError: if what they made cannot be kept; names the first that made such a thing.
        """
        made: Any = sample
        last, refused = 0, ""
        for number in range(self.count):
            made = self.steps.take(number, made)
            try:
                _describe(made, image, {}, {}, self.transforms)
                last = number + 1
            except PlainError as error:
                if last == number:
                    name = type(self.steps.transforms[number]).__name__
                    refused = f"{name} makes {error}"
        if last < self.count:
            raise UnkeptError(refused, last)
        kept: dict[str, Any] = made
        return kept

    def finish(self, sample: Any, *, narrow: str | None = None) -> Any:
        """Take the steps that are left.

        Those that only move voxels are taken while these are int16: they touch half of the memory,
        and what they leave out is never converted.

        Args:
            sample: what `restored` gave.
            narrow: the key of an image that is int16 and is to be float32; None if there is none.
        """
        if narrow is None:
            return self.steps.run(sample, self.count)
        end = self.steps.indexing_from(self.count)
        moved = self.steps.run(sample, self.count, end)
        return self.steps.run(_widened(moved, narrow), end)


def read_transformed(
    stack: Stack,
    *,
    prefix: Prefix,
    image: str,
    dtype: DTypeLike = np.float32,
    window: tuple[float, float] | None = None,
) -> Volume:
    """Read a stack, and take the steps of a prefix.

    Args:
        stack: what to read.
        prefix: what to make of it.
        image: the key of the image in the sample.
        dtype: of the volume, as `read_volume` takes it.
        window: of the volume, as `read_volume` takes it.

    Returns:
        A `TransformedVolume`: voxels in the order they have in memory, as int16 where that loses
        nothing, and all else that the steps said.

    Raises:
        UnkeptError: if what the steps make cannot be kept.
        DicomDataError: if the stack cannot be read.
    """
    volume = read_volume(stack, dtype=dtype, window=window)
    made = prefix.take(new_sample(volume, image), image)
    del volume
    fields, meta = _before(stack, window)
    said = _describe(made, image, fields, meta, prefix.transforms)
    tensor: MetaTensor = made[image]
    layout, buffer = buffer_of(tensor.as_tensor())
    lies = {"dtype": buffer.dtype.name, **asdict(layout)}
    voxels = buffer.reshape(-1, *buffer.shape[2:])
    narrow = as_int16(voxels) if voxels.dtype == np.float32 else None
    affine = affine_lps_of(tensor, [axis - 1 for axis in layout.order[1:]])
    return TransformedVolume(
        voxels if narrow is None else narrow,
        _UNIT,
        np.ones(len(voxels), np.bool_),
        stack,
        made=Made(json.dumps({**said, **lies}), affine),
    )


def restored(
    volume: TransformedVolume, prefix: Prefix, image: str, window: tuple[float, float] | None
) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """Make the sample anew that `read_transformed` saw.

    Returns:
        The sample, which shares the memory of the volume, and the function that finishes it.
    """
    said = json.loads(volume.made.sample)
    fields, meta = _before(volume.stack, window)
    layout = MemoryLayout(*(tuple(said[name]) for name in ("shape", "order", "gaps")))
    buffer = torch.from_numpy(volume.voxels).reshape(layout.buffer_shape)
    tensor = MetaTensor(
        layout.place(buffer),
        meta=_taken(said["meta"], meta, prefix.transforms),
        applied_operations=from_plain(said["operations"], prefix.transforms),
    )
    tensor.is_batch, tensor.spatial_ndim = said["batch"], said["axes"]
    sample = _taken(said["sample"], {**fields, image: tensor}, prefix.transforms)
    narrow = None if volume.voxels.dtype.name == said["dtype"] else image
    return sample, partial(prefix.finish, narrow=narrow)


def _before(
    stack: Stack, window: tuple[float, float] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give what a sample says, and its image, before any transform: nothing is read."""
    unit = stack.unit if window is None else WINDOW_UNIT
    nothing = np.broadcast_to(np.float32(0), stack.shape)
    volume = Volume(nothing, unit, stack.valid, stack)
    return fields_of(volume), metadata(volume)


def _describe(
    sample: Any,
    image: str,
    fields: Mapping[str, Any],
    meta: Mapping[str, Any],
    transforms: Sequence[Transform],
) -> dict[str, Any]:
    """Say all of a sample but the voxels in plain values; of what is as before, only the keys.

    Raises:
        PlainError: if something in it has no plain form, or its image is none that can be kept.
    """
    if type(sample) is not dict:
        raise PlainError(f"a {type(sample).__name__}, not a dict")
    tensor: Any = sample.get(image)
    _check_image(tensor, image)
    return {
        "sample": _told({**sample, image: None}, {**fields, image: None}, transforms),
        "meta": _told(tensor.meta, meta, transforms),
        "operations": to_plain(tensor.applied_operations, transforms),
        "batch": tensor.is_batch,
        "axes": tensor.spatial_ndim,
    }


def _check_image(tensor: Any, image: str) -> None:
    """Refuse an image of which something would be lost.

    Raises:
        PlainError: if it is none of MONAI's images of three axes and channels.
    """
    if type(tensor) is not MetaTensor or tensor.device.type != "cpu" or tensor.requires_grad:
        raise PlainError(f"a {image!r} that is no MetaTensor of numbers in memory")
    if tensor.ndim != 4 or not tensor.numel() or tensor.affine.shape != (4, 4):
        raise PlainError(f"a {image!r} of shape {tuple(tensor.shape)}, not (channels, X, Y, Z)")
    if tensor.pending_operations or not vars(tensor).keys() <= _STATE:
        raise PlainError(f"a {image!r} that is not done")
    if not (tensor.is_floating_point() or tensor.dtype in _WHOLE) or tensor.dtype == torch.bfloat16:
        raise PlainError(f"a {image!r} of {tensor.dtype}")
    if layout_of(tensor.as_tensor()).order[0]:
        raise PlainError(f"a {image!r} whose channels lie between each other")


def _told(
    values: Mapping[Any, Any],
    before: Mapping[Any, Any],
    transforms: Sequence[Transform],
) -> list[list[Any]]:
    """Give keys and values in plain form; of a value that is as before, the key alone."""
    told = []
    for key, value in values.items():
        plain = to_plain(value, transforms)
        same = key in before and json.dumps(to_plain(before[key])) == json.dumps(plain)
        told.append([to_plain(key)] if same else [to_plain(key), plain])
    return told


def _taken(
    told: list[list[Any]], before: Mapping[Any, Any], transforms: Sequence[Transform]
) -> dict[Any, Any]:
    """Give keys and values back."""
    taken = {}
    for plain, *changed in told:
        key = from_plain(plain)
        taken[key] = from_plain(changed[0], transforms) if changed else before[key]
    return taken


def _widened(sample: Any, image: str) -> Any:
    """Give a sample, or a list of them, with its image as float32, lying in memory as it did."""
    if isinstance(sample, list):
        return [_widened(each, image) for each in sample]
    tensor = sample[image]
    wide = as_float32(tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor)
    if isinstance(tensor, MetaTensor):
        wide = MetaTensor(wide)
        vars(wide).update(vars(tensor))
    return {**sample, image: wide}

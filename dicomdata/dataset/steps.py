"""The steps of a `Compose`, and which of them always make the same of the same sample."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from monai.transforms.compose import Compose, execute_compose
from monai.transforms.traits import LazyTrait
from monai.transforms.transform import apply_transform

if TYPE_CHECKING:
    from collections.abc import Iterator


def _dictionary_transforms(names: str) -> frozenset[str]:
    return frozenset(f"{name}d" for name in names.split())


_CERTAIN = _dictionary_transforms(
    "AddCoordinateChannels AdjustContrast Affine ApplyPending AsChannelLast AsDiscrete "
    "BorderPad CastToType CenterScaleCrop CenterSpatialCrop ClipIntensityPercentiles "
    "ConcatItems CopyItems Crop CropForeground DeleteItems DivisiblePad EnsureChannelFirst "
    "EnsureType Flip GaussianSharpen GaussianSmooth GibbsNoise HistogramNormalize Identity "
    "IntensityStats LabelToMask MapLabelValue MaskIntensity MedianSmooth NormalizeIntensity "
    "Orientation Pad RemoveRepeatedChannel RepeatChannel ResampleToMatch Resize "
    "ResizeWithPadOrCrop Rotate Rotate90 SavitzkyGolaySmooth ScaleIntensity "
    "ScaleIntensityRange ScaleIntensityRangePercentiles SelectItems ShiftIntensity "
    "SobelGradients Spacing SpatialCrop SpatialPad SpatialResample SqueezeDim "
    "StdShiftIntensity ThresholdIntensity ToTensor Transpose Zoom"
)
"""Dictionary transforms of MONAI whose result depends on the sample and their settings alone, and
which do nothing else: none that draws, reads, writes, prints or waits, or hands the voxels to
another library that may do so."""

_INDEXING = _dictionary_transforms(
    "CenterScaleCrop CenterSpatialCrop Crop Flip RandAxisFlip RandFlip RandRotate90 "
    "RandScaleCrop RandSpatialCrop RandSpatialCropSamples Rotate90 SpatialCrop"
)
"""Dictionary transforms of MONAI that move voxels and change none, whatever type these have."""


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """The transforms of a `Compose` one after the other, those of inner ones in their place."""

    compose: Compose
    """It says how they are run."""

    transforms: tuple[Any, ...]
    """The steps."""

    @classmethod
    def of(cls, transform: Any) -> Steps:
        """Take a transform apart; what is no plain `Compose` has no steps.

        Not one of its subclasses: `OneOf`, `SomeOf` and `RandomOrder` draw which steps to take.
        """
        if type(transform) is not Compose or transform.unpack_items:
            return cls(Compose(), ())
        return cls(transform, tuple(_inlined(transform)))

    @property
    def how(self) -> tuple[Any, ...]:
        """The settings of the `Compose` that decide what its steps make."""
        return int(self.compose.map_items), self.compose.lazy, self.compose.overrides

    @property
    def certain(self) -> tuple[Any, ...]:
        """The first steps that always make the same, going by their names."""
        return tuple(takewhile(lambda step: _is_in(_CERTAIN, step), self.transforms))

    def whole(self, count: int) -> int:
        """Give how many of the first `count` steps can be parted from what follows.

        A lazy `Compose` puts off resampling, to merge it with that of later steps: it has to be
        parted where a step did not allow that.
        """
        while self.lazy and count and isinstance(self.transforms[count - 1], LazyTrait):
            count -= 1
        return count

    def indexing_from(self, start: int) -> int:
        """Give the end of the steps from `start` on that only move voxels."""
        if self.lazy:
            return start
        moving = takewhile(lambda step: _is_in(_INDEXING, step), self.transforms[start:])
        return start + len(list(moving))

    @property
    def lazy(self) -> bool:
        """Whether steps may put off resampling, to do several at once."""
        return self.compose.lazy is not False

    def take(self, number: int, sample: Any) -> Any:
        """Take one step, as the `Compose` does in the middle of others."""
        how = self.compose
        return apply_transform(
            self.transforms[number],
            sample,
            how.map_items,
            how.unpack_items,
            how.log_stats,
            lazy=how.lazy,
            overrides=how.overrides,
        )

    def run(self, sample: Any, start: int, end: int | None = None) -> Any:
        """Take the steps from `start` on, as the `Compose` does."""
        how = self.compose
        return execute_compose(
            sample,
            self.transforms,
            map_items=how.map_items,
            unpack_items=how.unpack_items,
            start=start,
            end=end,
            lazy=how.lazy,
            overrides=how.overrides,
            log_stats=how.log_stats,
        )


def _inlined(compose: Compose) -> Iterator[Any]:
    """Give the steps of a `Compose`, and in place of inner ones that run alike, their steps."""
    for step in compose.transforms:
        if type(step) is Compose and _how(step) == _how(compose) and compose.lazy is False:
            yield from _inlined(step)
        else:
            yield step


def _how(compose: Compose) -> tuple[Any, ...]:
    items = (int(compose.map_items), compose.unpack_items, compose.log_stats)
    return (*items, compose.lazy, not compose.overrides)


def _is_in(names: frozenset[str], step: Any) -> bool:
    """Whether a step is one of MONAI's own of these names, not of a class derived from it."""
    kind = type(step)
    return kind.__name__ in names and kind.__module__.startswith("monai.transforms.")

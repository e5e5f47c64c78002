"""What a network is to say, and whether loss, labels and outputs go together.

A loss that does not go with its labels seldom fails: it broadcasts one to the other, or takes
classes that overlap as classes that exclude each other, and learns something else. What can be
known is refused by name before the first step, the rest when the first batch is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.losses.dice import DiceCELoss, GeneralizedWassersteinDiceLoss
from monai.losses.ds_loss import DeepSupervisionLoss
from monai.losses.unified_focal_loss import (
    AsymmetricFocalLoss,
    AsymmetricFocalTverskyLoss,
    AsymmetricUnifiedFocalLoss,
)
from torch import nn

from dicomdata.errors import ConfigError

_OF_CLASS_NUMBERS = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
"""Losses of PyTorch that take numbers of classes; all others compare number with number."""

_EXCLUDING = (
    *_OF_CLASS_NUMBERS,
    GeneralizedWassersteinDiceLoss,
    AsymmetricFocalLoss,
    AsymmetricFocalTverskyLoss,
    AsymmetricUnifiedFocalLoss,
)
"""Losses of classes of which a voxel has exactly one, whatever they are told."""

_OF_LOGITS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)
"""Losses of PyTorch that take the sigmoid of each output themselves."""

_APART = 1e-4
"""By how much affines of an image and its label may differ, mm: transforms of both round alike."""

_HALF = 0.5
"""From this probability on, a voxel is of a class that may overlap with others."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What the channels of a network's output are, and of what form the labels."""

    classes: tuple[str, ...]
    """Names of the channels, in order."""

    overlapping: bool = False
    """Whether a voxel may be of several classes or of none: labels are then (B, C, ...) of 0 and 1,
    and have no background; otherwise they are numbers of classes, (B, 1, ...) or (B,)."""

    def check_loss(self, loss: nn.Module) -> None:
        """Refuse a loss that is for labels of the other form.

        Raises:
            ConfigError: if its settings say so.
        """
        name = f"loss {type(loss).__name__}"
        one_hot = [part.to_onehot_y for part in loss.modules() if hasattr(part, "to_onehot_y")]
        if self.overlapping:
            if why := self._what_excludes(loss) or _what_takes_no_logits(loss):
                raise ConfigError(f"{name}: {why}")
        elif one_hot and not any(one_hot):
            raise ConfigError(
                f"{name}: labels are numbers of classes, and it is not told so: to_onehot_y: true"
            )
        elif _is_elementwise(_innermost(loss)):
            raise ConfigError(
                f"{name}: compares each output with a number of its own, and labels are numbers of "
                f"classes: take DiceCELoss or CrossEntropyLoss, or labels.overlap: channels"
            )
        elif isinstance(_innermost(loss), _OF_CLASS_NUMBERS) and _innermost(loss) is not loss:
            raise ConfigError(
                f"{name}: takes no {type(_innermost(loss)).__name__}: DiceCELoss with "
                f"lambda_dice: 0 is the same for several outputs"
            )

    def _what_excludes(self, loss: nn.Module) -> str | None:
        """Say what of a loss is for classes of which a voxel has exactly one."""
        spared: list[nn.Module] = []
        for part in loss.modules():
            for setting in ("softmax", "use_softmax", "to_onehot_y"):
                if getattr(part, setting, False) is True:
                    return (
                        f"{setting.removeprefix('use_')}: true is for classes that exclude each "
                        f"other; with labels.overlap: channels it is sigmoid: true"
                    )
            if getattr(part, "include_background", True) is False:
                return (
                    "include_background: false leaves out the first channel, which is no "
                    "background with labels.overlap: channels"
                )
            # Of one channel, its cross entropy is the binary one.
            if isinstance(part, DiceCELoss) and (len(self.classes) == 1 or not part.lambda_ce):
                spared.append(part.cross_entropy)
            if isinstance(part, DiceCELoss) and not spared:
                return (
                    "its cross entropy is of classes that exclude each other, sigmoid or not: with "
                    "labels.overlap: channels take DiceFocalLoss with sigmoid: true, which with "
                    "gamma: 0 is Dice and binary cross entropy"
                )
            if isinstance(part, _EXCLUDING) and part not in spared:
                return (
                    f"{type(part).__name__} is for classes that exclude each other; with "
                    f"labels.overlap: channels take BCEWithLogitsLoss"
                )
        return None

    def check_label(self, label: torch.Tensor, image: torch.Tensor) -> None:
        """Refuse labels that transforms have made something else of.

        Raises:
            ConfigError: if label and image are not of one shape, or a label is no number of a
                class.
        """
        shape = tuple(label.shape)
        channels = len(self.classes) if self.overlapping else 1
        if label.ndim > 1 and shape != (len(image), channels, *image.shape[2:]):
            raise ConfigError(
                f"label: has shape {shape}, expected {(len(image), channels, *image.shape[2:])}, "
                f"as the image is {tuple(image.shape)}: what changes the shape of one must be done "
                f"to both, keys: [image, label]"
            )
        if not label.is_floating_point():
            return
        highest = 1 if self.overlapping else len(self.classes) - 1
        wrong = label[(label != label.round()) | (label < 0) | (label > highest)]
        if len(wrong):
            raise ConfigError(
                f"label: holds {float(wrong[0]):g}, expected whole numbers from 0 to {highest}: a "
                f"transform has interpolated it; give it mode: nearest for the label"
            )

    def prepare(self, label: torch.Tensor, loss: nn.Module) -> torch.Tensor:
        """Give labels in the type and shape that a loss takes."""
        if self.overlapping or _innermost(loss) is not loss:
            # Binary losses take nothing else; labels of lower levels are interpolated as numbers.
            return label.float()
        if label.ndim > 1 and isinstance(loss, _OF_CLASS_NUMBERS):
            return label[:, 0].long()
        return label.long()

    def levels(self, output: Any, label: torch.Tensor, network: str) -> list[torch.Tensor]:
        """Give the outputs of a network, one or, of deep supervision, several; the first is whole.

        Raises:
            ConfigError: if they are not of the classes, voxel for voxel: a loss may broadcast one
                to the other without a word.
        """
        if isinstance(output, torch.Tensor):
            stacked = output.ndim == label.ndim + 1 and label.ndim > 1
            given = list(output.unbind(1)) if stacked else [output]
        else:
            given = list(output) if isinstance(output, list | tuple) else [output]
        expected = (len(label), len(self.classes), *label.shape[2:])
        shapes = [_shape_of(each) for each in given]
        if shapes[:1] != [expected] or any(each[:2] != expected[:2] for each in shapes):
            told = shapes[0] if len(shapes) == 1 else shapes
            raise ConfigError(
                f"network {network}: its output is {told}, expected {expected}: a channel for each "
                f"of the classes {', '.join(self.classes)}"
            )
        return given

    def check_levels(self, loss: nn.Module, count: int, network: str) -> None:
        """Refuse several outputs where the loss is of one.

        Raises:
            ConfigError: if it is no `DeepSupervisionLoss`.
        """
        if count > 1 and not isinstance(loss, DeepSupervisionLoss):
            raise ConfigError(
                f"network {network}: gives {count} outputs (deep supervision): its loss must be "
                f"{{_target_: DeepSupervisionLoss, loss: {{_target_: {type(loss).__name__}, ...}}}}"
            )

    def present(self, label: torch.Tensor) -> torch.Tensor:
        """Tell of each class whether a batch of labels has any of it, (C,) bool."""
        if self.overlapping:
            return label.transpose(0, 1).flatten(1).any(1)
        count = len(self.classes)
        return torch.bincount(label.flatten().long(), minlength=count)[:count] > 0

    def count(self, output: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Count what an output finds, in voxels or cases.

        Args:
            output: (B, C, ...).
            label: of the same voxels, as a batch has it.

        Returns:
            (3, C): that are of a class and found so, that are, that are found so; and (2,): those
            whose class, or all of whose classes, are right, and all.
        """
        if self.overlapping:
            found, true = torch.sigmoid(output.float()) >= _HALF, label > _HALF
            sums = [each.transpose(0, 1).flatten(1).sum(1) for each in (found & true, true, found)]
            right = (found == true).all(dim=1)
        else:
            chosen, known = output.argmax(dim=1).flatten(), label.flatten().long()
            right = chosen == known
            count = len(self.classes)
            sums = [
                torch.bincount(each, minlength=count)[:count]
                for each in (known[right], known, chosen)
            ]
        voxels = torch.tensor([int(right.sum()), right.numel()])
        return torch.stack(sums).double(), voxels.double()


def check_places(image: torch.Tensor, label: torch.Tensor) -> None:
    """Refuse labels that do not lie where their images do, as far as both say where they lie.

    Args:
        image: (B, 1, X, Y, Z), of a batch.
        label: (B, C, X, Y, Z).

    Raises:
        ConfigError: if a transform has moved one of the two alone.
    """
    if not (isinstance(image, MetaTensor) and isinstance(label, MetaTensor)):
        return
    apart = (image.affine - label.affine).abs().flatten(1).amax(1)
    number = int(apart.argmax())
    if apart[number] > _APART:
        raise ConfigError(
            f"label: of sample {number + 1} of the batch, affines of image and label differ by "
            f"{float(apart[number]):.4g} mm: what moves one must be done to both, "
            f"keys: [image, label]"
        )


def check_activation(loss: nn.Module, output: torch.Tensor) -> None:
    """Refuse to take a network's numbers for probabilities where they are none.

    Raises:
        ConfigError: if a loss is told to make no probabilities of them, and they are not from 0
            to 1.
    """
    plain = any(
        hasattr(part, "softmax") and hasattr(part, "sigmoid")
        and not (part.softmax or part.sigmoid or getattr(part, "other_act", None))
        for part in loss.modules()
    )  # fmt: skip
    low, high = (float(end) for end in output.detach().float().aminmax())
    if plain and not (low >= 0 and high <= 1):
        raise ConfigError(
            f"loss {type(loss).__name__}: is told neither softmax nor sigmoid, and what the "
            f"network gives are no probabilities: {low:.4g} to {high:.4g}"
        )


def _innermost(loss: nn.Module) -> nn.Module:
    """Give the loss that is taken of each of several outputs."""
    while isinstance(loss, DeepSupervisionLoss):
        loss = loss.loss
    return loss


def _is_elementwise(loss: nn.Module) -> bool:
    """Whether it is one of PyTorch's losses that compare number with number."""
    torchs = type(loss).__module__ == nn.modules.loss.__name__
    return torchs and not isinstance(loss, _OF_CLASS_NUMBERS)


def _what_takes_no_logits(loss: nn.Module) -> str | None:
    """Say what of a loss is not for logits; validation and prediction take the sigmoid of them."""
    for part in loss.modules():
        name = type(part).__name__
        if getattr(part, "sigmoid", True) is False:
            return f"{name} is not told sigmoid: true, which it is with labels.overlap: channels"
        if _is_elementwise(part) and not isinstance(part, _OF_LOGITS):
            return f"{name} takes no logits: with labels.overlap: channels take BCEWithLogitsLoss"
    return None


def _shape_of(output: Any) -> Any:
    return tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__

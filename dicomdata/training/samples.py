"""Samples whose failures are told in a line: which stack, which step, and why.

MONAI tells of a transform that fails, and a DataLoader of a worker, in pages. Nothing is left out
because of a failure: what is learned from would depend on it.
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from dicomdata.dataset import GridPatches, PatchDataset
from dicomdata.errors import ConfigError, DicomDataError

if TYPE_CHECKING:
    from typing import SupportsIndex

    from dicomdata.dataset import VolumeDataset
    from dicomdata.stack import Stack

_OF_WORKER = re.compile(
    r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback .*\n[\w.]+: (.+)", re.DOTALL
)
"""What PyTorch makes of an error of a worker: all that Python would print, the error last."""

LOST_WORKER = "DataLoader worker"
"""How PyTorch's errors begin that tell of a worker that has died."""


class NamedSamples(Dataset[Any]):
    """The samples of a dataset; one that cannot be made is told with its stack."""

    def __init__(self, dataset: VolumeDataset | PatchDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: SupportsIndex) -> Any:
        """Make a sample.

        Raises:
            ConfigError: if a transform fails: names it, the stack, and why.
            DicomDataError: if the stack or its label cannot be read.
        """
        try:
            return self.dataset[index]
        except DicomDataError:
            raise
        # Transforms are others' code.
        except Exception as error:
            stack = _stack_of(self.dataset, operator.index(index))
            raise ConfigError(f"stack {stack.id}: {_reason_of(error)}") from error


def is_named(error: BaseException) -> bool:
    """Tell whether an error says by itself what is wrong: one of this package, or a lost worker."""
    return isinstance(error, DicomDataError) or str(error).startswith(LOST_WORKER)


def one_line(error: BaseException) -> str:
    """Give what an error says, without the traceback that a worker of a DataLoader adds to it."""
    text = str(error)
    if text.startswith(LOST_WORKER):
        told = text.strip().rstrip(".")
        return f"{told}: out of memory, most often; --resume goes on from the last checkpoint"
    found = _OF_WORKER.fullmatch(text.rstrip())
    return found.group(1).rpartition("\n")[2] if found else text


def _stack_of(dataset: VolumeDataset | PatchDataset, number: int) -> Stack:
    """Give the stack that a sample is made of."""
    if not isinstance(dataset, PatchDataset) or not isinstance(dataset.where, GridPatches):
        return dataset.stacks[number]
    windows = number
    for stack in dataset.stacks:
        windows -= dataset.where.count(stack.shape, dataset.size_in(stack))
        if windows < 0:
            return stack
    raise IndexError(f"sample {number} of {len(dataset)}")


def _reason_of(error: BaseException) -> str:
    """Name the innermost transform that failed, and why."""
    told = ""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        if found := re.match(r"applying transform <([\w.]+)", str(error)):
            told = f"transform {found.group(1).rpartition('.')[2]}: "
        error = error.__cause__
    return f"{told}{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"

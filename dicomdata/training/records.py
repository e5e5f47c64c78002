"""How a training goes: a line of JSON for each step and epoch, TensorBoard, and a word on stderr.

A run that is resumed goes on with the same file, without the lines after the checkpoint that it
begins from: those steps are taken again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar

from dicomdata.catalog.progress import track
from dicomdata.errors import ConfigError, FileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch.utils.tensorboard import SummaryWriter

    from dicomdata.training.ranks import Ranks

T = TypeVar("T")

_QUIET = 5.0
"""Seconds between two lines on stderr within an epoch."""


class Records:
    """Tells how a training goes; to be used in a ``with`` statement."""

    def __init__(
        self, folder: str | os.PathLike[str], ranks: Ranks, *, tensorboard: bool = False
    ) -> None:
        """Write into a folder: ``log.jsonl``, and ``log.rank1.jsonl`` for the second rank.

        Raises:
            FileError: if it cannot be written to.
            ConfigError: if TensorBoard is asked for and not installed.
        """
        self.ranks = ranks
        name = "log.jsonl" if ranks.first else f"log.rank{ranks.rank}.jsonl"
        self.path = os.path.join(folder, name)
        """The file of this rank."""
        self._folder = os.fspath(folder)
        self._tensorboard = tensorboard and ranks.first
        if self._tensorboard:
            _check_tensorboard()
        self._file: IO[str] | None = None
        self._writer: SummaryWriter | None = None
        self._told = time.monotonic()
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()

    def begin(self, *, step: int, epoch: int) -> None:
        """Begin to write, after so many steps, in this epoch: later lines are dropped.

        Raises:
            FileError: if the file cannot be written.
        """
        try:
            kept = _lines_before(self.path, step=step, epoch=epoch)
            partial = f"{self.path}.partial"
            with open(partial, "w", encoding="utf-8") as file:
                file.writelines(kept)
            os.replace(partial, self.path)
            # A line at a time: whoever watches sees each, and a kill loses none.
            self._file = open(self.path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - as long as the training
        except OSError as error:
            raise FileError(f"{self.path}: cannot be written: {error.strerror}") from error
        if self._tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(
                os.path.join(self._folder, "tensorboard"), purge_step=step + 1
            )

    def add_step(self, *, epoch: int, step: int, loss: float, samples: list[str]) -> None:
        """Tell of one step."""
        self._write(kind="step", epoch=epoch, step=step, loss=loss, samples=samples)
        self._draw(step, {"loss": loss})
        self._last = f", loss {loss:.4f}"

    def add_epoch(self, *, epoch: int, step: int, loss: float, **more: Any) -> None:
        """Tell of one epoch, whose number is from 0."""
        self._write(kind="epoch", epoch=epoch, step=step, loss=loss, **more)
        numbers = {name: value for name, value in more.items() if isinstance(value, float)}
        self._draw(step, {"epoch loss": loss, **numbers})
        told = "".join(f", {name} {value:.4g}" for name, value in numbers.items())
        self.say(f"epoch {epoch}, step {step}: mean loss {loss:.4f}{told}")

    def say(self, text: str) -> None:
        """Tell a person; only the first rank does."""
        self._told = time.monotonic()
        if self.ranks.first:
            print(f"train: {text}", file=sys.stderr, flush=True)  # noqa: T201 - a program's own voice

    def track(self, things: Iterable[T], *, total: int, what: str) -> Iterator[T]:
        """Give things one by one, and tell how many there were: long work is not silent.

        A bar on a terminal, elsewhere a line every few seconds, with the last loss.

        Args:
            things: what is waited for.
            total: how many there will be.
            what: what is done, "validation".
        """
        self._last = ""
        if self.ranks.first and sys.stderr.isatty():
            yield from track(things, total=total, show=True, what=what)
            return
        for number, thing in enumerate(things, 1):
            yield thing
            if time.monotonic() - self._told > _QUIET:
                self.say(f"{what}: {number} of {total}{self._last}")

    def _write(self, **line: Any) -> None:
        if self._file is None:
            raise RuntimeError("records are written after begin()")
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise FileError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _draw(self, step: int, values: dict[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)


def _lines_before(path: str, *, step: int, epoch: int) -> list[str]:
    """Give the lines of steps up to one, and of epochs before one; none of a run that begins."""
    if not step or not os.path.exists(path):
        return []
    kept = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                told = json.loads(line)
            except ValueError:
                break  # the process was killed while it wrote this
            taken = told["step"] <= step if told["kind"] == "step" else told["epoch"] < epoch
            if taken:
                kept.append(line)
    return kept


def _check_tensorboard() -> None:
    try:
        import torch.utils.tensorboard  # noqa: F401 - to see whether it is there
    except ImportError as error:
        raise ConfigError(
            "tensorboard: true needs TensorBoard: pip install dicomdata[training]"
        ) from error

"""What a training needs to go on: whole or not at all on disk, and refused where data differ.

A checkpoint holds tensors and plain values only. It is read with ``weights_only=True``, which
builds nothing else: a file of somebody else's can do no harm.
"""

from __future__ import annotations

import os
import pickle
import re
import secrets
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import torch

from dicomdata.errors import ConfigError, FileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

    from dicomdata.stack import Stack

_FORMAT = "dicomdata training 1"
"""Raised when the same file would mean something else."""

_SHOWN = 60
"""Letters of a setting that a message shows."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Where a training is, and what it is of."""

    state: dict[str, Any]
    """Of network, optimizer, scheduler and scaler: their `state_dict`."""

    sampler: dict[str, int]
    """Where the epoch is: `EpochSampler.state_dict`."""

    progress: dict[str, float]
    """How far it is: `Loop.progress`."""

    fingerprints: dict[str, str]
    """Of catalog, split and stacks: what makes it another training."""

    settings: dict[str, str] = field(default_factory=dict)
    """Those that decide the losses, as text."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it, whole or not at all.

        Raises:
            FileError: if it cannot be written.
        """
        target = os.path.abspath(path)
        partial = f"{target}.{secrets.token_hex(4)}.partial"
        content = {name: getattr(self, name) for name in self.__slots__}
        try:
            with open(partial, "xb") as file:
                torch.save({"format": _FORMAT, **content}, file)
                file.flush()
                # Renamed before it is on disk, it could be empty after a power loss.
                os.fsync(file.fileno())
            os.replace(partial, target)
        # torch tells of a full disk as a RuntimeError.
        except (OSError, RuntimeError) as error:
            with suppress(OSError):
                os.unlink(partial)
            raise FileError(f"{target}: cannot be written: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a checkpoint, to the memory of the processor.

        Raises:
            FileError: if it cannot be read.
            ConfigError: if it is no checkpoint, damaged, or of another version.
        """
        source = os.fspath(path)
        try:
            # PyTorch itself does not look at the checksums that it writes.
            with ZipFile(source) as archive:
                damaged = archive.testzip()
        except OSError as error:
            raise FileError(f"{source}: cannot be read: {error.strerror or error}") from error
        except (BadZipFile, EOFError, RuntimeError, ValueError, zlib.error) as error:
            raise ConfigError(f"{source}: no checkpoint: {error}") from error
        if damaged is not None:
            raise ConfigError(f"{source}: no checkpoint: {damaged} in it is damaged: checksum")
        try:
            content = torch.load(source, map_location="cpu", weights_only=True)
        except OSError as error:
            raise FileError(f"{source}: cannot be read: {error.strerror or error}") from error
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            reason = next(iter(str(error).splitlines()), "it is empty")
            raise ConfigError(f"{source}: no checkpoint: {reason}") from error
        known = content.pop("format", None) if isinstance(content, dict) else None
        if known != _FORMAT:
            raise ConfigError(
                f"{source}: no checkpoint of this version: its format is {known!r}, expected "
                f"{_FORMAT!r}"
            )
        try:
            return cls(**content)
        except TypeError as error:
            raise ConfigError(f"{source}: no checkpoint: {error}") from error

    def check(self, fingerprints: Mapping[str, str], settings: Mapping[str, str]) -> None:
        """Make sure that it is of this training.

        Raises:
            ConfigError: if catalog, split, stacks or settings differ; names which.
        """
        for name, now in fingerprints.items():
            if (then := self.fingerprints.get(name)) != now:
                raise ConfigError(
                    f"the checkpoint was trained with another {name}: its fingerprint was {then}, "
                    f"and is {now}: go on with what it was trained with, or start another run"
                )
        for name in sorted({*settings, *self.settings}):
            before, now = self.settings.get(name, "nothing"), settings.get(name, "nothing")
            if before != now:
                raise ConfigError(
                    f"the checkpoint was trained with another setting of {name}: "
                    f"{_short(before)}, and it is {_short(now)}: change it back, or start another "
                    f"run"
                )


def remove_partials(folder: str | os.PathLike[str]) -> None:
    """Remove checkpoints that a run began to write when it was killed."""
    for name in os.listdir(folder):
        if re.fullmatch(r".*\.pt\.[0-9a-f]{8}\.partial", name):
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))


def fingerprint_of_stacks(parts: Mapping[str, Iterable[Stack]]) -> str:
    """Digest which stacks are in which part, in order, and on which grids they are."""
    told = [
        (part, [(stack.id, stack.shape, stack.unit, stack.affine_columns) for stack in stacks])
        for part, stacks in parts.items()
    ]
    return blake2b(repr(told).encode(), digest_size=16).hexdigest()


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

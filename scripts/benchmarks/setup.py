"""How large everything is, and the archives that are read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dicomdata as dd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicomdata.stack import Stack

CODECS = {
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "HTJ2K": "1.2.840.10008.1.2.4.201",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "RLE": "1.2.840.10008.1.2.5",
}
"""What is decoded, by Transfer Syntax UID (PS3.6 A)."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a run measures; plain text and numbers, since each work has a process of its own."""

    folder: str
    """Where everything is written; on a disk, or nothing can be cold."""

    slices: int = 130
    """Slices of a series."""

    size: int = 512
    """Rows and columns of a slice."""

    patients: int = 8
    """Series of the archive."""

    frames: int = 2_000_000
    """Rows of the large catalog."""

    codec_slices: int = 16
    """Slices of a compressed series: decoding is slow, and each slice costs the same."""

    rounds: int = 5
    """How often each contender does each work; the median counts."""

    corpus: str = ""
    """A folder of real files; "" for none."""

    @property
    def archive(self) -> Path:
        """One folder a patient, of native slices."""
        return Path(self.folder, "archive")

    @property
    def edge(self) -> int:
        """Edge of a crop, voxels: 96, or as much as there is."""
        return min(96, self.slices, self.size)

    def patient(self, number: int = 0) -> Path:
        """Give the folder of a patient."""
        return sorted(self.archive.iterdir())[number]

    def paths(self, number: int = 0) -> list[Path]:
        """Give the slices of a patient, from feet to head."""
        return sorted(self.patient(number).iterdir())

    def compressed(self, codec: str) -> Path:
        """Give the folder of a compressed series."""
        return Path(self.folder, "codecs", codec.replace(" ", "-"), "CHEST-0001")

    def write(self) -> None:
        """Write the archives."""
        from dicomdata.testing.thorax import chest_archive

        slices, size = self.slices, self.size
        chest_archive(self.archive, patients=self.patients, slices=slices, size=size)
        few = min(self.codec_slices, slices)
        for codec, uid in CODECS.items():
            root = self.compressed(codec).parent
            chest_archive(root, slices=few, size=size, transfer_syntax_uid=uid)
        # What is dirty cannot be dropped from memory, and its writing would disturb.
        os.sync()


def stacks_under(folder: Path) -> tuple[Stack, ...]:
    """Scan a folder and plan its stacks."""
    return dd.plan_stacks(dd.scan(folder, progress=False)).stacks


def fill(cache: dd.DiskCache | dd.MemoryCache, stacks: Sequence[Stack]) -> None:
    """Keep volumes in a cache, and make sure that it gives them.

    Raises:
        RuntimeError: if it does not: no cache would be measured.
    """
    dd.warm(stacks, cache, progress=False)
    misses = cache.statistics().misses
    for stack in stacks:
        cache.get(stack, dd.read_volume)
    if cache.statistics().misses > misses:
        raise RuntimeError(f"{cache} has not kept what it was warmed with")

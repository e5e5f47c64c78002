"""What lies in the folder of a `DiskCache`, as its tests look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def entries(folder: Path) -> list[Path]:
    """List the volumes that are kept, each a folder."""
    return sorted((folder / "volumes").iterdir())


def leftovers(folder: Path) -> list[Path]:
    """List what only work in progress may have there."""
    return [*(folder / "partial").iterdir(), *(folder / "locks").iterdir()]

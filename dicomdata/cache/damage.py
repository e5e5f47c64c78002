"""What every layout of an entry shares: boxes of it, and what is wrong where it is damaged."""

from __future__ import annotations

from typing import TypeAlias

Box: TypeAlias = tuple[range, range, range]
"""Indices along each axis of an array, without a gap."""


class DamagedEntryError(Exception):
    """An entry is not what was written: cut short, altered, or of another key."""

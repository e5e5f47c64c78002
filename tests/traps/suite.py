"""All traps, in the order of tables."""

from __future__ import annotations

from traps import geometry, membership, multiframe, stored_values

TRAPS = {
    trap.name: trap
    for module in (geometry, membership, multiframe, stored_values)
    for trap in module.TRAPS
}

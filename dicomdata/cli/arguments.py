"""What is typed on the command line -> what the API takes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dicomdata as dd
from dicomdata.cli.printing import count

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST_NUMBER = 4
"""Digits up to which the name of a stack is its number in the list: no UID is so short."""


class PolicyName(StrEnum):
    """A policy that can be asked for by name."""

    default = "default"
    strict = "strict"
    lenient = "lenient"

    @property
    def policy(self) -> dd.Policy:
        """The policy itself."""
        made = {"default": dd.Policy, "strict": dd.Policy.strict, "lenient": dd.Policy.lenient}
        return made[self.value]()


def plan_source(source: Path, policy: PolicyName) -> dd.StackPlan:
    """Plan the stacks of a catalog or folder under a policy."""
    return dd.plan_stacks(open_source(source), policy.policy)


def open_source(source: Path) -> dd.Catalog:
    """Open a catalog, or scan a folder into one that goes with the process."""
    return dd.scan(source) if source.is_dir() else dd.open_catalog(source)


def read_conditions(
    modality: Sequence[str] | None,
    patient_id: Sequence[str] | None,
    min_slices: int | None,
    where: Sequence[str] | None,
) -> dict[str, Any]:
    """Turn options into what `Catalog.select` takes; a column given twice means either value."""
    given = [f"modality={value}" for value in modality or ()]
    given += [f"patient_id={value}" for value in patient_id or ()]
    conditions: dict[str, Any] = {} if min_slices is None else {"min_slices": min_slices}
    for text in (*given, *(where or ())):
        column, equals, value = text.partition("=")
        if not (column and equals):
            raise dd.ConfigError(f"--where {text!r}: expected COLUMN=VALUE or COLUMN=LOW..HIGH")
        ends = _read_range(value)
        if ends is not None:
            conditions[column] = ends
        elif isinstance(known := conditions.get(column, []), list):
            conditions[column] = [*known, value]
        else:
            raise dd.ConfigError(f"--where {text!r}: {column} has another condition already")
    return conditions


def _read_range(text: str) -> tuple[float | None, float | None] | None:
    """Read "0.5..3", "..3" or "0.5.."; None if it is no range."""
    low, dots, high = text.partition("..")
    try:
        ends = (float(low) if low else None, float(high) if high else None)
    except ValueError:
        return None
    return ends if dots and ends != (None, None) else None


def find_stack(named: str, policy: PolicyName = PolicyName.default) -> dd.Stack:
    """Find the one stack that a catalog or folder holds, or one of several by its name.

    Raises:
        ConfigError: if there is none, or more than one.
    """
    if Path(named).exists():
        plan = plan_source(Path(named), policy)
        if len(plan.stacks) == 1:
            return plan.stacks[0]
        if not plan.stacks:
            why = next((f": {rejection}" for rejection in plan.rejected), "")
            raise dd.ConfigError(f"{named}: holds no stack{why}")
        raise dd.ConfigError(
            f"{named}: holds {len(plan.stacks)} stacks; name one, as in {named.rstrip('/')}/1 "
            f"(`dicomdata stacks` lists them)"
        )
    source, _, name = named.rstrip("/").rpartition("/")
    if not (name and source and Path(source).exists()):
        raise dd.FileError(f"{named}: no such catalog or folder")
    stacks = plan_source(Path(source), policy).stacks
    if name.isdecimal() and len(name) <= _LONGEST_NUMBER:
        found = list(stacks[int(name) - 1 : int(name)]) if int(name) else []
    else:
        found = [stack for stack in stacks if stack.id.startswith(name)]
        found = [stack for stack in found if stack.id == name] or found
    if len(found) != 1:
        several = f"{len(found)} stacks begin with" if found else "no stack is called"
        raise dd.ConfigError(f"{source}: of {count(len(stacks), 'stack')}, {several} {name!r}")
    return found[0]


def read_window(text: str | None) -> str | tuple[float, float] | None:
    """Read a preset's name, or "LOW,HIGH"."""
    if text is None:
        return None
    low, comma, high = text.partition(",")
    try:
        return (float(low), float(high)) if comma else text.replace("-", " ")
    except ValueError:
        raise dd.ConfigError(f"--window {text!r}: expected a name or LOW,HIGH") from None

"""The numbers of a work, what was asked of them, and how they are laid out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

OURS = "dicomdata"
"""The contender that others are compared with, unless a table has another."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What is asked of ours: to be so many times as good as another, or within an amount."""

    text: str
    """In words, as a row of the summary."""

    wanted: float
    """At least so many times better than `against`; without one, at most this amount."""

    reached: float | None
    """What was measured; None where one of the two is missing."""

    against: str = ""
    """The contender it is measured by; "" for an amount."""

    unit: str = "x"
    """Of `wanted` and `reached`."""

    @property
    def met(self) -> bool | None:
        """Whether it is reached; None where that is unknown."""
        if self.reached is None:
            return None
        if self.against:
            return self.reached >= self.wanted
        return self.reached <= self.wanted


@dataclass(slots=True)
class Table:
    """One work, done by several contenders. Less is better, whatever the unit."""

    work: str
    """What is done."""

    unit: str
    """Of the values: "ms", "us a file", "MiB"."""

    values: dict[str, float] = field(default_factory=dict)
    """Contender -> median."""

    peaks: dict[str, float] = field(default_factory=dict)
    """Contender -> MiB that a fresh process adds at its peak, doing the work once."""

    missing: dict[str, str] = field(default_factory=dict)
    """Contender that did not take part -> why."""

    goals: list[Goal] = field(default_factory=list)
    """What is asked of ours."""

    note: str = ""
    """What a reader must know to understand the values."""

    ours: str = OURS
    """Whom the others are compared with."""

    def ask(self, against: str, at_least: float, *, ours: str = "", text: str = "") -> None:
        """Ask ours to be so many times better than another; less than 1 allows to be worse."""
        ours = ours or self.ours
        ratio = None
        if against in self.values and ours in self.values:
            ratio = self.values[against] / self.values[ours]
        self.goals.append(Goal(text or f"{ours} against {against}", at_least, ratio, against))

    def limit(self, text: str, at_most: float, reached: float | None, unit: str) -> None:
        """Ask for an amount that is not exceeded."""
        self.goals.append(Goal(text, at_most, reached, unit=unit))

    def best(self, *names: str) -> str:
        """Give which of some contenders has the least value; the first where none took part."""
        present = [name for name in names if name in self.values]
        return min(present, key=lambda name: self.values[name]) if present else names[0]

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        goals = [{**asdict(goal), "met": goal.met} for goal in self.goals]
        return {**asdict(self), "goals": goals}


def table_from_dict(known: Mapping[str, Any]) -> Table:
    """Undo `Table.as_dict`."""
    goals = [
        Goal(**{name: value for name, value in goal.items() if name != "met"})
        for goal in known["goals"]
    ]
    return Table(**{**known, "goals": goals})


def as_markdown(tables: list[Table], machine: Mapping[str, Any]) -> str:
    """Lay everything out: the machine, what was asked and reached, each work."""
    parts = [_describe(machine), _summary(tables), *map(_lay_out, tables)]
    return "\n\n".join(part for part in parts if part)


def _describe(machine: Mapping[str, Any]) -> str:
    lines = [f"* {name}: {value}" for name, value in machine.items()]
    return "\n".join(lines)


def _summary(tables: list[Table]) -> str:
    """List every goal, with what was measured."""
    lines = ["| work | asked | at least | measured | reached |", "|---|---|---|---|---|"]
    lines += [
        f"| {table.work} | {goal.text} | {_bound(goal)} | {_amount(goal)} | {_verdict(goal)} |"
        for table in tables
        for goal in table.goals
    ]
    return "\n".join(lines) if len(lines) > 2 else ""


def _bound(goal: Goal) -> str:
    return f"{goal.wanted:.3g} x" if goal.against else f"at most {goal.wanted:.4g} {goal.unit}"


def _amount(goal: Goal) -> str:
    return "not measured" if goal.reached is None else f"{goal.reached:.3g} {goal.unit}"


def _verdict(goal: Goal) -> str:
    return {True: "yes", False: "**no**", None: "unknown"}[goal.met]


def _lay_out(table: Table) -> str:
    """Lay one work out: its contenders, who did not take part, and what to know."""
    title = f"### {table.work[0].upper()}{table.work[1:]}"
    peaks = " peak MiB |" if table.peaks else ""
    lines = [
        f"| reader | {table.unit} | x {table.ours} |{peaks}",
        "|---|---|---|---|" if peaks else "|---|---|---|",
    ]
    ours = table.values.get(table.ours)
    for name, value in table.values.items():
        ratio = f"{value / ours:.3g}" if ours else ""
        shown = f"**{name}**" if name == table.ours else name
        line = f"| {shown} | {value:.4g} | {ratio} |"
        if peaks:
            line += f" {table.peaks[name]:.0f} |" if name in table.peaks else " |"
        lines.append(line)
    absent = [f"* without {name}: {why}" for name, why in table.missing.items()]
    parts = [title, table.note, "\n".join(lines), "\n".join(absent)]
    return "\n\n".join(part for part in parts if part)

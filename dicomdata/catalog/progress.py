"""A progress bar on stderr, where there is a terminal to show it on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


def track(things: Iterable[T], *, total: int, show: bool | None, what: str) -> Iterator[T]:
    """Give the things one by one while a bar counts them.

    Args:
        things: what is waited for.
        total: how many there will be.
        show: whether to draw; None draws if stderr is a terminal.
        what: plural noun beside the bar.
    """
    if not total or not (sys.stderr.isatty() if show is None else show):
        yield from things
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        for thing in things:
            yield thing
            progress.advance(task)

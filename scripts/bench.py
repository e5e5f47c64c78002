"""Times this package beside the readers that are installed, interleaved, and says what was reached.

    python scripts/bench.py                               everything, in about a quarter of an hour
    python scripts/bench.py --only headers,volume         some of it
    python scripts/bench.py --json FILE --markdown docs/speed.md

Chest CTs are drawn into a temporary folder. Contenders take turns, round after round, so that a
machine whose speed drifts slows all of them alike; what counts is the ratio of medians. A reader
that is not installed, or fails, is named. DICOMDATA_CORPUS, or --corpus, names a folder of real
files, whose headers are read too. Each work has a process of its own; nothing else should run on
the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine
from benchmarks.measuring import INSIDE, answer, reason
from benchmarks.setup import Setup
from benchmarks.tables import as_markdown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.tables import Table

BEGIN, END = "<!-- numbers: begin -->", "<!-- numbers: end -->"
"""What stands around the numbers on a page; the rest of it is left as it is."""

_DEFAULTS = Setup("")


def main() -> int:
    """Measure, print the tables, and keep the numbers; the status is 1 if a work failed."""
    if sys.argv[1:2] == [INSIDE]:
        answer(*sys.argv[2:])
        return 0
    from benchmarks.works import WORKS, measure

    options = _parse(tuple(WORKS))
    known = machine.describe() | {"load before": machine.load()}
    tables: list[Table] = []
    failed: dict[str, str] = {}
    known["taken"] = time.strftime("%Y-%m-%d")
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="dicomdata-bench-") as folder:
        setup = _setup(options, folder)
        begin = time.monotonic()
        setup.write()
        _say(f"archives written: {time.monotonic() - begin:.0f} s")
        for name in options.only:
            start = time.monotonic()
            try:
                tables += measure(setup, name)
            except RuntimeError as error:
                failed[name] = reason(error)
                _say(f"{name} FAILED: {failed[name]}")
            _say(f"{name}: {time.monotonic() - start:.0f} s")
            known |= {"load after": machine.load(), "scale": _scale(setup)}
            known["seconds"] = f"{time.monotonic() - begin:.0f}"
            if options.json:
                # After each, so that a run that is cut short leaves what it has.
                _keep(options.json, known, tables, failed)
    text = as_markdown(tables, known)
    print(text)
    if options.markdown:
        _put_into(options.markdown, text)
    return 1 if failed else 0


def _parse(works: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(works), help="works to do, by commas")
    parser.add_argument("--scale", type=float, default=1.0, help="of everything below; 0.1: a try")
    parser.add_argument("--slices", type=int, help="slices of a series")
    parser.add_argument("--size", type=int, help="rows and columns of a slice")
    parser.add_argument("--patients", type=int, help="series of the archive")
    parser.add_argument("--frames", type=int, help="rows of the large catalog")
    parser.add_argument("--codec-slices", type=int, help="slices of a compressed series")
    parser.add_argument("--rounds", type=int, help="how often each contender does each work")
    parser.add_argument("--corpus", default=os.environ.get("DICOMDATA_CORPUS", ""))
    parser.add_argument("--folder", type=Path, help="where to write; on a disk, not in memory")
    parser.add_argument("--json", type=Path, help="keep the numbers in a file")
    parser.add_argument("--markdown", type=Path, help="put the tables between a page's markers")
    options = parser.parse_args()
    options.only = [name.strip() for name in options.only.split(",") if name.strip()]
    if unknown := [name for name in options.only if name not in works]:
        parser.error(f"--only {', '.join(unknown)}: expected some of {', '.join(works)}")
    if options.markdown and BEGIN not in options.markdown.read_text(encoding="utf-8"):
        parser.error(f"{options.markdown} has no line {BEGIN}")
    return options


def _setup(options: argparse.Namespace, folder: str) -> Setup:
    """Take sizes from the options; what was not said is the default, scaled."""
    sizes = {}
    for field in fields(Setup):
        if field.type == "int":
            default = getattr(_DEFAULTS, field.name)
            asked = getattr(options, field.name)
            # Fewer than two of anything cannot be grouped, stacked or compared.
            sizes[field.name] = max(round(default * options.scale), 2) if asked is None else asked
    return Setup(folder, corpus=options.corpus, **sizes)


def _scale(setup: Setup) -> str:
    return ", ".join(
        f"{field.name.replace('_', ' ')} {getattr(setup, field.name):,}"
        for field in fields(Setup)
        if field.type == "int"
    )


def _keep(file: Path, known: dict[str, str], tables: list[Table], failed: dict[str, str]) -> None:
    """Write all numbers as JSON."""
    listed = [table.as_dict() for table in tables]
    numbers = {"machine": known, "tables": listed, "failed": failed}
    file.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def _put_into(page: Path, text: str) -> None:
    """Put the tables between the markers of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def _say(line: str) -> None:
    """Tell how far it is, on stderr: stdout has the tables."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

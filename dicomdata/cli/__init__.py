"""The ``dicomdata`` command: each subcommand is one function of the API.

Results go to stdout, complaints and progress to stderr. Exit status: 0 all went well, 1 it went
well but something was left out, 2 it could not be done. Torch and MONAI are never imported;
pydicom, NumPy and matplotlib only by the commands that need them.

Text from headers and file names is escaped before a terminal sees it. A table is drawn where a
person reads; a pipe gets plain columns of full width, and programs should ask for ``--json``.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import dicomdata as dd
from dicomdata.cli.arguments import (
    PolicyName,
    find_stack,
    open_source,
    plan_source,
    read_conditions,
    read_window,
)
from dicomdata.cli.cache import CacheLayout, cache
from dicomdata.cli.elements import all_elements, element_lines, find_element, json_model
from dicomdata.cli.printing import (
    complain,
    count,
    finite,
    group_findings,
    group_outcomes,
    plain,
    print_json,
    print_table,
    series_rows,
    shape,
    size,
    spacing,
    stack_row,
    write_csv,
)
from dicomdata.cli.split import split
from dicomdata.cli.verify import verify

_EXIT = """\b
Exit status:
  0  all went well
  1  it went well, but something was left out: stderr says what and why
  2  it could not be done: stderr says why"""


class _Commands(TyperGroup):
    """Turns every error of this package into one line on stderr and exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a letter shows its code, rather than a traceback.
            getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except dd.DicomDataError as error:
            typer.echo(f"dicomdata: {plain(str(error))}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXIT,
)

_Source = Annotated[
    Path, typer.Argument(metavar="CATALOG", help="A catalog that `scan` wrote, or a folder.")
]
_Modality = Annotated[
    list[str] | None,
    typer.Option("--modality", "-m", metavar="CT", help="Modality (0008,0060). Repeat for more."),
]
_Patient = Annotated[
    list[str] | None,
    typer.Option("--patient-id", metavar="ID", help="Patient ID (0010,0020). Repeat for more."),
]
_MinSlices = Annotated[
    int | None, typer.Option("--min-slices", metavar="N", help="Series of N frames or more.")
]
_Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="COLUMN=VALUE",
        help="Any column, as the keys of `series --json`, or a DICOM keyword. "
        "A range is LOW..HIGH, either end may be missing. Repeat for more conditions.",
    ),
]
_Policy = Annotated[
    PolicyName,
    typer.Option(
        "--policy",
        help="strict rejects all that is unusual; lenient accepts and repairs what can be: gaps, "
        "uneven spacing.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dicomdata {dd.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Say which, and end."
        ),
    ] = False,
) -> None:
    """From a messy DICOM archive to training batches: what is in it, and what can be used.

    \b
    A first walk:
      dicomdata scan /data/ct -o ct.catalog        read every header, once
      dicomdata stacks ct.catalog                  list the volumes
      dicomdata show ct.catalog/1 -o first.png     look at the first
      dicomdata outcomes ct.catalog --csv all.csv  what became of every file

    Wherever a CATALOG is asked for, a folder works too: it is scanned for the occasion. Every
    command has its own --help with an example.
    """  # noqa: D301 - \b keeps click from joining the lines


@app.command(epilog=_EXIT)
def scan(
    root: Annotated[Path, typer.Argument(help="Folder to search, with all below it.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="CATALOG", help="Where to keep what was found."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEYWORD", help="Keep one more DICOM keyword. Repeat for more."),
    ] = None,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Draw no bar.")] = False,
    as_json: _Json = False,
) -> None:
    """Read every header under ROOT, once.

    With -o, the catalog is kept; the same command again reads only files that are new or changed,
    and a scan that was killed goes on where it was.

    \b
    Example:
      dicomdata scan /data/ct -o ct.catalog --keep ConvolutionKernel
    """  # noqa: D301
    progress = False if no_progress else None
    catalog = dd.scan(root, catalog=output, keep=keep or (), progress=progress)
    if as_json:
        print_json(catalog, kept=output is not None, series=series_rows(catalog))
    else:
        slices = sum(series.slices for series in catalog.series)
        print_table(
            ("modality", "series", "frames", "size"),
            [
                (
                    modality or "unknown",
                    len(found := catalog.select(modality=modality or None).series),
                    sum(series.slices for series in found),
                    size(sum(series.bytes for series in found)),
                )
                for modality in sorted({series.modality for series in catalog.series})
            ],
        )
        kept = f", kept in {plain(str(output))}" if output else ""
        typer.echo(f"{count(len(catalog.series), 'series')} of {count(slices, 'frame')}{kept}")
    raise typer.Exit(complain(catalog.rejected))


@app.command(epilog=_EXIT)
def series(
    catalog: _Source,
    modality: _Modality = None,
    patient_id: _Patient = None,
    min_slices: _MinSlices = None,
    where: _Where = None,
    as_json: _Json = False,
) -> None:
    """List the series of CATALOG.

    \b
    Examples:
      dicomdata series ct.catalog --modality CT --min-slices 32
      dicomdata series ct.catalog --where slice_spacing=0.5..3 --where Manufacturer=SIEMENS
      dicomdata series ct.catalog --json
    """  # noqa: D301
    conditions = read_conditions(modality, patient_id, min_slices, where)
    chosen = open_source(catalog).select(**conditions)
    if as_json:
        print_json(chosen, kept=not catalog.is_dir(), series=series_rows(chosen))
    else:
        print_table(
            ("modality", "patient", "frames", "rows x cols", "spacing mm", "description", "uid"),
            [
                (
                    found.modality,
                    found.patient_id,
                    found.slices,
                    shape((found.rows, found.columns)),
                    spacing((found.slice_spacing, found.row_spacing, found.column_spacing)),
                    found.series_description,
                    found.series_instance_uid,
                )
                for found in chosen.series
            ],
        )
    raise typer.Exit(complain(chosen.rejected))


@app.command(epilog=_EXIT)
def stacks(
    catalog: _Source,
    modality: _Modality = None,
    patient_id: _Patient = None,
    min_slices: _MinSlices = None,
    where: _Where = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FINDING", help="Only stacks without it, as in tilt. Repeat for more."
        ),
    ] = None,
    policy: _Policy = PolicyName.default,
    as_json: _Json = False,
) -> None:
    """List the volumes of CATALOG.

    A stack is frames that are proven to lie on one grid. The number in front, or the id, names it
    for `dicomdata show`. Findings are what is true of a stack and was accepted; what was not
    accepted is told on stderr.

    \b
    Examples:
      dicomdata stacks /data/ct
      dicomdata stacks ct.catalog --modality CT --min-slices 32 --json
      dicomdata stacks ct.catalog --policy lenient --without tilt
    """  # noqa: D301
    plan = plan_source(catalog, policy)
    numbers = {stack.id: number for number, stack in enumerate(plan.stacks, start=1)}
    conditions = read_conditions(modality, patient_id, min_slices, where)
    plan = plan.select(without=without or (), **conditions)
    if as_json:
        rows = [stack_row(stack, numbers[stack.id]) for stack in plan.stacks]
        print_json(plan.catalog, plan.rejected, kept=not catalog.is_dir(), stacks=rows)
    else:
        print_table(
            ("#", "modality", "patient", "shape", "spacing mm", "unit", "findings", "id"),
            [
                (
                    numbers[stack.id],
                    stack.modality,
                    stack.patient_id,
                    shape(stack.shape),
                    spacing(stack.spacing),
                    stack.unit,
                    ", ".join(dict.fromkeys(finding.kind for finding in stack.findings)) or "-",
                    stack.id,
                )
                for stack in plan.stacks
            ],
        )
    raise typer.Exit(complain((*plan.rejected, *plan.catalog.rejected)))


@app.command(epilog=_EXIT)
def findings(
    catalog: _Source,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a line for every finding.")
    ] = None,
    policy: _Policy = PolicyName.default,
    as_json: _Json = False,
) -> None:
    """List what is true of the volumes of CATALOG, or why there are none.

    A finding is something that a user may want to know or forbid: a tilt, a gap, lossy pixels.
    Without --csv or --json, those of one kind are counted together, each with one example.

    \b
    Examples:
      dicomdata findings ct.catalog
      dicomdata findings ct.catalog --policy strict --csv findings.csv
    """  # noqa: D301
    plan = plan_source(catalog, policy)
    if csv is not None:
        write_csv(plan.findings, csv)
    if as_json:
        rows = [asdict(row) for row in plan.findings]
        print_json(plan.catalog, plan.rejected, kept=not catalog.is_dir(), findings=rows)
    else:
        print_table(
            ("findings", "kind", "choice", "most", "example"), group_findings(plan.findings)
        )
    raise typer.Exit(1 if plan.rejected or plan.catalog.rejected else 0)


@app.command()
def show(
    stack: Annotated[
        str,
        typer.Argument(
            help="A catalog or folder that holds one stack; or CATALOG/ID, where ID is the stack's "
            "id, the beginning of it, or its number in the list."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="PICTURE", help="Where to draw, as in x.png.")
    ],
    window: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|LOW,HIGH",
            help="lung, bone, brain or soft-tissue; or what is black and what is white, in the "
            "unit of the volume. Default: soft-tissue for HU, else 1st to 99th percentile.",
        ),
    ] = None,
    policy: _Policy = PolicyName.default,
) -> None:
    """Draw three cuts through a stack.

    They are the axial, coronal and sagittal one through its middle, in true proportions, with the
    patient's directions at the edges.

    \b
    Examples:
      dicomdata stacks ct.catalog
      dicomdata show ct.catalog/2 -o second.png --window lung
      dicomdata show /data/ct/one-series -o picture.png --window=-200,300

    \b
    Exit status:
      0  the picture is drawn
      2  it could not be done: stderr says why
    """  # noqa: D301
    found = find_stack(stack, policy)
    dd.draw_orthogonal(dd.read_volume(found), output, window=read_window(window))
    typer.echo(f"{plain(str(output))}: stack {plain(found.id)}")


@app.command()
def header(
    file: Annotated[Path, typer.Argument(help="A DICOM file, whatever its name.")],
    element: Annotated[
        str | None,
        typer.Argument(help="One element: by keyword, or by tag as in 0008,0070 or 0x00080070."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The DICOM JSON model (PS3.18 F) on stdout.")
    ] = False,
) -> None:
    """Print a file's header, or one element of it.

    Elements of people, names and dates of birth among them, are printed as they are: mind who
    looks on.

    \b
    Examples:
      dicomdata header image.dcm
      dicomdata header image.dcm Manufacturer
      dicomdata header image.dcm 0008,0070

    \b
    Exit status:
      0  printed
      2  it could not be done: no DICOM, or no such element
    """  # noqa: D301
    with warnings.catch_warnings():
        # That a value breaks a rule of its VR is no reason not to print it.
        warnings.simplefilter("ignore")
        found = dd.read_header(file, whole=not as_json)
        elements = all_elements(found)
        if element is not None:
            elements = [find_element(found, elements, element, str(file))]
        if as_json:
            typer.echo(json.dumps(finite(json_model(elements)), allow_nan=False, indent=1))
            return
        for line in element_lines(elements):
            typer.echo(plain(line))


@app.command(epilog=_EXIT)
def warm(
    catalog: _Source,
    cache: Annotated[
        Path, typer.Option("--cache", metavar="FOLDER", help="Folder of the volume cache.")
    ],
    max_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help='Bound of the cache, as in "64 GB".')
    ] = None,
    layout: Annotated[
        CacheLayout,
        typer.Option(help="raw: plain voxels, the fastest; small: compressed, 40 % of a CT."),
    ] = CacheLayout.raw,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Volumes at a time. Default: one a processor, 4 at most."
        ),
    ] = None,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Draw no bar.")] = False,
    modality: _Modality = None,
    patient_id: _Patient = None,
    min_slices: _MinSlices = None,
    where: _Where = None,
    policy: _Policy = PolicyName.default,
) -> None:
    """Fill a cache with the volumes of CATALOG.

    The first epoch of a training then finds them there. What is kept already is left as it is: the
    same command goes on after one that was killed.

    \b
    Examples:
      dicomdata warm ct.catalog --cache ~/.cache/dicomdata --modality CT
      dicomdata warm ct.catalog --cache ~/.cache/dicomdata --layout small --workers 2
    """  # noqa: D301
    conditions = read_conditions(modality, patient_id, min_slices, where)
    plan = dd.plan_stacks(open_source(catalog).select(**conditions), policy.policy)
    kept = dd.DiskCache(cache, max_bytes, layout.layout)
    progress = False if no_progress else None
    failed = dd.warm(plan.stacks, kept, workers=workers, progress=progress)
    done = kept.statistics()
    told = count(len(plan.stacks) - len(failed), "volume")
    typer.echo(f"{told} in {plain(str(cache))}, {done.fills:,} of them new")
    status = complain((*failed, *plan.rejected, *plan.catalog.rejected))
    if done.evictions:
        gone = count(done.evictions, "volume")
        typer.echo(f"{gone} dropped to make room: {max_bytes} does not hold them all", err=True)
        status = 1
    raise typer.Exit(status)


app.command()(verify)
app.command()(cache)
app.command()(split)


@app.command(epilog=_EXIT)
def outcomes(
    catalog: _Source,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a line for every frame of every file."),
    ] = None,
    policy: _Policy = PolicyName.default,
    as_json: _Json = False,
) -> None:
    """Account for every file of CATALOG.

    Each frame of each file is used, set aside or rejected, exactly once, and for a reason. Without
    --csv or --json, equal reasons are counted together, each with one example.

    \b
    Examples:
      dicomdata outcomes ct.catalog
      dicomdata outcomes ct.catalog --csv account.csv
    """  # noqa: D301
    plan = plan_source(catalog, policy)
    counts = Counter(row.outcome for row in plan.outcomes)
    if csv is not None:
        write_csv(plan.outcomes, csv)
    if as_json:
        rows = [asdict(row) for row in plan.outcomes]
        kept = not catalog.is_dir()
        print_json(plan.catalog, plan.rejected, kept=kept, counts=dict(counts), outcomes=rows)
    else:
        print_table(
            ("frames", "outcome", "reason", "example"),
            group_outcomes(plan.outcomes, plan.catalog.root),
        )
        files = len({row.path for row in plan.outcomes})
        told = f"; every line in {plain(str(csv))}" if csv else ""
        typer.echo(f"{count(files, 'file')}, {count(len(plan.outcomes), 'line')}{told}")
    raise typer.Exit(1 if plan.rejected or plan.catalog.rejected else 0)

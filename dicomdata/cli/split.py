"""`dicomdata split`: patients into parts, and a look at whether anything is in two of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import dicomdata as dd
from dicomdata.cli.arguments import PolicyName, open_source, read_conditions
from dicomdata.cli.printing import complain, count, finite, plain, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def split(
    catalog: Annotated[
        Path, typer.Argument(metavar="CATALOG", help="A catalog that `scan` wrote, or a folder.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to keep the split, as JSON. One that is there is taken up: whoever is in "
            "it stays where they are.",
        ),
    ],
    ratio: Annotated[
        str | None,
        typer.Option(metavar="NAME=SHARE,...", help="Parts, as in train=.8,val=.1,test=.1."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(metavar="K", min=2, help="K folds, called 0, 1 and so on.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="S", help="A whole number: another one, another split.")
    ] = None,
    stratify: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Balance what is in this column, as the keys of `series --json`."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A CSV with labels of patients, studies or series: then --stratify is its column.",
        ),
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Balance the number of patients.")
    ] = False,
    missing_patient: Annotated[
        str | None,
        typer.Option(
            metavar="refuse|study",
            help="Cases of which nothing says whose they are: refuse them, or take each of their "
            "studies for a patient.",
        ),
    ] = None,
    same: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=ID", help="Two Patient IDs of one patient. Repeat for more."),
    ] = None,
    anonymous: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="A Patient ID that stands for nobody, as ANON in every file: taken for missing, "
            "so --missing-patient decides. Repeat for more.",
        ),
    ] = None,
    no_pixels: Annotated[
        bool, typer.Option("--no-pixels", help="Do not look for copies under another name.")
    ] = False,
    modality: Annotated[
        list[str] | None,
        typer.Option("--modality", "-m", metavar="CT", help="Modality. Repeat for more."),
    ] = None,
    min_slices: Annotated[
        int | None, typer.Option("--min-slices", metavar="N", help="Series of N frames or more.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="COLUMN=VALUE", help="As for `series`."),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write a line for every volume: its part."),
    ] = None,
    policy: Annotated[PolicyName, typer.Option("--policy", help="As for `stacks`.")] = (
        PolicyName.default
    ),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Split the patients of CATALOG into parts that share none of them.

    Which part a patient is in is a matter of the Patient ID and the seed alone, so nobody moves
    when others come. With --stratify or --balanced the parts are balanced as well; then the file
    is what keeps patients where they are.

    Before it is written, frames of different parts are compared: pixels that are in two of them
    are a copy of a patient under another name. Then nothing is written; --same says who it is.

    \b
    Examples:
      dicomdata split ct.catalog --ratio train=.8,val=.1,test=.1 --seed 7 -o split.json
      dicomdata split ct.catalog --folds 5 --stratify manufacturer --seed 7 -o folds.json
      dicomdata split ct.catalog --folds 5 --labels cases.csv --stratify stage --seed 7 -o f.json
      dicomdata split ct.catalog -o split.json --csv parts.csv    cases came: the rest stays

    \b
    Exit status:
      0  all went well
      1  it is written, but something was left out: stderr says what and why
      2  it is not written: no such shares, or something is in two parts; stderr says why
    """  # noqa: D301
    _check_folders(output, table)
    before = dd.Split.load(output) if output.exists() else None
    plan = dd.plan_stacks(
        open_source(catalog).select(**read_conditions(modality, None, min_slices, where)),
        policy.policy,
    )
    try:
        made = dd.make_split(
            plan,
            _parts(ratio, folds, before),
            seed=_seed(seed, before),
            stratify=_strata(stratify, labels, before),
            balanced=balanced or (before is not None and before.balanced),
            missing_patient=_missing(missing_patient, before),
            same=_pairs(same or ()),
            anonymous=anonymous or (),
            previous=before,
        )
    except dd.SplitError as error:
        told = f"{output} is there and is taken up: {error}" if before else str(error)
        raise dd.SplitError(told) from error
    stacks = {part: made.stacks(plan, part) for part in made.parts}
    audit = dd.audit_split(stacks, pixels=not no_pixels, anonymous=made.anonymous)
    _refuse_leaks(audit, output)
    made.save(output)
    if table is not None:
        _write_table(stacks, table)
    if as_json:
        typer.echo(json.dumps(finite(_document(made, output)), allow_nan=False, indent=1))
    else:
        _print(made, output)
    for finding in made.findings:
        typer.echo(plain(finding), err=True)
    raise typer.Exit(complain((*audit.rejected, *plan.rejected, *plan.catalog.rejected)))


def _check_folders(*files: Path | None) -> None:
    """Find out before the pixels are compared that what comes of it has no place."""
    for file in files:
        if file is not None and not file.parent.is_dir():
            raise dd.ConfigError(f"{file}: cannot be written: {file.parent} is no folder")


def _parts(ratio: str | None, folds: int | None, before: dd.Split | None) -> dict[str, float] | int:
    """Read the shares; those of the split that is taken up where none are given."""
    if ratio is not None and folds is not None:
        raise dd.ConfigError("--ratio and --folds: expected one of them")
    if folds is not None:
        return folds
    if ratio is None:
        if before is None:
            raise dd.ConfigError("expected --ratio NAME=SHARE,... or --folds K")
        return dict(before.shares)
    shares: dict[str, float] = {}
    for text in ratio.split(","):
        name, _, share = text.partition("=")
        if name.strip() in shares:
            raise dd.ConfigError(f"--ratio {ratio!r}: {name.strip()} comes twice")
        try:
            shares[name.strip()] = float(share)
        except ValueError:
            raise dd.ConfigError(f"--ratio {text!r}: expected NAME=SHARE, as in val=0.1") from None
    return shares


def _seed(seed: int | None, before: dd.Split | None) -> int:
    if seed is not None:
        return seed
    if before is None:
        raise dd.ConfigError("expected --seed S, so that the split can be made again")
    return before.seed


def _strata(
    stratify: str | None, labels: Path | None, before: dd.Split | None
) -> str | Mapping[str, Any] | None:
    """Give what to balance by: a column of the catalog, or labels from a table."""
    if labels is not None:
        if stratify is None:
            raise dd.ConfigError("--labels: expected --stratify COLUMN, one of its columns")
        return dd.read_case_labels(labels, stratify).values
    column = stratify or (before.stratify if before is not None else None) or None
    if column == "labels" and stratify is None:
        raise dd.ConfigError("the split was balanced by labels: expected --labels and --stratify")
    return column


def _missing(given: str | None, before: dd.Split | None) -> Literal["refuse", "study"]:
    if given == "study" or (given is None and before and before.missing_patient == "study"):
        return "study"
    if given in (None, "refuse"):
        return "refuse"
    raise dd.ConfigError(f"--missing-patient {given!r}: expected refuse or study")


def _pairs(same: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in same:
        left, equals, right = text.partition("=")
        if not (left and equals and right):
            raise dd.ConfigError(f"--same {text!r}: expected two Patient IDs, as in ANON7=P12")
        pairs[left] = right
    return pairs


def _refuse_leaks(audit: dd.Audit, output: Path) -> None:
    if not audit.leaks:
        return
    for leak in audit.leaks:
        typer.echo(plain(str(leak)), err=True)
    first = audit.leaks[0]
    raise dd.SplitError(
        f"{output}: not written: {count(len(audit.leaks), 'leak')}: leave one of each pair out, or "
        f"say that they are one patient, as in --same {'='.join(first.patients)}"
    )


def _write_table(stacks: Mapping[str, Sequence[dd.Stack]], path: Path) -> None:
    """Write which volume is in which part, to be joined with other tables."""
    from dicomdata.evaluate.records import write_csv  # half a second, for who wants a table

    columns = ("patient_id", "study_instance_uid", "series_instance_uid")
    rows = (
        {"part": part, **{name: getattr(stack, name) for name in columns}, "stack": stack.id}
        for part, members in stacks.items()
        for stack in members
    )
    write_csv(path, ("part", *columns, "stack"), rows, ())


def _print(made: dd.Split, output: Path) -> None:
    """Print a row for each part, and how its strata are spread."""
    counts = made.counts()
    everyone = sum(patients for patients, _ in counts.values())
    strata = sorted({group.stratum for group in made.groups if group.series})
    inside = Counter((group.part, group.stratum) for group in made.groups if group.series)
    shown = strata if made.stratify else []
    print_table(
        ("part", "patients", "series", "share", "wanted", *(each or "none" for each in shown)),
        [
            (
                part,
                *counts[part],
                f"{counts[part][0] / everyone:.3f}",
                f"{wanted:.3f}",
                *(inside[part, stratum] for stratum in shown),
            )
            for part, wanted in made.shares
        ],
    )
    typer.echo(f"{count(everyone, 'patient')} in {plain(str(output))}, seed {made.seed}")


def _document(made: dd.Split, output: Path) -> dict[str, object]:
    return {
        "split": str(output),
        "seed": made.seed,
        "fingerprint": made.fingerprint,
        "catalog_fingerprint": made.catalog_fingerprint,
        "parts": {
            part: {"patients": patients, "series": series}
            for part, (patients, series) in made.counts().items()
        },
        "findings": list(made.findings),
    }

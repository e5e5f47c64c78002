"""`dicomdata verify`: is a catalog whole, and do decoders agree about the pixels it tells of?"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import dicomdata as dd
from dicomdata.cli.printing import count, plain, print_table

if TYPE_CHECKING:
    from dicomdata.header import Frame
    from dicomdata.pixels import Comparison

    Group = tuple[str, str]
    """Transfer Syntax UID and Manufacturer."""

    Result = Comparison | dd.DicomDataError
    """What decoding one frame gave."""

_GREY = "json_extract(attributes, '$.samples_per_pixel') = 1"

_SAMPLE = f"""
WITH grey AS (
    SELECT id, path, number, json_extract(attributes, '$.transfer_syntax_uid') AS syntax,
        coalesce(json_extract(attributes, '$.manufacturer'), '') AS manufacturer
    FROM frames WHERE {_GREY}
), placed AS (
    SELECT id, syntax, manufacturer,
        row_number() OVER (PARTITION BY syntax, manufacturer ORDER BY path, number) - 1 AS place,
        count(*) OVER (PARTITION BY syntax, manufacturer) AS total
    FROM grey
)
SELECT id FROM placed
WHERE place = 0 OR place * {{wanted}} / total > (place - 1) * {{wanted}} / total
ORDER BY syntax, manufacturer, place
"""  # noqa: S608 - made of constants, and a number
"""Ids of frames, `wanted` or all there are of each group, evenly spread over it."""


def verify(
    catalog: Annotated[Path, typer.Argument(metavar="CATALOG", help="A catalog `scan` wrote.")],
    pixels: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Decode N frames of each Transfer Syntax and manufacturer with every decoder "
            "that is installed, and compare.",
        ),
    ] = None,
) -> None:
    """Check that CATALOG is not damaged, and that its pixels can be decoded.

    It is compared, to the bit, with the digest written beside it. With --pixels, frames are decoded
    too, the same ones every time: decoders must give the same values, but for 1 or 2 where they
    round what was compressed with loss.

    \b
    Examples:
      dicomdata verify ct.catalog
      dicomdata verify ct.catalog --pixels 20

    \b
    Exit status:
      0  it is whole, and decoders agree
      1  it is whole, but frames cannot be decoded, or decoders disagree: stderr says which
      2  it is damaged, or no catalog: scan again
    """  # noqa: D301
    if catalog.is_dir():
        raise dd.CatalogError(f"{catalog}: a folder, and only a catalog can be verified")
    opened = dd.open_catalog(catalog)
    opened.verify()
    typer.echo(f"{plain(str(catalog))}: whole, {count(len(opened.series), 'series')}")
    if pixels is not None:
        raise typer.Exit(_verify_pixels(opened, pixels))


def _verify_pixels(catalog: dd.Catalog, wanted: int) -> int:
    """Compare decoders on a sample of frames, print a row for each group; give the exit status."""
    from dicomdata.pixels import syntax_name

    groups: dict[Group, list[Result]] = defaultdict(list)
    for frame in _sample(catalog, wanted):
        group = frame.kind.transfer_syntax_uid, frame.kind.manufacturer
        groups[group].append(_compare(frame))
    print_table(
        ("transfer syntax", "manufacturer", "frames", "result", "decoders"),
        [
            (syntax_name(syntax), manufacturer or "unknown", len(found), *_summary(found))
            for (syntax, manufacturer), found in groups.items()
        ],
    )
    (colour,) = catalog.query(f"SELECT count(*) AS n FROM frames WHERE NOT {_GREY}")  # noqa: S608
    if colour["n"]:
        typer.echo(f"left out: {count(colour['n'], 'frame')} of colour, no volume", err=True)
    results = [result for found in groups.values() for result in found]
    return 0 if all(map(_is_right, results)) else 1


def _sample(catalog: dd.Catalog, wanted: int) -> tuple[Frame, ...]:
    """Choose the frames to decode, always the same of the same catalog."""
    from dicomdata.catalog import load_frames

    rows = catalog.query(_SAMPLE.format(wanted=wanted))
    return load_frames(str(catalog.path), [row["id"] for row in rows])


def _compare(frame: Frame) -> Result:
    """Compare the decoders of one frame; what is wrong goes to stderr, named by its file."""
    from dicomdata.pixels import compare_decoders

    try:
        compared = compare_decoders(frame)
    except dd.DicomDataError as error:
        typer.echo(f"cannot be decoded: {plain(str(error))}", err=True)
        return error
    if not compared.agree:
        typer.echo(f"{plain(frame.path)}: frame {frame.number}: {compared}", err=True)
    return compared


def _is_right(result: Result) -> bool:
    return not isinstance(result, dd.DicomDataError) and result.agree


def _summary(found: list[Result]) -> tuple[str, str]:
    """Say how the frames of one group fared, and who decoded them."""
    compared = [result for result in found if not isinstance(result, dd.DicomDataError)]
    failed = len(found) - len(compared)
    disagreeing = [result for result in compared if not result.agree]
    largest = max((result.difference for result in compared), default=0)
    decoders = list(dict.fromkeys(name for result in compared for name in result.decoders))
    parts = []
    if failed:
        parts.append(f"{failed} cannot be decoded")
    if disagreeing:
        parts.append(f"{len(disagreeing)} disagree, by up to {largest}")
    if not parts:
        parts.append(f"agree within {largest}, lossy" if largest else "agree")
        if any(len(result.decoders) == 1 for result in compared):
            parts = ["only one decoder installed"]
    return "; ".join(parts), ", ".join(decoders) or "none"

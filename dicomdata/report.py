"""Pictures of volumes: three orthogonal cuts in the patient's directions, and histograms of values.

Drawn with matplotlib's objects on the Agg canvas: no display, no pyplot, no state that other code
could share. Lengths on the page are true: one mm is the same everywhere in a picture, whatever
the voxel sizes, and a leaning stack is drawn leaning.

Nothing that names a person is drawn, and no free text of the header.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Affine2D

from dicomdata.errors import ConfigError, FileError
from dicomdata.geometry import tilt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from dicomdata.volume import Volume

Range: TypeAlias = tuple[float, float]
"""Lowest and highest value shown, in output units: black and white."""

WINDOWS: dict[str, Range] = {
    "lung": (-1350, 150),
    "bone": (-500, 1300),
    "brain": (0, 80),
    "soft tissue": (-160, 240),
}
"""Usual windows for CT as (low, high) HU, which are centre and width -600/1500, 400/1800, 40/80
and 40/400 (PS3.3 C.11.2.1.2)."""

MARKS: dict[str, float] = {"air": -1000, "lung": -800, "water": 0, "bone": 500}
"""Where well-known tissues lie, HU: a histogram that misses them has the wrong rescale."""

_LETTERS = ("LR", "PA", "HF")
"""Letter of each LPS axis, positive end first (PS3.3 C.7.6.1.1.1)."""

_SHARE_OF_LETTER = 0.2
"""Component of a unit direction, 12 degrees, from which its letter is written too."""

_VIEWS = (("axial", 0, 1), ("coronal", 0, 2), ("sagittal", 1, 2))
"""Name, and the LPS axes that run across and down (up, for z) the page: seen from the feet, the
front and the left, as radiologists hang them."""

_LEAN_DEGREES = 0.06
"""Tilt worth a word: 1e-3 rad, as planning judges it."""

_SAMPLED = 2**20
"""Voxels that are enough to find percentiles."""

_HU_RANGE = (-1100.0, 1500.0)
_BINS = 260
"""Range and bins of a histogram in HU, 10 HU each; what lies outside is told in words."""

_INK, _DIM, _PAPER, _ACCENT = "#f2f2f2", "#9aa0a6", "#101114", "#f2c14e"
_CUTS = {"axial": "#f2c14e", "coronal": "#6fc3df", "sagittal": "#e07a7a"}
"""Colour of each cut: of its name, and of its line in the other two."""

_OUTLINES = ("#7bd88f", "#ff6ac1", "#6fc3df", "#f2c14e", "#c9a0ff")
"""Colours of outlines, in the order they are given; then from the first again."""

_DPI = 110

_PICTURES_IN = 10.0, 4.6
"""Width that the three cuts share at most, and height of the tallest, inches."""


@dataclass(frozen=True, slots=True)
class _View:
    """One cut through a volume, and how it lies on the page."""

    name: str
    """ "axial", "coronal" or "sagittal"."""

    values: NDArray[Any]
    """(down, across): voxels of the cut, indexed by the two array axes that span it."""

    matrix: NDArray[np.float64]
    """(2, 2): index steps (across, down) -> mm (to the right, to the bottom)."""

    middle: tuple[int, int]
    """Index (across, down) at which the other two cuts meet this one."""

    crossing: tuple[str, str]
    """Names of the cuts that are lines of constant index across, and of constant index down."""

    letters: tuple[str, str, str, str]
    """Patient directions at the left, right, top and bottom edge."""

    outlines: tuple[NDArray[np.bool_], ...] = ()
    """Cuts through what is outlined, each as `values`."""

    @property
    def corners(self) -> NDArray[np.float64]:
        """(4, 2): outer corners of the voxels, mm to the right and to the bottom."""
        down, across = self.values.shape
        ends = product((-0.5, across - 0.5), (-0.5, down - 0.5))
        return np.array([self.matrix @ end for end in ends])

    @property
    def size(self) -> NDArray[np.float64]:
        """(2,): width and height on the page, mm."""
        size: NDArray[np.float64] = np.ptp(self.corners, axis=0)
        return size


def draw_orthogonal(
    volume: Volume,
    path: str | os.PathLike[str],
    *,
    window: str | Range | None = None,
    centre: tuple[int, int, int] | None = None,
    outlines: Mapping[str, NDArray[np.bool_]] | None = None,
) -> None:
    """Draw the axial, coronal and sagittal cut through a volume, and write the picture.

    Cuts follow the array, so that every pixel is a voxel and nothing is interpolated away: in an
    oblique stack they are the planes nearest to the three, and the letters at the edges say where
    the patient's left, back and head are. The front or the head is up, the patient's right on the
    left.

    Args:
        volume: any that `read_volume` gives.
        path: where to write; the suffix says how, as in ``.png``.
        window: a name in `WINDOWS`, or (low, high) in the volume's unit. Without it, soft tissue
            for HU, and all but the outermost hundredth of values for other units.
        centre: voxel (slice, row, column) to cut through; the middle of the volume without it.
        outlines: name -> mask of the volume's shape, drawn as a line of its own colour.

    Raises:
        ConfigError: if the window is none, or one for HU and the volume is not in HU; if there
            is no voxel `centre`; if an outline has another shape; if the suffix is of no picture.
        FileError: if the picture cannot be written.
    """
    low, high, shown = _choose_window(volume, window)
    shape = volume.voxels.shape
    middle = centre or (shape[0] // 2, shape[1] // 2, shape[2] // 2)
    if not all(0 <= k < length for k, length in zip(middle, shape, strict=True)):
        raise ConfigError(f"there is no voxel {middle} in a volume of shape {shape}")
    drawn = outlines or {}
    for name, mask in drawn.items():
        if mask.shape != shape:
            raise ConfigError(f"outline {name!r}: its shape is {mask.shape}, the volume's {shape}")
    views = [_cut(volume, middle, *view, masks=tuple(drawn.values())) for view in _VIEWS]
    kinds = dict.fromkeys(finding.kind.replace("_", " ") for finding in volume.stack.findings)
    subline = "  ·  ".join((shown, *kinds))
    figure = _lay_out(views, limits=(low, high), headline=_headline(volume), subline=subline)
    _name_outlines(figure, tuple(drawn))
    _save(figure, path)


def draw_histogram(volumes: Volume | Sequence[Volume], path: str | os.PathLike[str]) -> None:
    """Draw how often each value occurs, counts on a log scale, and write the picture.

    Volumes of one unit share a panel; each unit has its own. In HU, marks show where air, lung,
    water and bone belong.

    Raises:
        ConfigError: if no volume is given, or the suffix is of no picture.
        FileError: if the picture cannot be written.
    """
    given = list(volumes) if isinstance(volumes, Sequence) else [volumes]
    if not given:
        raise ConfigError("a histogram needs at least one volume, got none")
    units = list(dict.fromkeys(volume.unit for volume in given))
    figure = Figure(figsize=(9.0, 3.6 * len(units)), dpi=_DPI, facecolor=_PAPER)
    for number, unit in enumerate(units, start=1):
        axes = figure.add_subplot(len(units), 1, number)
        _draw_counts(axes, [volume for volume in given if volume.unit == unit], unit)
    figure.tight_layout(pad=1.2)
    _save(figure, path)


def _choose_window(volume: Volume, window: str | Range | None) -> tuple[float, float, str]:
    """Give the values shown as black and white, and say so in words."""
    unit = _printable(volume.unit)
    if isinstance(window, str):
        if window not in WINDOWS:
            raise ConfigError(f"window {window!r}: expected one of {', '.join(WINDOWS)}")
        if volume.unit != "HU":
            raise ConfigError(
                f"window {window!r} is in HU, and the volume in {unit!r}: give low and high"
            )
        name = f"{window} window"
    elif window is None and volume.unit == "HU":
        window, name = "soft tissue", "soft tissue window"
    elif window is None:
        name = "1st to 99th percentile"
    else:
        name = "window"
    low, high = WINDOWS[window] if isinstance(window, str) else window or _percentiles(volume)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"window {low:g}, {high:g}: expected low below high")
    return low, high, f"{name}: {_number(low)} to {_number(high)} {unit}"


def _percentiles(volume: Volume) -> Range:
    values = _finite(volume.voxels.ravel()[:: max(1, volume.voxels.size // _SAMPLED)])
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, (1, 99)))
    # A volume of one value is shown grey.
    return (low, high) if low < high else (low - 1.0, high + 1.0)


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def _cut(  # noqa: PLR0913 - a view is a name and two axes, given as they stand in a table
    volume: Volume,
    centre: tuple[int, int, int],
    name: str,
    across: int,
    down: int,
    *,
    masks: Sequence[NDArray[np.bool_]],
) -> _View:
    """Cut a volume along the two array axes nearest to the LPS axes `across` and `down`."""
    steps = volume.affine_lps[:3, :3].T
    nearest = _nearest_axes(steps)
    i, j = nearest[across], nearest[down]
    through = 3 - i - j
    planes = [np.take(each, centre[through], axis=through) for each in (volume.voxels, *masks)]
    values, *lines = planes if j < i else [plane.T for plane in planes]
    to_right, to_bottom = _page_directions(steps, (i, j), (across, down))
    page = np.array([to_right, to_bottom])
    name_of = {
        nearest[axis]: view for view, axis in (("axial", 2), ("coronal", 1), ("sagittal", 0))
    }
    return _View(
        name=name,
        values=values,
        matrix=page @ steps[[i, j]].T,
        middle=(centre[i], centre[j]),
        crossing=(name_of[i], name_of[j]),
        letters=(
            _letters(-to_right),
            _letters(to_right),
            _letters(-to_bottom),
            _letters(to_bottom),
        ),
        outlines=tuple(lines),
    )


def _nearest_axes(steps: NDArray[np.float64]) -> tuple[int, int, int]:
    """Give the array axis that runs most along x, along y and along z, each once.

    Args:
        steps: (3, 3), the LPS step of each array axis, one a row.
    """
    along = np.abs(steps) / np.linalg.norm(steps, axis=1, keepdims=True)
    i, j, k = max(
        permutations(range(3)), key=lambda order: float(np.prod(along[list(order), [0, 1, 2]]))
    )
    return i, j, k


def _page_directions(
    steps: NDArray[np.float64], axes: tuple[int, int], lps: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the unit directions, LPS, that point to the right and to the bottom of the page.

    They lie in the plane of the cut and at a right angle. Where a leaning stack is cut across
    its slices, the edge of the slices stays straight and the steps between them lean.
    """
    units = [steps[axis] / np.linalg.norm(steps[axis]) for axis in axes]
    straight = 1 if axes[0] == 0 else 0
    leaning = units[1 - straight] - (units[1 - straight] @ units[straight]) * units[straight]
    units[1 - straight] = leaning / np.linalg.norm(leaning)
    right, bottom = units
    right = right * np.sign(right[lps[0]])
    # To the patient's back, or to the feet.
    bottom = bottom * np.sign(bottom[lps[1]]) * (-1 if lps[1] == 2 else 1)
    return right, bottom


def _letters(direction: NDArray[np.float64]) -> str:
    """Name a direction by its letters, the strongest first: "L", "PH"."""
    strongest = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    return "".join(
        _LETTERS[axis][int(direction[axis] < 0)]
        for axis in strongest
        if abs(direction[axis]) >= _SHARE_OF_LETTER
    )


def _headline(volume: Volume) -> str:
    """Say what the volume is: modality, shape, spacing, unit, lean."""
    slices, rows, columns = volume.voxels.shape
    step, row, column = volume.affine_lps[:3, :3].T
    normal = np.cross(column, row)
    normal /= np.linalg.norm(normal)
    spacing = (abs(float(normal @ step)), float(np.linalg.norm(row)), float(np.linalg.norm(column)))
    parts = [
        _printable(volume.stack.modality) or "modality unknown",
        f"{slices} × {rows} × {columns} slices, rows, columns",  # noqa: RUF001 - as it is printed
        " × ".join(f"{length:.3g}" for length in spacing) + " mm",  # noqa: RUF001
        _printable(volume.unit),
    ]
    if (lean := tilt(step, normal)) > _LEAN_DEGREES:
        parts.append(f"leans {lean:.1f}°, drawn as it leans")
    return "  ·  ".join(parts)


def _lay_out(views: Sequence[_View], *, limits: Range, headline: str, subline: str) -> Figure:
    """Place the cuts side by side in one scale, and draw them. Lengths here are inches."""
    sizes = np.array([view.size for view in views])
    scale = float(min(_PICTURES_IN[0] / sizes[:, 0].sum(), _PICTURES_IN[1] / sizes[:, 1].max()))
    margin, narrowest, top, bottom = 0.5, 0.8, 1.35, 0.7
    # A column of pixels still needs room for its name.
    widths = np.maximum(sizes[:, 0] * scale, narrowest)
    width = max(float(widths.sum()) + 2 * margin * len(views), 6.5)
    height = float(sizes[:, 1].max()) * scale + top + bottom
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=_PAPER)
    spare = (width - float(widths.sum())) / len(views)
    left = 0.0
    for view, room in zip(views, widths, strict=True):
        view_width, view_height = view.size * scale
        x = left + (spare + room - view_width) / 2
        y = bottom + (height - top - bottom - view_height) / 2
        box = (x / width, y / height, view_width / width, view_height / height)
        _draw_view(figure.add_axes(box), view, limits)
        left += room + spare
    figure.text(0.3 / width, 1 - 0.32 / height, headline, color=_INK, size=12, **_TEXT)
    figure.text(0.3 / width, 1 - 0.58 / height, subline, color=_DIM, size=10, **_TEXT)
    _draw_scale(figure, scale, float(sizes[:, 0].max()))
    return figure


_TEXT: dict[str, Any] = {"parse_math": False, "va": "center"}
"""A dollar sign in a header is no formula."""


def _draw_view(axes: Axes, view: _View, limits: Range) -> None:
    """Draw one cut with its name, the letters of its edges, and the lines of the other two."""
    down, across = view.values.shape
    to_page = Affine2D(np.block([[view.matrix, np.zeros((2, 1))], [np.zeros((1, 2)), np.ones(1)]]))
    picture = axes.imshow(
        view.values.astype(np.float32),
        cmap="gray",
        vmin=limits[0],
        vmax=limits[1],
        origin="lower",
        aspect="auto",
        interpolation="bilinear",
        extent=(-0.5, across - 0.5, -0.5, down - 0.5),
    )
    picture.set_transform(to_page + axes.transData)
    for number, mask in enumerate(view.outlines):
        _draw_outline(axes, mask, view.matrix, _OUTLINES[number % len(_OUTLINES)])
    (left, top), (right, bottom) = view.corners.min(axis=0), view.corners.max(axis=0)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_axis_off()
    i, j = view.middle
    ends = (((i, -0.5), (i, down - 0.5)), ((-0.5, j), (across - 0.5, j)))
    for name, line in zip(view.crossing, ends, strict=True):
        x, y = (np.array(line) @ view.matrix.T).T
        axes.plot(x, y, color=_CUTS[name], linewidth=0.7, alpha=0.5)
    away: dict[str, Any] = {
        "textcoords": "offset points",
        "annotation_clip": False,
        "color": _INK,
        "size": 11,
    }
    edges = (((0, 0.5), (-9, 0)), ((1, 0.5), (9, 0)), ((0.5, 1), (0, 10)), ((0.5, 0), (0, -10)))
    for letters, (edge, offset) in zip(view.letters, edges, strict=True):
        axes.annotate(
            letters,
            edge,
            offset,
            xycoords="axes fraction",
            va="center",
            ha={-9: "right", 9: "left"}.get(offset[0], "center"),
            **away,
        )
    axes.annotate(
        view.name,
        (0.5, 1),
        (0, 29),
        xycoords="axes fraction",
        ha="center",
        va="center",
        **{**away, "color": _CUTS[view.name]},
    )


def _draw_outline(
    axes: Axes, mask: NDArray[np.bool_], matrix: NDArray[np.float64], colour: str
) -> None:
    """Draw the edges between voxels of a mask (down, across) and others, as they are: steps."""
    padded = np.pad(mask, 1).astype(np.int8)
    down, across = np.nonzero(np.diff(padded, axis=0)[:, 1:-1])
    ends = [np.stack([across - 0.5, across + 0.5]), np.stack([down - 0.5, down - 0.5])]
    sides = [np.stack(ends, axis=-1)]
    down, across = np.nonzero(np.diff(padded, axis=1)[1:-1])
    ends = [np.stack([across - 0.5, across - 0.5]), np.stack([down - 0.5, down + 0.5])]
    sides.append(np.stack(ends, axis=-1))
    # (edges, both ends, across and down), in mm on the page.
    lines = np.concatenate(sides, axis=1).swapaxes(0, 1) @ matrix.T
    axes.add_collection(LineCollection(list(lines), colors=colour, linewidths=0.9))


def _name_outlines(figure: Figure, names: Sequence[str]) -> None:
    """Write the name of each outline in its colour, at the bottom left."""
    width, height = figure.get_size_inches()
    left = 0.3
    for number, name in enumerate(names):
        colour = _OUTLINES[number % len(_OUTLINES)]
        shown = _printable(name)
        figure.text(left / width, 0.3 / height, shown, color=colour, size=10, **_TEXT)
        # Inches: a letter of this size is about 0.09 wide.
        left += 0.09 * len(shown) + 0.3


def _draw_scale(figure: Figure, scale: float, widest: float) -> None:
    """Draw a bar of a round number of mm, the same for all cuts."""
    width, height = figure.get_size_inches()
    length = max((n for n in (1, 2, 5, 10, 20, 50, 100) if n <= widest / 3), default=1)
    right, y = 1 - 0.3 / width, 0.3 / height
    left = right - length * scale / width
    figure.add_artist(Line2D((left, right), (y, y), color=_DIM, linewidth=2))
    figure.text(left - 0.1 / width, y, f"{length} mm", color=_DIM, size=9, ha="right", **_TEXT)


def _draw_counts(axes: Axes, volumes: Sequence[Volume], unit: str) -> None:
    """Draw the counts of all volumes of one unit into one panel."""
    values = [_finite(volume.voxels.ravel()) for volume in volumes]
    low, high = _HU_RANGE if unit == "HU" else _span(values)
    edges = np.linspace(low, high, _BINS + 1)
    counts = np.sum([np.histogram(part, bins=edges)[0] for part in values], axis=0)
    axes.stairs(counts, edges, fill=True, color="#6fc3df", alpha=0.85)
    axes.set_facecolor(_PAPER)
    axes.set_yscale("log")
    axes.set_ylim(0.8, max(10.0, float(counts.max()) * 4))
    axes.set_xlim(low, high)
    axes.tick_params(colors=_DIM, which="both")
    for edge, spine in axes.spines.items():
        spine.set(color=_DIM, visible=edge in ("left", "bottom"))
    total, outside = sum(part.size for part in values), sum(part.size for part in values)
    outside -= int(counts.sum())
    axes.set_xlabel(_printable(unit), color=_INK, parse_math=False)
    axes.set_ylabel("voxels", color=_INK)
    several = f"{len(volumes)} volumes" if len(volumes) > 1 else "1 volume"
    title = f"{several}, {total:,} voxels" + (
        f", {outside / total:.2%} beyond the axis" if outside else ""
    )
    axes.set_title(title, color=_INK, size=11, loc="left", pad=34)
    for name, value in MARKS.items() if unit == "HU" else ():
        axes.axvline(value, color=_ACCENT, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{name}\n{_number(value)}",
            (value, 1),
            (0, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=_ACCENT,
            size=9,
            ha="center",
            va="bottom",
        )


def _span(values: Sequence[NDArray[Any]]) -> Range:
    filled = [part for part in values if part.size]
    if not filled:
        return 0.0, 1.0
    low = min(float(part.min()) for part in filled)
    high = max(float(part.max()) for part in filled)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _number(value: float) -> str:
    return f"{value:.5g}".replace("-", "\N{MINUS SIGN}")


def _printable(text: str) -> str:
    """Escape what a font may not have or a page should not obey: control and foreign characters."""
    latin = 0x24F
    return "".join(
        letter if letter.isprintable() and ord(letter) <= latin else ascii(letter)[1:-1]
        for letter in text
    )


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure; the folder is made if it is not there."""
    target = os.path.abspath(os.path.expanduser(path))
    canvas = FigureCanvasAgg(figure)
    kinds = sorted(canvas.get_supported_filetypes())
    suffix = os.path.splitext(target)[1].lstrip(".").lower()
    if suffix not in kinds:
        raise ConfigError(f"{target}: no picture ends so; expected one of .{', .'.join(kinds)}")
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        canvas.print_figure(target, facecolor=_PAPER)
    except OSError as error:
        raise FileError(f"{target}: the picture cannot be written: {error.strerror}") from error

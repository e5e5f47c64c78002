"""Pictures: true proportions, the patient's directions, values where they belong, no names."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import dicomdata as dd
from dicomdata.report import WINDOWS
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)
CORONAL = (1, 0, 0, 0, 0, -1)
PRONE = (-1, 0, 0, 0, -1, 0)
HEAD_DOWN = (-1, 0, 0, 0, 1, 0)
ODD = (0, 0, 1, 0, -1, 0)

ORIENTATIONS = [AXIAL, SAGITTAL, CORONAL, PRONE, HEAD_DOWN, ODD]


def read(folder: Path, **changes: Any) -> dd.Volume:
    write_series(folder, **changes)
    (stack,) = dd.plan_stacks(dd.scan(folder, progress=False)).stacks
    return dd.read_volume(stack)


def words(path: Path) -> list[str]:
    """Read all text of an SVG, in the order it is drawn."""
    return re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"))


def grey(path: Path) -> NDArray[np.uint8]:
    """Read a picture as brightness, 0 to 255."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"))


def panels(path: Path) -> list[NDArray[np.uint8]]:
    """Cut a picture into its three views: what is not paper, and more than a letter."""
    pixels = grey(path)
    inside = (pixels > 60).sum(axis=0) > 24
    edges = np.flatnonzero(np.diff(np.concatenate(([0], inside, [0]))))
    found = []
    for left, right in zip(edges[::2], edges[1::2], strict=True):
        rows = np.flatnonzero((pixels[:, left:right] > 60).mean(axis=1) > 0.9)
        found.append(pixels[rows[0] : rows[-1] + 1, left:right])
    return found


def bright_block(
    folder: Path, orientation: tuple[float, ...], **changes: Any
) -> tuple[dd.Volume, tuple[int, int, int]]:
    """Make a grey volume with one bright block at the patient's left, front and head."""
    shape, spacing = (13, 16, 18), 4.0
    axes = np.reshape(orientation, (2, 3)).astype(float)
    steps = spacing * np.array([np.cross(*axes), axes[1], axes[0]])
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ steps
    x, y, z = np.moveaxis(places - places.reshape(-1, 3).mean(axis=0), -1, 0)
    target = np.array([14.0, -14.0, 14.0])
    distance = np.abs(np.stack([x, y, z], axis=-1) - target).max(axis=-1)
    stored = np.where(distance <= 5, 3000, 1024).astype(np.uint16)
    centre = np.unravel_index(distance.argmin(), shape)
    volume = read(
        folder, stored=stored, orientation=orientation, step=spacing,
        pixel_spacing=(spacing, spacing), **changes,
    )  # fmt: skip
    i, j, k = map(int, centre)
    return volume, (i, j, k)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_left_is_right_and_front_and_head_are_up_however_it_was_scanned(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    volume, centre = bright_block(tmp_path / "series", orientation)

    dd.draw_orthogonal(volume, tmp_path / "a.png", window=(-500, 1500), centre=centre)

    # Where the block lies in each view, in shares of its width and height.
    places = []
    for panel in panels(tmp_path / "a.png"):
        rows, columns = np.nonzero(panel > 200)
        places.append((columns.mean() / panel.shape[1] > 0.5, rows.mean() / panel.shape[0] < 0.5))
    axial, coronal, sagittal = places
    assert axial == (True, True), "left is on the right, the front is up"
    assert coronal == (True, True), "left is on the right, the head is up"
    assert sagittal == (False, True), "the front is on the left, the head is up"


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_edges_carry_the_letters_of_the_patient(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    volume = read(tmp_path / "series", orientation=orientation)

    dd.draw_orthogonal(volume, tmp_path / "a.svg")

    told = [word for word in words(tmp_path / "a.svg") if len(word) == 1 or word in WINDOWS]
    assert told == ["R", "L", "A", "P", "R", "L", "H", "F", "A", "P", "H", "F"]


def test_oblique_edges_carry_the_strongest_letters_first(tmp_path: Path) -> None:
    # Turned by 30 degrees about the patient's long axis.
    volume = read(tmp_path / "series", orientation=(0.8660254, 0.5, 0, -0.5, 0.8660254, 0))

    dd.draw_orthogonal(volume, tmp_path / "a.svg")

    told = words(tmp_path / "a.svg")
    assert told[:5] == ["RA", "LP", "AL", "PR", "axial"]


def test_a_millimetre_is_as_long_in_every_view_and_direction(tmp_path: Path) -> None:
    shape, spacing = (12, 40, 50), (5.0, 1.5, 2.0)
    volume = read(
        tmp_path / "series",
        stored=np.full(shape, 2000, np.uint16),
        step=spacing[0],
        pixel_spacing=spacing[1:],
    )

    dd.draw_orthogonal(volume, tmp_path / "a.png", window=(0, 900))

    depth, height, width = (n * mm for n, mm in zip(shape, spacing, strict=True))
    sizes = np.array([panel.shape for panel in panels(tmp_path / "a.png")], float)
    true = np.array([(height, width), (depth, width), (depth, height)])
    scales = sizes / true
    np.testing.assert_allclose(scales, scales.mean(), rtol=0.02)


def test_a_leaning_stack_is_drawn_leaning_and_said_to(tmp_path: Path) -> None:
    # Each slice lies 1 mm further to the back than the one below it.
    volume = read(
        tmp_path / "series",
        stored=np.full((40, 60, 60), 2000, np.uint16),
        step=(0, 1, 2),
        pixel_spacing=(2, 2),
    )

    dd.draw_orthogonal(volume, tmp_path / "a.svg", window=(0, 900))
    dd.draw_orthogonal(volume, tmp_path / "a.png", window=(0, 900))

    assert any("leans 26.6°" in word for word in words(tmp_path / "a.svg"))
    pixels = grey(tmp_path / "a.png")
    sagittal = pixels[:, pixels.shape[1] * 5 // 8 :]
    rows = [np.flatnonzero(row > 200) for row in sagittal]
    full = [row for row in rows if row.size > 100]
    shift, height = full[0][0] - full[-1][0], len(full)
    assert shift / height == pytest.approx(0.5, abs=0.05), "the head is further back than the feet"
    assert abs(full[0].size - full[-1].size) <= 4


def test_an_upright_stack_does_not_lean(tmp_path: Path) -> None:
    volume = read(tmp_path / "series")

    dd.draw_orthogonal(volume, tmp_path / "a.svg")

    assert not any("leans" in word for word in words(tmp_path / "a.svg"))


def test_the_caption_says_what_it_is(tmp_path: Path) -> None:
    volume = read(tmp_path / "series")

    dd.draw_orthogonal(volume, tmp_path / "a.svg", window="lung")

    told = " ".join(words(tmp_path / "a.svg"))
    assert "CT" in told
    assert "5 × 4 × 6 slices, rows, columns" in told  # noqa: RUF001 - as it is printed
    assert "2.5 × 0.8 × 0.5 mm" in told  # noqa: RUF001
    assert "lung window: \N{MINUS SIGN}1350 to 150 HU" in told


def test_no_picture_names_the_patient(tmp_path: Path) -> None:
    volume = read(
        tmp_path / "series",
        patient_id="SECRET",
        extra={"PatientName": "SECRET^NAME", "SeriesDescription": "SECRET"},
    )

    dd.draw_orthogonal(volume, tmp_path / "a.svg")
    dd.draw_histogram(volume, tmp_path / "b.svg")

    assert "SECRET" not in (tmp_path / "a.svg").read_text() + (tmp_path / "b.svg").read_text()


@pytest.mark.parametrize("text", ["$\\frac{1$", "a\nb", "\u30ab", "\x1b[31m"])
def test_text_of_the_header_is_printed_harmlessly(tmp_path: Path, text: str) -> None:
    volume = read(
        tmp_path / "series",
        modality="MR",
        slope="1",
        intercept="0",
        rescale_type=text,
        extra={"SpecificCharacterSet": "ISO_IR 192"},
    )

    dd.draw_orthogonal(volume, tmp_path / "a.png")
    dd.draw_histogram([volume], tmp_path / "b.png")

    assert grey(tmp_path / "a.png").any()


@pytest.mark.parametrize("value", [0, 2000])
def test_a_volume_of_one_value_or_one_slice_is_drawn(tmp_path: Path, value: int) -> None:
    stored = np.full((1, 20, 30), value, np.uint16)
    volume = read(tmp_path / "series", stored=stored, modality="MR")

    dd.draw_orthogonal(volume, tmp_path / "a.png")
    dd.draw_histogram(volume, tmp_path / "b.png")

    assert (tmp_path / "a.png").stat().st_size > 0


def test_padding_that_is_nan_is_drawn(tmp_path: Path) -> None:
    stored = np.full((5, 20, 30), 1024, np.int16)
    stored[:, :3] = -2000
    write_series(tmp_path / "series", stored=stored, pixel_padding_value=-2000)
    plan = dd.plan_stacks(dd.scan(tmp_path / "series", progress=False), dd.Policy(padding=np.nan))
    volume = dd.read_volume(plan.stacks[0])

    dd.draw_orthogonal(volume, tmp_path / "a.png")
    dd.draw_histogram(volume, tmp_path / "b.png")

    assert np.isnan(volume.voxels).any()
    assert (tmp_path / "b.png").stat().st_size > 0


def test_a_histogram_marks_air_lung_water_and_bone_in_hu_alone(tmp_path: Path) -> None:
    ct = read(tmp_path / "ct")
    mr = read(tmp_path / "mr", modality="MR", seed="mr")

    dd.draw_histogram([ct, mr], tmp_path / "both.svg")
    dd.draw_histogram(mr, tmp_path / "mr.svg")

    both, alone = words(tmp_path / "both.svg"), words(tmp_path / "mr.svg")
    assert {"air", "lung", "water", "bone"} <= set(both)
    assert {"HU", "stored"} <= set(both)
    assert "water" not in alone


def test_a_histogram_tells_what_it_does_not_show(tmp_path: Path) -> None:
    # 18 of 120 voxels are metal.
    stored = np.full((5, 4, 6), 1024, np.uint16)
    stored[:, 0, :] = 1024
    stored[:3, 0, :] = 6000
    volume = read(tmp_path / "series", stored=stored)

    dd.draw_histogram(volume, tmp_path / "a.svg")

    assert any("15.00% beyond the axis" in word for word in words(tmp_path / "a.svg"))


def test_a_window_in_hu_is_not_laid_over_other_units(tmp_path: Path) -> None:
    volume = read(tmp_path / "series", modality="MR")

    with pytest.raises(dd.ConfigError, match="'bone' is in HU, and the volume in 'stored'"):
        dd.draw_orthogonal(volume, tmp_path / "a.png", window="bone")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"window": "bones"}, "expected one of lung, bone, brain, soft tissue"),
        ({"window": (100, 100)}, "expected low below high"),
        ({"window": (0, float("nan"))}, "expected low below high"),
        ({"centre": (5, 0, 0)}, "no voxel"),
    ],
)
def test_what_cannot_be_drawn_is_said(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    volume = read(tmp_path / "series")

    with pytest.raises(dd.ConfigError, match=told):
        dd.draw_orthogonal(volume, tmp_path / "a.png", **options)

    assert not (tmp_path / "a.png").exists()


def test_a_suffix_of_no_picture_is_refused(tmp_path: Path) -> None:
    volume = read(tmp_path / "series")

    with pytest.raises(dd.ConfigError, match=r"expected one of .*\.png"):
        dd.draw_orthogonal(volume, tmp_path / "a.dcm")


def test_a_picture_that_cannot_be_written_is_a_file_error(tmp_path: Path) -> None:
    volume = read(tmp_path / "series")
    (tmp_path / "a.png").mkdir()

    with pytest.raises(dd.FileError, match=r"a\.png: the picture cannot be written"):
        dd.draw_orthogonal(volume, tmp_path / "a.png")


def test_a_histogram_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(dd.ConfigError, match="at least one volume"):
        dd.draw_histogram([], tmp_path / "a.png")


def test_drawing_leaves_no_global_figure(tmp_path: Path) -> None:
    volume = read(tmp_path / "series")
    before = "matplotlib.pyplot" in sys.modules

    dd.draw_orthogonal(volume, tmp_path / "a.png")

    assert ("matplotlib.pyplot" in sys.modules) == before

"""Stacks to voxels in output units: values, padding, regions, dtypes, and what reading costs."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import dicomdata as dd
from dicomdata.testing.phantoms import Each, write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Planned = Callable[..., dd.StackPlan]

AIR = -1024


def volume_of(folder: Path, planned: Planned, **options: Any) -> dd.Volume:
    (stack,) = planned(folder).stacks
    return dd.read_volume(stack, **options)


def words(*values: int) -> NDArray[np.uint16]:
    """One slice of one row."""
    return np.array(values, "u2").reshape(1, 1, -1)


# --- output units ---------------------------------------------------------------------------------


def test_each_slice_has_its_own_slope(tmp_path: Path, planned: Planned) -> None:
    stored = np.array([10, 9, 9], "u2").reshape(3, 1, 1)
    write_series(
        tmp_path, stored=stored, modality="PT", slope=Each("1", ".5", ".25"), intercept="0"
    )

    volume = volume_of(tmp_path, planned)

    assert volume.voxels.ravel().tolist() == [10, 4.5, 2.25]
    assert volume.voxels.dtype == np.float32


def test_the_type_of_voxels_does_not_depend_on_the_first_slice(
    tmp_path: Path, planned: Planned
) -> None:
    stored = np.array([1500, 24, 1024], "u2").reshape(3, 1, 1)
    write_series(tmp_path, stored=stored)

    volume = volume_of(tmp_path, planned)

    assert volume.voxels.ravel().tolist() == [476, -1000, 0]
    np.testing.assert_array_equal(
        dd.read_volume(volume.stack, dtype=np.int16).voxels, volume.voxels
    )


@pytest.mark.parametrize(
    ("header", "unit", "value"),
    [
        pytest.param({"slope": None, "intercept": None}, "stored", 100, id="R5 no rescale"),
        pytest.param({"slope": "", "intercept": "-1024"}, "stored", 100, id="R6 empty slope"),
        pytest.param({"intercept": None}, "stored", 100, id="no intercept"),
        pytest.param({"rescale_type": "HU"}, "HU", -924, id="HU by name"),
        pytest.param({}, "HU", -924, id="HU by modality"),
        pytest.param({"rescale_type": "US"}, "US", -924, id="R8 unspecified"),
        pytest.param({"rescale_type": "mgml"}, "mgml", -924, id="R8 mg/ml"),
        pytest.param({"rescale_type": "Z_EFF"}, "Z_EFF", -924, id="R8 atomic number"),
        pytest.param({"modality": "MR"}, "stored", 100, id="MR"),
        pytest.param(
            {"modality": "MR", "rescale_type": "HU", "slope": 2, "intercept": 1}, "US", 201,
            id="HU is not believed of an MR",
        ),
        pytest.param(
            {"modality": "PT", "slope": 2, "extra": {"Units": "BQML"}}, "BQML", 200, id="PET"
        ),
    ],
)  # fmt: skip
def test_a_unit_is_what_the_header_supports(
    header: dict[str, Any], unit: str, value: float, tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path, stored=words(100), **header)

    volume = volume_of(tmp_path, planned)

    assert volume.unit == volume.stack.unit == unit
    assert volume.voxels.item() == value
    missing = unit == "stored" and header.get("modality", "CT") == "CT"
    assert missing == ("rescale_missing" in {finding.kind for finding in volume.stack.findings})


@pytest.mark.parametrize(
    ("header", "element"),
    [
        pytest.param({"slope": ("1", "2")}, "(0028,1053)", id="R7 two slopes"),
        pytest.param({"slope": "0"}, "(0028,1053)", id="slope 0"),
        pytest.param({"slope": "nan"}, "(0028,1053)", id="slope nan"),
        pytest.param({"intercept": "1,5"}, "(0028,1052)", id="decimal comma"),
        pytest.param({"intercept": "-1e999"}, "(0028,1052)", id="minus infinity"),
    ],
)
def test_a_rescale_that_means_nothing_is_refused_by_file_and_element(
    header: dict[str, Any], element: str, tmp_path: Path, planned: Planned
) -> None:
    (path,) = write_series(tmp_path, stored=words(100), **header)

    (row,) = planned(tmp_path).outcomes

    assert row.outcome == "rejected"
    assert element in row.reason
    assert str(path) in row.reason


def test_a_slice_without_rescale_among_others_that_have_one_is_refused(
    tmp_path: Path, planned: Planned
) -> None:
    paths = write_series(tmp_path, shape=(3, 2, 2), slope=Each("1", None, "1"))

    plan = planned(tmp_path)

    assert plan.stacks == ()
    (rejection,) = plan.rejected
    assert isinstance(rejection.error, dd.RescaleError)
    assert str(paths[1]) in str(rejection)


def test_monochrome1_keeps_the_values_of_the_modality(tmp_path: Path, planned: Planned) -> None:
    write_series(
        tmp_path, stored=words(100), bits_stored=12, slope=1, intercept=0,
        photometric_interpretation="MONOCHROME1",
    )  # fmt: skip

    volume = volume_of(tmp_path, planned)

    assert volume.voxels.item() == 100
    assert "monochrome1" in {finding.kind for finding in volume.stack.findings}


# --- int16 ----------------------------------------------------------------------------------------


def test_int16_is_refused_where_one_voxel_does_not_fit(tmp_path: Path, planned: Planned) -> None:
    stored = np.array([0, 65535], "u2").reshape(2, 1, 1)
    paths = write_series(tmp_path, stored=stored)
    (stack,) = planned(tmp_path).stacks

    with pytest.raises(dd.RescaleError, match="64511") as caught:
        dd.read_volume(stack, dtype=np.int16)

    assert str(paths[1]) in str(caught.value)
    assert dd.read_volume(stack).voxels.ravel().tolist() == [-1024, 64511]


@pytest.mark.parametrize("dtype", [np.float64, np.uint16, np.int32, "complex64"])
def test_voxels_are_float32_or_int16_and_nothing_else(
    dtype: Any, tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path)

    with pytest.raises(ValueError, match="float32 or int16"):
        volume_of(tmp_path, planned, dtype=dtype)


# --- padding --------------------------------------------------------------------------------------


def write_lidc(folder: Path, **changes: Any) -> None:
    """A slice as LIDC-IDRI has them: signed 16 bits, and 63536 as padding, which is -2000."""
    options = {
        "stored": words(63536, 0x0000, 0x0400), "signed": True, "slope": 1, "intercept": -1024,
        "pixel_padding_value": 63536, "pixel_padding_vr": "US",
    }  # fmt: skip
    write_series(folder, **{**options, **changes})


def test_padding_of_lidc_becomes_air_and_nothing_else_does(
    tmp_path: Path, planned: Planned
) -> None:
    write_lidc(tmp_path)

    volume = volume_of(tmp_path, planned)

    assert volume.voxels.ravel().tolist() == [AIR, -1024, 0]
    assert "padding_present" in {finding.kind for finding in volume.stack.findings}


@pytest.mark.parametrize(
    ("vr", "syntax"), [("US", "1.2.840.10008.1.2"), ("SS", "1.2.840.10008.1.2.1"),
                       ("US", "1.2.840.10008.1.2.2")]
)  # fmt: skip
def test_padding_is_the_same_however_it_is_written(
    vr: str, syntax: str, tmp_path: Path, planned: Planned
) -> None:
    value = 63536 if vr == "US" else -2000
    write_lidc(tmp_path, pixel_padding_value=value, pixel_padding_vr=vr, transfer_syntax_uid=syntax)

    assert volume_of(tmp_path, planned).voxels.ravel().tolist() == [AIR, -1024, 0]


@pytest.mark.parametrize(
    ("padding", "expected"),
    [("keep", -3024.0), ("air", -1024.0), (-2048, -2048.0), (0.5, 0.5), (math.nan, math.nan)],
)
def test_padding_becomes_what_the_user_says(
    padding: Any, expected: float, tmp_path: Path, planned: Planned
) -> None:
    write_lidc(tmp_path)

    chosen = volume_of(tmp_path, planned, padding=padding)
    by_policy = dd.read_volume(planned(tmp_path, dd.Policy(padding=padding)).stacks[0])

    for volume in (chosen, by_policy):
        np.testing.assert_array_equal(volume.voxels.ravel(), [expected, -1024, 0])


def test_padding_kept_is_what_was_stored(tmp_path: Path, planned: Planned) -> None:
    write_lidc(tmp_path)

    volume = volume_of(tmp_path, planned, padding="keep", dtype=np.int16)

    assert volume.voxels.ravel().tolist() == [-3024, -1024, 0]


def test_padding_far_beyond_int16_is_no_reason_to_refuse_int16(
    tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path, stored=words(0, 40000, 41000), intercept=-40000, pixel_padding_value=0)

    volume = volume_of(tmp_path, planned, dtype=np.int16)

    # 0 - 40000 does not fit, and is air by now.
    assert volume.voxels.ravel().tolist() == [AIR, 0, 1000]


def test_a_padding_range_has_both_ends(tmp_path: Path, planned: Planned) -> None:
    stored = np.array([-2001, -2000, -1700, -1500, -1499, 0], "i2").reshape(1, 1, 6)
    write_series(
        tmp_path, stored=stored, pixel_padding_value=-2000, pixel_padding_range_limit=-1500,
        pixel_padding_vr="SS",
    )  # fmt: skip

    volume = volume_of(tmp_path, planned, padding=7)

    assert volume.voxels.ravel().tolist() == [-3025, 7, 7, 7, -2523, -1024]


def test_padding_is_compared_before_rescaling(tmp_path: Path, planned: Planned) -> None:
    stored = np.array([-2000, -976], "i2").reshape(1, 1, 2)
    write_series(tmp_path, stored=stored, pixel_padding_value=-2000, pixel_padding_vr="SS")

    # -976 - 1024 is -2000, and was measured.
    assert volume_of(tmp_path, planned).voxels.ravel().tolist() == [AIR, -2000]


def test_padding_of_zero_in_an_mr_is_also_a_value_and_stays(
    tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path, stored=words(0, 7), modality="MR", pixel_padding_value=0)

    volume = volume_of(tmp_path, planned)

    assert volume.voxels.ravel().tolist() == [0, 7]
    assert "padding_collides" in {finding.kind for finding in volume.stack.findings}


def test_padding_in_a_unit_without_air_becomes_the_lowest_output(
    tmp_path: Path, planned: Planned
) -> None:
    stored = np.array([-2000, 7], "i2").reshape(1, 1, 2)
    write_series(
        tmp_path, stored=stored, bits_stored=16, modality="MR", pixel_padding_value=-2000,
        pixel_padding_vr="SS",
    )  # fmt: skip

    assert volume_of(tmp_path, planned).voxels.ravel().tolist() == [-32768, 7]


def test_a_padding_policy_is_part_of_the_fingerprint(tmp_path: Path, planned: Planned) -> None:
    write_lidc(tmp_path)
    catalog = planned(tmp_path).catalog

    (air,), (kept,) = (
        dd.plan_stacks(catalog, dd.Policy(padding=padding)).stacks for padding in ("air", "keep")
    )

    assert air.fingerprint != kept.fingerprint
    assert air.id == kept.id


# --- windows --------------------------------------------------------------------------------------


def scaled_by_monai(volume: dd.Volume, low: float, high: float) -> NDArray[np.float32]:
    """Give the voxels of a volume as MONAI scales them to 0 to 1."""
    from monai.transforms import ScaleIntensityRange

    scale = ScaleIntensityRange(low, high, b_min=0.0, b_max=1.0, clip=True)
    return np.asarray(scale(volume.voxels.copy()))


@pytest.mark.parametrize("window", [(-1000, 400), (-160.5, 239.7), (-0.1, 0.7), (0, 1e-3)])
@pytest.mark.parametrize(
    "header",
    [
        pytest.param({}, id="whole slope"),
        pytest.param({"slope": "0.37", "intercept": "-1000.3"}, id="fractional slope"),
        pytest.param({"slope": "-2", "intercept": "500"}, id="falling"),
        pytest.param({"bits_stored": 12, "pixel_padding_value": 0}, id="padding"),
    ],
)
def test_a_window_gives_to_the_bit_what_monai_makes_of_the_volume(
    header: dict[str, Any], window: tuple[float, float], tmp_path: Path, planned: Planned
) -> None:
    stored = np.random.default_rng(0).integers(0, 4096, (3, 20, 20)).astype("u2")
    stored[0, :5] = 0
    write_series(tmp_path, stored=stored, **header)
    (stack,) = planned(tmp_path).stacks

    shown = dd.read_volume(stack, window=window)

    expected = scaled_by_monai(dd.read_volume(stack), *window)
    np.testing.assert_array_equal(shown.voxels, expected)
    assert shown.voxels.dtype == np.float32
    assert (shown.voxels.min(), shown.voxels.max()) == (0, 1)


def test_a_window_is_clipped_and_its_ends_are_0_and_1(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path, stored=words(0, 24, 724, 1424, 3000), slope=1, intercept=-1024)

    volume = volume_of(tmp_path, planned, window=(-1000, 400))

    assert volume.voxels.ravel().tolist() == [0, 0, 0.5, 1, 1]


def test_the_unit_of_a_window_is_not_that_of_its_stack(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path)

    volume = volume_of(tmp_path, planned, window=(-1000, 400))

    assert (volume.unit, volume.stack.unit) == ("window", "HU")


@pytest.mark.parametrize(("padding", "expected"), [("air", 0), (-500, 0.25), (math.nan, math.nan)])
def test_padding_in_a_window_is_what_its_value_becomes(
    padding: Any, expected: float, tmp_path: Path, planned: Planned
) -> None:
    write_lidc(tmp_path)

    volume = volume_of(tmp_path, planned, padding=padding, window=(-1000, 1000))

    np.testing.assert_array_equal(volume.voxels.ravel(), [expected, 0, 0.5])


@pytest.mark.parametrize("fill", ["air", "interpolate"])
def test_a_repaired_stack_is_interpolated_before_it_is_clipped(
    fill: Any, tmp_path: Path, planned: Planned
) -> None:
    # Between 1000 and 3000 lies 2000: beyond the window, while clipped ends would meet within it.
    stored = np.array([0, 24, 2024, 4024, 0, 0], "u2").reshape(6, 1, 1)
    positions = [(0.0, 0.0, z) for z in (0, 2.5, 5, 10, 12.5, 15)]
    write_series(tmp_path, stored=stored, positions=positions)
    (stack,) = planned(tmp_path, dd.Policy(gap="repair", fill=fill)).stacks

    shown = dd.read_volume(stack, window=(-900, 1500))

    whole = dd.read_volume(stack)
    np.testing.assert_array_equal(shown.voxels, scaled_by_monai(whole, -900, 1500))
    assert shown.valid.tolist() == whole.valid.tolist()
    assert shown.voxels[3].item() == (0 if fill == "air" else 1)


@pytest.mark.parametrize(
    "window", [(400, -1000), (0, 0), (math.nan, 1), (0, math.inf), (-math.inf, 0), (0, 1e300)]
)
def test_a_window_without_a_width_is_refused(
    window: tuple[float, float], tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path)

    with pytest.raises(ValueError, match="a window goes from low to high"):
        volume_of(tmp_path, planned, window=window)


def test_a_window_is_not_cut_down_to_whole_numbers(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path)

    with pytest.raises(ValueError, match="a window gives float32"):
        volume_of(tmp_path, planned, window=(-1000, 400), dtype=np.int16)


# --- regions --------------------------------------------------------------------------------------


def test_a_region_is_sliced_as_python_slices(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path)
    whole = volume_of(tmp_path, planned)
    region = dd.Region(slices=slice(-2, None), rows=slice(1, 99), columns=slice(None, -3))

    part = dd.read_volume(whole.stack, region)

    np.testing.assert_array_equal(part.voxels, whole.voxels[-2:, 1:99, :-3])
    assert part.voxels.shape == (2, 3, 3)
    np.testing.assert_allclose(part.affine_lps[:3, 3], (-10, -20 + 0.8, -30 + 3 * 2.5))


@pytest.mark.parametrize(
    "region",
    [dd.Region(rows=slice(0, 4, 2)), dd.Region(slices=slice(3, 3)), dd.Region(columns=slice(6, 9)),
     dd.Region(slices=slice(None, None, -1))],
)  # fmt: skip
def test_a_region_with_steps_or_without_voxels_is_refused(
    region: dd.Region, tmp_path: Path, planned: Planned
) -> None:
    write_series(tmp_path)

    with pytest.raises(ValueError, match=r"no steps|no voxel"):
        volume_of(tmp_path, planned, region=region)


def test_regions_compare_and_hash_by_what_they_hold() -> None:
    one, same, other = (dd.Region(rows=slice(0, stop)) for stop in (2, 2, 3))

    assert one == same
    assert hash(one) == hash(same)
    assert one != other


# --- the volume -----------------------------------------------------------------------------------


def test_a_volume_says_where_it_comes_from(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path)

    volume = volume_of(tmp_path, planned)

    assert volume.region == dd.Region()
    assert volume.valid.tolist() == [True] * 5
    np.testing.assert_array_equal(volume.affine_lps, volume.stack.affine_lps)
    np.testing.assert_array_equal(volume.affine_ras, volume.stack.affine_ras)


def test_whoever_reads_a_volume_may_write_into_it(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path)
    volume = volume_of(tmp_path, planned)

    volume.voxels[:] = 0

    assert dd.read_volume(volume.stack).voxels.any()
    assert volume.voxels.flags.c_contiguous


# --- budgets --------------------------------------------------------------------------------------

COUNT_OPENS = """
import sys, collections
opened = collections.Counter()
sys.addaudithook(
    lambda event, details: opened.update([str(details[0])]) if event == "open" else None
)
import dicomdata as dd

def opens():
    counts = sorted(n for path, n in opened.items() if path.endswith(".dcm"))
    opened.clear()
    return counts

catalog = dd.scan(sys.argv[1], progress=False)
print("scan", opens())
(stack,) = dd.plan_stacks(catalog).stacks
stack.frames, stack.affine_lps
print("plan", opens())
dd.read_volume(stack)
print("read", opens())
dd.read_volume(stack, dd.Region(slices=slice(1, 3)))
print("part", opens())
"""

COUNT_BYTES = """
import sys
import dicomdata as dd

def bytes_read():
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])

catalog = dd.scan(sys.argv[1], progress=False)
(stack,) = dd.plan_stacks(catalog).stacks
dd.read_volume(stack)  # imports and frames are there from now on
one = bytes_read()
itself = bytes_read() - one
for region in (
    dd.Region(),
    dd.Region(rows=slice(10, 30)),
    dd.Region(slices=slice(2, 4), rows=slice(0, 5), columns=slice(7, 9)),
):
    before = bytes_read()
    voxels = dd.read_volume(stack, region).voxels
    print(bytes_read() - before - itself, voxels.shape)
"""


def run_in_a_process_of_its_own(program: str, folder: Path) -> list[str]:
    """Run a program on a folder; give what it printed, line by line."""
    done = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_each_file_is_opened_once_for_its_header_and_once_for_its_pixels(tmp_path: Path) -> None:
    write_series(tmp_path)

    printed = run_in_a_process_of_its_own(COUNT_OPENS, tmp_path)

    assert printed == [
        "scan [1, 1, 1, 1, 1]",
        "plan []",
        "read [1, 1, 1, 1, 1]",
        "part [1, 1]",
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="bytes are counted by Linux")
def test_a_region_reads_no_more_than_its_bands_of_rows(tmp_path: Path) -> None:
    write_series(tmp_path, shape=(5, 64, 100))

    printed = run_in_a_process_of_its_own(COUNT_BYTES, tmp_path)

    row = 100 * 2
    assert printed == [
        f"{5 * 64 * row} (5, 64, 100)",
        f"{5 * 20 * row} (5, 20, 100)",
        f"{2 * 5 * row} (2, 5, 2)",
    ]

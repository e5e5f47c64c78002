"""Planes, lattices, tilt and affines (PS3.3 C.7.6.2): numbers only, no files."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dicomdata.errors import GeometryError
from dicomdata.geometry import (
    LPS_TO_RAS,
    PlaneGeometry,
    Vector,
    affine_from_columns,
    as_vector,
    faces_itself,
    fit_lattice,
    fit_line,
    is_straight,
    lps_to_ras,
    orientation_clusters,
    plane_directions,
    slice_order,
    tilt,
    unit_directions,
)
from dicomdata.testing.strategies import orientations

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
LIMIT = 1e-9


def axial(z: float, *, x: float = 0.0) -> PlaneGeometry:
    return PlaneGeometry((x, 0.0, z), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), 0.7, 0.7)


def plane(
    position: Vector = (0.0, 0.0, 0.0),
    orientation: tuple[float, ...] = AXIAL,
    spacing: tuple[float, float] = (0.8, 0.5),
) -> PlaneGeometry:
    a, b, c, d, e, f = orientation
    return PlaneGeometry(position, (a, b, c), (d, e, f), *spacing)


# --- planes ---------------------------------------------------------------------------------------


def test_depth_is_measured_along_the_normal_not_along_z() -> None:
    oblique = plane((10.6470, 20.0, 32.4148), (0.9659258, 0, -0.2588190, 0, 1, 0))

    depth = oblique.depth

    np.testing.assert_allclose(oblique.normal, (0.258819, 0, 0.965926), atol=1e-6)
    assert depth == pytest.approx(34.066, abs=1e-3)


@given(orientation=orientations())
def test_a_normal_is_a_unit_vector_upright_on_its_plane(orientation: tuple[float, ...]) -> None:
    normal = plane(orientation=orientation).normal

    assert np.linalg.norm(normal) == pytest.approx(1)
    assert abs(normal @ orientation[:3]) < LIMIT
    assert abs(normal @ orientation[3:]) < LIMIT


def test_cosines_that_are_not_quite_of_length_one_are_scaled() -> None:
    rounded = plane(orientation=(1.0002, 0, 0, 0, 0.9998, 0))

    directions = plane_directions(rounded)

    assert list(directions) == [1, 0, 0, 0, 1, 0]
    assert np.linalg.norm(rounded.normal) == 1


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"orientation": (1, 0, 0, 1, 0, 0)}, "orthogonal"),
        ({"orientation": (2, 0, 0, 0, 1, 0)}, "unit"),
        ({"orientation": (0, 0, 0, 0, 1, 0)}, "unit"),
        ({"orientation": (math.nan, 0, 0, 0, 1, 0)}, "unit"),
        ({"spacing": (0.0, 0.5)}, "positive"),
        ({"spacing": (0.5, -1.0)}, "positive"),
        ({"spacing": (0.5, math.inf)}, "positive"),
        ({"position": (0.0, math.nan, 0.0)}, "finite"),
        ({"position": (math.inf, 0.0, 0.0)}, "finite"),
    ],
)
def test_what_is_no_plane_cannot_be_made(changes: dict[str, tuple[float, ...]], fault: str) -> None:
    with pytest.raises(GeometryError, match=fault):
        plane(**changes)  # type: ignore[arg-type]  # tuples of unknown length


@given(order=st.permutations(range(6)))
def test_the_order_of_planes_does_not_matter(order: list[int]) -> None:
    planes = [axial(2.5 * k) for k in order]

    depths = [planes[i].depth for i in slice_order(planes)]

    assert depths == [0.0, 2.5, 5.0, 7.5, 10.0, 12.5]


def test_sagittal_slices_ascend_along_their_normal_which_is_minus_x() -> None:
    planes = [plane((x, 0.0, 0.0), (0, 1, 0, 0, 0, -1)) for x in (0.0, 2.5, 5.0)]

    order = slice_order(planes)

    np.testing.assert_array_equal(planes[0].normal, (-1, 0, 0))
    assert [planes[i].position[0] for i in order] == [5.0, 2.5, 0.0]


def test_planes_that_are_not_parallel_have_no_order() -> None:
    with pytest.raises(GeometryError, match="not parallel"):
        slice_order([axial(0), plane(orientation=(1, 0, 0, 0, 0, -1))])


# --- orientations ---------------------------------------------------------------------------------


@given(noise=st.lists(st.floats(-1e-4, 1e-4), min_size=12, max_size=12))
def test_noise_of_1e_4_is_one_orientation(noise: list[float]) -> None:
    noisy = [unit_directions(np.add(AXIAL, noise[k : k + 6]).tolist()) for k in (0, 6)]

    clusters = orientation_clusters([AXIAL, *noisy])

    assert clusters == [[0, 1, 2]]


def test_orientations_two_milliradians_apart_are_two() -> None:
    turned = (math.cos(0.002), math.sin(0.002), 0, -math.sin(0.002), math.cos(0.002), 0)

    clusters = orientation_clusters([turned, AXIAL, AXIAL])

    assert clusters == [[1, 2], [0]]


def test_the_other_side_of_a_plane_is_another_orientation() -> None:
    clusters = orientation_clusters([AXIAL, (-1, 0, 0, 0, 1, 0), (1, 0, 0, 0, -1, 0)])

    assert len(clusters) == 3


@given(order=st.permutations(range(7)))
def test_clusters_do_not_depend_on_the_order_of_files(order: list[int]) -> None:
    turns = [0.0, 0.0004, 0.0008, 0.0012, 0.3, 0.3, 0.6]
    turned = [(math.cos(a), math.sin(a), 0, -math.sin(a), math.cos(a), 0) for a in turns]

    clusters = orientation_clusters([turned[i] for i in order])

    found = sorted(sorted(turns[order[i]] for i in cluster) for cluster in clusters)
    assert found == sorted(
        sorted(turns[i] for i in cluster) for cluster in orientation_clusters(turned)
    )


# --- lattices -------------------------------------------------------------------------------------


def test_a_missing_slice_is_a_missing_number() -> None:
    lattice = fit_lattice([0.0, 2.5, 5.0, 10.0, 12.5])

    assert lattice.numbers == (0, 1, 2, 4, 5)
    assert lattice.missing == (3,)
    assert lattice.spacing == pytest.approx(2.5)
    assert lattice.evenness() == "uniform"


def test_positions_written_with_one_decimal_are_a_lattice_of_0_625() -> None:
    depths = [round(0.625 * k, 1) for k in range(20)]

    lattice = fit_lattice(depths)

    assert lattice.spacing == pytest.approx(0.625, abs=1e-3)
    assert lattice.residual == pytest.approx(0.054, abs=2e-3)
    assert lattice.numbers == tuple(range(20))
    assert lattice.evenness(quantum=0.1) == "uniform"
    # Without knowing how they were written, it is a residual of 9 % of the spacing.
    assert lattice.evenness() == "uneven"


def test_over_four_hundred_slices_rounding_does_not_add_up() -> None:
    depths = [round(0.625 * k, 1) for k in range(400)]

    lattice = fit_lattice(depths)

    assert lattice.numbers[-1] == 399
    assert lattice.spacing * 399 == pytest.approx(0.625 * 399, abs=0.05)


def test_positions_written_with_two_decimals_are_a_lattice_of_1_3333() -> None:
    lattice = fit_lattice([round(4 / 3 * k, 2) for k in range(12)])

    assert lattice.spacing == pytest.approx(1.3333, abs=1e-3)
    assert lattice.evenness() == "uniform"


@pytest.mark.parametrize(
    "depths",
    [
        pytest.param([0, 1, 2, 3, 5, 7, 9], id="two spacings"),
        pytest.param(np.cumsum([2.5 + 0.005 * k for k in range(40)]).tolist(), id="drift"),
        pytest.param([0, 2.5, 5, 8, 10, 12.5], id="one off its place"),
    ],
)
def test_what_is_no_lattice_is_not_called_uniform(depths: list[float]) -> None:
    lattice = fit_lattice(depths)

    assert lattice.missing or lattice.evenness(quantum=1e-6) == "variable"


def test_a_twentieth_of_the_spacing_off_is_uneven() -> None:
    lattice = fit_lattice([0.0, 2.5, 5.0, 7.66, 10.0, 12.5, 15.0])

    assert lattice.evenness() == "uneven"
    assert 0.05 < lattice.residual < 0.25


@pytest.mark.parametrize("depths", [[0.0, 2.0, 6.0], [0.0, 2.0, 4.0, 9.0, 11.0]])
def test_digits_too_few_to_tell_a_lattice_from_a_hole_prove_none(depths: list[float]) -> None:
    # In whole millimetres, 0, 2, 6 may be 0, 3, 6 rounded, or 0, 2, 4, 6 without the third.
    lattice = fit_lattice(depths)

    assert lattice.missing or lattice.evenness(quantum=1.0) == "variable"


@example(spacing=6.5, first=4.0, count=10, decimals=1)
@given(
    spacing=st.floats(6.5, 50),
    first=st.floats(-500, 500),
    count=st.integers(2, 80),
    decimals=st.integers(0, 3),
)
def test_rounding_alone_never_makes_a_lattice_uneven(
    spacing: float, first: float, count: int, decimals: int
) -> None:
    quantum = 10.0**-decimals
    depths = [round(first + spacing * quantum * k, decimals) for k in range(count)]

    lattice = fit_lattice(depths)

    assert lattice.numbers == tuple(range(count))
    assert lattice.evenness(quantum) == "uniform"
    # The last slice is where it was written, give or take what rounding moved it.
    assert abs(lattice.origin + lattice.spacing * (count - 1) - depths[-1]) <= 0.7 * quantum


@pytest.mark.parametrize("depths", [[], [1.0], [0.0, 0.0], [0.0, 2.5, 2.5004]])
def test_a_lattice_needs_two_distinct_depths(depths: list[float]) -> None:
    with pytest.raises(GeometryError, match="distinct"):
        fit_lattice(depths)


@given(
    spacing=st.floats(0.1, 10),
    origin=st.floats(-2000, 2000),
    gaps=st.lists(st.sampled_from([1, 1, 1, 2]), min_size=5, max_size=60),
    noise=st.integers(0, 2**16),
)
def test_a_lattice_is_found_whatever_its_noise_and_holes(
    spacing: float, origin: float, gaps: list[int], noise: int
) -> None:
    # Most gaps are single: a lattice whose every second slice is gone is another lattice.
    gaps = [*gaps, *[1] * (len(gaps) + 1)]
    numbers = np.concatenate(([0], np.cumsum(gaps)))
    off = np.random.default_rng(noise).uniform(-0.01, 0.01, len(numbers)) * spacing

    lattice = fit_lattice((origin + spacing * numbers + off).tolist())

    assert lattice.numbers == tuple(numbers.tolist())
    assert lattice.spacing == pytest.approx(spacing, rel=0.01)
    assert lattice.evenness() == "uniform"


# --- lines ----------------------------------------------------------------------------------------


def test_a_gantry_tilted_by_20_degrees_leans_by_20_degrees() -> None:
    cos, sin = math.cos(math.radians(20)), math.sin(math.radians(20))
    tilted = plane(orientation=(1, 0, 0, 0, cos, -sin))
    positions = np.array([(0.0, 0.0, 5.0 * k) for k in range(5)])

    line = fit_line(positions, range(5), tilted.normal)

    assert line.step == pytest.approx((0, 0, 5))
    assert tilt(line.step, tilted.normal) == pytest.approx(20.0)
    assert tilted.normal @ line.step == pytest.approx(4.6985, abs=1e-4)
    assert np.dot(line.step, (0, cos, -sin)) == pytest.approx(-1.7101, abs=1e-4)
    assert is_straight(line, pixel=0.5)
    assert faces_itself(line.step, tilted.normal)


def test_a_step_sideways_is_not_straight() -> None:
    positions = np.array([(x, 0.0, 2.5 * k) for k, x in enumerate([0.0, 0, 0, 10, 10, 10])])

    line = fit_line(positions, range(6), axial(0).normal)

    assert not is_straight(line, pixel=0.7)
    assert line.step[2] == pytest.approx(2.5)


def test_sideways_rounding_is_straight() -> None:
    positions = np.array([(round(0.33 * k, 1), 0.0, 2.5 * k) for k in range(6)])

    line = fit_line(positions, range(6), axial(0).normal)

    assert is_straight(line, pixel=0.3, quantum=0.1)
    assert not is_straight(line, pixel=0.3)


def test_pictures_side_by_side_do_not_face_each_other() -> None:
    assert not faces_itself((100.0, 0.0, 1.0), axial(0).normal)
    assert faces_itself((1.0, 0.0, 1.1), axial(0).normal)


@given(orientation=orientations())
def test_an_upright_stack_does_not_lean(orientation: tuple[float, ...]) -> None:
    normal = plane(orientation=orientation).normal

    assert tilt((2.5 * normal).tolist(), normal) == pytest.approx(0, abs=1e-5)
    assert tilt((-2.5 * normal).tolist(), normal) == pytest.approx(0, abs=1e-5)


# --- affines --------------------------------------------------------------------------------------


def test_lps_to_ras_turns_x_and_y_around() -> None:
    affine = np.array(affine_from_columns(((0, 0, 2.5), (0, 0.8, 0), (0.5, 0, 0), (1, 2, 3))))

    ras = lps_to_ras(affine)

    np.testing.assert_array_equal(
        ras, [[0, 0, -0.5, -1], [0, -0.8, 0, -2], [2.5, 0, 0, 3], [0, 0, 0, 1]]
    )
    assert not np.signbit(ras[ras == 0]).any()


@given(
    entries=st.lists(st.floats(-1e4, 1e4).map(lambda entry: entry + 0.0), min_size=12, max_size=12)
)
def test_ras_is_lps_again_after_another_turn(entries: list[float]) -> None:
    affine = np.vstack([np.reshape(entries, (3, 4)), (0, 0, 0, 1)])

    again = lps_to_ras(lps_to_ras(affine))

    assert again.tobytes() == affine.tobytes()
    np.testing.assert_array_equal(LPS_TO_RAS @ LPS_TO_RAS, np.eye(4))


def test_nobody_can_write_into_an_affine() -> None:
    affine = affine_from_columns(((0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)))

    for shared in (affine, lps_to_ras(affine)):
        with pytest.raises(ValueError, match="read-only"):
            shared[0, 0] = 1


def test_a_vector_has_no_negative_zero() -> None:
    vector = as_vector(np.array([-0.0, 0.0, -1.0]))

    assert list(vector) == [0, 0, -1]
    assert math.copysign(1, vector[0]) == 1

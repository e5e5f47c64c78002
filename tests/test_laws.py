"""What holds for every series: laws of order, place and value, over drawn phantoms."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dicomdata as dd
from dicomdata.geometry import lps_to_ras
from dicomdata.testing.phantoms import SeriesPhantom, phantom_uid, write_series
from dicomdata.testing.strategies import LOSSLESS, NATIVE, file_names, regions, series_phantoms

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Planned = Callable[..., dd.StackPlan]


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a phantom, with changes, into a folder of its own."""

    def write_phantom(phantom: SeriesPhantom, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("series")
        write_series(folder, phantom, **changes)
        return folder

    return write_phantom


def modality_values(phantom: SeriesPhantom) -> NDArray[np.float64]:
    """What the words of a phantom mean (PS3.5 8.1.1, PS3.3 C.11.1), one voxel at a time."""
    words = np.stack([phantom.plane(k) for k in range(phantom.count)])
    allocated = words.dtype.itemsize * 8
    bits, high_bit = phantom.bits_stored or allocated, phantom.high_bit
    low_bit = (bits - 1 if high_bit is None else high_bit) + 1 - bits

    def meaning(word: int) -> float:
        stored = (word % 2**allocated >> low_bit) % 2**bits
        if phantom.signed and stored >= 2 ** (bits - 1):
            stored -= 2**bits
        return float(stored * float(str(phantom.slope)) + float(str(phantom.intercept)))

    values = [meaning(word) for word in words.ravel().tolist()]
    return np.array(values).reshape(words.shape)


# --- order ----------------------------------------------------------------------------------------


@given(data=st.data(), phantom=series_phantoms())
def test_names_and_folders_of_files_do_not_matter(
    data: st.DataObject, phantom: SeriesPhantom, write: Callable[..., Path], planned: Planned
) -> None:
    names = data.draw(file_names(phantom.count))
    plain, renamed = write(phantom), write(phantom, file_names=names)

    (one,), (two,) = planned(plain).stacks, planned(renamed).stacks

    assert one.id == two.id
    assert one.affine_lps.tobytes() == two.affine_lps.tobytes()
    assert one.sop_instance_uids == two.sop_instance_uids
    assert dd.read_volume(one).voxels.tobytes() == dd.read_volume(two).voxels.tobytes()


@given(data=st.data(), phantom=series_phantoms(slices=(2, 5)))
def test_labels_of_slices_do_not_matter(
    data: st.DataObject, phantom: SeriesPhantom, write: Callable[..., Path], planned: Planned
) -> None:
    labels = data.draw(st.permutations(range(phantom.count)))
    relabelled = write(
        phantom,
        instance_number=lambda k: labels[k],
        slice_location=lambda k: labels[k] * 2.5,
        spacing_between_slices=-2.5,
        slice_thickness=7,
    )

    (stack,) = planned(relabelled).stacks

    (plain,) = planned(write(phantom)).stacks
    assert stack.affine_lps.tobytes() == plain.affine_lps.tobytes()
    assert dd.read_volume(stack).voxels.tobytes() == dd.read_volume(plain).voxels.tobytes()


@given(phantom=series_phantoms(slices=(2, 5)))
def test_slices_ascend_along_the_normal(
    phantom: SeriesPhantom, write: Callable[..., Path], planned: Planned
) -> None:
    (stack,) = planned(write(phantom)).stacks

    step, row, column = stack.affine_lps[:3, :3].T

    # (column, row) is (row direction, column direction): along a row the column index grows.
    assert np.cross(column, row) @ step > 0


def write_messy(folder: Path, names: list[str], *, company: set[str]) -> None:
    """Write a series of four slices, and what keeps it company, under the given names."""
    phantom = SeriesPhantom(shape=(4, 3, 4))
    write_series(folder, phantom, file_names=names[:4])
    for name, what in zip(names[4:], ("duplicate", "localizer", "phase", "text"), strict=True):
        path = folder / name
        if what not in company:
            continue
        if what == "text":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("text")
        elif what == "phase":
            later = np.full((4, 3, 4), 7, "u2")
            write_series(
                folder, phantom, stored=later, file_names=lambda k, name=name: f"{name} {k}",
                sop_instance_uid=lambda k: f"1.2.3.{k}",
            )  # fmt: skip
        else:
            odd = {"orientation": (1, 0, 0, 0, 0, -1)} if what == "localizer" else {}
            uid = {"sop_instance_uid": f"1.2.{len(what)}"}
            write_series(folder, phantom.only(1), file_names=[name], **uid, **odd)


@given(
    data=st.data(),
    company=st.sets(st.sampled_from(["duplicate", "localizer", "phase", "text"])),
)
def test_names_do_not_matter_in_bad_company_either(
    data: st.DataObject,
    company: set[str],
    tmp_path_factory: pytest.TempPathFactory,
    planned: Planned,
) -> None:
    plans = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("messy")
        write_messy(folder, data.draw(file_names(8)), company=company)
        plans.append(planned(folder))

    one, two = (
        {stack.id: dd.read_volume(stack).voxels.tobytes() for stack in plan.stacks}
        for plan in plans
    )

    assert one == two
    outcomes = [sorted((row.outcome, row.stack) for row in plan.outcomes) for plan in plans]
    assert outcomes[0] == outcomes[1]


# --- place ----------------------------------------------------------------------------------------


@given(phantom=series_phantoms())
def test_the_affine_of_each_slice_is_its_image_position(
    phantom: SeriesPhantom, write: Callable[..., Path], planned: Planned
) -> None:
    (stack,) = planned(write(phantom)).stacks

    for ordered in (stack, stack.reversed()):
        for k, frame in enumerate(ordered.frames):
            assert frame.position is not None
            position = (ordered.affine_lps @ (k, 0, 0, 1))[:3]
            np.testing.assert_allclose(position, frame.position, rtol=0, atol=1e-6)


@given(phantom=series_phantoms())
def test_the_affine_of_each_voxel_is_that_of_the_standard(
    phantom: SeriesPhantom, write: Callable[..., Path], planned: Planned
) -> None:
    (stack,) = planned(write(phantom)).stacks
    down, along = np.array(phantom.pixel_spacing, float)
    row, column = np.reshape(np.array(phantom.orientation, float), (2, 3))
    corner = stack.frames[0].position
    assert corner is not None

    # PS3.3 C.7.6.2.1.1: the matrix that maps (column, row) of a slice to LPS mm.
    last = np.array(corner) + row * along * (stack.shape[2] - 1) + column * down * stack.shape[1]

    affine = stack.affine_lps
    np.testing.assert_allclose(
        (affine @ (0, stack.shape[1], stack.shape[2] - 1, 1))[:3], last, rtol=0, atol=1e-6
    )


@given(phantom=series_phantoms())
def test_the_voxels_are_what_the_files_say_whatever_the_order(
    phantom: SeriesPhantom, write: Callable[..., Path], planned: Planned
) -> None:
    (stack,) = planned(write(phantom)).stacks
    truth = modality_values(phantom).astype(np.float32)

    volume = dd.read_volume(stack)

    # A phantom grows along its step, and a stack along its normal: one way or the other.
    forwards = np.array_equal(volume.voxels, truth)
    assert forwards or np.array_equal(volume.voxels, truth[::-1])
    assert volume.valid.all()


@given(phantom=series_phantoms())
def test_left_and_posterior_are_minus_right_and_anterior(
    phantom: SeriesPhantom, write: Callable[..., Path], planned: Planned
) -> None:
    (stack,) = planned(write(phantom)).stacks
    index = (*(length - 1 for length in stack.shape), 1)

    x, y, z, _ = stack.affine_lps @ index

    np.testing.assert_allclose(stack.affine_ras @ index, (-x, -y, z, 1), atol=1e-9)
    assert lps_to_ras(stack.affine_ras).tobytes() == stack.affine_lps.tobytes()


@given(phantom=series_phantoms())
def test_a_reversed_stack_is_the_same_volume_from_its_other_end(
    phantom: SeriesPhantom, write: Callable[..., Path], planned: Planned
) -> None:
    (stack,) = planned(write(phantom)).stacks
    last = stack.shape[0] - 1

    reverse = stack.reversed()

    voxels = dd.read_volume(reverse).voxels
    np.testing.assert_array_equal(voxels, dd.read_volume(stack).voxels[::-1])
    for k in range(stack.shape[0]):
        np.testing.assert_allclose(
            reverse.affine_lps @ (k, 1, 2, 1), stack.affine_lps @ (last - k, 1, 2, 1), atol=1e-9
        )
    again = reverse.reversed()
    assert (again.id, again.fingerprint) == (stack.id, stack.fingerprint)
    np.testing.assert_allclose(again.affine_lps, stack.affine_lps, rtol=0, atol=1e-9)


# --- parts ----------------------------------------------------------------------------------------


@given(data=st.data(), phantom=series_phantoms(transfer_syntaxes=(*NATIVE, *LOSSLESS)))
def test_a_region_is_a_part_of_the_whole(
    data: st.DataObject, phantom: SeriesPhantom, write: Callable[..., Path], planned: Planned
) -> None:
    (stack,) = planned(write(phantom)).stacks
    stack = data.draw(st.sampled_from([stack, stack.reversed()]))
    region = data.draw(regions(stack.shape))
    whole = dd.read_volume(stack)

    part = dd.read_volume(stack, region)

    np.testing.assert_array_equal(part.voxels, whole.voxels[region.axes])
    corner = [axis.start for axis in region.within(stack.shape)]
    np.testing.assert_allclose(
        part.affine_lps @ (0, 0, 0, 1), whole.affine_lps @ (*corner, 1), atol=1e-9
    )
    np.testing.assert_array_equal(part.affine_lps[:, :3], whole.affine_lps[:, :3])
    assert len(part.valid) == len(part.voxels)


@given(phantom=series_phantoms(transfer_syntaxes=(*NATIVE, *LOSSLESS)))
def test_int16_is_float32_wherever_it_is_given(
    phantom: SeriesPhantom, write: Callable[..., Path], planned: Planned
) -> None:
    (stack,) = planned(write(phantom)).stacks
    expected = dd.read_volume(stack).voxels
    fits = modality_values(phantom)
    fits_int16 = bool((fits == np.rint(fits)).all() and np.abs(fits).max() < 2**15)

    try:
        volume = dd.read_volume(stack, dtype=np.int16)
    except dd.RescaleError:
        whole = all(
            float(str(number)).is_integer() for number in (phantom.slope, phantom.intercept)
        )
        assert not (fits_int16 and whole)
        return

    assert volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(volume.voxels, expected)


@given(data=st.data(), phantom=series_phantoms(transfer_syntaxes=LOSSLESS))
def test_a_lossless_encoding_changes_nothing(
    data: st.DataObject, phantom: SeriesPhantom, write: Callable[..., Path], planned: Planned
) -> None:
    native = write(phantom, transfer_syntax_uid=data.draw(st.sampled_from(NATIVE)))

    (stack,), (plain,) = planned(write(phantom)).stacks, planned(native).stacks

    assert stack.affine_lps.tobytes() == plain.affine_lps.tobytes()
    np.testing.assert_array_equal(dd.read_volume(stack).voxels, dd.read_volume(plain).voxels)


# --- plans ----------------------------------------------------------------------------------------


@given(
    kept=st.sets(st.sampled_from(["CT", "MR", "PT"])),
    slices=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    broken=st.booleans(),
)
def test_selecting_and_stacking_may_change_places(
    kept: set[str],
    slices: list[int],
    broken: bool,
    tmp_path_factory: pytest.TempPathFactory,
    planned: Planned,
    accounted: Callable[[dd.StackPlan], None],
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    for number, (count, modality) in enumerate(zip(slices, ("CT", "MR", "PT"), strict=False)):
        write_series(folder, shape=(count, 2, 3), modality=modality, seed=str(number))
    if broken:
        write_series(folder, shape=(2, 2, 3), positions=[None, (0, 0, 0)], seed="broken")
        (folder / "notes.txt").write_text("no header")
    catalog = planned(folder).catalog

    before = dd.plan_stacks(catalog.select(modality=list(kept)))
    after = dd.plan_stacks(catalog).select(modality=list(kept))

    assert before.stacks == after.stacks
    assert list(map(str, before.rejected)) == list(map(str, after.rejected))
    assert before.outcomes == after.outcomes
    accounted(before)


@given(phantom=series_phantoms())
def test_a_stack_is_a_plan_that_travels(
    phantom: SeriesPhantom, write: Callable[..., Path], planned: Planned
) -> None:
    (stack,) = planned(write(phantom)).stacks

    travelled = pickle.loads(pickle.dumps(stack))

    assert travelled == stack
    assert hash(travelled) == hash(stack)
    np.testing.assert_array_equal(dd.read_volume(travelled).voxels, dd.read_volume(stack).voxels)


# --- whatever headers say -------------------------------------------------------------------------

ODD_SLICES = st.fixed_dictionaries(
    {
        "depth": st.sampled_from([0, 0, 2.5, 2.5, 5, 5, 7.5, 10, 3.1, 100]),
        "x": st.sampled_from([0] * 9 + [0.3, 40]),
        "orientation": st.sampled_from([(1, 0, 0, 0, 1, 0)] * 9 + [(1, 0, 0, 0, 0, -1), ""]),
        "pixel_spacing": st.sampled_from([(0.8, 0.5)] * 9 + [(1, 1), "", ("0", "0")]),
        "frame_of_reference_uid": st.sampled_from(["1.1"] * 5 + ["1.2", ""]),
        "slope": st.sampled_from(["1"] * 5 + ["2", "", "x"]),
        "instance_number": st.sampled_from([None, 1, 1, 2, 2, 3, 4, 5, 6]),
        "AcquisitionNumber": st.sampled_from([None, "1", "1", "2", "2"]),
        "TemporalPositionIdentifier": st.sampled_from([None, None, "1", "2"]),
        "ContentTime": st.sampled_from([None, "1200", "1201"]),
        "look": st.integers(0, 3),
    }
)
"""Slices as no scanner and every archive has them."""


def write_odd(folder: Path, slices: list[dict[str, Any]], names: list[str]) -> None:
    for number, (odd, name) in enumerate(zip(slices, names, strict=True)):
        extra = {key: value for key, value in odd.items() if key[0].isupper()}
        plain = {key: odd[key] for key in odd if key[0].islower()}
        depth, x, look = plain.pop("depth"), plain.pop("x"), plain.pop("look")
        write_series(
            folder, stored=np.full((1, 2, 3), 100 * look, "u2"), positions=[(x, 0, depth)],
            file_names=[name], sop_instance_uid=f"1.2.{number}", extra=extra, **plain,
        )  # fmt: skip


def check_honesty(stack: dd.Stack) -> None:
    """Every slice is where its file says, alone there, and one with its neighbours."""
    affine, spacing = stack.affine_lps, stack.spacing
    for k, frame in enumerate(stack.frames):
        assert frame.position is not None
        off = np.linalg.norm((affine @ (k, 0, 0, 1))[:3] - frame.position)
        assert off <= 0.1 * max(spacing)
        assert frame.kind.pixel_spacing == spacing[1:]
        assert (frame.kind.rows, frame.kind.columns) == stack.shape[1:]
    assert len({frame.kind.orientation for frame in stack.frames}) == 1
    assert len({frame.position for frame in stack.frames}) == stack.shape[0]


@given(data=st.data(), slices=st.lists(ODD_SLICES, min_size=1, max_size=10))
def test_whatever_headers_say_stacks_are_honest_and_names_do_not_matter(
    data: st.DataObject,
    slices: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    planned: Planned,
) -> None:
    plans = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("odd")
        write_odd(folder, slices, data.draw(file_names(len(slices))))
        plans.append(planned(folder))

    one, two = (
        {stack.id: (stack.dimension, dd.read_volume(stack).voxels.tobytes()) for stack in p.stacks}
        for p in plans
    )

    assert one == two
    for stack in plans[0].stacks:
        check_honesty(stack)


TELLING = {
    "TemporalPositionIdentifier": "{}",
    "AcquisitionNumber": "{}",
    "TriggerTime": "{}.5",
    "AcquisitionTime": "12000{}",
    "ContentTime": "12000{}",
    "EchoTime": "1{}.5",
}
"""Elements that may tell phases apart, and how they are written."""

MODES = ("absent", "constant", "slice", "phase")


@given(
    phases=st.integers(2, 3),
    count=st.integers(3, 4),
    modes=st.fixed_dictionaries({name: st.sampled_from(MODES) for name in TELLING}),
    numbering=st.sampled_from(["absent", "slice", "phase by phase", "slice by slice"]),
    seed=st.integers(0, 99),
)
def test_phases_are_told_apart_by_what_tells_them_apart_and_never_by_chance(
    phases: int,
    count: int,
    modes: dict[str, str],
    numbering: str,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
    planned: Planned,
) -> None:
    folder = tmp_path_factory.mktemp("phases")
    for phase in range(phases):
        for k in range(count):
            number = {"slice": k, "phase by phase": phase * count + k,
                      "slice by slice": k * phases + phase}.get(numbering)  # fmt: skip
            values = {"absent": None, "constant": 7, "slice": k, "phase": phase}
            elements = {
                name: None if values[modes[name]] is None else text.format(values[modes[name]])
                for name, text in TELLING.items()
            }
            write_series(
                folder, stored=np.full((1, 2, 2), phase + 1, "u2"), positions=[(0, 0, 2.5 * k)],
                intercept=0, instance_number=number, extra=elements,
                sop_instance_uid=phantom_uid(seed, phase, k), file_names=[f"{phase} {k}"],
            )  # fmt: skip

    plan = planned(folder)

    looks = sorted(np.unique(dd.read_volume(stack).voxels).tolist() for stack in plan.stacks)
    told = "phase" in modes.values() or numbering in {"phase by phase", "slice by slice"}
    expected = [[phase + 1] for phase in range(phases)] if told else []
    assert looks == expected
    assert {stack.shape[0] for stack in plan.stacks} == ({count} if told else set())
    assert bool(plan.rejected) != told


# --- whatever happens to an archive ---------------------------------------------------------------

CHANGES = ("add", "remove", "move", "spoil", "mend", "touch")


@given(changes=st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 99)), max_size=6))
def test_a_refreshed_catalog_is_that_of_a_new_scan(
    changes: list[tuple[str, int]],
    tmp_path_factory: pytest.TempPathFactory,
    planned: Planned,
    accounted: Callable[[dd.StackPlan], None],
) -> None:
    root = tmp_path_factory.mktemp("archive")
    write_series(root, shape=(3, 2, 2), seed="first")
    catalog = planned(root).catalog

    for number, (change, chosen) in enumerate(changes):
        apply_change(root, change, chosen, number)
        if chosen % 2:
            catalog.refresh(progress=False)
    catalog.refresh(progress=False)

    refreshed, new = dd.plan_stacks(catalog), planned(root)
    accounted(refreshed)
    assert refreshed.outcomes == new.outcomes
    assert {stack.fingerprint for stack in refreshed.stacks} == {
        stack.fingerprint for stack in new.stacks
    }


def apply_change(root: Path, change: str, chosen: int, number: int) -> None:
    """Change one file of an archive, or add a series to it."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    if change == "add" or not paths:
        write_series(root / f"{number}", shape=(2, 2, 2), seed=str(chosen), patient_id=str(chosen))
        return
    path = paths[chosen % len(paths)]
    if change == "remove":
        path.unlink()
    elif change == "move":
        path.rename(root / f"moved {number}")
    elif change == "spoil":
        path.write_bytes(path.read_bytes()[:200])
    elif change == "mend":
        write_series(root, shape=(1, 2, 2), seed=str(number), file_names=[f"mended {number}"])
    else:
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1 + number))

"""Series that are several volumes: told apart by what removes the problem, and by nothing else."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

import dicomdata as dd
from dicomdata.testing.phantoms import SeriesPhantom, write_series

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Planned = Callable[..., dd.StackPlan]


def write(folder: Path, frames: Sequence[dict[str, Any]], **fields: Any) -> None:
    """Write one CT series: each frame has a depth `z`, a stored value `is_`, and elements."""
    words = np.array([frame["is_"] for frame in frames], np.uint16)
    own = ("z", "is_", "number")
    write_series(
        folder,
        SeriesPhantom(
            stored=np.broadcast_to(words[:, None, None], (len(frames), 4, 6)).copy(),
            positions=[(0, 0, frame["z"]) for frame in frames],
            instance_number=lambda k: frames[k].get("number", k + 1),
            extra=lambda k: {name: value for name, value in frames[k].items() if name not in own},
            intercept="0",
            **fields,
        ),
    )


def contents(plan: dd.StackPlan) -> list[list[float]]:
    """What each stack holds, slice by slice."""
    return sorted(dd.read_volume(stack).voxels[:, 0, 0].tolist() for stack in plan.stacks)


PHASES: list[dict[str, Any]] = [
    {"z": 2.5 * k, "is_": 100 * phase + k} for phase in (1, 2) for k in range(4)
]
FIRST, SECOND = [100, 101, 102, 103], [200, 201, 202, 203]


# --- phases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "values"),
    {
        "TemporalPositionIdentifier": ("1", "2"),
        "AcquisitionNumber": ("7", "8"),
        "TriggerTime": ("0", "450.5"),
        "AcquisitionTime": ("101010", "101510"),
        "ContentTime": ("101010.5", "101010.7"),
        "EchoTime": ("4.6", "9.2"),
        "ImageType": (("ORIGINAL", "PRIMARY", "M"), ("ORIGINAL", "PRIMARY", "P")),
    }.items(),
)
def test_phases_are_told_apart_by_the_element_that_differs(
    keyword: str, values: tuple[Any, Any], tmp_path: Path, planned: Planned
) -> None:
    frames = [{**frame, keyword: values[frame["is_"] // 200], "number": ""} for frame in PHASES]
    write(tmp_path, frames)

    plan = planned(tmp_path)

    assert contents(plan) == [FIRST, SECOND]
    assert {stack.dimension[0] for stack in plan.stacks} == {keyword}


def test_phases_without_an_element_are_told_apart_by_their_rounds(
    tmp_path: Path, planned: Planned
) -> None:
    write(tmp_path, PHASES)

    plan = planned(tmp_path)

    assert contents(plan) == [FIRST, SECOND]
    assert [stack.dimension for stack in plan.stacks] == [
        ("InstanceNumber", "1"),
        ("InstanceNumber", "2"),
    ]


def test_phases_that_nothing_tells_apart_are_refused(tmp_path: Path, planned: Planned) -> None:
    write(tmp_path, [{**frame, "number": ""} for frame in PHASES])

    plan = planned(tmp_path)

    assert plan.stacks == ()
    assert "repeated_position" in str(plan.rejected[0])


@pytest.mark.parametrize("told_by", ["AcquisitionNumber", "number"])
def test_a_slice_that_lies_there_twice_does_not_hide_the_phases(
    told_by: str, tmp_path: Path, planned: Planned
) -> None:
    number = itertools.count(1)
    frames = [{**frame, "number": next(number)} for frame in PHASES]
    if told_by != "number":
        frames = [{**frame, told_by: frame["is_"] // 100, "number": ""} for frame in frames]
    write(tmp_path, [*frames, frames[1]])

    plan = planned(tmp_path)

    assert contents(plan) == [FIRST, SECOND]
    assert [row.outcome for row in plan.outcomes].count("duplicate") == 1


def test_a_phase_that_lacks_a_slice_is_refused_and_the_others_are_not(
    tmp_path: Path, planned: Planned
) -> None:
    frames = [
        {"z": 2.5 * k, "is_": 100 * phase + k, "AcquisitionNumber": phase}
        for phase, k in itertools.product((1, 2), range(5))
        if (phase, k) != (2, 3)
    ]
    write(tmp_path, frames)

    plan = planned(tmp_path)
    repaired = planned(tmp_path, dd.Policy(gap="repair"))

    assert contents(plan) == [[100, 101, 102, 103, 104]]
    assert "gap" in str(plan.rejected[0])
    assert contents(repaired) == [[100, 101, 102, 103, 104], [200, 201, 202, -1024, 204]]


def test_phases_of_echoes_of_image_types_take_three_elements(
    tmp_path: Path, planned: Planned
) -> None:
    triples = list(itertools.product((1, 2), (4.6, 9.2), ("M", "P")))
    frames = [
        {"z": 2.5 * k, "is_": 10 * n + k, "TemporalPositionIdentifier": phase, "EchoTime": echo,
         "ImageType": ("ORIGINAL", "PRIMARY", part), "number": ""}
        for k in range(3)
        for n, (phase, echo, part) in enumerate(triples)
    ]  # fmt: skip
    write(tmp_path, frames)

    plan = planned(tmp_path)

    assert contents(plan) == [[10.0 * n, 10 * n + 1, 10 * n + 2] for n in range(8)]
    assert {stack.dimension[0] for stack in plan.stacks} == {
        "TemporalPositionIdentifier, EchoTime, ImageType"
    }
    assert len({stack.dimension[1] for stack in plan.stacks}) == 8


# --- passes ---------------------------------------------------------------------------------------


def passes(*starts: float, slices: int = 5) -> list[dict[str, Any]]:
    return [
        {"z": start + 2.5 * k, "is_": 100 * n + k, "pass": n, "slice": k}
        for n, start in enumerate(starts, start=1)
        for k in range(slices)
    ]


def elements(frames: Sequence[dict[str, Any]], **named: str) -> list[dict[str, Any]]:
    """Give each element the number of the pass or of the slice within it."""
    return [
        {"z": frame["z"], "is_": frame["is_"], "number": frame.get("number", ""),
         **{name: frame[what] for name, what in named.items()}}
        for frame in frames
    ]  # fmt: skip


def test_overlapping_passes_are_told_apart(tmp_path: Path, planned: Planned) -> None:
    # G15: eight readers interleave them.
    write(tmp_path, elements(passes(0, 8.75), AcquisitionNumber="pass"))

    plan = planned(tmp_path)

    assert contents(plan) == [[100, 101, 102, 103, 104], [200, 201, 202, 203, 204]]


def test_overlapping_passes_are_told_apart_where_the_positions_turn_back(
    tmp_path: Path, planned: Planned
) -> None:
    frames = [{**frame, "number": k} for k, frame in enumerate(passes(0, 8.75), start=1)]
    write(tmp_path, elements(frames))

    plan = planned(tmp_path)

    assert contents(plan) == [[100, 101, 102, 103, 104], [200, 201, 202, 203, 204]]
    assert {stack.dimension[0] for stack in plan.stacks} == {"InstanceNumber"}


def test_passes_are_alike_as_far_as_their_decimals_tell(tmp_path: Path, planned: Planned) -> None:
    # Steps of 1.17 mm in one decimal: 1.15 and 1.2 mm on average, 4 % apart.
    frames = [
        {"z": z, "is_": 100 * n + k, "AcquisitionNumber": n, "number": ""}
        for n, depths in ((1, (0.0, 1.2, 2.3)), (2, (1.7, 2.9, 4.1)))
        for k, z in enumerate(depths)
    ]
    write(tmp_path, frames)

    plan = planned(tmp_path)

    assert contents(plan) == [[100, 101, 102], [200, 201, 202]]


@pytest.mark.parametrize("starts", [(0, 2.5), (0, 5), (0, 5, 10), (0, 7.5, 15), (0, 3.5, 7)])
def test_a_number_that_counts_slices_never_splits_passes(
    starts: tuple[float, ...], tmp_path: Path, planned: Planned
) -> None:
    # Slice k of each pass would be an even stack of its own, and a wrong one.
    frames = passes(*starts, slices=4)
    write(tmp_path, elements(frames, AcquisitionNumber="slice", ContentTime="pass"))

    plan = planned(tmp_path)

    expected = [[100.0 * n + k for k in range(4)] for n in range(1, len(starts) + 1)]
    assert contents(plan) in ([], expected)


def test_one_good_volume_is_never_split(tmp_path: Path, planned: Planned) -> None:
    # Twenty Acquisition Numbers, times and image types in one head.
    frames = [
        {"z": 2.5 * k, "is_": k, "AcquisitionNumber": k // 2, "ContentTime": f"1010{k:02}",
         "ImageType": ("ORIGINAL", "PRIMARY", "AXIAL" if k % 2 else "HELIX")}
        for k in range(20)
    ]  # fmt: skip
    write(tmp_path, frames)

    (stack,) = planned(tmp_path).stacks

    assert stack.shape[0] == 20
    assert stack.dimension == ("", "")


def test_deflated_copies_are_recognised(tmp_path: Path, planned: Planned) -> None:
    phantom = SeriesPhantom(transfer_syntax_uid="1.2.840.10008.1.2.1.99")
    write_series(tmp_path, phantom)
    write_series(tmp_path, phantom.only(1), file_names=["copy"], sop_instance_uid="1.2.3")

    plan = planned(tmp_path)

    assert [stack.shape[0] for stack in plan.stacks] == [5]
    assert [row.outcome for row in plan.outcomes].count("duplicate") == 1


def test_equal_pixels_under_other_modality_luts_are_no_duplicates(
    tmp_path: Path, planned: Planned
) -> None:
    def table(*entries: int) -> DataElement:
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [2, 0, 16])
        item.ModalityLUTType = "HU"
        item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
        return DataElement("ModalityLUTSequence", "SQ", [item])

    luts = [table(7, 9)] * 3 + [table(70, 90)] * 3
    write_series(
        tmp_path,
        stored=np.ones((6, 4, 6), np.uint16),
        positions=[(0, 0, 2.5 * (k % 3)) for k in range(6)],
        slope=None,
        intercept=None,
        extra=lambda k: {"ModalityLUTSequence": luts[k]},
    )

    plan = planned(tmp_path)

    assert "duplicate" not in {row.outcome for row in plan.outcomes}
    assert contents(plan) in ([], [[9.0] * 3, [90.0] * 3])


def test_two_elements_that_tell_other_volumes_apart_are_a_contradiction(
    tmp_path: Path, planned: Planned
) -> None:
    # The Acquisition Number goes round: its volumes would be made of both echoes.
    frames = [
        {**frame, "EchoTime": 4.6 * (frame["is_"] // 100), "number": "",
         "AcquisitionNumber": (frame["is_"] // 100 + frame["is_"] % 100) % 2}
        for frame in PHASES
    ]  # fmt: skip
    write(tmp_path, frames)

    plan = planned(tmp_path)

    assert plan.stacks == ()
    assert "AcquisitionNumber tells volumes apart, and EchoTime tells others" in str(
        plan.rejected[0]
    )


def test_passes_within_what_is_merely_uneven_are_told_apart(
    tmp_path: Path, planned: Planned
) -> None:
    frames = [
        {"z": 2.5 * k + 1.05 * n, "is_": 100 * n + k, "AcquisitionNumber": n}
        for n in (1, 2)
        for k in range(5)
    ]
    write(tmp_path, frames)

    plan = planned(tmp_path)

    assert contents(plan) == [[100, 101, 102, 103, 104], [200, 201, 202, 203, 204]]


def test_blocks_that_are_each_a_little_off_are_one_uneven_volume(
    tmp_path: Path, planned: Planned
) -> None:
    # A sequential head: four slices an acquisition, and the table moves a little too far.
    frames = [
        {"z": 2.5 * k + 0.2 * (k // 4), "is_": k, "AcquisitionNumber": k // 4} for k in range(8)
    ]
    write(tmp_path, frames)

    (stack,) = planned(tmp_path).stacks

    assert stack.shape[0] == 8
    assert [finding.kind for finding in stack.findings] == ["uneven"]

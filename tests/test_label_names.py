"""Segments by what they are called: one name and one number for what people call differently."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import dicomdata as dd
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (5, 4, 6)


@pytest.fixture
def named(tmp_path: Path) -> dd.Mask:
    """Four segments of one slice each."""
    write_series(tmp_path, shape=SHAPE)
    (stack,) = dd.plan_stacks(dd.scan(tmp_path, progress=False)).stacks
    voxels = np.zeros((4, *SHAPE), np.bool_)
    for i in range(4):
        voxels[i, i] = True
    names = ("Lung_L", "lung right", "GTV 1", "Couch")
    segments = tuple(dd.Segment(i + 3, name) for i, name in enumerate(names))
    return dd.Mask(voxels, segments, stack, dd.Verdict("same_grid", 0.0, ""), (), "plan.dcm")


def test_segments_are_chosen_by_regular_expressions(named: dd.Mask) -> None:
    chosen = dd.select_segments(named, {"tumour": "GTV ?[0-9]*", "lung": "(?i)lung.*"})

    assert [(segment.number, segment.name) for segment in chosen.segments] == [
        (1, "tumour"),
        (2, "lung"),
    ]
    np.testing.assert_array_equal(chosen.of("lung"), named.voxels[0] | named.voxels[1])
    assert [str(finding) for finding in chosen.findings] == [
        "joined: 'lung' is 'Lung_L', 'lung right'",
        "left_out: not asked for: 'Couch'",
    ]


def test_a_segment_that_is_missing_is_refused_empty_or_left_out(named: dd.Mask) -> None:
    patterns = {"heart": "(?i)heart", "tumour": "GTV.*"}

    with pytest.raises(dd.LabelError, match=r"plan\.dcm: no segment is 'heart'; it has 'Lung_L', "):
        dd.select_segments(named, patterns)
    empty = dd.select_segments(named, patterns, missing="empty")
    fewer = dd.select_segments(named, patterns, missing="drop")

    assert empty.voxels.sum(axis=(1, 2, 3)).tolist() == [0, 24]
    assert [(segment.number, segment.name) for segment in fewer.segments] == [(2, "tumour")]
    assert all("missing: no segment is 'heart'" in map(str, m.findings) for m in (empty, fewer))


def test_what_names_do_not_decide_is_refused(named: dd.Mask) -> None:
    with pytest.raises(dd.LabelError, match="'GTV 1' fits the patterns of 'a' and of 'b'"):
        dd.select_segments(named, {"a": "GTV.*", "b": ".*1"})
    with pytest.raises(dd.LabelError, match="segments that nothing asks for: 'GTV 1', 'Couch'"):
        dd.select_segments(named, {"lung": "(?i)lung.*"}, others="error")
    with pytest.raises(dd.ConfigError, match="is no regular expression"):
        dd.select_segments(named, {"lung": "(lung"})

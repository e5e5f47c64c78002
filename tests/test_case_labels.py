"""Labels of cases from tables: by patient, study or series, and nothing that is odd unsaid."""

from __future__ import annotations

import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from monai.transforms.compose import Compose

import dicomdata as dd
from dicomdata.testing.phantoms import phantom_uid, write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Planned = Callable[..., dd.StackPlan]

PATIENTS = ("P001", "P002", "P003")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> dd.StackPlan:
    """Three patients with a CT each; the first has an MR in another study too."""
    folder = tmp_path_factory.mktemp("archive")
    for patient in PATIENTS:
        write_series(folder / patient, patient_id=patient, seed=patient)
    write_series(folder / "again", patient_id="P001", seed="again", modality="MR")
    return dd.plan_stacks(dd.scan(folder, progress=False))


def write_table(folder: Path, text: str, name: str = "cases.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# --- joining --------------------------------------------------------------------------------------


def test_a_label_of_a_patient_is_that_of_every_stack(plan: dd.StackPlan, tmp_path: Path) -> None:
    path = write_table(tmp_path, "PatientID,stage\nP001,2\nP002,0\nP003,1\n")

    labels = dd.read_case_labels(path, "stage")
    cases = labels.join(plan)

    assert (labels.by, labels.counts()) == ("patient", {2: 1, 0: 1, 1: 1})
    told = {
        (stack.patient_id, value) for stack, value in zip(cases.stacks, cases.values, strict=True)
    }
    assert told == {("P001", 2), ("P002", 0), ("P003", 1)}
    assert len(cases.stacks) == 4
    assert (cases.missing, cases.unmatched, cases.unused) == ((), (), ())


@pytest.mark.parametrize("column", ["SeriesInstanceUID", "seriesuid", "series_instance_uid"])
def test_a_label_of_a_series_is_that_of_no_other(
    plan: dd.StackPlan, tmp_path: Path, column: str
) -> None:
    rows = [f"{phantom_uid(seed, 'series')},{seed}" for seed in (*PATIENTS, "again")]
    path = write_table(tmp_path, "\n".join([f"{column},name", *rows]))

    cases = dd.read_case_labels(path, "name").join(plan)

    assert sorted(map(str, cases.values)) == ["P001", "P002", "P003", "again"]
    assert cases.by_series()[phantom_uid("again", "series")] == "again"


def test_a_label_of_a_study_is_found_by_its_uid(plan: dd.StackPlan, tmp_path: Path) -> None:
    rows = [f"{phantom_uid(seed, 'study')};1.5" for seed in ("P002", "again")]
    path = write_table(tmp_path, "\n".join(["Study UID;dose", *rows]))

    labels = dd.read_case_labels(path, "dose")
    cases = labels.join(plan, missing="drop")

    assert (labels.by, cases.values) == ("study", (1.5, 1.5))
    assert {stack.patient_id for stack in cases.stacks} == {"P001", "P002"}


def test_a_table_with_several_keys_is_asked_which(tmp_path: Path) -> None:
    path = write_table(tmp_path, "PatientID,StudyInstanceUID,case,grade\nP001,1.2.3,a,1\n")

    with pytest.raises(dd.LabelError, match="2 columns say whose a row is"):
        dd.read_case_labels(path, "grade")
    with pytest.raises(dd.LabelError, match="column 'case' does not say by its name"):
        dd.read_case_labels(path, "grade", key="case")
    assert dd.read_case_labels(path, "grade", by="study").values == {"1.2.3": 1}
    assert dd.read_case_labels(path, "grade", key="PatientID").values == {"P001": 1}
    assert dd.read_case_labels(path, "grade", key="case", by="patient").values == {"a": 1}


def test_a_stack_without_label_is_refused_dropped_or_given_one(
    plan: dd.StackPlan, tmp_path: Path
) -> None:
    labels = dd.read_case_labels(write_table(tmp_path, "PatientID,y\nP001,1\nP002,1\n"), "y")

    with pytest.raises(dd.LabelError, match="1 stacks of 1 cases have no label: P003; missing="):
        labels.join(plan)
    dropped = labels.join(plan, missing="drop")
    filled = labels.join(plan, missing=0)

    assert {stack.patient_id for stack in dropped.stacks} == {"P001", "P002"}
    assert [stack.patient_id for stack in dropped.missing] == ["P003"]
    assert sorted(filled.values) == [0, 1, 1, 1]
    assert "missing: 1 stacks have none" in str(filled)


def test_rows_that_are_of_nothing_are_told_from_those_that_were_left_out(
    plan: dd.StackPlan, tmp_path: Path
) -> None:
    table = "PatientID,y\nP001,1\nP002,0\nP003,1\nP004,1\n"
    labels = dd.read_case_labels(write_table(tmp_path, table), "y")
    some = plan.select(patient_id=["P001", "P002"])

    cases = labels.join(some)

    assert (cases.unmatched, cases.unused) == (("P004",), ("P003",))
    assert "unmatched: 1 rows are of nothing there is: P004" in str(cases)


def test_labels_of_another_archive_are_refused(plan: dd.StackPlan, tmp_path: Path) -> None:
    labels = dd.read_case_labels(write_table(tmp_path, "PatientID,y\n1,1\n2,0\n"), "y")

    missing: Any
    for missing in ("drop", 0):
        with pytest.raises(dd.LabelError, match=r"of 2 labels none is of a patient .* cases P001"):
            labels.join(plan, missing=missing)


def test_a_key_that_lost_its_zeros_is_suspected(plan: dd.StackPlan, tmp_path: Path) -> None:
    table = "PatientID,y\nP001,1\nP002,0\nP03,1\n"
    labels = dd.read_case_labels(write_table(tmp_path, table), "y")

    with pytest.raises(dd.LabelError, match="P003, and a row of 'P03' is of none: is it the same"):
        labels.join(plan)


# --- tables ---------------------------------------------------------------------------------------


def test_keys_that_occur_twice_are_told(tmp_path: Path) -> None:
    path = write_table(tmp_path, "PatientID,y\nP001,1\nP001,1\nP002,0\n")

    labels = dd.read_case_labels(path, "y")

    assert labels.values == {"P001": 1, "P002": 0}
    assert labels.findings == ("duplicate: 1 cases have the same label twice: P001",)


def test_labels_that_contradict_each_other_are_refused_or_left_out(tmp_path: Path) -> None:
    path = write_table(tmp_path, "PatientID,y\nP001,1\nP001,0\nP002,0\n")

    with pytest.raises(dd.LabelError, match=r"1 cases have labels that .*: P001: 0 and 1"):
        dd.read_case_labels(path, "y")
    labels = dd.read_case_labels(path, "y", conflict="drop")

    assert labels.values == {"P002": 0}
    assert labels.findings[0].startswith("conflict: 1 cases")


def test_rows_without_key_or_label_are_told(tmp_path: Path) -> None:
    path = write_table(tmp_path, "PatientID,y\nP001,1\n,0\nP002,\nP003,NA\nP004,NaN\n\n")

    labels = dd.read_case_labels(path, "y")

    assert labels.values == {"P001": 1}
    assert labels.findings == (
        "incomplete: 1 rows have no 'PatientID': left out",
        "incomplete: 3 rows have no 'y': left out",
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-2", "+3"], [1, -2, 3]),
        (["1", "2.5", "1e3"], [1.0, 2.5, 1000.0]),
        (["1", "two", "3"], ["1", "two", "3"]),
        (["1_000", "inf", "0x1"], ["1_000", "inf", "0x1"]),
        (["none", "mild", "None"], ["none", "mild", "None"]),
    ],
)
def test_labels_are_numbers_if_all_of_them_are(
    tmp_path: Path, values: list[str], expected: list[Any]
) -> None:
    rows = [f"P{i},{value}" for i, value in enumerate(values)]

    labels = dd.read_case_labels(write_table(tmp_path, "\n".join(["patient_id,y", *rows])), "y")

    assert list(labels.values.values()) == expected
    assert {type(value) for value in labels.values.values()} == {type(expected[0])}


def test_classes_become_their_places(tmp_path: Path) -> None:
    path = write_table(tmp_path, "PatientID,y\nP001,ill\nP002,well\n")

    labels = dd.read_case_labels(path, "y", classes=("well", "ill"))

    assert labels.values == {"P001": 1, "P002": 0}
    with pytest.raises(dd.LabelError, match="labels that are no class: ill; expected well, dead"):
        dd.read_case_labels(path, "y", classes=("well", "dead"))


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfPatientID,y\r\nP001,1\r\n",
        b"PatientID;y\nP001;1\n",
        b"PatientID\ty\nP001\t1\n",
        b' PatientID , y\n" P001 ","1"\n',
        b'PatientID,note,y\nP001,"two\nlines, and a comma",1\n',
    ],
    ids=["Excel", "semicolons", "tabs", "spaces", "quotes"],
)
def test_tables_are_read_as_programs_write_them(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cases.csv").write_bytes(content)

    assert dd.read_case_labels(tmp_path / "cases.csv", "y").values == {"P001": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no line of column names"),
        ("PatientID,y\n", "no row has both 'PatientID' and 'y'"),
        ("PatientID,z\nP001,1\n", "0 columns are called 'y': it has PatientID, z"),
        ("PatientID,y,y\nP001,1,1\n", "2 columns are called 'y'"),
        ("case,y\nP001,1\n", "0 columns say whose a row is"),
        ("PatientID,y\nP001,1,2\n", "line 2: expected 2 values, found 3"),
    ],
)
def test_tables_that_say_nothing_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(dd.LabelError, match=rf"cases\.csv: {told}"):
        dd.read_case_labels(write_table(tmp_path, text), "y")


def test_tables_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"PatientID,y\nM\xfcller,1\n")

    with pytest.raises(dd.FileError, match=r"latin\.csv: cannot be read: it is not UTF-8"):
        dd.read_case_labels(tmp_path / "latin.csv", "y")
    with pytest.raises(dd.FileError, match=r"none\.csv: cannot be read"):
        dd.read_case_labels(tmp_path / "none.csv", "y")


def test_parquet_is_a_table_too(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"PatientID": [1, 2, 3], "y": [0.0, None, 1.0]})
    parquet.write_table(table, tmp_path / "cases.parquet")

    labels = dd.read_case_labels(tmp_path / "cases.parquet", "y")

    assert labels.values == {"1": 0, "3": 1}
    assert labels.findings == ("incomplete: 1 rows have no 'y': left out",)


# --- in use ---------------------------------------------------------------------------------------


def test_samples_get_their_labels_in_a_transform(plan: dd.StackPlan, tmp_path: Path) -> None:
    labels = dd.read_case_labels(
        write_table(tmp_path, "PatientID,y\nP001,1\nP002,0\nP003,1\n"), "y"
    )
    cases = labels.join(plan)
    transform = Compose([pickle.loads(pickle.dumps(partial(labels.into, name="grade")))])

    dataset = dd.VolumeDataset(cases.stacks, transform=transform)

    assert [sample["grade"] for sample in dataset] == list(cases.values)
    items = [labels.into(item) for item in plan.items()]
    assert [item["label"] for item in items] == list(cases.values)
    with pytest.raises(dd.LabelError, match="patient 'P009' has no label"):
        labels.into({"patient_id": "P009"})


def test_labels_are_strata_of_a_split(plan: dd.StackPlan, tmp_path: Path) -> None:
    labels = dd.read_case_labels(
        write_table(tmp_path, "PatientID,y\nP001,ill\nP002,ill\nP003,well\n"), "y"
    )

    split = dd.make_split(plan, 2, seed=0, stratify=labels.join(plan).by_series())

    assert sorted(group.part for group in split.groups if group.stratum == "ill") == ["0", "1"]
    assert split == dd.make_split(plan, 2, seed=0, stratify=labels.values)

"""Splits: patients are never parted, stay where they are, and what leaks all the same is found."""

from __future__ import annotations

import csv
import json
import pickle
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import uid
from typer.testing import CliRunner

import dicomdata as dd
from dicomdata.cli import app
from dicomdata.splits.assignment import balance, draw
from dicomdata.testing.phantoms import SeriesPhantom, phantom_uid, ramp, write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

    Planned = Callable[..., dd.StackPlan]

SHARES = {"train": 0.5, "val": 0.25, "test": 0.25}
PATIENTS = [f"P{number:02}" for number in range(24)]
MAKERS = ["GE", "SIEMENS", "PHILIPS"]


def write_case(folder: Path, patient: str, *, name: str = "", **changes: Any) -> list[Path]:
    """Write a series of two slices, which differs from that of any other name."""
    seed = name or patient
    noise = np.random.default_rng(list(seed.encode())).integers(0, 2**12, (2, 24, 24))
    phantom = SeriesPhantom(stored=noise.astype(np.uint16), patient_id=patient, seed=seed)
    return write_series(folder / seed, phantom, **changes)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> dd.Catalog:
    """24 patients of three manufacturers; the first has two studies."""
    folder = tmp_path_factory.mktemp("archive")
    for number, patient in enumerate(PATIENTS):
        write_case(folder, patient, extra={"Manufacturer": MAKERS[number % 3]})
    write_case(folder, "P00", name="P00 again", extra={"Manufacturer": "GE"})
    return dd.scan(folder, catalog=folder.parent / "archive.catalog", progress=False)


@pytest.fixture(scope="module")
def stacks(archive: dd.Catalog) -> tuple[dd.Stack, ...]:
    """The 25 stacks of the archive."""
    return dd.plan_stacks(archive).stacks


def part_of_patient(split: dd.Split) -> dict[str, str]:
    return {patient: group.part for group in split.groups for patient in group.patients}


# --- who is where ---------------------------------------------------------------------------------


def test_a_patient_with_two_studies_is_in_one_part(archive: dd.Catalog) -> None:
    for seed in range(8):
        split = dd.make_split(archive, 2, seed=seed)

        parts = {split.part_of(each) for each in archive.select(patient_id="P00").series}

        assert len(parts) == 1


def test_every_stack_is_in_exactly_one_part(archive: dd.Catalog) -> None:
    plan = dd.plan_stacks(archive)

    split = dd.make_split(plan, SHARES, seed=1)

    found = [stack.id for part in split.parts for stack in split.stacks(plan, part)]
    assert sorted(found) == sorted(stack.id for stack in plan.stacks)
    assert split.parts == ("train", "val", "test")


@given(st.sets(st.sampled_from(PATIENTS), min_size=8), st.integers(0, 9), st.booleans())
def test_no_patient_moves_when_others_come_or_go(
    archive: dd.Catalog, some: set[str], seed: int, folds: bool
) -> None:
    parts: Any = 2 if folds else {"train": 0.6, "val": 0.4}
    try:
        few = dd.make_split(archive.select(patient_id=sorted(some)), parts, seed=seed)
    except dd.SplitError:
        return  # a part would be empty

    all_of_them = dd.make_split(archive, parts, seed=seed)

    assert part_of_patient(few).items() <= part_of_patient(all_of_them).items()


@given(st.sets(st.sampled_from(PATIENTS), min_size=8), st.integers(0, 9))
def test_a_balanced_split_that_is_taken_up_moves_nobody(
    archive: dd.Catalog, some: set[str], seed: int
) -> None:
    few = dd.make_split(
        archive.select(patient_id=sorted(some)), SHARES, seed=seed, stratify="manufacturer"
    )

    more = dd.make_split(archive, SHARES, seed=seed, stratify="manufacturer", previous=few)

    assert part_of_patient(few).items() <= part_of_patient(more).items()
    counts = Counter(part_of_patient(more).values())
    assert all(abs(counts[part] - share * 24) <= 2 for part, share in SHARES.items())


def test_a_split_that_is_taken_up_is_the_one_made_anew_where_nothing_is_balanced(
    archive: dd.Catalog,
) -> None:
    few = dd.make_split(archive.select(patient_id=PATIENTS[:16]), SHARES, seed=4)

    more = dd.make_split(archive, SHARES, seed=4, previous=few)

    assert more == dd.make_split(archive, SHARES, seed=4)


def test_patients_who_went_are_remembered(archive: dd.Catalog) -> None:
    everyone = dd.make_split(archive, SHARES, seed=2, balanced=True)
    some = archive.select(patient_id=PATIENTS[5:])

    fewer = dd.make_split(some, SHARES, seed=2, balanced=True, previous=everyone)
    again = dd.make_split(archive, SHARES, seed=2, balanced=True, previous=fewer)

    assert part_of_patient(again) == part_of_patient(everyone)
    assert sum(patients for patients, _ in fewer.counts().values()) == 19


def test_another_seed_is_another_split(archive: dd.Catalog) -> None:
    splits = {dd.make_split(archive, 2, seed=seed).fingerprint for seed in range(6)}

    assert len(splits) == 6


def test_the_part_of_a_patient_is_the_same_on_every_machine() -> None:
    # Hashes of '[7, "p00"]' and so on, by hand: 0.565, 0.372, 0.435, 0.069, 0.544. Whoever changes
    # them moves the patients of every split there is.
    drawn = [draw(patient, 7, SHARES) for patient in ("p00", "p01", "p02", "p03", "p04")]

    assert drawn == ["val", "train", "train", "train", "val"]


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.sampled_from([SHARES, {"a": 0.8, "b": 0.1, "c": 0.1}, dict.fromkeys("01234", 0.2)]),
    st.integers(0, 99),
)
def test_no_part_is_further_than_two_patients_from_its_share(
    values: list[int], shares: dict[str, float], seed: int
) -> None:
    strata = {f"P{number}": str(value) for number, value in enumerate(values)}

    chosen = balance(strata, seed, shares)

    for stratum in {*strata.values(), None}:
        inside = [key for key in strata if stratum in (None, strata[key])]
        counts = Counter(chosen[key] for key in inside)
        for part, share in shares.items():
            assert abs(counts[part] - share * len(inside)) <= 2


def test_strata_are_in_every_part(archive: dd.Catalog) -> None:
    split = dd.make_split(archive, 4, seed=3, stratify="manufacturer")

    counts = Counter((group.part, group.stratum) for group in split.groups)

    assert counts == {(str(fold), maker): 2 for fold in range(4) for maker in MAKERS}
    assert split.stratify == "manufacturer"


@given(st.permutations(range(25)), st.integers(0, 9))
def test_the_order_of_cases_does_not_matter(
    stacks: tuple[dd.Stack, ...], order: list[int], seed: int
) -> None:
    shuffled = [stacks[number] for number in order]

    split = dd.make_split(shuffled, 2, seed=seed, stratify="manufacturer")

    assert split == dd.make_split(stacks, 2, seed=seed, stratify="manufacturer")


def test_the_place_of_an_archive_does_not_matter(tmp_path: Path, planned: Planned) -> None:
    splits = []
    for root in ("here", "far/away"):
        for patient in PATIENTS[:8]:
            write_case(tmp_path / root, patient)
        splits.append(dd.make_split(planned(tmp_path / root), 2, seed=0, balanced=True))

    assert splits[0] == splits[1]


@given(st.sets(st.sampled_from(PATIENTS), min_size=8, max_size=23), st.integers(0, 9))
def test_more_studies_of_those_who_are_there_move_nobody(
    archive: dd.Catalog, some: set[str], seed: int
) -> None:
    one_each = {series.patient_id: series.series_instance_uid for series in archive.series}
    few = archive.select(series_instance_uid=sorted(one_each.values()))

    before = dd.make_split(few, 2, seed=seed, balanced=True)

    # A study more is no patient more: the balance is what it was, even made anew.
    assert part_of_patient(before) == part_of_patient(
        dd.make_split(archive, 2, seed=seed, balanced=True)
    )


def test_what_is_balanced_anew_may_move(archive: dd.Catalog) -> None:
    few = archive.select(patient_id=PATIENTS[4:])

    before = dd.make_split(few, 2, seed=0, balanced=True)
    anew = dd.make_split(archive, 2, seed=0, balanced=True)
    kept = dd.make_split(archive, 2, seed=0, balanced=True, previous=before)

    # Why a split is kept in a file: nothing that balances can promise more.
    assert not part_of_patient(before).items() <= part_of_patient(anew).items()
    assert part_of_patient(before).items() <= part_of_patient(kept).items()


def test_labels_are_strata_too(archive: dd.Catalog) -> None:
    labels = {patient: "ill" if number < 8 else "well" for number, patient in enumerate(PATIENTS)}

    split = dd.make_split(archive, 4, seed=3, stratify=labels)

    ill = Counter(group.part for group in split.groups if group.stratum == "ill")
    assert ill == {"0": 2, "1": 2, "2": 2, "3": 2}


def test_labels_find_their_patients_however_these_are_spelt(archive: dd.Catalog) -> None:
    labels = {f" {patient.lower()}": number % 2 for number, patient in enumerate(PATIENTS)}

    split = dd.make_split(archive, 2, seed=3, stratify=labels)

    assert Counter(group.stratum for group in split.groups) == {"0": 12, "1": 12}
    with pytest.raises(dd.SplitError, match="'P00' has another one where it is spelt differently"):
        dd.make_split(archive, 2, seed=3, stratify={"p00": "a", "P00": "b"})


def test_patients_without_label_are_told(archive: dd.Catalog) -> None:
    split = dd.make_split(archive, 2, seed=3, stratify=dict.fromkeys(PATIENTS[1:], "ill"))

    (finding,) = split.findings
    assert finding.startswith("stratum_missing: 1 patients have no labels")
    assert finding.endswith("the first is p00")


def test_labels_of_nobody_are_refused(archive: dd.Catalog) -> None:
    with pytest.raises(dd.SplitError, match=r"1 labels \(the first of 'q'\) are of no series"):
        dd.make_split(archive, 2, seed=3, stratify={"Q": "ill"})


def test_stacks_are_balanced_by_columns_as_their_catalog_is(archive: dd.Catalog) -> None:
    plan = dd.plan_stacks(archive)

    split = dd.make_split(plan.stacks, 4, seed=3, stratify="manufacturer")

    assert split == dd.make_split(plan, 4, seed=3, stratify="manufacturer")


def test_a_patient_of_two_values_is_of_both(tmp_path: Path, planned: Planned) -> None:
    for number in range(4):
        write_case(
            tmp_path, "BOTH", name=f"both {number}", extra={"Manufacturer": MAKERS[number % 2]}
        )
        write_case(tmp_path, f"P{number}", extra={"Manufacturer": "GE"})

    split = dd.make_split(planned(tmp_path), 2, seed=0, stratify="manufacturer")

    assert {group.patients: group.stratum for group in split.groups}[("BOTH",)] == "GE + SIEMENS"


def test_a_column_that_is_none_is_refused(archive: dd.Catalog) -> None:
    with pytest.raises(dd.SplitError, match="no column 'colour': the columns are series_instance"):
        dd.make_split(archive, 2, seed=0, stratify="colour")


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"train": 0.8, "val": 0.1}, "expected a sum of 1, found 0.9"),
        ({"train": 1.0}, "expected two or more"),
        ({"train": 1.2, "val": -0.2}, "each above 0"),
        ({"train": float("nan"), "val": 1.0}, "each above 0"),
        ({"": 0.5, "val": 0.5}, "expected a name for each"),
        ({1: 0.5, "1": 0.5}, "expected different names"),
        (1, "1 folds: expected 2 or more"),
        (2.5, "expected a whole number"),
    ],
)
def test_shares_that_make_no_whole_are_refused(archive: dd.Catalog, parts: Any, told: str) -> None:
    with pytest.raises(dd.SplitError, match=told):
        dd.make_split(archive, parts, seed=0)


def test_a_part_without_patients_is_refused(archive: dd.Catalog) -> None:
    two = archive.select(patient_id=["P01", "P02"])

    with pytest.raises(dd.SplitError, match=r"2 patients leave .* empty"):
        dd.make_split(two, SHARES, seed=0)
    with pytest.raises(dd.SplitError, match="no case to split"):
        dd.make_split(archive.select(patient_id="NOBODY"), SHARES, seed=0)


@pytest.mark.parametrize("balanced", [True, False])
def test_a_tenth_of_five_patients_is_nobody_and_refused(
    archive: dd.Catalog, *, balanced: bool
) -> None:
    five = archive.select(patient_id=PATIENTS[:5])
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}

    with pytest.raises(
        dd.SplitError, match=r"5 patients leave (val, )?test empty \(train [45], val"
    ):
        dd.make_split(five, shares, seed=0, balanced=balanced)


def test_a_seed_is_a_whole_number(archive: dd.Catalog, tmp_path: Path) -> None:
    split = dd.make_split(archive, 2, seed=np.int64(7))  # type: ignore[arg-type]

    split.save(tmp_path / "split.json")

    assert dd.Split.load(tmp_path / "split.json") == dd.make_split(archive, 2, seed=7)
    for seed in ("7", 7.0):
        with pytest.raises(dd.SplitError, match="expected a whole number"):
            dd.make_split(archive, 2, seed=seed)  # type: ignore[arg-type]


def test_folds_are_held_out_one_by_one(archive: dd.Catalog) -> None:
    plan = dd.plan_stacks(archive)
    split = dd.make_split(plan, 4, seed=0, balanced=True)

    held_out = [
        {stack.patient_id for stack in split.fold(fold).stacks(plan, "val")} for fold in range(4)
    ]

    assert sorted(patient for fold in held_out for patient in fold) == PATIENTS
    for fold, held in enumerate(held_out):
        trained = {stack.patient_id for stack in split.fold(fold).stacks(plan, "train")}
        assert trained | held == set(PATIENTS)
        assert not trained & held
    with pytest.raises(dd.SplitError, match="no fold 4 in the split: it has 0, 1, 2, 3"):
        split.fold(4)


# --- whose cases they are -------------------------------------------------------------------------


def test_patient_ids_that_differ_in_case_and_spaces_are_one(
    tmp_path: Path, planned: Planned
) -> None:
    for number, patient in enumerate(["ab 1", "AB 1", "Ab  1 ", "C", "D", "E"]):
        write_case(tmp_path, patient, name=f"case {number}")

    split = dd.make_split(planned(tmp_path), 2, seed=0, balanced=True)

    parts = part_of_patient(split)
    assert len({parts["ab 1"], parts["AB 1"], parts["Ab  1"]}) == 1
    assert split.findings[0].startswith("patient_spelling: 1 groups")


def test_series_without_patient_are_refused_unless_each_study_is_to_be_one(
    tmp_path: Path, planned: Planned
) -> None:
    for number in range(6):
        write_case(tmp_path, "", name=f"case {number}")
    plan = planned(tmp_path)

    with pytest.raises(dd.SplitError, match=r"6 series have no Patient ID \(0010,0020\)"):
        dd.make_split(plan, 2, seed=0, balanced=True)

    split = dd.make_split(plan, 2, seed=0, balanced=True, missing_patient="study")
    assert split.counts() == {"0": (3, 3), "1": (3, 3)}
    assert split.findings[0].startswith("patient_missing: 6 series have no Patient ID")


def test_one_patient_id_for_everybody_is_named_as_the_cause(
    tmp_path: Path, planned: Planned
) -> None:
    for number in range(4):
        write_case(tmp_path, "ANON", name=f"case {number}")
    plan = planned(tmp_path)

    with pytest.raises(dd.SplitError, match=r"1 patients leave .* empty") as caught:
        dd.make_split(plan, 2, seed=0)
    assert "'ANON' is that of 4 series in 4 studies" in str(caught.value)
    assert "--anonymous ANON --missing-patient study" in str(caught.value)
    with pytest.raises(dd.SplitError, match="4 series have no Patient ID"):
        dd.make_split(plan, 2, seed=0, anonymous=["ANON"])
    with pytest.raises(dd.SplitError, match=r"expected Patient IDs, \['ANON'\]"):
        dd.make_split(plan, 2, seed=0, anonymous="ANON")


def test_a_patient_id_of_nobody_is_none(tmp_path: Path, planned: Planned) -> None:
    studies = [phantom_uid("study", number) for number in range(3)]
    for number in range(6):
        study = studies[number // 2]
        write_case(tmp_path, "Anon ", name=f"case {number}", study_instance_uid=study)
    write_case(tmp_path, "P1")
    how: Any = {"balanced": True, "anonymous": ["ANON", "0"], "missing_patient": "study"}

    split = dd.make_split(planned(tmp_path), 2, seed=0, **how)

    split.save(tmp_path / "split.json")
    split = dd.Split.load(tmp_path / "split.json")
    assert split.anonymous == ("0", "ANON")
    assert split.counts() in ({"0": (2, 4), "1": (2, 3)}, {"0": (2, 3), "1": (2, 4)})
    assert "anonymous_unknown: no case has the Patient ID '0'" in split.findings
    parts = {part: split.stacks(planned(tmp_path), part) for part in split.parts}
    assert [len({stack.study_instance_uid for stack in each}) for each in parts.values()] == [2, 2]
    assert dd.audit_split(parts, pixels=False, anonymous=split.anonymous).clean
    assert not dd.audit_split(parts, pixels=False).clean
    # Who is there keeps the part when others come.
    write_case(tmp_path, "ANON", name="another")
    with pytest.raises(dd.SplitError, match="1 series of unknown patients came"):
        split.stacks(planned(tmp_path), "0")
    grown = dd.make_split(
        planned(tmp_path), 2, seed=0, balanced=True, missing_patient="study", previous=split
    )
    assert all(grown.part_of(stack) == part for part, each in parts.items() for stack in each)
    assert grown.anonymous == split.anonymous


def test_a_study_tells_whose_a_series_without_patient_is(tmp_path: Path, planned: Planned) -> None:
    study = phantom_uid("common")
    write_case(tmp_path, "A", name="named", study_instance_uid=study)
    write_case(tmp_path, "", name="unnamed", study_instance_uid=study)
    write_case(tmp_path, "B")
    plan = planned(tmp_path)

    for seed in range(9):
        split = dd.make_split(plan, 2, seed=seed, balanced=True)
        parts = {split.part_of(stack) for stack in plan.stacks if stack.study_instance_uid == study}
        assert len(parts) == 1


def test_patients_of_one_study_stay_together(tmp_path: Path, planned: Planned) -> None:
    study = phantom_uid("common")
    for patient in ("A", "B"):
        write_case(tmp_path, patient, study_instance_uid=study)
    write_case(tmp_path, "C")

    split = dd.make_split(planned(tmp_path), 2, seed=0, balanced=True)

    assert {group.patients for group in split.groups} == {("A", "B"), ("C",)}
    assert "patients_joined: 1 groups have more than one Patient ID" in split.findings[0]


def test_patients_of_one_series_uid_stay_together(tmp_path: Path, planned: Planned) -> None:
    # Only some of the UIDs were replaced when a copy was made anonymous.
    write_case(tmp_path, "JOHN")
    write_case(tmp_path, "ANON", series_instance_uid=phantom_uid("JOHN", "series"))
    write_case(tmp_path, "C")

    split = dd.make_split(planned(tmp_path), 2, seed=0, balanced=True)

    assert {group.patients for group in split.groups} == {("ANON", "JOHN"), ("C",)}


def test_one_patient_id_of_two_hospitals_is_one_patient_and_told(
    tmp_path: Path, planned: Planned
) -> None:
    for number, hospital in enumerate(["NORTH", "SOUTH", "NORTH"]):
        patient = ("1", "1", "2")[number]
        extra = {"IssuerOfPatientID": hospital}
        write_case(tmp_path, patient, name=f"case {number}", extra=extra)
    plan = planned(tmp_path, keep=["IssuerOfPatientID"])

    split = dd.make_split(plan, 2, seed=0, balanced=True)

    assert [len(group.series) for group in split.groups] == [2, 1]
    (finding,) = split.findings
    assert finding.startswith("patient_issuers: 1 Patient IDs were given by several issuers")
    assert finding.endswith("1 of NORTH and SOUTH")


def test_whoever_is_said_to_be_another_and_is_not_there_is_told(archive: dd.Catalog) -> None:
    split = dd.make_split(archive, 2, seed=0, same={"P01": "P99", "P02": "p03 "})

    assert split.findings[0] == (
        "same_unknown: 1 Patient IDs said to be others' are of no case: 'P99'"
    )
    assert part_of_patient(split)["P02"] == part_of_patient(split)["P03"]


def test_who_turns_out_to_be_one_patient_cannot_stay_in_two_parts(archive: dd.Catalog) -> None:
    split = dd.make_split(archive, 2, seed=0, balanced=True)
    parts = part_of_patient(split)
    other = next(patient for patient in PATIENTS if parts[patient] != parts["P00"])

    with pytest.raises(dd.SplitError, match=r"P00.*belong together now.*has them in 0 and 1"):
        dd.make_split(archive, 2, seed=0, balanced=True, same={other: "P00"}, previous=split)

    joined = dd.make_split(archive, 2, seed=0, balanced=True, same={other: "P00"})
    assert len({part_of_patient(joined)[patient] for patient in (other, "P00")}) == 1


# --- the file -------------------------------------------------------------------------------------


def test_a_split_is_what_was_saved(archive: dd.Catalog, tmp_path: Path) -> None:
    split = dd.make_split(archive, SHARES, seed=5, stratify="manufacturer", same={"P01": "P02"})

    split.save(tmp_path / "split.json")
    loaded = dd.Split.load(tmp_path / "split.json")

    assert loaded == split == pickle.loads(pickle.dumps(split))
    assert loaded.fingerprint == split.fingerprint
    lines = (tmp_path / "split.json").read_text().splitlines()
    assert sum('"patients": ["P03"]' in line for line in lines) == 1


def test_a_file_that_was_changed_so_that_it_leaks_is_refused(
    archive: dd.Catalog, tmp_path: Path
) -> None:
    path = tmp_path / "split.json"
    dd.make_split(archive, 2, seed=5).save(path)
    document = json.loads(path.read_text())
    group = document["groups"][0]
    document["groups"].append({**group, "part": "1" if group["part"] == "0" else "0"})
    path.write_text(json.dumps(document))

    with pytest.raises(dd.SplitError, match=r"split\.json: patient p00 is in . and in .: it would"):
        dd.Split.load(path)


def change_group(document: Any, **changes: Any) -> None:
    document["groups"][0].update(changes)


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "a patient went over": (
        lambda it: change_group(it, part=str(1 - int(it["groups"][0]["part"]))),
        "who is where is not as it was written: that had the fingerprint .* write that into",
    ),
    "a line is lost": (lambda it: it["groups"].pop(), "who is where is not as it was written"),
    "another fingerprint": (lambda it: it.update(fingerprint="0"), "had the fingerprint 0, this"),
    "no fingerprint": (lambda it: it.pop("fingerprint"), "it lacks 'fingerprint'"),
    "no seed": (lambda it: it.pop("seed"), "it lacks 'seed'"),
    "no studies": (lambda it: it["groups"][0].pop("studies"), "it lacks 'studies'"),
    "a word for a list": (lambda it: change_group(it, patients="P10"), "which is no list"),
    "a number for a name": (lambda it: change_group(it, patients=[10]), "else than names"),
    "a word for a truth": (lambda it: it.update(balanced="no"), "which is no bool"),
    "another policy": (lambda it: it.update(missing_patient="guess"), "expected 'refuse' or 'st"),
    "a part that is none": (lambda it: change_group(it, part="9"), "are in no part: '9'"),
    "shares of nothing": (lambda it: it.update(shares={"0": 0.5}), "expected two or more"),
    "half a pair": (lambda it: it.update(same=["A", 1]), "not a split"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_that_is_not_as_it_was_written_is_refused(
    archive: dd.Catalog, tmp_path: Path, what: str
) -> None:
    path, (change, told) = tmp_path / "split.json", CHANGES[what]
    dd.make_split(archive, 2, seed=5).save(path)
    document = json.loads(path.read_text())

    change(document)

    path.write_text(json.dumps(document))
    with pytest.raises(dd.SplitError, match=rf"split\.json: .*{told}"):
        dd.Split.load(path)


@pytest.mark.parametrize("data", [bytes(range(128, 256)), b"[" * 10**5, b"\0" * 9])
def test_what_is_no_text_is_no_split(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "split.json").write_bytes(data)

    with pytest.raises(dd.SplitError, match=r"split\.json: not a split"):
        dd.Split.load(tmp_path / "split.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "dicomdata split 9"}', "a: 1"])
def test_what_is_no_split_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "split.json").write_text(text)

    with pytest.raises(dd.SplitError, match=r"split\.json: not a split"):
        dd.Split.load(tmp_path / "split.json")
    with pytest.raises(dd.FileError, match="cannot be read"):
        dd.Split.load(tmp_path / "none.json")


def test_a_split_of_other_shares_is_not_taken_up(archive: dd.Catalog) -> None:
    split = dd.make_split(archive, 2, seed=5)

    with pytest.raises(dd.SplitError, match="the earlier split has the shares"):
        dd.make_split(archive, 3, seed=5, previous=split)
    with pytest.raises(dd.SplitError, match="the earlier split has the seed 5, and not 6"):
        dd.make_split(archive, 2, seed=6, previous=split)


# --- catalogs that change -------------------------------------------------------------------------


def test_cases_that_came_or_went_are_told(tmp_path: Path, planned: Planned) -> None:
    for patient in "ABCDEF":
        write_case(tmp_path / "archive", patient)
    plan = planned(tmp_path / "archive")
    split = dd.make_split(plan, 2, seed=0, balanced=True)
    for path in (tmp_path / "archive" / "B").iterdir():
        path.unlink()
    write_case(tmp_path / "archive", "A", name="A again")
    write_case(tmp_path / "archive", "NEW")
    changed = planned(tmp_path / "archive")

    changes = split.changes(changed)

    uids = {name: phantom_uid(name, "series") for name in ("A again", "NEW", "B")}
    assert changes == dd.SplitChanges((uids["A again"],), (uids["NEW"],), (uids["B"],))
    with pytest.raises(
        dd.SplitError, match=r"1 series of unknown patients came.*1 series are gone"
    ):
        split.stacks(changed, "0")
    with pytest.warns(dd.DicomDataWarning, match="1 series of known patients came"):
        stacks = [
            *split.stacks(changed, "0", changed="warn"),
            *split.stacks(changed, "1", changed="ignore"),
        ]
    assert {stack.patient_id for stack in stacks} == set("ACDEF")
    assert not split.changes(plan)


def test_series_that_change_hands_are_told(tmp_path: Path, planned: Planned) -> None:
    for patient in "ABCD":
        write_case(tmp_path / "before", patient)
        write_case(tmp_path / "after", "E" if patient == "A" else patient, name=patient)
    split = dd.make_split(planned(tmp_path / "before"), 2, seed=0, balanced=True)
    after = planned(tmp_path / "after")

    changes = split.changes(after)

    assert changes == dd.SplitChanges(renamed=True)
    with pytest.raises(dd.SplitError, match="series have other Patient IDs or Study Instance UID"):
        split.stacks(after, "0")


def test_a_series_that_changed_hands_is_told_in_a_selection_too(
    tmp_path: Path, planned: Planned
) -> None:
    for patient in "ABCD":
        write_case(tmp_path / "before", patient)
        write_case(tmp_path / "after", "E" if patient == "A" else patient, name=patient)
    split = dd.make_split(planned(tmp_path / "before"), 2, seed=0, balanced=True)
    after = planned(tmp_path / "after")

    moved = [stack for stack in after.stacks if stack.patient_id == "E"]
    others = [stack for stack in after.stacks if stack.patient_id != "E"]

    assert split.changes(moved).renamed
    assert not split.changes(others)
    # Whoever it is said to be now, it is in the part that it was in.
    assert split.part_of(moved[0]) == part_of_patient(split)["A"]


def test_a_part_of_which_no_stack_is_planned_is_told(archive: dd.Catalog) -> None:
    split = dd.make_split(archive, 2, seed=0)
    held_out = [patient for patient, part in part_of_patient(split).items() if part == "1"]
    plan = dd.plan_stacks(archive.select(patient_id=held_out))

    with pytest.warns(dd.DicomDataWarning, match="part '0' has no stack in the plan"):
        assert split.stacks(plan, "0") == ()
    assert split.stacks(plan, "0", changed="ignore") == ()


def test_what_a_selection_leaves_out_is_not_missing(archive: dd.Catalog) -> None:
    split = dd.make_split(archive, 2, seed=0)
    plan = dd.plan_stacks(archive.select(manufacturer="GE"))

    stacks = [stack for part in split.parts for stack in split.stacks(plan, part)]

    assert len(stacks) == 9
    assert split.stacks(plan.stacks, "0") == split.stacks(plan, "0")


def test_a_part_that_is_none_is_refused(archive: dd.Catalog) -> None:
    split = dd.make_split(archive, SHARES, seed=0)

    with pytest.raises(dd.SplitError, match="no part 'valid' in the split: it has train, val, te"):
        split.stacks(dd.plan_stacks(archive), "valid")


# --- what leaks -----------------------------------------------------------------------------------


def audited(plan: dd.StackPlan, *names: tuple[str, ...], **options: Any) -> dd.Audit:
    """Compare parts that are given as lists of patients."""
    parts = {
        str(number): [stack for stack in plan.stacks if stack.patient_id in patients]
        for number, patients in enumerate(names)
    }
    return dd.audit_split(parts, progress=False, **options)


def test_a_patient_and_a_study_on_both_sides_are_found(archive: dd.Catalog) -> None:
    plan = dd.plan_stacks(archive)
    first, second = (stack for stack in plan.stacks if stack.patient_id == "P00")

    audit = dd.audit_split({"train": [first], "test": [second]}, pixels=False)
    twice = dd.audit_split({"train": [first], "test": [first]}, pixels=False)

    assert [leak.kind for leak in audit.leaks] == ["patient"]
    assert str(audit.leaks[0]) == "patient p00 is in train and in test"
    assert [leak.kind for leak in twice.leaks] == ["patient", "study", "series"]


def test_nothing_leaks_from_a_split(archive: dd.Catalog) -> None:
    plan = dd.plan_stacks(archive)
    split = dd.make_split(plan, SHARES, seed=0, balanced=True)

    audit = dd.audit_split({part: split.stacks(plan, part) for part in split.parts})

    assert audit.clean
    assert audit.frames == 50


COPIES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "implicit VR": {"transfer_syntax_uid": uid.ImplicitVRLittleEndian},
    "big endian": {"transfer_syntax_uid": uid.ExplicitVRBigEndian},
    "RLE": {"transfer_syntax_uid": uid.RLELossless},
    "deflated": {"transfer_syntax_uid": uid.DeflatedExplicitVRLittleEndian},
    "moved": {"origin": (0.0, 0.0, 0.0)},
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_under_another_name_is_found(tmp_path: Path, planned: Planned, how: str) -> None:
    words = np.random.default_rng(1).integers(0, 2**12, (3, 40, 24)).astype(np.uint16)
    write_series(tmp_path / "a", stored=words, patient_id="JOHN", seed="john")
    write_series(tmp_path / "b", stored=words, patient_id="ANON", seed="anon", **COPIES[how])
    write_case(tmp_path, "OTHER")

    audit = audited(planned(tmp_path), ("JOHN",), ("ANON", "OTHER"))

    (leak,) = audit.leaks
    assert (leak.kind, leak.frames, leak.patients) == ("pixels", 3, ("JOHN", "ANON"))
    assert not audit.clean


def test_a_copy_of_some_slices_with_another_intercept_is_found(
    tmp_path: Path, planned: Planned
) -> None:
    words = np.random.default_rng(1).integers(1024, 2**12, (5, 40, 24)).astype(np.int16)
    write_series(tmp_path / "a", stored=words, patient_id="JOHN", seed="john")
    shifted = words[1:4] - 1024
    write_series(tmp_path / "b", stored=shifted, intercept="0", patient_id="ANON", seed="anon")

    audit = audited(planned(tmp_path), ("JOHN",), ("ANON",))

    assert [leak.frames for leak in audit.leaks] == [3]


def test_frames_that_agree_in_the_middle_only_are_no_copy(tmp_path: Path, planned: Planned) -> None:
    words = np.random.default_rng(1).integers(0, 2**12, (3, 40, 24)).astype(np.uint16)
    other = words.copy()
    other[:, 0, 0] += 1
    write_series(tmp_path / "a", stored=words, patient_id="A", seed="a")
    write_series(tmp_path / "b", stored=other, patient_id="B", seed="b")

    assert audited(planned(tmp_path), ("A",), ("B",)).clean


def test_frames_that_many_share_are_told_once_for_each_of_them(
    tmp_path: Path, planned: Planned
) -> None:
    # A page that says "not for diagnosis" in each of 40 series: 400 pairs of parts.
    page = np.random.default_rng(1).integers(0, 2**12, (24, 24))
    for number in range(40):
        noise = np.random.default_rng(number + 2).integers(0, 2**12, (2, 24, 24))
        noise[1] = page
        name = f"P{number:02}"
        write_series(tmp_path / name, stored=noise.astype("u2"), patient_id=name, seed=name)
    names = [f"P{number:02}" for number in range(40)]

    audit = audited(planned(tmp_path), tuple(names[:20]), tuple(names[20:]))

    assert {leak.frames for leak in audit.leaks} == {1}
    assert {patient for leak in audit.leaks for patient in leak.patients} == set(names)
    assert len(audit.leaks) == 39


def test_one_series_uid_on_both_sides_is_found(tmp_path: Path, planned: Planned) -> None:
    write_case(tmp_path, "A")
    write_case(tmp_path, "B", series_instance_uid=phantom_uid("A", "series"))

    audit = audited(planned(tmp_path), ("A",), ("B",), pixels=False)

    assert [(leak.kind, leak.patients) for leak in audit.leaks] == [("series", ("A", "B"))]


def test_a_turned_copy_is_not_found_and_the_docs_say_so(tmp_path: Path, planned: Planned) -> None:
    words = np.random.default_rng(1).integers(0, 2**12, (2, 24, 24)).astype(np.uint16)
    write_series(tmp_path / "a", stored=words, patient_id="A", seed="a")
    write_series(tmp_path / "b", stored=words[:, ::-1].copy(), patient_id="B", seed="b")

    assert audited(planned(tmp_path), ("A",), ("B",)).clean


def test_blank_frames_are_nobodys(tmp_path: Path, planned: Planned) -> None:
    for patient in "AB":
        words = ramp((3, 40, 24)) + ord(patient) * np.arange(24, dtype=np.uint16)
        words[1] = 7
        write_series(tmp_path / patient, stored=words, patient_id=patient, seed=patient)

    audit = audited(planned(tmp_path), ("A",), ("B",))

    assert audit.clean
    assert (audit.frames, audit.blank) == (6, 2)


def test_a_band_of_air_does_not_hide_a_copy(tmp_path: Path, planned: Planned) -> None:
    words = np.zeros((2, 40, 24), np.uint16)
    words[:, :4] = np.random.default_rng(1).integers(0, 2**12, (2, 4, 24))
    for patient in "AB":
        write_series(tmp_path / patient, stored=words, patient_id=patient, seed=patient)

    assert [leak.frames for leak in audited(planned(tmp_path), ("A",), ("B",)).leaks] == [2]


@pytest.mark.unaccounted
def test_a_stack_that_cannot_be_read_is_told_and_not_called_clean(
    tmp_path: Path, planned: Planned
) -> None:
    write_case(tmp_path, "A")
    (path, *_) = write_case(tmp_path, "B")
    plan = planned(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])

    audit = audited(plan, ("A",), ("B",))

    assert not audit.clean
    assert [type(left.error) for left in audit.rejected] == [dd.StaleError]


# --- files that stand where stacks stand ----------------------------------------------------------


def test_volume_files_are_split_and_compared_too(tmp_path: Path, planned: Planned) -> None:
    for number in range(4):
        write_case(tmp_path / "archive", f"P{number}")
    stacks = planned(tmp_path / "archive").stacks
    files = []
    for number, stack in enumerate(stacks):
        path = tmp_path / f"case {number}{('.nii.gz', '.mha')[number % 2]}"
        dd.write_volume(path, dd.read_volume(stack))
        files.append(dd.open_volume(path, patient_id=f"anonymous {number}"))

    split = dd.make_split(files, 2, seed=0, balanced=True)
    parts = {part: split.stacks(files, part) for part in split.parts}
    clean = dd.audit_split(parts, progress=False)
    audit = dd.audit_split({"dicom": stacks, "files": files[:1]}, progress=False)

    assert [len(part) for part in parts.values()] == [2, 2]
    assert clean.clean
    assert clean.frames == 8
    assert [(leak.kind, leak.frames) for leak in audit.leaks] == [("pixels", 2)]
    assert audit.leaks[0].patients == (stacks[0].patient_id, "anonymous 0")


# --- the command ----------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["split", *map(str, arguments)])


def test_the_command_writes_a_split_and_takes_it_up(archive: dd.Catalog, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    ratio = ("--ratio", "train=.5,val=.25,test=.25", "--seed", 3, "--stratify", "manufacturer")

    first = run(archive.path, *ratio, "-o", path, "--where", "manufacturer=GE")
    few = dd.Split.load(path)
    second = run(archive.path, "-o", path)

    assert (first.exit_code, first.stderr) == (0, "")
    assert (second.exit_code, second.stderr) == (0, "")
    assert "part   patients  series  share  wanted  GE  PHILIPS  SIEMENS" in second.stdout
    assert "24 patients in" in second.stdout
    many = dd.Split.load(path)
    assert part_of_patient(few).items() <= part_of_patient(many).items()
    assert (many.seed, many.parts, many.stratify) == (3, ("train", "val", "test"), "manufacturer")


def test_the_command_makes_folds_and_speaks_json(archive: dd.Catalog, tmp_path: Path) -> None:
    path = tmp_path / "folds.json"

    result = run(archive.path, "--folds", 4, "--balanced", "--seed", 1, "-o", path, "--json")

    told = json.loads(result.stdout)
    assert {part: row["patients"] for part, row in told["parts"].items()} == dict.fromkeys(
        "0123", 6
    )
    assert told["fingerprint"] == dd.Split.load(path).fingerprint


def test_the_command_writes_nothing_that_leaks(tmp_path: Path) -> None:
    words = np.random.default_rng(1).integers(0, 2**12, (3, 24, 24)).astype(np.uint16)
    for patient in ("JOHN", "ANON"):
        write_series(tmp_path / "a" / patient, stored=words, patient_id=patient, seed=patient)
    write_case(tmp_path / "a", "OTHER")
    path = tmp_path / "split.json"
    options = ("--balanced", "--seed", 0, "-o", path)

    leaking = run(tmp_path / "a", "--folds", 3, *options)
    assert leaking.exit_code == 2
    assert "3 frames of patient" in leaking.stderr
    assert "--same" in leaking.stderr
    assert not path.exists()

    joined = run(tmp_path / "a", "--folds", 2, *options, "--same", "ANON=JOHN")
    assert joined.exit_code == 0
    parts = part_of_patient(dd.Split.load(path))
    assert parts["ANON"] == parts["JOHN"] != parts["OTHER"]


def test_the_command_balances_labels_of_a_table(archive: dd.Catalog, tmp_path: Path) -> None:
    path, table = tmp_path / "split.json", tmp_path / "cases.csv"
    rows = [f"{patient},{number % 2}" for number, patient in enumerate(PATIENTS)]
    table.write_text("\n".join(["PatientID,grade", *rows]))
    labels = ("--labels", table, "--stratify", "grade")

    result = run(archive.path, "--folds", 4, "--seed", 1, "-o", path, *labels)
    again = run(archive.path, "-o", path, *labels)

    assert (result.exit_code, again.exit_code) == (0, 0)
    strata = Counter((group.part, group.stratum) for group in dd.Split.load(path).groups)
    assert strata == {(fold, grade): 3 for fold in "0123" for grade in "01"}
    assert "expected --labels and --stratify" in run(archive.path, "-o", path).stderr
    assert "expected --stratify" in run(archive.path, "-o", path, "--labels", table).stderr


def test_the_command_splits_by_study_where_patients_have_one_id(tmp_path: Path) -> None:
    for number in range(4):
        write_case(tmp_path / "archive", "ANON", name=f"case {number}")
    made = ("--folds", 2, "--balanced", "--seed", 1, "-o", tmp_path / "split.json")

    refused = run(tmp_path / "archive", *made)
    result = run(tmp_path / "archive", *made, "--anonymous", "ANON", "--missing-patient", "study")

    assert "--anonymous ANON --missing-patient study" in refused.stderr
    assert (refused.exit_code, result.exit_code) == (2, 0)
    assert "though two may be of one" in result.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--seed", 1), "expected --ratio NAME=SHARE"),
        (("--folds", 2), "expected --seed S"),
        (("--folds", 2, "--ratio", "a=.5,b=.5", "--seed", 1), "expected one of them"),
        (("--ratio", "train", "--seed", 1), "expected NAME=SHARE"),
        (("--ratio", "a=.5,a=.5", "--seed", 1), "a comes twice"),
        (("--ratio", "train=.5,val=.4", "--seed", 1), "expected a sum of 1, found 0.9"),
        (("--folds", 2, "--seed", 1, "--same", "A"), "expected two Patient IDs"),
        (("--folds", 2, "--seed", 1, "--missing-patient", "guess"), "expected refuse or study"),
    ],
)
def test_the_command_says_what_it_lacks(
    archive: dd.Catalog, tmp_path: Path, options: tuple[object, ...], told: str
) -> None:
    result = run(archive.path, *options, "-o", tmp_path / "split.json")

    assert result.exit_code == 2
    assert told in result.stderr
    assert not (tmp_path / "split.json").exists()


def test_the_command_overwrites_nothing_but_splits(archive: dd.Catalog, tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")

    result = run(archive.path, "--folds", 2, "--seed", 1, "-o", tmp_path / "notes.json")

    assert result.exit_code == 2
    assert (tmp_path / "notes.json").read_text() == "{}"


def test_the_command_writes_a_line_for_every_volume(archive: dd.Catalog, tmp_path: Path) -> None:
    path, table = tmp_path / "split.json", tmp_path / "parts.csv"

    result = run(archive.path, "--folds", 4, "--balanced", "--seed", 1, "-o", path, "--csv", table)

    assert result.exit_code == 0
    split, stacks = dd.Split.load(path), dd.plan_stacks(archive).stacks
    with table.open(newline="") as file:
        rows = {row["stack"]: row for row in csv.DictReader(file)}
    assert {name: row["part"] for name, row in rows.items()} == {
        stack.id: split.part_of(stack) for stack in stacks
    }
    assert {row["patient_id"] for row in rows.values()} == set(PATIENTS)


def test_the_command_looks_for_its_folders_first(tmp_path: Path) -> None:
    # There is no archive either, but that would be found by reading it.
    result = run(tmp_path, "--folds", 2, "--seed", 1, "-o", tmp_path / "none" / "split.json")

    assert result.exit_code == 2
    assert "split.json: cannot be written" in result.stderr


def test_the_command_says_which_split_it_takes_up(archive: dd.Catalog, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    run(archive.path, "--folds", 4, "--balanced", "--seed", 1, "-o", path)
    written = path.read_text()

    result = run(archive.path, "--folds", 3, "-o", path)

    assert result.exit_code == 2
    assert "split.json is there and is taken up: the earlier split has the shares" in result.stderr
    assert path.read_text() == written

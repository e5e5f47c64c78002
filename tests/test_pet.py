"""PET from files: standardised uptake values, what they need, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

import dicomdata as dd
from dicomdata.catalog.schema import kind_from_json, kind_to_json
from dicomdata.testing.enhanced import write_enhanced
from dicomdata.testing.phantoms import Each, write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Planned = Callable[..., dd.StackPlan]

NATIVE = (
    uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)  # fmt: skip

EMISSION: dict[str, Any] = {"modality": "PT", "slope": 2, "intercept": 0}


def refusal(plan: dd.StackPlan) -> str:
    assert plan.stacks == ()
    (reason,) = {row.reason for row in plan.outcomes}
    return reason


INJECTION = {
    "RadiopharmaceuticalStartTime": "090000",
    "RadionuclideTotalDose": "370000000",
    "RadionuclideHalfLife": "6586.2",
}

HEADER = {
    "Units": "BQML", "DecayCorrection": "START", "CorrectedImage": ("DECY", "ATTN", "SCAT"),
    "SeriesDate": "20260305", "SeriesTime": "100000", "AcquisitionDate": "20260305",
    "AcquisitionTime": "100000", "PatientWeight": "70", "PatientSize": "1.75", "PatientSex": "M",
}  # fmt: skip

START, ADMIN = 2.76336682, 1.89189189
"""SUVbw of 10 000 Bq/ml by hand: 10 000 x 70 000 g / (370 MBq x 2^(-3600 s / 6586.2 s)), and
without decay."""


def injection(*items: dict[str, Any]) -> DataElement:
    """A Radiopharmaceutical Information Sequence."""
    sequence = []
    for item in items:
        content = Dataset()
        for keyword, value in item.items():
            if value is not None:
                vr = dictionary_VR(keyword)
                content[keyword] = DataElement(keyword, vr, value, already_converted=True)
        sequence.append(content)
    return DataElement("RadiopharmaceuticalInformationSequence", "SQ", Sequence(sequence))


def write_pet(
    folder: Path, drug: dict[str, Any] | None = None, *, slices: int = 1, **header: Any
) -> list[Path]:
    """Slices of 10 000 in Bq/ml: 5000 stored, at a slope of 2."""
    extra = {**HEADER, **header}
    extra["RadiopharmaceuticalInformationSequence"] = injection({**INJECTION, **(drug or {})})
    stored = np.full((slices, 1, 1), 5000, "u2")
    return write_series(folder, stored=stored, extra=extra, **EMISSION)


def uptake_of(folder: Path, planned: Planned, unit: str = "SUVbw") -> list[float]:
    (stack,) = planned(folder, dd.Policy(pet_unit=unit)).stacks  # type: ignore[arg-type]
    volume = dd.read_volume(stack)
    assert volume.unit == stack.unit == unit
    values: list[float] = volume.voxels[:, 0, 0].tolist()
    return values


def test_by_default_a_pet_comes_in_the_units_it_says(tmp_path: Path, planned: Planned) -> None:
    write_pet(tmp_path)

    (stack,) = planned(tmp_path).stacks
    volume = dd.read_volume(stack)

    assert (volume.unit, volume.voxels.item()) == ("BQML", 10_000)


@pytest.mark.parametrize("syntax", NATIVE)
def test_uptake_is_activity_by_body_weight_and_dose(
    syntax: str, tmp_path: Path, planned: Planned
) -> None:
    # R22.
    extra = {**HEADER, "RadiopharmaceuticalInformationSequence": injection(INJECTION)}
    stored = np.full((1, 1, 1), 5000, "u2")
    write_series(tmp_path, stored=stored, extra=extra, transfer_syntax_uid=syntax, **EMISSION)

    assert uptake_of(tmp_path, planned) == pytest.approx([START], rel=1e-6)


def test_corrections_that_are_not_told_are_a_finding(tmp_path: Path, planned: Planned) -> None:
    write_pet(tmp_path, CorrectedImage=None)

    (stack,) = planned(tmp_path, dd.Policy(pet_unit="SUVbw")).stacks
    (untold,) = planned(tmp_path).stacks

    assert "corrections_missing" in {finding.kind for finding in stack.findings}
    assert "corrections_missing" not in {finding.kind for finding in untold.findings}
    assert uptake_of(tmp_path, planned) == pytest.approx([START], rel=1e-6)


def test_a_dose_that_pixels_are_corrected_to_does_not_decay(
    tmp_path: Path, planned: Planned
) -> None:
    write_pet(tmp_path, DecayCorrection="ADMIN", SeriesTime=None, AcquisitionTime=None)

    assert uptake_of(tmp_path, planned) == pytest.approx([ADMIN], rel=1e-6)


def test_all_slices_of_one_series_have_one_moment(tmp_path: Path, planned: Planned) -> None:
    # A whole body: beds are acquired one after the other, and corrected to the first.
    write_pet(tmp_path, slices=3, AcquisitionTime=Each("100000", "100300", "100600"))

    assert uptake_of(tmp_path, planned) == pytest.approx([START] * 3, rel=1e-6)


@pytest.mark.parametrize(
    "drug",
    [
        pytest.param({"RadiopharmaceuticalStartTime": "233000"}, id="a time of day"),
        pytest.param(
            {"RadiopharmaceuticalStartDateTime": "20260304233000.00",
             "RadiopharmaceuticalStartTime": None}, id="with its date",
        ),
        pytest.param(
            {"RadiopharmaceuticalStartDateTime": "20260304233000+0100",
             "RadiopharmaceuticalStartTime": "233000.00"}, id="both",
        ),
    ],
)  # fmt: skip
def test_an_injection_may_be_before_midnight(
    drug: dict[str, Any], tmp_path: Path, planned: Planned
) -> None:
    write_pet(tmp_path, drug, SeriesTime="003000", AcquisitionTime="003000")

    assert uptake_of(tmp_path, planned) == pytest.approx([START], rel=1e-6)


def test_an_injection_days_ago_needs_its_date(tmp_path: Path, planned: Planned) -> None:
    zirconium = {"RadionuclideHalfLife": "282240", "RadiopharmaceuticalStartTime": "090000"}
    dated = {**zirconium, "RadiopharmaceuticalStartDateTime": "20260302090000"}
    write_pet(tmp_path / "dated", dated)
    write_pet(tmp_path / "undated", zirconium)

    plan = planned(tmp_path / "undated", dd.Policy(pet_unit="SUVbw"))

    assert "(0018,1078)" in refusal(plan)
    decayed = ADMIN * 2 ** (73 * 3600 / 282240)
    assert uptake_of(tmp_path / "dated", planned) == pytest.approx([decayed], rel=1e-6)


def test_a_scan_may_begin_before_the_injection(tmp_path: Path, planned: Planned) -> None:
    write_pet(tmp_path, {"RadiopharmaceuticalStartTime": "100030"})

    earlier = ADMIN * 2 ** (-30 / 6586.2)
    assert uptake_of(tmp_path, planned) == pytest.approx([earlier], rel=1e-6)


# Series Time is when a series was made anew, hours later.


def test_a_series_made_anew_is_corrected_to_its_acquisition(
    tmp_path: Path, planned: Planned
) -> None:
    write_pet(tmp_path, slices=2, SeriesTime="173000")

    assert uptake_of(tmp_path, planned) == pytest.approx([START] * 2, rel=1e-6)


def test_ge_says_when_a_series_made_anew_was_scanned(tmp_path: Path, planned: Planned) -> None:
    write_pet(
        tmp_path, slices=2, SeriesTime="173000", AcquisitionTime=Each("100000", "100300"),
        creator=DataElement(0x00090010, "LO", "GEMS_PETD_01"),
        scanned=DataElement(0x0009100D, "DT", "20260305100000.00"),
    )  # fmt: skip

    assert uptake_of(tmp_path, planned) == pytest.approx([START] * 2, rel=1e-6)


def decay_factor(begin: float, duration: float) -> str:
    """What makes up for decay until a frame begins, and for the mean within it."""
    rate = np.log(2) / 6586.2
    return f"{np.exp(rate * begin) * rate * duration / -np.expm1(-rate * duration):.9f}"


def test_decay_factors_tell_what_a_series_made_anew_is_corrected_to(
    tmp_path: Path, planned: Planned
) -> None:
    write_pet(
        tmp_path, slices=2, SeriesTime="173000", AcquisitionTime=Each("100000", "100300"),
        DecayFactor=Each(decay_factor(0, 180), decay_factor(180, 180)),
        ActualFrameDuration="180000",
    )  # fmt: skip

    assert uptake_of(tmp_path, planned) == pytest.approx([START] * 2, rel=1e-6)


def test_a_series_time_that_decay_factors_contradict_is_refused(
    tmp_path: Path, planned: Planned
) -> None:
    write_pet(
        tmp_path, SeriesTime="094000", DecayFactor=decay_factor(0, 180),
        ActualFrameDuration="180000",
    )  # fmt: skip

    assert "(0054,1321)" in refusal(planned(tmp_path, dd.Policy(pet_unit="SUVbw")))


def test_decay_factors_that_agree_with_a_series_time_change_nothing(
    tmp_path: Path, planned: Planned
) -> None:
    write_pet(
        tmp_path, slices=2, AcquisitionTime=Each("100000", "100300"), ActualFrameDuration="180000",
        DecayFactor=Each(decay_factor(0, 180), decay_factor(180, 180)),
    )  # fmt: skip

    assert uptake_of(tmp_path, planned) == pytest.approx([START] * 2, rel=1e-6)


def test_a_series_time_of_midnight_is_not_believed(tmp_path: Path, planned: Planned) -> None:
    # As anonymisers leave it: an injection at 13:00 on the day before would be likely enough.
    write_pet(
        tmp_path, {"RadiopharmaceuticalStartTime": "130000"}, SeriesTime="000000",
        AcquisitionTime="140000",
    )  # fmt: skip

    assert "Series Time (0008,0031)" in refusal(planned(tmp_path, dd.Policy(pet_unit="SUVbw")))


def test_slices_that_are_corrected_to_several_moments_are_refused(
    tmp_path: Path, planned: Planned
) -> None:
    paths = write_pet(
        tmp_path, slices=2, SeriesTime="173000", AcquisitionTime=Each("100000", "100300")
    )

    reason = refusal(planned(tmp_path, dd.Policy(pet_unit="SUVbw")))

    assert str(paths[1]) in reason
    assert "another moment" in reason


def test_uncorrected_slices_decay_each_by_its_own_time(tmp_path: Path, planned: Planned) -> None:
    write_pet(
        tmp_path, slices=2, DecayCorrection="NONE", CorrectedImage="ATTN", SeriesTime="080000",
        AcquisitionTime=Each("100000", "104000"),
    )  # fmt: skip

    expected = [START, START * 2 ** (2400 / 6586.2)]
    assert uptake_of(tmp_path, planned) == pytest.approx(expected, rel=1e-6)


def test_uncorrected_pixels_are_means_over_their_frame(tmp_path: Path, planned: Planned) -> None:
    write_pet(tmp_path, DecayCorrection="NONE", CorrectedImage="ATTN", ActualFrameDuration="600000")

    factor = float(decay_factor(0, 600))
    assert uptake_of(tmp_path, planned) == pytest.approx([START * factor], rel=1e-6)


def test_each_slice_has_its_own_slope_in_uptake_too(tmp_path: Path, planned: Planned) -> None:
    extra = {**HEADER, "RadiopharmaceuticalInformationSequence": injection(INJECTION)}
    write_series(
        tmp_path, stored=np.full((2, 1, 1), 5000, "u2"), modality="PT", slope=Each(2, 1),
        intercept=0, extra=extra,
    )  # fmt: skip

    assert uptake_of(tmp_path, planned) == pytest.approx([START, START / 2], rel=1e-6)


# 80 kg and 1.80 m: James gives a man 88 - 120 (80/180)^2 = 64.296 kg; DuBois 1.9964 m2.


@pytest.mark.parametrize(
    ("unit", "header", "expected"),
    [
        pytest.param("SUVlbm", {}, 10 * 64.2962963 / 370, id="men"),
        pytest.param("SUVlbm", {"PatientSex": "F"}, 10 * 56.3654321 / 370, id="women"),
        pytest.param("SUVbsa", {"PatientSex": "O"}, 0.1 * 1.996421 / 370 * 1000, id="surface"),
    ],
)
def test_uptake_by_lean_mass_and_by_surface(
    unit: str, header: dict[str, Any], expected: float, tmp_path: Path, planned: Planned
) -> None:
    body = {"PatientWeight": "80", "PatientSize": "1.80", "DecayCorrection": "ADMIN"}
    write_pet(tmp_path, **{**body, **header})

    assert uptake_of(tmp_path, planned, unit) == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize(
    ("header", "unit", "factor"),
    [
        pytest.param({"Units": "GML"}, "SUVbw", 1, id="body weight unsaid"),
        pytest.param({"Units": "GML", "SUVType": "BW"}, "SUVbw", 1, id="body weight"),
        pytest.param({"Units": "GML", "SUVType": "LBM"}, "SUVlbm", 1, id="lean"),
        pytest.param({"Units": "GML"}, "SUVlbm", 64.2962963 / 80, id="weight to lean"),
        pytest.param({"Units": "GML", "SUVType": "LBM"}, "SUVbw", 80 / 64.2962963, id="back"),
        pytest.param({"Units": "CM2ML"}, "SUVbsa", 1, id="surface"),
        pytest.param(
            {"Units": "GML", "SUVType": "LBMJAMES128"}, "SUVbw", 80 / 62.7160494, id="James 128"
        ),
    ],
)
def test_a_series_in_uptake_is_taken_as_it_is_or_converted(
    header: dict[str, Any], unit: str, factor: float, tmp_path: Path, planned: Planned
) -> None:
    silent = dict.fromkeys(("CorrectedImage", "DecayCorrection", "SeriesTime"))
    write_pet(tmp_path, **{"PatientWeight": "80", "PatientSize": "1.80", **silent, **header})

    assert uptake_of(tmp_path, planned, unit) == pytest.approx([10_000 * factor], rel=1e-6)


PHILIPS = {"creator": DataElement(0x70530010, "LO", "Philips PET Private Group")}
SUV_FACTOR = {"suv": DataElement(0x70531000, "DS", "0.0005")}
ACTIVITY_FACTOR = {"activity": DataElement(0x70531009, "DS", "0.5")}


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        pytest.param({**PHILIPS, **SUV_FACTOR}, 5, id="to SUVbw"),
        pytest.param({**PHILIPS, **ACTIVITY_FACTOR}, START / 2, id="to Bq/ml"),
        pytest.param({**PHILIPS, **SUV_FACTOR, **ACTIVITY_FACTOR}, 5, id="both"),
    ],
)
def test_counts_of_philips_have_a_factor_of_their_own(
    elements: dict[str, Any], expected: float, tmp_path: Path, planned: Planned
) -> None:
    write_pet(tmp_path, Units="CNTS", **elements)

    assert uptake_of(tmp_path, planned) == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize(
    ("header", "drug", "element"),
    [
        pytest.param({"PatientWeight": None}, {}, "(0010,1030)", id="R23 no weight"),
        pytest.param({"PatientWeight": "0"}, {}, "(0010,1030)", id="R23 weight 0"),
        pytest.param({"PatientWeight": "70kg"}, {}, "(0010,1030)", id="weight in words"),
        pytest.param({"PatientWeight": "70000"}, {}, "(0010,1030)", id="weight in grams"),
        pytest.param({}, {"RadionuclideTotalDose": None}, "(0018,1074)", id="no dose"),
        pytest.param({}, {"RadionuclideTotalDose": "0"}, "(0018,1074)", id="dose 0"),
        pytest.param({}, {"RadionuclideTotalDose": "370"}, "(0018,1074)", id="dose in MBq"),
        pytest.param({}, {"RadionuclideTotalDose": "370000"}, "(0018,1074)", id="dose in kBq"),
        pytest.param({}, {"RadionuclideHalfLife": None}, "(0018,1075)", id="no half-life"),
        pytest.param({}, {"RadionuclideHalfLife": "0"}, "(0018,1075)", id="half-life 0"),
        pytest.param({}, {"RadionuclideHalfLife": "109.77"}, "(0018,1072)", id="in minutes"),
        pytest.param({}, {"RadiopharmaceuticalStartTime": None}, "(0018,1072)", id="no time"),
        pytest.param({}, {"RadiopharmaceuticalStartTime": "9"}, "(0018,1072)", id="half a time"),
        pytest.param(
            {}, {"RadiopharmaceuticalStartDateTime": "20260305080000"}, "(0018,1078)",
            id="two times, one perhaps in UTC",
        ),
        pytest.param(
            {}, {"RadiopharmaceuticalStartDateTime": "20250305090000"}, "(0018,1072)",
            id="a year ago",
        ),
        pytest.param(
            {"SeriesTime": None, "AcquisitionTime": None}, {}, "(0008,0031)", id="no series time"
        ),
        pytest.param({"DecayCorrection": None}, {}, "(0054,1102)", id="no decay correction"),
        pytest.param({"DecayCorrection": "SOME"}, {}, "(0054,1102)", id="another correction"),
        pytest.param({"CorrectedImage": "DECY"}, {}, "(0028,0051)", id="no attenuation"),
        pytest.param({"CorrectedImage": "ATTN"}, {}, "(0028,0051)", id="no decay"),
        pytest.param({"DecayCorrection": "NONE"}, {}, "(0054,1102)", id="NONE, and DECY"),
        pytest.param(
            {"DecayCorrection": "NONE", "CorrectedImage": "ATTN", "AcquisitionTime": None}, {},
            "(0008,0032)", id="NONE, and no time",
        ),
        pytest.param({"Units": None}, {}, "(0054,1001)", id="no units"),
        pytest.param({"Units": "PROPCPS"}, {}, "(0054,1001)", id="other units"),
        pytest.param({"Units": "CNTS"}, {}, "(7053,1000)", id="R23 counts"),
        pytest.param({"Units": "CNTS", **SUV_FACTOR}, {}, "(7053,1000)", id="whose factor?"),
        pytest.param({"Units": "GML", "SUVType": "IBW"}, {}, "(0054,1006)", id="ideal weight"),
        pytest.param(
            {"Units": "GML", "CorrectedImage": "DECY"}, {}, "(0028,0051)", id="not attenuated"
        ),
    ],
)  # fmt: skip
def test_uptake_that_a_header_cannot_support_is_refused_by_file_and_element(
    header: dict[str, Any], drug: dict[str, Any], element: str, tmp_path: Path, planned: Planned
) -> None:
    (path,) = write_pet(tmp_path, drug, **header)

    plan = planned(tmp_path, dd.Policy(pet_unit="SUVbw"))

    (rejection,) = plan.rejected
    assert isinstance(rejection.error, dd.RescaleError)
    assert element in str(rejection)
    assert str(path) in str(rejection)
    # Whoever asks for no uptake needs nothing of this.
    assert len(planned(tmp_path).stacks) == 1


@pytest.mark.parametrize(
    ("unit", "header", "element"),
    [
        ("SUVlbm", {"PatientSize": None}, "(0010,1020)"),
        ("SUVlbm", {"PatientSize": "175"}, "(0010,1020)"),
        ("SUVlbm", {"PatientSex": "O"}, "(0010,0040)"),
        ("SUVlbm", {"PatientSex": None}, "(0010,0040)"),
        ("SUVlbm", {"PatientSize": "0.3"}, "lean body mass"),
        ("SUVbsa", {"PatientSize": "0"}, "(0010,1020)"),
    ],
)
def test_a_size_that_is_not_known_is_refused_by_element(
    unit: Any, header: dict[str, Any], element: str, tmp_path: Path, planned: Planned
) -> None:
    write_pet(tmp_path, **header)

    assert element in refusal(planned(tmp_path, dd.Policy(pet_unit=unit)))


def test_two_injections_are_refused(tmp_path: Path, planned: Planned) -> None:
    (path,) = write_pet(tmp_path)
    header = pydicom.dcmread(path)
    sequence = header.RadiopharmaceuticalInformationSequence
    sequence.append(sequence[0])
    header.save_as(path)

    assert "(0054,0016)" in refusal(planned(tmp_path, dd.Policy(pet_unit="SUVbw")))


def test_no_injection_is_refused(tmp_path: Path, planned: Planned) -> None:
    (path,) = write_pet(tmp_path)
    header = pydicom.dcmread(path)
    del header.RadiopharmaceuticalInformationSequence
    header.save_as(path)

    assert "(0054,0016)" in refusal(planned(tmp_path, dd.Policy(pet_unit="SUVbw")))


def test_a_unit_of_pet_means_nothing_to_other_modalities(tmp_path: Path, planned: Planned) -> None:
    write_series(tmp_path)

    (stack,) = planned(tmp_path, dd.Policy(pet_unit="SUVbw")).stacks

    assert stack.unit == "HU"


def test_uptake_has_another_fingerprint_than_activity(tmp_path: Path, planned: Planned) -> None:
    write_pet(tmp_path)
    catalog = planned(tmp_path).catalog

    (activity,), (uptake,) = (
        dd.plan_stacks(catalog, dd.Policy(pet_unit=unit)).stacks for unit in ("BQML", "SUVbw")
    )

    assert activity.fingerprint != uptake.fingerprint


def test_what_uptake_needs_survives_the_catalog_without_a_date(
    tmp_path: Path, planned: Planned
) -> None:
    write_pet(tmp_path)
    (stack,) = planned(tmp_path).stacks
    kind = stack.frames[0].kind

    text = kind_to_json(kind)

    assert kind_from_json(text) == kind
    assert kind.uptake is not None
    assert kind.uptake.elapsed == 3600
    assert "20260305" not in text
    assert "100000" not in text


def test_an_enhanced_pet_that_says_no_units_is_refused_by_name(
    tmp_path: Path, planned: Planned
) -> None:
    # Enhanced PET has its units in a Real World Value Mapping.
    write_enhanced(tmp_path, shape=(3, 2, 2), **EMISSION)

    assert "(0054,1001)" in refusal(planned(tmp_path, dd.Policy(pet_unit="SUVbw")))


def test_a_pet_that_was_converted_to_one_file_has_the_same_uptake(
    tmp_path: Path, planned: Planned
) -> None:
    extra = {**HEADER, "RadiopharmaceuticalInformationSequence": injection(INJECTION)}
    write_enhanced(
        tmp_path, stored=np.full((3, 1, 1), 5000, "u2"), extra=extra,
        sop_class_uid=uid.LegacyConvertedEnhancedPETImageStorage, **EMISSION,
    )  # fmt: skip

    assert uptake_of(tmp_path, planned) == pytest.approx([START] * 3, rel=1e-6)

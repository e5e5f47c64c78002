"""`scripts/evaluate.py`: predictions of files and of a checkpoint, scored; refusals by name."""

from __future__ import annotations

import csv
import importlib.util
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml

import dicomdata as dd
from dicomdata.config import load_settings
from dicomdata.config.training import TrainingSettings
from dicomdata.testing.phantoms import write_series
from dicomdata.training import Checkpoint, build

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from numpy.typing import NDArray

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

SHAPE = (4, 8, 8)
PATIENTS = 3


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The program, as a module, which finds the training's beside it."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        path = SCRIPTS / "evaluate.py"
        spec = importlib.util.spec_from_file_location("evaluate_script", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["evaluate_script"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


def organ(first: int = 2) -> NDArray[np.bool_]:
    voxels = np.zeros(SHAPE, np.bool_)
    voxels[1:3, 2:6, first : first + 4] = True
    return voxels


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients labelled by SEG; and predictions, shifted by 0, 1 and 2 of 4 columns."""
    folder = tmp_path_factory.mktemp("evaluation")
    for number in range(PATIENTS):
        write_series(
            folder / "archive" / str(number), seed=str(number), shape=SHAPE,
            patient_id=f"P{number}",
        )  # fmt: skip
    plan = dd.plan_stacks(dd.scan(folder / "archive", progress=False))
    for name in ("labels", "predictions"):
        (folder / name).mkdir()
    for number, stack in enumerate(sorted(plan.stacks, key=lambda stack: stack.patient_id)):
        dd.write_segmentation(folder / f"labels/{number}.dcm", organ(), stack, ["Organ"])
        found = organ(2 + number)
        dd.write_segmentation(folder / f"predictions/{number}.dcm", found, stack, ["Organ"])
    dd.make_split(plan, {"train": 0.5, "val": 0.5}, seed=1, balanced=True).save(
        folder / "split.json"
    )
    return folder


def configure(archive: Path, folder: Path, **changes: Any) -> Path:
    told: dict[str, Any] = {
        "data": {"archive": str(archive / "archive"), "split": str(archive / "split.json")},
        "labels": {
            "kind": "SEG", "folder": str(archive / "labels"),
            "segments": {"organ": "(?i)organ ?1?"},
        },
        "network": {
            "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
            "channels": [2, 4], "strides": [2],
        },
        "loss": {"_target_": "DiceCELoss"},
        "folder": str(folder / "run"),
        "device": "cpu",
        "workers": 0,
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**told, **changes}))
    return path


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def checkpoint_of(config: Path, split: dd.Split, allowed: Sequence[str] = ()) -> None:
    """Write one as a training would, of a network that has learned nothing."""
    settings = load_settings(config, TrainingSettings)
    torch.manual_seed(1)
    network = build(settings.network, "network", allowed=allowed)
    Path(settings.folder).mkdir()
    Checkpoint(
        {"network": network.state_dict()}, {}, {}, {"split": split.fingerprint}, settings.decisive
    ).save(Path(settings.folder) / "best.pt")


def run(program: ModuleType, *arguments: object) -> int:
    # Pictures take longer than all else: there are some where a test wants them.
    status = program.main(["--worst", "0", *map(str, arguments)])
    assert isinstance(status, int)
    return status


def test_predictions_in_a_folder_are_found_and_scored(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(archive, tmp_path)
    scored: dict[str, float] = {}

    for part in ("train", "val"):
        status = run(
            program, "--config", config, "--predictions", archive / "predictions", "--part", part,
            "--out", tmp_path / part, "--by", "manufacturer", "--worst", 1,
        )  # fmt: skip
        assert status == 0
        scored |= {row["patient_id"]: float(row["dice"]) for row in rows_of(tmp_path / part)}
        assert "data:image/png" in (tmp_path / part / "scores.html").read_text()

    assert scored == {"P0": 1.0, "P1": 0.75, "P2": 0.5}
    assert "organ: Dice" in capsys.readouterr().out


def test_a_case_with_contradicting_labels_is_told_and_not_scored(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(archive / "labels", tmp_path / "labels")
    shutil.copy(archive / "predictions" / "0.dcm", tmp_path / "labels" / "another.dcm")
    labels = {"kind": "SEG", "folder": str(tmp_path / "labels"), "segments": {"organ": "Organ"}}
    everyone = dd.Split.load(archive / "split.json")
    groups = tuple(replace(group, part="val") for group in everyone.groups)
    replace(everyone, groups=groups).save(tmp_path / "split.json")
    data = {"archive": str(archive / "archive"), "split": str(tmp_path / "split.json")}
    config = configure(archive, tmp_path, labels=labels, data=data)

    status = run(program, "--config", config, "--predictions", archive / "predictions")

    told = capsys.readouterr().out
    assert status == 0
    assert "val: 2 stacks, 1 more without a label" in told
    assert "another.dcm" in told
    assert "each has a 'organ' of one stack" in told
    assert len(rows_of(tmp_path / "run" / "evaluation")) == 2


def test_a_prediction_that_is_not_there_is_told_and_not_scored(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(archive, tmp_path)
    (tmp_path / "none").mkdir()

    status = run(program, "--config", config, "--predictions", tmp_path / "none")

    assert status == 2
    assert "no prediction in the folder" in capsys.readouterr().out
    assert all(row["error"] for row in rows_of(tmp_path / "run" / "evaluation"))


def test_a_prediction_of_another_name_is_not_scored_as_missed(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(archive, tmp_path)
    (tmp_path / "named").mkdir()
    plan = dd.plan_stacks(dd.scan(archive / "archive", progress=False))
    for number, stack in enumerate(plan.stacks):
        dd.write_segmentation(tmp_path / f"named/{number}.dcm", organ(), stack, ["Liver"])

    status = run(program, "--config", config, "--predictions", tmp_path / "named")

    assert status == 2
    assert "no segment is 'organ'; not asked for: 'Liver'" in capsys.readouterr().out


def test_files_of_class_numbers_are_called_by_their_stacks(
    program: ModuleType, archive: Path, tmp_path: Path
) -> None:
    config = configure(archive, tmp_path)
    (tmp_path / "files").mkdir()
    for stack in dd.plan_stacks(dd.scan(archive / "archive", progress=False)).stacks:
        classes = dd.Volume(organ(3).astype(np.int16), "stored", stack.valid, stack)
        dd.write_volume(tmp_path / "files" / f"{stack.id}.nii.gz", classes)

    status = run(program, "--config", config, "--predictions", tmp_path / "files")

    assert status == 0
    assert {row["dice"] for row in rows_of(tmp_path / "run" / "evaluation")} == {"0.75"}


def test_names_in_a_file_are_believed_over_the_order_of_classes(
    program: ModuleType, bright: Path, tmp_path: Path
) -> None:
    labels = {
        "kind": "SEG", "folder": str(bright / "labels"),
        "segments": {"part": "Part", "organ": "Organ"}, "overlap": "channels",
    }  # fmt: skip
    data = {"archive": str(bright / "archive"), "split": str(bright / "split.json")}
    config = configure(bright, tmp_path, data=data, labels=labels)
    (tmp_path / "named").mkdir()
    stacks = dd.plan_stacks(dd.scan(bright / "archive", progress=False)).stacks
    (stack,) = (stack for stack in stacks if stack.patient_id == "P3")
    left = np.indices(LARGE)[2] < 7
    # 1 is the organ here, and the part in the training.
    found = np.stack([large() & ~left, large() & left])
    mask = dd.place_mask(found, stack.affine_lps, stack, ["organ", "part"])
    dd.write_volume(tmp_path / "named" / f"{stack.id}.nrrd", mask)

    status = run(
        program, "--config", config, "--predictions", tmp_path / "named", "--part", "train"
    )

    assert status == 0
    dice = {row["segment"]: row["dice"] for row in rows_of(tmp_path / "run" / "evaluation")}
    assert dice["part"] == "1.0"


@pytest.mark.parametrize("patches", [None, {"size": [4, 4, 4], "overlap": 0.5}])
def test_the_network_of_a_checkpoint_predicts_and_is_scored(
    program: ModuleType, archive: Path, tmp_path: Path, patches: dict[str, Any] | None
) -> None:
    config = configure(archive, tmp_path, patches=patches)
    checkpoint_of(config, dd.Split.load(archive / "split.json"))

    status = run(program, "--config", config, "--save", tmp_path / "saved")

    assert status == 0
    rows = rows_of(tmp_path / "run" / "evaluation")
    assert {row["segment"] for row in rows} == {"organ"}
    assert {row["grid"] for row in rows} == {"same_grid"}
    # What was saved scores the same when it is read back.
    run(program, "--config", config, "--predictions", tmp_path / "saved", "--out", tmp_path / "b")
    again = [(row["case"], row["dice"], row["prediction_ml"]) for row in rows_of(tmp_path / "b")]
    assert again == [(row["case"], row["dice"], row["prediction_ml"]) for row in rows]


def test_a_checkpoint_of_another_split_is_refused(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(archive, tmp_path)
    plan = dd.plan_stacks(dd.scan(archive / "archive", progress=False))
    other = dd.make_split(plan, {"train": 0.6, "val": 0.4}, seed=5, balanced=True)
    kept = dd.Split.load(archive / "split.json")
    turned = dd.Split(
        other.seed, other.shares,
        tuple(
            type(group)(**{**{name: getattr(group, name) for name in group.__slots__},
                           "part": "val" if group.part == "train" else "train"})
            for group in kept.groups
        ),
        other.catalog_fingerprint,
    )  # fmt: skip
    checkpoint_of(config, turned)

    assert run(program, "--config", config) == 2
    assert "trained with another split" in capsys.readouterr().err
    assert run(program, "--config", config, "--other-split") == 0


def test_a_checkpoint_of_other_settings_is_refused(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint_of(configure(archive, tmp_path), dd.Split.load(archive / "split.json"))

    status = run(program, "--config", configure(archive, tmp_path, window=[-1000, 400]))

    assert status == 2
    assert "another setting of window" in capsys.readouterr().err


def test_a_checkpoint_of_the_same_classes_in_another_order_is_refused(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = {"kind": "SEG", "folder": str(archive / "labels"), "missing": "empty"}
    patterns = {"organ": "Organ", "tumour": "Tumour"}
    first = configure(archive, tmp_path, labels=kind | {"segments": patterns})
    checkpoint_of(first, dd.Split.load(archive / "split.json"))
    turned = tmp_path / "turned.yaml"
    text = first.read_text().replace("    organ: Organ\n    tumour: Tumour\n",
                                     "    tumour: Tumour\n    organ: Organ\n")  # fmt: skip
    turned.write_text(text)

    status = run(program, "--config", turned)

    assert text != first.read_text()
    assert status == 2
    assert "another setting of labels" in capsys.readouterr().err


def test_stacks_of_another_unit_than_was_learned_from_are_rejected(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(archive, tmp_path)
    split = dd.Split.load(archive / "split.json")
    checkpoint_of(config, split)
    path = tmp_path / "run" / "best.pt"
    learned = Checkpoint.load(path)
    replace(learned, settings=learned.settings | {"unit": "SUV"}).save(path)

    status = run(program, "--config", config)

    assert status == 2
    assert "is in HU, the network has learned from SUV" in capsys.readouterr().out


def test_several_ranks_are_refused(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("WORLD_SIZE", "2")

    assert run(program, "--config", configure(archive, tmp_path)) == 2
    assert "start one process" in capsys.readouterr().err


# --- predictions out ------------------------------------------------------------------------------

IMAGE = ["image"]

FORMATS = {"seg": "dcm", "rtstruct": "dcm", "nii.gz": "nii.gz", "mha": "mha", "nrrd": "nrrd"}


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patients on a straight, a tilted and an oblique grid, whose organ is bright; and a fourth."""
    folder = tmp_path_factory.mktemp("bright")
    grids: tuple[dict[str, Any], ...] = (
        {},
        {"orientation": (1, 0, 0, 0, 0.9396926, -0.3420201), "step": (0, 0, 3.0)},
        {"orientation": (0.8, 0.6, 0, 0, 0, -1)},
        {},
    )
    for number, grid in enumerate(grids):
        stored = np.where(large(), 1524, 24).astype(np.uint16)
        write_series(
            folder / "archive" / str(number), seed=f"bright {number}", stored=stored,
            patient_id=f"P{number}", **grid,
        )  # fmt: skip
    (folder / "labels").mkdir()
    plan = dd.plan_stacks(dd.scan(folder / "archive", progress=False))
    for number, stack in enumerate(plan.stacks):
        both = np.stack([large(), large() & (np.indices(LARGE)[2] < 7)])
        dd.write_segmentation(folder / f"labels/{number}.dcm", both, stack, ["Organ", "Part"])
    # Of this seed, the fourth alone is in the other part.
    dd.make_split(plan, {"train": 0.25, "val": 0.75}, seed=9).save(folder / "split.json")
    (folder / "bright_networks.py").write_text(NETWORKS)
    return folder


LARGE = (10, 14, 12)

NETWORKS = '''
"""Networks of which it is known what they say."""
import torch

class Bright(torch.nn.Module):
    """Logits of background and organ; or of segments, all the same: from -250 HU on."""

    def __init__(self, segments=0):
        super().__init__()
        self.segments = segments
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        above = (batch + 250) / 100
        if self.segments:
            return torch.cat([above] * self.segments, dim=1)
        return torch.cat([-above, above], dim=1)
'''


def large() -> NDArray[np.bool_]:
    voxels = np.zeros(LARGE, np.bool_)
    voxels[2:7, 4:10, 3:10] = True
    return voxels


def brightly(bright: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Path:
    """Configure a network that finds what is bright, and write its checkpoint."""
    monkeypatch.syspath_prepend(bright)
    settings: dict[str, Any] = {
        "network": {"_target_": "bright_networks.Bright"},
        "data": {"archive": str(bright / "archive"), "split": str(bright / "split.json")},
        "labels": {"kind": "SEG", "folder": str(bright / "labels"), "segments": {"organ": "Organ"}},
    }  # fmt: skip
    config = configure(bright, folder, **(settings | changes))
    checkpoint_of(config, dd.Split.load(bright / "split.json"), allowed=["bright_networks"])
    return config


@pytest.mark.parametrize("wanted", FORMATS)
def test_what_was_saved_scores_the_same_when_it_is_given_back(
    program: ModuleType, archive: Path, tmp_path: Path, wanted: str
) -> None:
    config = configure(archive, tmp_path)
    checkpoint_of(config, dd.Split.load(archive / "split.json"))

    statuses = (
        run(program, "--config", config, "--save", tmp_path / "saved", "--format", wanted),
        run(program, "--config", config, "--predictions", tmp_path / "saved", "--out",
            tmp_path / "again"),
    )  # fmt: skip

    assert statuses == (0, 0)
    saved = [path.name for path in (tmp_path / "saved").iterdir()]
    first, again = rows_of(tmp_path / "run" / "evaluation"), rows_of(tmp_path / "again")
    assert sorted(saved) == sorted(f"{row['case']}.{FORMATS[wanted]}" for row in first)
    # What it found is neither nothing nor everything.
    assert all(0 < float(row["prediction_ml"]) < 0.25 for row in first)
    numbers = ("case", "dice", "prediction_ml", "hausdorff_mm")
    assert [[row[name] for name in numbers] for row in again] == [
        [row[name] for name in numbers] for row in first
    ]


def test_a_leaning_grid_is_no_nifti_and_nothing_else_is_lost(
    program: ModuleType, bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = brightly(bright, tmp_path, monkeypatch)

    status = run(
        program, "--config", config, "--save", tmp_path / "saved", "--format", "nii.gz",
        "--allow", "bright_networks",
    )  # fmt: skip

    assert status == 1
    told = [line for line in capsys.readouterr().out.splitlines() if "not saved" in line]
    assert len(told) == 1
    assert "not at right angles" in told[0]
    assert [row["dice"] for row in rows_of(tmp_path / "run" / "evaluation")] == ["1.0"] * 3
    assert len(list((tmp_path / "saved").iterdir())) == 2


@pytest.mark.parametrize("wanted", ["seg", "rtstruct"])
def test_contours_and_frames_come_back_from_every_grid(
    program: ModuleType, bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    config = brightly(bright, tmp_path, monkeypatch)

    statuses = (
        run(program, "--config", config, "--save", tmp_path / "saved", "--format", wanted,
            "--allow", "bright_networks"),
        run(program, "--config", config, "--predictions", tmp_path / "saved", "--out",
            tmp_path / "again"),
    )  # fmt: skip

    assert statuses == (0, 0)
    assert [row["dice"] for row in rows_of(tmp_path / "again")] == ["1.0"] * 3


@pytest.mark.parametrize("wanted", FORMATS)
def test_nothing_found_is_saved_as_nothing(
    program: ModuleType, bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    dark = {"_target_": "ScaleIntensityd", "keys": IMAGE, "minv": -1000.0, "maxv": -900.0}
    config = brightly(bright, tmp_path, monkeypatch, validation_transforms=[dark])
    part = ("--part", "train")

    statuses = (
        run(program, "--config", config, *part, "--save", tmp_path / "saved", "--format", wanted,
            "--allow", "bright_networks"),
        run(program, "--config", config, *part, "--predictions", tmp_path / "saved", "--out",
            tmp_path / "again"),
    )  # fmt: skip

    assert statuses == (0, 0)
    (row,) = rows_of(tmp_path / "again")
    assert (row["dice"], row["prediction_ml"]) == ("0.0", "0.0")


def test_predictions_are_not_saved_where_labels_are_looked_for(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(archive, tmp_path)

    status = run(program, "--config", config, "--save", archive / "archive" / "predicted")

    assert status == 2
    assert "would be taken for some" in capsys.readouterr().err


# --- through transforms and windows, and back -----------------------------------------------------

STEPS: dict[str, list[dict[str, Any]]] = {
    "resampled": [{"_target_": "Spacingd", "keys": IMAGE, "pixdim": [0.25, 0.4, 1.25]}],
    "turned": [{"_target_": "Orientationd", "keys": IMAGE, "axcodes": "PIR"}],
    "padded": [{"_target_": "DivisiblePadd", "keys": IMAGE, "k": 16, "value": -1000}],
    "cropped": [
        {"_target_": "CropForegroundd", "keys": IMAGE, "source_key": "image", "margin": 1},
    ],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning:monai", "ignore::UserWarning:monai")
@pytest.mark.parametrize("name", ["resampled", "turned", "padded", "cropped"])
def test_a_transformed_volume_is_scored_on_the_source_grid(
    program: ModuleType, bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = brightly(bright, tmp_path, monkeypatch, validation_transforms=STEPS[name])

    status = run(program, "--config", config, "--allow", "bright_networks")

    assert status == 0
    rows = rows_of(tmp_path / "run" / "evaluation")
    assert {row["grid"] for row in rows} == {"same_grid"}
    # Straight, tilted and oblique; interpolation moves edges by less than a voxel.
    assert len(rows) == 3
    assert min(float(row["dice"]) for row in rows) >= (0.85 if name == "resampled" else 1)


@pytest.mark.parametrize(
    "options",
    [("--sliding-window", "4,6,6"), ("--sliding-window", "4,6,6", "--weight", "gaussian")],
)
def test_a_volume_is_seen_through_windows(
    program: ModuleType, bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
) -> None:  # fmt: skip
    config = brightly(bright, tmp_path, monkeypatch)

    status = run(program, "--config", config, "--allow", "bright_networks", *options)

    assert status == 0
    assert {row["dice"] for row in rows_of(tmp_path / "run" / "evaluation")} == {"1.0"}


@pytest.mark.parametrize("how", [{"patches": {"size": [4, 6, 6]}}, {}])
def test_images_are_shown_as_they_were_uploaded(
    program: ModuleType, bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    how: dict[str, Any],
) -> None:  # fmt: skip
    # The network finds what is above -250 of 0 to 1, all of it: the window was taken.
    config = brightly(
        bright, tmp_path, monkeypatch, upload="int16", window=[-1000, 500],
        validation_transforms=[{"_target_": "Flipd", "keys": IMAGE, "spatial_axis": 0}] * (not how),
        **how,
    )  # fmt: skip

    status = run(program, "--config", config, "--allow", "bright_networks")

    assert status == 0
    dice = 2 * large().sum() / (large().sum() + large().size)
    for row in rows_of(tmp_path / "run" / "evaluation"):
        assert float(row["dice"]) == pytest.approx(dice)


# --- classes that overlap, and classes of cases ---------------------------------------------------


@pytest.mark.parametrize("segments", [{"organ": "Organ"}, {"organ": "Organ", "part": "Part"}])
def test_each_channel_is_a_segment_where_classes_overlap(
    program: ModuleType, bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    segments: dict[str, str],
) -> None:  # fmt: skip
    config = brightly(
        bright, tmp_path, monkeypatch,
        labels={"kind": "SEG", "folder": str(bright / "labels"), "segments": segments,
                "overlap": "channels"},
        network={"_target_": "bright_networks.Bright", "segments": len(segments)},
        loss={"_target_": "DiceCELoss", "sigmoid": True},
    )  # fmt: skip

    status = run(
        program, "--config", config, "--allow", "bright_networks", "--save", tmp_path / "saved"
    )
    again = run(
        program, "--config", config, "--predictions", tmp_path / "saved", "--out", tmp_path / "b"
    )

    assert (status, again) == (0, 0)
    rows = rows_of(tmp_path / "run" / "evaluation")
    # The part is the first 4 of 7 columns, and all of the organ was taken for it.
    expected = {"organ": 1.0, "part": 2 * 4 / (4 + 7)}
    assert len(rows) == 3 * len(segments)
    for row in rows:
        assert float(row["dice"]) == pytest.approx(expected[row["segment"]])
    assert [row["dice"] for row in rows_of(tmp_path / "b")] == [row["dice"] for row in rows]


def classifying(archive: Path, folder: Path) -> Path:
    """Configure a network that tells early from late stages."""
    table = folder / "cases.csv"
    table.write_text("patient_id,stage\nP0,early\nP1,late\nP2,late\n")
    return configure(
        archive, folder,
        labels={"kind": "cases", "table": str(table), "column": "stage",
                "classes": ["early", "late"]},
        network={"_target_": "Classifier", "in_shape": [1, 8, 8, 4], "classes": 2,
                 "channels": [2], "strides": [2]},
        loss={"_target_": "CrossEntropyLoss"},
    )  # fmt: skip


def test_classes_of_cases_are_compared(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = classifying(archive, tmp_path)
    checkpoint_of(config, dd.Split.load(archive / "split.json"))

    status = run(program, "--config", config, "--part", "train", "--by", "manufacturer")

    assert status == 0
    rows = rows_of(tmp_path / "run" / "evaluation")
    stages = {"P0": "early", "P1": "late", "P2": "late"}
    assert rows
    assert all(row["label"] == stages[row["patient_id"]] for row in rows)
    for row in rows:
        shares = {name: float(row[f"probability of {name}"]) for name in ("early", "late")}
        assert sum(shares.values()) == pytest.approx(1)
        assert row["predicted"] == max(shares, key=lambda name: shares[name])
    assert "accuracy" in capsys.readouterr().out
    assert (tmp_path / "run" / "evaluation" / "scores.json").exists()


def test_masks_are_not_asked_of_a_network_that_classifies(
    program: ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = classifying(archive, tmp_path)

    assert run(program, "--config", config, "--save", tmp_path / "saved") == 2
    assert "are of masks" in capsys.readouterr().err

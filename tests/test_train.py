"""`scripts/train.py`: what a run leaves and learns, of each kind of label."""

from __future__ import annotations

import importlib.util
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from trainings import PROJECT, lines, losses, means, refused, unvalidated

import dicomdata as dd
from dicomdata.config import load_settings
from dicomdata.config.training import TrainingSettings

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from trainings import Configure

pytest_plugins = ["training_fixtures"]


def test_a_training_leaves_checkpoints_and_a_log(
    train: ModuleType, configure: Configure, tmp_path: Path
) -> None:
    status = train.main(["--config", str(configure(validation_transforms=[]))])

    assert status == 0
    assert {"last.pt", "best.pt", "log.jsonl"} <= set(os.listdir(tmp_path / "run"))
    steps, epochs = lines(tmp_path / "run", "step"), lines(tmp_path / "run", "epoch")
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in epochs] == [0, 1]
    for line in epochs:
        own = [step["loss"] for step in steps if step["epoch"] == line["epoch"]]
        assert math.isclose(line["loss"], sum(own) / len(own))
        assert set(line["scores"]["dice"]) == {"background", "organ"}


def test_a_training_learns_where_the_organ_is(
    train: ModuleType, configure: Configure, tmp_path: Path
) -> None:
    network = {
        "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
        "channels": [4, 8], "strides": [2], "norm": None,
    }  # fmt: skip
    optimizer = {"_target_": "Adam", "lr": 0.03}

    train.main(["--config", str(configure(
        network=network, optimizer=optimizer, epochs=20, transforms=[], checkpoint_every=100,
        validate_every=20,
    ))])  # fmt: skip

    assert lines(tmp_path / "run", "epoch")[-1]["scores"]["dice"]["organ"] > 0.8


def test_a_rate_that_waits_for_the_validation_is_not_changed_by_the_training(
    train: ModuleType, configure: Configure, tmp_path: Path
) -> None:
    # Nothing after the first is better, so each loss that it is told halves the rate.
    watching = {
        "_target_": "ReduceLROnPlateau", "factor": 0.5, "patience": 0, "threshold": 1000.0,
        "threshold_mode": "abs",
    }  # fmt: skip

    config = configure(scheduler=watching, validate_every=2, epochs=5)
    assert train.main(["--config", str(config)]) == 0

    rates = [line["learning_rate"] for line in lines(tmp_path / "run", "epoch")]
    assert rates == [0.01, 0.01, 0.01, 0.01, 0.005]


# --- other labels ---------------------------------------------------------------------------------


def test_label_files_give_the_same_losses_as_segmentations(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path
) -> None:
    labels = {
        "kind": "files", "table": str(archive / "cases.csv"), "column": "path",
        "segments": {"organ": "1"},
    }  # fmt: skip
    assert train.main(["--config", str(configure(epochs=1))]) == 0

    files = configure("files.yaml", labels=labels, epochs=1, folder=str(tmp_path / "files"))
    assert train.main(["--config", str(files)]) == 0

    assert losses(tmp_path / "files") == losses(tmp_path / "run")


def test_cases_are_classified_by_a_table(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path
) -> None:
    labels = {
        "kind": "cases", "table": str(archive / "cases.csv"), "column": "stage",
        "classes": ["early", "late"],
    }  # fmt: skip
    network = {
        "_target_": "monai.networks.nets.Classifier", "in_shape": [1, 16, 16, 8], "classes": 2,
        "channels": [2, 4], "strides": [2, 2],
    }  # fmt: skip
    loss = {"_target_": "CrossEntropyLoss"}
    pad = {"_target_": "ResizeWithPadOrCropd", "keys": "image", "spatial_size": [16, 16, 8]}

    config = configure(
        labels=labels, network=network, loss=loss, patches=None, transforms=[pad],
        validation_transforms=[pad], batch_size=2,
    )  # fmt: skip

    assert train.main(["--config", str(config)]) == 0
    assert 0 <= lines(tmp_path / "run", "epoch")[-1]["accuracy"] <= 1


# --- classes that overlap, several outputs, int16 -------------------------------------------------

TINY_UNET: dict[str, Any] = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
    "channels": [4, 8], "strides": [2],
}  # fmt: skip


@pytest.mark.parametrize(
    ("segments", "loss"),
    [
        # The organ's bright middle is a class within the organ.
        ({"organ": "Organ", "core": "Core"}, {"_target_": "DiceFocalLoss", "gamma": 0.0}),
        ({"core": "Core"}, {"_target_": "DiceCELoss"}),
    ],
)
def test_classes_that_overlap_are_learned_in_channels(
    train: ModuleType, configure: Configure, nested: Path, tmp_path: Path,
    segments: dict[str, str], loss: dict[str, Any],
) -> None:  # fmt: skip
    labels = {"kind": "SEG", "folder": str(nested), "segments": segments, "overlap": "channels"}
    config = configure(
        labels=labels, loss={**loss, "sigmoid": True}, transforms=[], epochs=10,
        network={**TINY_UNET, "out_channels": len(segments), "norm": None},
        optimizer={"_target_": "Adam", "lr": 0.03}, checkpoint_every=100, validate_every=10,
    )  # fmt: skip

    assert train.main(["--config", str(config)]) == 0

    scores = lines(tmp_path / "run", "epoch")[-1]["scores"]
    assert set(scores["dice"]) == set(segments)
    assert scores["dice"]["core"] > 0.5


@pytest.fixture(scope="module")
def nested(archive: Path) -> Path:
    """Segmentations of which one class lies within the other."""
    folder = archive / "nested"
    folder.mkdir()
    plan = dd.plan_stacks(dd.scan(archive / "archive", progress=False))
    for stack in plan.stacks:
        organ = dd.read_volume(stack).voxels > 250
        core = organ.copy()
        core[:3] = False
        masks = np.stack([organ, core])
        dd.write_segmentation(folder / f"{stack.patient_id}.dcm", masks, stack, ["Organ", "Core"])
    return folder


def test_a_network_of_several_outputs_learns_from_all_of_them(
    train: ModuleType, configure: Configure, tmp_path: Path
) -> None:
    network = {
        "_target_": "DynUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
        "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2],
        "filters": [2, 4, 8], "deep_supervision": True, "deep_supr_num": 1,
    }  # fmt: skip
    loss = {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True}
    deep = {"_target_": "DeepSupervisionLoss", "loss": loss}

    assert train.main(["--config", str(configure(network=network, loss=deep, epochs=1))]) == 0

    assert len(losses(tmp_path / "run")) == 3
    assert set(lines(tmp_path / "run", "epoch")[0]["scores"]["dice"]) == {"background", "organ"}


def test_int16_that_is_made_float32_on_the_device_gives_the_same_losses(
    train: ModuleType, configure: Configure, tmp_path: Path
) -> None:
    flip = {"_target_": "RandFlipd", "keys": ["image", "label"], "prob": 0.5, "spatial_axis": 0}
    # Larger than the volumes: padding is windowed too.
    patches = {"size": [12, 8, 20], "foreground": 0.5}
    options = {"transforms": [flip], "patches": patches}
    assert train.main(["--config", str(configure(**options))]) == 0

    whole = configure("int16.yaml", **options, upload="int16", folder=str(tmp_path / "int16"))
    assert train.main(["--config", str(whole)]) == 0

    assert losses(tmp_path / "int16") == losses(tmp_path / "run")
    assert lines(tmp_path / "int16", "epoch") == lines(tmp_path / "run", "epoch")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("upload", ["float32", "int16"])
def test_the_same_script_trains_on_a_gpu_from_pinned_memory(
    train: ModuleType, configure: Configure, tmp_path: Path, upload: str
) -> None:
    options = {"transforms": [], "precision": "float32", "workers": 2, "upload": upload}
    here = configure(**options, epochs=1)
    assert train.main(["--config", str(here)]) == 0
    there = configure(
        "gpu.yaml", **options, epochs=1, device="cuda", folder=str(tmp_path / "gpu")
    )  # fmt: skip

    assert train.main(["--config", str(there)]) == 0

    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "run"), rel=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_come_in_pinned_memory_where_there_is_a_gpu(
    train: ModuleType, configure: Configure
) -> None:
    settings = load_settings(configure(), TrainingSettings)
    with train.join_ranks("cuda") as ranks:
        loader = train.make_loader(settings, ranks, [], None)

    assert loader.pin_memory


def test_a_file_of_ones_for_each_class_needs_no_patterns(
    train: ModuleType, configure: Configure, archive: Path, tmp_path: Path
) -> None:
    labels = {
        "kind": "files", "table": str(archive / "cases.csv"), "columns": {"organ": "path"}
    }  # fmt: skip
    kinds = {
        "kind": ["SEG", "RTSTRUCT"], "folder": str(archive / "seg"), "segments": {"organ": "Organ"}
    }  # fmt: skip
    for folder, told in {"files": labels, "seg": kinds}.items():
        data, place = unvalidated(archive), str(tmp_path / folder)
        config = configure(labels=told, data=data, folder=place, epochs=1)
        assert train.main(["--config", str(config)]) == 0

    assert means(tmp_path / "files") == means(tmp_path / "seg")


def test_tensorboard_is_written_where_it_is_installed_and_asked_for_by_name_where_not(
    train: ModuleType, configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(epochs=1, tensorboard=True)

    if importlib.util.find_spec("tensorboard") is None:
        assert "pip install dicomdata[training]" in refused(train, capsys, "--config", config)
    else:
        assert train.main(["--config", str(config)]) == 0
        assert list((tmp_path / "run" / "tensorboard").iterdir())


# --- the settings that are shipped ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [path.name for path in (PROJECT / "configs").glob("*.yaml") if path.stem != "demo"]
)
def test_the_settings_that_are_shipped_are_valid(train: ModuleType, name: str) -> None:
    settings = load_settings(PROJECT / "configs" / name, TrainingSettings)

    ranks = train.Ranks(0, 1, torch.device("cpu"))
    assert train.make_learner(settings, ranks, ()).targets.classes == settings.labels.class_names
    for transforms in (settings.transforms, settings.validation_transforms):
        assert len(train.build_transforms(transforms).transforms) == len(transforms)

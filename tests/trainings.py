"""A small archive to train on, settings of such a training, and what it has left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np

import dicomdata as dd
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    import pytest

    Configure = Callable[..., Path]

PROJECT = Path(__file__).resolve().parents[1]
SCRIPT = PROJECT / "scripts" / "train.py"

SHAPE = (8, 16, 16)
PATIENTS = 5

KILLING = '''
"""A loss that sends its process a signal, once, at the call of a number."""
import os, signal
from monai.losses import DiceCELoss
from monai.transforms import Transform

class KillingLoss(DiceCELoss):
    def __init__(self, at=0, flag="", signal="SIGKILL", rank="0", **options):
        super().__init__(**options)
        self.at, self.flag, self.signal, self.calls = at, flag, signal, 0
        self.mine = os.environ.get("RANK", "0") == rank

    def forward(self, output, label):
        self.calls += 1
        if self.mine and self.calls == self.at and not os.path.exists(self.flag):
            open(self.flag, "w").close()
            os.kill(os.getpid(), getattr(signal, self.signal))
        return super().forward(output, label)

class KillingTransform(Transform):
    def __init__(self, flag):
        self.flag = flag

    def __call__(self, sample):
        if not os.path.exists(self.flag):
            open(self.flag, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return sample
'''

HALVING = {"_target_": "StepLR", "step_size": 1, "gamma": 0.5}

KILLING_ALLOWED = ("--allow", "killing")


def write_archive(folder: Path) -> Path:
    """Write five patients with a bright cube each, labels in SEG, NIfTI, a table; and a split."""
    for number in range(PATIENTS):
        stored = np.random.default_rng(number).integers(900, 1100, SHAPE).astype(np.uint16)
        stored[2:6, 3 + number : 8 + number, 4:10] += 500
        write_series(
            folder / "archive" / str(number), seed=str(number), stored=stored,
            patient_id=f"P{number}",
        )  # fmt: skip
    plan = dd.plan_stacks(dd.scan(folder / "archive", progress=False))
    rows = ["PatientID,path,stage"]
    (folder / "seg").mkdir()
    for number, stack in enumerate(plan.stacks):
        mask = dd.read_volume(stack).voxels > 250
        name = stack.patient_id
        dd.write_segmentation(folder / "seg" / f"{name}.dcm", mask, stack, ["Organ"])
        affine = stack.affine_ras[:, (2, 1, 0, 3)]
        image = nibabel.Nifti1Image(mask.astype(np.uint8).T, affine)  # type: ignore[no-untyped-call]
        nibabel.save(image, folder / f"{name}.nii.gz")
        rows.append(f"{name},{name}.nii.gz,{'early' if number % 2 else 'late'}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    split = dd.make_split(plan, {"train": 0.6, "val": 0.4}, seed=1, balanced=True)
    split.save(folder / "split.json")
    everyone = tuple(replace(group, part="train") for group in split.groups)
    replace(split, groups=everyone).save(folder / "all.json")
    (folder / "killing.py").write_text(KILLING)
    return folder


def settings_of(archive: Path, folder: Path) -> dict[str, Any]:
    """A small segmentation from SEG."""
    return {
        "data": {"archive": str(archive / "archive"), "split": str(archive / "split.json")},
        "labels": {
            "kind": "SEG", "folder": str(archive / "seg"), "segments": {"organ": "Organ"}
        },
        "network": {
            "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
            "channels": [4, 8], "strides": [2], "dropout": 0.2,
        },
        "loss": {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True},
        "optimizer": {"_target_": "Adam", "lr": 0.01},
        "patches": {"size": [4, 8, 8], "per_visit": 2, "foreground": 0.5},
        "window": [-200, 600],
        "transforms": [
            {"_target_": "RandFlipd", "keys": ["image", "label"], "prob": 0.5,
             "spatial_axis": 0},
            {"_target_": "RandGaussianNoised", "keys": "image", "prob": 1.0, "std": 0.05},
        ],
        "folder": str(folder / "run"),
        "epochs": 2, "batch_size": 1, "workers": 0, "device": "cpu", "seed": 3,
        "checkpoint_every": 2, "cache": {"kind": "memory", "max_bytes": "10 MB"},
    }  # fmt: skip


def killing(folder: Path, *, at: int, **options: str) -> dict[str, Any]:
    """A loss that sends a signal at the call of a number."""
    return {
        "_target_": "killing.KillingLoss", "at": at, "flag": str(folder / "sent"),
        "to_onehot_y": True, "softmax": True, **options,
    }  # fmt: skip


def unvalidated(archive: Path, split: str = "split.json") -> dict[str, Any]:
    return {
        "archive": str(archive / "archive"), "split": str(archive / split), "validate_on": None
    }  # fmt: skip


def means(folder: Path) -> list[float]:
    return [line["loss"] for line in lines(folder, "epoch")]


def lines(folder: Path | str, kind: str, name: str = "log.jsonl") -> list[dict[str, Any]]:
    told = [json.loads(line) for line in (Path(folder) / name).read_text().splitlines()]
    return [line for line in told if line["kind"] == kind]


def losses(folder: Path | str) -> list[float]:
    return [line["loss"] for line in lines(folder, "step")]


def refused(train: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the program; give the one line in which it refuses."""
    capsys.readouterr()
    assert train.main(list(map(str, arguments))) == 2
    return capsys.readouterr().err.splitlines()[-1]

"""Names in a file of settings -> objects: classes of the wanted kind, and no code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from monai.networks.nets import UNet
from monai.transforms import Compose, RandFlipd

from dicomdata.config import load_settings
from dicomdata.config.training import TrainingSettings
from dicomdata.errors import ConfigError
from dicomdata.training import Checkpoint, Ranks, Records, build, build_transforms
from dicomdata.training.loop import Scores, choose_precision

if TYPE_CHECKING:
    from pathlib import Path

UNET: dict[str, Any] = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [2, 4],
    "strides": [2],
}  # fmt: skip


def test_a_short_name_is_found_where_its_kind_lives() -> None:
    network = build(UNET, "network")
    loss = build({"_target_": "DiceLoss", "sigmoid": True}, "loss")
    entropy = build({"_target_": "CrossEntropyLoss"}, "loss")
    optimizer = build({"_target_": "SGD", "lr": 0.5}, "optimizer", network.parameters())

    assert isinstance(network, UNet)
    assert loss.sigmoid
    assert isinstance(entropy, torch.nn.CrossEntropyLoss)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_target_within_an_argument_is_made_too() -> None:
    flip = {"_target_": "RandFlip", "prob": 1.0}

    made = build(
        {"_target_": "monai.transforms.Compose", "transforms": [{**flip, "_desc_": "x"}]},
        "transform",
    )

    assert isinstance(made, Compose)
    assert made.transforms[0].prob == 1.0


def test_a_disabled_transform_is_left_out() -> None:
    flip = {"_target_": "RandFlipd", "keys": ["image"], "prob": 0.5}

    made = build_transforms([flip, {**flip, "_disabled_": True}])

    assert [type(each) for each in made.transforms] == [RandFlipd]


@pytest.mark.parametrize(
    ("component", "told"),
    [
        ({"_target_": "UNett"}, "network UNett: no such network; did you mean UNet"),
        ({**UNET, "chanels": 3}, "network UNet: no such argument: chanels; did you mean channels?"),
        ({"_target_": "UNet"}, "network UNet: missing a required argument: 'spatial_dims'"),
        ({**UNET, "channels": [2]}, "network UNet: ValueError: "),
        ({"in_channels": 1}, "network: expected _target_, the name of a class"),
        ({**UNET, "_mode_": "debug"}, "network UNet: _mode_ is not understood"),
        # Nothing in a file is evaluated.
        ({**UNET, "out_channels": "$1+1"}, r"out_channels: '\$1\+1' would be an expression"),
        ({**UNET, "out_channels": "@labels"}, "out_channels: '@labels' would be a reference"),
        ({**UNET, "channels": ["%other"]}, "channels: '%other' would be a macro"),
        ({"_target_": "$import os"}, r"_target_: '\$import os' would be an expression"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_nearest_that_does(
    component: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        build(component, "network")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("os.system", "expected a class of monai, torch, dicomdata; .* --allow os"),
        ("builtins.eval", "expected a class of monai, torch, dicomdata"),
        # Of torch, and no network.
        ("torch.hub.load", "no such network"),
        ("torch.load", "no such network"),
        ("torch.optim.SGD", "no such network"),
        ("torch.no.such.module", "cannot be imported"),
        ("torch.os.system", "cannot be imported"),
        ("UNet.__init__", "expected a class of"),
    ],
)
def test_a_target_is_a_class_of_its_kind_and_nothing_else(target: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build({"_target_": target}, "network")


def test_a_package_is_allowed_by_who_starts_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_networks.py").write_text(
        "import torch\nclass Own(torch.nn.Identity): pass\ndef make(): return Own()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    component = {"_target_": "own_networks.Own"}

    with pytest.raises(ConfigError, match="--allow own_networks"):
        build(component, "network")

    assert type(build(component, "network", allowed=["own_networks"])).__name__ == "Own"
    with pytest.raises(ConfigError, match="no such network; did you mean"):
        build({"_target_": "own_networks.Ow"}, "network", allowed=["own_networks"])


# --- settings -------------------------------------------------------------------------------------

BASE = """
data: {archive: archive, split: split.json}
labels: {kind: SEG, segments: {lung: Lung}}
network: {_target_: UNet}
loss: {_target_: DiceLoss}
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epoch: 3", "epoch: no such setting; did you mean epochs?"),
        ("patches: {sizes: [1, 2, 3]}", "patches.sizes: no such setting; did you mean size?"),
        ("patches: {size: [1, 2, 0]}", "patches.size.2: input should be greater than or equal"),
        ("precision: float8", "precision: input should be"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_nearest(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(f"{BASE}\n{text}\n")

    with pytest.raises(ConfigError) as caught:
        load_settings(path, TrainingSettings)

    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("{kind: SEG}", "labels of kind SEG need segments"),
        ("{kind: SEG, segments: {a: b}, table: x}", "labels of kind SEG know no table"),
        ("{kind: files, segments: {a: b}}", "labels of kind files need a table"),
        ("{kind: cases, table: x, classes: [a]}", "labels of kind cases need two classes"),
        ("{kind: cases, table: x, segments: {a: b}}", "labels of kind cases know no segments"),
    ],
)
def test_labels_have_the_settings_of_their_kind(tmp_path: Path, labels: str, told: str) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(BASE.replace("{kind: SEG, segments: {lung: Lung}}", labels))

    with pytest.raises(ConfigError, match=told):
        load_settings(path, TrainingSettings)


def test_where_things_lie_does_not_decide_what_is_learned(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"

    def decisive(text: str) -> dict[str, str]:
        path.write_text(text)
        return load_settings(path, TrainingSettings).decisive

    before = decisive(BASE)

    assert decisive(f"{BASE}\nepochs: 7\nworkers: 0\nfolder: elsewhere\n") == before
    assert decisive(BASE.replace("archive: archive", "archive: moved")) == before
    assert decisive(BASE.replace("lung: Lung", "lung: Lungs")) != before
    assert decisive(f"{BASE}\nseed: 1\n") != before


# --- the other parts ------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    kept = Checkpoint(
        {"network": {"weight": torch.arange(3.0)}}, {"seed": 1, "epoch": 2, "done": 3},
        {"step": 5, "epoch_loss": 0.1}, {"catalog": "abc"}, {"seed": "1"},
    )  # fmt: skip

    kept.save(tmp_path / "last.pt")
    back = Checkpoint.load(tmp_path / "last.pt")

    assert torch.equal(back.state["network"]["weight"], torch.arange(3.0))
    for name in ("sampler", "progress", "fingerprints", "settings"):
        assert getattr(back, name) == getattr(kept, name)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.pt").write_bytes(content)

    with pytest.raises(ConfigError, match=r"last\.pt: no checkpoint"):
        Checkpoint.load(tmp_path / "last.pt")


def test_a_checkpoint_of_other_weights_alone_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "last.pt")

    with pytest.raises(ConfigError, match="no checkpoint of this version"):
        Checkpoint.load(tmp_path / "last.pt")


def test_records_go_on_without_the_steps_that_are_taken_again(tmp_path: Path) -> None:
    ranks = Ranks(0, 1, torch.device("cpu"))
    with Records(tmp_path, ranks) as records:
        records.begin(step=0, epoch=0)
        for step in (1, 2, 3):
            records.add_step(epoch=0, step=step, loss=1.0, samples=["a"])
        records.add_epoch(epoch=0, step=3, loss=1.0)
        records.add_step(epoch=1, step=4, loss=1.0, samples=["a"])
        records.add_step(epoch=1, step=5, loss=1.0, samples=["a"])
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"kind": "ste')

    with Records(tmp_path, ranks) as records:
        records.begin(step=4, epoch=1)
        records.add_step(epoch=1, step=5, loss=2.0, samples=["b"])

    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert '"loss": 2.0' in lines[-1]


def test_scores_count_voxels_by_class() -> None:
    # Two voxels of class 0 of which one was found as 1; one of class 1, found.
    counts = torch.tensor([[1.0, 1, 0], [2, 1, 0], [1, 2, 0]])

    scores = Scores.of(torch.tensor([3.0, 2]), counts, ("background", "organ", "absent"))

    assert scores.loss == 1.5
    assert scores.accuracy == pytest.approx(2 / 3)
    assert scores.dice == {
        "background": pytest.approx(2 / 3), "organ": pytest.approx(2 / 3), "absent": None,
    }  # fmt: skip


def test_without_a_gpu_float16_is_refused() -> None:
    cpu = torch.device("cpu")

    assert choose_precision("auto", cpu) == "float32"
    assert choose_precision("bfloat16", cpu) == "bfloat16"
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        choose_precision("float16", cpu)

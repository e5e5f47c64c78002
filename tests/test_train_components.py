"""Names in a file of settings -> objects: classes of the wanted kind, and no code."""

from __future__ import annotations

import resource
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.networks.nets import UNet
from monai.transforms import Compose, Flipd, RandFlipd

from dicomdata.config import load_settings
from dicomdata.config.training import TrainingSettings
from dicomdata.errors import ConfigError, FileError
from dicomdata.loader import collate
from dicomdata.training import (
    Checkpoint,
    Learner,
    Ranks,
    Records,
    Scores,
    Targets,
    build,
    build_transforms,
    choose_precision,
    compare_transforms,
    remove_partials,
)
from dicomdata.training.targets import check_activation

if TYPE_CHECKING:
    from pathlib import Path

    from dicomdata.training.learner import Precision

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


def test_other_images_than_are_learned_from_are_told() -> None:
    learned: list[dict[str, Any]] = [
        {"_target_": "Spacingd", "keys": "image", "pixdim": [1, 1, 1]},
        {"_target_": "RandFlipd", "keys": "image"},
    ]

    def told(*validated: dict[str, Any]) -> list[str]:
        return compare_transforms(build_transforms(learned), build_transforms(validated))

    assert told(learned[0]) == []
    (missing,) = told()
    assert missing.startswith("Spacingd: of transforms, and not of validation_transforms")
    (random,) = told(*learned)
    assert random.startswith("RandFlipd: of validation_transforms, and random")


def test_scaled_gradients_may_begin_where_there_were_none() -> None:
    network = build(UNET, "network")
    plain, scaled = (learner_of(network, DICE, each) for each in ("float32", "float16"))

    scaled.load_state_dict(plain.state_dict())

    assert scaled.state_dict()["scaler"]["scale"] > 1


# --- loss and labels ------------------------------------------------------------------------------

CLASSES = Targets(("background", "organ"))
CHANNELS = Targets(("organ", "core"), overlapping=True)
ONE_CHANNEL = Targets(("organ",), overlapping=True)


@pytest.mark.parametrize(
    ("targets", "loss"),
    [
        (CLASSES, {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True}),
        (CLASSES, {"_target_": "DiceLoss", "to_onehot_y": True, "sigmoid": True}),
        (CLASSES, {"_target_": "DiceFocalLoss", "to_onehot_y": True, "softmax": True}),
        (CLASSES, {"_target_": "GeneralizedDiceFocalLoss", "to_onehot_y": True, "softmax": True}),
        (CLASSES, {"_target_": "CrossEntropyLoss"}),
        (CHANNELS, {"_target_": "DiceLoss", "sigmoid": True}),
        (CHANNELS, {"_target_": "DiceFocalLoss", "sigmoid": True, "gamma": 0.0}),
        (CHANNELS, {"_target_": "DiceCELoss", "sigmoid": True, "lambda_ce": 0.0}),
        (CHANNELS, {"_target_": "TverskyLoss", "sigmoid": True}),
        (CHANNELS, {"_target_": "FocalLoss"}),
        (CHANNELS, {"_target_": "BCEWithLogitsLoss"}),
        (CHANNELS, {"_target_": "MultiLabelSoftMarginLoss"}),
        (CHANNELS, {"_target_": "GeneralizedDiceFocalLoss", "sigmoid": True}),
        (ONE_CHANNEL, {"_target_": "DiceCELoss", "sigmoid": True}),
        (ONE_CHANNEL, {"_target_": "BCEWithLogitsLoss"}),
    ],
)
def test_a_loss_of_the_same_form_as_the_labels_is_lowest_where_all_is_right(
    targets: Targets, loss: dict[str, Any]
) -> None:
    made = build(loss, "loss")
    count = len(targets.classes)
    truth = torch.zeros(1, count, 2, 4, 4)
    truth[:, -1, :, 1:3, 1:3] = 1
    truth[:, 0] = truth[:, -1] if targets.overlapping else 1 - truth[:, -1]
    label = truth if targets.overlapping else truth.argmax(1, keepdim=True)

    targets.check_loss(made)

    wanted = targets.prepare(label, made)
    right = float(made(40 * truth - 20, wanted))
    assert right == pytest.approx(0, abs=1e-3)
    for channel in range(count):
        for voxel in (0, 5):
            output = 40 * truth - 20
            output[0, channel].view(-1)[voxel] *= -1
            assert float(made(output, wanted)) > right


@pytest.mark.parametrize(
    ("targets", "loss", "told"),
    [
        (CHANNELS, {"_target_": "DiceLoss", "softmax": True}, "softmax: true is for classes that"),
        (CHANNELS, {"_target_": "DiceLoss", "to_onehot_y": True, "sigmoid": True}, "to_onehot_y"),
        # Its cross entropy is that of one class a voxel, whatever it is told.
        (CHANNELS, {"_target_": "DiceCELoss", "sigmoid": True}, "its cross entropy is of classes"),
        (CHANNELS, {"_target_": "FocalLoss", "use_softmax": True}, "softmax: true"),
        (CHANNELS, {"_target_": "CrossEntropyLoss"}, "CrossEntropyLoss is for classes that"),
        (CHANNELS, {"_target_": "NACLLoss", "classes": 2, "dim": 3}, "CrossEntropyLoss is for"),
        (CHANNELS, {"_target_": "DiceLoss", "sigmoid": True, "include_background": False},
         "leaves out the first channel"),
        (ONE_CHANNEL, {"_target_": "DiceCELoss", "softmax": True}, "softmax: true"),
        # What would be found from 0.5 on is found from 0 on, as logits are.
        (CHANNELS, {"_target_": "DiceLoss"}, "is not told sigmoid: true"),
        (CHANNELS, {"_target_": "TverskyLoss", "other_act": None}, "is not told sigmoid: true"),
        (CHANNELS, {"_target_": "BCELoss"}, "BCELoss takes no logits"),
        (CHANNELS, {"_target_": "MSELoss"}, "MSELoss takes no logits"),
        (CLASSES, {"_target_": "DiceCELoss", "softmax": True}, "to_onehot_y: true"),
        (CLASSES, {"_target_": "DiceLoss", "sigmoid": True}, "to_onehot_y: true"),
        (CLASSES, {"_target_": "BCEWithLogitsLoss"}, "labels.overlap: channels"),
        # PyTorch would broadcast numbers of classes to all channels.
        (CLASSES, {"_target_": "MSELoss"}, "compares each output with a number of its own"),
        (CLASSES, {"_target_": "DeepSupervisionLoss", "loss": {"_target_": "CrossEntropyLoss"}},
         "takes no CrossEntropyLoss: DiceCELoss with lambda_dice: 0"),
    ],
)  # fmt: skip
def test_a_loss_of_another_form_than_the_labels_is_refused(
    targets: Targets, loss: dict[str, Any], told: str
) -> None:
    made = build(loss, "loss")

    with pytest.raises(ConfigError, match=told):
        targets.check_loss(made)


def test_a_loss_that_takes_no_probabilities_of_numbers_is_refused() -> None:
    loss = build({"_target_": "DiceLoss", "to_onehot_y": True}, "loss")

    check_activation(loss, torch.rand(1, 2, 2, 2, 2))  # a network that ends in a softmax
    with pytest.raises(ConfigError, match="no probabilities: -1 to 3"):
        check_activation(loss, torch.tensor([-1.0, 3.0]))


@pytest.mark.parametrize(
    ("targets", "label", "told"),
    [
        (CLASSES, torch.full((1, 1, 2, 2, 2), 0.4), "label: holds 0.4, .* mode: nearest"),
        (CLASSES, torch.full((1, 1, 2, 2, 2), 2.0), "label: holds 2, expected whole numbers"),
        (CHANNELS, torch.full((1, 2, 2, 2, 2), 0.4), "label: holds 0.4"),
        (CHANNELS, torch.ones(1, 1, 2, 2, 2), r"has shape \(1, 1, 2, 2, 2\), expected \(1, 2,"),
        (CLASSES, torch.ones(1, 1, 2, 2, 4), r"keys: \[image, label\]"),
    ],
)
def test_a_label_that_a_transform_made_something_else_of_is_refused(
    targets: Targets, label: torch.Tensor, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        targets.check_label(label, torch.zeros(1, 1, 2, 2, 2))


def test_a_transform_of_the_image_alone_that_moves_it_is_refused() -> None:
    def sample() -> Any:
        return {key: MetaTensor(torch.zeros(1, 4, 4, 4), torch.eye(4)) for key in BOTH}

    learner = learner_of(build(UNET, "network"), DICE)

    learner.learn(collate([Flipd(BOTH, 0)(sample()), sample()]))
    with pytest.raises(ConfigError, match=r"sample 2 .* 3 mm: .* keys: \[image, label\]"):
        learner.learn(collate([sample(), Flipd("image", 0)(sample())]))


def test_classes_that_overlap_are_counted_each_by_itself() -> None:
    # Four voxels: of both classes, of the first, of the second, of none. The last output is 0,
    # a probability of one half: found.
    label = torch.tensor([[[1.0, 1, 0, 0], [1, 0, 1, 0]]])
    output = torch.tensor([[[5.0, 5, -5, -5], [5, 5, 5, 0]]])

    counts, voxels = CHANNELS.count(output, label)

    assert counts.tolist() == [[2, 2], [2, 2], [2, 4]]
    assert voxels.tolist() == [2, 4]


def learner_of(
    network: torch.nn.Module, loss: dict[str, Any], precision: Precision = "float32"
) -> Learner:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    ranks = Ranks(0, 1, torch.device("cpu"))
    return Learner(network, build(loss, "loss"), optimizer, None, ranks, CLASSES, precision)


class Twice(torch.nn.Conv3d):
    """Two outputs, in evaluation too."""

    def forward(self, image: torch.Tensor) -> Any:
        output = super().forward(image)
        return [output, output[..., ::2, ::2, ::2]]


BOTH = ["image", "label"]

DICE = {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True}


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (DICE, "gives 2 outputs .* DeepSupervisionLoss"),
        ({"_target_": "DeepSupervisionLoss", "loss": DICE}, "gives 2 outputs in evaluation too"),
    ],
)
def test_several_outputs_are_refused_where_nothing_says_what_they_are_for(
    loss: dict[str, Any], told: str
) -> None:
    batch = {"image": torch.rand(1, 1, 4, 4, 4), "label": torch.zeros(1, 1, 4, 4, 4)}

    with pytest.raises(ConfigError, match=told):
        learner_of(Twice(1, 2, 1), loss).learn(batch)


def test_what_a_network_cannot_take_is_told_with_its_shape() -> None:
    network = build({**UNET, "channels": [2, 4, 8], "strides": [2, 2]}, "network")
    batch = {"image": torch.rand(1, 1, 5, 5, 5), "label": torch.zeros(1, 1, 5, 5, 5)}

    with pytest.raises(ConfigError, match=r"network UNet, given \(1, 1, 5, 5, 5\): RuntimeError"):
        learner_of(network, DICE).learn(batch)


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
        (
            f"{{kind: SEG, overlap: channels, segments: {dict.fromkeys('abcdefghijklmnop', 'x')}}}",
            "16 segments with overlap: channels: expected 15 at most",
        ),
        (
            "{kind: [SEG, RTSTRUCT], segments: {a: b}, table: x}",
            "labels of kind SEG and RTSTRUCT know no table",
        ),
        ("{kind: seg, segments: {a: b}}", "input should be 'SEG', 'RTSTRUCT', 'files' or 'cases'"),
        ("{kind: [SEG, files], segments: {a: b}}", "input should be 'SEG' or 'RTSTRUCT'"),
        (
            "{kind: files, table: x, column: y, columns: {a: b}}",
            "column and columns: expected one of them",
        ),
        ("{kind: files, table: x, columns: {}}", "labels of kind files need segments"),
        ("{kind: cases, table: x, columns: {a: b}}", "labels of kind cases know no columns"),
        ("{kind: cases, table: x, classes: [a]}", "labels of kind cases need two classes"),
        ("{kind: cases, table: x, segments: {a: b}}", "labels of kind cases know no segments"),
    ],
)
def test_labels_have_the_settings_of_their_kind(tmp_path: Path, labels: str, told: str) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(BASE.replace("{kind: SEG, segments: {lung: Lung}}", labels))

    with pytest.raises(ConfigError, match=told):
        load_settings(path, TrainingSettings)


def test_columns_name_the_classes_where_nothing_else_does(tmp_path: Path) -> None:
    def names(labels: str) -> tuple[str, ...]:
        path = tmp_path / "train.yaml"
        path.write_text(BASE.replace("{kind: SEG, segments: {lung: Lung}}", labels))
        return load_settings(path, TrainingSettings).labels.class_names

    columns = "kind: files, table: x, columns: {lobe_1: a, lobe_2: b}"

    assert names(f"{{{columns}}}") == ("background", "lobe_1", "lobe_2")
    assert names(f"{{{columns}, segments: {{lung: lobe_.*}}}}") == ("background", "lung")


def test_the_order_of_classes_decides_what_is_learned(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    told = []
    for segments in ("{lung: Lung, tumour: GTV}", "{tumour: GTV, lung: Lung}"):
        path.write_text(BASE.replace("{lung: Lung}", segments))
        told.append(load_settings(path, TrainingSettings).decisive["labels"])

    assert told[0] != told[1]


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


def test_a_checkpoint_with_a_damaged_number_is_refused(tmp_path: Path) -> None:
    checkpoint_of(torch.arange(1000.0)).save(tmp_path / "last.pt")
    content = bytearray((tmp_path / "last.pt").read_bytes())
    content[len(content) // 2] ^= 0x40
    (tmp_path / "last.pt").write_bytes(content)

    with pytest.raises(ConfigError, match=r"last\.pt: no checkpoint: .* checksum"):
        Checkpoint.load(tmp_path / "last.pt")


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    checkpoint_of(torch.zeros(1)).save(tmp_path / "last.pt")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(FileError, match=r"last\.pt: cannot be written"):
            checkpoint_of(torch.zeros(100_000)).save(tmp_path / "last.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert Checkpoint.load(tmp_path / "last.pt").state["weight"].shape == (1,)


def test_what_a_killed_run_began_to_write_is_removed(tmp_path: Path) -> None:
    for name in ("last.pt", "last.pt.0123abcd.partial", "of mine.partial"):
        (tmp_path / name).touch()

    remove_partials(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "of mine.partial"]


def checkpoint_of(weight: torch.Tensor) -> Checkpoint:
    return Checkpoint({"weight": weight}, {"seed": 1, "epoch": 0, "done": 0}, {"step": 1}, {})


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


def test_long_work_is_not_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomdata.training.records._QUIET", 0.0)
    with Records(tmp_path, Ranks(0, 1, torch.device("cpu"))) as records:
        records.begin(step=0, epoch=0)
        for step in records.track(range(1, 3), total=2, what="epoch 0"):
            records.add_step(epoch=0, step=step, loss=0.5, samples=["a"])
        for _ in records.track("ab", total=2, what="validation"):
            pass

    assert capsys.readouterr().err.splitlines() == [
        "train: epoch 0: 1 of 2, loss 0.5000", "train: epoch 0: 2 of 2, loss 0.5000",
        "train: validation: 1 of 2", "train: validation: 2 of 2",
    ]  # fmt: skip


def test_a_terminal_is_shown_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", shown := Terminal())
    with Records(tmp_path, Ranks(0, 1, torch.device("cpu"))) as records:
        given = list(records.track("ab", total=2, what="validation"))

    assert given == ["a", "b"]
    assert "validation" in shown.getvalue()


def test_scores_count_voxels_by_class() -> None:
    # Two voxels of class 0 of which one was found as 1; one of class 1, found.
    counts = torch.tensor([[1.0, 1, 0], [2, 1, 0], [1, 2, 0]])

    scores = Scores.of(torch.tensor([3.0, 2, 2, 3]), counts, ("background", "organ", "absent"))

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

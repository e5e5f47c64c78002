"""Scores a trained network, or predictions in files, on the grid of the source images.

    python scripts/evaluate.py --config FILE                          the network of its best.pt
    python scripts/evaluate.py --config FILE --checkpoint run/last.pt
    python scripts/evaluate.py --config FILE --save FOLDER            and write what it finds
    python scripts/evaluate.py --config FILE --predictions FOLDER     DICOM, or label files

The settings are those of the training, so that images and labels are found and prepared in the
same way. ``scores.csv``, ``scores.json`` and ``scores.html`` are left in the folder of `--out`;
of classes of whole cases, the first two.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from monai.transforms.compose import Compose
from train import BEST, UNIT, find_labels, has_label, refusals, scan_and_plan

import dicomdata as dd
from dicomdata.cli.printing import plain
from dicomdata.config import load_settings
from dicomdata.config.training import TrainingSettings
from dicomdata.training import Checkpoint, Ranks, build, build_transforms, join_ranks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    AnyCase = TypeVar("AnyCase", dd.Case, dd.ClassCase)

FILE_ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")
"""Of prediction files that are called by the id of their stack."""

FORMATS = ("seg", "rtstruct", "nii.gz", "mha", "nrrd")
"""What predictions can be written as."""

PREPARING = ("network", "window", "patches", "validation_transforms", "labels", "upload")
"""Settings that decide what a network sees and says: those of the checkpoint must be the same."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and evaluate.

    The status is 1 where a case was rejected or a prediction could not be written, 2 where
    nothing was scored.
    """
    options = read_options(arguments)
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise dd.ConfigError("torchrun: each rank would score all cases: start one process")
        settings = load_settings(options.config, TrainingSettings)
        with join_ranks(settings.device) as ranks:
            task = find_task(settings, ranks, options)
            classes = settings.labels.kind == "cases"
            scored, lost = (evaluate_classes if classes else evaluate)(task, options)
    except dd.DicomDataError as error:
        print(f"evaluate: {plain(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    for what, each in lost:
        print(f"{what}: {plain(each.subject)}: {plain(str(each))}")
    if not scored:
        return 2
    return 1 if lost else 0


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", required=True, help="the YAML file of the training")
    add("--checkpoint", help="of the network; best.pt of the training's folder by default")
    add("--predictions", help="a folder of predictions, in the place of a network")
    add("--part", help="of the split; the training's validation part by default")
    add("--out", help="folder of the results; 'evaluation' in the training's by default")
    add("--by", action="append", default=[], help="a column of the catalog to group by")
    add("--tolerance-mm", type=float, help="distance that is no error, for surface Dice")
    add("--both-empty", choices=("skip", "agree"), default="skip", help="what neither has")
    add("--resample", action="store_true", help="bring predictions on other grids to the source's")
    add("--worst", type=int, default=6, help="cases to draw")
    add("--seed", type=int, default=0, help="of the intervals")
    add("--other-split", action="store_true", help="patients of another split than was trained on")
    add("--save", help="a folder to write predictions to")
    add("--format", choices=FORMATS, default="seg", help="what to write them as; DICOM SEG else")
    add("--sliding-window", metavar="SLICES,ROWS,COLUMNS", type=read_size,
        help="let the network see whole volumes, after the transforms, through windows of this "
        "size, by MONAI's inferer")  # fmt: skip
    add("--overlap", type=float, help="of windows; that of the training's patches by default")
    add("--weight", choices=("constant", "gaussian"), default="constant",
        help="how much the voxels of a window count where several overlap")  # fmt: skip
    add("--allow", action="append", default=[], help="a package that targets may be of, too")
    return parser.parse_args(arguments)


def read_size(text: str) -> tuple[int, int, int]:
    """Read three whole numbers."""
    slices, rows, columns = (int(each) for each in text.split(","))
    if min(slices, rows, columns) < 1:
        raise ValueError(text)
    return slices, rows, columns


# --- what is evaluated ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Task:
    """Which stacks are looked at, and what is true of them."""

    settings: TrainingSettings
    ranks: Ranks
    plan: dd.StackPlan
    stacks: tuple[dd.Stack, ...]
    labels: dd.LabelFiles | dd.CaseLabels
    split: str
    """Fingerprint of the split."""


def find_task(settings: TrainingSettings, ranks: Ranks, options: argparse.Namespace) -> Task:
    """Find the labelled stacks of a part.

    Raises:
        DicomDataError: if settings, split and labels do not go together, or none has a label.
    """
    plan = scan_and_plan(settings, ranks)
    split = dd.Split.load(settings.data.split)
    if settings.data.fold is not None:
        split = split.fold(settings.data.fold)
    part = options.part or settings.data.validate_on
    if part is None:
        raise dd.ConfigError("--part: the settings validate on nothing: say which part to score")
    labels = find_labels(settings, plan)
    chosen = split.stacks(plan, part)
    stacks = tuple(stack for stack in chosen if has_label(labels, stack))
    if not stacks:
        raise dd.ConfigError(f"part {part!r}: none of its {len(chosen)} stacks has a label")
    print(f"{part}: {len(stacks)} stacks, {len(chosen) - len(stacks)} more without a label")
    for text in refusals(labels, chosen):
        print(plain(text))
    if plan.rejected:
        # Of no part, so in no mean: whoever reads the means should know.
        print(plain(f"{len(plan.rejected)} series of the archive are in no part, as they are no "
                    f"stack: first {plan.rejected[0].subject}: {plan.rejected[0]}"))  # fmt: skip
    return Task(settings, ranks, plan, stacks, labels, split.fingerprint)


Lost = list[tuple[str, dd.Rejection]]
"""What became of a case, and why."""


def evaluate(task: Task, options: argparse.Namespace) -> tuple[int, Lost]:
    """Score masks, and write what was found.

    Returns:
        How many cases were scored, and what could not be scored, or written.

    Raises:
        DicomDataError: if settings, labels and checkpoint do not go together.
    """
    rules = dd.ScoringRules(
        tolerance_mm=options.tolerance_mm,
        both_empty=options.both_empty,
        resample=options.resample,
    )
    labels = cast("dd.LabelFiles", task.labels)
    saver = Saver.of(task, options)
    predictions = (
        Predictions.find(task, options) if options.predictions else Network.load(task, options)
    )
    # The worst are drawn: what was predicted is not predicted again for that.
    read = dd.KeptMasks(lambda stack: saver.save(predictions.read(stack)))
    cases = [
        dd.Case(stack, partial(labels.read, stack), partial(read, stack)) for stack in task.stacks
    ]
    report = dd.evaluate(tell_each(cases), rules, seed=options.seed, by=options.by)
    out = options.out or os.path.join(task.settings.folder, "evaluation")
    report.to_csv(os.path.join(out, "scores.csv"))
    report.to_json(os.path.join(out, "scores.json"))
    report.to_html(os.path.join(out, "scores.html"), cases, worst=options.worst)
    print(f"written: {os.path.join(out, 'scores.html')}, and .csv and .json beside it")
    for row in report.summaries:
        if row.measure == "dice":
            print(
                plain(
                    f"{named(row.column, row.value)}{row.segment}: Dice {row.mean:.4f} "
                    f"({row.low:.4f} to {row.high:.4f}), {row.cases} cases of {row.patients} "
                    f"patients, {row.skipped} skipped"
                )
            )
    return len(cases) - len(report.rejected), [
        *(("rejected", each) for each in report.rejected),
        *(("not saved", each) for each in saver.failed.values()),
    ]


def tell_each(cases: Sequence[AnyCase]) -> Iterator[AnyCase]:
    """Give cases one by one, and say which is next: one may take minutes."""
    for number, case in enumerate(cases, 1):
        print(f"evaluate: case {number} of {len(cases)}: {case.stack.id}", file=sys.stderr)
        yield case


def evaluate_classes(task: Task, options: argparse.Namespace) -> tuple[int, Lost]:
    """Compare classes of cases, and write what was found.

    Returns:
        How many cases were compared, and what could not be.

    Raises:
        DicomDataError: if settings, labels and checkpoint do not go together.
    """
    if options.predictions or options.save:
        raise dd.ConfigError(
            "--predictions and --save are of masks: with labels.kind 'cases', scores.csv holds "
            "what the network says"
        )
    labels = cast("dd.CaseLabels", task.labels)
    network = Network.load(task, options)
    classes = task.settings.labels.class_names
    cases = [
        dd.ClassCase(stack, classes[int(labels.of(stack) or 0)], partial(network.classify, stack))
        for stack in task.stacks
    ]
    report = dd.evaluate_classes(tell_each(cases), classes, seed=options.seed, by=options.by)
    out = options.out or os.path.join(task.settings.folder, "evaluation")
    report.to_csv(os.path.join(out, "scores.csv"))
    report.to_json(os.path.join(out, "scores.json"))
    print(f"written: {os.path.join(out, 'scores.csv')}, and .json beside it")
    for row in report.summaries:
        what = f"{row.measure.replace('_', ' ')} of {row.name}" if row.name else row.measure
        print(
            plain(
                f"{named(row.column, row.value)}{what.replace('_', ' ')} {row.found:.4f} "
                f"({row.low:.4f} to {row.high:.4f}), {row.cases} cases of {row.patients} patients"
            )
        )
    return len(report.rows), [("rejected", each) for each in report.rejected]


def named(column: str, value: str) -> str:
    """Say which group a line is about; nothing for all cases."""
    return f"{column} {value or 'not stated'}: " if column else ""


# --- predictions out ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Saver:
    """Writes masks to a folder, each called by the id of its stack; or none."""

    folder: str | None
    format: str
    failed: dict[str, dd.Rejection] = field(default_factory=dict)
    """Id of a stack -> why its mask could not be written: its score counts."""

    @classmethod
    def of(cls, task: Task, options: argparse.Namespace) -> Saver:
        """Write to where the command says.

        Raises:
            ConfigError: if the next run would take predictions there for labels.
        """
        data, labels = task.settings.data, task.settings.labels
        for place in (data.archive, labels.folder):
            if options.save and place and is_within(options.save, place):
                raise dd.ConfigError(
                    f"--save {options.save}: lies in {place}, where labels are looked for: "
                    f"predictions would be taken for some"
                )
        return cls(options.save, options.format)

    def save(self, mask: dd.Mask) -> dd.Mask:
        """Write a mask, if that is wanted, and give it."""
        if self.folder is None:
            return mask
        dicom = {"seg": dd.write_segmentation, "rtstruct": dd.write_structures}
        ending = "dcm" if self.format in dicom else self.format
        path = os.path.join(self.folder, f"{mask.stack.id}.{ending}")
        try:
            os.makedirs(self.folder, exist_ok=True)
            if self.format in dicom:
                dicom[self.format](path, mask, mask.stack)
            else:
                dd.write_volume(path, mask)
        except OSError as error:
            raise dd.FileError(f"{self.folder}: cannot be written: {error.strerror}") from error
        except dd.DicomDataError as error:
            self.failed[mask.stack.id] = dd.Rejection(mask.stack.id, error)
        return mask


def is_within(path: str, folder: str) -> bool:
    """Tell whether a path is a folder, or lies below it."""
    real, whole = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([real, whole]) == whole


# --- predictions in files -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of others: DICOM SEG, or files of class numbers named by the stack's id."""

    readings: tuple[dd.LabelFiles, dd.LabelFiles]
    """Read as labels are: by the names of the classes, and by the patterns of the labels."""

    @classmethod
    def find(cls, task: Task, options: argparse.Namespace) -> Predictions:
        """Find them in a folder.

        Raises:
            LabelError: if a stack has several that give the same class.
            FileError: if there is no such folder.
        """
        folder = os.path.abspath(options.predictions)
        files: dict[str, Any] = {}
        # The archive may hold the labels: only what lies in the folder is a prediction.
        for match in dd.find_labels(task.plan, folder).matches:
            if is_within(match.path, folder):
                files.setdefault(match.stack.id, []).append((match.kind, match.path))
        for stack in task.plan.stacks:
            paths = (os.path.join(folder, stack.id + ending) for ending in FILE_ENDINGS)
            found = [("file", path) for path in paths if os.path.isfile(path)]
            files.setdefault(stack.id, []).extend(found)
            if found and len(files[stack.id]) > 1:
                paths_told = " and ".join(path for _, path in files[stack.id])
                raise dd.LabelError(f"stack {stack.id}: has several predictions, {paths_told}")
        told = task.settings.labels
        exact = {name: re.escape(name) for name in told.segments}
        how: dict[str, Any] = {
            "missing": "empty", "resample": options.resample, "by_images": told.by_images
        }  # fmt: skip
        chosen = {stack: tuple(found) for stack, found in files.items() if found}
        one, other = (dd.LabelFiles(chosen, names, **how) for names in (exact, told.segments))
        return cls((one, other))

    def read(self, stack: dd.Stack) -> dd.Mask:
        """Read the prediction of a stack; a segment that it lacks was not found.

        Raises:
            LabelError: if there is none; or if it lacks a segment, and has another whose name
                says nothing: that could be it.
        """
        for labels in self.readings:
            if not labels.has(stack):
                raise dd.LabelError(f"stack {stack.id}: no prediction in the folder")
            kind, path = labels.files[stack.id][0]
            mask = read_file(path, stack, labels) if kind == "file" else labels.read(stack)
            odd = [each for each in mask.findings if each.kind in {"missing", "left_out"}]
            if len({each.kind for each in odd}) < 2:
                return mask
        raise dd.LabelError(f"{mask.path}: {'; '.join(each.text for each in odd)}")


def read_file(path: str, stack: dd.Stack, labels: dd.LabelFiles) -> dd.Mask:
    """Read a prediction: names in the file are believed, numbers without are of the training.

    Raises:
        DicomDataError: if it cannot be read, or a number is of no class.
    """
    mask = dd.read_label_file(path, stack, resample=labels.resample)
    if any(each.name != str(each.number) for each in mask.segments):
        return dd.select_segments(mask, labels.segments, missing="empty")
    # 0 is the background, 1 the first class.
    numbers = {name: str(number) for number, name in enumerate(labels.segments, 1)}
    return dd.select_segments(mask, numbers, missing="empty", others="error")


# --- a network ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network, and the volumes as it was trained on them."""

    network: torch.nn.Module
    dataset: dd.VolumeDataset | dd.PatchDataset
    segments: tuple[str, ...]
    overlapping: bool
    """Whether each channel is a segment, and none the background."""

    how: dict[str, Any]
    """Other arguments of `predict`."""

    unit: str | None
    """What the images were in that it has learned from; None where the checkpoint is of before
    that was kept."""

    @classmethod
    def load(cls, task: Task, options: argparse.Namespace) -> Network:
        """Make the network of the settings, with the weights of the checkpoint.

        Raises:
            ConfigError: if the checkpoint is of other settings, or of another split.
        """
        settings = task.settings
        path = options.checkpoint or os.path.join(settings.folder, BEST)
        checkpoint = Checkpoint.load(path)
        for name in PREPARING:
            # A checkpoint of before there was the setting has its default.
            if checkpoint.settings.get(name, default_of(name)) != settings.decisive.get(name):
                raise dd.ConfigError(f"{path}: was trained with another setting of {name}")
        if not options.other_split and checkpoint.fingerprints.get("split") != task.split:
            raise dd.ConfigError(
                f"{path}: was trained with another split: patients it has learned from could be "
                f"in the part; --other-split says that they are not"
            )
        network = build(settings.network, "network", allowed=options.allow)
        network.load_state_dict(checkpoint.state["network"])
        dataset, how = prepare(task, options)
        overlapping = settings.labels.overlap == "channels"
        segments = tuple(settings.labels.segments)
        unit = checkpoint.settings.get(UNIT)
        return cls(network.to(task.ranks.device), dataset, segments, overlapping, how, unit)

    def read(self, stack: dd.Stack) -> dd.Mask:
        """Predict the mask of a stack."""
        activation, decide = ("sigmoid", "each") if self.overlapping else ("softmax", "argmax")
        shares = dd.predict(
            self.network, self.dataset, self._index(stack),
            activation=cast("Any", activation), **self.how,
        )  # fmt: skip
        return dd.to_mask(shares, stack, self.segments, decide=cast("Any", decide))

    def classify(self, stack: dd.Stack) -> Sequence[float]:
        """Predict the probability of each class of a stack as a whole."""
        dataset = cast("dd.VolumeDataset", self.dataset)
        found = dd.predict_classes(self.network, dataset, self._index(stack), activation="softmax")
        return cast("list[float]", found.tolist())

    def _index(self, stack: dd.Stack) -> int:
        if self.unit not in {None, stack.unit}:
            raise dd.ConfigError(
                f"stack {stack.id}: is in {stack.unit}, the network has learned from {self.unit}"
            )
        return [each.id for each in self.dataset.stacks].index(stack.id)


def default_of(name: str) -> str | None:
    """Give the default of a setting that came later than others, as checkpoints have it."""
    return '"float32"' if name == "upload" else None


def prepare(
    task: Task, options: argparse.Namespace
) -> tuple[dd.VolumeDataset | dd.PatchDataset, dict[str, Any]]:
    """Make the dataset that is predicted, and the arguments of `predict` that go with it."""
    settings = task.settings
    transform = build_transforms(settings.validation_transforms, options.allow)
    made: dict[str, Any] = {"transform": transform, "window": settings.window}
    if settings.upload == "int16":
        # After the transforms, as in the training; before what an inferer pads with 0.
        upload = partial(dd.upload, device="cpu", window=settings.window)
        made |= {
            "transform": Compose([*transform.transforms, upload]),
            "dtype": np.int16,
            "window": None,
        }
    if not isinstance(task.labels, dd.CaseLabels):
        made["labels"] = task.labels
    patches = settings.patches
    overlap = options.overlap
    if overlap is None:
        overlap = patches.overlap if patches is not None else 0.25  # MONAI's default
    if options.sliding_window is not None:
        from monai.inferers.inferer import SlidingWindowInferer

        inferer = SlidingWindowInferer(
            options.sliding_window[::-1], settings.batch_size, overlap, mode=options.weight
        )
        return dd.VolumeDataset(task.stacks, **made), {"inferer": inferer}
    if patches is None:
        return dd.VolumeDataset(task.stacks, **made), {}
    # A mask is read once for all patches of a stack.
    made["cache"] = dd.MemoryCache(settings.cache.max_bytes)
    where = dd.GridPatches(overlap=overlap)
    return dd.PatchDataset(task.stacks, patches.size, where=where, **made), {
        "batch_size": settings.batch_size,
        "num_workers": settings.workers,
        "weight": options.weight,
    }


if __name__ == "__main__":
    sys.exit(main())

"""Scores a trained network, or predictions in files, on the grid of the source images.

    python scripts/evaluate.py --config FILE                          the network of its best.pt
    python scripts/evaluate.py --config FILE --checkpoint run/last.pt
    python scripts/evaluate.py --config FILE --predictions FOLDER     DICOM SEG, or label files

The settings are those of the training, so that images and labels are found and prepared in the
same way. ``scores.csv``, ``scores.json`` and ``scores.html`` are left in the folder of `--out`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from train import BEST, find_labels, has_label, scan_and_plan

import dicomdata as dd
from dicomdata.cli.printing import plain
from dicomdata.config import load_settings
from dicomdata.config.training import TrainingSettings
from dicomdata.training import Checkpoint, Ranks, build, build_transforms, join_ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

FILE_ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")
"""Of prediction files that are called by the id of their stack."""

PREPARING = ("network", "window", "patches", "validation_transforms", "labels")
"""Settings that decide what a network sees and says: those of the checkpoint must be the same."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and evaluate; the status is 1 where cases were rejected, 2 for none."""
    options = read_options(arguments)
    try:
        settings = load_settings(options.config, TrainingSettings)
        with join_ranks(settings.device) as ranks:
            report = evaluate(settings, ranks, options)
    except dd.DicomDataError as error:
        print(f"evaluate: {plain(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    tell(report)
    return 1 if report.rejected else 0


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
    add("--save", help="a folder to write predictions to, as DICOM SEG")
    add("--allow", action="append", default=[], help="a package that targets may be of, too")
    return parser.parse_args(arguments)


def evaluate(settings: TrainingSettings, ranks: Ranks, options: argparse.Namespace) -> dd.Report:
    """Score the labelled stacks of a part, and write what was found.

    Raises:
        DicomDataError: if settings, split, labels and checkpoint do not go together.
    """
    if settings.labels.kind == "cases":
        raise dd.ConfigError("labels.kind: 'cases' has no voxels to compare")
    rules = dd.ScoringRules(
        tolerance_mm=options.tolerance_mm,
        both_empty=options.both_empty,
        resample=options.resample,
    )
    plan = scan_and_plan(settings, ranks)
    split = dd.Split.load(settings.data.split)
    if settings.data.fold is not None:
        split = split.fold(settings.data.fold)
    part = options.part or settings.data.validate_on
    if part is None:
        raise dd.ConfigError("--part: the settings validate on nothing: say which part to score")
    labels: Any = find_labels(settings, plan)
    chosen = split.stacks(plan, part)
    stacks = tuple(stack for stack in chosen if has_label(labels, stack))
    if not stacks:
        raise dd.ConfigError(f"part {part!r}: none of its {len(chosen)} stacks has a label")
    print(f"{part}: {len(stacks)} stacks, {len(chosen) - len(stacks)} more without a label")
    predictions: Predictions | Network = (
        Predictions.find(plan, settings, options)
        if options.predictions
        else Network.load(settings, ranks, options, (stacks, labels, split.fingerprint))
    )
    cases = [
        dd.Case(stack, partial(labels.read, stack), partial(predictions.read, stack))
        for stack in stacks
    ]
    report = dd.evaluate(cases, rules, seed=options.seed, by=options.by)
    out = options.out or os.path.join(settings.folder, "evaluation")
    report.to_csv(os.path.join(out, "scores.csv"))
    report.to_json(os.path.join(out, "scores.json"))
    report.to_html(os.path.join(out, "scores.html"), cases, worst=options.worst)
    print(f"written: {os.path.join(out, 'scores.html')}, and .csv and .json beside it")
    return report


def tell(report: dd.Report) -> None:
    """Print the Dice of each segment, of all cases and of each group; and what was rejected."""
    for row in report.summaries:
        if row.measure == "dice":
            group = f"{row.column} {row.value or 'not stated'}: " if row.column else ""
            print(
                plain(
                    f"{group}{row.segment}: Dice {row.mean:.4f} ({row.low:.4f} to {row.high:.4f}), "
                    f"{row.cases} cases of {row.patients} patients, {row.skipped} skipped"
                )
            )
    for each in report.rejected:
        print(f"rejected: {plain(each.subject)}: {plain(str(each))}")


# --- predictions in files -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of others: DICOM SEG, or files of class numbers named by the stack's id."""

    readings: tuple[dd.LabelFiles, dd.LabelFiles]
    """Read as labels are: by the names of the classes, and by the patterns of the labels."""

    @classmethod
    def find(
        cls, plan: dd.StackPlan, settings: TrainingSettings, options: argparse.Namespace
    ) -> Predictions:
        """Find them in a folder.

        Raises:
            LabelError: if a stack has several.
            FileError: if there is no such folder.
        """
        folder = os.path.abspath(options.predictions)
        files: dict[str, Any] = {}
        # The archive may hold the labels: only what lies in the folder is a prediction.
        matches: list[tuple[str, tuple[Any, str]]] = [
            (match.stack.id, (match.kind, match.path))
            for match in dd.find_labels(plan, folder).matches
            if os.path.commonpath([folder, os.path.abspath(match.path)]) == folder
        ]
        for stack in plan.stacks:
            paths = (os.path.join(folder, stack.id + ending) for ending in FILE_ENDINGS)
            matches += [(stack.id, ("file", path)) for path in paths if os.path.isfile(path)]
        for stack_id, found in matches:
            if stack_id in files:
                raise dd.LabelError(
                    f"stack {stack_id}: has two predictions, {files[stack_id][1]} and {found[1]}"
                )
            files[stack_id] = found
        told = settings.labels
        exact = {name: re.escape(name) for name in told.segments}
        how: dict[str, Any] = {
            "missing": "empty", "resample": options.resample, "by_images": told.by_images
        }  # fmt: skip
        one, other = (dd.LabelFiles(files, names, **how) for names in (exact, told.segments))
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
            kind, path = labels.files[stack.id]
            if kind == "file":
                # Numbers are those of the training: 0 is background, 1 the first class.
                names = dict(enumerate(labels.segments, 1))
                return dd.read_label_file(path, stack, names=names, resample=labels.resample)
            mask = labels.read(stack)
            odd = [each for each in mask.findings if each.kind in {"missing", "left_out"}]
            if len({each.kind for each in odd}) < 2:
                return mask
        raise dd.LabelError(f"{mask.path}: {'; '.join(each.text for each in odd)}")


# --- a network ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network, and the volumes as it was trained on them."""

    network: torch.nn.Module
    dataset: dd.VolumeDataset | dd.PatchDataset
    segments: tuple[str, ...]
    batch_size: int
    workers: int
    save: str | None
    """The folder that predictions are written to, or None."""

    @classmethod
    def load(
        cls,
        settings: TrainingSettings,
        ranks: Ranks,
        options: argparse.Namespace,
        data: tuple[tuple[dd.Stack, ...], Any, str],
    ) -> Network:
        """Make the network of the settings, with the weights of the checkpoint.

        Raises:
            ConfigError: if the checkpoint is of other settings, or of another split.
        """
        stacks, labels, split = data
        path = options.checkpoint or os.path.join(settings.folder, BEST)
        checkpoint = Checkpoint.load(path)
        for name in PREPARING:
            if checkpoint.settings.get(name) != settings.decisive.get(name):
                raise dd.ConfigError(f"{path}: was trained with another setting of {name}")
        if not options.other_split and checkpoint.fingerprints.get("split") != split:
            raise dd.ConfigError(
                f"{path}: was trained with another split: patients it has learned from could be "
                f"in the part; --other-split says that they are not"
            )
        network = build(settings.network, "network", allowed=options.allow)
        network.load_state_dict(checkpoint.state["network"])
        how: dict[str, Any] = {
            "transform": build_transforms(settings.validation_transforms, options.allow),
            "window": settings.window,
            "labels": labels,
        }
        dataset: dd.VolumeDataset | dd.PatchDataset = dd.VolumeDataset(stacks, **how)
        if settings.patches is not None:
            where = dd.GridPatches(overlap=settings.patches.overlap)
            # A mask is read once for all patches of a stack.
            how["cache"] = dd.MemoryCache(settings.cache.max_bytes)
            dataset = dd.PatchDataset(stacks, settings.patches.size, where=where, **how)
        return cls(
            network.to(ranks.device),
            dataset,
            tuple(settings.labels.segments),
            settings.batch_size,
            settings.workers,
            options.save,
        )

    def read(self, stack: dd.Stack) -> dd.Mask:
        """Predict a stack, and write what was found if that is wanted."""
        index = [each.id for each in self.dataset.stacks].index(stack.id)
        how: dict[str, Any] = {}
        if isinstance(self.dataset, dd.PatchDataset):
            how = {"batch_size": self.batch_size, "num_workers": self.workers}
        shares = dd.predict(self.network, self.dataset, index, activation="softmax", **how)
        mask = dd.to_mask(shares, stack, self.segments, decide="argmax")
        if self.save is not None:
            os.makedirs(self.save, exist_ok=True)
            dd.write_segmentation(os.path.join(self.save, f"{stack.id}.dcm"), mask, stack)
        return mask


if __name__ == "__main__":
    sys.exit(main())

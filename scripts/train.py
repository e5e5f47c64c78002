"""Trains a network on an archive: `python scripts/train.py --config configs/segmentation-seg.yaml`.

    python scripts/train.py --config FILE              begin
    python scripts/train.py --config FILE --resume     go on where it was, in mid-epoch too
    torchrun --nproc-per-node 2 scripts/train.py --config FILE --resume

What there is to choose is `dicomdata.config.training.TrainingSettings`; docs/training.md tells it
from the beginning. ``last.pt``, ``best.pt`` and ``log.jsonl`` are left in the folder that the
settings name.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.transforms.compose import Compose
from torch.utils.data import DataLoader

import dicomdata as dd
from dicomdata.cache import NoCache
from dicomdata.cli.printing import plain
from dicomdata.config import load_settings
from dicomdata.config.training import TrainingSettings
from dicomdata.dataset.masks import LabelReader
from dicomdata.splits.grouping import cases_of
from dicomdata.splits.records import fingerprint_of
from dicomdata.training import (
    Checkpoint,
    Images,
    Learner,
    Loop,
    NamedSamples,
    Ranks,
    Records,
    StoppedError,
    StopRequest,
    Targets,
    build,
    build_transforms,
    choose_precision,
    claim_folder,
    compare_transforms,
    ended_workers,
    fingerprint_of_stacks,
    heed_signals,
    is_named,
    join_ranks,
    leave_signals_to_parent,
    one_line,
    remove_partials,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dicomdata.cache import VolumeCache

LAST, BEST = "last.pt", "best.pt"

UNIT = "unit"
"""What a checkpoint calls the unit of the images that it has learned from."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and train; the status is 2 where something is wrong, in one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="a YAML file of settings")
    parser.add_argument("--resume", action="store_true", help="go on with the last checkpoint")
    parser.add_argument(
        "--allow", action="append", default=[], help="a package that targets may be of, too"
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the program an error was, too"
    )
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(options.config, TrainingSettings)
        with join_ranks(settings.device) as ranks:
            train(settings, ranks, resume=options.resume, allowed=options.allow)
    except (dd.DicomDataError, RuntimeError) as error:
        if not is_named(error):
            raise
        if options.traceback:
            traceback.print_exc()
        print(f"train: {plain(one_line(error))}", file=sys.stderr)
        return 2
    except StoppedError as stopped:
        print(f"train: {stopped}: --resume goes on", file=sys.stderr)
        return stopped.status
    except KeyboardInterrupt:
        return 130
    return 0


def train(
    settings: TrainingSettings, ranks: Ranks, *, resume: bool = False, allowed: Sequence[str] = ()
) -> None:
    """Train as the settings say.

    Args:
        settings: all there is to choose.
        ranks: the processes that train together.
        resume: go on with the last checkpoint, if there is one.
        allowed: packages besides MONAI and torch that targets may be of.

    Raises:
        DicomDataError: if something of the settings, the archive or the checkpoint does not fit.
    """
    last = os.path.join(settings.folder, LAST)
    if os.path.exists(last) and not resume:
        raise dd.ConfigError(f"{last}: a run is there: --resume goes on with it; or take another "
                             f"folder")  # fmt: skip
    try:
        os.makedirs(settings.folder, exist_ok=True)
    except OSError as error:
        raise dd.FileError(f"{settings.folder}: no folder: {error.strerror}") from error
    # Before anything of another run is touched: it may be writing.
    with claim_folder(settings.folder) if ranks.first else nullcontext():
        if ranks.first:
            remove_partials(settings.folder)
        train_in_folder(settings, ranks, last, allowed)


def train_in_folder(
    settings: TrainingSettings, ranks: Ranks, last: str, allowed: Sequence[str]
) -> None:
    """Train from the beginning, or from the last checkpoint, if there is one."""
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(mode=True)
    # What is misspelt is told before an archive is scanned.
    learner = make_learner(settings, ranks, allowed)
    transforms = [
        build_transforms(each, allowed)
        for each in (settings.transforms, settings.validation_transforms)
    ]
    with Records(settings.folder, ranks, tensorboard=settings.tensorboard) as records:
        for difference in compare_transforms(*transforms):
            records.say(difference)
        task = find_task(settings, ranks, records)
        cache = make_cache(settings, ranks)
        dataset = make_dataset(settings, task, cache, transforms[0], records)
        sampler = dd.EpochSampler(dataset, seed=settings.seed)
        loop = Loop(
            learner,
            make_loader(settings, ranks, dataset, sampler),
            sampler,
            records,
            settings.seed,
            settings.checkpoint_every,
        )
        if os.path.exists(last):
            restore(Checkpoint.load(last), loop, task, last)
        records.begin(step=int(loop.progress["step"]), epoch=sampler.epoch)
        validation = None
        if task.parts["validation"]:
            watched = make_dataset(settings, task, cache, transforms[1])
            order = dd.EpochSampler(watched, seed=settings.seed, shuffle=False, tail="uneven")
            validation = make_loader(settings, ranks, watched, order)
        loaders = [loop.loader] if validation is None else [loop.loader, validation]
        with heed_signals(ranks) as stop, ended_workers(loaders):
            run(settings, loop, task, validation, stop)


# --- what is learned ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Task:
    """Which stacks are learned from, and what."""

    parts: dict[str, tuple[dd.Stack, ...]]
    """"training" and "validation"."""

    labels: dd.LabelFiles | dd.CaseLabels
    """Of voxels, or of cases."""

    fingerprints: dict[str, str]
    """What makes it another training."""

    settings: dict[str, str]
    """Those that decide what is learned."""


def find_task(settings: TrainingSettings, ranks: Ranks, records: Records) -> Task:
    """Scan, plan, split and find the labels."""
    plan = scan_and_plan(settings, ranks)
    split = dd.Split.load(settings.data.split)
    if settings.data.fold is not None:
        split = split.fold(settings.data.fold)
    names = {"training": settings.data.train, "validation": settings.data.validate_on}
    if names["training"] == names["validation"]:
        raise dd.ConfigError(f"data: part {names['training']!r} is to train and to validate")
    parts = {
        role: split.stacks(plan, part) if part is not None else () for role, part in names.items()
    }
    labels = find_labels(settings, plan)
    labelled = {
        role: choose_labelled(role, stacks, labels, settings, records)
        for role, stacks in parts.items()
    }
    check_stacks(labelled, settings)
    fingerprints = {
        "catalog": fingerprint_of(cases_of(plan.catalog)),
        "split": split.fingerprint,
        "selection of stacks": fingerprint_of_stacks(labelled),
        "set of labels": fingerprint_of_labels(labelled, labels),
    }
    for role, stacks in labelled.items():
        records.say(
            f"{role}: {len(stacks)} stacks of {len({s.patient_id for s in stacks})} patients"
        )
    unit = labelled["training"][0].unit
    decisive = {**settings.decisive, "ranks": str(ranks.count), UNIT: unit}
    return Task(labelled, labels, fingerprints, decisive)


def scan_and_plan(settings: TrainingSettings, ranks: Ranks) -> dd.StackPlan:
    """Scan on the first rank; the others open what it found."""
    data = settings.data
    path = data.catalog or os.path.join(settings.folder, "archive.catalog")
    if ranks.first:
        dd.scan(data.archive, catalog=path)
    ranks.wait()
    chosen = dd.open_catalog(path).select(**data.select)
    policy = dd.Policy.lenient() if data.policy == "lenient" else dd.Policy()
    return dd.plan_stacks(chosen, policy)


def find_labels(settings: TrainingSettings, plan: dd.StackPlan) -> dd.LabelFiles | dd.CaseLabels:
    """Find the labels of all stacks of a plan; of files, nothing is read yet."""
    told = settings.labels
    options: dict[str, Any] = {
        "missing": told.missing, "overlap": told.overlap, "several": told.several,
        "resample": told.resample, "outside": told.outside,
    }  # fmt: skip
    if told.dicom_kinds:
        options |= {"kind": told.dicom_kinds, "folder": told.folder, "by_images": told.by_images}
        return dd.LabelFiles.find(plan, told.segments, **options)
    read = partial(
        dd.read_case_labels, str(told.table), key=told.key, by=told.by,
        classes=told.classes or None,
    )  # fmt: skip
    if told.kind == "cases":
        return read(told.column)
    columns = {name: read(column) for name, column in told.columns.items()}
    return dd.LabelFiles.from_table(plan, columns or read(told.column), told.segments, **options)


def choose_labelled(
    role: str,
    stacks: Sequence[dd.Stack],
    labels: dd.LabelFiles | dd.CaseLabels,
    settings: TrainingSettings,
    records: Records,
) -> tuple[dd.Stack, ...]:
    """Give the stacks that have a label; refuse, or leave out, those that have none."""
    known = [stack for stack in stacks if has_label(labels, stack)]
    lost = [stack for stack in stacks if not has_label(labels, stack)]
    refused = refusals(labels, lost)
    if lost:
        told = f"{role}: {len(lost)} of {len(stacks)} stacks have no label, first {lost[0].id}"
        if settings.data.unlabelled == "error":
            raise dd.LabelError(
                "; ".join([told, *refused[:1], "data.unlabelled: drop leaves them out"])
            )
        records.say(f"{told}: left out")
        for each in refused:
            records.say(f"{role}: {each}")
    return tuple(known)


def has_label(labels: dd.LabelFiles | dd.CaseLabels, stack: dd.Stack) -> bool:
    """Tell whether a stack has one."""
    if isinstance(labels, dd.CaseLabels):
        return labels.of(stack) is not None
    return labels.has(stack)


def refusals(labels: dd.LabelFiles | dd.CaseLabels, stacks: Iterable[dd.Stack]) -> list[str]:
    """Say of stacks why what there is for them is no label."""
    why = {} if isinstance(labels, dd.CaseLabels) else labels.refused
    return [why[stack.id] for stack in stacks if stack.id in why]


def check_stacks(parts: dict[str, tuple[dd.Stack, ...]], settings: TrainingSettings) -> None:
    """Refuse a training of nothing, and one of different units: 100 HU are not 100 of a scanner."""
    if not parts["training"]:
        raise dd.ConfigError(f"data: no stack of part {settings.data.train!r} to learn from")
    if settings.data.validate_on is not None and not parts["validation"]:
        raise dd.ConfigError(f"data: no stack of part {settings.data.validate_on!r} to validate on")
    units = {stack.unit: stack for stacks in parts.values() for stack in stacks}
    if len(units) > 1:
        told = " and ".join(
            f"in {unit} ({each.modality}, {each.id})" for unit, each in sorted(units.items())
        )
        raise dd.ConfigError(f"data: there are stacks {told}: let data.select choose one kind")


def fingerprint_of_labels(
    parts: dict[str, tuple[dd.Stack, ...]], labels: dd.LabelFiles | dd.CaseLabels
) -> str:
    """Digest which labels there are: of files, their sizes."""
    told: list[Any] = []
    for stack in (stack for stacks in parts.values() for stack in stacks):
        if isinstance(labels, dd.CaseLabels):
            told.append((stack.id, labels.of(stack)))
        else:
            files = [(kind, os.path.getsize(path)) for kind, path in labels.files[stack.id]]
            told.append((stack.id, files))
    return blake2b(repr(told).encode(), digest_size=16).hexdigest()


# --- what it is learned with ----------------------------------------------------------------------


def make_learner(settings: TrainingSettings, ranks: Ranks, allowed: Sequence[str]) -> Learner:
    """Make network, loss and optimizer; the weights come from the seed."""
    torch.manual_seed(settings.seed)
    network = build(settings.network, "network", allowed=allowed).to(ranks.device)
    optimizer = build(settings.optimizer, "optimizer", network.parameters(), allowed=allowed)
    scheduler = None
    if settings.scheduler is not None:
        scheduler = build(settings.scheduler, "scheduler", optimizer, allowed=allowed)
    return Learner(
        network,
        build(settings.loss, "loss", allowed=allowed).to(ranks.device),
        optimizer,
        scheduler,
        ranks,
        Targets(settings.labels.class_names, overlapping=settings.labels.overlap == "channels"),
        choose_precision(settings.precision, ranks.device),
        settings.clip_gradient,
        # Other images have their window when they come.
        Images(torch.int16, settings.window) if settings.upload == "int16" else Images(),
    )


def make_cache(settings: TrainingSettings, ranks: Ranks) -> VolumeCache | None:
    """Make the cache that all workers, and all ranks of a machine, share."""
    told = settings.cache
    if told.kind == "none":
        return None
    if told.kind == "disk":
        folder = told.folder or os.path.join(settings.folder, "cache")
        return dd.DiskCache(folder, max_bytes=told.max_bytes)
    return dd.MemoryCache(told.max_bytes, name="training" if ranks.count > 1 else None)


def make_dataset(
    settings: TrainingSettings,
    task: Task,
    cache: VolumeCache | None,
    transform: Compose,
    records: Records | None = None,
) -> dd.VolumeDataset | dd.PatchDataset:
    """Make the dataset to learn from, and tell of it; without `records`, that to validate on."""
    learning = records is not None
    stacks = task.parts["training" if learning else "validation"]
    how: dict[str, Any] = {"cache": cache, "window": settings.window}
    if settings.upload == "int16":
        how |= {"dtype": np.int16, "window": None}
    if isinstance(task.labels, dd.CaseLabels):
        # Last, so that a cache can keep what the steps before it always make.
        return dd.VolumeDataset(stacks, Compose([*transform.transforms, task.labels.into]), **how)
    how |= {"transform": transform, "labels": task.labels}
    if settings.patches is None:
        return dd.VolumeDataset(stacks, **how)
    patches = settings.patches
    where: Any = dd.GridPatches(overlap=patches.overlap)
    if records is not None:
        where = dd.UniformPatches()
        if patches.foreground is not None:
            reader = LabelReader(task.labels, cache or NoCache())
            index = find_positions(stacks, reader, records)
            where = dd.BalancedPatches(index=index, foreground=patches.foreground)
    how["per_visit"] = patches.per_visit if learning else 1
    return dd.PatchDataset(stacks, patches.size, where=where, **how)


def find_positions(
    stacks: Sequence[dd.Stack], reader: LabelReader, records: Records
) -> dd.LabelPositions:
    """Find the voxels that patches may be about."""
    told = iter(records.track(stacks, total=len(stacks), what="looking at labels"))
    return dd.LabelPositions.of_masks(
        stacks, lambda _: reader.read(next(told)).voxels, channels=reader.channels
    )


def make_loader(
    settings: TrainingSettings, ranks: Ranks, dataset: Any, sampler: dd.EpochSampler
) -> DataLoader[Any]:
    """Give batches, in pinned memory where there is a GPU to send them to."""
    return DataLoader(
        NamedSamples(dataset),
        batch_size=settings.batch_size,
        sampler=sampler,
        num_workers=settings.workers,
        collate_fn=dd.SharedCollate() if settings.workers else dd.collate,
        pin_memory=ranks.device.type == "cuda",
        persistent_workers=settings.workers > 0,
        worker_init_fn=leave_signals_to_parent,
        # Its own: beginning an epoch must not draw from the randomness of the steps.
        generator=torch.Generator(),
    )


# --- the run --------------------------------------------------------------------------------------


def run(
    settings: TrainingSettings,
    loop: Loop,
    task: Task,
    validation: DataLoader[Any] | None,
    stop: StopRequest,
) -> None:
    """Take epoch after epoch.

    Raises:
        StoppedError: if it was asked to stop.
    """
    learner, records = loop.learner, loop.records

    def save(name: str = LAST) -> None:
        if learner.ranks.first:
            checkpoint_of(loop, task).save(os.path.join(settings.folder, name))

    if (done := loop.sampler.epoch) > settings.epochs:
        records.say(f"{done} epochs are done already, and epochs is {settings.epochs}: nothing is "
                    f"left")  # fmt: skip
        return
    for epoch in range(loop.sampler.epoch, settings.epochs):
        loop.sampler.set_epoch(epoch)
        loss = loop.run_epoch(save, stop)
        told: dict[str, Any] = {"learning_rate": float(learner.optimizer.param_groups[0]["lr"])}
        # Losses of the training and of the validation are not to be compared.
        watched = loss if validation is None else None
        better = False
        if validation is not None and (epoch + 1) % settings.validate_every == 0:
            # A validation may be long: what was learned before it is not lost with it.
            save()
            scores = learner.validate(stoppable(validation, records, stop))
            watched = scores.loss
            if better := watched < loop.progress.get("best", float("inf")):
                loop.progress["best"] = watched
            told |= {"validation_loss": scores.loss, "accuracy": scores.accuracy}
            told["scores"] = asdict(scores)
        learner.end_epoch(watched)
        loop.end_epoch()
        if better:
            save(BEST)
        save()
        records.add_epoch(epoch=epoch, step=int(loop.progress["step"]), loss=loss, **told)
    records.say(f"{settings.epochs} epochs are done: {os.path.join(settings.folder, LAST)}")


def stoppable(batches: DataLoader[Any], records: Records, stop: StopRequest) -> Iterator[Any]:
    """Give the batches of a validation until it is asked to stop."""
    for batch in records.track(batches, total=len(batches), what="validation"):
        stop.check()
        yield batch


def checkpoint_of(loop: Loop, task: Task) -> Checkpoint:
    """Give where the training is now."""
    return Checkpoint(
        loop.learner.state_dict(),
        loop.position,
        dict(loop.progress),
        task.fingerprints,
        task.settings,
    )


def restore(checkpoint: Checkpoint, loop: Loop, task: Task, path: str) -> None:
    """Go back to where a checkpoint was."""
    try:
        checkpoint.check(task.fingerprints, task.settings)
    except dd.ConfigError as error:
        raise dd.ConfigError(f"{path}: {error}") from error
    loop.learner.load_state_dict(checkpoint.state)
    loop.restore(checkpoint.sampler, checkpoint.progress)
    loop.records.say(f"goes on after step {int(loop.progress['step'])}")


if __name__ == "__main__":
    sys.exit(main())

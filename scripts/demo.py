"""The whole line on real input: an archive becomes tables, pictures, batches and a trained UNet.

    make demo                   on an archive that this program writes
    DATA=/data/ct make demo     on your own

Without DATA, the archive is pydicom's bundled test files, real and odd ones, and a few chest CTs
that are drawn: see `dicomdata.testing.thorax`. Everything ends in ``demo/``; what there is to
choose is in ``configs/demo.yaml``. Nothing is downloaded, and nothing is written outside ``demo/``.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

import dicomdata as dd
from dicomdata.cli.printing import count, group_outcomes, plain, print_table, shape, size, spacing
from dicomdata.config import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from torch.utils.data import DataLoader

PROJECT = Path(__file__).resolve().parent.parent

_LONGEST_TABLE = 12
"""Rows shown; the rest is a matter of `dicomdata stacks`."""

_LONGEST_REASON = 116
"""Letters of a reason that are shown; the account on disk has it whole."""

_HU_ENDS = -1000.0, 1000.0
"""HU that become 0 and 1 for the network."""

_HU_BOUNDARIES = -500.0, -30.0, 200.0
"""HU that divide air and lung, fat, soft tissue, and bone."""

_BRIGHTNESS_BOUNDARIES = 0.25, 0.5, 0.75
"""For other units: shares of the way from the 1st to the 99th percentile."""

_CLASSES = 4

Count = Annotated[int, Field(ge=1)]


class PhantomSettings(Settings):
    """The archive that is written."""

    patients: Count = 2
    slices: Count = 100
    size: Annotated[int, Field(ge=32)] = 512
    seed: int = 0


class TrainingSettings(Settings):
    """What the network is trained on, and how."""

    min_slices: Count = 16
    stacks: Count = 8
    patch: tuple[Count, Count, Count] = (64, 64, 32)
    batch_size: Count = 4
    workers: Annotated[int, Field(ge=0)] = 2
    steps: Count = 64
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    seed: int = 0


class DemoSettings(Settings):
    """All there is to choose."""

    phantom: PhantomSettings = PhantomSettings()
    training: TrainingSettings = TrainingSettings()
    pictures: Annotated[int, Field(ge=0)] = 4


def main() -> int:
    """Run the demo as `make demo` does; give the exit status."""
    # Building its cache of fonts, once, is not worth a warning.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        settings = load_settings(PROJECT / "configs" / "demo.yaml", DemoSettings)
        data = os.environ.get("DATA")
        run(settings, PROJECT / "demo", Path(data) if data else None)
    except dd.DicomDataError as error:
        print(f"demo: {plain(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def run(settings: DemoSettings, folder: Path, data: Path | None) -> None:
    """Walk the line once; everything ends in `folder`.

    Args:
        settings: from ``configs/demo.yaml``.
        folder: is made if it is not there.
        data: the archive to read; None writes one.

    Raises:
        DicomDataError: if the archive or `folder` cannot be used at all.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    archive = data or folder / "archive"
    if data is None:
        write_archive(settings.phantom, archive)
    plan = scan_and_plan(archive, folder)
    numbered = largest_first(plan)
    draw(choose_pictures(numbered, settings.pictures), folder)
    train(plan.stacks, settings.training, folder)
    heading(f"Done in {time.monotonic() - started:.0f} s")
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            say(f"{shown(path)}  {size(path.stat().st_size)}")
    if numbered:
        largest = f"{shown(folder / 'demo.catalog')}/{numbered[0][0]}"
        say(f"next: .venv/bin/dicomdata show {largest} --window bone -o bone.png")


def write_archive(settings: PhantomSettings, archive: Path) -> None:
    """Copy pydicom's own files, and draw chests among them; what is there already is kept."""
    from pydicom import __version__ as pydicom_version
    from pydicom.data import get_testdata_file

    from dicomdata.testing.thorax import thorax_archive

    heading("An archive to read")
    stamp, told = archive.with_name(".archive"), f"{settings.model_dump_json()} {pydicom_version}"
    if not (stamp.is_file() and stamp.read_text() == told):
        say(f"written once, which takes some seconds, into {shown(archive)}")
        shutil.rmtree(archive, ignore_errors=True)
        bundled = get_testdata_file("CT_small.dcm", download=False)
        if bundled is None:
            raise dd.FileError("pydicom was installed without its test files")
        shutil.copytree(Path(str(bundled)).parent, archive / "pydicom")
        thorax_archive(
            archive / "thorax",
            slices=settings.slices,
            size=settings.size,
            patients=settings.patients,
            seed=settings.seed,
        )
        stamp.write_text(told)
    for part, what in (
        ("pydicom", "pydicom's bundled test files: real, small, some broken on purpose"),
        ("thorax", f"{count(settings.patients, 'chest CT')}, drawn; names say nothing"),
    ):
        files = [path for path in (archive / part).rglob("*") if path.is_file()]
        amount = size(sum(path.stat().st_size for path in files))
        say(f"{shown(archive / part)}: {count(len(files), 'file')}, {amount}: {what}")


def scan_and_plan(archive: Path, folder: Path) -> dd.StackPlan:
    """Read all headers, list what was found, and account for every file."""
    heading(f"Scan {shown(archive)}")
    started = time.monotonic()
    catalog = dd.scan(archive, catalog=folder / "demo.catalog")
    plan = dd.plan_stacks(catalog)
    files = len({row.path for row in plan.outcomes})
    seconds = time.monotonic() - started
    say(f"{count(files, 'file')} in {seconds:.1f} s; what they hold is in {shown(catalog.path)}")

    heading(count(len(catalog.series), "series"))
    show_table(
        ("modality", "frames", "rows x cols", "spacing mm", "manufacturer"),
        [
            (
                series.modality or "?",
                series.slices,
                shape((series.rows, series.columns)),
                spacing((series.slice_spacing, series.row_spacing, series.column_spacing)),
                series.manufacturer or "-",
            )
            for series in sorted(catalog.series, key=lambda series: -series.bytes)
        ],
    )
    heading(f"{count(len(plan.stacks), 'stack')}: frames proven to lie on one grid")
    show_table(
        ("#", "modality", "shape", "spacing mm", "unit", "findings"),
        [
            (
                number,
                stack.modality or "?",
                shape(stack.shape),
                spacing(stack.spacing),
                stack.unit,
                ", ".join(dict.fromkeys(finding.kind for finding in stack.findings)) or "-",
            )
            for number, stack in largest_first(plan)
        ],
    )
    heading("What became of every frame")
    groups = group_outcomes(plan.outcomes, catalog.root)
    show_table(
        ("frames", "outcome", "reason"),
        [
            (frames, outcome, textwrap.shorten(reason, _LONGEST_REASON, placeholder=" ..."))
            for frames, outcome, reason, _ in groups
        ],
    )
    account = folder / "outcomes.csv"
    plan.outcomes.to_csv(account)
    say(f"every file and frame, one a line, in {shown(account)}")
    return plan


def draw(numbered: Sequence[tuple[int, dd.Stack]], folder: Path) -> None:
    """Leave pictures of a few stacks, and the histogram of their values."""
    heading("Pictures")
    for old in (*folder.glob("stack-*.png"), folder / "lung-window.png", folder / "histogram.png"):
        old.unlink(missing_ok=True)
    in_hu: list[dd.Volume] = []
    for k, (number, stack) in enumerate(numbered, start=1):
        try:
            volume = dd.read_volume(stack)
        except dd.DicomDataError as error:
            say(f"left out: {plain(str(error))}")
            continue
        path = folder / f"stack-{k}.png"
        dd.draw_orthogonal(volume, path)
        say(f"{shown(path)}: #{number}, {describe(stack)}")
        if volume.unit == "HU":
            in_hu.append(volume)
    if in_hu:
        dd.draw_orthogonal(in_hu[0], folder / "lung-window.png", window="lung")
        say(
            f"{shown(folder / 'lung-window.png')}: the first of them for the eyes of a chest reader"
        )
        dd.draw_histogram(in_hu, folder / "histogram.png")
        say(f"{shown(folder / 'histogram.png')}: how often each HU occurs in them")


def largest_first(plan: dd.StackPlan) -> list[tuple[int, dd.Stack]]:
    """Give the stacks with their numbers in the list of `dicomdata stacks`."""
    return sorted(enumerate(plan.stacks, start=1), key=lambda pair: -voxels(pair[1]))


def choose_pictures(
    numbered: Sequence[tuple[int, dd.Stack]], most: int
) -> list[tuple[int, dd.Stack]]:
    """Choose the largest stack of each modality, then the largest others; the largest first."""
    seen: set[str] = set()
    ranks = []
    for place, (_, stack) in enumerate(numbered):
        ranks.append((stack.modality in seen, place))
        seen.add(stack.modality)
    return [numbered[place] for place in sorted(place for _, place in sorted(ranks)[:most])]


@dataclass(frozen=True)
class ToClasses:
    """Labels voxels by what interval they lie in: for want of a radiologist."""

    boundaries: tuple[float, ...]

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Give the number of boundaries at or below each value."""
        import torch

        return torch.bucketize(values.contiguous(), torch.tensor(self.boundaries), right=True)


def train(stacks: Sequence[dd.Stack], settings: TrainingSettings, folder: Path) -> None:
    """Fit a small UNet for a few steps on random patches, and try it on another patient."""
    heading("Training")
    chosen = choose_training(stacks, settings)
    if not chosen:
        say(f"no CT or MR of {settings.min_slices} slices or more: nothing to train on")
        return
    learning, testing = split_by_patient(chosen)
    from monai.networks.nets import UNet
    from monai.utils import set_determinism

    set_determinism(settings.seed)
    unit = chosen[0].unit
    say(f"a UNet learns to tell {task_of(unit)} apart, on {count(len(learning), 'volume')}")
    cache = dd.DiskCache(folder / "cache", max_bytes="4 GB")
    # How bright a voxel is, is what there is to learn: no normalization, for which the blocks of
    # the UNet take None, though its own annotation does not say so.
    norm: Any = None
    network = UNet(3, 1, _CLASSES, channels=(8, 16, 32), strides=(2, 2), norm=norm)
    batches = make_loader(learning, settings, cache, steps=settings.steps)
    losses = fit(network, batches, settings)
    testing_batches = make_loader(testing, settings, cache, steps=max(1, settings.steps // 10))
    right = accuracy(network, testing_batches)
    whose = "of a patient it has not seen" if testing is not learning else "of other patches"
    say(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; {right:.1%} of the voxels {whose} are right")


def fit(
    network: torch.nn.Module, batches: DataLoader[Any], settings: TrainingSettings
) -> list[float]:
    """Take one step for each batch, and say how it goes; give the mean loss of each stretch."""
    import torch

    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    stretch = max(1, settings.steps // 8)
    losses: list[float] = []
    started = time.monotonic()
    for step, batch in enumerate(batches, start=1):
        image, label = (batch[key].as_tensor().contiguous() for key in ("image", "label"))
        if step == 1:
            seconds = time.monotonic() - started
            say(f"first batch after {seconds:.1f} s: {tuple(image.shape)}, {image.dtype}")
        loss = torch.nn.functional.cross_entropy(network(image), label[:, 0].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % stretch == 0:
            mean = sum(losses[-stretch:]) / stretch
            say(f"step {step:3}  loss {mean:.3f}  {'#' * round(32 * min(1.0, mean))}")
    starts = range(0, len(losses), stretch)
    return [sum(part := losses[k : k + stretch]) / len(part) for k in starts]


def choose_training(stacks: Sequence[dd.Stack], settings: TrainingSettings) -> list[dd.Stack]:
    """Choose the largest stacks of one unit, HU if there are any."""
    usable = [
        stack
        for stack in sorted(stacks, key=lambda stack: -voxels(stack))
        if stack.modality in {"CT", "MR"} and stack.shape[0] >= settings.min_slices
    ]
    in_hu = [stack for stack in usable if stack.unit == "HU"]
    return (in_hu or [stack for stack in usable if stack.unit == usable[0].unit])[: settings.stacks]


def split_by_patient(
    stacks: list[dd.Stack],
) -> tuple[list[dd.Stack], list[dd.Stack]]:
    """Keep the last patient for testing, if there are two or more."""
    patients = sorted({stack.patient_id for stack in stacks})
    if len(patients) == 1:
        return stacks, stacks
    held_out = [stack for stack in stacks if stack.patient_id == patients[-1]]
    return [stack for stack in stacks if stack not in held_out], held_out


def make_loader(
    stacks: Sequence[dd.Stack], settings: TrainingSettings, cache: dd.DiskCache, *, steps: int
) -> DataLoader[Any]:
    """Give batches of random patches, scaled, with a class for each voxel."""
    from monai.data.utils import worker_init_fn
    from monai.transforms import (
        Compose,
        CopyItemsd,
        Lambdad,
        RandSpatialCropd,
        ScaleIntensityRanged,
        ScaleIntensityRangePercentilesd,
        SpatialPadd,
    )
    from torch.utils.data import DataLoader, RandomSampler

    ends, boundaries = scale_of(stacks[0].unit)
    if ends is None:
        pad = SpatialPadd("image", spatial_size=settings.patch, mode="edge")
        scale: Any = ScaleIntensityRangePercentilesd("image", 1, 99, b_min=0, b_max=1, clip=True)
    else:
        pad = SpatialPadd("image", spatial_size=settings.patch, constant_values=ends[0])
        scale = ScaleIntensityRanged("image", *ends, b_min=0, b_max=1, clip=True)
    transform = Compose(
        [
            pad,
            # Crop first: what follows costs by the voxel.
            RandSpatialCropd("image", roi_size=settings.patch, random_size=False),
            scale,
            CopyItemsd("image", names="label"),
            Lambdad("label", ToClasses(boundaries)),
        ]
    )
    dataset = dd.VolumeDataset(stacks, transform=transform, cache=cache)
    sampler = RandomSampler(dataset, replacement=True, num_samples=steps * settings.batch_size)
    return DataLoader(
        dataset,
        batch_size=settings.batch_size,
        sampler=sampler,
        num_workers=settings.workers,
        collate_fn=dd.collate,
        # Without it, all workers would crop alike: they inherit one random state.
        worker_init_fn=worker_init_fn,
    )


def scale_of(unit: str) -> tuple[tuple[float, float] | None, tuple[float, ...]]:
    """Give the values that become 0 and 1, and the class boundaries between them."""
    if unit != "HU":
        return None, _BRIGHTNESS_BOUNDARIES
    low, high = _HU_ENDS
    return (low, high), tuple((value - low) / (high - low) for value in _HU_BOUNDARIES)


def task_of(unit: str) -> str:
    """Say what the network learns."""
    return "air, fat, soft tissue and bone" if unit == "HU" else "four levels of brightness"


def accuracy(network: torch.nn.Module, batches: Iterable[dict[str, Any]]) -> float:
    """Give the share of voxels whose class is found."""
    import torch

    right, total = 0, 0
    with torch.no_grad():
        for batch in batches:
            image, label = (batch[key].as_tensor().contiguous() for key in ("image", "label"))
            right += int((network(image).argmax(dim=1, keepdim=True) == label).sum())
            total += label.numel()
    return right / total


def voxels(stack: dd.Stack) -> int:
    """Count the voxels of a stack."""
    slices, rows, columns = stack.shape
    return slices * rows * columns


def describe(stack: dd.Stack) -> str:
    """Say what a stack is, in a few words."""
    grid = f"{shape(stack.shape)}, {spacing(stack.spacing)} mm"
    return f"{stack.modality or 'no modality'}, {grid}, {stack.unit}"


def shown(path: Path) -> str:
    """Give a path as short as it can be typed here."""
    return plain(os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path))


def heading(text: str) -> None:
    """Open a section."""
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def say(text: str) -> None:
    """Print a line of a section."""
    print(text, flush=True)


def show_table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print the head of a table."""
    print_table(titles, rows[:_LONGEST_TABLE])
    if len(rows) > _LONGEST_TABLE:
        say(f"and {len(rows) - _LONGEST_TABLE} more")


if __name__ == "__main__":
    sys.exit(main())

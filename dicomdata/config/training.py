"""What a training is told: `TrainingSettings`, which `scripts/train.py` and its like read.

Parts that MONAI and PyTorch have names for (transforms, networks, losses, optimizers, schedulers)
are written in the form of MONAI's bundles, ``{_target_: UNet, spatial_dims: 3}``, and are looked
at by `dicomdata.training.components`.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from dicomdata.config.files import Settings

Count = Annotated[int, Field(ge=1)]
Component = dict[str, Any]
"""``_target_``, the name of a class, and the arguments that it is called with."""

DicomKind = Literal["SEG", "RTSTRUCT"]

MOST_CHANNELS = 15
"""Classes that may overlap: caches keep a bit of 16 for each, without the sign."""

_OF_MASKS = {"segments", "missing", "overlap", "several", "resample", "outside"}
"""Settings of labels that are masks."""

_OF_KIND = {
    "DICOM": {"folder", "by_images", *_OF_MASKS},
    "files": {"table", "column", "columns", "key", "by", *_OF_MASKS},
    "cases": {"table", "column", "key", "by", "classes"},
}
"""Kind of labels -> the settings that it knows."""


_INDIFFERENT: Any = {
    "data": {"archive", "split", "catalog"},
    "labels": {"folder", "table"},
    **dict.fromkeys(
        ("cache", "folder", "epochs", "workers", "device", "deterministic", "checkpoint_every",
         "tensorboard"), True,
    ),
}  # fmt: skip
"""Settings that may change while a training is interrupted: it learns the same."""


class DataSettings(Settings):
    """Which images there are, and who learns from which."""

    archive: str
    """The folder that is scanned, with all below it."""

    split: str
    """The file that says who is in which part: `dicomdata split` makes it."""

    catalog: str | None = None
    """Where to keep what the scan finds; None is beside the results."""

    select: dict[str, Any] = Field(default_factory=dict)
    """Conditions on series, as `Catalog.select` takes them."""

    policy: Literal["default", "lenient"] = "default"
    """Which findings are accepted: those that are safe for training, or all that can be read."""

    fold: Annotated[int, Field(ge=0)] | None = None
    """Of a split into folds, the one to validate on; the parts are then "train" and "val"."""

    train: str = "train"
    """The part to learn from."""

    validate_on: str | None = "val"
    """The part to validate on; None validates on nothing."""

    unlabelled: Literal["error", "drop"] = "error"
    """What to do with stacks that have no label: refuse, or leave them out and say so."""


class LabelSettings(Settings):
    """What is to be learned; which settings there are depends on the kind."""

    kind: Annotated[
        Annotated[Literal["SEG", "RTSTRUCT", "files", "cases"], Tag("one")]
        | Annotated[tuple[DicomKind, DicomKind], Tag("both")],
        Discriminator(lambda given: "one" if isinstance(given, str) else "both"),
    ]
    """DICOM objects, found by the images that they name, of one kind or of both; files in NIfTI and
    the like, or a label for each case, found by a table."""

    folder: str | None = None
    """Where DICOM labels lie besides the archive."""

    table: str | None = None
    """A CSV or Parquet table: a row for each patient, study or series."""

    column: str = "label"
    """The column of the labels, or of the paths of their files."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Class -> the column of paths of its files, where each file holds one class: whatever is not
    0. Without `segments`, these are the classes."""

    key: str | None = None
    """The column that says whose a row is; None finds one by its name."""

    by: Literal["patient", "study", "series"] | None = None
    """What the key is; None tells it by the name of its column."""

    segments: dict[str, str] = Field(default_factory=dict)
    """Name of a class -> regular expression that whole names of segments fit. Class 0 is the
    background, 1 the first of these."""

    classes: tuple[str, ...] = ()
    """Names of the classes of cases, as the table has them; the first is class 0."""

    missing: Literal["error", "empty"] = "error"
    """What to do where a label has no segment of a class."""

    overlap: Literal["reject", "last", "channels"] = "reject"
    """What to do where classes overlap: refuse, let the last of them win, or learn each in a
    channel of its own, without a background."""

    several: Literal["reject", "union", "newest"] = "reject"
    """What to do where two labels of a stack have one class: refuse, take what either has, or what
    the newest has."""

    resample: bool = False
    """Whether labels on other voxels are resampled to the nearest."""

    outside: Literal["reject", "drop"] = "reject"
    """What to do where a class lies partly outside its stack: refuse, or leave that out."""

    by_images: bool = False
    """Whether the images that a label names are believed over its frame of reference."""

    @model_validator(mode="before")
    @classmethod
    def _name_segments(cls, told: Any) -> Any:
        """Take the classes that have a column each for the segments, where nothing else is said."""
        columns = told.get("columns") if isinstance(told, dict) else None
        if isinstance(columns, dict) and "segments" not in told:
            return {**told, "segments": {name: re.escape(str(name)) for name in columns}}
        return told

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        kind = " and ".join(self.dicom_kinds) or str(self.kind)
        known = _OF_KIND["DICOM" if self.dicom_kinds else kind]
        if odd := sorted(self.model_fields_set - known - {"kind"}):
            raise ValueError(
                f"labels of kind {kind} know no {odd[0]}, but {', '.join(sorted(known))}"
            )
        if "table" in known and self.table is None:
            raise ValueError(f"labels of kind {kind} need a table")
        if {"column", "columns"} <= self.model_fields_set:
            raise ValueError("column and columns: expected one of them")
        if "segments" in known and not self.segments:
            raise ValueError(f"labels of kind {kind} need segments: a pattern for each class")
        if "classes" in known and len(self.classes) < 2:
            raise ValueError(f"labels of kind {kind} need two classes or more")
        if self.overlap == "channels" and len(self.segments) > MOST_CHANNELS:
            raise ValueError(
                f"{len(self.segments)} segments with overlap: channels: expected {MOST_CHANNELS} "
                f"at most"
            )
        return self

    @property
    def dicom_kinds(self) -> tuple[DicomKind, ...]:
        """Which DICOM objects are labels; none of files and of cases."""
        told = self.kind if isinstance(self.kind, tuple) else (self.kind,)
        return tuple(kind for kind in get_args(DicomKind) if kind in told)

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the outputs of the network are, in order."""
        if self.kind == "cases":
            return self.classes
        background = () if self.overlap == "channels" else ("background",)
        return (*background, *self.segments)


class PatchSettings(Settings):
    """Which boxes of the volumes are learned from."""

    size: tuple[Count, Count, Count]
    """Slices, rows and columns."""

    per_visit: Count = 1
    """How many of a volume in one batch: a batch has `batch_size` times as many."""

    foreground: Annotated[float, Field(ge=0, le=1)] | None = None
    """Part of the patches about a voxel of any class but 0; None puts them anywhere."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part that neighbouring patches share when the network is validated."""


class CacheSettings(Settings):
    """What keeps volumes and labels between epochs."""

    kind: Literal["memory", "disk", "none"] = "memory"
    folder: str | None = None
    """Of a cache on disk; None is beside the results."""

    max_bytes: str | None = None
    """As in "64 GB"; None is as much as there is room for in memory, without bound on disk."""


class TrainingSettings(Settings):
    """All there is to choose."""

    data: DataSettings
    labels: LabelSettings
    network: Component
    loss: Component
    optimizer: Component = Field(default_factory=lambda: {"_target_": "AdamW", "lr": 1e-3})
    scheduler: Component | None = None
    """Changes the learning rate after each epoch; None keeps it."""

    patches: PatchSettings | None = None
    """None takes whole volumes."""

    window: tuple[float, float] | None = None
    """(low, high) in output units, which become 0 and 1 when a volume is read."""

    transforms: tuple[Component, ...] = ()
    """Done to each sample of the training; MONAI's dictionary transforms."""

    validation_transforms: tuple[Component, ...] = ()
    """Done to each sample of the validation."""

    cache: CacheSettings = CacheSettings()
    folder: str = "run"
    """Where checkpoints and logs go."""

    epochs: Count = 100
    batch_size: Count = 2
    workers: Annotated[int, Field(ge=0)] = 2
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the network's arithmetic; "auto" is 16 bits on a GPU, and float32 without."""

    upload: Literal["float32", "int16"] = "float32"
    """How images go to the GPU: int16 is half as much to prepare and to copy, and the window is
    taken there. Transforms then see whole numbers in output units."""

    deterministic: bool = False
    """Whether a GPU takes only ways that always give the same, which are slower."""

    clip_gradient: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient; None bounds it not."""

    checkpoint_every: Count = 500
    """Steps between checkpoints; there is one after each epoch besides."""

    validate_every: Count = 1
    """Epochs between validations."""

    tensorboard: bool = False
    """Whether TensorBoard logs are written beside ``log.jsonl``."""

    @property
    def decisive(self) -> dict[str, str]:
        """Settings that decide what is learned, as text; not where things lie, nor how long."""
        told = self.model_dump(mode="json", exclude=_INDIFFERENT)
        # The order of classes is what their numbers mean.
        return {name: json.dumps(value, sort_keys=name != "labels") for name, value in told.items()}

    @model_validator(mode="after")
    def _check_task(self) -> Self:
        if self.labels.kind == "cases" and self.patches is not None:
            raise ValueError("labels of cases are of whole volumes: leave patches out")
        return self

"""Hypothesis strategies for series as archives hold them, with what a perfect reader gives of each.

    >>> @given(series=messy_series())
    ... def test_my_reader(series, tmp_path_factory):
    ...     series.write(tmp_path_factory.mktemp("series"))
    ...     # `series.volumes` have to come out, of `series.refusals` one has to be named

A mess begins with a clean volume (`dicomdata.testing.strategies`), of which every slice becomes a
file of its own: some are left out, written twice, or followed by those of another phase, with
company in the same folder. What cannot be told apart by any reader is not drawn: a first or last
slice that is missing, every second slice, phases that nothing tells apart but their numbers.

Lengths are in mm, points in LPS, arrays (slices, rows, columns).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite

from dicomdata.testing.phantoms import (
    Each,
    SeriesPhantom,
    phantom_name,
    phantom_uid,
    write_series,
)
from dicomdata.testing.strategies import LOSSLESS, NATIVE, series_phantoms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

Slices: TypeAlias = list[SeriesPhantom]
"""Phantoms of one slice each."""

_TOLERANCE = 1e-3
"""Distance of a voxel from its true place that is arithmetic, mm."""

_CUT_OFF = 3
"""Bytes of pixels that a file which is cut short lacks: more than a pad byte."""

_DELIMITER = 8
"""Bytes after the last fragment of compressed pixels (PS3.5 A.4)."""

_COARSE = 5
"""Decimal steps that a slice spacing has at least: with fewer, rounding moves slices too far."""


@dataclass(frozen=True, slots=True, eq=False)
class TrueVolume:
    """What a perfect reader gives."""

    voxels: NDArray[np.float32]
    """(slices, rows, columns), output units, padding kept; ascending along the normal."""

    padded: NDArray[np.bool_]
    """(slices, rows, columns): stored values that are the Pixel Padding Value."""

    affine_lps: NDArray[np.float64]
    """(4, 4): (slice, row, column, 1) to LPS mm."""

    tolerance: float
    """How far rounded positions may move a voxel, mm."""

    valid: NDArray[np.bool_]
    """(slices,): slices that were written; the others are missing."""

    @property
    def corners(self) -> NDArray[np.float64]:
        """(8, 3): where the outermost voxels lie, LPS mm."""
        return corners(self.affine_lps, self.voxels.shape)


@dataclass(frozen=True, slots=True, eq=False)
class MessySeries:
    """Files to write, and the truth about them."""

    slices: tuple[SeriesPhantom, ...]
    """One file each, of one slice each."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Name -> content of what is no slice."""

    volumes: tuple[TrueVolume, ...] = ()
    """Those that have to come out."""

    repaired: tuple[TrueVolume, ...] = ()
    """Those that come out where missing slices are filled, `volumes` aside."""

    possible: tuple[TrueVolume, ...] = ()
    """Those that may come out too: where one does, nothing needs to be refused."""

    refusals: frozenset[str] = frozenset()
    """Findings of which one has to be named, because not all slices are in `volumes`."""

    traits: frozenset[str] = frozenset()
    """What was drawn, in words: one of `MESSES`, and its company."""

    cut: int | None = None
    """Which of `slices` loses its last bytes."""

    def write(self, folder: Path) -> list[Path]:
        """Write every file into `folder`; give the paths of `slices`."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        paths = [write_series(folder, phantom)[0] for phantom in self.slices]
        if self.cut is not None:
            native = self.slices[self.cut].transfer_syntax_uid in NATIVE
            content = paths[self.cut].read_bytes()
            paths[self.cut].write_bytes(content[: -_CUT_OFF - (0 if native else _DELIMITER)])
        return paths


def corners(affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """Give where the outermost voxels of a grid lie, (8, 3), LPS mm."""
    ends = np.array(np.meshgrid(*[(0, length - 1) for length in shape], indexing="ij"))
    points: NDArray[np.float64] = ends.reshape(3, 8).T @ affine[:3, :3].T + affine[:3, 3]
    return points


DIMENSIONS: Final[dict[str, Callable[[int], dict[str, Any]]]] = {
    "TemporalPositionIdentifier": lambda p: {"TemporalPositionIdentifier": p + 1},
    "AcquisitionNumber": lambda p: {"AcquisitionNumber": 3 * p + 2},
    "TriggerTime": lambda p: {"TriggerTime": f"{33.25 * p:.2f}"},
    "AcquisitionTime": lambda p: {"AcquisitionTime": f"1203{p:02d}.5"},
    "ContentTime": lambda p: {"ContentTime": f"1203{p:02d}"},
    "DiffusionBValue": lambda p: {"DiffusionBValue": 500.0 * p},
    "EchoTime": lambda p: {"EchoTime": f"{2.46 + 2.46 * p:.2f}"},
    "ImageType": lambda p: {"ImageType": ["ORIGINAL", "PRIMARY", "MPRS"[p]]},
    # By two elements together: the first is 0, 0, 1, 1, the second 0, 1, 0, 1.
    "two elements": lambda p: {"DiffusionBValue": 500.0 * (p // 2), "EchoTime": str(2 + p % 2)},
}
"""What tells the volumes of one series apart: phase number -> elements."""

MESSES: Final = (
    "clean", "gap", "odd slice", "phases", "phases by number", "phases by nothing", "passes",
    "repeated slice", "jump", "drift", "contradiction", "habits", "cut file",
)  # fmt: skip
"""Kinds of trouble that `messy_series` draws."""


@st.composite
def messy_series(draw: st.DrawFn, mess: str = "", *, company: bool = True) -> MessySeries:
    """Draw a series with one kind of trouble, and company in its folder.

    Args:
        draw: hypothesis gives it.
        mess: one of `MESSES`; any of them by default.
        company: whether duplicates, localizers, other series and odd files may lie beside it.
    """
    chosen = mess or draw(st.sampled_from(MESSES))
    series = draw(_STRATEGIES[chosen]())
    series = replace(series, traits=series.traits | {chosen})
    if company:
        series = _accompanied(draw, series)
    seed = draw(st.integers(0, 2**16))
    named = [
        replace(phantom, file_names=[phantom_name("mess", seed, i)])
        for i, phantom in enumerate(series.slices)
    ]
    return replace(series, slices=tuple(named))


@dataclass(frozen=True, slots=True, eq=False)
class _Scanner:
    """A clean volume, and how its positions are written."""

    phantom: SeriesPhantom
    decimals: int | None
    """Of Image Position (Patient); None: all of them."""

    def shot(self, k: int, **changes: Any) -> SeriesPhantom:
        """Give slice `k` as it is written, with changes."""
        one = replace(self.phantom.only(k), **changes)
        if self.decimals is None:
            return one
        (position,) = one.positions or ()
        written = tuple(f"{number:.{self.decimals}f}" for number in np.array(position, float))
        return replace(one, positions=[written])

    def shots(self, numbers: Sequence[int] | None = None) -> Slices:
        """Give slices as they are written, all by default."""
        return [self.shot(k) for k in (range(self.phantom.count) if numbers is None else numbers)]

    def truth(self, numbers: Sequence[int] | None = None) -> TrueVolume:
        """Say what a perfect reader makes of slices; air is where one is missing between them.

        Where all that is left is every second slice, that is the spacing.
        """
        kept = list(range(self.phantom.count)) if numbers is None else sorted(numbers)
        unit = math.gcd(*np.diff(kept).tolist()) or 1
        values, padded = zip(*(output_values(self.phantom.only(k)) for k in kept), strict=True)
        places = [(k - kept[0]) // unit for k in kept]
        shape = (places[-1] + 1, *values[0].shape)
        voxels, masks = np.full(shape, -1024, np.float32), np.zeros(shape, np.bool_)
        voxels[places], masks[places] = values, padded
        valid = np.zeros(shape[0], np.bool_)
        valid[places] = True
        rounding = 0 if self.decimals is None else 2 * 10.0**-self.decimals
        affine = _affine(self.phantom, first=kept[0], unit=unit)
        return TrueVolume(voxels, masks, affine, _TOLERANCE + rounding, valid)


def output_values(phantom: SeriesPhantom) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Say what the words of a slice mean, and which are padding (PS3.5 8.1.1, PS3.3 C.11.1)."""
    words = phantom.plane(0)
    allocated = words.dtype.itemsize * 8
    bits = phantom.bits_stored or allocated
    high_bit = bits - 1 if phantom.high_bit is None else phantom.high_bit
    stored = (
        words.view(f"u{words.itemsize}").astype(np.int64) >> (high_bit + 1 - bits) & 2**bits - 1
    )
    if phantom.signed:
        stored = np.where(stored >= 2 ** (bits - 1), stored - 2**bits, stored)
    padded = stored == (
        2**32 if phantom.pixel_padding_value is None else phantom.pixel_padding_value
    )
    values = stored * float(str(phantom.slope)) + float(str(phantom.intercept))
    return values.astype(np.float32), padded


def _affine(phantom: SeriesPhantom, *, first: int, unit: int) -> NDArray[np.float64]:
    """Give the affine of the slices from number `first` on, every `unit`-th."""
    row, column = np.reshape(np.array(phantom.orientation, np.float64), (2, 3))
    down, along = np.array(phantom.pixel_spacing, np.float64)
    step = np.array(phantom.step)
    affine = np.eye(4)
    affine[:3] = np.array(
        [step * unit, column * down, row * along, phantom.origin + first * step]
    ).T
    return affine


@st.composite
def _scanners(
    draw: st.DrawFn, /, fewest: int, most: int, share: int = _COARSE, **changes: Any
) -> _Scanner:
    """Draw a clean volume: any orientation, tilt, pixel format, rescale, padding and rounding."""
    encodings = draw(st.sampled_from([NATIVE, NATIVE, NATIVE, LOSSLESS]))
    phantom = draw(series_phantoms(slices=(fewest, most), transfer_syntaxes=encodings))
    count = phantom.count
    if draw(st.booleans()):
        slopes = st.sampled_from(["1", "0.5", "2", "0.0037", "-1"])
        changes["slope"] = Each(*draw(st.lists(slopes, min_size=count, max_size=count)))
    if draw(st.booleans()):
        bits = phantom.bits_stored or 16
        low = -(2 ** (bits - 1)) if phantom.signed else 0
        changes["pixel_padding_value"] = draw(st.sampled_from([low, low + 1, low + 2**bits - 1]))
    spacing = float(np.linalg.norm(np.array(phantom.step)))
    coarsest = max(1, math.ceil(math.log10(share / spacing)))
    decimals = draw(st.sampled_from([None, 6, 4, 3, 2, 1]))
    labels: dict[str, Any] = {"slice_location": lambda k: 7.5 - k, "spacing_between_slices": -2.5}
    phantom = replace(
        phantom,
        instance_number=draw(
            st.sampled_from([None, 7, lambda k: k + 1, lambda k: 99 - k, lambda k: k * 7 % 5])
        ),
        **{name: value for name, value in labels.items() if draw(st.booleans())},
        **changes,
    )
    return _Scanner(phantom, None if decimals is None else max(decimals, coarsest))


@st.composite
def _clean(draw: st.DrawFn) -> MessySeries:
    scanner = draw(_scanners(1, 6))
    return MessySeries(tuple(scanner.shots()), volumes=(scanner.truth(),))


@st.composite
def _with_gap(draw: st.DrawFn) -> MessySeries:
    """Leave slices out, but for the first and the last."""
    scanner = draw(_scanners(4, 7, modality="CT"))
    inner = list(range(1, scanner.phantom.count - 1))
    gone = draw(st.sets(st.sampled_from(inner), min_size=1, max_size=len(inner) - 1))
    kept = [k for k in range(scanner.phantom.count) if k not in gone]
    return _without(scanner, kept, ())


@st.composite
def _with_odd_slice(draw: st.DrawFn) -> MessySeries:
    """Let one slice have another matrix than the others."""
    scanner = draw(_scanners(5, 7, modality="CT"))
    odd = draw(st.integers(0, scanner.phantom.count - 1))
    kept = [k for k in range(scanner.phantom.count) if k != odd]
    other = scanner.shot(odd)
    words = other.plane(0)
    other = replace(other, stored=[np.concatenate([words, words])])
    return _without(scanner, kept, (other,))


def _without(
    scanner: _Scanner, kept: Sequence[int], others: Sequence[SeriesPhantom]
) -> MessySeries:
    """Say what is true where only some slices are left."""
    truth, slices = scanner.truth(kept), (*scanner.shots(kept), *others)
    if truth.valid.all():
        return MessySeries(slices, volumes=(truth,))
    numbers = np.flatnonzero(truth.valid)
    # Where most steps are too long, which is the spacing cannot be told for certain.
    clear = float(np.median(np.diff(numbers))) == 1
    names = {"gap"} if clear else {"gap", "variable_spacing"}
    return MessySeries(slices, repaired=(truth,) * clear, refusals=frozenset(names))


@st.composite
def _phases(draw: st.DrawFn) -> MessySeries:
    """Write a volume several times with other voxels, told apart by an element."""
    dimension = draw(st.sampled_from(sorted(DIMENSIONS)))
    count = 4 if dimension == "two elements" else draw(st.integers(2, 4))
    scanner = draw(_scanners(2, 4))
    # Two slices that lie side by side tell too little to be taken for two volumes.
    aside = draw(st.sampled_from([0, 0, 5])) if scanner.phantom.count > 2 else 0
    short = draw(st.booleans()) and scanner.phantom.count > 3
    noise = _noise(draw, DIMENSIONS[dimension](0))
    slices, truths = [], []
    for phase in range(count):
        elements = DIMENSIONS[dimension](phase)
        each = _moved(_another(draw, scanner, phase), columns=aside * phase)
        # The last phase may have stopped early.
        numbers = range(scanner.phantom.count - (short and phase == count - 1))
        slices += [each.shot(k, extra={**noise(k, phase), **elements}) for k in numbers]
        truths.append(each.truth(numbers))
    return MessySeries(tuple(slices), volumes=tuple(truths))


@st.composite
def _phases_by_number(draw: st.DrawFn) -> MessySeries:
    """Let nothing but Instance Number tell phases apart: volume by volume, or place by place."""
    scanner = draw(_scanners(2, 4))
    count, slices, truths = draw(st.integers(2, 4)), [], []
    by_place, n = draw(st.booleans()), scanner.phantom.count
    for phase in range(count):
        each = _another(draw, scanner, phase)
        numbers = [k * count + phase if by_place else phase * n + k for k in range(n)]
        slices += [each.shot(k, instance_number=number) for k, number in enumerate(numbers)]
        truths.append(each.truth())
    return MessySeries(tuple(slices), volumes=tuple(truths))


@st.composite
def _phases_by_nothing(draw: st.DrawFn) -> MessySeries:
    """Let nothing tell phases apart: no reader can know which slices belong together."""
    scanner = draw(_scanners(2, 4))
    slices: Slices = []
    for phase in range(draw(st.integers(2, 3))):
        each = _another(draw, scanner, phase)
        slices += [each.shot(k, instance_number=1) for k in range(each.phantom.count)]
    return MessySeries(tuple(slices), refusals=frozenset({"repeated_position"}))


@st.composite
def _passes(draw: st.DrawFn) -> MessySeries:
    """Scan a second time from further on, overlapping or not, told apart by an element."""
    names = sorted(set(DIMENSIONS) - {"two elements"})
    dimension = draw(st.sampled_from(names))
    first = draw(_scanners(3, 5, 12))
    # A share near 0 or 1 could be an uneven stack, and from the start on a finer one.
    share = draw(st.sampled_from([0, 0.4, 0.5, 0.6]))
    whole = draw(st.integers(1, first.phantom.count - 1))
    passes = [
        _moved(_another(draw, first, number), slices=number * (whole + share))
        for number in range(draw(st.integers(2, 3)))
    ]
    # Three evenly offset passes: their first slices lie as evenly as the slices of one, so that
    # elements that count the slices of each pass tell as much as the one that tells the passes.
    noise = _noise(draw, DIMENSIONS[dimension](0), counting=len(passes) < 3)
    slices = [
        scanner.shot(k, extra={**noise(k, number), **DIMENSIONS[dimension](number)})
        for number, scanner in enumerate(passes)
        for k in range(first.phantom.count)
    ]
    return MessySeries(tuple(slices), volumes=tuple(each.truth() for each in passes))


@st.composite
def _repeated_slice(draw: st.DrawFn) -> MessySeries:
    """Scan one slice again: which of the two belongs to the volume, nobody knows."""
    scanner = draw(_scanners(2, 5))
    k = draw(st.integers(0, scanner.phantom.count - 1))
    other = _another(draw, scanner, 1)
    again = other.shot(k)
    told = draw(st.booleans())
    again = replace(again, extra={"AcquisitionNumber": 9} if told else {})
    possible = (scanner.truth(), other.truth([k])) if told else ()
    return MessySeries(
        (*scanner.shots(), again), possible=possible, refusals=frozenset({"repeated_position"})
    )


@st.composite
def _jump(draw: st.DrawFn) -> MessySeries:
    """Let slices from the middle on lie three pixels aside."""
    scanner = draw(_scanners(4, 6))
    k = draw(st.integers(2, scanner.phantom.count - 2))
    aside = _moved(scanner, columns=3)
    slices = (*scanner.shots(range(k)), *aside.shots(range(k, scanner.phantom.count)))
    return MessySeries(slices, refusals=frozenset({"jump"}))


@st.composite
def _drift(draw: st.DrawFn) -> MessySeries:
    """Let each step be longer than the one before, by a third of the first."""
    scanner = draw(_scanners(4, 6))
    further = [k * (k - 1) / 6 for k in range(scanner.phantom.count)]
    slices = tuple(_moved(scanner, slices=add).shot(k) for k, add in enumerate(further))
    return MessySeries(slices, refusals=frozenset({"variable_spacing"}))


@st.composite
def _contradiction(draw: st.DrawFn) -> MessySeries:
    """Write one slice twice with the same words, which mean other values the second time."""
    scanner = draw(_scanners(1, 4))
    shots = scanner.shots()
    other = replace(shots[-1], intercept="17", sop_instance_uid=phantom_uid("contradiction"))
    return MessySeries((*shots, other), refusals=frozenset({"repeated_position"}))


@st.composite
def _habits(draw: st.DrawFn) -> MessySeries:
    """Draw what archives do to good series: UIDs the same everywhere, or new for each slice."""
    own = {"k": lambda k: phantom_uid("own", k), "same": phantom_uid("same")}
    habits = {
        "sop_instance_uid": own["same"],
        "study_instance_uid": own["k"],
        "frame_of_reference_uid": own["k"],
        "orientation": None,
    }
    chosen = draw(st.sets(st.sampled_from(sorted(habits)), min_size=1))
    scanner = draw(_scanners(3, 6))
    truth = scanner.truth()
    changes: dict[str, Any] = {name: habits[name] for name in chosen if name != "orientation"}
    noisy = replace(scanner, phantom=replace(scanner.phantom, **changes))
    slices = noisy.shots()
    if "orientation" in chosen:
        turned = np.array(scanner.phantom.orientation, float)
        for k in range(0, len(slices), 2):
            slices[k] = replace(slices[k], orientation=tuple((turned + 5e-5 * (-1) ** k).tolist()))
        # A direction off by 1e-4 moves what is 60 mm away by so much.
        truth = replace(truth, tolerance=truth.tolerance + 6e-3)
    return MessySeries(tuple(slices), volumes=(truth,))


@st.composite
def _cut_file(draw: st.DrawFn) -> MessySeries:
    """Cut the pixels of one slice short."""
    scanner = draw(_scanners(1, 4))
    cut = draw(st.integers(0, scanner.phantom.count - 1))
    others = [k for k in range(scanner.phantom.count) if k != cut]
    # A copy of it that is whole has other pixels at the same place, or takes its place; without
    # it there may be a gap, or a smaller volume.
    names = {"cut short", "damaged", "cannot be read", "repeated_position", "gap", "variable"}
    possible = [scanner.truth(numbers) for numbers in (None, others) if numbers != []]
    return MessySeries(
        tuple(scanner.shots()),
        possible=tuple(truth for truth in possible if truth.valid.all()),
        refusals=frozenset(names),
        cut=cut,
    )


_STRATEGIES: Final[dict[str, Callable[[], st.SearchStrategy[MessySeries]]]] = dict(
    zip(
        MESSES,
        (
            _clean, _with_gap, _with_odd_slice, _phases, _phases_by_number, _phases_by_nothing,
            _passes, _repeated_slice, _jump, _drift, _contradiction, _habits, _cut_file,
        ),
        strict=True,
    )
)  # fmt: skip


def _another(draw: st.DrawFn, scanner: _Scanner, number: int) -> _Scanner:
    """Give the same volume with other voxels and UIDs; itself for number 0."""
    if number == 0:
        return scanner
    old = scanner.phantom
    words = np.stack([old.plane(k) for k in range(old.count)])
    if old.transfer_syntax_uid in NATIVE:
        random = np.random.default_rng(draw(st.integers(0, 2**16)) + 2**17 * number)
        other = random.integers(0, 2 ** (8 * words.itemsize), words.shape).astype(words.dtype)
    else:
        # Within what the first one needed: codecs know nothing of garbage.
        other = np.roll(words[:, ::-1], number, axis=2)
    again = replace(old, stored=other, sop_instance_uid=lambda k: phantom_uid("another", number, k))
    return replace(scanner, phantom=again)


def _moved(scanner: _Scanner, *, slices: float = 0, columns: float = 0) -> _Scanner:
    """Give the same volume further on, by so many steps and by so many pixels along its rows."""
    phantom = scanner.phantom
    row = np.array(phantom.orientation, np.float64)[:3] * np.array(phantom.pixel_spacing, float)[1]
    origin = np.array(phantom.origin) + slices * np.array(phantom.step) + columns * row
    x, y, z = origin.tolist()
    return replace(scanner, phantom=replace(phantom, origin=(x, y, z)))


def _noise(
    draw: st.DrawFn, telling: dict[str, Any], *, counting: bool = True
) -> Callable[[int, int], dict[str, Any]]:
    """Draw elements that tell no volumes apart: the same, new in each file, or the slice's."""
    choices: dict[str, list[Callable[[int, int], Any]]] = {
        "AcquisitionNumber": [lambda _k, _p: 4],
        "AcquisitionTime": [lambda _k, _p: "0102", lambda k, p: f"0101{10 * k + p:02d}"],
        "ContentTime": [lambda k, p: f"0101{10 * k + p:02d}"],
    }
    if counting:
        choices["AcquisitionNumber"].append(lambda k, _p: k)
        choices["ContentTime"].append(lambda k, _p: f"01{k:02d}")
    chosen = {
        name: draw(st.sampled_from(values))
        for name, values in choices.items()
        if name not in telling and draw(st.booleans())
    }
    return lambda k, phase: {name: value(k, phase) for name, value in chosen.items()}


def _accompanied(draw: st.DrawFn, series: MessySeries) -> MessySeries:
    """Add duplicates, a localizer, another series and files that are no slices."""
    own = list(series.slices)
    company = draw(st.sets(st.sampled_from(["duplicate", "localizer", "series", "files"])))
    added: Slices = []
    volumes = list(series.volumes)
    if "duplicate" in company:
        for i, same_uid in draw(
            st.dictionaries(st.integers(0, len(own) - 1), st.booleans(), max_size=2)
        ).items():
            copied = own[i].sop_instance_uid if same_uid else phantom_uid("copy", i)
            added.append(replace(own[i], sop_instance_uid=copied))
    if "localizer" in company and len(own) > 3:
        added += _localizers(draw, own[0])
    if "series" in company:
        other = draw(_scanners(1, 3))
        names = ["patient_id"] if draw(st.booleans()) else ["series_instance_uid"]
        renamed: dict[str, Any] = {name: phantom_uid("other", name) for name in names}
        other = replace(other, phantom=replace(other.phantom, **renamed))
        added += other.shots()
        volumes.append(other.truth())
    files = _ODD_FILES if "files" in company else {}
    return replace(
        series,
        slices=(*own, *added),
        volumes=tuple(volumes),
        files={**series.files, **files},
        traits=series.traits | company,
    )


def _localizers(draw: st.DrawFn, beside: SeriesPhantom) -> Slices:
    """Draw one or two slices across a volume."""
    row, column = np.reshape(np.array(beside.orientation, np.float64), (2, 3))
    across = (*row, *np.cross(row, column))
    return [
        replace(
            beside,
            orientation=across,
            positions=[(k * 10.0, 5.0, 0.0)],
            sop_instance_uid=phantom_uid("localizer", k),
        )
        for k in range(draw(st.integers(1, 2)))
    ]


def _written(sop_class_uid: str, **elements: Any) -> bytes:
    """Write an object without pixels."""
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = sop_class_uid, phantom_uid("object")
    for name, value in elements.items():
        setattr(header, name, value)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    header.file_meta[0x00020002] = DataElement(0x00020002, "UI", sop_class_uid)
    header.preamble = b"\0" * 128
    content = BytesIO()
    dcmwrite(content, header, implicit_vr=False, little_endian=True)
    return content.getvalue()


_ODD_FILES: Final = {
    "notes.txt": b"Slices of a phantom.\n",
    "empty": b"",
    "DICOMDIR": _written("1.2.840.10008.1.3.10", FileSetID="PHANTOM"),
    "report": _written("1.2.840.10008.5.1.4.1.1.88.11", Modality="SR"),
}

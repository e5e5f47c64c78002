"""Asks the readers that are installed what they make of the traps in tests/traps.

    python scripts/compare_readers.py [--only T3 --only G8] [--readers SimpleITK] [--why]
                                      [--markdown docs/comparison.md]

Every reader works in a process of its own, so that one which crashes or hangs takes nobody along.
It gets the trap's files in a folder, and is used as its documentation says. What it gives is held
against what is true by tests/traps/judge.py: right, refused, needlessly refused or silently wrong.
The exit status is 1 if this package is silently wrong or refuses needlessly anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

TESTS = Path(__file__).resolve().parents[1] / "tests"
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from traps.judge import Answer, Given, Judgement, Verdict, judge  # noqa: E402 - found above
from traps.suite import TRAPS  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray
    from traps.trap import Trap

Read: TypeAlias = Callable[[Path, "Trap"], Answer]
"""Reads a folder; whatever it raises is a refusal. The trap says what this package is asked for."""

OURS = "dicomdata"

TIMEOUT_S = 120.0
"""For one trap of a few kB; the first has to wait for imports, of MONAI's on a slow disk too."""

_PARTING_S = 5.0
"""For a process to end by itself and tidy up, before it is ended."""

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


# --- readers --------------------------------------------------------------------------------------


def read_by_dicomdata(folder: Path, trap: Trap) -> Answer:
    """Scan, plan, read; asked for what the trap says."""
    import dicomdata as dd

    catalog = dd.scan(folder, progress=False)
    plan = dd.plan_stacks(catalog, dd.Policy(**trap.policy))
    if trap.meanwhile is not None:
        trap.meanwhile(folder)
    volumes = []
    errors = [rejection.error for rejection in (*catalog.rejected, *plan.rejected)]
    for stack in plan.stacks:
        try:
            volume = dd.read_volume(stack)
        except dd.DicomDataError as error:
            errors.append(error)
        else:
            volumes.append(Given(volume.voxels, volume.affine_lps))
    return Answer(tuple(volumes), "; ".join(describe(error) for error in errors))


def read_by_simpleitk(folder: Path, _trap: Trap) -> Answer:
    """The series reader, given the files in the order that GDCM finds."""
    import SimpleITK

    sitk: Any = SimpleITK
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    # Of a multi-frame file it makes a fourth axis.
    axes = image.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (axes, axes))[:3, :3] * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    voxels = sitk.GetArrayFromImage(image).T
    return Answer(tuple(Given(each, affine) for each in _volumes_of(voxels)))


def read_by_monai_itk(folder: Path, _trap: Trap) -> Answer:
    """LoadImage with ITKReader, which is what it takes for DICOM by default."""
    from monai.data import ITKReader

    return _read_by_monai(folder, ITKReader())


def read_by_monai_pydicom(folder: Path, _trap: Trap) -> Answer:
    """LoadImage with PydicomReader."""
    from monai.data import PydicomReader

    return _read_by_monai(folder, PydicomReader())


def _read_by_monai(folder: Path, reader: Any) -> Answer:
    from monai.transforms import LoadImage

    # Given with the call, so that no other reader takes over where this one raises.
    image = LoadImage(image_only=True)(str(folder), reader=reader)
    voxels = image.numpy()
    # Of a single slice it gives a picture.
    voxels = voxels[..., np.newaxis] if voxels.ndim == 2 else voxels
    return Answer((Given(voxels, _RAS_TO_LPS @ image.affine.numpy()),))


def read_by_torchio(folder: Path, _trap: Trap) -> Answer:
    """A ScalarImage, whose channels are volumes."""
    import torchio

    image = torchio.ScalarImage(folder)
    return Answer(
        tuple(Given(channel, _RAS_TO_LPS @ image.affine) for channel in image.data.numpy())
    )


def read_by_highdicom(folder: Path, _trap: Trap) -> Answer:
    """get_volume_from_series, or imread of a multi-frame file."""
    import highdicom
    from pydicom import dcmread

    headers = [dcmread(path) for path in sorted(folder.iterdir())]
    if len(headers) == 1 and "NumberOfFrames" in headers[0]:
        volume = highdicom.imread(next(folder.iterdir())).get_volume()
    else:
        volume = highdicom.get_volume_from_series(headers)
    return Answer((Given(volume.array, volume.affine),))


def read_by_dicom_numpy(folder: Path, _trap: Trap) -> Answer:
    """combine_slices of all files."""
    import dicom_numpy
    from pydicom import dcmread

    headers = [dcmread(path) for path in sorted(folder.iterdir())]
    voxels, affine = dicom_numpy.combine_slices(headers)
    return Answer((Given(voxels, affine),))


def read_by_dicom2nifti(folder: Path, _trap: Trap) -> Answer:
    """convert_directory, which prints the errors of the series that it leaves out."""
    import dicom2nifti

    said = io.StringIO()
    with tempfile.TemporaryDirectory() as converted, contextlib.redirect_stderr(said):
        dicom2nifti.convert_directory(str(folder), converted, compression=False, reorient=False)
        volumes = tuple(_read_nifti(Path(converted)))
    # A traceback's last line is the only one that begins with a word.
    errors = [line for line in said.getvalue().splitlines() if re.match(r"[\w.]+Error\b", line)]
    return Answer(volumes, "; ".join(errors) or ("" if volumes else "writes no file"))


def read_by_dcm2niix(folder: Path, _trap: Trap) -> Answer:
    """The program; a caller who looks at its exit status knows when not to trust its files."""
    import dcm2niix

    with tempfile.TemporaryDirectory() as converted:
        command = [dcm2niix.bin, "-z", "n", "-o", converted, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        volumes = tuple(_read_nifti(Path(converted)))
    # 8 says that some series were converted and others were not.
    if done.returncode not in (0, 8):
        return Answer((), f"exit status {done.returncode}, and {len(volumes)} volume(s) written")
    return Answer(volumes, "" if volumes and not done.returncode else f"exit {done.returncode}")


def _read_nifti(folder: Path) -> Iterable[Given]:
    """Give every volume of every NIfTI file in a folder."""
    import nibabel

    for path in sorted(folder.glob("*.nii")):
        image: Any = nibabel.load(path)
        voxels: NDArray[np.float64] = image.get_fdata()
        for volume in _volumes_of(voxels):
            yield Given(np.atleast_3d(volume), _RAS_TO_LPS @ image.affine)


def _volumes_of(voxels: NDArray[Any]) -> Iterable[NDArray[Any]]:
    """Give the volumes along the fourth axis, if there is one."""
    return np.moveaxis(voxels, -1, 0) if voxels.ndim == 4 else [voxels]


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader of DICOM series, as it is used by others."""

    read: Read
    """What its documentation says to call."""

    package: str
    """The package whose version counts, as installed."""

    needs: tuple[str, ...]
    """Modules that must be there."""


READERS = {
    OURS: Reader(read_by_dicomdata, "dicomdata", ("dicomdata",)),
    "SimpleITK": Reader(read_by_simpleitk, "simpleitk", ("SimpleITK",)),
    "TorchIO": Reader(read_by_torchio, "torchio", ("torchio",)),
    "MONAI ITKReader": Reader(read_by_monai_itk, "monai", ("monai", "itk")),
    "MONAI PydicomReader": Reader(read_by_monai_pydicom, "monai", ("monai",)),
    "highdicom": Reader(read_by_highdicom, "highdicom", ("highdicom",)),
    "dicom-numpy": Reader(read_by_dicom_numpy, "dicom-numpy", ("dicom_numpy",)),
    "dicom2nifti": Reader(read_by_dicom2nifti, "dicom2nifti", ("dicom2nifti", "nibabel")),
    "dcm2niix": Reader(read_by_dcm2niix, "dcm2niix", ("dcm2niix", "nibabel")),
}

SINGLE_FRAME_ONLY = {"dicom-numpy"}
"""Readers whose documentation asks for files of one slice each."""


def installed(names: Iterable[str] = READERS) -> list[str]:
    """Give those of these readers that are installed."""
    return [n for n in names if all(map(importlib.util.find_spec, READERS[n].needs))]


# --- each in a process of its own -----------------------------------------------------------------


def serve(read: Read, connection: Connection) -> None:
    """Read what is asked for until nothing more is; runs in a process of its own."""
    # Libraries in C++ say much, to no one who could hear.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    for name, folder in iter(connection.recv, None):
        try:
            answer = read(Path(folder), TRAPS[name])
        except Exception as error:  # noqa: BLE001 - whatever a reader raises is its refusal
            answer = Answer(refusal=describe(error))
        connection.send(answer)


@dataclass(slots=True)
class Worker:
    """A process that reads, started again after a crash or a hang."""

    read: Read
    timeout_s: float = TIMEOUT_S
    _process: Any = None
    _connection: Connection | None = None

    def ask(self, trap: Trap, folder: Path) -> Answer:
        """Have a trap read; a crash and a hang are refusals that are called so."""
        connection = self._connection or self._start()
        connection.send((trap.name, str(folder)))
        try:
            if connection.poll(self.timeout_s):
                answer: Answer = connection.recv()
                return answer
            refusal = f"timeout: nothing after {self.timeout_s:g} s"
            self._process.kill()
        except EOFError:
            self._process.join()
            refusal = f"crash: exit code {self._process.exitcode}"
        self.stop()
        return Answer(refusal=refusal)

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._connection is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._connection.send(None)
        self._process.join(_PARTING_S)
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._connection = None

    def _start(self) -> Connection:
        # Not forked: a library that is loaded here must not be half alive there.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(self.read, theirs), daemon=True)
        self._process.start()
        theirs.close()
        return self._connection


def describe(error: Exception) -> str:
    """Name an error and what it says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


# --- the comparison -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comparison:
    """What every reader made of every trap."""

    traps: tuple[Trap, ...]
    readers: tuple[str, ...]
    judgements: Mapping[tuple[str, str], Judgement] = field(default_factory=dict)
    """By trap and reader; none where the reader was not asked."""

    def total(self, reader: str) -> Counter[Verdict]:
        """Count the verdicts on one reader."""
        return Counter(
            judgement.verdict for (_, name), judgement in self.judgements.items() if name == reader
        )

    def to_markdown(self) -> str:
        """Give the table: a row a trap, a column a reader, and the totals."""
        rows = [("trap", "", *self.readers), ("---",) * (len(self.readers) + 2)]
        rows += [
            (trap.name, _escape(trap.title), *[self._cell(trap, name) for name in self.readers])
            for trap in self.traps
        ]
        totals = [self.total(name) for name in self.readers]
        rows += [
            ("", f"**{verdict.value}**", *[f"**{total[verdict]}**" for total in totals])
            for verdict in Verdict
        ]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def reasons(self) -> str:
        """Say of every answer that is not right why it is not."""
        return "\n".join(
            f"{trap}, {reader}: {judgement.verdict.value}: {judgement.why}"
            for (trap, reader), judgement in self.judgements.items()
            if judgement.verdict is not Verdict.RIGHT
        )

    def _cell(self, trap: Trap, reader: str) -> str:
        judgement = self.judgements.get((trap.name, reader))
        if judgement is None:
            return "not asked"
        text = judgement.verdict.value
        for end in ("crash", "timeout"):
            if judgement.why.startswith(f"{end}:"):
                text = f"{text} ({end})"
        return f"**{text}**" if judgement.verdict is Verdict.WRONG else text


def compare(
    traps: Sequence[Trap], readers: Mapping[str, Read], *, timeout_s: float = TIMEOUT_S
) -> Comparison:
    """Have every reader read every trap."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        columns = pool.map(
            lambda item: _ask_all(*item, traps=traps, timeout_s=timeout_s), readers.items()
        )
        judgements = {key: value for column in columns for key, value in column.items()}
    return Comparison(tuple(traps), tuple(readers), judgements)


def _ask_all(
    name: str, read: Read, *, traps: Sequence[Trap], timeout_s: float
) -> dict[tuple[str, str], Judgement]:
    """Have one reader read every trap that it can be asked about, each from fresh files."""
    worker = Worker(read, timeout_s)
    judgements = {}
    try:
        for trap in traps:
            if _concerns(trap, name):
                with tempfile.TemporaryDirectory() as folder:
                    trap.write(Path(folder))
                    answer = worker.ask(trap, Path(folder))
                    judgements[trap.name, name] = judge(trap, answer, by_name=name == OURS)
    finally:
        worker.stop()
    return judgements


def _concerns(trap: Trap, reader: str) -> bool:
    """Whether a trap is about something that a reader sets out to do."""
    if reader == OURS:
        return True
    return trap.asks_others and not (trap.multi_frame and reader in SINGLE_FRAME_ONLY)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")


# --- the page -------------------------------------------------------------------------------------

PAGE = """\
# What readers make of difficult series

Each row is a small series of a kind that real archives hold. Its truth is known: the volumes in
it, or that there is no right one to give. Each column is a reader, used as its documentation says.

| a reader is | when |
|---|---|
| right | every voxel lies where it should, with its true value, and no volume is missing |
| refused | it raises, and so it should: no volume is right, or some are missing |
| needless refusal | it raises, although there is a right volume to give |
| **silently wrong** | it gives other values, other places or less than all, and raises nothing |
| not asked | the row is about what the reader does not set out to do |

What counts is where voxels lie by the reader's own affine: axes may come in any order and
direction, and a twentieth of a millimetre is forgiven. Where there are two good answers (padding
as air or as nan, MONOCHROME1 as stored or as displayed) both are right. Warnings are no errors:
nobody reads them in a training run. A crash, or no answer within two minutes, counts as a refusal,
and so do files that dcm2niix writes with an exit status of failure.

{table}

Made by `python scripts/compare_readers.py --markdown docs/comparison.md`, which also says why
(`--why`), with {versions}.{missing} The rows are in `tests/traps`, where they are tests as well.
"""


def make_page(comparison: Comparison) -> str:
    """Make the page that the documentation shows."""
    packages = dict.fromkeys(READERS[name].package for name in comparison.readers)
    missing = [name for name in READERS if name not in comparison.readers]
    return PAGE.format(
        table=comparison.to_markdown(),
        versions=", ".join(f"{package} {version(package)}" for package in packages),
        missing=f" Not installed: {', '.join(missing)}." if missing else "",
    )


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=TRAPS, metavar="TRAP")
    parser.add_argument("--readers", action="append", choices=READERS, metavar="READER")
    parser.add_argument("--why", action="store_true", help="say of every wrong answer why")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds for one trap")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and say by the exit status whether this package kept its promise."""
    options = parse_arguments(arguments)
    wanted = options.readers or list(READERS)
    names = installed(wanted)
    for name in wanted:
        if name not in names:
            print(f"left out: {name} is not installed", file=sys.stderr)
    comparison = compare(
        [TRAPS[name] for name in options.only or TRAPS],
        {name: READERS[name].read for name in names},
        timeout_s=options.timeout,
    )
    print(comparison.to_markdown())
    if options.why:
        print(f"\n{comparison.reasons()}")
    if options.markdown:
        options.markdown.write_text(make_page(comparison))
    ours = comparison.total(OURS)
    return int(ours[Verdict.WRONG] + ours[Verdict.NEEDLESS] > 0)


if __name__ == "__main__":
    sys.exit(main())

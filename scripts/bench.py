"""Times this package beside the readers that are installed, interleaved in one process.

    python scripts/bench.py [--slices 130] [--rounds 5] [--json FILE]

A chest phantom is written to a temporary folder; then each contender does each piece of work in
turn, round after round, so that a machine whose speed drifts slows all of them alike. What counts
is the ratio of medians. Peak memory is of a fresh process that does the work once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import dicomdata as dd
from dicomdata.testing.phantoms import write_series
from dicomdata.testing.thorax import thorax_archive

if TYPE_CHECKING:
    from collections.abc import Callable

Work = dict[str, "Callable[[], Any]"]


def make_series(folder: Path, slices: int) -> list[Path]:
    """Write a chest CT of 512 x 512 and nothing else; give its paths in slice order."""
    patient = thorax_archive(folder / "archive", slices=slices).patients[0]
    stored = (patient.hu + np.int16(1024)).astype(np.int16)
    return write_series(folder / "series", stored=stored, pixel_spacing=(0.7, 0.7))


def header_work(paths: list[Path]) -> Work:
    """Read the header of every file."""
    import pydicom

    return {
        "dicomdata": lambda: [dd.read_instance(path) for path in paths],
        "pydicom": lambda: [pydicom.dcmread(path, stop_before_pixels=True) for path in paths],
    }


def volume_work(folder: Path, paths: list[Path]) -> Work:
    """Read the volume as float32 HU, from a catalog where the reader has one."""
    stack = dd.plan_stacks(dd.scan(folder)).stacks[0]
    work: Work = {"dicomdata": lambda: dd.read_volume(stack).voxels}
    work["dicomdata, int16"] = lambda: dd.read_volume(stack, dtype=np.int16).voxels
    work["dicomdata, window"] = lambda: dd.read_volume(stack, window=(-1000, 400)).voxels
    work["pydicom recipe"] = lambda: _recipe(folder)
    try:
        import SimpleITK as sitk  # noqa: N813 - its own spelling
    except ImportError:
        pass
    else:
        names = [str(path) for path in paths]
        work["SimpleITK"] = lambda: sitk.GetArrayFromImage(sitk.ReadImage(names, sitk.sitkFloat32))
    from monai.data import ITKReader
    from monai.transforms import LoadImage

    try:
        load = LoadImage(reader=ITKReader(), image_only=True)
    except Exception as error:  # noqa: BLE001 - itk is optional, MONAI raises a kind of its own
        print(f"without MONAI ITKReader: {error}")
    else:
        work["MONAI ITKReader"] = lambda: load(str(folder))
    return work


CODECS = {
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "HTJ2K": "1.2.840.10008.1.2.4.201",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "RLE": "1.2.840.10008.1.2.5",
}
"""What is decoded, by Transfer Syntax UID."""


def codec_work(folder: Path, hu: Any, transfer_syntax_uid: str) -> Work:
    """Decode a compressed series of 12 bits on one thread and on several, as float32 HU."""
    stored = (hu + np.int16(1024)).clip(0, 4095).astype(np.uint16)
    paths = write_series(
        folder, stored=stored, bits_stored=12, transfer_syntax_uid=transfer_syntax_uid
    )
    stack = dd.plan_stacks(dd.scan(folder, progress=False)).stacks[0]
    work: Work = {"dicomdata": lambda: dd.read_volume(stack, workers=1).voxels}
    work["dicomdata, 2 threads"] = lambda: dd.read_volume(stack, workers=2).voxels
    work["pydicom recipe"] = lambda: _recipe(folder)
    try:
        import SimpleITK as sitk  # noqa: N813 - its own spelling
    except ImportError:
        return work
    names = [str(path) for path in paths]
    work["SimpleITK"] = lambda: sitk.GetArrayFromImage(sitk.ReadImage(names, sitk.sitkFloat32))
    return work


def crop_work(folder: Path, edge: int = 96) -> Work:
    """Read one random box of 96 voxels a side, never loaded before."""
    stack = dd.plan_stacks(dd.scan(folder)).stacks[0]
    generator = np.random.default_rng(0)
    edge = min(edge, *stack.shape)

    def crop() -> Any:
        corner = [int(generator.integers(0, length - edge + 1)) for length in stack.shape]
        axes = [slice(start, start + edge) for start in corner]
        return dd.read_volume(stack, dd.Region(*axes)).voxels

    return {"dicomdata": crop, "dicomdata, whole volume": lambda: dd.read_volume(stack).voxels}


def _recipe(folder: Path) -> Any:
    """Stack `pixel_array` in the order of z, as tutorials do."""
    import pydicom

    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    stored = np.stack([one.pixel_array for one in slices]).astype(np.float32)
    return stored * float(slices[0].RescaleSlope) + float(slices[0].RescaleIntercept)


def interleaved(work: Work, rounds: int) -> dict[str, float]:
    """Give the median seconds of each contender, taking turns; the first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, run in tuple(work.items()):
            start = time.perf_counter()
            try:
                result = run()
            except Exception as error:  # noqa: BLE001 - each reader raises kinds of its own
                print(f"without {name}: {str(error).splitlines()[0]}")
                del work[name], taken[name]
                continue
            if number:
                taken[name].append(time.perf_counter() - start)
            del result
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _peak(folder: Path, names: list[Path], name: str, answers: Any) -> None:
    work = volume_work(folder, names)[name]
    # Linux keeps the high-water mark of resident memory, and 5 sets it back to what is used now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _high_water_kib()
    result = work()
    answers.put((_high_water_kib() - before) / 1024)
    del result


def _high_water_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def peak_memory(folder: Path, paths: list[Path], names: list[str]) -> dict[str, float]:
    """Give the MiB each contender adds at its peak, in a fresh process that reads once."""
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for name in names:
        answers = context.Queue()
        process = context.Process(target=_peak, args=(folder, paths, name, answers))
        process.start()
        peaks[name] = float(answers.get())
        process.join()
    return peaks


def as_markdown(results: dict[str, dict[str, float]], peaks: dict[str, float]) -> str:
    """Lay the medians out as a table, with the ratio to ours."""
    lines = ["| work | reader | median ms | ratio | peak MiB |", "|---|---|---|---|---|"]
    for work, medians in results.items():
        ours = medians["dicomdata"]
        for name, seconds in medians.items():
            peak = f"{peaks[name]:.0f}" if work.startswith("volume") and name in peaks else ""
            lines.append(
                f"| {work} | {name} | {seconds * 1000:.4g} | {seconds / ours:.3g} | {peak} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure, print a table, and keep the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--slices", type=int, default=130)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--codec-slices", type=int, default=24)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        paths = make_series(Path(temporary), options.slices)
        folder = paths[0].parent
        volume = volume_work(folder, paths)
        shape = f"{options.slices} x 512 x 512"
        results = {
            f"headers of {len(paths)} files": interleaved(header_work(paths), options.rounds),
            f"volume {shape}, float32": interleaved(volume, options.rounds),
            "box of 96 x 96 x 96": interleaved(crop_work(folder), options.rounds),
        }
        stack = dd.plan_stacks(dd.scan(folder)).stacks[0]
        first = max(options.slices - options.codec_slices, 0) // 2
        middle = dd.Region(slices=slice(first, first + options.codec_slices))
        hu = dd.read_volume(stack, middle, dtype=np.int16).voxels
        for name, syntax in CODECS.items():
            work = codec_work(Path(temporary) / name, hu, syntax)
            results[f"{name}, {len(hu)} slices"] = interleaved(work, options.rounds)
        peaks = peak_memory(folder, paths, list(volume))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(as_markdown(results, peaks))
    if options.json:
        options.json.write_text(json.dumps({"medians_s": results, "peak_mib": peaks}, indent=1))


if __name__ == "__main__":
    main()

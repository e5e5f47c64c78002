"""What was measured on: the machine, how busy it was, and the versions of everything."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "dicomdata", "numpy", "torch", "monai", "pydicom", "imagecodecs", "itk-io", "SimpleITK",
    "torchio", "python-gdcm", "dicomsdl", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls",
    "pillow",
)  # fmt: skip


def describe() -> dict[str, str]:
    """Say what does not change while it is measured on."""
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{_memory_gib():.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(filter(None, map(_version, _PACKAGES))),
    }


def load() -> str:
    """Give the load average of one minute: 0 on a machine that is quiet."""
    return f"{os.getloadavg()[0]:.2f}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} missing"

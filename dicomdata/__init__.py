"""From DICOM folders to training batches: never silently wrong, rarely refusing.

    >>> import dicomdata as dd
    >>> plan = dd.plan_stacks(dd.scan("/data/ct").select(modality="CT"))
    >>> volume = dd.read_volume(plan.stacks[0])  # HU, (slices, rows, columns), affine_lps

Read `dicomdata.pipeline` first: the whole line in one short function. Names are loaded when they
are first used, so that reading alone imports neither torch nor MONAI.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicomdata.cache import DiskCache, MemoryCache, NoCache, VolumeCache, warm
    from dicomdata.catalog import Catalog, Series, open_catalog, scan
    from dicomdata.dataset import VolumeDataset
    from dicomdata.errors import (
        CacheError,
        CatalogError,
        ConfigError,
        DicomDataError,
        DicomDataWarning,
        FileError,
        GeometryError,
        HeaderError,
        NotDicomError,
        OtherObjectError,
        PixelError,
        Rejection,
        RescaleError,
        StaleError,
    )
    from dicomdata.header import Frame, Instance, Kind, read_header, read_instance
    from dicomdata.loader import collate
    from dicomdata.metatensor import from_metatensor, to_metatensor
    from dicomdata.reader import StackReader
    from dicomdata.regions import Region
    from dicomdata.report import draw_histogram, draw_orthogonal
    from dicomdata.stack import (
        Finding,
        Outcome,
        Policy,
        Stack,
        StackPlan,
        plan_stacks,
        stack_series,
    )
    from dicomdata.volume import Volume, read_volume

_HOMES = {
    "cache": ("DiskCache", "MemoryCache", "NoCache", "VolumeCache", "warm"),
    "catalog": ("Catalog", "Series", "open_catalog", "scan"),
    "dataset": ("VolumeDataset",),
    "errors": (
        "CacheError",
        "CatalogError",
        "ConfigError",
        "DicomDataError",
        "DicomDataWarning",
        "FileError",
        "GeometryError",
        "HeaderError",
        "NotDicomError",
        "OtherObjectError",
        "PixelError",
        "Rejection",
        "RescaleError",
        "StaleError",
    ),
    "header": ("Frame", "Instance", "Kind", "read_header", "read_instance"),
    "loader": ("collate",),
    "metatensor": ("from_metatensor", "to_metatensor"),
    "reader": ("StackReader",),
    "regions": ("Region",),
    "report": ("draw_histogram", "draw_orthogonal"),
    "stack": (
        "Finding",
        "Outcome",
        "Policy",
        "Stack",
        "StackPlan",
        "plan_stacks",
        "stack_series",
    ),
    "volume": ("Volume", "read_volume"),
}
"""Module -> the public names it is the home of."""

_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: PLE0604 - names are spelled out above, once
    *_MODULES,
    "__version__",
]

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dicomdata")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps a function public beside the module of the same name.

    Importing ``dicomdata.scan`` would put that module in the place of the function ``dd.scan``,
    since Python sets a submodule as an attribute of its package.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

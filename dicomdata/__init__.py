"""From DICOM folders to training batches: never silently wrong, rarely refusing.

    >>> import dicomdata as dd
    >>> plan = dd.plan_stacks(dd.scan("/data/ct").select(modality="CT"))
    >>> volume = dd.read_volume(plan.stacks[0])  # HU, (slices, rows, columns), affine_lps

Read `dicomdata.pipeline` first: the whole line in one short function. The public names are listed
in ``__init__.pyi`` and loaded when they are first used, so that reading alone imports neither
torch nor MONAI.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # 80 ms for a rare question

        return version("dicomdata")
    return _load(name)


class _Package(ModuleType):
    """Keeps a function public beside the module of the same name.

    Importing ``dicomdata.scan`` would put that module in the place of the function ``dd.scan``,
    since Python sets a submodule as an attribute of its package.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

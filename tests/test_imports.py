"""`import dicomdata` is quick and lazy, and every public name is where it is said to be."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import dicomdata as dd
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from prepared_python import PreparedPython

STUB = Path(dd.__file__).with_suffix(".pyi")
"""The one list of public names, which type checkers and the package itself read."""

HEAVY = {
    "torch", "monai", "pydicom", "zarr", "matplotlib", "typer", "SimpleITK", "itk", "pandas",
    "lightning", "pytorch_lightning",
}  # fmt: skip
"""What takes a tenth of a second or more to import."""


def public_names() -> dict[str, str]:
    """Name -> module, as the stub has it."""
    return {
        alias.asname or alias.name: f"dicomdata.{statement.module}"
        for statement in ast.parse(STUB.read_text()).body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


def modules() -> list[str]:
    return [
        module.name
        for module in pkgutil.walk_packages(dd.__path__, "dicomdata.")
        if not module.name.startswith("dicomdata.testing.")
    ]


def run(program: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


# --- time -----------------------------------------------------------------------------------------


def test_importing_the_package_takes_less_than_half_a_second() -> None:
    program = (
        "import time; began = time.perf_counter(); import dicomdata; "
        "print(time.perf_counter() - began)"
    )

    # The quickest of a few: the disk may be cold, and the machine busy.
    seconds = min(float(run(program)) for _ in range(3))

    assert seconds < 0.5


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = run("import sys, dicomdata; print(*sys.modules)").split()

    assert HEAVY.isdisjoint(loaded)
    assert "numpy" not in loaded


def test_reading_a_volume_imports_neither_torch_nor_monai(tmp_path: Path) -> None:
    write_series(tmp_path)
    program = """
import sys
import dicomdata as dd
plan = dd.plan_stacks(dd.scan(sys.argv[1]).select(modality="CT"))
volume = dd.read_volume(plan.stacks[0], dd.Region(rows=slice(0, 2)))
assert volume.voxels.shape == (5, 2, 6)
print(*sys.modules)
"""

    loaded = run(program, tmp_path).split()

    assert HEAVY.isdisjoint(loaded)


def test_reading_compressed_pixels_imports_neither_torch_nor_monai(tmp_path: Path) -> None:
    write_series(tmp_path, shape=(2, 16, 16), transfer_syntax_uid="1.2.840.10008.1.2.4.90")
    program = """
import sys
import dicomdata as dd
dd.read_volume(dd.plan_stacks(dd.scan(sys.argv[1])).stacks[0])
print(*sys.modules)
"""

    loaded = run(program, tmp_path).split()

    assert {"torch", "monai"}.isdisjoint(loaded)


# --- names ----------------------------------------------------------------------------------------


def test_every_public_name_is_there() -> None:
    names = public_names()

    assert set(names) | {"__version__"} >= set(dd.__dir__()) - {"__doc__"}
    for name in dd.__dir__():
        assert getattr(dd, name) is not None


@pytest.mark.unaccounted
def test_every_public_name_lives_in_the_module_the_stub_says() -> None:
    for name, module in public_names().items():
        assert getattr(dd, name) is getattr(import_module(module), name), name


def test_every_public_name_of_an_error_is_public() -> None:
    errors = import_module("dicomdata.errors")

    defined = {
        name
        for name, value in vars(errors).items()
        if getattr(value, "__module__", "") == errors.__name__
    }

    assert defined <= set(public_names())


def test_the_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import version

    assert dd.__version__ == version("dicomdata")


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        dd.no_such_name  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    "first",
    ["pass", "import dicomdata.scan", "import dicomdata.catalog.update", "dicomdata.read_volume"],
)
def test_a_function_is_not_hidden_by_the_module_of_its_name(first: str) -> None:
    program = f"""
import dicomdata
{first}
from dicomdata import scan
import dicomdata.scan
import sys
assert callable(dicomdata.scan) and dicomdata.scan is scan, dicomdata.scan
assert sys.modules["dicomdata.scan"].find_files
print("ok")
"""

    assert run(program) == "ok\n"


EXTRA = "install dicomdata["

IMPORT_EACH = """
import importlib, os, pkgutil, sys

def import_first(name):
    # Python imports a package before what lies in it. So each package is imported in a child that
    # has nothing of ours but the packages around it, and what lies in it in children of that one.
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        package = importlib.import_module(name)
        print(name, flush=True)
        for module in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{name}."):
            if module.name in sys.modules:
                print(module.name, flush=True)
            else:
                import_first(module.name)
    except BaseException as error:
        print(f"{name}: {error!r}", flush=True)
    os._exit(0)

import_first("dicomdata")
"""


def test_every_module_can_be_imported_first(
    prepared_python: PreparedPython, tmp_path: Path
) -> None:
    done = prepared_python.run(IMPORT_EACH, folder=tmp_path)

    # A cycle shows only from one end.
    told = dict(line.partition(": ")[::2] for line in done.stdout.splitlines())
    # What needs an extra that is not installed names it.
    failed = {name: error for name, error in told.items() if error and EXTRA not in error}
    assert failed == {}
    assert told.keys() >= {"dicomdata", *modules()}


def test_without_lightning_its_module_says_what_to_install() -> None:
    program = """
import sys
sys.modules.update({"lightning": None, "pytorch_lightning": None})
import dicomdata as dd
try:
    import dicomdata.lightning
except dd.ConfigError as error:
    print(error)
"""

    assert run(program) == ("dicomdata.lightning: needs Lightning: install dicomdata[lightning]\n")


def test_names_complete_in_a_shell() -> None:
    assert {"scan", "plan_stacks", "read_volume", "VolumeDataset"} <= set(dir(dd))

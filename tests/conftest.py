"""What all tests share: hypothesis profiles, the corpus of real series, the account of every file.

Real series come with references (`expected.json`). They are looked for in ``DICOMDATA_CORPUS``,
by default ``../shared/corpus`` beside the project; without them their tests are skipped by name.
All other tests need nothing but the package.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from prepared_python import PreparedPython

import dicomdata as dd
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = Path(__file__).resolve().parent.parent

CORPUS = Path(os.environ.get("DICOMDATA_CORPUS") or PROJECT.parent / "shared" / "corpus")

OUTCOMES = {
    "used", "duplicate", "localizer", "other object", "not DICOM", "rejected", "not selected",
}  # fmt: skip

# Each example writes and scans a folder, whose time depends on the disk: no deadline.
_SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", _SLOW, max_examples=12, derandomize=True)
settings.register_profile("thorough", _SLOW, max_examples=250)
_PROFILE = os.environ.get("DICOMDATA_PROFILE") or "default"
settings.load_profile(_PROFILE)


# Workers of a fork server import their part of a test alone; what takes seconds is there already.
multiprocessing.set_forkserver_preload(["monai.data", "monai.transforms", "pytest", "torch"])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "unaccounted: files change between scan and plan, so no account can hold"
    )
    config.addinivalue_line(
        "markers",
        "corpus(*kinds, largest=None): run once for each real series of these kinds, as `entry`; "
        "series of more than `largest` bytes wait for the thorough profile",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the trainings, whose fixtures take longest.

    Of several processes, one that is done takes over the last tests of another: when they share a
    fixture, both make it.
    """
    items.sort(key=lambda item: not item.path.name.startswith(("test_train", "test_whole_loop")))


def pytest_unconfigure() -> None:
    """Keep what ITK's SWIG bindings share when Python ends.

    Giving it back makes a type that Python warns of, when pytest's filters are gone: a line on
    stderr, after the closing line of pytest by which a log is judged.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("swig_runtime_data"):
            shared = ctypes.py_object(getattr(module, "type_pointer_capsule", None))
            ctypes.pythonapi.Py_IncRef(shared)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test marked `corpus` one entry of ``expected.json`` after the other."""
    marker = metafunc.definition.get_closest_marker("corpus")
    if marker is None:
        return
    known = _read_expected().get("series", ())
    entries = [entry for entry in known if _is_wanted(entry, *marker.args, **marker.kwargs)]
    parameters = [pytest.param(entry, id=entry["id"]) for entry in entries]
    metafunc.parametrize("entry", parameters or [pytest.param({}, id="no-corpus")])


@pytest.fixture
def corpus(request: pytest.FixtureRequest) -> Path:
    """The folder of real series with references."""
    if not (CORPUS / "expected.json").is_file():
        name = request.node.name.removesuffix("[no-corpus]")
        pytest.skip(f"{name}: no real series in {CORPUS} (DICOMDATA_CORPUS)")
    return CORPUS


@pytest.fixture
def expected(corpus: Path) -> dict[str, Any]:
    """What is known of the corpus."""
    return _read_expected()


@pytest.fixture(scope="session")
def planned() -> Callable[..., dd.StackPlan]:
    """Scan a folder, plan its stacks, and check that every file is accounted for."""

    def plan(root: Path, policy: dd.Policy | None = None, **options: Any) -> dd.StackPlan:
        plan = dd.plan_stacks(dd.scan(root, progress=False, **options), policy)
        check_account(plan)
        return plan

    return plan


@pytest.fixture(scope="session")
def prepared_python() -> Iterator[PreparedPython]:
    """A Python for programs that would take seconds to import what they need."""
    python = PreparedPython()
    yield python
    python.close()


@pytest.fixture
def stacks(tmp_path: Path, planned: Callable[..., dd.StackPlan]) -> list[dd.Stack]:
    """Three stacks below `archive`, in the order of their series; a module may have others."""
    for name in ("one", "two", "three"):
        write_series(tmp_path / "archive" / name, seed=name)
    return list(planned(tmp_path / "archive").stacks)


@pytest.fixture(autouse=True)
def _account_of_every_plan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the account of every plan that a test asks for, unless it is marked `unaccounted`."""
    if request.node.get_closest_marker("unaccounted"):
        return
    plan_stacks = dd.plan_stacks

    def plan(catalog: dd.Catalog, policy: dd.Policy | None = None) -> dd.StackPlan:
        planned = plan_stacks(catalog, policy)
        check_account(planned)
        return planned

    monkeypatch.setattr(dd, "plan_stacks", plan)


@pytest.fixture(scope="session")
def accounted() -> Callable[[dd.StackPlan], None]:
    """Check that a plan accounts for every file under its root, exactly once."""
    return check_account


def check_account(plan: dd.StackPlan) -> None:
    """Compare the rows of `outcomes` with the files on disk, and with the stacks."""
    rows = plan.outcomes

    frames_of: dict[str, list[int | None]] = {}
    for row in rows:
        frames_of.setdefault(row.path, []).append(row.frame)
    assert sorted(frames_of) == sorted(files_below(plan.catalog))
    for path, frames in frames_of.items():
        assert frames in ([None], list(range(len(frames)))), f"{path}: frames {frames}"

    stacks = {stack.id: stack for stack in plan.stacks}
    assert len(stacks) == len(plan.stacks)
    for row in rows:
        assert row.outcome in OUTCOMES
        assert bool(row.reason) == (row.outcome != "used"), row
        assert bool(row.stack) == (row.outcome in {"used", "duplicate", "localizer"}), row
        assert not row.stack or row.stack in stacks, row
    used = Counter((row.stack, row.path, row.slice_number) for row in rows if row.outcome == "used")
    assert used == Counter(
        (stack.id, path, number)
        for stack in plan.stacks
        for path, number in zip(stack.paths, stack.slice_numbers, strict=True)
    )


def files_below(catalog: dd.Catalog) -> Iterator[str]:
    """Walk as the catalog's scan should have: all that is no folder, nor a link to one inside."""
    top = str(catalog.root)
    own = {str(catalog.path), f"{catalog.path}.blake2b"}
    for folder, names, files in os.walk(top):
        for name in (*names, *files):
            path = os.path.join(folder, name)
            target = os.path.realpath(path)
            inside = target == top or target.startswith(os.path.realpath(top) + os.sep)
            is_folder = os.path.isdir(path) and (inside or not os.path.islink(path))
            if path not in own and not is_folder:
                yield path


def _read_expected() -> dict[str, Any]:
    path = CORPUS / "expected.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return known


def _is_wanted(entry: dict[str, Any], *kinds: str, largest: int | None = None) -> bool:
    small = largest is None or entry["bytes"] <= largest or _PROFILE == "thorough"
    return small and entry["expected"]["kind"] in (kinds or {entry["expected"]["kind"]})

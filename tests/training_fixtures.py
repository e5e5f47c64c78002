"""Fixtures of tests of `scripts/train.py`; a plugin, so that its processes serve all of them."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from launching import Launcher
from trainings import SCRIPT, settings_of, write_archive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from trainings import Configure


@pytest.fixture(scope="module")
def train() -> Iterator[ModuleType]:
    """The program, as a module: workers find its classes by name."""
    spec = importlib.util.spec_from_file_location("train", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    # For so few voxels, more of them mostly wait for each other, and let others wait.
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five patients with a bright cube each, labelled by SEG, NIfTI and a table; and a split."""
    return write_archive(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="session")
def launcher(archive: Path) -> Iterator[Launcher]:
    """Starts the program in processes of its own."""
    with Launcher(archive) as started:
        yield started


@pytest.fixture
def configure(archive: Path, tmp_path: Path) -> Configure:
    """Write a file of settings: those of `settings_of`, but for what is said."""

    def write(name: str = "config.yaml", **changes: Any) -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(settings_of(archive, tmp_path) | changes))
        return path

    return write

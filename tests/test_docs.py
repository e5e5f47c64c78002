"""The pages of the documentation, run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import dicomdata as dd
from dicomdata.testing.thorax import thorax_archive

if TYPE_CHECKING:
    from prepared_python import PreparedPython

PROJECT = Path(__file__).parent.parent
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")

NEEDS_A_CLONE = ("make demo", "make test", "python scripts/train.py", "python scripts/evaluate.py")
"""How the other commands of the README begin: tests of their own run them."""

NEEDS_AN_EXTRA = {"lightning.md": "pytorch_lightning"}
"""A page -> what it needs that only an extra brings."""


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(page.read_text()) if kind == language]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    thorax_archive(folder / "archive", slices=40, size=128, patients=2)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, archive: Path, tmp_path: Path, prepared_python: PreparedPython
) -> None:
    if (library := NEEDS_AN_EXTRA.get(page.name)) and find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    (tmp_path / "archive").mkdir()
    for file in (archive / "archive").rglob("*"):
        if file.is_file():
            target = tmp_path / "archive" / file.relative_to(archive / "archive")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(file)

    # In a program of its own: data loaders start workers, and a page imports what it needs.
    done = prepared_python.run("\n".join(blocks(page, "python")), folder=tmp_path)

    assert done.returncode == 0, done.stderr


def test_the_commands_of_the_readme_run(archive: Path, tmp_path: Path) -> None:
    lines = "\n".join(blocks(PROJECT / "README.md", "console")).splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line]
    ours = [command[1:] for command in commands if command[0] == "dicomdata"]
    (tmp_path / "archive").symlink_to(archive / "archive")

    statuses = [
        subprocess.run(
            [Path(sys.executable).parent / "dicomdata", *command],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        ).returncode
        for command in ours
    ]

    # 1: a stray text file lies among the patients, and was left out.
    assert set(statuses) <= {0, 1}
    assert len(statuses) >= 3
    assert [" ".join(c[:2]) for c in commands if c[0] != "dicomdata"] == list(NEEDS_A_CLONE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text())

    missing = [target for target in targets if not (page.parent / target).exists()]

    assert missing == []


def test_every_finding_is_explained() -> None:
    page = (PROJECT / "docs" / "findings.md").read_text()

    named = {field.name for field in fields(dd.Policy)}

    assert named <= set(re.findall(r"`(\w+)", page)) | {"padding"}

"""The demo: small settings, the same line; twice in a row, and on somebody's own archive."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

import dicomdata as dd
from dicomdata.config import load_settings
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from types import ModuleType

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    """The program, as a module: workers find its classes by name."""
    spec = importlib.util.spec_from_file_location("demo", PROJECT / "scripts" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module
    spec.loader.exec_module(module)
    return module


def small(demo: ModuleType, **training: Any) -> Any:
    chosen = {
        "min_slices": 8, "patch": (32, 32, 8), "steps": 8, "workers": 2, "batch_size": 2, **training
    }  # fmt: skip
    return demo.DemoSettings(
        phantom=demo.PhantomSettings(patients=2, slices=12, size=64),
        training=demo.TrainingSettings(**chosen),
        pictures=2,
    )


def test_the_settings_that_are_shipped_are_valid(demo: ModuleType) -> None:
    settings = load_settings(PROJECT / "configs" / "demo.yaml", demo.DemoSettings)

    assert settings == demo.DemoSettings()


def test_the_demo_walks_the_whole_line_and_can_be_run_again(
    demo: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo"

    demo.run(small(demo), folder, None)
    first = capfd.readouterr()
    demo.run(small(demo), folder, None)
    second = capfd.readouterr()

    assert first.err == second.err == ""
    for told in (first.out, second.out):
        assert re.search(r"a UNet learns to tell air, fat, soft tissue and bone apart", told)
        assert re.search(r"first batch after [\d.]+ s: \(2, 1, 32, 32, 8\), torch.float32", told)
        assert re.search(r"loss \d\.\d\d -> \d\.\d\d; [\d.]+% of the voxels of a patient it", told)
    catalog = dd.open_catalog(folder / "demo.catalog")
    assert len(catalog.select(patient_id=["PHANTOM-0001", "PHANTOM-0002"])) == 2
    rows = (folder / "outcomes.csv").read_text(errors="surrogateescape").splitlines()
    assert len(rows) == 1 + len(dd.plan_stacks(catalog).outcomes)
    for name in ("stack-1.png", "stack-2.png", "lung-window.png", "histogram.png"):
        with Image.open(folder / name) as picture:
            assert picture.size > (500, 200), name


def test_the_demo_reads_an_archive_of_your_own(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "data", shape=(10, 40, 40), modality="MR")
    before = sorted((tmp_path / "data").rglob("*"))

    demo.run(small(demo, workers=0), tmp_path / "demo", tmp_path / "data")

    told = capsys.readouterr().out
    assert "four levels of brightness" in told
    assert "of other patches are right" in told
    assert not (tmp_path / "demo" / "archive").exists()
    assert not (tmp_path / "demo" / "histogram.png").exists()
    assert sorted((tmp_path / "data").rglob("*")) == before


def test_volumes_smaller_than_a_patch_are_padded(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "data", shape=(8, 10, 12))

    demo.run(small(demo, workers=0, steps=2), tmp_path / "demo", tmp_path / "data")

    assert "(2, 1, 32, 32, 8)" in capsys.readouterr().out


def test_an_archive_without_volumes_to_train_on_is_still_listed(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "data", shape=(3, 8, 8))
    (tmp_path / "data" / "notes.txt").write_text("no DICOM\n")

    demo.run(small(demo), tmp_path / "demo", tmp_path / "data")

    told = capsys.readouterr().out
    assert "1 stack: frames proven to lie on one grid" in told
    assert "no CT or MR of 8 slices or more: nothing to train on" in told


def test_an_empty_archive_is_no_failure(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()

    demo.run(small(demo), tmp_path / "demo", tmp_path / "data")

    assert "0 stacks" in capsys.readouterr().out


def test_an_archive_that_is_not_there_is_one_line_and_status_2(
    demo: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(demo, "PROJECT", tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text("pictures: 1\n")

    status = demo.main()

    told = capsys.readouterr().err
    assert status == 2
    assert "nowhere: no such folder" in told
    assert told.count("\n") == 1

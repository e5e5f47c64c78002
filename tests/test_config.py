"""Settings: a YAML file either says something the model knows, or is refused by name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from dicomdata.config import Settings, load_settings
from dicomdata.errors import ConfigError


class Patches(Settings):
    size: tuple[int, int, int] = (64, 64, 64)
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5


class Training(Settings):
    steps: int = 10
    learning_rate: float = 1e-3
    patches: Patches = Patches()
    stages: tuple[Patches, ...] = ()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.yaml"


def test_a_file_says_what_differs_from_the_defaults(path: Path) -> None:
    path.write_text("steps: 20\npatches:\n  size: [32, 32, 16]\n")

    settings = load_settings(path, Training)

    assert settings == Training(steps=20, patches=Patches(size=(32, 32, 16)))
    assert settings.patches.overlap == 0.5


@pytest.mark.parametrize("text", ["", "# nothing to say\n", "{}\n"])
def test_an_empty_file_gives_the_defaults(path: Path, text: str) -> None:
    path.write_text(text)

    assert load_settings(path, Training) == Training()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("learning_rat: 0.1\n", "learning_rat: no such setting; did you mean learning_rate?"),
        ("patches:\n  sice: 3\n", "patches.sice: no such setting; did you mean size?"),
        ("stages:\n- overlab: 0.1\n", "stages.0.overlab: no such setting; did you mean overlap?"),
        ("zzz: 1\n", "zzz: no such setting; known are steps, learning_rate, patches, stages"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known(path: Path, text: str, told: str) -> None:
    path.write_text(text)

    with pytest.raises(ConfigError) as caught:
        load_settings(path, Training)

    assert str(caught.value) == f"{path}: {told}"


def test_every_fault_of_a_file_is_told_at_once(path: Path) -> None:
    path.write_text("steps: many\npatches:\n  overlap: 1.5\nstep: 3\n")

    with pytest.raises(ConfigError) as caught:
        load_settings(path, Training)

    told = str(caught.value)
    assert "steps: input should be a valid integer" in told
    assert "patches.overlap: input should be less than 1" in told
    assert "step: no such setting; did you mean steps?" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("steps: [1, 2\n", "no YAML"),
        ("steps: 1\nsteps: 2\n", "'steps' is given twice"),
        ("- steps\n", "expected keys with values, got list"),
        ("twenty", "expected keys with values, got str"),
        ("steps: !!python/object/apply:os.system ['true']\n", "no YAML"),
    ],
)
def test_what_is_no_mapping_is_refused(path: Path, text: str, told: str) -> None:
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"training\.yaml") as caught:
        load_settings(path, Training)

    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_in_a_file_is_evaluated(path: Path) -> None:
    path.write_text("steps: $(1 + 1)\n")

    with pytest.raises(ConfigError, match="steps: input should be a valid integer"):
        load_settings(path, Training)


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.yaml: cannot be read: No such file"):
        load_settings(path, Training)


def test_bytes_that_are_no_text_are_refused(path: Path) -> None:
    path.write_bytes(b"steps: \xff\xfe\n")

    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_settings(path, Training)


def test_settings_are_frozen_and_pickle() -> None:
    settings = Training(steps=3)

    with pytest.raises(ValueError, match="frozen"):
        settings.steps = 4
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_the_documentation_names_every_file_of_settings() -> None:
    configs = Path(__file__).parents[1] / "configs"

    told = (configs / "README.md").read_text()

    assert all(f"`{file.name}`" in told for file in configs.glob("*.yaml"))

"""YAML -> validated, frozen settings; nothing in a file is ever evaluated.

A model says what there is to set; a file says what differs from the model's defaults. A key that
the model does not know is an error, because a misspelt setting would otherwise be a silent default.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Hashable, Sequence
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from dicomdata.errors import ConfigError


class Settings(BaseModel):
    """Base of every model of settings: frozen, and without room for unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


S = TypeVar("S", bound=Settings)


def load_settings(path: str | os.PathLike[str], model: type[S]) -> S:
    """Read a YAML file into a model of settings; an empty file gives the model's defaults.

    Args:
        path: the file.
        model: what may be set, of which types, with which defaults.

    Raises:
        ConfigError: if the file cannot be read, is no YAML mapping, has a key twice, a key that
            the model does not know, or a value that the model refuses. The error names the file
            and every key at fault; for an unknown one, the nearest that is known.
    """
    name = os.fspath(path)
    read = _read_yaml(name)
    if not isinstance(read, dict):
        raise ConfigError(f"{name}: expected keys with values, got {type(read).__name__}")
    try:
        return model.model_validate(read)
    except ValidationError as error:
        faults = "; ".join(_fault(problem, model) for problem in error.errors())
        raise ConfigError(f"{name}: {faults}") from error


def _read_yaml(name: str) -> Any:
    try:
        with open(name, encoding="utf-8") as file:
            # The loader is a SafeLoader: it builds plain values only.
            read = yaml.load(file, _UniqueKeys)  # noqa: S506
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 text: {error.reason}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: no YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{name}: no YAML: nested too deeply") from error
    return {} if read is None else read


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - the parent's signature
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice[0]!r} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _fault(problem: Any, model: type[BaseModel]) -> str:
    """Say in one clause which key is wrong, and how."""
    place = problem["loc"]
    key = ".".join(map(str, place)) or "the settings"
    if problem["type"] == "extra_forbidden":
        known = list(_fields_at(model, place[:-1]))
        near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"{key}: no such setting; {hint}"
    message = str(problem["msg"])
    return f"{key}: {message[:1].lower()}{message[1:]}"


def _fields_at(model: type[BaseModel], place: Sequence[int | str]) -> Sequence[str]:
    """Give the names a model has at a place within it."""
    for step in place:
        field = model.model_fields.get(str(step))
        inner = [] if field is None else [field.annotation, *get_args(field.annotation)]
        models = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)]
        # A step that is no field, such as a number in a list, stays with the model it is in.
        model = models[0] if models else model
    return list(model.model_fields)

"""Names of classes and their arguments -> objects: the form of MONAI's bundles, without its code.

    {_target_: UNet, spatial_dims: 3, in_channels: 1, out_channels: 2, ...}

A target is a class of MONAI, of torch, or of a package that whoever starts the program allows: a
file of settings alone cannot name anything else, and nothing in it is evaluated. What is made must
be of the kind that is wanted, so that no function can be called by its name.
"""

from __future__ import annotations

import difflib
import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from dicomdata.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from monai.transforms.compose import Compose

Kind = Literal["network", "loss", "optimizer", "scheduler", "transform"]

_HOMES: dict[Kind, tuple[str, ...]] = {
    "network": ("monai.networks.nets",),
    "loss": ("monai.losses", "torch.nn"),
    "optimizer": ("torch.optim",),
    "scheduler": ("torch.optim.lr_scheduler",),
    "transform": ("monai.transforms",),
}
"""Where a name without dots is looked for."""

_BASES: dict[Kind, tuple[str, str]] = {
    "network": ("torch.nn", "Module"),
    "loss": ("torch.nn", "Module"),
    "optimizer": ("torch.optim", "Optimizer"),
    "scheduler": ("torch.optim.lr_scheduler", "LRScheduler"),
    "transform": ("monai.transforms.transform", "Transform"),
}
"""What a target must be derived from."""

_PACKAGES = ("monai", "torch", "dicomdata")

_TARGET, _DISABLED, _DESCRIPTION = "_target_", "_disabled_", "_desc_"

_MARKS = {
    "$": "an expression: nothing in a file is evaluated",
    "@": "a reference: write the value itself",
    "%": "a macro: write the value itself",
}
"""First letters that MONAI's bundles give a meaning to."""


def build(
    component: Mapping[str, Any],
    kind: Kind,
    *given: Any,
    allowed: Sequence[str] = (),
) -> Any:
    """Make the object that a component describes.

    Args:
        component: ``_target_`` and the arguments that it is called with.
        kind: what it must be.
        given: arguments that come before: what an optimizer optimizes.
        allowed: packages besides MONAI and torch that targets may be of.

    Raises:
        ConfigError: if there is no such class, or none of the kind; if it knows no such argument,
            or refuses them. Names the nearest that is known.
    """
    target = component.get(_TARGET)
    if not isinstance(target, str):
        raise ConfigError(f"{kind}: expected {_TARGET}, the name of a class, got {dict(component)}")
    if odd := [key for key in component if key.startswith("_") and key not in _KNOWN]:
        raise ConfigError(f"{kind} {target}: {odd[0]} is not understood")
    found = _find(target, kind, allowed)
    arguments = {
        key: _plain(value, f"{kind} {target}: {key}", kind, allowed)
        for key, value in component.items()
        if key not in _KNOWN
    }
    _check_arguments(found, f"{kind} {target}", given, arguments)
    try:
        return found(*given, **arguments)
    # What others' constructors raise is not to be foreseen.
    except Exception as error:
        raise ConfigError(f"{kind} {target}: {type(error).__name__}: {error}") from error


_KNOWN = frozenset({_TARGET, _DISABLED, _DESCRIPTION})


def build_transforms(
    components: Sequence[Mapping[str, Any]], allowed: Sequence[str] = ()
) -> Compose:
    """Make a `Compose` of transforms; one with ``_disabled_: true`` is left out.

    Raises:
        ConfigError: as `build`; names which of them.
    """
    from monai.transforms.compose import Compose

    made = []
    for number, component in enumerate(components, 1):
        if component.get(_DISABLED, False) is True:
            continue
        try:
            made.append(build(component, "transform", allowed=allowed))
        except ConfigError as error:
            raise ConfigError(f"transform {number} of {len(components)}: {error}") from error
    return Compose(made)


def compare_transforms(training: Compose, validation: Compose) -> list[str]:
    """Say, a line each, in what a network is shown other images when it is not learning.

    Nothing is refused: a crop that makes samples alike may be for the training alone.
    """
    from monai.transforms.transform import Randomizable

    def names(compose: Compose, *, random: bool) -> list[str]:
        steps = compose.transforms
        return [type(each).__name__ for each in steps if isinstance(each, Randomizable) is random]

    told = []
    known = names(validation, random=False)
    if missing := [name for name in names(training, random=False) if name not in known]:
        told.append(
            f"{', '.join(missing)}: of transforms, and not of validation_transforms: the network "
            f"is validated on other images than it learns from"
        )
    if drawn := names(validation, random=True):
        told.append(f"{', '.join(drawn)}: of validation_transforms, and random: scores will be so")
    return told


def _find(target: str, kind: Kind, allowed: Sequence[str]) -> Any:
    """Find a class by its name.

    Raises:
        ConfigError: if there is none, or it is not of the kind.
    """
    _refuse_marks(target, f"{kind}: {_TARGET}")
    home, _, name = target.rpartition(".")
    packages = (*_PACKAGES, *allowed)
    if home and home.split(".")[0] not in packages:
        raise ConfigError(
            f"{kind} {target}: expected a class of {', '.join(packages)}; others must be allowed "
            f"by name where the program is started: --allow {home.split('.')[0]}"
        )
    modules = [_module(each, f"{kind} {target}") for each in ([home] if home else _HOMES[kind])]
    base = getattr(import_module(_BASES[kind][0]), _BASES[kind][1])
    for module in modules:
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, base) and not inspect.isabstract(found):
            return found
    known = sorted(
        each
        for module in modules
        for each in dir(module)
        if isinstance(one := getattr(module, each, None), type) and issubclass(one, base)
    )
    raise ConfigError(f"{kind} {target}: no such {kind}{_nearest(name, known)}")


def _module(name: str, subject: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"{subject}: {name} cannot be imported: {error}") from error


def _plain(value: Any, subject: str, kind: Kind, allowed: Sequence[str]) -> Any:
    """Give an argument: plain values as they are, components made.

    Raises:
        ConfigError: if text would be more than text in a bundle.
    """
    if isinstance(value, str):
        _refuse_marks(value, subject)
    if isinstance(value, dict):
        if _TARGET in value:
            return build(value, kind, allowed=allowed)
        return {key: _plain(each, f"{subject}.{key}", kind, allowed) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, subject, kind, allowed) for each in value]
    return value


def _refuse_marks(text: str, subject: str) -> None:
    if text[:1] in _MARKS:
        raise ConfigError(f"{subject}: {text!r} would be {_MARKS[text[0]]}")


def _check_arguments(
    target: Any, subject: str, given: Sequence[Any], arguments: Mapping[str, Any]
) -> None:
    """Refuse arguments that a class does not know, before it is called.

    Raises:
        ConfigError: names the nearest one that it knows, and those that are missing.
    """
    signature = inspect.signature(target)
    parameters = signature.parameters.values()
    named = [each.name for each in parameters if each.kind in {each.POSITIONAL_OR_KEYWORD,
                                                               each.KEYWORD_ONLY}]  # fmt: skip
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        for key in arguments:
            if key not in named:
                raise ConfigError(f"{subject}: no such argument: {key}{_nearest(key, named)}")
    try:
        signature.bind(*given, **arguments)
    except TypeError as error:
        raise ConfigError(f"{subject}: {error}") from error


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known[:20])}"

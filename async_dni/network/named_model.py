"""A network by its name, or by the function of a user's that makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from ..foundation.arguments import call
from ..foundation.error import ConfigError
from ..foundation.reference import is_reference, load
from .memory import check_fits
from .models import MODELS, ModelSpec

Offered = Mapping[str, Callable[[], Any]]
"""What is known of the data, by the name of an argument: found when it is asked for."""


def check_settings(name: str, flags: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for settings that a named network does not take; of a user's own, nothing is known yet."""
    for twice in [flag for flag, value in flags.items() if value is not None and flag in arguments]:
        raise ConfigError(
            "model_arg", f"{twice}={arguments[twice]}", f"--{twice} is given, too; allowed: one of the two"
        )
    if not is_reference(name):
        _filled(MODELS[name], flags, arguments)


def load_maker(name: str) -> Callable[..., Any] | ModelSpec:
    """What makes the network. Raises `ConfigError` where there is none of this name."""
    return load("model", name) if is_reference(name) else MODELS[name]


def make_named(
    name: str,
    maker: Callable[..., Any] | ModelSpec,
    flags: Mapping[str, Any],
    arguments: Mapping[str, Any],
    offered: Offered,
) -> nn.Module:
    """The network. `flags` are settings by flags of their own, None where none was given; `arguments` all others.

    Raises `ConfigError` where it can't be made of these, is no network, or does not fit in memory.
    """
    if isinstance(maker, ModelSpec):
        return _make_reference(maker, flags, arguments, offered)
    given = {**{flag: value for flag, value in flags.items() if value is not None}, **arguments}
    with _as_flag(flags):
        made = call("model", name, maker, given, offered)
    if not isinstance(made, nn.Module):
        raise ConfigError("model", name, f"it gives {type(made).__name__}; allowed: an nn.Module")
    return made


def _make_reference(
    spec: ModelSpec, flags: Mapping[str, Any], arguments: Mapping[str, Any], offered: Offered
) -> nn.Module:
    settings = _filled(spec, flags, arguments)
    make = partial(spec.make, **settings, **{argument: find() for argument, find in offered.items()})
    setting = "width" if "width" in settings else "model"
    with _as_argument(arguments):
        check_fits(make, setting, settings.get("width", spec.name), "the network")
        return make()


def _filled(spec: ModelSpec, flags: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    with _as_argument(arguments):
        return spec.filled({**flags, **arguments})


@contextmanager
def _as_argument(arguments: Mapping[str, Any]) -> Iterator[None]:
    """A setting that is refused is named as it was given, where it was one of the arguments."""
    try:
        yield
    except ConfigError as error:
        if error.setting not in arguments:
            raise
        given = f"{error.setting}={arguments[error.setting]}"
        raise ConfigError("model_arg", given, error.allowed) from None


@contextmanager
def _as_flag(flags: Mapping[str, Any]) -> Iterator[None]:
    """An argument that is refused is named as it was given, where it was by a flag of its own."""
    try:
        yield
    except ConfigError as error:
        for flag, value in flags.items():
            if value is not None and (error.setting, error.given) == ("model_arg", f"{flag}={value}"):
                raise ConfigError(flag, value, error.allowed) from None
        raise

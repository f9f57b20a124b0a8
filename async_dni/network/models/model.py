"""A reference network, as it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...foundation.error import ConfigError
from ...foundation.option import MOST_UNITS, Check, number, whole


@dataclass(frozen=True)
class ModelSpec:
    """A network by name. `make(**settings, input_shape=…, num_classes=…)` makes it: an `nn.Sequential` of blocks.

    It raises `ConfigError` for an input shape that it does not take.
    """

    name: str
    help: str  # a few words
    make: Callable[..., nn.Sequential]
    settings: Mapping[str, Any] = field(default_factory=dict)  # that `make` takes, with their defaults
    fixed: Mapping[str, Any] = field(default_factory=dict)  # others, that it has whatever is given
    checks: Mapping[str, Check] = field(default_factory=dict)  # of its settings; without one: whole(1), or a number

    def filled(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Its settings: those given, else its own. Raises `ConfigError` for one that it does not take."""
        for name, value in given.items():
            if value is None or self.fixed.get(name) == value:
                continue
            if name not in self.settings:
                takes = f"takes {', '.join(self.settings) or 'no settings'}"
                has = f"has {self.fixed[name]} {name}" if name in self.fixed else takes
                raise ConfigError(name, value, f"{self.name} {has}")
            if allowed := self.checks.get(name, _like(self.settings[name]))(value):
                raise ConfigError(name, value, allowed)
        return {name: default if given.get(name) is None else given[name] for name, default in self.settings.items()}


def _like(default: Any) -> Check:
    """The check of a setting that has none of its own."""
    return whole(1, MOST_UNITS) if type(default) is int else number(least=0)


share: Check = number(least=0, below=1)


def check_images(name: str, input_shape: Sequence[int]) -> None:
    """Raise `ConfigError` unless inputs are images `[channels, height, width]`."""
    if len(input_shape) != 3:
        raise ConfigError("model", name, f"it is for images [channels, height, width], not {list(input_shape)}")

"""A reference network, as it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...foundation.error import ConfigError


@dataclass(frozen=True)
class ModelSpec:
    """A network by name. `make(**settings, input_shape=…, num_classes=…)` makes it: an `nn.Sequential` of blocks."""

    name: str
    help: str  # a few words
    make: Callable[..., nn.Sequential]
    settings: Mapping[str, Any] = field(default_factory=dict)  # that `make` takes, with their defaults
    fixed: Mapping[str, Any] = field(default_factory=dict)  # others, that it has whatever is given

    def filled(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Its settings: those given, else its own. Raises `ConfigError` for one that it does not take."""
        for name, value in given.items():
            if value is None or name in self.settings or self.fixed.get(name) == value:
                continue
            takes = f"takes {', '.join(self.settings) or 'no settings'}"
            has = f"has {self.fixed[name]} {name}" if name in self.fixed else takes
            raise ConfigError(name, value, f"{self.name} {has}")
        return {name: default if given.get(name) is None else given[name] for name, default in self.settings.items()}

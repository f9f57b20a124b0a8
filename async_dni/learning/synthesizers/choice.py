"""Which synthesizer a boundary has: `NAME[:setting=value…]`, or, where none is named, by the shape of the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...foundation.error import ConfigError
from ...foundation.option import widths
from ...foundation.registry import Registry
from .synthesizer import CHANNELS_FIRST, CHANNELS_LAST, VECTOR, SynthesizerSpec

HIDDEN = "hidden"


@dataclass(frozen=True)
class SynthesizerChoice:
    """A synthesizer with its settings."""

    spec: SynthesizerSpec
    hidden: tuple[int, ...] | None = None  # None: as the other settings say
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The synthesizer's."""
        return self.spec.name

    def make(self, features: Sequence[int], hidden: Sequence[int], classes: int) -> nn.Module:
        """For outputs `[batch, *features]`. Raises `ConfigError` where it is not for these."""
        if not self.spec.fits(features):
            allowed = f"it is for outputs {self.spec.takes}, and those of a stage are {list(features)}"
            raise ConfigError("synthesizer", self.name, allowed)
        return self.spec.make(features, hidden if self.hidden is None else self.hidden, classes, **self.settings)


def parse_choices(text: str, registry: Registry[SynthesizerSpec]) -> list[SynthesizerChoice]:
    """Of `NAME[:setting=value…]`, one for all boundaries or one for each, separated by commas. Raises `ConfigError`.

    Widths of hidden layers are joined by x: `mlp:hidden=512x512,linear`.
    """
    return [_parse(part, registry) for part in text.split(",")]


def _parse(text: str, registry: Registry[SynthesizerSpec]) -> SynthesizerChoice:
    name, *given = text.split(":")
    spec = registry[name]
    takes = [*([HIDDEN] if spec.has_hidden else []), *spec.settings]
    values: dict[str, Any] = {}
    for part in given:
        setting, equals, value = part.partition("=")
        if not equals or setting not in takes:
            allowed = f"{name} takes {', '.join(f'{taken}=…' for taken in takes) or 'no settings'}"
            raise ConfigError("synthesizer", text, allowed)
        try:
            numbers = tuple(int(number) for number in value.split("x")) if value else ()
        except ValueError:
            numbers = (0,)
        if allowed_numbers := widths(numbers) or (len(numbers) != 1 and setting != HIDDEN and "allowed: one number"):
            raise ConfigError("synthesizer", text, f"{setting}={value}: {allowed_numbers}".replace("commas", "x"))
        values[setting] = numbers if setting == HIDDEN else numbers[0]
    return SynthesizerChoice(spec, values.pop(HIDDEN, None), values)


def default_choice(
    features: Sequence[int],
    hidden: Sequence[int],
    registry: Registry[SynthesizerSpec],
    channels_first: bool,
    by_position: bool = False,
) -> SynthesizerChoice:
    """The first that takes outputs of this layout, and has hidden layers where `hidden` has widths.

    A feature map is taken for a vector, unless there are hidden layers, or what is seen of the target is `by_position`.
    """
    layout = VECTOR if len(features) <= 1 else CHANNELS_FIRST if channels_first else CHANNELS_LAST
    if layout == CHANNELS_FIRST and not hidden and not by_position:
        layout = VECTOR
    specs = [registry[name] for name in registry]
    fitting = [spec for spec in specs if spec.layout == layout and spec.fits(features)] or specs
    return SynthesizerChoice(next(spec for spec in fitting if spec.has_hidden or not hidden))

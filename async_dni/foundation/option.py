"""Settings: fields of frozen dataclasses, each with its help text and its check.

The command line is generated from the fields, so neither can drift from the other. A value that is refused raises
`ConfigError`, one sentence that names the setting, what was given and what is allowed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .error import ConfigError
from .registry import Registry

MOST_UNITS = 1_000_000  # a layer; what fits in memory is less

Check = Callable[[Any], str | None]
"""Returns what is allowed when the value is not, else None."""


def option(
    default: Any, help: str, check: Check | None = None, registry: Registry[Any] | None = None, **parser: Any
) -> Any:
    """A dataclass field with its help text, its check, and what `argparse` needs to know of it.

    Where it names something in a registry, it is checked by that, and the help text lists what is there.
    """
    metadata = {"help": help, "check": check or (registry and registered(registry)), "registry": registry}
    return dataclasses.field(default=default, metadata={**metadata, "parser": parser})


def registered(registry: Registry[Any]) -> Check:
    """Check that a value is the name of something in a registry."""
    return lambda value: None if value in registry else f"allowed: {', '.join(registry)}"


def all_registered(registry: Registry[Any]) -> Check:
    """Check that a value is a sequence of different names in a registry (it may be empty)."""

    def check(value: Any) -> str | None:
        fits = words(value) is None and all(name in registry for name in value) and len(set(value)) == len(value)
        return None if fits else f"allowed: {', '.join(registry)}, each once, separated by commas"

    return check


def one_of(choices: Sequence[object]) -> Check:
    """Check that a value is one of `choices`."""
    allowed = "allowed: " + ", ".join(str(choice) for choice in choices)
    return lambda value: None if value in choices else allowed


def whole(minimum: int, maximum: int | None = None) -> Check:
    """Check that a value is an int of at least `minimum` (and at most `maximum`)."""
    allowed = f"allowed: a whole number of at least {minimum}" + (
        f" and at most {maximum}" if maximum is not None else ""
    )
    limit = math.inf if maximum is None else maximum
    return lambda value: None if type(value) is int and minimum <= value <= limit else allowed


def number(
    *, above: float | None = None, least: float | None = None, below: float = math.inf, most: float = math.inf
) -> Check:
    """Check that a value is a finite number over `above` (or at least `least`), under `below` and at most `most`."""
    bounds = [f"above {above:g}"] if above is not None else [f"of at least {least:g}"]
    bounds += [f"below {below:g}"] if below < math.inf else []
    bounds += [f"at most {most:g}"] if most < math.inf else []
    allowed = "allowed: a finite number " + " and ".join(bounds)

    def check(value: Any) -> str | None:
        fits = isinstance(value, int | float) and math.isfinite(value) and value < below and value <= most
        fits = fits and (value > above if above is not None else value >= (least or 0.0))
        return None if fits else allowed

    return check


def numbers(value: Any) -> str | None:
    """Check that a value is a sequence of finite numbers over 0."""
    fits = isinstance(value, tuple | list) and value and all(number(above=0)(item) is None for item in value)
    return None if fits else "allowed: finite numbers above 0, separated by commas"


def words(value: Any) -> str | None:
    """Check that a value is a sequence of words (it may be empty)."""
    fits = isinstance(value, tuple | list) and all(isinstance(item, str) and item for item in value)
    return None if fits else "allowed: words, separated by commas"


def names(value: Any) -> str | None:
    """Check that a value is a sequence of words, and not an empty one."""
    return words(value) or (None if value else "allowed: at least one name")


def widths(value: Any) -> str | None:
    """Check that a value is a sequence of numbers of units (it may be empty)."""
    fits = isinstance(value, Sequence) and all(type(item) is int and 1 <= item <= MOST_UNITS for item in value)
    return None if fits else f"allowed: whole numbers of at least 1 and at most {MOST_UNITS}, separated by commas"


def increasing(value: Any) -> str | None:
    """Check that a value is a strictly increasing sequence of whole numbers of at least 1."""
    fits = widths(value) is None and all(a < b for a, b in zip(value, value[1:], strict=False))
    return None if fits and len(value) else "allowed: increasing whole numbers of at least 1, separated by commas"


def path(value: Any) -> str | None:
    """Check that a value is a path."""
    return None if isinstance(value, str | Path) else "allowed: a path"


def devices(value: Any) -> str | None:
    """Check that a value can name devices; `assign_devices` knows which there are."""
    return None if isinstance(value, str) else "allowed: auto, cpu, cuda, or one device a worker, separated by commas"


def zero_or_seconds(value: Any) -> str | None:
    """Check that a value is 0, or seconds of at least 1: a worker that waits shows itself every half second."""
    fits = isinstance(value, int | float) and (value == 0 or 1 <= value < 1e6)
    return None if fits else "allowed: 0, or a finite number of at least 1 and below 1e+06"


def steps_or_epoch(value: Any) -> str | None:
    """Check that a value is a whole number or `epoch`."""
    fits = value == "epoch" or (type(value) is int and value >= 0)
    return None if fits else "allowed: a whole number of at least 0, or epoch"


class Checked:
    """Checks every field of a dataclass when it is made; None is allowed where it is the default."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, check = getattr(self, field.name), field.metadata.get("check")
            if check is None or (value is None and field.default is None):
                continue
            if allowed := check(value):
                raise ConfigError(field.name, value, allowed)

"""A user's own data sets: what a function of theirs gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..foundation.arguments import call
from ..foundation.error import ConfigError
from ..foundation.reference import load
from .brought.forms import are_sets
from .brought.parts import form


def load_own(named: str, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """The training and the evaluation set that the function `named` gives; of a training set alone, the other is None.

    Raises `ConfigError` where there is no such function, or it does not give that.
    """
    return make_own(named, load("data", named), arguments)


def make_own(named: str, make: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """The same, where the function has been loaded."""
    made = call("data", named, make, arguments, {})
    allowed = "allowed: a training set, or a pair (training set, evaluation set)"
    if made is None:
        raise ConfigError("data", named, f"it gives None; {allowed}")
    if are_sets(made):
        if isinstance(made, Mapping):
            raise ConfigError("data", named, f"it gives {form(made)}; {allowed}")
        made = tuple(made)
    if not isinstance(made, tuple) or _is_sequence_of_tensors(made):
        return made, None
    if len(made) != 2 or made[0] is None:
        raise ConfigError("data", named, f"it gives {form(made)}; {allowed}")
    return made


def _is_sequence_of_tensors(made: tuple) -> bool:
    """Whether a tuple is of samples and targets, so one data set, and not of two."""
    return bool(made) and all(isinstance(part, Tensor) or hasattr(part, "__array__") for part in made)

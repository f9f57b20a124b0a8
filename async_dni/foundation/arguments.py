"""Arguments for a user's function, as they are typed: `depth=20,width=16`, and what the function is offered beside them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .error import ConfigError, reason

_BETWEEN = re.compile(r",(?=\s*[^\W\d]\w*\s*=)")  # a comma before the next `name=`; others are part of a value


def split_arguments(text: str) -> tuple[str, ...]:
    """`a=1,b=(2,3)` → `a=1`, `b=(2,3)`."""
    return tuple(_BETWEEN.split(text))


def arguments(value: Any) -> str | None:
    """Check that a value is a sequence of texts `name=value`, no name twice (it may be empty)."""
    items = value if isinstance(value, tuple | list) else [None]
    names = [item.partition("=")[0].strip() if isinstance(item, str) and "=" in item else "" for item in items]
    if not all(name.isidentifier() for name in names):
        return "allowed: name=value, separated by commas"
    return None if len(set(names)) == len(names) else "allowed: name=value, each name once"


def read_arguments(given: Sequence[str]) -> dict[str, Any]:
    """The values by name: Python literals, and what is none as the text that it is."""
    pairs = (item.partition("=") for item in given)
    return {name.strip(): _read(text.strip()) for name, _, text in pairs}


def _read(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text


def call(
    setting: str,
    named: str,
    make: Callable[..., Any],
    given: Mapping[str, Any],
    offered: Mapping[str, Callable[[], Any]],
) -> Any:
    """What a user's function makes of the arguments `given`, and of those `offered` that it takes.

    `setting` names the function, as `named`; its arguments are given with `{setting}_arg`. What is offered is found when it is
    asked for: it raises `ConfigError` where it can't be, which counts where the function can't do without. Raises `ConfigError`
    for an argument that the function does not take or that is missing, and where it raises.
    """
    flag, name = f"{setting}_arg", named.rpartition(":")[2]
    taken = _parameters(make)
    values = dict(given)
    if taken is not None:
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
        names = [n for n, p in taken.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        for unknown in () if takes_any else (other for other in given if other not in names):
            has = f"takes {', '.join(names)}" if names else "takes no arguments"
            raise ConfigError(flag, f"{unknown}={given[unknown]}", f"{name} {has}")
        for other, find in offered.items():
            if other not in values and (takes_any or other in names):
                _offer(values, other, find, other in names and taken[other].default is inspect.Parameter.empty)
        missing = [n for n in names if taken[n].default is inspect.Parameter.empty and n not in values]
        if missing:
            raise ConfigError(setting, named, f"{name} needs {', '.join(missing)}; give --{setting}-arg {missing[0]}=…")
    try:
        return make(**values)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(setting, named, f"{name} raised {reason(error)}") from error


def _offer(values: dict[str, Any], name: str, find: Callable[[], Any], is_needed: bool) -> None:
    try:
        values[name] = find()
    except ConfigError:
        if is_needed:
            raise


def _parameters(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """What a function or class takes; None where that can't be told."""
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):
        return None

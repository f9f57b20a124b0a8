"""The forms of a run's files, as JSON schemas: `async_dni/record/schemas/*.json`. Each allows more than it names."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import fastjsonschema

FOLDER = Path(__file__).resolve().parents[1] / "schemas"
NAMES = ("config", "summary", "record", "evaluation", "gradient_check", "event", "spans")


def schema(name: str) -> dict[str, Any]:
    """One of `NAMES`, as a dictionary."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


@lru_cache
def _validator(name: str) -> Callable[[Any], Any]:
    compiled: Callable[[Any], Any] = fastjsonschema.compile(schema(name), use_default=False)
    return compiled


def fault(name: str, value: object) -> str | None:
    """What is wrong with a value of that form; None where nothing is."""
    try:
        _validator(name)(value)
    except fastjsonschema.JsonSchemaValueException as error:
        return str(error.message)
    return None

"""Which steps are traced or profiled, as they are typed: `A:B` are batches A to B − 1."""

from __future__ import annotations

import re
from dataclasses import dataclass

TRACED = "allowed: A:B, whole numbers of which the second is greater: batches A to B - 1"
PROFILED = "allowed: K:A:B, a stage, and batches A to B - 1 of it"


@dataclass(frozen=True)
class Steps:
    """Batches `first` to `last` − 1 of the whole run."""

    first: int
    last: int

    @classmethod
    def read(cls, text: str) -> Steps:
        """`A:B`. Raises `ValueError`."""
        first, last = _numbers(text, 2)
        if first >= last:
            raise ValueError(text)
        return cls(first, last)


def read_profile(text: str) -> tuple[int, Steps]:
    """`K:A:B`. Raises `ValueError`."""
    stage, first, last = _numbers(text, 3)
    return stage, Steps.read(f"{first}:{last}")


def _numbers(text: str, count: int) -> list[int]:
    if not isinstance(text, str) or not re.fullmatch(":".join([r"\d{1,12}"] * count), text, re.ASCII):
        raise ValueError(text)
    return [int(number) for number in text.split(":")]


def traced(value: object) -> str | None:
    """Check that a value names steps."""
    try:
        Steps.read(value)  # type: ignore[arg-type]
    except ValueError:
        return TRACED
    return None


def profiled(value: object) -> str | None:
    """Check that a value names a stage and steps of it."""
    try:
        read_profile(value)  # type: ignore[arg-type]
    except ValueError:
        return PROFILED
    return None

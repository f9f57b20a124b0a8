"""The clock of a run: this machine's; or, on a host that is not the first, the first host's, as nearly as it is known.

A process sets it once, when it starts. What only measures how long something takes needs none.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """How much the first host's clocks are ahead of this machine's."""

    monotonic_ns: int = 0
    seconds: float = 0.0  # of time.time()


_clock = Clock()


def set_clock(clock: Clock) -> None:
    """From now on, in this process, times are those of this clock."""
    global _clock
    _clock = clock


def monotonic_ns() -> int:
    """`time.monotonic_ns()` of the first host."""
    return time.monotonic_ns() + _clock.monotonic_ns


def monotonic() -> float:
    """`time.monotonic()` of the first host."""
    return monotonic_ns() / 1e9


def wall_time() -> float:
    """`time.time()` of the first host."""
    return to_wall_time(time.time())


def to_wall_time(moment: float) -> float:
    """This machine's `time.time()` as the first host's."""
    return moment + _clock.seconds

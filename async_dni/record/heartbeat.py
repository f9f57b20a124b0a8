"""A worker's signs of life, in shared memory: written by the worker alone, read by the supervisor.

What must outlive the worker is here too: how far it got, and its counters, which a worker started in its place goes on
from.
"""

from __future__ import annotations

import ctypes
from typing import Any

PHASES = (
    "wait_activation",
    "wait_gradient",
    "wait_room",
    "load",
    "forward",
    "update",
    "learn",
    "send",
    "snapshot",
)
_NUMBER = {phase: number for number, phase in enumerate(PHASES)}


class _Word:
    """An attribute that lives in the shared memory: 8 bytes, stored at once."""

    count = 0

    def __init__(self) -> None:
        self.position = _Word.count
        _Word.count += 1

    def __get__(self, heartbeat: Heartbeat, owner: type) -> int:
        return int(heartbeat.words[self.position])

    def __set__(self, heartbeat: Heartbeat, value: int) -> None:
        heartbeat.words[self.position] = value


class Heartbeat:
    """Beats whenever the worker enters a phase; one that waits does so twice a second at least.

    Shared where it is made in `memory` that processes share.
    """

    beats = _Word()  # grows while the worker is alive
    step = _Word()  # the first batch that it has not finished
    end = _Word()  # stage 0: the number of batches in the stream, once that is settled; before it -1
    started_ns = _Word()  # time.monotonic_ns() of its first batch, 0 before it
    # the counters of `telemetry.Telemetry`
    steps = _Word()
    samples = _Word()
    updates = _Word()
    synthesizer_updates = _Word()
    dropped = _Word()
    skipped = _Word()
    lost = _Word()
    _phase = _Word()

    def __init__(self, memory: Any = None, step: int = 0) -> None:
        self.words = [0] * _Word.count if memory is None else memory.RawArray(ctypes.c_int64, _Word.count)
        self.step, self.end = step, -1

    def enter(self, phase: str) -> None:
        """The worker does `phase` from now on."""
        self._phase = _NUMBER[phase]
        self.beats += 1

    @property
    def phase(self) -> str:
        """What the worker does, or did when it died."""
        return PHASES[self._phase]

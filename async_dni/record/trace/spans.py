"""What a worker did when, while some steps are traced; kept in memory, and written when they are over.

A line of `workers/<k>.spans.jsonl` is what one process of the stage's kept: of a worker that died before it had written
there is none. Times are those of the run's clock (`foundation/clock.py`), which is one for all processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...foundation.clock import monotonic_ns, wall_time
from ...foundation.steps import Steps


class Spans:
    """Spans, queue depths and lags of one stage; `write` appends them to a file.

    `is_on` from the first of the steps on, until `end`.
    """

    def __init__(self, steps: Steps, queues: Callable[[], Mapping[str, int]], path: Path) -> None:
        self.steps, self.is_on, self.is_over = steps, False, False
        self._queues, self._path = queues, path
        self._spans: list[tuple[str, int | None, bool, int, int]] = []  # phase, batch, whether upstream, from, to
        self._depths: list[tuple[int, Mapping[str, int]]] = []
        self._lags: list[tuple[int, int]] = []
        self._entered: tuple[str, int | None, bool, int] | None = None

    def enter(self, phase: str, batch: int | None, upstream: bool) -> None:
        """The stage does `phase` from now on."""
        if not self.is_on:
            if self.is_over or batch is None or not self.steps.first <= batch < self.steps.last:
                return
            self.is_on = True
        now = monotonic_ns()
        if self._entered is not None:
            self._spans.append((*self._entered, now))
        self._entered = phase, batch, upstream, now
        if phase == "forward":
            self._depths.append((now, self._queues()))

    def learnt(self, lag: int) -> None:
        """A gradient was learnt from, so many batches late."""
        if self.is_on:
            self._lags.append((monotonic_ns(), lag))

    def end(self) -> None:
        """The steps are over, with all that comes of them. Raises `OSError` where the file can't be written."""
        if not self.is_on:
            return
        if self._entered is not None:
            self._spans.append((*self._entered, monotonic_ns()))
        self.is_on, self.is_over = False, True
        content: dict[str, Any] = {
            "pid": os.getpid(),
            "steps": [self.steps.first, self.steps.last],
            "time": wall_time(),
            "monotonic_ns": monotonic_ns(),
            "spans": self._spans,
            "queues": self._depths,
            "lags": self._lags,
        }
        with self._path.open("a") as file:
            file.write(json.dumps(content, separators=(",", ":")) + "\n")
        self._spans, self._depths, self._lags = [], [], []

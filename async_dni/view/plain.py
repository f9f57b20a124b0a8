"""A run as lines, where there is no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from ..record.evaluate import Evaluation
from ..record.gradients.check import GradientCheck
from ..record.progress import Progress
from .cells import COLUMNS, clock, describe_evaluation, describe_gradient_check, row


class PlainProgress(Progress):
    """A line for each evaluation and gradient check, and for all workers every few seconds."""

    SECONDS = 5.0  # between lines of the workers

    def __init__(self, console: Console) -> None:
        self.console = console
        self.records: dict[int, dict[str, Any]] = {}
        self.layers: Sequence[Sequence[str]] = ()
        self.steps = 0
        self._printed = -math.inf
        self._first: tuple[int, float] | None = None  # step and time of the workers' first lines

    @contextmanager
    def running(self, layers: Sequence[Sequence[str]], steps: int) -> Iterator[None]:
        self.layers, self.steps = layers, steps
        self._print(f"starting {len(layers)} stages for {steps} steps")
        yield

    def on_record(self, worker: int, record: dict[str, Any]) -> None:
        self.records[worker] = record
        if len(self.records) == len(self.layers) and time.monotonic() - self._printed >= self.SECONDS:
            self._printed = time.monotonic()
            for k, latest in sorted(self.records.items()):
                cells = row(k, self.layers[k], latest)
                self._print("  ".join(f"{name} {cell}" for name, cell in zip(COLUMNS, cells, strict=True) if cell))
            self._print_time_left(min(record["step"] for record in self.records.values()))

    def _print_time_left(self, step: int) -> None:
        """At the mean pace since the first line of the workers."""
        now = time.monotonic()
        if self._first is None:
            self._first = step, now
        elif step > self._first[0]:
            pace = (now - self._first[1]) / (step - self._first[0])
            self._print(f"step {step}/{self.steps}  about {clock((self.steps - step) * pace)} left")

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._print(describe_evaluation(evaluation, self.steps))

    def on_gradient_check(self, check: GradientCheck) -> None:
        self._print(describe_gradient_check(check, self.steps))

    def on_note(self, text: str) -> None:
        self._print(text)

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

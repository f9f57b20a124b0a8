"""A run as a picture on a terminal, redrawn in place."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from ..record.evaluate import Evaluation
from ..record.gradients.check import GradientCheck
from ..record.progress import Progress
from .cells import describe_evaluation, describe_gradient_check
from .drawing import draw
from .state import RunState

REFRESHES = 2  # a second: workers tell of themselves as often


class LiveProgress(Progress):
    """A picture of the run that is redrawn in place, and the evaluations above it."""

    def __init__(self, console: Console) -> None:
        self.console, self.state = console, RunState()

    @contextmanager
    def running(self, layers: Sequence[Sequence[str]], steps: int) -> Iterator[None]:
        self.state.plan(layers)
        self.state.steps, self.state.phase = steps, "starting the workers"
        with Live(get_renderable=self._draw, console=self.console, refresh_per_second=REFRESHES):
            yield
            self.state.phase, self.state.now = "", time.time()

    def _draw(self) -> RenderableType:
        self.state.now = time.time()
        return draw(self.state, self.console)

    def on_config(self, config: dict[str, Any]) -> None:
        self.state.configure(config)

    def on_phase(self, text: str) -> None:
        self.state.phase = text
        self._say(f"{text} …", style="dim")

    def on_ready(self, worker: int, pid: int) -> None:
        self.state.stages[worker].is_ready = True

    def on_begin(self) -> None:
        self.state.phase, self.state.began = "", time.time()

    def on_restart(self, worker: int, text: str) -> None:
        self.state.stages[worker].restarts += 1
        self.on_warning(text)

    def on_record(self, worker: int, record: dict[str, Any]) -> None:
        self.state.stages[worker].record = record

    def on_evaluating(self, step: int) -> None:
        self.state.phase = f"evaluating after step {step}"

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.state.phase = ""
        self.state.evaluations.append(evaluation.as_dict())
        self._say(describe_evaluation(evaluation, self.state.steps))

    def on_gradient_check(self, check: GradientCheck) -> None:
        self.state.check = check.as_dict()
        self._say(describe_gradient_check(check, self.state.steps))

    def on_note(self, text: str) -> None:
        self._say(text)

    def _say(self, line: str, style: str = "") -> None:
        self.console.print(line, markup=False, highlight=False, style=style)

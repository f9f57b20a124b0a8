"""What is told of a run while it goes on, to whoever shows it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from .evaluate import Evaluation
from .gradients.check import GradientCheck


class Progress:
    """Shows nothing; what others override."""

    @contextmanager
    def running(self, layers: Sequence[Sequence[str]], steps: int) -> Iterator[None]:
        """While the run goes on. `layers`: the names of each stage's blocks; `steps`: batches to come."""
        yield

    def on_config(self, config: dict[str, Any]) -> None:
        """The run's settings, as config.json has them: the run is about to start."""

    def on_phase(self, text: str) -> None:
        """What is done before the workers begin, from now on; it may take a while."""

    def on_ready(self, worker: int, pid: int) -> None:
        """A worker has built its stage, and waits for the start; or goes on at once, in the place of one that died."""

    def on_begin(self) -> None:
        """The workers begin; seconds of training count from here."""

    def on_restart(self, worker: int, text: str) -> None:
        """A worker died, and another is started in its place; a sentence says all."""
        self.on_warning(text)

    def on_checkpoint(self, step: int) -> None:
        """A checkpoint was written, of the network after `step` batches."""

    def on_evaluating(self, step: int) -> None:
        """The network after `step` batches is evaluated now."""

    def on_closed(self) -> None:
        """All that the run leaves is written, or it failed."""

    def on_record(self, worker: int, record: dict[str, Any]) -> None:
        """A worker's record (`async_dni.record.telemetry`)."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """The network was evaluated."""

    def on_gradient_check(self, check: GradientCheck) -> None:
        """Gradients were held against the true ones."""

    def on_note(self, text: str) -> None:
        """Something that a person should know."""

    def on_warning(self, text: str) -> None:
        """Something went wrong that the run survives; said on standard error, also where nothing else is shown."""
        with suppress(OSError):
            print(f"warning: {text}", file=sys.stderr, flush=True)


class ToldOn(Progress):
    """Tells everything on to another; what others override in part."""

    def __init__(self, shown: Progress) -> None:
        self.shown = shown

    @contextmanager
    def running(self, layers: Sequence[Sequence[str]], steps: int) -> Iterator[None]:
        with self.shown.running(layers, steps):
            yield

    def on_config(self, config: dict[str, Any]) -> None:
        self.shown.on_config(config)

    def on_phase(self, text: str) -> None:
        self.shown.on_phase(text)

    def on_ready(self, worker: int, pid: int) -> None:
        self.shown.on_ready(worker, pid)

    def on_begin(self) -> None:
        self.shown.on_begin()

    def on_restart(self, worker: int, text: str) -> None:
        self.shown.on_restart(worker, text)

    def on_checkpoint(self, step: int) -> None:
        self.shown.on_checkpoint(step)

    def on_evaluating(self, step: int) -> None:
        self.shown.on_evaluating(step)

    def on_closed(self) -> None:
        self.shown.on_closed()

    def on_record(self, worker: int, record: dict[str, Any]) -> None:
        self.shown.on_record(worker, record)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.shown.on_evaluation(evaluation)

    def on_gradient_check(self, check: GradientCheck) -> None:
        self.shown.on_gradient_check(check)

    def on_note(self, text: str) -> None:
        self.shown.on_note(text)

    def on_warning(self, text: str) -> None:
        self.shown.on_warning(text)

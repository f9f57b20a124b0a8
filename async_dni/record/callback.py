"""Callbacks: functions of a user's that are told of a run while it goes on, in the process that called `fit`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..foundation.error import ConfigError
from .evaluate import Evaluation
from .gradients.check import GradientCheck
from .result import TrainResult


class Callback:
    """Does nothing; what others override.

    It is called in the process that called `fit`, in one thread or another, never in two at once. The workers train on
    meanwhile; that they live is looked at between calls, so these should take no longer than a moment. An exception ends the
    run as Ctrl-C does: what was trained is evaluated and written, and `fit` raises the exception, with its traceback.
    """

    def on_begin(self, settings: dict[str, Any]) -> None:
        """The run is about to start, with these settings: config.json's content, but for what it runs on."""

    def on_step(self, record: dict[str, Any]) -> None:
        """A worker's record (`async_dni.record.telemetry`), under "worker" its number.

        Steps are made in other processes, up to thousands a second; each tells every half second of those it made since.
        """

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """The network was evaluated."""

    def on_gradient_check(self, check: GradientCheck) -> None:
        """The gradients that stages update with were held against the true ones."""

    def on_checkpoint(self, path: Path) -> None:
        """A checkpoint was written."""

    def on_end(self, result: TrainResult) -> None:
        """The run has ended, by itself or early, and all of it is written. Not called where it failed."""


def checked_callbacks(given: object) -> tuple[Callback, ...]:
    """One callback, or several. Raises `ConfigError` for what is none."""
    allowed = "allowed: objects of subclasses of Callback"
    if isinstance(given, Callback):
        return (given,)
    if not isinstance(given, Iterable):
        raise ConfigError("callbacks", _kind(given), allowed)
    callbacks = tuple(given)
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ConfigError("callbacks", _kind(callback), allowed)
    return callbacks


def _kind(given: object) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__


class Callbacks:
    """Those of a run. `end_early` is called where one raises; none is called after that."""

    def __init__(self, callbacks: Sequence[Callback], end_early: Callable[[], None]) -> None:
        self._callbacks, self._end_early = callbacks, end_early
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def on_begin(self, settings: dict[str, Any]) -> None:
        """Tell of the start."""
        self._tell("on_begin", settings)

    def on_step(self, worker: int, record: dict[str, Any]) -> None:
        """Tell of a worker's record."""
        if self._callbacks:
            self._tell("on_step", {"worker": worker, **record})

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Tell of an evaluation."""
        self._tell("on_evaluation", evaluation)

    def on_gradient_check(self, check: GradientCheck) -> None:
        """Tell of a gradient check."""
        self._tell("on_gradient_check", check)

    def on_checkpoint(self, path: Path) -> None:
        """Tell of a checkpoint."""
        self._tell("on_checkpoint", path)

    def on_end(self, result: TrainResult) -> None:
        """Tell of the end. Raises what a callback has raised."""
        self._tell("on_end", result)
        if self._error is not None:
            raise self._error

    def _tell(self, name: str, what: object) -> None:
        with self._lock:
            for callback in self._callbacks:
                if self._error is not None:
                    return
                try:
                    getattr(callback, name)(what)
                except BaseException as error:  # SystemExit, too, is raised when all is written
                    self._error = error
                    self._end_early()

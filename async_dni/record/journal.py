"""events.jsonl: what happened to a run, by the parent's clock; a line an event.

Everything that is told of a run is told on to whoever shows it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .evaluate import Evaluation
from .problems import Problems
from .progress import Progress, ToldOn
from .run_dir import RunDir, append_json_line


class Journal(ToldOn):
    """Keeps what is told of a run, but for records and evaluations, which have files of their own, and tells it on."""

    def __init__(self, shown: Progress, run_dir: RunDir, problems: Problems, start: int) -> None:
        super().__init__(shown)
        self._path, self._problems = run_dir.events, problems
        self._start = start  # batches that were done before
        self._unwritten: list[dict[str, Any]] = []
        self._lock = threading.Lock()  # evaluations are told by a thread of their own

    @contextmanager
    def running(self, layers: Sequence[Sequence[str]], steps: int) -> Iterator[None]:
        self._add("start", pid=os.getpid(), step=self._start, layers=[list(names) for names in layers], steps=steps)
        try:
            with super().running(layers, steps):
                yield
        finally:
            self._add("end")

    def on_ready(self, worker: int, pid: int) -> None:
        self._add("ready", worker=worker, pid=pid)
        super().on_ready(worker, pid)

    def on_begin(self) -> None:
        self._add("begin")
        super().on_begin()

    def on_restart(self, worker: int, text: str) -> None:
        self._add("restart", worker=worker, message=text)
        super().on_restart(worker, text)

    def on_checkpoint(self, step: int) -> None:
        self._add("checkpoint", step=step)
        super().on_checkpoint(step)

    def on_evaluating(self, step: int) -> None:
        self._add("evaluating", step=step)
        super().on_evaluating(step)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._add("evaluated", step=evaluation.step)
        super().on_evaluation(evaluation)

    def on_closed(self) -> None:
        self._add("closed")
        super().on_closed()

    def on_note(self, text: str) -> None:
        self._add("note", message=text)
        super().on_note(text)

    def on_warning(self, text: str) -> None:
        self._add("warning", message=text)
        super().on_warning(text)

    def _add(self, kind: str, **what: Any) -> None:
        """A line of the file, after those that could not be written before."""
        with self._lock, self._problems.of_writing(self._path):
            self._unwritten.append({"time": time.time(), "kind": kind, **what})
            while self._unwritten:
                append_json_line(self._path, self._unwritten[0])
                del self._unwritten[0]

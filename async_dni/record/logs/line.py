"""A line of a worker's log: local time, level, worker, step, message.

    2026-11-26 13:02:57,123 INFO  worker 1  step 240  60,874 samples/s | loss 0.08

What layers print, and tracebacks, are lines without all that, and belong to the line before them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from ...foundation.clock import to_wall_time

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORM = "%(asctime)s %(levelname)-7s worker %(worker)d  step %(step)d  %(message)s"
_READ = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (\w+) +worker (\d+)  step (\d+)  (.*)")


@dataclass(frozen=True)
class Line:
    """Something that happened; `worker` None: to the run."""

    time: float  # seconds since 1970
    worker: int | None
    step: int
    level: str
    text: str  # it may have several lines


class WorkerFormatter(logging.Formatter):
    """Knows which worker's lines they are, and how far it is."""

    def __init__(self, worker: int, step: Callable[[], int]) -> None:
        super().__init__(FORM)
        self._worker, self._step = worker, step

    def format(self, record: logging.LogRecord) -> str:
        record.worker, record.step = self._worker, self._step()
        record.created = to_wall_time(record.created)
        return super().format(record)


def formatted(worker: int, step: int, message: str) -> str:
    """A line as a worker's log has it, now; for a run without workers."""
    record = logging.LogRecord("run", logging.INFO, "", 0, message, None, None)
    return WorkerFormatter(worker, lambda: step).format(record)


def read(text: str) -> Line | None:
    """A line, where it is one that begins something."""
    found = _READ.match(text)
    if found is None:
        return None
    when, level, worker, step, message = found.groups()
    try:
        moment = datetime.strptime(when, "%Y-%m-%d %H:%M:%S,%f").timestamp()
    except ValueError:
        return None
    return Line(moment, int(worker), int(step), level, message)

"""Who is told what the workers report; and the error that ends a run where one of them fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class WorkerError(RuntimeError):
    """A worker failed: `stage` is its index, `details` its traceback where it raised."""

    def __init__(self, stage: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.stage, self.details = stage, details


@dataclass(frozen=True)
class Listener:
    """Who is told what the workers report."""

    on_start: Callable[[], None]
    on_record: Callable[[int, dict[str, Any]], None]  # worker, record
    on_ready: Callable[[int, int], None]  # worker, its process's number
    on_restart: Callable[[int, str], None]  # worker, a sentence for a person
    # the stages' last snapshots, step and state, all newer than the last checkpoint: what is left of a run that failed
    on_failure: Callable[[list[tuple[int, dict[str, Any]]]], None]

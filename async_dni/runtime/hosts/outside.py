"""What goes on beyond this host's workers, as their supervisor sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Kept = dict[int, tuple[int, dict[str, Any]]]
"""Of stages, the step and the state of the last snapshot."""


class Outside:
    """Of a run on one host: nothing."""

    watched: Sequence[Any] = ()  # to be waited for, beside workers
    may_begin = has_ended = True  # whether all hosts' workers are ready; whether all that is to be done with them was

    def look(self) -> None:
        """Take what came. Raises `WorkerError` where a worker of another host has failed, and `HostError`."""

    def on_ready(self) -> None:
        """All workers here are ready."""

    def on_stop(self) -> None:
        """An early end was asked for here. May be called by a handler of signals."""

    def on_finished(self, totals: list[dict[str, Any]], deaths: list[list[str]]) -> None:
        """All workers here came to the end of the stream."""

    def on_failure(self, error: Exception, kept: Kept) -> Kept:
        """A worker has failed; returns the snapshots of all stages that are at hand here."""
        return kept

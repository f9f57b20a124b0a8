"""Starts the workers, watches them, stops them; leaves nothing behind, however it ends.

The supervisor sleeps on the workers' sentinels and event pipes together, so a death is noticed when it happens.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

from .events import Cut, Failed, Finished, Ready, Recorded, from_bytes
from .interruption import Interruption
from .worker import START, STOP, WorkerSpec
from .worker_process import worker_main

GRACE = 2.0  # seconds that a worker has to end after SIGTERM, before SIGKILL


class WorkerError(RuntimeError):
    """A worker failed: `stage` is its index, `details` its traceback where it raised."""

    def __init__(self, stage: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.stage, self.details = stage, details


@dataclass
class _State:
    """What the supervisor knows of a worker."""

    spec: WorkerSpec
    process: Any
    events: connection.Connection
    pid: int | None = None
    totals: dict[str, Any] | None = None


@dataclass(frozen=True)
class Listener:
    """Who is told what the workers report."""

    on_start: Callable[[], None]
    on_record: Callable[[int, dict[str, Any]], None]  # worker, record
    # step, the stages' states, whether they are full, whether it is the final one
    on_cut: Callable[[int, list[dict[str, Any]], bool, bool], None]


@dataclass
class Supervisor:
    """Runs one set of workers to the end of their stream."""

    context: Any  # a multiprocessing context
    specs: Sequence[WorkerSpec]  # with their event pipes' sending ends
    receivers: Sequence[connection.Connection]
    listener: Listener
    start_timeout: float
    interruption: Interruption
    _workers: list[_State] = field(default_factory=list)
    _cuts: dict[tuple[int, bool, bool], dict[int, bytes]] = field(default_factory=dict)

    def run(self) -> list[dict[str, Any]]:
        """Start, watch, and return every worker's totals. Raises `WorkerError` where a worker fails."""
        try:
            self.interruption.on_signal = self.stop
            self._start()
            self._watch(lambda worker: worker.pid is not None, self.start_timeout)
            if self.interruption.number is not None:
                self.stop()  # it came before there was anything to stop
            self.listener.on_start()
            self._set_flag(START)
            self._watch(lambda worker: worker.totals is not None, None)
            return [worker.totals or {} for worker in self._workers]
        finally:
            self._end()

    def stop(self) -> None:
        """Ask for an early end: stage 0 ends the stream after the batch in hand, and the others follow."""
        self._set_flag(STOP)

    def _set_flag(self, flag: int) -> None:
        self.specs[0].flags[flag] = 1
        for spec in self.specs:
            spec.doorbell.ring()

    def _start(self) -> None:
        for spec, receiver in zip(self.specs, self.receivers, strict=True):
            process = self.context.Process(target=worker_main, args=(spec,), name=f"stage-{spec.index}", daemon=True)
            process.start()
            spec.events.close()  # the worker's copy is the only one now, so its death closes the pipe
            self._workers.append(_State(spec, process, receiver))

    def _watch(self, is_done: Callable[[_State], bool], timeout: float | None) -> None:
        """Handle what the workers report until all are done."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while waiting := [worker for worker in self._workers if not is_done(worker)]:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                stage = waiting[0].spec.index
                raise WorkerError(stage, f"stage {stage} was not ready within {timeout:g} seconds")
            watched = [worker.events for worker in self._workers if not worker.events.closed]
            watched += [worker.process.sentinel for worker in waiting]
            ready = connection.wait(watched, timeout=left)
            for worker in self._workers:
                if worker.events in ready:
                    self._receive(worker)
            for worker in waiting:
                if worker.process.sentinel in ready and worker.events.closed and not is_done(worker):
                    raise WorkerError(worker.spec.index, f"stage {worker.spec.index} {_death(worker.process)}")

    def _receive(self, worker: _State) -> None:
        """Take everything that a worker has sent so far."""
        try:
            while worker.events.poll():
                self._handle(worker, worker.events.recv())
        except (EOFError, ConnectionResetError):
            worker.events.close()

    def _handle(self, worker: _State, event: object) -> None:
        index = worker.spec.index
        match event:
            case Ready(pid):
                worker.pid = pid
            case Recorded(record):
                self.listener.on_record(index, record)
            case Cut(step, is_full, is_final, state):
                states = self._cuts.setdefault((step, is_full, is_final), {})
                states[index] = state
                if len(states) == len(self.specs):
                    del self._cuts[step, is_full, is_final]
                    ordered = [from_bytes(states[k]) for k in range(len(states))]
                    self.listener.on_cut(step, ordered, is_full, is_final)
            case Finished(totals):
                worker.totals = totals
            case Failed(error, details):
                raise WorkerError(index, f"stage {index} raised {error}", details)

    def _end(self) -> None:
        """End every worker: a moment's grace, SIGTERM, SIGKILL; then close what was opened."""
        processes = [worker.process for worker in self._workers]
        finished = all(worker.totals is not None for worker in self._workers)
        for send_signal in ([None] if finished else []) + ["terminate", "kill"]:
            alive = [process for process in processes if process.is_alive()]
            for process in alive:
                if send_signal is not None:
                    getattr(process, send_signal)()
            _join(alive, GRACE)
        for process in processes:
            process.join()
            process.close()
        for receiver in self.receivers:
            receiver.close()
        for spec in self.specs:
            spec.doorbell.close()


def _join(processes: Sequence[Any], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))


def _death(process: Any) -> str:
    process.join()
    code = process.exitcode
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit status {code} before its work was done"

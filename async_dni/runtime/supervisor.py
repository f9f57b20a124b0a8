"""Starts the workers, watches them, starts those again that die, stops them; leaves nothing behind, however it ends.

The supervisor sleeps on the workers' sentinels and event pipes together, so a death is noticed when it happens. A worker
that hangs is alive, and is known by its heartbeat, which stands still; it is asked where it is, killed, and taken for dead.

In the place of a worker that was killed another is started, on the same queues (see `worker`), from the last snapshot of
its stage. The other workers don't notice but by their queues. A worker that raises ends the run: it would raise again.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from typing import Any

import psutil

from .cuts.whole import Gathered
from .events import Cut, EventReceiver, Failed, Finished, Ready, Recorded
from .hosts.outside import Kept, Outside
from .listener import Listener, WorkerError
from .machine.environment import importable_main
from .machine.interruption import Interruption
from .worker_process import DUMP, worker_main
from .worker_spec import START, STOP, WorkerSpec

GRACE = 2.0  # seconds that a worker which has finished has to end, before SIGKILL
GUARD = 'a script that trains must do so under `if __name__ == "__main__":`, as workers import it'
INTERVAL = 0.5  # seconds between looks at the heartbeats; also what a worker that hangs has, to say where


@dataclass
class _State:
    """What the supervisor knows of a stage and its worker."""

    spec: WorkerSpec
    process: Any
    events: EventReceiver
    ready_by: float  # time.monotonic() by which it has to be ready
    pid: int | None = None  # when it is ready
    totals: dict[str, Any] | None = None  # when it has finished
    beats: int = -1
    still: float = 0.0  # seconds that its heartbeat has stood still
    last_cut: int = 0  # the newest that was received

    @property
    def name(self) -> str:
        """The stage, for a person."""
        return f"stage {self.spec.index}"


@dataclass(frozen=True)
class Patience:
    """How long workers are waited for, and how often they are started again."""

    start_timeout: float  # seconds until a worker is ready
    heartbeat_timeout: float  # seconds that a heartbeat may stand still, 0: for ever
    max_restarts: int  # in the run


@dataclass
class Supervisor:
    """Runs one set of workers to the end of their stream."""

    context: Any  # a multiprocessing context
    specs: Sequence[WorkerSpec]  # with their event pipes' sending ends
    receivers: Sequence[connection.Connection]
    listener: Listener
    patience: Patience
    interruption: Interruption
    cuts: Gathered
    deaths: list[list[str]] = field(default_factory=list)  # of each stage's workers that were replaced: a sentence each
    _workers: list[_State] = field(default_factory=list)
    outside: Outside = field(default_factory=Outside)  # other hosts
    _looked: float = 0.0

    def run(self) -> list[dict[str, Any]]:
        """Start, watch, and return every worker's totals. Raises `WorkerError` where a worker fails."""
        try:
            self.deaths = [[] for _ in self.specs]
            self.interruption.on_signal = self.stop
            for spec, receiver in zip(self.specs, self.receivers, strict=True):
                self._workers.append(self._start(spec, receiver))
            self._watch(lambda: all(worker.pid is not None for worker in self._workers))
            if self.interruption.is_ending:
                self.stop()  # it came before there was anything to stop
            self.outside.on_ready()
            self._watch(lambda: self.outside.may_begin)
            self.listener.on_start()
            self._set_flag(START)
            self._watch(lambda: all(worker.totals is not None for worker in self._workers))
            totals = [worker.totals or {} for worker in self._workers]
            self.outside.on_finished(totals, self.deaths)
            self._watch(lambda: self.outside.has_ended)
            return totals
        except WorkerError as error:
            self._end()
            self._salvage(error)
            raise
        finally:
            self.interruption.on_signal = lambda: None
            self._end()
            self._close()

    def _salvage(self, error: WorkerError) -> None:
        """Hand on the stages' last snapshots, where they are newer than the last checkpoint."""
        kept: Kept = {}
        for spec in self.specs:
            if (state := spec.snapshots.load()) is not None:
                kept[spec.index] = spec.snapshots.step or 0, state
        kept = self.outside.on_failure(error, kept)
        newer = [kept[stage] for stage in sorted(kept) if kept[stage][0] > self.cuts.newest]
        if len(newer) == self.cuts.stages:
            self.listener.on_failure(newer)

    def stop(self) -> None:
        """Ask for an early end: stage 0 ends the stream after the batch in hand, and the others follow."""
        self._set_flag(STOP)
        self.outside.on_stop()

    def _set_flag(self, flag: int) -> None:
        self.specs[0].flags[flag] = 1
        for spec in self.specs:
            spec.doorbell.ring()

    def _start(self, spec: WorkerSpec, receiver: connection.Connection) -> _State:
        process = self.context.Process(target=worker_main, args=(spec,), name=f"stage-{spec.index}", daemon=True)
        try:
            with self.interruption.held(), importable_main():  # half started, it would complain
                process.start()
        except (OSError, EOFError) as error:  # it died before it had read what it is made from
            raise WorkerError(spec.index, f"stage {spec.index} could not be started ({error}); {GUARD}") from error
        spec.events.close()  # the worker's copy is the only one now, so its death closes the pipe
        return _State(spec, process, EventReceiver(receiver), time.monotonic() + self.patience.start_timeout)

    def _watch(self, is_done: Callable[[], bool]) -> None:
        """Handle what workers and other hosts report, and the workers' deaths, until all is done, or a second signal comes."""
        while not is_done():
            waiting = [worker for worker in self._workers if worker.totals is None]
            watched: list[Any] = [*self.outside.watched]
            watched += [worker.events for worker in self._workers if not worker.events.closed]
            watched += [worker.process.sentinel for worker in waiting]
            ready: list[Any] = connection.wait(watched, timeout=INTERVAL)
            self.interruption.check()
            if self.interruption.is_ending and not self.specs[0].flags[STOP]:
                self.stop()  # of another thread
            self.outside.look()
            for worker in self._workers:
                if worker.events in ready:
                    self._receive(worker)
            for worker in waiting:
                if worker.process.sentinel in ready:
                    self._receive(worker)  # to the last event
                    if worker.totals is None:
                        self._bury(worker, _death(worker.process))
            self._look([worker for worker in self._workers if worker.totals is None])

    def _look(self, workers: Sequence[_State]) -> None:
        """See to it that workers become ready in time, and that their hearts go on beating."""
        now = time.monotonic()
        # not more than the interval between two looks: this process may have been stopped, and the workers with it
        passed, self._looked = min(now - self._looked, 2 * INTERVAL), now
        for worker in workers:
            if worker.pid is None:
                if now > worker.ready_by:
                    seconds = self.patience.start_timeout
                    raise WorkerError(worker.spec.index, f"{worker.name} was not ready within {seconds:g} seconds")
                continue
            beats = worker.spec.heartbeat.beats
            is_still = beats == worker.beats and self.specs[0].flags[START] and not _is_loading(worker)
            worker.still = worker.still + passed if is_still else 0.0
            worker.beats = beats
            if 0 < self.patience.heartbeat_timeout < worker.still:
                self._kill(worker)

    def _kill(self, worker: _State) -> None:
        """Kill a worker that hangs, when it has said where."""
        with suppress(ProcessLookupError):  # it may have died meanwhile
            os.kill(worker.process.pid, DUMP)
            os.kill(worker.process.pid, signal.SIGCONT)  # one that is stopped says nothing
            worker.process.join(INTERVAL)
            worker.process.kill()
        worker.process.join()
        self._receive(worker)
        if worker.totals is None:
            self._bury(worker, f"hung: it entered no phase for {self.patience.heartbeat_timeout:g} seconds")

    def _bury(self, worker: _State, death: str) -> None:
        """A worker has died, of `death`: start another in its place. Raises `WorkerError` where none is to be."""
        index, spec, heartbeat = worker.spec.index, worker.spec, worker.spec.heartbeat
        where = "while it started" if worker.pid is None else f"in batch {heartbeat.step}, {heartbeat.phase}"
        death = f"{worker.name} {death} ({where})"
        if not spec.snapshot_every or worker.process.exitcode >= 0:
            raise WorkerError(
                index, f"{death}; {GUARD}" if worker.pid is None and worker.process.exitcode > 0 else death
            )
        restarts = sum(map(len, self.deaths))
        if restarts >= self.patience.max_restarts:
            raise WorkerError(index, f"{death}; no restart is left (--max-restarts {self.patience.max_restarts})")
        step = spec.snapshots.step
        origin = "from its beginning" if step is None else f"from the snapshot after batch {step}"
        number = f"restart {restarts + 1} of {self.patience.max_restarts}"
        place = index - self.specs[0].index
        self.deaths[place].append(f"{death}; it is started again {origin} ({number})")
        self.listener.on_restart(index, self.deaths[place][-1])
        receiver, sender = self.context.Pipe(duplex=False)
        spec = replace(spec, events=sender, last_cut=worker.last_cut)
        self._workers[place] = replace(self._start(spec, receiver), last_cut=worker.last_cut)
        worker.events.close()
        worker.process.close()

    def _receive(self, worker: _State) -> None:
        """Take everything that a worker has sent so far."""
        for event in worker.events.receive():
            self._handle(worker, event)

    def _handle(self, worker: _State, event: object) -> None:
        index = worker.spec.index
        match event:
            case Ready(pid):
                worker.pid = pid
                self.listener.on_ready(index, pid)
            case Recorded(record):
                self.listener.on_record(index, record)
            case Cut(step):
                worker.last_cut = max(worker.last_cut, step)
                self.cuts.add(index, event)
            case Finished(totals):
                worker.totals = totals
            case Failed(error, details):
                raise WorkerError(index, f"{worker.name} {error}", details)

    def _end(self) -> None:
        """End every worker: a moment's grace for those that have finished, SIGKILL."""
        processes = [worker.process for worker in self._workers]
        finished = all(worker.totals is not None for worker in self._workers)
        if finished:
            _join(processes, GRACE)
        for process in processes:
            if process.is_alive():
                process.kill()
        _join(processes, GRACE)

    def _close(self) -> None:
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
        for worker in self._workers:
            worker.events.close()
        for receiver in self.receivers:
            receiver.close()
        for spec in self.specs:
            spec.doorbell.close()
            spec.snapshots.close()
            spec.stage.close()


def _is_loading(worker: _State) -> bool:
    """Whether a worker waits for its data set, which may take as long as it likes; one that was stopped does not."""
    if worker.spec.heartbeat.phase != "load":
        return False
    with suppress(psutil.Error):
        return bool(psutil.Process(worker.process.pid).status() != psutil.STATUS_STOPPED)
    return False


def _join(processes: Sequence[Any], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))


def _death(process: Any) -> str:
    process.join()
    code = process.exitcode
    if code is not None and code < 0:
        known = {number.value: number.name for number in signal.Signals}
        return f"was killed by {known.get(-code, f'signal {-code}')}"
    return f"ended with exit status {code} before its work was done"

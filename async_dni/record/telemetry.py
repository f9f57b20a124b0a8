"""What a worker counts: steps, updates, seconds by phase, lags; and a record of it, written and sent on every interval.

The records come from a thread, so that they go on while a layer computes for long, or hangs. The thread sleeps on the
parent's sentinel: when the parent dies, whatever killed it, the process ends.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import IO, Any

import psutil

from ..foundation.clock import monotonic, wall_time
from .heartbeat import PHASES, Heartbeat
from .logs.line import formatted
from .run_dir import RunDir
from .trace.spans import Spans

WAITS = ("wait_activation", "wait_gradient", "wait_room")
INTERVAL = 0.5  # seconds between records


@dataclass
class Interval:
    """What was counted since some moment."""

    began: float = field(default_factory=monotonic)
    samples: int = 0
    loss: float = 0.0
    losses: int = 0
    synthesizer_loss: float = 0.0
    lags: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))


class Telemetry:
    """Counters of one worker. `enter` says what it does from now on; `started` to `ended` is its training time.

    What is counted over the whole run is counted in the `heartbeat`, and goes on from what is there.
    """

    def __init__(self, start: int = 0, heartbeat: Heartbeat | None = None) -> None:
        self.start = start  # batches that were trained on before
        self.heartbeat = heartbeat or Heartbeat()
        self.ended: float | None = None  # of the last update made
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.has_begun = False
        self.phase = "wait_activation"
        self.spans: Spans | None = None  # where steps are traced
        self._since = monotonic()
        self._lag_sum = self._lag_count = self._made = 0
        self._interval = Interval()
        self._lock = threading.Lock()  # between the worker's thread and the recorder's
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call has nothing to compare with, and returns 0

    def enter(self, phase: str, batch: int | None = None, upstream: bool = False) -> None:
        """The worker does `phase` from now on, for a batch; `upstream`: it sends a gradient, not an activation."""
        with self._lock:
            self._account(monotonic())
            self.phase = phase
        self.heartbeat.enter(phase)
        if self.spans is not None:
            self.spans.enter(phase, batch, upstream)

    def _account(self, now: float) -> None:
        spent, self._since = now - self._since, now
        self.seconds[self.phase] += spent
        self._interval.seconds[self.phase] += spent

    @property
    def started(self) -> float | None:
        """`time.monotonic()` of the first batch taken, by the clock of the run."""
        return self.heartbeat.started_ns / 1e9 or None

    def begin(self) -> None:
        """The first batch was taken: training starts here, or goes on."""
        with self._lock:
            self._since = monotonic()
            self.heartbeat.started_ns = self.heartbeat.started_ns or int(self._since * 1e9)
            self.has_begun = True
            self.seconds = dict.fromkeys(PHASES, 0.0)
            self._interval = Interval()

    def step(self, samples: int, loss: float | None) -> None:
        """A batch went through."""
        with self._lock:
            self.heartbeat.steps += 1
            self.heartbeat.samples += samples
            self._interval.samples += samples
            if loss is not None:
                self._interval.losses += 1
                self._interval.loss += loss

    def updated(self, made: int) -> None:
        """The layers were updated, if steps were made since the last call: `made` counts all by this process."""
        with self._lock:
            if made > self._made:
                self.heartbeat.updates += made - self._made
                self._made, self.ended = made, monotonic()

    def learnt(self, lag: int, synthesizer_loss: float | None) -> None:
        """A gradient was learnt from, before batch `its own + lag` was begun."""
        with self._lock:
            self._lag_sum += lag
            self._lag_count += 1
            self._interval.lags.append(lag)
            if self.spans is not None:
                self.spans.learnt(lag)
            if synthesizer_loss is not None:
                self.heartbeat.synthesizer_updates += 1
                self._interval.synthesizer_loss += synthesizer_loss

    def dropped(self) -> None:
        """An activation was not sent: the queue was full."""
        self.heartbeat.dropped += 1

    def skipped(self) -> None:
        """An update was not made: a number was not finite."""
        self.heartbeat.skipped += 1

    def lost(self) -> None:
        """A gradient came back for a batch that an earlier worker of the stage had died with."""
        self.heartbeat.lost += 1

    def record(self, queues: dict[str, int]) -> dict[str, Any]:
        """What happened since the last record, as a JSON object; seconds, losses and lags are of that interval."""
        now = monotonic()
        with self._lock:
            self._account(now)
            last, self._interval = self._interval, Interval()
        lags = last.lags
        return {
            "time": wall_time(),
            "pid": os.getpid(),
            "step": self.start + self.heartbeat.steps,
            "samples_per_second": last.samples / max(now - last.began, 1e-9),
            "loss": last.loss / last.losses if last.losses else None,
            "synthesizer_loss": last.synthesizer_loss / len(lags)
            if lags and self.heartbeat.synthesizer_updates
            else None,
            "seconds": {phase: round(seconds, 6) for phase, seconds in last.seconds.items()},
            "queues": queues,
            "lag": {"min": min(lags), "mean": sum(lags) / len(lags), "max": max(lags)} if lags else None,
            **self._exceptions(),
            "cpu_percent": self._process.cpu_percent(),
            "rss_bytes": self._process.memory_info().rss,
        }

    def totals(self) -> dict[str, Any]:
        """What the whole run came to, for the summary."""
        with self._lock:
            self._account(monotonic())
            total = sum(self.seconds.values())
            waited = sum(self.seconds[phase] for phase in WAITS)
        return {
            "steps": self.heartbeat.steps,
            "samples": self.heartbeat.samples,
            "updates": self.heartbeat.updates,
            "synthesizer_updates": self.heartbeat.synthesizer_updates,
            "mean_lag": self._lag_sum / self._lag_count if self._lag_count else None,
            "busy_fraction": (total - waited) / total if total else 0.0,
            "wait_fraction": waited / total if total else 0.0,
            "seconds": {phase: round(seconds, 3) for phase, seconds in self.seconds.items()},
            **self._exceptions(),
            "started": self.started,
            "ended": self.ended,
        }

    def _exceptions(self) -> dict[str, int]:
        return {name: getattr(self.heartbeat, name) for name in ("dropped", "skipped", "lost")}


class Recorder:
    """The thread that writes and sends a record every interval, and ends the process when its parent dies."""

    def __init__(
        self,
        telemetry: Telemetry,
        queues: Callable[[], dict[str, int]],
        parent: int | None,
        file: IO[str] | None,
        send: Callable[[dict[str, Any]], None],
    ) -> None:
        self._telemetry, self._queues, self._parent, self._file, self._send = telemetry, queues, parent, file, send
        self._wake_up, self._stop = connection.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        """Start recording."""
        self._thread.start()

    def stop(self) -> None:
        """Write the last record and end the thread."""
        self._stop.send_bytes(
            b"stop"
        )  # closing it would not do: a process that was forked from this one has it open, too
        self._stop.close()
        self._thread.join()
        self._wake_up.close()
        self._record()

    def _run(self) -> None:
        watched: list[Any] = [self._wake_up] + ([] if self._parent is None else [self._parent])
        while True:
            ready = connection.wait(watched, timeout=INTERVAL)
            if self._parent in ready:
                os._exit(1)  # nobody is left to report to, and everything shared is unnamed
            if ready:
                return
            self._record()

    def _record(self) -> None:
        record = self._telemetry.record(self._queues())
        if self._file is not None:
            try:
                self._file.write(json.dumps(record) + "\n")
                self._file.flush()
            except OSError as error:  # it stays in the file's buffer, and is tried again with the next
                record["unwritten"] = f"{self._file.name} can't be written ({error.strerror})"
        try:
            self._send(record)
        except OSError:
            os._exit(1)  # the parent died while it was told


@contextmanager
def record_all(
    telemetry: Sequence[Telemetry], run_dir: RunDir | None, on_record: Callable[[int, dict[str, Any]], None]
) -> Iterator[None]:
    """Record the stages of a serial run as if each were a worker."""
    with ExitStack() as stack:
        for k, one in enumerate(telemetry):
            file = None if run_dir is None else stack.enter_context(_appended(run_dir.records(k)))
            log = None if run_dir is None else stack.enter_context(_appended(run_dir.log(k)))

            def send(record: dict[str, Any], k: int = k, log: IO[str] | None = log) -> None:
                if log is not None:
                    with suppress(OSError):
                        log.write(formatted(k, record["step"], describe(record)) + "\n")
                on_record(k, record)

            recorder = Recorder(one, dict, None, file, send)
            recorder.start()
            stack.callback(recorder.stop)
        yield


@contextmanager
def _appended(path: Path) -> Iterator[IO[str]]:
    """A file to append to; that what is left in its buffer finds no room at the end is no error."""
    file = path.open("a")
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


def describe(record: dict[str, Any]) -> str:
    """A record as a line for a person."""
    spent = sum(record["seconds"].values()) or 1.0
    shares = " ".join(f"{phase} {seconds / spent:.0%}" for phase, seconds in record["seconds"].items() if seconds)
    parts = [f"{record['samples_per_second']:.0f} samples/s"]
    parts += [f"{name} {record[name]:.4g}" for name in ("loss", "synthesizer_loss") if record[name] is not None]
    parts += ["lag {min}/{mean:.1f}/{max}".format(**record["lag"])] if record["lag"] else []
    parts += [f"queued {record['queues']}", f"dropped {record['dropped']}", shares]
    return " | ".join(parts)

"""A worker: one stage in a process of its own, driven from queues.

                activation in                        activation out
    worker k-1 ═══════════════► ┌──────────────────┐ ═══════════════► worker k+1
                                │  Stage (k)       │
    worker k-1 ◄═══════════════ └──────────────────┘ ◄═══════════════ worker k+1
                gradient out                         gradient in

Who may wait for whom, and why two bounded queues between neighbours never deadlock, at capacity 1 too: a worker that
waits, for an activation or for room downstream, goes on taking gradients; only a gradient on its way upstream is waited
for without taking others. Stage 0 sends none, so it always takes; so stage 1's gradients always find room; so stage 1
always takes; and so on down.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from .data import Batch, BatchStream
from .run_dir import RunDir
from .stage import Stage, StageSpec
from .telemetry import INTERVAL, Recorder, Telemetry
from .tensor_queue import Doorbell, Message, TensorQueue

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """The worker has built its stage and waits for the start."""

    pid: int


@dataclass(frozen=True)
class Recorded:
    """A record of `Telemetry`."""

    record: dict[str, Any]


@dataclass(frozen=True)
class Cut:
    """The stage's state after `step` batches: `torch.save`'s bytes of a dict."""

    step: int
    state: bytes
    is_final: bool


@dataclass(frozen=True)
class Finished:
    """The worker came to the end of the stream; its totals."""

    totals: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """The worker raised."""

    error: str  # the last line of the traceback
    traceback: str


@dataclass(frozen=True)
class WorkerSpec:
    """All that a worker is made from. `start` and `stop` are flags in shared memory, set by the supervisor."""

    index: int
    stage: bytes  # a pickled StageSpec: pickled plainly, its tensors are copied, not shared
    device: str
    threads: int
    cores: tuple[int, ...] | None
    seed: int
    steps: int
    cut_every: int  # steps between cuts, 0: at the end only
    lag: int | None  # None: gradients are learnt from when they come
    drops: bool  # when the activation queue is full
    stream: BatchStream | None  # stage 0's
    activation_in: TensorQueue | None
    activation_out: TensorQueue | None
    gradient_in: TensorQueue | None
    gradient_out: TensorQueue | None
    doorbell: Doorbell
    flags: Any  # RawArray("b", 2)
    events: Connection
    run_dir: RunDir | None


START, STOP = 0, 1  # positions in WorkerSpec.flags


class Worker:
    """Drives a stage from its queues until the stream of batches ends."""

    def __init__(self, spec: WorkerSpec, stage: Stage, telemetry: Telemetry) -> None:
        self.spec, self.stage, self.telemetry = spec, stage, telemetry
        self.device = torch.device(spec.device)
        self.arrived: dict[int, Tensor] = {}  # gradients that are not due yet, by batch index

    def run(self, send_event: Callable[[object], None]) -> None:
        """Train on every batch of the stream; cuts and the final state go to `send_event`."""
        step = 0
        while True:
            self._learn_due(step)
            if self._is_cut(step):
                send_event(Cut(step, save_state(self.stage), is_final=False))
            batch = self._take(step)
            if batch is None:
                break
            self._train(batch)
            step = batch.index + 1
        self._end_stream(step)
        send_event(Cut(step, save_state(self.stage), is_final=True))

    def queue_depths(self) -> dict[str, int]:
        """Messages in each of the queues that the worker takes from."""
        queues = {"activation": self.spec.activation_in, "gradient": self.spec.gradient_in}
        return {name: len(queue) for name, queue in queues.items() if queue is not None}

    def _is_cut(self, step: int) -> bool:
        every = self.spec.cut_every
        return bool(every) and 0 < step < self.spec.steps and step % every == 0

    def _take(self, step: int) -> Batch | None:
        """The next batch, or None at the end of the stream. Gradients are taken while it is waited for."""
        if self.spec.stream is not None:
            self.telemetry.enter("wait_activation")
            if step == self.spec.steps or self.spec.flags[STOP]:
                return None
            batch = self.spec.stream[step]
            if self.telemetry.started is None:
                self.telemetry.begin()
            return Batch(step, batch.x.to(self.device), batch.target.to(self.device))
        queue = self.spec.activation_in
        assert queue is not None
        while (message := queue.take()) is None:
            self._wait("wait_activation")
        if not message.tensors:
            return None
        if self.telemetry.started is None:
            self.telemetry.begin()
        x, target = message.tensors
        # The targets outlive the slot: the synthesizer sees them again when the gradient comes.
        return Batch(message.index, x.to(self.device), target.to(self.device, copy=True))

    def _train(self, batch: Batch) -> None:
        stage, telemetry = self.stage, self.telemetry
        telemetry.enter("forward")
        h = stage.forward(batch)
        sent = self._send_activation(batch, h)
        telemetry.enter("update")
        grad_input = stage.update(batch.index)
        if stage.holds_input(batch.index):
            pass  # the update waits for the true gradient; so does the slot, which the update will read
        else:
            telemetry.updated()
            self._send_gradient(batch.index, grad_input)
            self._release_input()
        if not sent:
            stage.forget(batch.index)
        telemetry.step(len(batch.x), None if stage.loss is None else float(stage.loss))

    def _send_activation(self, batch: Batch, h: Tensor) -> bool:
        """Send h downstream, and say whether it was sent: a full queue is waited for, or the batch is dropped."""
        queue = self.spec.activation_out
        if queue is None:
            return True
        while not queue.has_room():
            if self.spec.drops:
                self._take_gradients()
                self.telemetry.dropped += 1
                return False
            self._wait("wait_room")
        self.telemetry.enter("send")
        queue.put(batch.index, self.stage.weight_version, h, batch.target)
        return True

    def _send_gradient(self, index: int, grad_input: Tensor | None) -> None:
        queue = self.spec.gradient_out
        if queue is None or grad_input is None:
            return
        while not queue.has_room():
            self.telemetry.enter("wait_room")
            self.spec.doorbell.wait(INTERVAL)
        self.telemetry.enter("send")
        queue.put(index, self.stage.weight_version, grad_input)

    def _release_input(self) -> None:
        if self.spec.activation_in is not None:
            self.spec.activation_in.release()

    def _wait(self, phase: str) -> None:
        """Sleep until something changed, unless there was a gradient to take."""
        if not self._take_gradients():
            self.telemetry.enter(phase)
            self.spec.doorbell.wait(INTERVAL)

    def _take_gradients(self) -> int:
        """Take every gradient that has come: learn from it now, or, with a fixed lag, keep it until it is due."""
        queue, taken = self.spec.gradient_in, 0
        while queue is not None and (message := queue.take()) is not None:
            self._take_gradient(message, learn=self.spec.lag is None)
            taken += 1
        return taken

    def _take_gradient(self, message: Message, *, learn: bool) -> None:
        assert self.spec.gradient_in is not None
        (grad_output,) = message.tensors
        if learn:
            self._learn(message.index, grad_output.to(self.device))
        else:
            self.arrived[message.index] = grad_output.to(self.device, copy=True)
        self.spec.gradient_in.release()

    def _learn_due(self, step: int) -> None:
        """Before batch `step` is begun: learn from what has come; with a fixed lag, wait for what is due."""
        if self.spec.lag is None:
            self._take_gradients()
            return
        while self.stage.pending and (oldest := next(iter(self.stage.pending))) <= step - self.spec.lag:
            while oldest not in self.arrived:
                self._wait("wait_gradient")
            self._learn(oldest, self.arrived.pop(oldest))

    def _learn(self, index: int, grad_output: Tensor) -> None:
        self.telemetry.enter("learn")
        lag = next(reversed(self.stage.pending)) - index
        waited = self.stage.holds_input(index)
        grad_input = self.stage.learn(index, grad_output)
        if waited:
            self.telemetry.updated()
            self._send_gradient(index, grad_input)
            self._release_input()
        loss = None if waited or self.stage.synthesizer_loss is None else float(self.stage.synthesizer_loss)
        self.telemetry.learnt(lag, loss)

    def _end_stream(self, step: int) -> None:
        """Tell the next stage that no batch follows; then learn from the gradients that are still to come."""
        queue = self.spec.activation_out
        if queue is not None:
            while not queue.has_room():
                self._wait("wait_room")
            queue.put(step, self.stage.weight_version)
        while self.spec.lag is None and self.stage.pending:
            self._wait("wait_gradient")


def save_state(stage: Stage) -> bytes:
    """The layers' state dict as bytes, for another process."""
    buffer = io.BytesIO()
    torch.save(stage.module.state_dict(), buffer)
    return buffer.getvalue()


def worker_main(spec: WorkerSpec) -> None:
    """The process's entry: build the stage, wait for the start, run, report."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the supervisor tells the workers
    lock = threading.Lock()

    def send_event(event: object) -> None:
        with lock:
            spec.events.send(event)

    try:
        _open_log(spec)
        _run(spec, send_event)
    except BrokenPipeError:
        os._exit(1)  # the supervisor has gone
    except BaseException as error:
        log.exception("stage %d failed", spec.index)
        send_event(Failed(traceback.format_exception_only(error)[-1].strip(), traceback.format_exc()))
        sys.exit(1)


def _run(spec: WorkerSpec, send_event: Callable[[object], None]) -> None:
    torch.set_num_threads(spec.threads)
    if spec.cores is not None:
        os.sched_setaffinity(0, spec.cores)
    torch.manual_seed(spec.seed * 1_000_003 + spec.index)
    stage_spec: StageSpec = pickle.loads(spec.stage)
    device = torch.device(spec.device)
    stage = stage_spec.build(device)
    if device.type == "cuda":
        for queue in (spec.activation_in, spec.activation_out, spec.gradient_in, spec.gradient_out):
            if queue is not None:
                queue.pin_memory()
    telemetry = Telemetry()
    worker = Worker(spec, stage, telemetry)
    log.info(
        "stage %d: blocks %s on %s, %d threads, pid %d",
        spec.index,
        stage_spec.layers,
        device,
        spec.threads,
        os.getpid(),
    )
    log.info("layers: %s", stage.module)
    send_event(Ready(os.getpid()))
    while not spec.flags[START]:
        _check_parent()
        spec.doorbell.wait(INTERVAL)
    recorder = _recorder(spec, worker, send_event)
    recorder.start()
    try:
        worker.run(send_event)
    finally:
        recorder.stop()
    totals = telemetry.totals()
    log.info("finished: %s", totals)
    send_event(Finished({**totals, "pid": os.getpid()}))


def _recorder(spec: WorkerSpec, worker: Worker, send_event: Callable[[object], None]) -> Recorder:
    def send(record: dict[str, Any]) -> None:
        log.info("%s", describe(record))
        send_event(Recorded(record))

    file = None if spec.run_dir is None else spec.run_dir.records(spec.index).open("a")
    parent = parent_process()
    return Recorder(worker.telemetry, worker.queue_depths, parent.sentinel if parent else None, file, send)


def _check_parent() -> None:
    parent = parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def describe(record: dict[str, Any]) -> str:
    """A record as a line for a person."""
    spent = sum(record["seconds"].values()) or 1.0
    shares = " ".join(f"{phase} {seconds / spent:.0%}" for phase, seconds in record["seconds"].items() if seconds)
    parts = [f"step {record['step']}", f"{record['samples_per_second']:.0f} samples/s"]
    parts += [f"{name} {record[name]:.4g}" for name in ("loss", "synthesizer_loss") if record[name] is not None]
    parts += ["lag {min}/{mean:.1f}/{max}".format(**record["lag"])] if record["lag"] else []
    parts += [f"queued {record['queues']}", f"dropped {record['dropped']}", shares]
    return " | ".join(parts)


def _open_log(spec: WorkerSpec) -> None:
    """Log, and print, to the worker's own file; without a run directory, log nothing."""
    if spec.run_dir is None:
        return
    file = spec.run_dir.log(spec.index).open("a", buffering=1)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file.fileno(), stream.fileno())
    logging.basicConfig(stream=file, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)

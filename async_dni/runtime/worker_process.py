"""A worker's process, from its start to its end: it builds the stage, waits for the start, drives it, reports."""

from __future__ import annotations

import faulthandler
import logging
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import current_process, forkserver, parent_process
from typing import Any

import torch

from ..data.samples import DataError
from ..foundation.clock import set_clock
from ..learning.divergence import REMEDY, DivergenceError
from ..learning.random_state import RandomState
from ..learning.stage import StageSpec, to_device
from ..record.logs.line import WorkerFormatter
from ..record.telemetry import INTERVAL, Recorder, Telemetry, describe
from ..view.output import Output
from .events import Failed, Finished, Ready, Recorded, send_event
from .machine.parent_death import die_with_parent
from .serial import stage_rng
from .worker import Worker
from .worker_spec import START, WorkerSpec

log = logging.getLogger(__name__)

DUMP = signal.SIGUSR1  # asks a worker for the stacks of its threads


def worker_main(spec: WorkerSpec) -> None:
    """The process's entry: build the stage, wait for the start, run, report."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # sent to all; the supervisor tells the workers
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # by which PyTorch ends a worker's loaders
    die_with_trainer()
    set_clock(spec.clock)
    lock = threading.Lock()

    def send(event: object) -> None:
        with lock:
            try:
                send_event(spec.events, event)
            except BrokenPipeError:
                os._exit(1)  # the supervisor has gone

    worker: Worker | None = None
    try:
        _open_log(spec)
        faulthandler.register(DUMP)  # into the log: where a worker that hangs is
        worker = _build(spec, send)
        _run(worker)
    except BaseException as error:
        log.exception("stage %d failed", spec.index)
        send(_failure(error, worker))
        sys.exit(1)


def _failure(error: BaseException, worker: Worker | None) -> Failed:
    """What is known of an error: its last line, where the worker was, the traceback."""
    what = traceback.format_exception_only(error)[-1].strip()
    where = "" if worker is None else f" {worker.describe()}"
    if isinstance(error, DataError):
        return Failed(f"was given bad data: {error}", traceback.format_exc() if error.__cause__ else "")
    if isinstance(error, DivergenceError):
        return Failed(f"diverged{where}: {error}; {REMEDY}", "")
    return Failed(f"raised {what}{where}", traceback.format_exc())


def _build(spec: WorkerSpec, send_event: Callable[[object], None]) -> Worker:
    torch.set_num_threads(spec.threads)
    if spec.cores is not None:
        os.sched_setaffinity(0, spec.cores)
    if spec.stream is not None:  # before anything is computed: processes that load are forked from this one
        current_process().daemon = False  # which may have no children
        spec.stream.begin(spec.heartbeat.step, die_with_parent)
    device = torch.device(spec.device)
    if device.type == "cuda":
        _take_device(spec, device)
    stage_rng(spec.seed, spec.index).restore()
    stage_spec: StageSpec = pickle.loads(spec.stage.read())
    spec.stage.close()
    stage = stage_spec.build(device)
    telemetry = Telemetry(spec.schedule.start, spec.heartbeat)
    worker = Worker(spec, stage, telemetry, send_event)
    # once more: a user's module may have drawn when it was imported, or the stage when it was built
    stage_rng(spec.seed, spec.index).restore()
    if (snapshot := spec.snapshots.load()) is not None:
        worker.take_over(snapshot)
    elif stage_spec.state is not None:
        worker.gradients.arrived = to_device(stage_spec.state["gradients"], device)
        if stage_spec.state["rng"] is not None:
            RandomState.of(stage_spec.state["rng"]).restore()
    log.info(
        "stage %d: blocks %s on %s, %d threads, pid %d",
        spec.index,
        stage_spec.layers,
        device,
        spec.threads,
        os.getpid(),
    )
    log.info("layers: %s", stage.module)
    return worker


def _take_device(spec: WorkerSpec, device: torch.device) -> None:
    """Make it this process's own, so that nothing is drawn or kept on another; page-lock the queues for copies to it."""
    torch.cuda.init()
    torch.cuda.set_device(device)
    for queue in (spec.activation_in, spec.activation_out, spec.gradient_in, spec.gradient_out):
        if queue is not None:
            queue.pin_memory()


def _run(worker: Worker) -> None:
    """Wait for the start, train to the end, report."""
    spec, send_event = worker.spec, worker.send_event
    send_event(Ready(os.getpid()))
    while not spec.flags[START]:
        _check_parent()
        spec.doorbell.wait(INTERVAL)
    recorder = _recorder(spec, worker, send_event)
    recorder.start()
    try:
        worker.run()
    finally:
        if spec.stream is not None:
            worker.telemetry.enter("load")  # its end may take as long
            spec.stream.close()
        recorder.stop()
    totals = worker.telemetry.totals()
    log.info("finished: %s", totals)
    send_event(Finished({**totals, "pid": os.getpid()}))


def _recorder(spec: WorkerSpec, worker: Worker, send_event: Callable[[object], None]) -> Recorder:
    def send(record: dict[str, Any]) -> None:
        log.info("%s", describe(record))
        send_event(Recorded(record))

    file = None
    if spec.run_dir is not None:
        with suppress(OSError):  # the directory may have gone; the run goes on
            file = spec.run_dir.records(spec.index).open("a")
    parent = parent_process()
    return Recorder(worker.telemetry, worker.queue_depths, parent.sentinel if parent else None, file, send)


def die_with_trainer() -> None:
    """Ask for SIGKILL when the server that this process was forked from dies, as it does when the trainer dies.

    The recorder's thread looks after the trainer too, but not while a layer holds Python's lock, or the process is stopped.
    """
    die_with_parent()
    server: Any = forkserver._forkserver
    if parent_process() is not None and server._forkserver_alive_fd is not None:
        # the server ends when nobody holds this pipe any more, and multiprocessing gives every worker a copy
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None


def _check_parent() -> None:
    parent = parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def _open_log(spec: WorkerSpec) -> None:
    """Log, and print, to the worker's own file; without a run directory, log nothing."""
    if spec.run_dir is None:
        return
    try:
        file = spec.run_dir.log(spec.index).open("a", buffering=1)
    except OSError:
        return  # the directory may have gone; the run goes on
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file.fileno(), stream.fileno())
    sys.stdout, sys.stderr = Output(sys.stdout), Output(sys.stderr)  # a layer may print
    handler = logging.StreamHandler(file)
    handler.setFormatter(WorkerFormatter(spec.index, lambda: spec.heartbeat.step))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)

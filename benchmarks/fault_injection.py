"""Faults, done to a run from outside: nothing in the product knows of them.

A run is watched through a supervisor that remembers whom it buried, and a thread of this process that kills, stops and
looks; what a stage is doing is read off its heartbeat.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import checkout  # noqa: F401  (it finds the package)
import psutil

from async_dni.runtime.supervisor import Supervisor
from async_dni.runtime.worker_spec import START

HELPERS = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")  # they live as long as their process


@dataclass(frozen=True)
class Death:
    """A worker that the supervisor buried."""

    stage: int
    phase: str
    step: int  # the batch in hand
    behind: int  # batches between the snapshot and it


@dataclass
class Watched:
    """A run that is under way, for who does things to it."""

    restart_delay: float = 0.0  # seconds between a worker's death and its successor's start
    deaths: list[Death] = field(default_factory=list)
    supervisor: Supervisor | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def is_training(self) -> bool:
        """Whether the workers have started, and not all have finished."""
        return self.supervisor is not None and bool(self.supervisor.specs[0].flags[START]) and not self.ended.is_set()

    def spec(self, stage: int) -> Any:
        """What a stage's worker was made from: its queues, its heartbeat."""
        assert self.supervisor is not None
        return self.supervisor.specs[stage]

    def worker(self, stage: int) -> int | None:
        """The process of a stage; None while there is none that is ready."""
        assert self.supervisor is not None
        state = self.supervisor._workers[stage]
        return None if state.totals is not None else state.pid

    def wait_for(self, condition: Callable[[], object], seconds: float, pause: float = 0.0) -> bool:
        """Whether a condition came true in time, and the run goes on. Without a pause it is looked at all the time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.ended.is_set():
            if condition():
                return True
            time.sleep(pause)
        return False

    def send(self, stage: int, number: int) -> bool:
        """Send a signal to a stage's worker, and say whether there was one."""
        pid = self.worker(stage)
        try:
            if pid is not None:
                os.kill(pid, number)
        except ProcessLookupError:
            return False
        return pid is not None

    def kill_in(self, stage: int, phase: str, seconds: float = 5.0) -> bool:
        """SIGKILL a stage's worker in a phase, or, where it is not in it for so long, in another; wait until it is buried."""
        heartbeat, before = self.spec(stage).heartbeat, len(self.deaths)
        if not self.wait_for(lambda: self.worker(stage) is not None, 60.0, 0.01):
            return False
        beats = heartbeat.beats
        self.wait_for(lambda: heartbeat.beats > beats and heartbeat.phase == phase, seconds)
        return self.send(stage, signal.SIGKILL) and self.wait_for(lambda: len(self.deaths) > before, 10.0, 0.01)


@contextmanager
def watched(restart_delay: float = 0.0) -> Iterator[Watched]:
    """The run that is started inside."""
    run = Watched(restart_delay)

    class Watching(Supervisor):
        def run(self) -> Any:
            run.supervisor = self
            try:
                return super().run()
            finally:
                run.ended.set()

        def _bury(self, worker: Any, death: str) -> None:
            heartbeat, snapshots = worker.spec.heartbeat, worker.spec.snapshots
            behind = heartbeat.step - (snapshots.step or 0)
            buried = Death(worker.spec.index, heartbeat.phase, heartbeat.step, behind)
            worker.pid = None  # its number may be another's soon
            time.sleep(run.restart_delay)
            super()._bury(worker, death)
            run.deaths.append(buried)

    with patch("async_dni.fit.in_workers.Supervisor", Watching):
        yield run


@contextmanager
def meanwhile(do: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread while the inside, a run, goes on. Where it raises, the run is ended, and so does this."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            do()
        except BaseException as error:
            raised.append(error)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
        thread.join()
    except KeyboardInterrupt:
        if not raised:
            raise
    if raised:
        raise raised[0]


@dataclass(frozen=True)
class Leftovers:
    """What a process has that it may forget to give back."""

    processes: frozenset[int]
    shared_memory: frozenset[str]  # names
    descriptors: int

    @classmethod
    def now(cls) -> Leftovers:
        """Of this process, but for multiprocessing's helpers, and the memory that it keeps for the next allocation."""
        gc.collect()  # what waits for it is not forgotten
        family = psutil.Process().children(recursive=True)
        processes = frozenset(child.pid for child in family if not is_helper(child))
        shared = Path("/dev/shm")
        names = frozenset(path.name for path in shared.iterdir() if is_ours(path)) if shared.is_dir() else frozenset()
        kept = "/dev/shm/pym-"  # multiprocessing.heap's arenas
        descriptors = sum(not target(path).startswith(kept) for path in Path("/proc/self/fd").iterdir())
        return cls(processes, names, descriptors)

    def since(self, before: Leftovers) -> int:
        """Processes, files of shared memory and descriptors that were not there before."""
        descriptors = max(0, self.descriptors - before.descriptors)
        return len(self.processes - before.processes) + len(self.shared_memory - before.shared_memory) + descriptors


def target(link: Path) -> str:
    """What a symbolic link leads to; nothing where it has gone."""
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


def is_ours(path: Path) -> bool:
    """Whether a file of shared memory can be a run's: it is not named after another process that lives."""
    pids = {int(pid) for pid in re.findall(r"^(?:torch_|pym-)(\d+)", path.name)}
    return not any(pid != os.getpid() and psutil.pid_exists(pid) for pid in pids)


def is_helper(process: psutil.Process) -> bool:
    """Whether a process is multiprocessing's own, or has ended."""
    try:
        command = " ".join(process.cmdline())
        return any(helper in command for helper in HELPERS) or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def unreleased(run: Watched) -> int:
    """Messages left in the queues of a run that has ended; the end of the stream, in each activation queue, is none."""
    assert run.supervisor is not None
    left = 0
    for spec in run.supervisor.specs:
        left += 0 if spec.activation_in is None else abs(spec.activation_in.in_flight - 1)
        left += 0 if spec.gradient_in is None else spec.gradient_in.in_flight
    return left

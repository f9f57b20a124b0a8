"""The workers of a run as threads that take turns, in an order that a seed fixes; each can be killed at any point.

What a worker does that another can see, or that the one started in its place finds, is a *point*: it puts a message,
gives a slot back, says how far it is, keeps a snapshot, sends an event. A worker is killed right before its n-th point
by an exception that nothing catches, and another is built on the same queues, as `worker_process` does it. Between two
points it is all the same where it dies, so every death can be tried, where a signal would hit some by luck.

`Worker`, `Stage`, the queues, the snapshots and the supervisor's account of cuts are the real ones; there are no
processes, pipes and bytes. A worker that waits gives up its turn; where none gets on any more, they are deadlocked.
"""

from __future__ import annotations

import copy
import ctypes
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from async_dni.data.stream import BatchStream
from async_dni.learning.methods import METHODS
from async_dni.learning.stage import StageSpec
from async_dni.learning.synthesizers import make_synthesizer
from async_dni.record.heartbeat import Heartbeat
from async_dni.record.schedule import CutKind, Schedule
from async_dni.record.telemetry import Telemetry
from async_dni.runtime.cuts.whole import WholeCuts
from async_dni.runtime.listener import Listener
from async_dni.runtime.machine.interruption import Interruption
from async_dni.runtime.snapshots import Snapshots
from async_dni.runtime.supervisor import Patience, Supervisor, _State
from async_dni.runtime.transport.tensor_queue import _RELEASED, _WRITTEN, TensorQueue, TensorSpec
from async_dni.runtime.worker import Worker
from async_dni.runtime.worker_spec import STOP, WorkerSpec

WIDTH, CLASSES, ROWS = 4, 3, 2
SHARED = SimpleNamespace(RawArray=lambda kind, size: (kind * size)())  # memory that threads share
IDLE = 15  # turns of each worker in which none gets on, until they are taken to be deadlocked
QUEUES = ("activation_in", "activation_out", "gradient_in", "gradient_out")


class Killed(BaseException):
    """The worker is no more: nothing in it may catch this."""


@dataclass
class Plan:
    """What is run, and what happens to it."""

    method: str = "cdni"
    lag: int | None = None
    every: int = 1  # `synthesizer_every`
    target_lambda: float = 0.0
    drops: bool = False
    stages: int = 3
    steps: int = 4
    capacity: int = 2
    eval_every: int = 3
    checkpoint_every: int = 2
    snapshot_every: int = 2
    on_divergence: str = "stop"
    has_batch_norm: bool = False
    wrap: Callable[[int, nn.Module], nn.Module] = lambda stage, block: block
    kills: dict[int, list[int]] = field(default_factory=dict)  # by stage: the point at which each of its workers dies
    is_late: bool = False  # a worker that died is replaced only when no other gets on
    stop_at: int | None = None  # the point, of all, at which an early end is asked for
    seed: int = 0

    @property
    def waits(self) -> bool:
        """Whether updates wait for the true gradient."""
        return self.method in ("delayed", "backprop")


@dataclass
class Life:
    """A worker from its start to its end."""

    stage: int
    number: int  # of workers of this stage before it
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    thread: threading.Thread | None = None
    worker: Worker | None = None
    points: list[str] = field(default_factory=list)
    end: str = ""  # killed, done or failed
    unsaved: int = 0  # batches finished since the last snapshot, when it was killed
    error: BaseException | None = None


class Simulation:
    """One run. Use as a context manager."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.points = plan, 0
        self._current: Life | None = None
        self.lives: list[list[Life]] = [[] for _ in range(plan.stages)]
        self.cuts: dict[tuple[int, bool, bool], list[dict[str, Any]]] = {}  # step, is_full, is_final → states
        torch.manual_seed(0)
        self.stages = [self._stage(k) for k in range(plan.stages)]
        self.down, self.up, self.specs = self._connect()

        def ignored(*told: object) -> None:
            pass

        listener = Listener(ignored, ignored, ignored, ignored, ignored)
        cuts = WholeCuts(len(self.specs), 0, self._on_cut)
        self.supervisor = Supervisor(None, self.specs, [], listener, Patience(1, 1, 1), Interruption(), cuts)
        self.known = [_State(spec, None, None, 0.0) for spec in self.specs]  # type: ignore[arg-type]
        self._rng = random.Random(plan.seed)
        self._turn_is_over = threading.Semaphore(0)
        self._is_over = False

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over = True
        for life in (life for lives in self.lives for life in lives):
            life.turn.release()
            assert life.thread is not None
            life.thread.join()
        for spec in self.specs:
            spec.snapshots.close()

    def _stage(self, k: int) -> StageSpec:
        plan, is_last = self.plan, k == self.plan.stages - 1
        layers: list[nn.Module] = [nn.Linear(WIDTH, CLASSES if is_last else WIDTH)]
        if plan.has_batch_norm and not is_last:
            layers = [nn.Sequential(*layers, nn.BatchNorm1d(WIDTH))]
        module = nn.Sequential()
        module.add_module(str(k), plan.wrap(k, *layers))
        classes = CLASSES if plan.method == "cdni" else 0
        return StageSpec(
            k,
            plan.stages,
            module,
            torch.optim.SGD,
            nn.CrossEntropyLoss(),
            method=METHODS[plan.method],
            synthesizer=make_synthesizer((WIDTH,), (), classes)
            if METHODS[plan.method].synthesizer and not is_last
            else None,
            auxiliary_head=nn.Linear(WIDTH, CLASSES) if METHODS[plan.method].auxiliary_head and not is_last else None,
            synthesizer_lr=None,
            classes=classes,
            lag=plan.lag,
            synthesizer_every=plan.every,
            target_lambda=plan.target_lambda,
            checks_gradients=plan.on_divergence == "skip",
        )

    def _connect(self) -> tuple[list[Queue], list[Queue], list[WorkerSpec]]:
        """As `wiring` does it: the queues down and up, between each two stages, and what each worker is made from."""
        plan, bells = self.plan, [Bell(self) for _ in self.stages]
        target, h = TensorSpec(ROWS, (), torch.int64), TensorSpec(ROWS, (WIDTH,), torch.float32)
        down: list[Any] = [Queue(self, [h, target], bells[k - 1], bells[k]) for k in range(1, plan.stages)]
        gradients = METHODS[plan.method].gradients
        up: list[Any] = [Queue(self, [h], bells[k], bells[k - 1]) for k in range(1, plan.stages) if gradients]
        upstream = up or [None] * len(down)
        samples = ROWS * plan.steps
        dataset = TensorDataset(torch.randn(samples, WIDTH), torch.arange(samples) % CLASSES)
        flags = SHARED.RawArray(ctypes.c_byte, 2)
        specs = [
            WorkerSpec(
                index=k,
                stage=None,  # type: ignore[arg-type]
                device="cpu",
                threads=1,
                cores=None,
                seed=0,
                schedule=Schedule(0, plan.steps, plan.eval_every, plan.checkpoint_every),
                lag=1 if plan.method == "backprop" else plan.lag,
                drops=plan.drops,
                stream=BatchStream(dataset, ROWS, plan.steps, seed=0) if k == 0 else None,
                activation_in=[None, *down][k],
                activation_out=[*down, None][k],
                gradient_in=[*upstream, None][k],
                gradient_out=[None, *upstream][k],
                doorbell=bells[k],  # type: ignore[arg-type]
                heartbeat=Beats(self),
                snapshots=Memory(self),
                snapshot_every=plan.snapshot_every,
                on_divergence=plan.on_divergence,
                flags=flags,
                events=None,  # type: ignore[arg-type]
                run_dir=None,
            )
            for k in range(plan.stages)
        ]
        return down, up, specs

    def run(self) -> Simulation:
        """Run to the end. Raises `AssertionError` where the workers are deadlocked, and what a worker raises."""
        for k in range(self.plan.stages):
            self._start(k)
        idle, progress, dead = 0, None, list[int]()
        with without_bytes():
            while living := [lives[-1] for lives in self.lives if not lives[-1].end]:
                life = self._take_turn(self._rng.choice(living))
                if life.error is not None:
                    raise life.error
                dead += [life.stage] * (life.end == "killed")
                last, progress = progress, self._progress()
                idle = idle + 1 if progress == last else 0
                is_stuck = idle > IDLE * len(living) or all(lives[-1].end for lives in self.lives)
                if dead and (is_stuck or not self.plan.is_late):
                    self._start(dead.pop())
                    idle = 0
                assert idle <= IDLE * len(living), f"deadlock\n{self.describe()}"
        return self

    def _progress(self) -> object:
        return [queue.counters for queue in (*self.down, *self.up)], [spec.heartbeat.step for spec in self.specs]

    def _take_turn(self, life: Life) -> Life:
        self._current = life
        life.turn.release()
        self._turn_is_over.acquire()
        return life

    def _start(self, stage: int) -> None:
        life = Life(stage, len(self.lives[stage]))
        self.lives[stage].append(life)
        life.thread = threading.Thread(target=self._live, args=(life,), daemon=True)
        life.thread.start()

    def _live(self, life: Life) -> None:
        life.turn.acquire()
        try:
            if not self._is_over:
                self._work(life)
            life.end = "done"
        except Killed:
            life.end, spec = "killed", self.specs[life.stage]
            life.unsaved = spec.heartbeat.step - (spec.snapshots.step or 0)
        except BaseException as error:
            life.end, life.error = "failed", error
        self._turn_is_over.release()

    def _work(self, life: Life) -> None:
        """As `worker_process` does it."""
        spec = self.specs[life.stage]
        views: dict[str, Any] = {name: queue.view() for name in QUEUES if (queue := getattr(spec, name)) is not None}
        spec = replace(spec, **views, last_cut=self.known[life.stage].last_cut)
        stage = copy.deepcopy(self.stages[life.stage]).build(torch.device("cpu"))
        worker = life.worker = Worker(spec, stage, Counts(self, spec.heartbeat), self._send_event)
        if (snapshot := spec.snapshots.load()) is not None:
            worker.take_over(snapshot)
        worker.run()
        self.point("end")

    def point(self, name: str) -> None:
        """Something that others see is about to happen."""
        if (life := self._current) is None:
            return  # nothing runs yet
        kills = self.plan.kills.get(life.stage, [])
        if life.number < len(kills) and len(life.points) == kills[life.number]:
            raise Killed
        life.points.append(name)
        self.points += 1
        if self.points == self.plan.stop_at:
            self.specs[0].flags[STOP] = 1
        self.rest()

    def rest(self) -> None:
        """Give up the turn, or not."""
        if self._rng.random() < 0.15:
            self.pause()

    def pause(self) -> None:
        """Give up the turn, and get it back at some time."""
        life = self._current
        assert life is not None
        self._turn_is_over.release()
        life.turn.acquire()
        if self._is_over:
            raise Killed

    def _send_event(self, event: object) -> None:
        self.point("event")
        assert self._current is not None
        self.supervisor._handle(self.known[self._current.stage], event)

    def _on_cut(self, step: int, states: list[dict[str, Any]], kind: CutKind, is_final: bool) -> None:
        self.cuts[step, kind is CutKind.FULL, is_final] = states

    def describe(self) -> str:
        """Where everything is, for a person."""
        lines = [str(self.plan)]
        for k, lives in enumerate(self.lives):
            ends = ", ".join(f"{life.end or 'alive'} after {len(life.points)} {life.points[-1:]}" for life in lives)
            lines.append(f"stage {k}, at batch {self.specs[k].heartbeat.step}: {ends}")
        for name, queues in (("down", self.down), ("up", self.up)):
            lines += [f"{name} {k}: written, released {queue.counters}: {queue.sent}" for k, queue in enumerate(queues)]
        return "\n".join(lines)


@contextmanager
def without_bytes() -> Iterator[None]:
    """Cuts reach the supervisor as they are: their bytes would take most of the time."""
    with (
        patch("async_dni.runtime.cuts.of_stage.to_bytes", lambda state: state),
        patch("async_dni.runtime.cuts.whole.from_bytes", lambda state: state),
    ):
        yield


class Bell:
    """The doorbell of a worker that need not be woken: it looks up at every turn."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation

    def ring(self) -> None:
        pass

    def wait(self, timeout: float) -> None:
        self.simulation.pause()


class Queue(TensorQueue):
    """A queue that knows what was sent through it."""

    def __init__(self, simulation: Simulation, specs: list[TensorSpec], producer: Bell, consumer: Bell) -> None:
        super().__init__(SHARED, simulation.plan.capacity, specs, producer, consumer)  # type: ignore[arg-type]
        self.simulation = simulation
        self.sent: list[tuple[int, bool]] = []  # index, and whether there were tensors

    def put(self, index: int, weight_version: int, *tensors: Tensor) -> None:
        self.simulation.point("put")
        self._words[self._header(self._words[_WRITTEN])] = index
        self.simulation.point("half put")
        self.sent.append((index, bool(tensors)))
        super().put(index, weight_version, *tensors)

    def release(self) -> None:
        self.simulation.point("release")
        super().release()

    def view(self) -> Queue:
        """What a process gets that is started with the queue."""
        other = Queue.__new__(Queue)
        other.__setstate__(self.__getstate__())
        other.simulation, other.sent = self.simulation, self.sent
        return other

    @property
    def counters(self) -> tuple[int, int]:
        """Messages written and released."""
        return self._words[_WRITTEN], self._words[_RELEASED]


class Beats(Heartbeat):
    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        super().__init__(SHARED)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "step":
            self.simulation.point("step")
        super().__setattr__(name, value)


class Counts(Telemetry):
    def __init__(self, simulation: Simulation, heartbeat: Heartbeat) -> None:
        self.simulation = simulation
        super().__init__(0, heartbeat)

    def enter(self, phase: str, batch: int | None = None, upstream: bool = False) -> None:
        self.simulation.rest()
        super().enter(phase, batch, upstream)


class Memory(Snapshots):
    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        super().__init__(SHARED)

    def save(self, step: int, state: dict[str, Any]) -> None:
        self.simulation.point("save")
        super().save(step, state)

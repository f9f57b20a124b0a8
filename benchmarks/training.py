"""Whole trainings of a workload, ours and locked ones, by a learning rate and schedule, and what came of them over time.

All keep copies of their weights in memory before the same batches (ours by `weight_history.py`; a plain loop by itself), which
are evaluated when the training is over, so that no evaluation takes time, or a core, from anyone. The clock starts with the first
batch: start-up, the measuring of costs, and compilation come before it. What a network is evaluated on is the training's
own affair: `Data.held_out` for tuning, the test set for measuring.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from courses import Course, Point
from harness import UnavailableError, fit
from ranks import run_ranks
from rivals import Plain
from torch import Tensor, nn
from weight_history import keeping, replay
from workloads import Data, Workload

from async_dni import METHODS, SCHEDULES, Trainer, WorkerError
from async_dni.data.stream import BatchStream
from async_dni.foundation.cores import usable_cores
from async_dni.runtime.machine.compiler import no_compiler

TIMEOUT = 6 * 3600.0  # seconds that a locked process may take


@dataclass(frozen=True)
class Setting:
    """What is tuned."""

    lr: float
    schedule: str
    steps: int  # batches
    times: float | None = None  # the layers' learning rate, for the models beside them; None: there are none

    def named(self, contender: str) -> str:
        """A contender with it."""
        return (
            f"{contender}, lr {self.lr:g}" + (f", {self.schedule}" if self.schedule != "constant" else "") + self._own
        )

    @property
    def _own(self) -> str:
        return "" if self.times is None else f", models' lr ×{self.times:g}"

    @property
    def key(self) -> str:
        """All of it."""
        return f"lr {self.lr:g}, {self.schedule}, {self.steps} steps{self._own}"


@dataclass(frozen=True)
class Training:
    """What all contenders do."""

    workload: Workload
    data: Data  # the network is trained on its training set, and evaluated on its test set
    every: int  # batches, from snapshot to snapshot

    def snapshots(self, steps: int) -> list[int]:
        """The batches before which weights are kept: the last time after all steps."""
        return sorted({*range(0, steps + 1, self.every), steps})

    def evaluate(self, network: nn.Module) -> float:
        """The workload's figure on the test set."""
        return self.workload.evaluate(network, self.data.test_set)


@dataclass(frozen=True)
class Ours:
    """Stages in so many processes of their own."""

    workers: int
    settings: Mapping[str, Any]  # of Trainer

    @property
    def is_locked(self) -> bool:
        """Whether each stage waits for its gradient."""
        return METHODS[self.settings["method"]].lag == 1

    @property
    def has_models(self) -> bool:
        """Whether there are models beside the layers: synthesizers, auxiliary heads."""
        method = METHODS[self.settings["method"]]
        return method.synthesizer or method.auxiliary_head

    def trainer(self, training: Training, setting: Setting, seed: int) -> Trainer:
        """With its settings."""
        network = training.workload.make(training.data, seed)
        given = {
            "workers": self.workers,
            "batch_size": training.workload.batch_size,
            "seed": seed,
            "synthesizer_lr": None if setting.times is None else setting.times * setting.lr,
            "lr_schedule": setting.schedule,
            "threads_per_worker": max(1, usable_cores() // self.workers),
            "device_map": "cpu",
        }
        return Trainer(
            keeping(network, training.snapshots(setting.steps)),
            optimizer=partial(torch.optim.Adam, lr=setting.lr, fused=True),
            **{**given, **self.settings},
        )

    def train(self, training: Training, setting: Setting, seed: int) -> Course:
        """From a seed; one batch more than there are steps, as the last snapshot is taken before it."""
        try:
            model = fit(self.trainer(training, setting, seed), training.data.train_set, setting.steps + 1).model
        except WorkerError as error:
            if "DivergenceError" not in error.details:
                raise
            return []
        return [Point(step, seconds, training.evaluate(model)) for step, seconds in replay(model)]


@dataclass(frozen=True)
class Locked:
    """One fresh process."""

    plain: Plain
    is_locked, has_models = True, False

    def train(self, training: Training, setting: Setting, seed: int) -> Course:
        """From a seed. Raises `UnavailableError` where it is to be compiled and can't be."""
        if self.plain.compiled and (reason := no_compiler()) is not None:
            raise UnavailableError(reason)
        course: Course = run_ranks(locked, 1, (self.plain, training, setting, seed), TIMEOUT)
        return course


def locked(rank: int, results: Any, plain: Plain, training: Training, setting: Setting, seed: int) -> None:
    """A plain loop: the process's entry, for `ranks.run_ranks`."""
    torch.set_num_threads(plain.threads)
    workload, data = training.workload, training.data
    model, loss_fn = workload.make(data, seed).train(), nn.CrossEntropyLoss()
    stream = BatchStream(data.train_set, workload.batch_size, setting.steps + 1, seed)
    sizes = {len(batch.target): batch for batch in (stream[0], stream[min(stream.steps_per_epoch, stream.steps) - 1])}
    forward = plain.prepare(model, [(batch.x, batch.target) for batch in sizes.values()])
    optimizer = torch.optim.Adam(model.parameters(), lr=setting.lr, fused=True)
    scheduler = SCHEDULES[setting.schedule].make(optimizer, steps=setting.steps + 1, warmup=0)
    kept: list[tuple[int, float, dict[str, Tensor]]] = []
    steps, began = frozenset(training.snapshots(setting.steps)), time.monotonic()
    for batch in stream:
        if batch.index in steps:
            state = {name: value.detach().clone() for name, value in model.state_dict().items()}
            kept.append((batch.index, time.monotonic() - began, state))
        optimizer.zero_grad(set_to_none=True)
        loss_fn(forward(plain.laid_out(batch.x)), batch.target).backward()
        optimizer.step()
        scheduler.step()
    course = []
    for step, seconds, state in kept:
        model.load_state_dict(state)
        course.append(Point(step, seconds, training.evaluate(model)))
    results.send(course)


Racer = Ours | Locked


def racers(
    workload: Workload, workers: list[int], blocks: int, ours: Mapping[str, Mapping[str, Any]]
) -> dict[str, Racer]:
    """All that take part, by name: ours in each number of workers that the network can be cut for, and one process."""
    found: dict[str, Racer] = {}
    for name, settings in ours.items():
        for count in workers:
            if count <= blocks:
                word = name.split(", same")[0].replace(",", "")  # names are separated by commas
                found[f"{word} ({count} workers)"] = Ours(count, settings)
    layouts = (False, True) if workload.kind == "maps" else (False,)
    for threads in sorted({1, usable_cores()}):
        for compiled in (False, True):
            for channels_last in layouts:
                plain = Plain(threads, compiled, channels_last)
                how = plain.name.replace(",", "")
                found[f"locked ({threads} thread{'s' * (threads > 1)}{how})"] = Locked(plain)
    return found

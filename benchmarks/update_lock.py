"""Is the update lock gone? How long does each stage wait to update, and what do slow stages and links do to the others?

Three questions, for locked training (backprop) and asynchronous (cdni, delayed), all in the same workers:

  lock      for each stage, the time from the end of its forward pass on a batch to its update on that batch (the
            median over batches), and the fraction of time that its worker waits
  slowed    one stage is slowed 2, 5 and 10 times: each stage's updates a second, with overflow block and drop, relative
            to an undisturbed run. What comes after a slowed stage can't train on batches that don't come, whatever the
            method; with drop, what comes before it need not wait
  delay     messages take 0 to 100 ms on every link: each stage's updates a second, relative to no delay. The queues'
            capacity covers the round trip, and is named

A run's rates are those of its second half, so emulated stages, which only sleep, have no warm-up runs before.
Stages are emulated (labelled so: a layer that sleeps a given time forward, and again backward), so that many devices can
be shown on few cores; for the first question, real ones (a fully connected network, a layer a worker) stand beside them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from case import Case, Measured
from emulated import locks, train, train_emulated, transit_delay, update_rates
from harness import Contender, compare, parse_arguments, report

from async_dni import TrainResult, fcn, load_dataset
from async_dni.foundation.cores import usable_cores

METHODS = ("backprop", "cdni", "delayed")
REAL_BATCH_SIZE = 250
STAGES = 4  # where one is slowed, or links are
LINKS: dict[str, dict[str, Any]] = {
    "backprop": {"method": "backprop"},
    "cdni, block": {"method": "cdni", "overflow": "block"},
    "cdni, drop": {"method": "cdni", "overflow": "drop"},
    "delayed": {"method": "delayed"},
}


@dataclass(frozen=True)
class Length:
    """How much is measured."""

    seconds: float  # of an emulated stage's sleep, in each direction
    steps: int  # of an asynchronous run
    locked_steps: int
    workers: tuple[int, ...]
    real_workers: tuple[int, ...]
    slowed: tuple[int, ...]  # times
    slowed_stages: tuple[int, ...]
    delays: tuple[int, ...]  # ms

    def steps_of(self, method: str) -> int:
        """Locked runs are slow, and each of their batches is like the other."""
        return self.locked_steps if method == "backprop" else self.steps


QUICK = Length(0.005, 20, 4, (3,), (2,), (10,), (1,), (0, 20))


def full_length() -> Length:
    """The whole benchmark; real stages up to two a core."""
    real = tuple(workers for workers in (2, 4, 8, 16) if workers <= 2 * usable_cores())
    return Length(0.01, 200, 20, (2, 4, 8, 16), real, (2, 5, 10), (1, STAGES - 1), (0, 10, 30, 100))


def contender(name: str, read: Callable[[TrainResult], Measured], run: Callable[[], TrainResult]) -> Contender:
    """A run, and what is read off it."""
    return Contender(name, lambda: read(run()))


def measure_emulated_locks(length: Length, rounds: int) -> list[Case]:
    """The first question, with stages that sleep."""
    measured = []
    for workers in length.workers:
        capacity = 2 * workers  # delayed has its batches in flight there and back
        settings = {"stages": "emulated", "workers": workers, "ms": length.seconds * 1e3, "queue_capacity": capacity}
        run = partial(train_emulated, [length.seconds] * workers, queue_capacity=capacity)
        contenders = [
            contender(method, locks, partial(run, steps=length.steps_of(method), method=method)) for method in METHODS
        ]
        measured += compare(f"lock: {workers} emulated stages", settings, contenders, rounds, warm_up=False)
    return measured


def measure_real_locks(length: Length, rounds: int) -> list[Case]:
    """The first question, with stages that compute."""
    data, _ = load_dataset("mnist")
    measured = []
    for workers in length.real_workers:
        torch.manual_seed(0)
        capacity = 2 * workers
        network, cores = f"fcn({workers}, 256)", usable_cores()
        settings = {"stages": "real", "workers": workers, "network": network, "batch_size": REAL_BATCH_SIZE}
        settings |= {"queue_capacity": capacity, "cores": cores}
        run = partial(train, fcn(workers, 256), data, batch_size=REAL_BATCH_SIZE, queue_capacity=capacity)
        contenders = [contender(method, locks, partial(run, steps=length.steps, method=method)) for method in METHODS]
        measured += compare(f"lock: {workers} real stages on {cores} cores", settings, contenders, rounds)
    return measured


def measure_slowed(length: Length, rounds: int) -> list[Case]:
    """The second question."""
    measured = []
    for slow in length.slowed_stages:
        contenders = [contender("undisturbed", update_rates, partial(_slowed, length, slow, 1, "block"))]
        for factor in length.slowed:
            for overflow in ("block", "drop"):
                run = partial(_slowed, length, slow, factor, overflow)
                contenders.append(contender(f"{factor} times slower, {overflow}", update_rates, run))
        settings = {"stages": "emulated", "workers": STAGES, "ms": length.seconds * 1e3, "slowed_stage": slow}
        title = f"slowed: stage {slow} of {STAGES} emulated stages, cdni"
        cases = compare(title, settings, contenders, rounds, warm_up=False)
        _relate(cases, "undisturbed")
        measured += cases
    return measured


def _slowed(length: Length, slow: int, factor: int, overflow: str) -> TrainResult:
    times = [length.seconds * (factor if stage == slow else 1) for stage in range(STAGES)]
    steps = length.steps // factor if overflow == "block" else length.steps  # about the same time for both
    return train_emulated(times, max(steps, 10), method="cdni", overflow=overflow)


def measure_delays(length: Length, rounds: int) -> list[Case]:
    """The third question."""
    worst = length.delays[-1] / 1e3
    # a batch that waits for its true gradient is under way on all links, there and back
    capacity = 4 + math.ceil(2 * (STAGES - 1) * worst / (2 * length.seconds))
    settings: dict[str, Any] = {"stages": "emulated", "workers": STAGES, "ms": length.seconds * 1e3}
    settings["queue_capacity"] = capacity
    measured = []
    for name, method in LINKS.items():
        steps = length.steps_of(method["method"])
        contenders = [
            contender(f"{delay} ms", update_rates, partial(_delayed, length, delay, steps, capacity, method))
            for delay in length.delays
        ]
        title = f"delay on every link: {STAGES} emulated stages, {name}, capacity {capacity}"
        cases = compare(title, {**settings, **method}, contenders, rounds, warm_up=False)
        _relate(cases, contenders[0].name)
        measured += cases
    return measured


def _delayed(length: Length, delay: int, steps: int, capacity: int, method: dict[str, Any]) -> TrainResult:
    with transit_delay(delay / 1e3):
        return train_emulated([length.seconds] * STAGES, steps, queue_capacity=capacity, **method)


def _relate(cases: Sequence[Case], reference: str) -> None:
    for case in cases:
        for name in case.rounds:
            if name != reference:
                case.add_ratio(name, reference)


QUESTIONS = {
    "lock": (measure_emulated_locks, measure_real_locks),
    "slowed": (measure_slowed,),
    "delay": (measure_delays,),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    parser.add_argument(
        "--question", action="append", choices=QUESTIONS, help="one of the questions; may be repeated; default: all"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse_arguments(__doc__ or "", arguments, add_options)
    length = QUICK if options.quick else full_length()
    chosen = [measure for question in options.question or QUESTIONS for measure in QUESTIONS[question]]
    measured = [case for measure in chosen for case in measure(length, options.rounds)]
    report("update_lock", options, measured, x="stage")


if __name__ == "__main__":
    main()

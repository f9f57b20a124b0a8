"""What do more stages bring: samples a second and memory, from 2 to 32 of them?

  emulated   stages of equal cost, which sleep a given time forward, and again backward, and compute next to nothing;
             with every stage the network grows. Locked training (backprop in the same workers) takes the sum of all
             stages' times a batch, asynchronous training (cdni, delayed) the time of one, whatever their number;
             `one stage alone` is a run of one worker, measured. Of GPipe the formula is given, labelled so: a pipeline
             of K stages with m microbatches takes (K + m - 1) / m times one stage's time, if a microbatch costs an m-th
             of a batch and nothing else costs anything
             Samples a second are those of the slowest stage, over the second half of its updates
  real       the same network (fcn of 20 layers, 256 units, batches of 256) in 1 worker up to one a core; cuts are
             balanced anew by measured cost for each run, and samples a second are the whole run's, without start-up

Memory is a worker's resident memory (rss), the largest of all workers' at the end of a run. It counts pages of PyTorch
that the workers share once for each of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from case import Case, Measured, Metric
from emulated import BATCH_SIZE, train_emulated, update_rates
from harness import Contender, compare, fit, parse_arguments, report

from async_dni import Trainer, fcn, load_dataset
from async_dni.foundation.cores import usable_cores
from async_dni.record.progress import Progress

THROUGHPUT, MEMORY = Metric("throughput", "samples/s"), Metric("largest worker", "MB rss")
LOCKED, ALONE = "backprop", "one stage alone"
METHODS = ("cdni", "delayed", LOCKED)
REAL_BATCH_SIZE = 256


@dataclass(frozen=True)
class Length:
    """How much is measured."""

    seconds: float  # of an emulated stage's sleep, in each direction
    stages: tuple[int, ...]
    steps: int  # of an asynchronous run of emulated stages
    locked_steps: int
    real_steps: int


FULL = Length(0.02, (2, 4, 8, 16, 32), 120, 10, 400)
QUICK = Length(0.01, (2, 4), 20, 4, 10)


class Memory(Progress):
    """Keeps the resident memory of each worker, as of its last record."""

    def __init__(self) -> None:
        self.rss_bytes: dict[int, int] = {}

    def on_record(self, worker: int, record: dict[str, Any]) -> None:
        self.rss_bytes[worker] = record["rss_bytes"]

    def largest(self) -> float:
        """In MB."""
        return max(self.rss_bytes.values()) / 1e6


def emulated_run(length: Length, stages: int, method: str) -> Measured:
    """A run of emulated stages: the pace of the slowest, without the start, when the stages get their first batches."""
    memory, steps = Memory(), length.locked_steps if method == LOCKED else length.steps
    times = [length.seconds] * stages
    result = train_emulated(times, steps, memory, method=method, queue_capacity=capacity(stages))
    return {THROUGHPUT: BATCH_SIZE * min(update_rates(result).values()), MEMORY: memory.largest()}


def capacity(stages: int) -> int:
    """Of a queue: delayed has as many batches in flight as are under way there and back."""
    return 2 * stages


def measure_emulated(length: Length, rounds: int) -> list[Case]:
    """More stages, and a larger network."""
    measured = []
    for stages in length.stages:
        contenders = [Contender(method, partial(emulated_run, length, stages, method)) for method in METHODS]
        contenders.append(Contender(ALONE, partial(emulated_run, length, 1, "cdni")))
        settings = {"stages": "emulated", "workers": stages, "ms": length.seconds * 1e3, "batch_size": BATCH_SIZE}
        settings["queue_capacity"] = capacity(stages)
        cases = compare(
            f"{stages} emulated stages", settings, contenders, rounds, "cdni", "emulated stages", warm_up=False
        )
        for case in cases:
            if case.metric == THROUGHPUT:
                case.formulas = formulas(length.seconds, stages)
                case.add_ratio("delayed", ALONE)
        measured += cases
    return measured


def formulas(seconds: float, stages: int) -> dict[str, float]:
    """Samples a second, from the sleeping alone."""
    one = BATCH_SIZE / (2 * seconds)
    microbatches = {"m = 8": 8, "m = 4 K": 4 * stages}
    pipelines = {f"GPipe, {name}": one * m / (stages + m - 1) for name, m in microbatches.items()}
    return {"one stage": one, "locked": one / stages, **pipelines}


def real_run(network: torch.nn.Sequential, data: Any, steps: int, workers: int, method: str) -> Measured:
    """A run of real stages, on a thread each."""
    memory = Memory()
    trainer = Trainer(
        network,
        workers=workers,
        method=method,
        batch_size=REAL_BATCH_SIZE,
        threads_per_worker=1,
        device_map="cpu",
        progress=memory,
    )
    result = fit(trainer, data, steps)
    return {THROUGHPUT: result.summary["samples_per_second"], MEMORY: memory.largest()}


def measure_real(length: Length, rounds: int) -> list[Case]:
    """More workers for the same network."""
    data, _ = load_dataset("mnist")
    torch.manual_seed(0)
    network, cores = fcn(20, 256), usable_cores()
    measured = []
    for workers in range(1, cores + 1):
        contenders = [
            Contender(method, partial(real_run, network, data, length.real_steps, workers, method))
            for method in METHODS
        ]
        settings = {"stages": "real", "workers": workers, "network": "fcn(20, 256)", "batch_size": REAL_BATCH_SIZE}
        settings["cores"] = cores
        name = f"20x256 in {workers} of at most {cores} workers"
        measured += compare(name, settings, contenders, rounds, "cdni", panel="20x256")
    return measured


PARTS = {"emulated": measure_emulated, "real": measure_real}


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    parser.add_argument(
        "--part", action="append", choices=PARTS, help="one of the parts; may be repeated; default: all"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse_arguments(__doc__ or "", arguments, add_options)
    length = QUICK if options.quick else FULL
    parts = [PARTS[part] for part in options.part or PARTS]
    measured = [case for part in parts for case in part(length, options.rounds)]
    report("scaling", options, measured, x="workers")


if __name__ == "__main__":
    main()

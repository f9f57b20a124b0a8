"""How many samples a second does asynchronous training get through, against all that a user would take instead?

The same network, global batch, optimizer (fused Adam), data and cores for all:

  cdni, dni, delayed    stages in processes of their own, none locked to another. dni's default synthesizers, with two
                        hidden layers of 1024, cost more than most stages here; "dni, linear" has cdni's, without labels
  cdni, float32         its synthesizers multiply in float32; by default (all other rows) they multiply in bfloat16 where
                        the processor does that and predictions are large. Layers are float32 everywhere, unless
                        --matmul-precision changes them: for all contenders alike
  cdni, every 2nd       with --synthesizer-every 2: every other batch's gradient is not computed, sent or learnt from
  cdni, every 4th       with --synthesizer-every 4
  backprop, same workers   locked: each stage waits for the true gradient of each batch
  locked, N threads     backprop in one process
  GPipe, 1F1B           torch.distributed.pipelining over gloo, a stage a process, for several numbers of microbatches.
                        Their batch norm sees a microbatch: it is not the same computation, to their advantage or not
  DDP                   DistributedDataParallel over gloo, two processes, half of each batch in each
  limit of cdni         what the arithmetic allows: each stage timed alone with nothing to wait for; a batch takes the
                        longer of all stages' work shared by the cores, and the slowest stage

For cdni the table also says where each stage's time goes, in milliseconds a batch: computing (beside the same stage alone,
as in the limit), loading and sending, snapshots, waiting.

Cuts are balanced by measured cost, once for each method, before anything is timed. Start-up is not counted. The clock of
runs in async_dni's workers starts with the first batch; that of the rivals after some steps, which favours them a little.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rivals
import torch
from case import Case, Measured, Metric
from harness import Contender, compare, fit, parse_arguments, positive, report
from ranks import run_ranks

from async_dni import ImageDataset, Trainer, fcn, load_dataset
from async_dni.data.stream import BatchStream
from async_dni.foundation.cores import usable_cores
from async_dni.learning.precision import MATMUL_PRECISIONS
from async_dni.learning.stage import StageSpec

THROUGHPUT = Metric("throughput", "samples/s")
COMPUTING = "computing"  # of a stage, in milliseconds a batch
PHASES = {  # of a worker's seconds, as its summary has them
    COMPUTING: ("forward", "update", "learn"),
    "loading and sending": ("load", "send"),
    "snapshots": ("snapshot",),
    "waiting": ("wait_activation", "wait_gradient", "wait_room"),
}
LIMIT = "limit of cdni"


@dataclass(frozen=True)
class Workload:
    """A fully connected network of so many layers, the output layer included."""

    layers: int
    width: int
    batch_size: int
    workers: int

    def microbatches(self, least: int) -> list[int]:
        """Numbers of microbatches, at least so many: 2, 4 and 8, or the next that divide the batch."""
        numbers = [next(m for m in range(near, self.batch_size + 1) if self.batch_size % m == 0) for near in (2, 4, 8)]
        return [m for m in dict.fromkeys(numbers) if m >= least]


WORKLOADS = {
    "3x256": Workload(3, 256, 250, 3),
    "20x256": Workload(20, 256, 256, 2),
    "20x128": Workload(20, 128, 64, 2),
}

METHODS: dict[str, dict[str, Any]] = {
    "cdni": {"method": "cdni"},
    "cdni, float32": {"method": "cdni", "synthesizer_matmul_precision": "highest"},
    "cdni, every 2nd": {"method": "cdni", "synthesizer_every": 2},
    "cdni, every 4th": {"method": "cdni", "synthesizer_every": 4},
    "dni": {"method": "dni"},
    "dni, linear": {"method": "dni", "synthesizer_hidden": ()},
    "delayed": {"method": "delayed"},
    "backprop, same workers": {"method": "backprop"},
}
ASYNC = tuple(name for name in METHODS if name != "backprop, same workers")


class Bench:
    """The contenders of a workload, which share data, network and cuts."""

    def __init__(
        self, workload: Workload, data: ImageDataset, seconds: float, warm_up_steps: int, precision: str
    ) -> None:
        self.workload, self.seconds, self.warm_up_steps = workload, seconds, warm_up_steps
        self.precision = precision  # of the layers' products
        self.data = whole_batches(data, workload.batch_size)
        torch.manual_seed(0)
        self.model = fcn(workload.layers, workload.width)
        self.cores = usable_cores()
        self.threads = max(1, self.cores // workload.workers)
        self.splits: dict[str, list[int]] = {}

    def contenders(self, only: Sequence[str] | None) -> list[Contender]:
        """Those that are asked for, by the beginning of their names; all by default."""
        trains: dict[str, Callable[[int], Measured]] = {name: self._in_workers(name) for name in METHODS}
        trains[LIMIT] = self._limit
        for threads in range(1, self.cores + 1):
            trains[f"locked, {threads} thread{'s' * (threads > 1)}"] = self._locked(threads)
        for schedule, least in (("GPipe", 2), ("1F1B", self.workload.workers)):  # 1F1B needs one a stage
            for m in self.workload.microbatches(least):
                trains[f"{schedule}, {m} microbatches"] = self._pipeline(schedule, m)
        trains["DDP"] = self._data_parallel
        for start in only or ():
            if not any(name.startswith(start) for name in trains):
                print(
                    f"throughput.py: --only: got {start}; allowed: the beginning of {', '.join(trains)}",
                    file=sys.stderr,
                )
                sys.exit(2)
        chosen = [name for name in trains if only is None or name.startswith(tuple(only))]
        return [self._contender(name, trains[name]) for name in chosen]

    def _contender(self, name: str, train: Callable[[int], Measured]) -> Contender:
        """The warm-up finds the number of steps that take about the time that is asked for."""
        steps = [self.warm_up_steps]

        def warm_up() -> None:
            rate = train(steps[0])[THROUGHPUT]
            steps[0] = max(self.warm_up_steps, math.ceil(rate * self.seconds / self.workload.batch_size))

        return Contender(name, lambda: train(steps[0]), warm_up)

    def _trainer(self, name: str, **settings: Any) -> Trainer:
        return Trainer(
            self.model,
            workers=self.workload.workers,
            batch_size=self.workload.batch_size,
            threads_per_worker=self.threads,
            device_map="cpu",
            optimizer=rivals.adam,
            matmul_precision=self.precision,
            **METHODS[name],
            **settings,
        )

    def _cut(self, name: str) -> tuple[list[StageSpec], list[torch.Tensor]]:
        """The stages that a method is trained in, and an example of each one's output; the first cuts are kept."""
        split = tuple(self.splits[name]) if name in self.splits else None
        self.splits[name], stages, outputs = self._trainer(name, split=split).cut(self.data)
        return stages, outputs

    def split(self, name: str) -> list[int]:
        """A method's cuts."""
        if name not in self.splits:
            self._cut(name)
        return self.splits[name]

    def _in_workers(self, name: str) -> Callable[[int], Measured]:
        def train(steps: int) -> Measured:
            trainer = self._trainer(name, split=tuple(self.split(name)))
            summary = fit(trainer, self.data, steps).summary
            return {THROUGHPUT: summary["samples_per_second"], **(where_time_goes(summary) if name == "cdni" else {})}

        return train

    def _limit(self, steps: int) -> Measured:
        stages, outputs = self._cut("cdni")
        first = BatchStream(self.data, self.workload.batch_size, 1, seed=0)[0]
        inputs = [first.x, *outputs[:-1]]
        seconds = run_ranks(rivals.stages_alone, 1, (stages, inputs, first.target, steps, self.threads))
        return {
            THROUGHPUT: self.workload.batch_size / max(sum(seconds) * self.threads / self.cores, *seconds),
            **{of_stage(COMPUTING, k): 1e3 * alone for k, alone in enumerate(seconds)},
        }

    def _job(self, steps: int, threads: int) -> rivals.Job:
        return rivals.Job(self.model, self.data, self.workload.batch_size, steps, threads, self.precision)

    def _locked(self, threads: int) -> Callable[[int], Measured]:
        return lambda steps: {THROUGHPUT: float(run_ranks(rivals.locked, 1, (self._job(steps, threads),)))}

    def _pipeline(self, schedule: str, microbatches: int) -> Callable[[int], Measured]:
        def train(steps: int) -> Measured:
            split = self.split("backprop, same workers")
            return self._meet(
                rivals.pipeline, self.workload.workers, steps, self.threads, schedule, split, microbatches
            )

        return train

    def _data_parallel(self, steps: int) -> Measured:
        return self._meet(rivals.data_parallel, 2, steps, max(1, self.cores // 2), 2)

    def _meet(self, rival: Callable[..., None], ranks: int, steps: int, threads: int, *more: Any) -> Measured:
        """Run a rival of several processes, which meet in a file of a directory of their own."""
        with tempfile.TemporaryDirectory() as directory:
            arguments = (self._job(steps, threads), Path(directory) / "rendezvous", *more)
            return {THROUGHPUT: float(run_ranks(rival, ranks, arguments))}


def where_time_goes(summary: dict[str, Any]) -> Measured:
    """Milliseconds a batch of each stage in each kind of phase, from a run's summary."""
    return {
        of_stage(name, worker["index"]): 1e3 * sum(worker["seconds"][phase] for phase in phases) / worker["steps"]
        for worker in summary["workers"]
        for name, phases in PHASES.items()
    }


def of_stage(name: str, stage: int) -> Metric:
    """Some of a stage's time."""
    return Metric(name, "ms a batch", stage)


def whole_batches(data: ImageDataset, batch_size: int) -> ImageDataset:
    """The data set without the samples of its last batch, where that is smaller: pipelines take one size only."""
    samples = len(data) // batch_size * batch_size
    whole = copy.copy(data)
    whole.images, whole.labels = data.images[:samples], data.labels[:samples]
    return whole


def measure(name: str, data: ImageDataset, options: argparse.Namespace) -> list[Case]:
    """All contenders of a workload, in rounds."""
    bench = Bench(WORKLOADS[name], data, options.seconds, options.warm_up_steps, options.matmul_precision)
    contenders = bench.contenders(options.only)
    settings = {
        **vars(bench.workload),
        "optimizer": "fused Adam, lr 1e-3",
        "matmul_precision": options.matmul_precision,
        "cores": bench.cores,
        "threads_per_worker": bench.threads,
        "seconds_per_measurement": None if options.quick else options.seconds,
        "splits": bench.splits,
    }
    measured = compare(name, settings, contenders, options.rounds, "cdni", warm_up=not options.quick)
    for case in measured:
        if case.metric == THROUGHPUT:
            for ours in (*ASYNC, LIMIT):
                if ours in case.rounds:
                    add_ratios(case, ours)
    return measured


def add_ratios(case: Case, ours: str) -> None:
    """Against one thread, and against the best of each kind of rival; of the limit too, which says what can be had."""
    names = list(case.rounds)
    if "locked, 1 thread" in names:
        case.add_ratio(ours, "locked, 1 thread")
    case.add_ratio_to_best(ours, "locked process", [name for name in names if name.startswith("locked")])
    parallel = [name for name in names if name.startswith(("GPipe", "1F1B", "DDP"))]
    case.add_ratio_to_best(ours, "of GPipe, 1F1B, DDP", parallel)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    parser.add_argument(
        "--workload", action="append", choices=WORKLOADS, help="one of the workloads; may be repeated; default: all"
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="contenders whose name begins so; may be repeated; default: all"
    )
    parser.add_argument(
        "--matmul-precision",
        choices=MATMUL_PRECISIONS,
        default="highest",
        help="of every contender's layers, as of torch.set_float32_matmul_precision; default: highest",
    )
    parser.add_argument(
        "--seconds", type=positive(float), default=8.0, help="of each measurement; default: 8; --quick takes 10 steps"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse_arguments(__doc__ or "", arguments, add_options)
    options.warm_up_steps = 10 if options.quick else 50
    data, _ = load_dataset("mnist")
    names = options.workload or (["3x256"] if options.quick else list(WORKLOADS))
    measured = [case for name in names for case in measure(name, data, options)]
    report("throughput", options, measured, drawn=[case for case in measured if case.metric == THROUGHPUT])


if __name__ == "__main__":
    main()

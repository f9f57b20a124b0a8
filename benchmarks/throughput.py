"""How many samples a second does asynchronous training get through, against all that a user would take instead?

The same network, global batch, optimizer (fused Adam), data and cores for all, each rival at its best settings:

  cdni, dni, delayed, …   stages in processes of their own, none locked to another (benchmarks/contenders.py has them, and
                        --contender adds one). dni's default synthesizers, with two hidden layers of 1024, cost more than
                        most stages here; "dni, linear" has cdni's, without labels
  cdni, float32         its synthesizers multiply in float32; by default (all other rows) they multiply in bfloat16 where
                        the processor does that and predictions are large. Layers are float32 everywhere, unless
                        --matmul-precision changes them: for all contenders alike
  cdni, every 2nd       with --synthesizer-every 2: every other batch's gradient is not computed, sent or learnt from
  cdni, every 4th       with --synthesizer-every 4
  backprop, same workers   locked: each stage waits for the true gradient of each batch
  locked, N threads     backprop in one process; compiled by torch.compile, too, where there is a C++ compiler (it compiles
                        in the warm-up: that time is not counted), and with convolutions' channels last in memory, too
  GPipe, 1F1B, zero-bubble   torch.distributed.pipelining over gloo, for several numbers of microbatches: a stage a process;
                        zero-bubble (ScheduleInterleavedZeroBubble) two, where there are as many blocks, and zero-bubble V
                        (ScheduleZBVZeroBubble) two always. Their batch norm sees a microbatch: it is not the same computation,
                        to their advantage or not
  DDP                   DistributedDataParallel over gloo, two processes, half of each batch in each
  limit of cdni         what the arithmetic allows: each stage timed alone with nothing to wait for; a batch takes the
                        longer of all stages' work shared by the cores, and the slowest stage

--device-map cuda (or cuda:0,cpu, …) puts our stages on GPUs, as launch.py does, and the locked process on the first one, where
compiling it makes CUDA graphs. Rivals of several processes, and the limit, are of CPUs and left out then.

--best keeps, after the warm-up, the fastest of each rival's settings only (compiled or not, how many microbatches), and measures
that. A rival that can't run here is in the table with the reason.

For cdni the table also says where each stage's time goes, in milliseconds a batch: computing (beside the same stage alone,
as in the limit), loading and sending, snapshots, waiting.

Cuts are balanced by measured cost, once for each method, before anything is timed. Start-up is not counted. The clock of
runs in async_dni's workers starts with the first batch; that of the rivals after some steps, which favours them a little.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import rivals
import torch
from case import Case, Measured, Metric
from contenders import LOCKED, add_contender_option, named
from harness import (
    Contender,
    UnavailableError,
    add_name_options,
    chosen_names,
    compare,
    fit,
    parse_arguments,
    positive,
    refuse,
    report,
)
from ranks import run_ranks
from rivals import GPIPE, ONE_F_ONE_B, ZERO_BUBBLE, ZERO_BUBBLE_V, Plain
from torch.multiprocessing.spawn import ProcessException
from workloads import MAPS, WORKLOADS, Data, Workload, add_data_options, whole_batches

from async_dni import ConfigError, Trainer
from async_dni.data.stream import BatchStream
from async_dni.foundation.cores import usable_cores
from async_dni.learning.precision import MATMUL_PRECISIONS
from async_dni.learning.stage import StageSpec
from async_dni.runtime.machine.compiler import no_compiler
from async_dni.runtime.machine.device import assign_devices

THROUGHPUT = Metric("throughput", "samples/s")
COMPUTING = "computing"  # of a stage, in milliseconds a batch
PHASES = {  # of a worker's seconds, as its summary has them
    COMPUTING: ("forward", "update", "learn"),
    "loading and sending": ("load", "send"),
    "snapshots": ("snapshot",),
    "waiting": ("wait_activation", "wait_gradient", "wait_room"),
}
LIMIT = "limit of cdni"
DEFAULT = ("3x256", "20x256", "20x128")
RIVALS_TIMEOUT = 180.0  # seconds, besides ten times what a measurement is to take


PARALLEL = (GPIPE, ONE_F_ONE_B, ZERO_BUBBLE, ZERO_BUBBLE_V, "DDP")


class Bench:
    """The contenders of a workload, which share data, network and cuts."""

    def __init__(
        self,
        workload: Workload,
        data: Data,
        seconds: float,
        warm_up_steps: int,
        precision: str,
        more: Mapping[str, Mapping[str, Any]] | None = None,
        compiles: bool = True,
        device_map: str = "cpu",
    ) -> None:
        self.workload, self.seconds, self.warm_up_steps = workload, seconds, warm_up_steps
        self.precision = precision  # of the layers' products
        self.data = whole_batches(data.train_set, workload.batch_size)
        self.model = workload.make(data, seed=0)
        self.ours = named(workload, more)
        self.device_map = device_map
        devices = assign_devices(device_map, workload.workers)
        self.device = next((device for device in devices if device != "cpu"), "cpu")  # the locked process's
        self.compiles = compiles  # whether rivals that are compiled are among the contenders
        self.cores = usable_cores()
        self.threads = max(1, self.cores // workload.workers)
        self.splits: dict[str, list[int]] = {}

    def contenders(self, only: Sequence[str] | None, but: Sequence[str] = ()) -> list[Contender]:
        """Those that are asked for, by the beginning of their names; all by default, `but` some."""
        trains: dict[str, Callable[[int], Measured]] = {name: self._in_workers(name) for name in self.ours}
        families: dict[str, str] = {}
        for plain in self._plain():
            family = f"locked, {plain.threads} thread{'s' * (plain.threads > 1)}"
            trains[name := family + plain.name], families[name] = self._locked(plain), family
        if self.device == "cpu":
            trains |= self._of_cpus(families)
        chosen = chosen_names("throughput.py", list(trains), only, but)
        return [self._contender(name, trains[name], families.get(name)) for name in chosen]

    def _of_cpus(self, families: dict[str, str]) -> dict[str, Callable[[int], Measured]]:
        """Rivals of several processes, whose `families` are added, and the limit."""
        trains: dict[str, Callable[[int], Measured]] = {}
        for schedule in PARALLEL[:-1]:
            least = 2 if schedule == GPIPE else self.workload.workers  # the others need one a stage
            for m in self.workload.microbatches(least):
                trains[name := f"{schedule}, {m} microbatches"] = self._pipeline(schedule, m)
                families[name] = schedule
        return {**trains, "DDP": self._data_parallel, LIMIT: self._limit}

    def _plain(self) -> list[Plain]:
        """The ways to train in one process."""
        layouts = (False, True) if self.workload.kind == MAPS else (False,)
        return [
            Plain(threads, compiled, channels_last)
            for threads in (range(1, self.cores + 1) if self.device == "cpu" else (1,))
            for compiled in ((False, True) if self.compiles else (False,))
            for channels_last in layouts
        ]

    def _contender(self, name: str, train: Callable[[int], Measured], family: str | None) -> Contender:
        """The warm-up finds the number of steps that take about the time that is asked for; it returns the speed."""
        steps = [self.warm_up_steps]

        def warm_up() -> float:
            rate = train(steps[0])[THROUGHPUT]
            steps[0] = max(self.warm_up_steps, math.ceil(rate * self.seconds / self.workload.batch_size))
            return rate

        return Contender(name, lambda: train(steps[0]), warm_up, family)

    def _trainer(self, name: str, **settings: Any) -> Trainer:
        ours = {
            "workers": self.workload.workers,
            "batch_size": self.workload.batch_size,
            "threads_per_worker": self.threads,
            "device_map": self.device_map,
            "matmul_precision": self.precision,
        }
        return Trainer(self.model, optimizer=rivals.adam, **{**ours, **self.ours[name], **settings})

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
        return rivals.Job(self.model, self.data, self.workload.batch_size, steps, threads, self.precision, self.device)

    def _locked(self, plain: Plain) -> Callable[[int], Measured]:
        def train(steps: int) -> Measured:
            if plain.compiled and (reason := no_compiler()) is not None:
                raise UnavailableError(reason)
            return {THROUGHPUT: self._run(rivals.locked, 1, (self._job(steps, plain.threads), plain))}

        return train

    def _pipeline(self, schedule: str, microbatches: int) -> Callable[[int], Measured]:
        def train(steps: int) -> Measured:
            split, ranks = self._pipeline_split(schedule), self.workload.workers
            if schedule == ZERO_BUBBLE and microbatches % (rounds := max(1, microbatches // ranks)):
                raise UnavailableError(f"PyTorch makes {rounds} rounds of them in {ranks} processes, all alike")
            return self._meet(rivals.pipeline, ranks, steps, self.threads, ranks, schedule, split, microbatches)

        return train

    def _pipeline_split(self, schedule: str) -> list[int]:
        """Cuts into a stage a rank, or into two for zero-bubble schedules. Raises `UnavailableError`."""
        ranks, blocks = self.workload.workers, len(self.model)
        if schedule in (GPIPE, ONE_F_ONE_B) or (schedule == ZERO_BUBBLE and blocks < 2 * ranks):
            return self.split(LOCKED)
        if blocks < 2 * ranks:
            raise UnavailableError(f"it has two stages a process; {blocks} blocks are too few for {ranks}")
        key = f"two stages in each of {ranks} processes"
        if key not in self.splits:
            self.splits[key] = self._trainer(LOCKED, workers=2 * ranks, threads_per_worker=1).cut(self.data)[0]
        return self.splits[key]

    def _data_parallel(self, steps: int) -> Measured:
        return self._meet(rivals.data_parallel, 2, steps, max(1, self.cores // 2), 2)

    def _meet(self, rival: Callable[..., None], ranks: int, steps: int, threads: int, *more: Any) -> Measured:
        """Run a rival of several processes, which meet in a file of a directory of their own."""
        with tempfile.TemporaryDirectory() as directory:
            arguments = (self._job(steps, threads), Path(directory) / "rendezvous", *more)
            return {THROUGHPUT: self._run(rival, ranks, arguments)}

    def _run(self, rival: Callable[..., None], ranks: int, arguments: Sequence[Any]) -> float:
        """Samples a second. Raises `UnavailableError` where PyTorch's part fails; it has said all of it on standard error."""
        try:
            return float(run_ranks(rival, ranks, arguments, timeout=RIVALS_TIMEOUT + 10 * self.seconds))
        except (ProcessException, TimeoutError) as error:
            raise UnavailableError(str(error).strip().splitlines()[-1][:200]) from error


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


def measure(workload: Workload, options: argparse.Namespace) -> list[Case]:
    """All contenders of a workload, in rounds."""
    data = workload.load(options.fashion, options.text)
    more = dict(options.contender)
    compiles = not options.quick and not options.no_compile
    try:
        assign_devices(options.device_map, workload.workers)
    except ConfigError as error:
        refuse("throughput.py", "--device-map", options.device_map, error.allowed)
    given = (options.seconds, options.warm_up_steps, options.matmul_precision, more, compiles, options.device_map)
    bench = Bench(workload, data, *given)
    contenders = bench.contenders(None if options.only is None else [*options.only, *more], options.but)
    settings = {
        **workload.settings(),
        "workers": workload.workers,
        "contenders": bench.ours,
        "optimizer": "fused Adam, lr 1e-3",
        "matmul_precision": options.matmul_precision,
        "device_map": bench.device_map,
        "cores": bench.cores,
        "threads_per_worker": bench.threads,
        "seconds_per_measurement": None if options.quick else options.seconds,
        "splits": bench.splits,
    }
    title, warm_up = f"{workload.name}, {workload.workers} workers", not options.quick
    measured = compare(
        title, settings, contenders, options.rounds, "cdni", warm_up=warm_up, best_of_families=options.best
    )
    for case in measured:
        if case.metric == THROUGHPUT:
            for ours in (*(name for name in bench.ours if name != LOCKED), LIMIT):
                if ours in case.rounds:
                    add_ratios(case, ours)
    return measured


def add_ratios(case: Case, ours: str) -> None:
    """Against one thread, and against the best of each kind of rival; of the limit too, which says what can be had."""
    names = list(case.rounds)
    if "locked, 1 thread" in names:
        case.add_ratio(ours, "locked, 1 thread")
    eager = [name for name in names if name.startswith("locked, 1 thread") and "compiled" not in name]
    if len(eager) > 1 or (eager and eager != ["locked, 1 thread"]):
        case.add_ratio_to_best(ours, "1 thread, not compiled", eager)
    case.add_ratio_to_best(ours, "locked process", [name for name in names if name.startswith("locked")])
    if LOCKED in names:
        case.add_ratio(ours, LOCKED)
    parallel = [name for name in names if name.startswith(PARALLEL)]
    case.add_ratio_to_best(ours, f"of {', '.join(PARALLEL[:3])}, DDP", parallel)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    parser.add_argument(
        "--workload",
        action="append",
        choices=WORKLOADS,
        help=f"may be repeated; default: {', '.join(DEFAULT)}",
    )
    parser.add_argument("--workers", type=positive(int), metavar="N", help="in place of the workload's own")
    parser.add_argument("--device-map", default="cpu", metavar="MAP", help="as launch.py has it; default: cpu")
    parser.add_argument("--best", action="store_true", help="measure the fastest of each rival's settings only")
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="leave out what is compiled, as --quick does: the first time takes minutes",
    )
    add_data_options(parser)
    add_contender_option(parser)
    add_name_options(parser)
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
    if options.quick and not options.only and not options.but:
        options.but = ["cdni, "]  # the variants
    measured: list[Case] = []
    for name in options.workload or (["3x256"] if options.quick else DEFAULT):
        workload = WORKLOADS[name]
        measured += measure(replace(workload, workers=options.workers or workload.workers), options)
    report("throughput", options, measured, drawn=[case for case in measured if case.metric == THROUGHPUT])


if __name__ == "__main__":
    main()

"""What does a trace cost? Samples a second with every step traced, and with none.

The same training, in turns: `untraced` and `traced` (--trace-steps 0:N), both with a run directory. The ratio is that of the
first to the second, round by round: 1.02 is 2 % slower with the trace. `enter` is the call that each change of phase makes,
timed by itself in a loop; a batch makes some ten of them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from case import Case, Measured, Metric
from harness import Contender, compare, fit, parse_arguments, positive, report
from workloads import WORKLOADS, Data, Workload, add_data_options

from async_dni import Trainer
from async_dni.foundation.cores import usable_cores
from async_dni.foundation.steps import Steps
from async_dni.record.telemetry import Telemetry
from async_dni.record.trace.spans import Spans

THROUGHPUT, ENTER = Metric("throughput", "samples/s"), Metric("enter", "ns")
UNTRACED, TRACED = "untraced", "traced"
CALLS = 20_000


def train(workload: Workload, data: Data, workers: int, steps: int, traced: bool) -> Measured:
    """Samples a second of one training."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            workload.make(data, 0),
            workers=workers,
            batch_size=workload.batch_size,
            threads_per_worker=max(1, usable_cores() // workers),
            device_map="cpu",
            run_dir=Path(folder) / "run",
            trace_steps=f"0:{steps}" if traced else None,
            optimizer=partial(torch.optim.Adam, lr=1e-3, fused=True),
        )
        summary = fit(trainer, data.train_set, steps).summary
    return {THROUGHPUT: summary["samples_per_second"], ENTER: enter(traced)}


def enter(traced: bool) -> float:
    """Nanoseconds of a change of phase."""
    telemetry = Telemetry()
    if traced:
        telemetry.spans = Spans(Steps(0, CALLS), dict, Path("/dev/null"))
    began = time.perf_counter_ns()
    for index in range(CALLS):
        telemetry.enter("update", index)
    return (time.perf_counter_ns() - began) / CALLS


def measure(options: argparse.Namespace) -> list[Case]:
    """Both, in rounds."""
    workload = WORKLOADS[options.workload]
    data = workload.load(options.fashion, options.text)
    workers, steps = options.workers or workload.workers, options.steps or (40 if options.quick else 600)
    contenders = [
        Contender(name, partial(train, workload, data, workers, steps, name == TRACED)) for name in (UNTRACED, TRACED)
    ]
    settings: dict[str, Any] = {**workload.settings(), "workers": workers, "steps": steps}
    name = f"{workload.name}, {workers} workers"
    return compare(name, settings, contenders, options.rounds, UNTRACED, warm_up=not options.quick)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    parser.add_argument("--workload", choices=WORKLOADS, default="3x256", help="default: 3x256")
    parser.add_argument("--workers", type=positive(int), metavar="N", help="default: the workload's number")
    parser.add_argument("--steps", type=positive(int), metavar="N", help="default: 600, with --quick 40")
    add_data_options(parser)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse_arguments(__doc__ or "", arguments, add_options)
    report("trace_overhead", options, measure(options))


if __name__ == "__main__":
    main()

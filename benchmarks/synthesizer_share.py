"""What share of a stage's time goes to its synthesizer, where a stage is one block of the network?

A stage by itself, in this process, with its input and its gradient at hand, as in throughput.py's limit: forward pass, update,
learning. Timed within it are the method's two parts: `now`, what it predicts, and `learn`, its regression on the gradient that
came back. The stage is the second block of a workload (--stage), by default a layer of 256, batch 256; a contender each of ours
that has a synthesizer (benchmarks/contenders.py; --contender adds one). Rounds take turns; one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from case import Case, Measured, Metric
from contenders import add_contender_option, named
from harness import Contender, add_name_options, chosen_names, compare, parse_arguments, positive, refuse, report
from workloads import WORKLOADS, Data, Workload, add_data_options

from async_dni import METHODS, Trainer
from async_dni.data.stream import BatchStream
from async_dni.learning.batch import Batch
from async_dni.learning.stage import Stage, StageSpec

SHARE, STAGE, SYNTHESIZER = Metric("share", "%"), Metric("whole stage", "ms"), Metric("now and learn", "ms")
WARM_UP = 10


@dataclass
class Clock:
    """Seconds within some functions."""

    seconds: float = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments)
            self.seconds += time.perf_counter() - began
            return result

        return timed


class Share:
    """One contender's stage, and what it is fed with."""

    def __init__(self, workload: Workload, data: Data, index: int, settings: dict[str, Any]) -> None:
        model = workload.make(data, seed=0)
        trainer = Trainer(
            model,
            workers=len(model),
            split=tuple(range(1, len(model))),
            batch_size=workload.batch_size,
            threads_per_worker=1,
            device_map="cpu",
            **settings,
        )
        _, specs, outputs = trainer.cut(data.train_set)
        first = BatchStream(data.train_set, workload.batch_size, 1, seed=0)[0]
        self.spec: StageSpec = specs[index]
        self.x, self.target = (first.x if index == 0 else outputs[index - 1]), first.target
        self.gradient = torch.randn_like(outputs[index]).div_(len(first.target))

    def measure(self, steps: int) -> Measured:
        """Milliseconds a batch."""
        stage, clock = self.spec.build(torch.device("cpu")), Clock()
        run(self, stage, 0, WARM_UP)
        method: Any = stage.method
        method.now, method.learn = clock.around(method.now), clock.around(method.learn)
        began = time.perf_counter()
        run(self, stage, WARM_UP, steps)
        whole = time.perf_counter() - began
        times = {STAGE: 1e3 * whole / steps, SYNTHESIZER: 1e3 * clock.seconds / steps}
        return {SHARE: 100 * clock.seconds / whole, **times}


def run(share: Share, stage: Stage, start: int, steps: int) -> None:
    """Some batches, all alike."""
    for index in range(start, start + steps):
        stage.forward(Batch(index, share.x, share.target))
        stage.update(index)
        if stage.gets_gradient(index):
            stage.learn(index, share.gradient)


def measure(options: argparse.Namespace) -> list[Case]:
    """All contenders, in rounds."""
    workload = WORKLOADS[options.workload]
    data = workload.load(options.fashion, options.text).first(workload.batch_size, workload.batch_size)
    blocks = len(workload.make(data, 0))
    if options.stage >= blocks - 1:
        refuse("synthesizer_share.py", "--stage", options.stage, f"0 to {blocks - 2}: the last has no synthesizer")
    ours = {name: s for name, s in named(workload, dict(options.contender)).items() if METHODS[s["method"]].synthesizer}
    names = chosen_names("synthesizer_share.py", list(ours), options.only, options.but)
    chosen = {name: ours[name] for name in names}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shares = {name: Share(workload, data, options.stage, settings) for name, settings in chosen.items()}
        contenders = [Contender(name, partial(share.measure, options.steps)) for name, share in shares.items()]
        settings = {**workload.settings(), "stage": options.stage, "steps": options.steps, "contenders": chosen}
        return compare(
            f"stage {options.stage} of {workload.name}, a block a stage", settings, contenders, options.rounds
        )
    finally:
        torch.set_num_threads(before)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    parser.add_argument("--workload", choices=WORKLOADS, default="20x256", help="default: 20x256")
    parser.add_argument("--stage", type=int, default=1, metavar="K", help="the block, from 0; default: 1")
    add_name_options(parser)
    parser.add_argument(
        "--steps", type=positive(int), metavar="N", help="of a measurement; default: 500, with --quick 20"
    )
    add_data_options(parser)
    add_contender_option(parser)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse_arguments(__doc__ or "", arguments, add_options)
    options.steps = options.steps or (20 if options.quick else 500)
    report("synthesizer_share", options, measure(options))


if __name__ == "__main__":
    main()

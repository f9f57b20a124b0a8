"""How many seconds of training until the test error is at most so much: asynchronous, against locked in one process?

The same network (fully connected, layers of 256 units), batches, initial weights, seeds and optimizer (fused Adam) for
all, on MNIST; each contender at each learning rate, a seed a round:

  cdni, delayed         stages in so many processes of their own, cuts balanced by measured cost. The cores are the same
                        for all contenders: where there are more workers than cores, they share them. Layers are float32
                        everywhere; cdni's synthesizers multiply in bfloat16 where the processor does that, and
                        learn at --synthesizer-lr times the layers' learning rate
  cdni every 2nd, 4th   with --synthesizer-every 2 or 4: the other batches' gradients are not computed, sent or learnt
                        from. Such a run trains more batches a second; whether it learns more is to be seen
  locked (N threads)    backprop in one process, a plain loop: with one a core; --contenders has one thread too, which takes
                        the same steps, and longer for them where the network is large

The clock starts with the first batch, alike for all: start-up, and the measuring of costs, come before it. All keep
copies of their weights in memory every so many batches, in the same way (benchmarks/weight_history.py), and these are
evaluated when the training is over, so that no evaluation takes time, or a core, from anyone.

The time to a target is that of the first snapshot whose test error is at or below it; its resolution is that of the
snapshots. A target counts as reached where all rounds reach it. For each target, each contender then stands at the
learning rate with the least median time to it, and the ratios, round by round, are those of the best locked process to
the asynchronous methods: above 1, asynchronous training is faster. The plot shows each contender at its best learning
rate for the lowest target that it reaches (where it reaches none: at the one with the lowest error).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from case import Case, Metric
from courses import Course, Courses, Point, best_rate, fastest_rate, lowest_error, times_to, why_missing
from harness import chosen_from, fit, listed, parse_arguments, positive, report, take_turns
from ranks import run_ranks
from torch import nn
from weight_history import keeping, replay

from async_dni import ImageDataset, Trainer, fcn, load_dataset
from async_dni.data.stream import BatchStream
from async_dni.foundation.cores import usable_cores
from async_dni.record.evaluate import error_percent, evaluate

SETTINGS: dict[str, dict[str, Any]] = {
    "cdni": {"method": "cdni"},
    "cdni every 2nd": {"method": "cdni", "synthesizer_every": 2},
    "cdni every 4th": {"method": "cdni", "synthesizer_every": 4},
    "delayed": {"method": "delayed"},
}
ASYNC = {f"{name} ({workers} workers)": (name, workers) for name in SETTINGS for workers in (2, 3, 4)}
DEFAULT = ("cdni (2 workers)", "cdni (3 workers)", "cdni every 2nd (3 workers)", "delayed (2 workers)")
WIDTH = 256
TIMEOUT = 6 * 3600.0  # seconds that a locked process may take
BEST, FINAL = Metric("best test error", "%"), Metric("test error at the end", "%")
WHOLE = Metric("whole training", "s")
ERROR = Metric("test error", "%")  # over time, drawn; in the table, at the end


@dataclass(frozen=True)
class Training:
    """What all contenders do."""

    layers: int
    batch_size: int
    steps: int
    eval_every_steps: int
    synthesizer_lr: float  # times the layers'
    train_set: ImageDataset
    test_set: ImageDataset

    @property
    def name(self) -> str:
        """For titles."""
        return f"{self.layers}x{WIDTH}, batch {self.batch_size}"

    @property
    def batches(self) -> int:
        """One more than there are steps: snapshots are taken before a batch, the last one after all steps."""
        return self.steps + 1

    def network(self, seed: int) -> nn.Sequential:
        """The network with its initial weights, to keep those that are to be evaluated."""
        torch.manual_seed(seed)
        return keeping(fcn(self.layers, WIDTH), {*range(0, self.batches, self.eval_every_steps), self.steps})

    def evaluate(self, network: nn.Sequential) -> Course:
        """The snapshots of a trained network."""
        course = []
        for step, seconds in replay(network):
            error = error_percent(evaluate(network, self.test_set, nn.CrossEntropyLoss())[1])
            assert error is not None
            course.append(Point(step, seconds, error))
        return course


def train_in_workers(name: str, workers: int, training: Training, lr: float, seed: int) -> Course:
    """Asynchronous: a stage a process."""
    trainer = make_trainer(name, workers, training, lr, seed)
    return training.evaluate(fit(trainer, training.train_set, training.batches).model)


def make_trainer(name: str, workers: int, training: Training, lr: float, seed: int) -> Trainer:
    """With a contender's settings."""
    return Trainer(
        training.network(seed),
        workers=workers,
        batch_size=training.batch_size,
        seed=seed,
        synthesizer_lr=training.synthesizer_lr * lr,
        optimizer=partial(torch.optim.Adam, lr=lr, fused=True),
        threads_per_worker=max(1, usable_cores() // workers),
        device_map="cpu",
        **SETTINGS[name],
    )


def train_locked(threads: int, training: Training, lr: float, seed: int) -> Course:
    """Locked: one fresh process."""
    course: Course = run_ranks(locked, 1, (threads, training, lr, seed), TIMEOUT)
    return course


def locked(rank: int, results: Any, threads: int, training: Training, lr: float, seed: int) -> None:
    """The process's entry, for `ranks.run_ranks`."""
    torch.set_num_threads(threads)
    model, loss_fn = training.network(seed).train(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    for batch in BatchStream(training.train_set, training.batch_size, training.batches, seed):
        optimizer.zero_grad(set_to_none=True)
        loss_fn(model(batch.x), batch.target).backward()
        optimizer.step()
    results.send(training.evaluate(model))


def contenders() -> dict[str, Callable[[Training, float, int], Course]]:
    """All of them by name, called with the learning rate and the seed."""
    trains: dict[str, Callable[[Training, float, int], Course]] = {}
    trains |= {contender: partial(train_in_workers, *which) for contender, which in ASYNC.items()}
    for threads in sorted({1, usable_cores()}):
        trains[f"locked ({threads} thread{'s' * (threads > 1)})"] = partial(train_locked, threads)
    return trains


def label(contender: str, lr: float) -> str:
    """A contender at a learning rate."""
    return f"{contender}, lr {lr:g}"


def time_metric(target: float) -> Metric:
    """Of a target in per cent."""
    return Metric(f"time to {target:g} %", "s")


Measured = Mapping[str, Courses]  # by contender


def cases_of_all(name: str, settings: dict[str, Any], targets: Sequence[float], measured: Measured) -> list[Case]:
    """Every contender at every learning rate: seconds to each target, errors, seconds of the whole training."""
    rounds = {label(one, lr): rounds for one, courses in measured.items() for lr, rounds in courses.items()}
    cases = []
    for target in targets:
        case = Case(name, time_metric(target), settings, {}, name)
        for key, courses in rounds.items():
            times = times_to(target, courses)
            if times is None:
                case.missing[key] = why_missing(target, courses)
            else:
                case.rounds[key] = times
        cases.append(case)
    values: dict[Metric, Callable[[Course], float]] = {
        BEST: lowest_error,
        FINAL: lambda course: course[-1].error,
        WHOLE: lambda course: course[-1].seconds,
    }
    for metric, value in values.items():
        numbers = {key: [value(course) for course in courses] for key, courses in rounds.items()}
        cases.append(Case(name, metric, settings, numbers, name))
    return cases


def case_at_best(name: str, settings: dict[str, Any], target: float, measured: Measured) -> Case:
    """Every contender at its fastest learning rate to a target, and the ratios of the best locked one to ours."""
    case, labels = Case(name, time_metric(target), settings, {}, name), {}
    for contender, courses in measured.items():
        lr = fastest_rate(target, courses)
        times = None if lr is None else times_to(target, courses[lr])
        if lr is None or times is None:
            case.missing[contender] = "not reached"
        else:
            labels[contender] = label(contender, lr)
            case.rounds[labels[contender]] = times
    locked = [key for contender, key in labels.items() if contender not in ASYNC]
    if locked:
        best = min(locked, key=lambda key: statistics.median(case.rounds[key]))
        for contender in ASYNC:
            if contender in labels:
                case.add_ratio(best, labels[contender])
    return case


def case_of_curves(name: str, settings: dict[str, Any], targets: Sequence[float], measured: Measured) -> Case:
    """The error over time of every contender at its best learning rate."""
    case = Case(name, ERROR, settings, {}, name)
    for contender, courses in measured.items():
        lr = best_rate(targets, courses)
        case.rounds[label(contender, lr)] = [course[-1].error for course in courses[lr]]
        case.curves[label(contender, lr)] = [[(point.seconds, point.error) for point in c] for c in courses[lr]]
    return case


def measure(training: Training, options: argparse.Namespace) -> list[Case]:
    """All contenders at all learning rates, in rounds."""
    entries = {label(name, lr): (name, lr) for lr in options.learning_rates for name in options.contenders}
    trains = contenders()
    turns = {key: partial(trains[name], training, lr) for key, (name, lr) in entries.items()}
    rounds = take_turns(training.name, turns, options.rounds)
    measured: dict[str, dict[float, list[Course]]] = {name: {} for name in options.contenders}
    for key, (name, lr) in entries.items():
        measured[name][lr] = rounds[key]
    settings = {
        "layers": training.layers,
        "width": WIDTH,
        "batch_size": training.batch_size,
        "workers": {name: workers for name, (_, workers) in ASYNC.items() if name in options.contenders},
        "steps": training.steps,
        "eval_every_steps": training.eval_every_steps,
        "synthesizer_lr": f"{training.synthesizer_lr:g} times the layers'",
        "learning_rates": options.learning_rates,
        "seeds": list(range(options.rounds)),
        "optimizer": "fused Adam",
        "cores": usable_cores(),
    }
    targets = sorted(options.targets, reverse=True)
    at_best = f"{training.name}: each at its best learning rate"
    return [
        *cases_of_all(training.name, settings, targets, measured),
        *(case_at_best(at_best, settings, target, measured) for target in targets),
        case_of_curves(at_best, settings, targets, measured),
    ]


@dataclass(frozen=True)
class Length:
    """What is trained, where no option says otherwise."""

    targets: tuple[float, ...]
    learning_rates: tuple[float, ...]
    layers: int
    steps: int
    eval_every_steps: int


FULL = Length((3.0, 2.5, 2.2, 2.0), (5e-4, 1e-3, 2e-3, 4e-3), layers=20, steps=1500, eval_every_steps=60)
QUICK = Length((20.0, 10.0, 1.0), (1e-3,), layers=4, steps=90, eval_every_steps=15)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    names = list(contenders())
    default = [*DEFAULT, names[-1]]
    parser.add_argument(
        "--contenders",
        type=chosen_from(names),
        default=default,
        metavar="NAMES",
        help=f"the beginnings of their names, separated by commas: {', '.join(names)}; default: {', '.join(default)}",
    )
    numbers, count = listed(positive(float)), positive(int)
    parser.add_argument("--targets", type=numbers, metavar="PERCENTS", help="test errors; default: 3,2.5,2.2,2")
    parser.add_argument("--learning-rates", type=numbers, metavar="NUMBERS", help="default: 5e-4,1e-3,2e-3,4e-3")
    parser.add_argument("--steps", type=count, metavar="N", help="batches to train on; default: 1500")
    parser.add_argument("--eval-every-steps", type=count, metavar="N", help="from snapshot to snapshot; default: 60")
    parser.add_argument(
        "--layers", type=count, metavar="N", help="the output layer included; more workers are left out; default: 20"
    )
    parser.add_argument(
        "--synthesizer-lr",
        type=positive(float),
        metavar="TIMES",
        default=2.0,
        help="learning rate of cdni's synthesizers, times the layers'; default: 2",
    )
    parser.add_argument("--batch-size", type=count, metavar="N", default=256, help="default: 256")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse_arguments(__doc__ or "", arguments, add_options, rounds=3)
    for name, value in vars(QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    too_many = {name for name, (_, workers) in ASYNC.items() if workers > options.layers}
    options.contenders = [name for name in options.contenders if name not in too_many]
    training = Training(
        options.layers,
        options.batch_size,
        options.steps,
        options.eval_every_steps,
        options.synthesizer_lr,
        *load_dataset("mnist"),
    )
    report("time_to_accuracy", options, measure(training, options))


if __name__ == "__main__":
    main()

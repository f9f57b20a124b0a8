"""How many seconds of training until the test error is at most so much: asynchronous, against locked in one process?

The same network (--workload), batches, initial weights, seeds and optimizer (fused Adam) for all:

  cdni, delayed, …      stages in so many processes of their own (benchmarks/contenders.py has them, and --contender adds
                        one), cuts balanced by measured cost. The cores are the same for all contenders: where there are
                        more workers than cores, they share them. Layers are float32 everywhere; synthesizers learn at
                        --synthesizer-lr times the layers' learning rate, which is tuned where several are given
  locked (N threads)    backprop in one process, a plain loop; compiled by torch.compile, too, and with channels last, if
                        --contenders names that. It is given --locked-steps, several times as many steps as ours

  DDP, pipelines        reckoned, not run: with --rivals FILE, of throughput.py, each takes the locked process's seconds, times
                        what that has more samples a second

**Tuning.** Each contender's rate, schedule and, of a schedule that ends, number of steps are chosen by one training each, on a
part of the training set that is held out; the test set is not looked at. For each target it is the candidate that came
--margin below it soonest there, as one that only just gets there misses it with other seeds; else the one that reached it
soonest; else the one with the lowest error. --tuned FILE keeps these courses, to go on with and to use again.

**Measuring.** Each contender, as it was chosen, is trained on the whole training set, a seed a round, and evaluated on the
test set.

The clock starts with the first batch, alike for all: start-up, the measuring of costs, and compilation come before it. All keep
copies of their weights in memory every so many batches, and these are evaluated when the training is over, so that no
evaluation takes time, or a core, from anyone.

The time to a target is that of the first snapshot whose test error is at or below it; its resolution is that of the
snapshots. A target counts as reached where all rounds reach it. --target-of-locked N adds one that is known afterwards: what
the first locked contender came to, in the same round, after N steps, at its best rate for that. The ratios, round by round,
are those of the best locked process to the asynchronous methods: above 1, asynchronous training is faster. The plot shows each
contender as it was chosen for the lowest target.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from case import Case, Metric
from courses import Course, best_rate, error_at, last_error, lowest_error, times_to, why_missing
from field import add_field_options, field_of, loaded
from harness import listed, parse_arguments, positive, refuse, report, take_turns
from rival_rates import Slowness, slowness
from training import Ours, Racer, Setting, Training
from tuning import Courses, Tuning, add_tuning_options, as_tuned, candidates_of, check_part, tune
from workloads import Data

SCRIPT = "time_to_accuracy.py"
BEGINNINGS = ("cdni (", "local (", "delayed (", "locked (")  # who takes part where nothing else is asked for
WHOLE = Metric("whole training", "s")


@dataclass(frozen=True)
class Aim:
    """A target: the same for all, or, where `step` says so, what locked training came to there."""

    value: float = 0.0
    step: int | None = None

    def metric(self, unit: str) -> Metric:
        """The time to it."""
        return Metric(
            f"time to {self.value:g} {unit}" if self.step is None else f"time to locked's {self.step}th step", "s"
        )


Chosen = dict[str, dict[Aim, Setting]]  # of each contender
Measured = Mapping[tuple[str, Setting], Sequence[Course]]  # a course a round


class Race:
    """Who is chosen, measured and compared."""

    def __init__(
        self, training: Training, data: Data, field: Mapping[str, Racer], aims: Sequence[Aim], margin: float = 0.0
    ) -> None:
        self.training, self.data = training, data  # held out; the test set
        self.field, self.aims = field, aims
        self.margin = margin  # how far below a target those that are tuned have to come, as a part of it
        self.unit = training.workload.unit
        self.error = Metric(training.workload.figure, self.unit)
        self.missing: dict[str, str] = {}
        self.rivals: Slowness = {}

    @property
    def locked(self) -> list[str]:
        """Single processes that are there."""
        return [name for name, one in self.field.items() if not isinstance(one, Ours) and name not in self.missing]

    def choose(self, tuned: Mapping[str, Courses]) -> Chosen:
        """By the courses on the part held out."""
        wanted: dict[Aim, float] = {aim: aim.value for aim in self.aims}
        at: dict[Aim, Setting] = {}
        for aim in self.aims:
            if aim.step is not None:
                courses, step = tuned[self.locked[0]], aim.step
                reached = {one: error_at(step, rounds[0]) if rounds else 0.0 for one, rounds in courses.items()}
                at[aim] = min(reached, key=lambda one: reached[one])
                wanted[aim] = reached[at[aim]]
        chosen: Chosen = {}
        for name, courses in tuned.items():
            only = next(iter(courses)) if len(courses) == 1 else None
            chosen[name] = {
                aim: only or best_rate([value * (1 - self.margin), value], courses) for aim, value in wanted.items()
            }
        for aim, setting in at.items():
            chosen[self.locked[0]][Aim(step=-(aim.step or 0))] = setting  # what it is measured by
        return chosen

    def measure(self, chosen: Chosen, rounds: int) -> Measured:
        """All that was chosen, in rounds, on the whole training set and the test set."""
        training = Training(self.training.workload, self.data, self.training.every)
        entries = dict.fromkeys((name, setting) for name, by_aim in chosen.items() for setting in by_aim.values())
        turns = {f"{n}, {s.key}": partial(self.field[n].train, training, s) for n, s in entries}
        found = take_turns(self.training.workload.name, turns, rounds)
        return dict(zip(entries, found.values(), strict=True))

    def values(self, aim: Aim, chosen: Chosen, measured: Measured) -> float | list[float]:
        """The target, or that of each round."""
        if aim.step is None:
            return aim.value
        setting = chosen[self.locked[0]][Aim(step=-aim.step)]
        return [error_at(aim.step, course) for course in measured[self.locked[0], setting]]

    def cases_of_all(self, name: str, settings: dict[str, Any], chosen: Chosen, measured: Measured) -> list[Case]:
        """All that was measured: seconds to each target, errors, seconds of the whole training."""
        labels = self._labels(measured)
        cases = []
        for aim in self.aims:
            value = self.values(aim, chosen, measured)
            case = Case(name, aim.metric(self.unit), settings, {}, name, missing=dict(self.missing))
            for entry, courses in measured.items():
                times = times_to(value, courses)
                if times is None:
                    case.missing[labels[entry]] = why_missing(value, courses)
                else:
                    case.rounds[labels[entry]] = times
            cases.append(case)
        values: dict[Metric, Callable[[Course], float]] = {
            Metric(f"best {self.error.name}", self.unit): lowest_error,
            Metric(f"{self.error.name} at the end", self.unit): last_error,
            WHOLE: lambda course: course[-1].seconds,
        }
        for metric, found in values.items():
            case = Case(name, metric, settings, {}, name)
            for entry, courses in measured.items():
                if all(courses):
                    case.rounds[labels[entry]] = [found(course) for course in courses]
                else:
                    case.missing[labels[entry]] = f"came apart in {sum(not course for course in courses)} rounds"
            cases.append(case)
        return cases

    def case_at_best(self, name: str, settings: dict[str, Any], aim: Aim, chosen: Chosen, measured: Measured) -> Case:
        """Every contender as it was chosen for a target, and the ratios of the best locked one to ours."""
        case = Case(name, aim.metric(self.unit), settings, {}, name, missing=dict(self.missing))
        labels, of, value = self._labels(measured), {}, self.values(aim, chosen, measured)
        for contender, by_aim in chosen.items():
            courses = measured[contender, by_aim[aim]]
            times = times_to(value, courses)
            if times is None:
                long = statistics.median(course[-1].seconds if course else 0.0 for course in courses)
                case.missing[contender] = f"{why_missing(value, courses)}, in {long:.1f} s"
            else:
                of[contender] = labels[contender, by_aim[aim]]
                case.rounds[of[contender]] = times
        locked = [of[contender] for contender in self.locked if contender in of]
        if locked:
            best = min(locked, key=lambda key: statistics.median(case.rounds[key]))
            for contender, label in of.items():
                if isinstance(self.field[contender], Ours):
                    case.add_ratio(best, label)
            self._add_rivals(case, of)
        return case

    def _add_rivals(self, case: Case, labels: Mapping[str, str]) -> None:
        """What rivals of several processes would take, and the ratios of the best of them to ours."""
        for locked, times in self.rivals.items():
            if locked in labels:
                seconds = statistics.median(case.rounds[labels[locked]])
                case.formulas |= {f"{rival}, as many steps as {locked}": seconds * t for rival, t in times.items()}
        if case.formulas:
            best = min(case.formulas, key=lambda rival: case.formulas[rival])
            for contender, label in labels.items():
                if isinstance(self.field[contender], Ours):
                    case.ratios[f"{best} (formula) / {label}"] = [case.formulas[best] / s for s in case.rounds[label]]

    def case_of_curves(self, name: str, settings: dict[str, Any], chosen: Chosen, measured: Measured) -> Case:
        """The error over time of every contender as it was chosen for the last target, the lowest."""
        case, labels = Case(name, self.error, settings, {}, name), self._labels(measured)
        for contender, by_aim in chosen.items():
            entry = contender, by_aim[self.aims[-1]]
            if all(measured[entry]):
                case.rounds[labels[entry]] = [course[-1].error for course in measured[entry]]
                case.curves[labels[entry]] = [[(p.seconds, p.error) for p in course] for course in measured[entry]]
        return case

    def _labels(self, measured: Measured) -> dict[tuple[str, Setting], str]:
        """With the number of steps where only that tells two apart."""
        short = {entry: entry[1].named(entry[0]) for entry in measured}
        twice = {label for label in short.values() if list(short.values()).count(label) > 1}
        return {e: f"{label}, {e[1].steps} steps" if label in twice else label for e, label in short.items()}


def fraction(text: str) -> float:
    """A type for `add_argument`: from 0, below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"got {text}; allowed: a number from 0, below 1")
    return value


def make_race(options: argparse.Namespace) -> tuple[Race, dict[str, tuple[Racer, Sequence[Setting]]]]:
    """As the options say: who is tuned, with which candidates. Ends the program where they don't go together."""
    workload, data = loaded(options)
    field = field_of(SCRIPT, options, workload, data, BEGINNINGS)
    aims = [Aim(target) for target in sorted(options.targets or workload.targets, reverse=True)]
    aims += [] if options.target_of_locked is None else [Aim(step=options.target_of_locked)]
    if options.target_of_locked is not None and not any(one for one in field.values() if not isinstance(one, Ours)):
        refuse(SCRIPT, "--target-of-locked", options.target_of_locked, "with a locked contender")
    steps = options.steps or [workload.steps]
    locked_steps = options.locked_steps or [n * max(steps) for n in (1, 2, 4)]
    if options.target_of_locked is not None:  # the best that it can be at that step may be a schedule that ends there
        locked_steps = sorted({*locked_steps, options.target_of_locked})
    every = options.eval_every_steps or max(1, max(steps) // 25)
    training = Training(workload, data.held_out(), every)
    entries: dict[str, tuple[Racer, Sequence[Setting]]] = {
        name: (one, candidates_of(one, options, workload, steps if isinstance(one, Ours) else locked_steps))
        for name, one in field.items()
    }
    race = Race(training, data, field, aims, options.margin)
    if options.rivals is not None:
        try:
            race.rivals = slowness(options.rivals, workload.name)
        except ValueError as error:
            refuse(SCRIPT, "--rivals", error, "a JSON file of throughput.py, with rivals of this workload")
    return race, entries


def measure(options: argparse.Namespace) -> list[Case]:
    """Tune, then measure."""
    race, entries = make_race(options)
    tuning = Tuning(race.training, options.tuned)
    # others are chosen by what locked training comes to, where it sets the target
    always = race.locked[:1] if options.target_of_locked is not None else []
    tuned, race.missing = tune(tuning, entries, options.tuning_seconds, always)
    if options.part == "tune":
        return []
    workload, chosen = race.training.workload, race.choose(tuned)
    names = {aim: aim.metric(workload.unit).name for aim in race.aims}
    said = {one: {names[aim]: s.key for aim, s in by.items() if aim in names} for one, by in chosen.items()}
    for contender, by_aim in said.items():
        print(f"chosen: {contender}: {'; '.join(f'{aim}: {key}' for aim, key in by_aim.items())}")
    measured = race.measure(chosen, options.rounds)
    settings = {
        **workload.settings(),
        "chosen": said,
        "eval_every_steps": race.training.every,
        "margin": options.margin,
        **as_tuned(options, entries),
    }
    name = f"{workload.name}, batch {workload.batch_size}"
    at_best = f"{name}: each as it was tuned"
    return [
        *race.cases_of_all(name, settings, chosen, measured),
        *(race.case_at_best(at_best, settings, aim, chosen, measured) for aim in race.aims),
        race.case_of_curves(at_best, settings, chosen, measured),
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    add_field_options(parser, BEGINNINGS)
    numbers, count = listed(positive(float)), positive(int)
    parser.add_argument(
        "--targets", type=numbers, metavar="NUMBERS", help="errors in per cent, or bits; default: the workload's"
    )
    parser.add_argument(
        "--target-of-locked", type=count, metavar="N", help="and what locked training is at after N steps"
    )
    parser.add_argument(
        "--locked-steps",
        type=listed(count),
        metavar="N,N,…",
        help="of one process; default: once, twice and 4 times --steps",
    )
    parser.add_argument(
        "--margin",
        type=fraction,
        default=0.05,
        metavar="PART",
        help="choose by who comes so far below a target, as a part of it; default: 0.05",
    )
    parser.add_argument("--rivals", type=Path, metavar="FILE", help="of throughput.py --json: reckon DDP and pipelines")
    parser.add_argument(
        "--eval-every-steps", type=count, metavar="N", help="from snapshot to snapshot; default: a 25th of --steps"
    )
    add_tuning_options(parser)


QUICK = {
    "workload": "3x256",
    "steps": [60],
    "locked_steps": [60],
    "eval_every_steps": 15,
    "learning_rates": [1e-3],
    "schedules": ["constant"],
    "targets": [20.0, 10.0, 1.0],
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune, measure and report."""
    options = parse_arguments(__doc__ or "", arguments, add_options, rounds=3)
    for name, value in (QUICK if options.quick else {"workload": "20x256"}).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    check_part(SCRIPT, options)
    if measured := measure(options):
        report("time_to_accuracy", options, measured)


if __name__ == "__main__":
    main()

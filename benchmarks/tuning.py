"""Each contender's learning rate, schedule and number of steps, chosen on the part of the training set that is held out.

Each candidate is trained once, with seed 0. The courses are kept in a file where one is named, after each training, so that a
tuning that was ended early goes on where it was, and a later measurement need not tune again. Nothing here sees the test set.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from courses import Course, Point, lowest_error
from harness import UnavailableError, chosen_from, listed, positive, refuse
from rich.console import Console
from training import Locked, Racer, Setting, Training
from workloads import Workload

from async_dni import SCHEDULES
from async_dni.foundation.cores import usable_cores
from async_dni.record.run_dir import write_json

Courses = dict[Setting, list[Course]]  # on the part held out, of one round; none of a contender that has no choice


class Tuning:
    """Courses of candidates, and the file that keeps them."""

    def __init__(self, training: Training, path: Path | None) -> None:
        self.training, self.path = training, path
        self.courses: dict[str, Course] = {}
        if path is not None and path.exists():
            kept = json.loads(path.read_text())["courses"]
            self.courses = {
                key: [Point(step, seconds, math.inf if error is None else error) for step, seconds, error in course]
                for key, course in kept.items()
            }

    def key(self, racer: Racer, setting: Setting) -> str:
        """All that a course depends on. What locked training learns does not depend on threads, but its seconds do."""
        training = self.training
        workload, samples = training.workload, len(training.data.train_set)
        what = f"{workload.name}, {samples} samples, batch {workload.batch_size}, every {training.every}"
        if isinstance(racer, Locked):
            return f"{what}: {racer.plain}: {setting.key}"
        own = ", ".join(f"{name}={value}" for name, value in sorted(racer.settings.items()))
        return f"{what}: {own}, {racer.workers} workers: {setting.key}"

    def course(self, racer: Racer, setting: Setting) -> Course:
        """Of one training, the file's where it is there."""
        key = self.key(racer, setting)
        if key not in self.courses:
            self.courses[key] = racer.train(self.training, setting, 0)
            if self.path is not None:
                write_json(self.path, {"tuned_on": "held out of the training set, seed 0", "courses": self._as_lists()})
        return self.courses[key]

    def _as_lists(self) -> dict[str, list[list[float | None]]]:
        return {
            key: [[point.step, point.seconds, point.error if math.isfinite(point.error) else None] for point in course]
            for key, course in self.courses.items()
        }


def candidates(
    rates: Sequence[float], schedules: Sequence[str], steps: Sequence[int], times: Sequence[float | None] = (None,)
) -> list[Setting]:
    """All that may be chosen. A constant rate does not depend on how long it goes on, so it has the most steps only."""
    return [
        Setting(lr, schedule, count, each)
        for schedule in schedules
        for lr in rates
        for count in ([max(steps)] if schedule == "constant" else steps)
        for each in times
    ]


def candidates_of(racer: Racer, options: argparse.Namespace, workload: Workload, steps: Sequence[int]) -> list[Setting]:
    """A contender's, as the options say."""
    rates = options.learning_rates or workload.learning_rates
    if racer.is_locked:
        rates = options.locked_learning_rates or rates
    times = options.synthesizer_lr if racer.has_models else (None,)
    return candidates(rates, options.schedules or ["constant", "onecycle"], steps, times)


def tune(
    tuning: Tuning,
    field: Mapping[str, tuple[Racer, Sequence[Setting]]],
    seconds: float,
    always: Collection[str] = (),
) -> tuple[dict[str, Courses], dict[str, str]]:
    """Train each contender with each of its candidates, in turn, and say what came of it; then who can't be trained, and why.

    After so many seconds no more are begun, but for a contender's first; that is said. A contender that has no choice is not
    trained, unless it is in `always`.
    """
    console, began = Console(stderr=True), time.monotonic()
    found: dict[str, Courses] = {name: {} for name in field}
    missing: dict[str, str] = {}
    for turn in range(max(len(settings) for _, settings in field.values())):
        for name, (racer, settings) in field.items():
            if turn >= len(settings) or name in missing:
                continue
            setting = settings[turn]
            if len(settings) == 1 and name not in always:
                found[name][setting] = []  # nothing to choose
                continue
            said = f"tuning: {name}, {setting.key}"
            late = time.monotonic() - began > seconds and (turn or not seconds)
            if late and tuning.key(racer, setting) not in tuning.courses:
                console.print(f"{said}: left out, for the time", highlight=False, markup=False, soft_wrap=True)
                continue
            try:
                course = tuning.course(racer, setting)
            except UnavailableError as reason:
                missing[name] = str(reason)
                continue
            found[name][setting] = [course]
            unit = tuning.training.workload.unit
            last = f"{course[-1].error:.2f} {unit} at the end, {course[-1].seconds:.1f} s" if course else "came apart"
            console.print(
                f"{said}: {lowest_error(course):.2f} {unit} at best, {last}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
    missing |= {name: "not tuned" for name, courses in found.items() if not courses and name not in missing}
    return {name: courses for name, courses in found.items() if name not in missing}, missing


def as_tuned(options: argparse.Namespace, field: Mapping[str, tuple[Racer, Sequence[Setting]]]) -> dict[str, Any]:
    """How contenders were tuned and measured, for the JSON file."""
    return {
        "tuned_on": "the end of the training set, held out then; measured: trained on all of it",
        "candidates": {name: [setting.key for setting in settings] for name, (_, settings) in field.items()},
        "seeds": list(range(options.rounds)),
        "optimizer": "fused Adam",
        "cores": usable_cores(),
    }


def add_tuning_options(parser: argparse.ArgumentParser) -> None:
    """What tries and chooses."""
    numbers, counts = listed(positive(float)), listed(positive(int))
    parser.add_argument("--learning-rates", type=numbers, metavar="NUMBERS", help="candidates; default: the workload's")
    parser.add_argument(
        "--locked-learning-rates", type=numbers, metavar="NUMBERS", help="of one process; default: as the others'"
    )
    schedules = chosen_from(list(SCHEDULES))
    parser.add_argument(
        "--schedules", type=schedules, metavar="NAMES", help="candidates, of everyone; default: constant,onecycle"
    )
    parser.add_argument("--steps", type=counts, metavar="N,N,…", help="batches to train on; default: the workload's")
    parser.add_argument(
        "--tuned",
        type=Path,
        metavar="FILE",
        help="take courses of candidates from here, and add those that are missing",
    )
    parser.add_argument(
        "--part",
        choices=("tune", "measure"),
        help="tune only, into --tuned; or measure, with what --tuned has, and no more tuning; default: both",
    )
    parser.add_argument(
        "--tuning-seconds",
        type=positive(float),
        default=math.inf,
        metavar="S",
        help="begin no more candidates after so long, but for each contender's first",
    )
    parser.add_argument(
        "--synthesizer-lr",
        type=numbers,
        metavar="TIMES",
        default=[2.0],
        help="candidates for the learning rate of synthesizers, and of auxiliary heads, times the layers'; default: 2",
    )


def check_part(script: str, options: argparse.Namespace) -> None:
    """End where the part that is asked for needs a file that isn't named, or there."""
    if options.part is not None and options.tuned is None:
        refuse(script, "--part", options.part, "with --tuned FILE")
    if options.part == "measure" and not options.tuned.exists():
        refuse(script, "--tuned", options.tuned, "with --part measure, a file that --part tune has written")
    if options.part == "measure":
        options.tuning_seconds = 0.0

"""How good is a network after so many steps, by each method and number of workers, each at its best learning rate and schedule?

The same workload, batches, initial weights, seeds, number of steps and optimizer (fused Adam) for all (--workload). Ours are in
processes of their own and run free, so the same seed's error varies a little; `backprop` is locked training in the same workers,
`locked` in one process: what they learn is the same, but for rounding.

Each contender's rate and schedule are chosen by one training each, on a part of the training set that is held out; the test set
is not looked at. --tuned FILE keeps these courses (time_to_accuracy.py's, too, where --eval-every-steps is the same). Then each,
as it was chosen, is trained on the whole training set, a seed a round, and evaluated once, on the test set. The difference to
--beside is taken seed by seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial

from case import Case, Metric
from courses import Course, last_error
from field import add_field_options, field_of, loaded
from harness import parse_arguments, positive, report, take_turns
from training import Setting, Training
from tuning import Tuning, add_tuning_options, as_tuned, candidates_of, check_part, tune
from workloads import Workload

SCRIPT = "error_at_steps.py"
BEGINNINGS = ("cdni (", "local (", "delayed (", "backprop (")  # where nothing else is asked for
BESIDE = "backprop ("
SECONDS = Metric("training", "s")


def choose(
    tuned: Mapping[str, Mapping[Setting, Sequence[Course]]],
) -> dict[str, Setting]:
    """Each contender's setting with the lowest error at the end, on the part held out."""
    return {
        name: min(courses, key=lambda setting: last_error(courses[setting][0]) if courses[setting] else 0.0)
        for name, courses in tuned.items()
    }


def cases_of(
    workload: Workload, settings: dict, found: Mapping[str, Sequence[Course]], beside: str, missing: Mapping[str, str]
) -> list[Case]:
    """Errors, what they are beside another contender's, and seconds. A contender that came apart is missing, in all."""
    name = f"{workload.name}, batch {workload.batch_size}: after {settings['steps']} steps"
    error = Metric(workload.figure, workload.unit)
    gone = {key: f"came apart in {sum(not c for c in rounds)} of {len(rounds)} rounds" for key, rounds in found.items()}
    gone = {**missing, **{key: why for key, why in gone.items() if not all(found[key])}}
    ends = {key: [course[-1] for course in rounds] for key, rounds in found.items() if all(rounds)}
    errors = {key: [point.error for point in rounds] for key, rounds in ends.items()}
    cases = [Case(name, error, settings, errors, name, missing=gone)]
    if (other := next((key for key in errors if key.startswith(beside)), None)) is not None:
        less = {
            key: [a - b for a, b in zip(rounds, errors[other], strict=True)]
            for key, rounds in errors.items()
            if key != other
        }
        if less:
            cases.append(Case(name, Metric(f"{error.name} less that of {other}", error.unit), settings, less, name))
    cases.append(
        Case(name, SECONDS, settings, {key: [p.seconds for p in rounds] for key, rounds in ends.items()}, name)
    )
    return cases


def measure(options: argparse.Namespace) -> list[Case]:
    """Tune, then measure."""
    workload, data = loaded(options)
    field = field_of(SCRIPT, options, workload, data, BEGINNINGS)
    steps = (options.steps or [workload.steps])[0]
    every = options.eval_every_steps or steps
    entries = {name: (one, candidates_of(one, options, workload, [steps])) for name, one in field.items()}
    tuning = Tuning(Training(workload, data.held_out(), every), options.tuned)
    tuned, missing = tune(tuning, entries, options.tuning_seconds)
    if options.part == "tune":
        return []
    chosen = choose(tuned)
    for name, setting in chosen.items():
        print(f"chosen: {name}: {setting.key}")
    training = Training(workload, data, every)
    turns = {s.named(name): partial(field[name].train, training, s) for name, s in chosen.items()}
    found = take_turns(workload.name, turns, options.rounds)
    settings = {
        **workload.settings(),
        "steps": steps,
        "chosen": {name: setting.key for name, setting in chosen.items()},
        **as_tuned(options, entries),
    }
    return cases_of(workload, settings, found, options.beside, missing)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    add_field_options(parser, BEGINNINGS)
    parser.add_argument(
        "--beside", default=BESIDE, metavar="NAME", help=f"the beginning of a contender's name; default: {BESIDE}"
    )
    parser.add_argument(
        "--eval-every-steps", type=positive(int), metavar="N", help="keep snapshots, as a race does; default: none"
    )
    add_tuning_options(parser)


QUICK = {"workload": "3x256", "steps": [40], "learning_rates": [1e-3], "schedules": ["constant"]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune, measure and report."""
    options = parse_arguments(__doc__ or "", arguments, add_options, rounds=3)
    for name, value in (QUICK if options.quick else {"workload": "20x256"}).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    check_part(SCRIPT, options)
    if measured := measure(options):
        report("error_at_steps", options, measured)


if __name__ == "__main__":
    main()

"""What the benchmarks share: contenders measured in rounds, and what is printed, plotted and written of them.

    warm-up: A B C     round 1: A B C     round 2: A B C     …

Machines drift, so contenders are interleaved, and a ratio is taken within each round. Everything in the table, the plot
and the JSON file is measured, but for what a case keeps under `formulas` and `published`, and is labelled so.

The JSON file: `benchmark`, `environment`, and `cases`, a list of

    name, metric, settings    what was measured, and how
    contenders                {name: {unit, median, min, max, rounds}}, `rounds` in the order of time
    ratios                    {"a / b": {median, min, max, rounds}}, round by round
    formulas                  {name: {unit, value}}: computed, not measured (most cases have none)

and, in the cases that have any,

    published                 {name: {unit, value, source}}: what others report of what a contender of that name repeats
    missing                   {name: reason}: contenders without a number
    curves                    {name: [[[seconds, value], …] of each round]}: the metric over the time of training
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import checkout  # noqa: F401  (it finds the package)
import torch
from case import Case, Measured, cases, spread
from rich.console import Console
from rich.table import Table
from torch.utils.data import Dataset

from async_dni import Trainer, TrainResult
from async_dni.record.run_dir import environment, write_json

WIDTH = 140  # of what is printed into a file

T = TypeVar("T")
K = TypeVar("K")


@dataclass(frozen=True)
class Contender:
    """Who is measured: each call of `measure` starts afresh. What `warm_up` returns is thrown away."""

    name: str
    measure: Callable[[], Measured]
    warm_up: Callable[[], object] | None = None
    family: str | None = None  # of contenders that only differ in a setting: see `compare`


class UnavailableError(Exception):
    """A contender can't be measured here; says why, in a few words."""


def parse_arguments(
    description: str,
    arguments: Sequence[str] | None,
    add: Callable[[argparse.ArgumentParser], None] | None = None,
    rounds: int = 5,
) -> argparse.Namespace:
    """The options that every benchmark has, and those that `add` adds. `description` is the script's docstring.

    `rounds`: how many there are by default.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small cases and few rounds, in under a minute")
    rounds_help = f"rounds after the warm-up, where there is one; default: {rounds}, with --quick 1"
    parser.add_argument("--rounds", type=int, metavar="N", help=rounds_help)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a plot here (needs matplotlib)")
    if add is not None:
        add(parser)
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = 1 if options.quick else rounds
    if options.rounds < 1:
        parser.error(f"--rounds: got {options.rounds}; allowed: at least 1")
    for name, path in (("--json", options.json), ("--plot", options.plot)):  # now, and not when all is measured
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"{name}: got {path}; allowed: a file in a directory that exists")
    if options.plot is not None and find_spec("matplotlib") is None:
        parser.error("--plot: matplotlib is not installed; it comes with requirements-dev.txt")
    return options


def positive(kind: Callable[[str], T]) -> Callable[[str], T]:
    """A type for `add_argument`: a number above 0."""

    def number(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not value > 0:  # type: ignore[operator]
            raise argparse.ArgumentTypeError(f"got {text}; allowed: a number above 0")
        return value

    return number


def listed(kind: Callable[[str], T]) -> Callable[[str], list[T]]:
    """A type for `add_argument`: values separated by commas."""

    def values(text: str) -> list[T]:
        return [kind(item.strip()) for item in text.split(",")]

    return values


def chosen_from(names: Sequence[str]) -> Callable[[str], list[str]]:
    """A type for `add_argument`: those of `names` that begin with one of the words, which commas separate."""

    def chosen(text: str) -> list[str]:
        beginnings = tuple(word.strip() for word in text.split(","))
        for beginning in beginnings:
            if not any(name.startswith(beginning) for name in names):
                raise argparse.ArgumentTypeError(f"got {beginning}; allowed: {', '.join(names)}")
        return [name for name in names if name.startswith(beginnings)]

    return chosen


def take_turns(name: str, contenders: Mapping[K, Callable[[int], T]], rounds: int) -> dict[K, list[T]]:
    """What each contender returns in each round; it is called with the round's number, from 0: a seed.

    Who has had its turn, and for how long, is said on standard error.
    """
    results: dict[K, list[T]] = {contender: [] for contender in contenders}
    console = Console(stderr=True)
    with console.status(name, refresh_per_second=1) as status:
        for number in range(rounds):
            for contender, measure in contenders.items():
                turn, began = f"{name}: round {number + 1} of {rounds}: {contender}", time.monotonic()
                status.update(turn)
                results[contender].append(measure(number))
                console.print(
                    f"{turn}: {time.monotonic() - began:.1f} s", highlight=False, markup=False, soft_wrap=True
                )
    return results


def refuse(script: str, option: str, given: object, allowed: str) -> NoReturn:
    """End as argparse does, where an option turns out wrong beside others."""
    print(f"{script}: error: {option}: got {given}; allowed: {allowed}", file=sys.stderr)
    sys.exit(2)


def add_name_options(parser: argparse.ArgumentParser) -> None:
    """Which contenders are measured."""
    only, but = "contenders whose name begins so; may be repeated; default: all", "leave out those; may be repeated"
    parser.add_argument("--only", action="append", metavar="NAME", help=only)
    parser.add_argument("--except", dest="but", action="append", default=[], metavar="NAME", help=but)


def chosen_names(script: str, names: Sequence[str], only: Sequence[str] | None, but: Sequence[str]) -> list[str]:
    """Those that begin as `only` says, if it says anything, and not as `but` says; ends the program where one has none."""
    for option, starts in (("--only", only or ()), ("--except", but)):
        for start in starts:
            if not any(name.startswith(start) for name in names):
                refuse(script, option, start, f"the beginning of {', '.join(names)}")
    chosen = [name for name in names if only is None or name.startswith(tuple(only))]
    return [name for name in chosen if not name.startswith(tuple(but))]


def compare(
    name: str,
    settings: dict[str, Any],
    contenders: Sequence[Contender],
    rounds: int,
    reference: str | None = None,
    panel: str | None = None,
    warm_up: bool = True,
    best_of_families: bool = False,
) -> list[Case]:
    """Measure contenders in rounds; a case for each metric, with the ratio of `reference` to each other contender.

    `panel`: the title of the plot's panel that the cases share; their name by default. `warm_up`: False where none
    is needed, or it is to be seen that all works, and no more. `best_of_families`: after the warm-up, only the fastest of
    each family goes on; their warm-ups return a speed. Those that are `UnavailableError`, and those that stay behind, are
    missing in the first case, with the reason.
    """
    missing: dict[str, str] = {}
    if warm_up:
        first = {
            one.name: partial(_unless_missing, missing, one.name, one.warm_up or one.measure) for one in contenders
        }
        speeds = {key: found[0] for key, found in take_turns(f"{name}: warm-up", first, 1).items()}
        if best_of_families:
            missing |= slower(contenders, {key: speed for key, speed in speeds.items() if speed is not None})
    turns = {
        one.name: partial(_unless_missing, missing, one.name, one.measure)
        for one in contenders
        if one.name not in missing
    }
    results = take_turns(name, turns, rounds)
    measured = cases(
        name, settings, {key: each for key, each in results.items() if key not in missing}, reference, panel
    )
    if missing and measured:
        measured[0].missing = missing
    return measured


def slower(contenders: Sequence[Contender], speeds: Mapping[str, Any]) -> dict[str, str]:
    """Those that another of their family left behind, and how."""
    best: dict[str, str] = {}
    for one in contenders:
        if one.family is not None and one.name in speeds:
            other = best.setdefault(one.family, one.name)
            best[one.family] = max(one.name, other, key=lambda each: speeds[each])
    behind = [one for one in contenders if one.name in speeds and best.get(one.family or "", one.name) != one.name]
    return {
        one.name: f"slower than {best[one.family or '']} in the warm-up: {_number(speeds[one.name])}" for one in behind
    }


def _unless_missing(missing: dict[str, str], name: str, measure: Callable[[], Any], number: int) -> Any:
    """What is measured; None where the contender is, or turns out to be, unavailable."""
    if name in missing:
        return None
    try:
        return measure()
    except UnavailableError as reason:
        missing[name] = str(reason)
        return None


def report(
    benchmark: str,
    options: argparse.Namespace,
    measured: Sequence[Case],
    x: str | None = None,
    log2: bool = False,
    drawn: Sequence[Case] | None = None,
) -> None:
    """Print what was measured, and write the files that were asked for.

    `drawn`: the cases that the plot shows, by default all. `x`: the setting that the plot has on its horizontal axis (in
    powers of 2 where `log2`); without one it shows a bar a contender. Where cases have curves, it shows these, and
    nothing else.
    """
    machine = {
        **environment(),
        "threads": torch.get_num_threads(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }
    content = {
        "benchmark": benchmark,
        "environment": {**machine, "command": sys.argv},
        "cases": [case.as_dict() for case in measured],
    }
    check(content)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    for name in dict.fromkeys(case.name for case in measured):
        console.print(_table(name, [case for case in measured if case.name == name]))
    for key, value in machine.items():
        console.print(f"{key}: {value}", markup=False, highlight=False)
    if options.json is not None:
        write_json(options.json, content)
    if options.plot is not None:
        from plotting import plot  # matplotlib is needed for this only

        plot(options.plot, measured if drawn is None else drawn, x, log2)


def _table(name: str, measured: Sequence[Case]) -> Table:
    reference = next((case.reference for case in measured if case.reference is not None), None)
    table = Table(title=name, title_justify="left")
    for column in ("metric", "contender", "unit"):
        table.add_column(column)
    for column in ("median", "min", "max", *([] if reference is None else [f"{reference} / it"])):
        table.add_column(column, justify="right")
    if any(case.published for case in measured):
        table.add_column("published", justify="right")
        table.add_column("source of what is published", min_width=30)
    for case in measured:
        metric, unit = case.metric.title, case.metric.unit
        ratios = {name: _spread(rounds, ".3f") for name, rounds in case.ratios.items()}
        for contender, rounds in case.rounds.items():
            row = [metric, contender, unit, *_spread(rounds)]
            if reference is not None:
                ratio = ratios.pop(f"{reference} / {contender}", None)
                row.append("" if ratio is None else f"{ratio[0]} ({ratio[1]} to {ratio[2]})")
            if contender in case.published:
                figure = case.published[contender]
                row += [_number(figure.value), figure.source]
            table.add_row(*row)
        for contender, reason in case.missing.items():
            table.add_row(metric, contender, unit, reason)
        for formula, value in case.formulas.items():
            table.add_row(metric, f"{formula} (formula)", unit, _number(value))
        for label, ratio in ratios.items():
            table.add_row(metric, label, "ratio", *ratio)
    return table


def _spread(rounds: Sequence[float], format: str | None = None) -> list[str]:
    """Median, minimum and maximum, for a person."""
    numbers = spread(rounds)
    values = [numbers[key] for key in ("median", "min", "max")]
    return [_number(value) if format is None else f"{value:{format}}" for value in values]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def check(content: Any) -> None:
    """Hold the content of a JSON file to the schema in this module's text. Raises `ValueError`, naming the place."""
    _expect(content, {"benchmark": str, "environment": dict, "cases": list}, "the file")
    wanted = {"python": str, "torch": str, "platform": str, "processor": str, "cores": int, "threads": int}
    _expect(content["environment"], wanted, "environment")
    if not content["cases"]:
        raise ValueError("cases: there are none")
    for case in content["cases"]:
        keys = {"name": str, "metric": str, "settings": dict, "contenders": dict, "ratios": dict, "formulas": dict}
        _expect(case, keys, "a case")
        numbers = {"median": float | int, "min": float | int, "max": float | int, "rounds": list}
        lengths = set()
        for kind, more in (("contenders", {"unit": str}), ("ratios", {})):
            for name, measured in case[kind].items():
                where = f"{case['name']}, {kind}, {name}"
                _expect(measured, {**numbers, **more}, where)
                _check_spread(measured, where)
                lengths.add(len(measured["rounds"]))
        if len(lengths) != 1 and (lengths or not case.get("missing")):
            raise ValueError(f"{case['name']}: every contender and ratio needs the same number of rounds: {lengths}")
        for name, formula in case["formulas"].items():
            _expect(formula, {"unit": str, "value": float | int}, f"{case['name']}, formulas, {name}")
        for name, figure in case.get("published", {}).items():
            where = f"{case['name']}, published, {name}"
            _expect(figure, {"unit": str, "value": float | int, "source": str}, where)
            if name not in case["contenders"]:
                raise ValueError(f"{where}: there is no such contender")
        for name in set(case.get("missing", {})) & set(case["contenders"]):
            raise ValueError(f"{case['name']}, missing, {name}: it has a number")


def _expect(content: Any, keys: Mapping[str, Any], where: str) -> None:
    for key, kind in keys.items():
        if key not in content or not isinstance(content[key], kind):
            raise ValueError(f"{where}: {key!r} should be {kind}, got {content.get(key)!r}")


def _check_spread(measured: Mapping[str, Any], where: str) -> None:
    rounds = measured["rounds"]
    if not rounds or not all(math.isfinite(value) for value in rounds):
        raise ValueError(f"{where}: rounds should be finite numbers, got {rounds}")
    if spread(rounds) != {key: measured[key] for key in ("median", "min", "max", "rounds")}:
        raise ValueError(f"{where}: median, min or max are not those of the rounds")


def fit(trainer: Trainer, data: Dataset, steps: int, eval_set: Dataset | None = None) -> TrainResult:
    """Train to the end. Ctrl-C, which ends a run early, ends the benchmark; so does a worker that was restarted."""
    result = trainer.fit(data, steps=steps, eval_set=eval_set)
    if result.interrupted_by is not None:
        raise KeyboardInterrupt
    if restarts := sum(worker["restarts"] for worker in result.summary["workers"]):
        raise RuntimeError(f"workers were restarted {restarts} times, so nothing was measured")
    return result

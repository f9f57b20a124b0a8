"""How good is what comes out: our error, beside what was published of the same experiments, and our own aims.

  lua-…            kbullaughey/dni-synthetic-gradients, the reproduction in Lua Torch that this project grew out of.
                   Figures and settings are its README's: 32x32 images, batches of 250. Of its two baselines that gives a
                   training error, which its scripts count while the epoch goes on; ours is the trained network's
  paper-…          arXiv 1608.05343, fully connected nets of 3 to 6 layers, batches of 256, Adam at 3e-5 (as recalled: the
                   paper lowers the rate twice on the way, here it stays)
  cdni-…, dni-3    what we aim at, on MNIST, as all above
  cnn-…, cnn6-…, resnet-…, transformer-…   workloads of the other benchmarks by each method, at the rate that was tuned for it on
                   held-out training data (error_at_steps.py); Fashion-MNIST, and a text of characters

A row is a whole training, asynchronous but for backprop, with every layer in a worker of its own in the rows of MNIST, and free
running unless the row has a lag: the same seed's error varies a little from run to run. A seed a round. `--list` prints the rows.
With --steps or --lr, published figures stand beside another training than theirs; the title says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from case import Case, Measured, Metric, cases, spread
from experiments import ROWS, SHORT, Row
from harness import WIDTH, chosen_from, fit, parse_arguments, positive, report, take_turns
from rich.console import Console
from rich.table import Table
from workloads import Data, add_data_options

ERROR, TRAINING_ERROR, SECONDS = Metric("test error", "%"), Metric("training error", "%"), Metric("training", "s")


def train(row: Row, data: Data, seed: int) -> Measured:
    """A training."""
    result = fit(row.trainer(data, seed), data.train_set, row.steps)
    measured = {row.figure: row.workload.evaluate(result.model, data.test_set)}
    if row.of_training_set:
        measured[TRAINING_ERROR] = row.workload.evaluate(result.model, data.train_set)
    return {**measured, SECONDS: result.summary["wall_seconds"]}


def measure(rows: Mapping[str, Row], options: argparse.Namespace, overridden: str) -> list[Case]:
    """The rows in turn, a seed a round. `overridden`: what the title adds where a row is not trained as it stands."""
    sources = {row.data: row for row in rows.values()}
    data = {name: row.load(options.fashion, options.text) for name, row in sources.items()}
    turns = {name: partial(train, row, data[row.data]) for name, row in rows.items()}
    results = take_turns("accuracy", turns, options.rounds)
    settings = {"seeds": list(range(options.rounds)), "rows": {name: row.settings() for name, row in rows.items()}}
    measured = cases(f"whole trainings{overridden}", settings, results)
    for case in measured:
        for name, row in rows.items():
            of = TRAINING_ERROR if row.of_training_set else ERROR
            if row.published is not None and case.metric == of:
                case.published[name] = row.published
    return measured


def print_aims(rows: Mapping[str, Row], measured: Sequence[Case]) -> None:
    """Whether the median of all rounds is what we aim at, of the rows that were trained for as long as we aim at."""
    console = Console()
    errors = {name: rounds for case in measured if case.metric == ERROR for name, rounds in case.rounds.items()}
    for name, row in rows.items():
        if row.aim is not None and row.steps == ROWS[name].steps:
            median = spread(errors[name])["median"]
            verdict = "met" if median <= row.aim else "missed"
            console.print(f"{name}: {median:.2f} %, aim at most {row.aim:g} %: {verdict}", highlight=False)


def print_rows() -> None:
    """All rows there are."""
    columns = ("row", "method", "network", "optimizer", "steps", "our aim, %", "published, %", "source")
    table = Table(*columns)
    for name, row in ROWS.items():
        aim = "" if row.aim is None else f"{row.aim:g}"
        theirs = [] if row.published is None else [f"{row.published.value:g}", row.published.source]
        table.add_row(name, row.method, *row.describe(), f"{row.steps:,}", aim, *theirs)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)


def choose(options: argparse.Namespace) -> tuple[dict[str, Row], str]:
    """The rows, with what options override, and how the title says so."""
    changes = {name: getattr(options, name) for name in ("steps", "lr") if getattr(options, name) is not None}
    rows = {name: replace(ROWS[name], **changes) for name in options.rows}
    said = " and ".join(f"{name} {value:,}" for name, value in changes.items())
    return rows, said and f", {said} in place of each row's own"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    parser.add_argument(
        "--rows",
        type=lambda text: list(ROWS) if text == "all" else chosen_from(list(ROWS))(text),
        default=SHORT,
        metavar="NAMES",
        help=f"the beginnings of their names, separated by commas, or all; default: {','.join(SHORT)}",
    )
    parser.add_argument("--list", action="store_true", help="print all rows, and train nothing")
    parser.add_argument("--steps", type=positive(int), metavar="N", help="in place of each row's own; with --quick 40")
    parser.add_argument(
        "--lr", type=positive(float), metavar="NUMBER", help="learning rate, in place of each row's own"
    )
    add_data_options(parser)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse_arguments(__doc__ or "", arguments, add_options, rounds=3)
    if options.list:
        print_rows()
        return
    if options.quick and options.steps is None:
        options.steps = 40
    rows, overridden = choose(options)
    measured = measure(rows, options, overridden)
    report("accuracy", options, measured)
    print_aims(rows, measured)


if __name__ == "__main__":
    main()

"""`compare A B …`: settings that differ; how good the runs were at equal steps and at equal seconds."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..foundation.error import ConfigError
from ..record.reading.run_reader import RunReader
from ..view.comparison import Row, at_equal, differing, outcomes
from ..view.report.page import comparisons, named
from .command import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs."""
    parser.add_argument("path", type=Path, metavar="A", help="a run directory")
    parser.add_argument("others", type=Path, nargs="+", metavar="B", help="others to hold it beside")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="error and loss at equal steps and seconds, as a table"
    )


def show(options: argparse.Namespace, console: Console) -> None:
    """Print the tables."""
    runs = [RunReader(path) for path in (options.path, *options.others)]
    names = list(named(runs))
    console.print(_table(names, outcomes(runs)))
    rows = differing(runs)
    console.print("\nsettings that differ" if rows else "\nno setting differs")
    if rows:
        console.print(_table(names, rows))
    for title, rows in comparisons(runs):
        if rows:
            console.print(f"\n{title}", highlight=False)
            console.print(_table(names, rows))
    if options.csv is not None:
        _write(options.csv, names, runs)
    for name, run in zip(names, runs, strict=True):
        for note in run.notes:
            console.print(Text(f"note: {name}: {note}", style="yellow"), soft_wrap=True)


def _table(names: Sequence[str], rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", *names):
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(row.name, *(Text("" if value is None else _shown(value)) for value in row.values))
    return table


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write(path: Path, names: Sequence[str], runs: Sequence[RunReader]) -> None:
    try:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["figure", "by", "at", *names])
            for figure in ("test_error", "test_loss"):
                for by in ("step", "wall_seconds"):
                    writer.writerows([figure, by, row.name, *row.values] for row in at_equal(runs, by, figure))
    except OSError as error:
        raise ConfigError("csv", path, f"it can't be written ({error.strerror}); allowed: a file") from None


COMPARE = Command("compare", "runs beside each other", add_arguments, show)

"""`runs [DIR]`: the runs in a directory."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..foundation.error import ConfigError
from ..record.reading.run_reader import RunReader
from .command import Command

COLUMNS: dict[str, Callable[[RunReader], Any]] = {
    "run": lambda run: run.path.name,
    "method": lambda run: run.config.get("method"),
    "network": lambda run: run.config.get("model") or "its own",
    "data": lambda run: run.config.get("data") or run.config.get("dataset") or "its own",
    "workers": lambda run: run.num_workers,
    "steps": lambda run: run.step,
    "error": lambda run: (run.summary or (run.evaluations or [{}])[-1]).get("test_error"),
    "samples/s": lambda run: (run.summary or {}).get("samples_per_second"),
    "seconds": lambda run: (run.summary or (run.evaluations or [{}])[-1]).get("wall_seconds"),
    "state": lambda run: run.state,
    "began": lambda run: run.began,
}
LEFT = ("run", "method", "network", "data", "state")
# one after the other, where there is no room
LEFT_OUT = ("began", "steps", "data", "network", "seconds", "workers", "samples/s")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where, which and in what order."""
    parser.add_argument("path", type=Path, nargs="?", default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument("--sort", default="began", metavar="COLUMN", help=f"by {', '.join(COLUMNS)}; default: began")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument(
        "--filter", action="append", default=[], metavar="COLUMN=VALUE", help="those only; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON a run")


def show(options: argparse.Namespace, console: Console) -> None:
    """Print them."""
    if options.sort not in COLUMNS:
        raise ConfigError("sort", options.sort, f"allowed: {', '.join(COLUMNS)}")
    wanted = [_wanted(text) for text in options.filter]
    rows = [{name: of(run) for name, of in COLUMNS.items()} | {"notes": run.notes} for run in runs_in(options.path)]
    rows = [row for row in rows if all(_shown(name, row[name]) == value for name, value in wanted)]
    there = [row for row in rows if row[options.sort] is not None]
    there.sort(key=lambda row: row[options.sort], reverse=options.reverse)
    rows = there + [row for row in rows if row[options.sort] is None]
    if options.json:
        console.print(
            "\n".join(map(json.dumps, rows)), markup=False, highlight=False, soft_wrap=True, end="\n" * bool(rows)
        )
        return
    console.print(_fitting(rows, console))
    if any(row["notes"] for row in rows):
        console.print(Text("!: some of it could not be read; `report` and `watch` say what", style="yellow"))


def runs_in(path: Path) -> list[RunReader]:
    """Those in a directory; raises `ConfigError` where that can't be read, or is no directory."""
    try:
        folders = sorted(each for each in path.iterdir() if each.is_dir())
    except OSError as error:
        raise ConfigError("path", path, f"it can't be read ({error.strerror}); allowed: a directory of runs") from None
    found = []
    for folder in folders:
        try:
            found.append(RunReader(folder, latest=True))
        except ConfigError:
            pass  # no run
    return found


def _wanted(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in COLUMNS:
        raise ConfigError("filter", text, f"allowed: COLUMN=VALUE, with a column of {', '.join(COLUMNS)}")
    return name, value


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "began":
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(value))
    formats = {"error": "{:.2f}", "samples/s": "{:,.0f}", "seconds": "{:,.1f}"}
    return formats.get(name, "{}").format(value)


def _fitting(rows: list[dict[str, Any]], console: Console) -> Table:
    """As many columns as there is room for."""
    options = console.options.update(max_width=10_000)
    for left_out in range(len(LEFT_OUT) + 1):
        table = Table(box=None, pad_edge=False, header_style="bold")
        names = [name for name in COLUMNS if name not in LEFT_OUT[:left_out]]
        for name in names:
            table.add_column(name, justify="left" if name in LEFT else "right", no_wrap=True)
        for row in rows:
            cells = [_shown(name, row[name]) for name in names]
            cells[0] += " !" if row["notes"] else ""
            table.add_row(*map(Text, cells))
        if console.measure(table, options=options).maximum <= console.width:
            break
    return table


RUNS = Command("runs", "the runs in a directory", add_arguments, show)

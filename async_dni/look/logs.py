"""`logs RUN_DIR`: what the workers wrote, and what happened to the run, by time."""

from __future__ import annotations

import argparse
import time
from datetime import datetime

from rich.console import Console
from rich.text import Text

from ..foundation.error import ConfigError
from ..record.logs.line import LEVELS, Line
from ..record.logs.merged import MergedLogs
from ..record.reading.run_reader import RunReader
from .command import Command, add_run_dir

INTERVAL = 0.3  # seconds between looks
STYLES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red", "DEBUG": "dim"}
WORKER_STYLES = ("cyan", "magenta", "green", "blue")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which lines."""
    add_run_dir(parser)
    parser.add_argument("--worker", type=int, action="append", metavar="K", help="of that one; may be repeated")
    parser.add_argument("--level", default="INFO", metavar="LEVEL", help=f"from {', '.join(LEVELS)} on; default: INFO")
    parser.add_argument("--follow", action="store_true", help="go on until the run ends")
    parser.add_argument("--since", type=int, default=0, metavar="STEP", help="from that batch on; of all: the default")


def show(options: argparse.Namespace, console: Console) -> None:
    """Print them."""
    run = RunReader(options.path)
    level = options.level.upper()
    if level not in LEVELS:
        raise ConfigError("level", options.level, f"allowed: {', '.join(LEVELS)}")
    for worker in options.worker or ():
        if worker not in run.records:
            there = ", ".join(map(str, run.records)) or "none"
            raise ConfigError("worker", worker, f"workers of this run: {there}")
    logs = MergedLogs(run, options.worker, level, options.since, LEVELS)
    try:
        while True:
            is_over = not options.follow or run.state != "running"
            for line in logs.more(is_over):
                console.print(as_text(line), soft_wrap=True)
            if is_over:
                break
            time.sleep(INTERVAL)
    except KeyboardInterrupt:
        return
    for note in run.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)


def as_text(line: Line) -> Text:
    """Time, worker, step, level, what happened."""
    when = datetime.fromtimestamp(line.time).strftime("%H:%M:%S.%f")[:-3]
    who = "run     " if line.worker is None else f"worker {line.worker}"
    text = Text(f"{when} ")
    text.append(who, style="bold" if line.worker is None else WORKER_STYLES[line.worker % len(WORKER_STYLES)])
    text.append(f" {line.step:>7} ")
    text.append(f"{line.level:<7} ", style=STYLES.get(line.level, ""))
    return text.append(line.text, style=STYLES.get(line.level, ""))


LOGS = Command("logs", "what workers wrote and what happened, by time", add_arguments, show)

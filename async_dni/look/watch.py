"""`watch RUN_DIR`: the live display of a run of another process, or of one that is over."""

from __future__ import annotations

import argparse
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ..record.reading.run_reader import RunReader
from ..view.drawing import draw
from ..view.state import RunState
from .command import Command, add_run_dir

INTERVAL = 0.5  # seconds between looks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, and whether to look once."""
    add_run_dir(parser)
    parser.add_argument("--once", action="store_true", help="show it as it is now, and end")


def show(options: argparse.Namespace, console: Console) -> None:
    """Draw it until it ends."""
    run = RunReader(options.path)
    is_live = console.is_terminal and not console.is_dumb_terminal and not options.once
    if is_live and run.state == "running":
        with Live(get_renderable=lambda: picture(run, console), console=console, refresh_per_second=2) as live:
            try:
                while run.state == "running":
                    time.sleep(INTERVAL)
                    run.refresh()
            except KeyboardInterrupt:
                live.stop()
                return
    else:
        console.print(picture(run, console))


def picture(run: RunReader, console: Console) -> RenderableType:
    """The display, what is wrong with the directory, and what happened last."""
    told = [event["message"] for event in run.events if event["kind"] in ("warning", "restart")][-3:]
    notes = [Text(f"note: {note}", style="yellow") for note in run.notes]
    return Group(draw(RunState.of(run), console), *(Text(text, style="red") for text in told), *notes)


WATCH = Command("watch", "the live display of a run, from another terminal", add_arguments, show)

"""The program that looks at runs: its parser, and its commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from ..foundation.error import ConfigError
from ..foundation.parser import Parser, cut, one_line
from ..view.output import lasting_output
from .checkpoint import CHECKPOINT
from .compare import COMPARE
from .logs import LOGS
from .report import REPORT
from .runs import RUNS
from .summary import SUMMARY
from .tensorboard import TENSORBOARD
from .trace import TRACE
from .watch import WATCH

COMMANDS = (WATCH, LOGS, REPORT, RUNS, COMPARE, SUMMARY, CHECKPOINT, TRACE, TENSORBOARD)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, print; returns the exit status."""
    with lasting_output("async_dni") as output:
        status = show(arguments)
    return status or int(output.failed)


def show(arguments: Sequence[str] | None) -> int:
    """Parse, print; returns the exit status. Raises `SystemExit` where the parser does."""
    parser = Parser(prog="async_dni", description="Train, and look at runs and their checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    commands.add_parser("train", help="train a network (train --help)")
    for command in COMMANDS:
        command.add_arguments(commands.add_parser(command.name, help=command.help))
    options = parser.parse_args(arguments)
    try:
        next(command for command in COMMANDS if command.name == options.command).run(options, Console())
    except ConfigError as error:
        is_option = error.setting != "path" and hasattr(options, error.setting)
        which = f"--{error.setting.replace('_', '-')}: " if is_option else ""
        text = f"{parser.prog} {options.command}: {which}got {cut(error.shown)}; {error.allowed}"
        print(one_line(text), file=sys.stderr)
        return 2
    return 0

"""What a command that looks at runs says of itself."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console


@dataclass(frozen=True)
class Command:
    """`run` prints; it raises `ConfigError` for a path or an option that can't be used."""

    name: str
    help: str  # a line
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Console], None]


def add_run_dir(parser: argparse.ArgumentParser, what: str = "a run directory") -> None:
    """The argument of commands that are given one run, as `path`."""
    parser.add_argument("path", type=Path, metavar="RUN_DIR", help=what)

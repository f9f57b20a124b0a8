"""`summary RUN_DIR`: what a run came to."""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from ..foundation.error import ConfigError
from ..record.run_dir import RunDir
from ..view.summary import print_summary
from .command import Command, add_run_dir


def show(options: argparse.Namespace, console: Console) -> None:
    """Print summary.json for a person."""
    path = options.path
    run_dir = RunDir(path)
    try:
        print_summary(console, json.loads(run_dir.summary.read_text()), path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            "path", path, f"allowed: the directory of an ended run; {run_dir.summary} can't be read"
        ) from None


SUMMARY = Command("summary", "what a run came to", add_run_dir, show)

"""`trace RUN_DIR`: trace.json.gz once more, of what the workers kept; for a run that was killed."""

from __future__ import annotations

import argparse

from rich.console import Console

from ..foundation.error import ConfigError
from ..record.reading.run_reader import RunReader
from ..record.trace.merge import write_trace
from .command import Command, add_run_dir


def show(options: argparse.Namespace, console: Console) -> None:
    """Write it, and say where it is."""
    run = RunReader(options.path)
    try:
        notes = write_trace(run.run_dir, run.events, run.layers or [[] for _ in range(run.num_workers)])
    except OSError as error:
        allowed = f"its trace can't be written ({error.strerror or error}); allowed: a run with --trace-steps"
        raise ConfigError("path", options.path, allowed) from None
    lines = [*run.notes, *notes, f"{run.run_dir.trace}: open it with https://ui.perfetto.dev or chrome://tracing"]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


TRACE = Command("trace", "write the trace of a run that was killed", add_run_dir, show)

"""`tensorboard RUN_DIR`: a run's records for TensorBoard, afterwards."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from ..foundation.error import ConfigError
from ..record.reading.run_reader import RunReader
from ..view.tensorboard import FOLDER, TensorBoardFile, check_installed
from .command import Command, add_run_dir

TOLD = ("note", "warning", "restart")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, and where to."""
    add_run_dir(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"default: RUN_DIR/{FOLDER}")


def show(options: argparse.Namespace, console: Console) -> None:
    """Write all of it, and say where it is."""
    run = RunReader(options.path)
    check_installed("path", options.path)
    out = options.out or run.path / FOLDER
    if list(out.glob("events.out.tfevents.*")):
        raise ConfigError("out", out, "it has records already, which would be there twice; allowed: another directory")
    try:
        file = TensorBoardFile(out)
        for worker, records in run.records.items():
            for record in records:
                file.record(worker, record)
        began = run.began
        for found in run.evaluations:
            file.evaluation(found, None if began is None else began + found["wall_seconds"])
        for check in run.gradient_checks:
            file.gradient_check(check)
        for event in run.events:
            if event["kind"] in TOLD:
                file.note(event["message"], event.get("step", 0), event["time"])
        file.hyperparameters(run.config, run.evaluations[-1] if run.evaluations else {})
        file.close()
    except OSError as error:
        raise ConfigError("out", out, f"it can't be written ({error.strerror}); allowed: a directory") from None
    lines = [*(f"note: {note}" for note in run.notes), f"{out}: look at it with tensorboard --logdir {out}"]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


TENSORBOARD = Command("tensorboard", "a run's records for TensorBoard", add_arguments, show)

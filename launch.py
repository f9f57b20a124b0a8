"""Train a network in stages, one process each: `python launch.py --workers 3 --device-map`."""

from __future__ import annotations

import atexit
import dataclasses
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, print; returns the exit status, which is 1 also where something could not be written or printed."""
    # Imported here, and below, so that workers, which import this file again, don't load what only the parent needs.
    from async_dni.view.output import lasting_output

    with lasting_output("launch.py") as output:
        try:
            status = run(arguments)
        except SystemExit as exit:  # of the parser
            status = exit.code if isinstance(exit.code, int) else 0
        except KeyboardInterrupt:
            print("launch.py: ended at once; what was trained since the last checkpoint is lost", file=sys.stderr)
            raise
    return status or int(output.failed)


def run(arguments: Sequence[str] | None) -> int:
    """Parse, run, print; returns the exit status."""
    import torch
    from rich.console import Console

    from async_dni import (
        ConfigError,
        DataError,
        DivergenceError,
        ExperimentConfig,
        Trainer,
        TrainerConfig,
        WorkerError,
        load_dataset,
    )
    from async_dni.cli import load_plugins, make_model, make_optimizer, make_parser, named_plugins, parse, refuse
    from async_dni.record.progress import Progress
    from async_dni.view.live import LiveProgress
    from async_dni.view.plain import PlainProgress
    from async_dni.view.summary import print_summary

    console = Console()
    try:
        load_plugins(named_plugins(arguments))
    except ConfigError as error:
        return refuse("launch.py", error)
    parser = make_parser("launch.py", TrainerConfig, ExperimentConfig)
    try:
        config, experiment = parse(parser, arguments, TrainerConfig, ExperimentConfig)
        if config.run_dir is None and config.resume is None:
            config = dataclasses.replace(config, run_dir=Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S"))
        train_set, test_set = load_dataset(experiment.dataset, experiment.data_dir, experiment.image_size)
        torch.manual_seed(config.seed)
        model = make_model(experiment, train_set[0][0].shape)
        progress = (
            Progress() if experiment.quiet else LiveProgress(console) if console.is_terminal else PlainProgress(console)
        )
        trainer = Trainer(model, config, optimizer=make_optimizer(experiment), progress=progress)
        epochs = experiment.epochs or (10 if experiment.steps is None else None)
        result = trainer.fit(
            train_set, epochs=epochs, steps=experiment.steps, eval_set=test_set, settings=dataclasses.asdict(experiment)
        )
    except ConfigError as error:
        return refuse(parser.prog, error)
    except WorkerError as error:
        print(f"{error.details}launch.py: {error}", file=sys.stderr)
        return 1
    except (DataError, DivergenceError) as error:
        print(f"launch.py: {error}", file=sys.stderr)
        return 1
    print_summary(console, result.summary, result.run_dir)
    if result.problems:
        return 1
    return 0 if result.interrupted_by is None else 128 + result.interrupted_by


def open_closed_streams() -> None:
    """Standard streams that were closed (`>&-`) lead nowhere: else the next file to be opened would be one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free


if __name__ == "__main__":
    open_closed_streams()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        atexit._run_exitfuncs()
        os._exit(130)  # at once, also where a thread is in the middle of an evaluation

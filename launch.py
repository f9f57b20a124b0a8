"""Train a network in stages, one process each: `python launch.py --workers 3 --device-map`."""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

# All else is imported where it is needed: workers, which import this file again, don't load what only the parent needs,
# and signals are handled before what takes seconds.
if TYPE_CHECKING:
    from async_dni.runtime.machine.interruption import Interruption

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOST = "ended at once; what was trained since the last checkpoint is lost"
SHOW_CURSOR = b"\x1b[?25h\n"


class Ending:
    """Ends this process at a signal, straight from its handler.

    An exception would come up wherever the signal finds Python: in a callback, which swallows and prints it, in the end of
    the interpreter, in a library. While the run goes on, its `Interruption` has the signals, and passes on the second.
    """

    def __init__(self) -> None:
        self.sentence = "ended before the run began"
        self.interruption: Interruption | None = None
        self.status: int | None = None  # when it is settled

    def install(self) -> None:
        """Handle the signals, but for those that are ignored from the start, until the interpreter ends."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)
        atexit.register(ignore_signals)  # the first that is registered is the last that is called

    def _handle(self, number: int, _frame: object) -> None:
        if self.status is not None:
            self._leave(self.status)
        if self.interruption is None or self.interruption.number is None:
            self._end(128 + number, self.sentence)
        elif number != signal.SIGHUP:  # which a terminal may send twice
            self._end(130, self.sentence)

    def at_once(self) -> None:
        """End at the second signal to the run."""
        self._end(130, LOST)

    def _end(self, status: int, sentence: str) -> None:
        """Say so, and end; workers end when their parent does."""
        if os.isatty(1):
            write(1, SHOW_CURSOR)  # which a live table hides
        write(2, f"launch.py: {sentence}\n".encode())
        with suppress(OSError):  # of other threads, nothing more
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        self._leave(status)

    def _leave(self, status: int) -> None:
        """End, and leave nothing behind."""
        if self.interruption is not None:
            self.interruption.discard()
        os._exit(status)


def write(descriptor: int, text: bytes) -> None:
    """Write a line, unless nobody takes it for a second: a terminal may be stopped, a pipe full."""
    with suppress(OSError, ValueError):
        if select.select([], [descriptor], [], 1.0)[1]:
            os.write(descriptor, text)


def ignore_signals() -> None:
    """The interpreter's end would put back what signals do by default."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def main(arguments: Sequence[str] | None = None, ending: Ending | None = None) -> int:
    """Parse, run, print; returns the exit status, which is 1 also where something could not be written or printed.

    With an `ending`, the second signal ends the process; else it raises `KeyboardInterrupt`.
    """
    from async_dni.view.output import lasting_output

    with lasting_output("launch.py") as output:
        try:
            status = run(arguments, ending)
        except SystemExit as exit:  # of the parser
            status = exit.code if isinstance(exit.code, int) else 0
        except KeyboardInterrupt:
            print(f"launch.py: {LOST}", file=sys.stderr)
            raise
    return status or int(output.failed)


def run(arguments: Sequence[str] | None, ending: Ending | None) -> int:
    """Parse, run, print; returns the exit status."""
    import dataclasses
    from datetime import datetime
    from pathlib import Path

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
    from async_dni.runtime.machine.interruption import Interruption
    from async_dni.view.live import LiveProgress
    from async_dni.view.plain import PlainProgress
    from async_dni.view.summary import print_summary

    console = Console()
    interruption = Interruption()
    if ending is not None:
        interruption = ending.interruption = Interruption(ending.at_once)
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
            train_set,
            epochs=epochs,
            steps=experiment.steps,
            eval_set=test_set,
            settings=dataclasses.asdict(experiment),
            interruption=interruption,
        )
        if ending is not None:
            ending.sentence = "ended before all was printed; what was trained is written"
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
    ending = Ending()
    ending.install()
    open_closed_streams()
    ending.status = main(ending=ending)
    sys.exit(ending.status)

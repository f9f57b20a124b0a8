"""The command that trains: `python launch.py`, `python -m async_dni train`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from .cli import load_plugins, made_of, make_optimizer, make_parser, named_plugins, read_config, refuse
from .config import TrainerConfig
from .data.description import input_shape, num_classes
from .data.own_data import load_own
from .data.samples import DataError
from .data.sets import DATASETS, load_dataset
from .experiment import ExperimentConfig
from .foundation.error import ConfigError
from .learning.divergence import DivergenceError
from .network.named_model import Offered, load_maker, make_named
from .record.result import TrainResult
from .runtime.hosts.group import Hosts, joined
from .runtime.hosts.host_error import HostError
from .runtime.hosts.torchrun import HostEnvironment
from .runtime.hosts.wire.conversation import Message
from .runtime.listener import WorkerError
from .runtime.machine.ending import LOST, Ending
from .runtime.machine.interruption import Interruption
from .trainer import Trainer
from .view.choice import make_progress
from .view.output import lasting_output
from .view.summary import print_summary


def main(arguments: Sequence[str] | None, program: str, ending: Ending | None = None) -> int:
    """Parse, train, print; returns the exit status, which is 1 also where something could not be written or printed.

    With an `ending`, the second signal ends the process; else it raises `KeyboardInterrupt`.
    """
    with lasting_output(program) as output:
        try:
            status = _main(arguments, program, ending)
        except SystemExit as exit:  # of the parser
            status = exit.code if isinstance(exit.code, int) else 0
        except KeyboardInterrupt:
            print(f"{program}: {LOST}", file=sys.stderr)
            raise
    return status or int(output.failed)


def _main(arguments: Sequence[str] | None, program: str, ending: Ending | None) -> int:
    interruption = Interruption()
    if ending is not None:
        interruption = ending.interruption = Interruption(ending.at_once)
    console = Console()
    try:
        load_plugins(named_plugins(arguments))
        given = vars(make_parser(program, TrainerConfig, ExperimentConfig).parse_args(arguments))
        with joined(HostEnvironment.read(), *_timeouts(given)) as hosts:
            config, experiment = made_of(given, _config_of_first(given, hosts), TrainerConfig, ExperimentConfig)
            hosts.set_link_timeout(config.link_timeout)  # of the run that is gone on with, say
            result = _fit(config, experiment, console, interruption, hosts)
            if hosts.is_first:
                print_summary(console, result.summary, result.run_dir)
    except ConfigError as error:
        return refuse(program, error)
    except HostError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except WorkerError as error:
        print(f"{error.details}{program}: {error}", file=sys.stderr)
        return 1
    except (DataError, DivergenceError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    if result.problems:
        return 1
    return 0 if result.interrupted_by is None else 128 + result.interrupted_by


def _timeouts(given: dict[str, Any]) -> tuple[float, float]:
    """`start_timeout` and `link_timeout`, by which hosts meet before all settings were looked at."""
    defaults = TrainerConfig()
    start, link = (given.get(name, getattr(defaults, name)) for name in ("start_timeout", "link_timeout"))
    return (start if isinstance(start, float) and 0 < start < 1e6 else defaults.start_timeout), (
        link if isinstance(link, float) and 1 <= link < 1e6 else defaults.link_timeout
    )


def _config_of_first(given: dict[str, Any], hosts: Hosts) -> str | None:
    """The config.json of the run that is gone on with, which the first host has. Raises `ConfigError`."""
    asked = [bool(message.values["resume"]) for message in hosts.exchange("resume", resume=bool(given.get("resume")))]
    if len(set(asked)) > 1:
        which = f"only hosts {', '.join(str(rank) for rank, each in enumerate(asked) if each)} of {hosts.size} were given it"
        raise ConfigError("resume", given.get("resume"), f"{which}; allowed: on all")
    if not given.get("resume"):
        return None
    text: str = hosts.of_first("config", lambda: Message("config", {"json": read_config(given)})).values["json"]
    return text


def _fit(
    config: TrainerConfig, experiment: ExperimentConfig, console: Console, interruption: Interruption, hosts: Hosts
) -> TrainResult:
    """Read the data, make the network, train."""
    progress = make_progress(None if experiment.quiet else "auto" if hosts.is_first else "plain", console)
    progress.on_phase("reading the data")
    maker = load_maker(experiment.model)
    train_set, test_set, offered = _data(experiment)
    torch.manual_seed(config.seed)
    model = make_named(experiment.model, maker, experiment.model_flags, experiment.model_arguments, offered)
    trainer = Trainer(model, config, optimizer=make_optimizer(experiment), progress=progress)
    return trainer.fit(
        train_set,
        epochs=experiment.epochs or (10 if experiment.steps is None else None),
        steps=experiment.steps,
        eval_set=test_set,
        settings=experiment.stored,
        runs=Path("runs"),
        interruption=interruption,
        hosts=hosts,
    )


def _data(experiment: ExperimentConfig) -> tuple[Any, Any, Offered]:
    """The training set, the test set, if there is one, and what a network may ask about them."""
    if experiment.data is not None:
        train_set, test_set = load_own(experiment.data, experiment.data_arguments)
        classes, setting = None, "data"
    else:
        name = str(experiment.dataset)
        train_set, test_set = load_dataset(name, **experiment.data_settings)
        classes, setting = DATASETS[name].num_classes, "dataset"
    offered: Offered = {
        "input_shape": partial(input_shape, train_set, setting),
        "num_classes": partial(num_classes, train_set, setting) if classes is None else lambda: classes,
    }
    return train_set, test_set, offered

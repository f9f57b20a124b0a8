"""The command line: its parser, generated from the settings' dataclasses, and what a run prints."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
import types
import typing
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .config import TrainerConfig
from .experiment import ExperimentConfig
from .foundation.error import ConfigError, reason
from .foundation.option import words
from .foundation.parser import Parser, cut, one_line
from .learning.stage import OptimizerFactory
from .record.run_dir import RunDir

FLAGS = {field.name for config in (TrainerConfig, ExperimentConfig) for field in dataclasses.fields(config)}
DESCRIPTION = "Train a network in stages, one process each, with synthetic gradients."


def make_parser(prog: str, *configs: type) -> Parser:
    """A parser with a flag for every field of these dataclasses."""
    parser = Parser(prog=prog, allow_abbrev=False, description=DESCRIPTION)
    for config in configs:
        group = parser.add_argument_group((config.__doc__ or "").split(":")[0])
        hints = typing.get_type_hints(config)
        for field in dataclasses.fields(config):
            registry = field.metadata["registry"]
            options = dict(field.metadata["parser"])
            if options.get("action") != "store_true":
                # choices are checked by the dataclass, with all other values
                choices = options.pop("choices", None) or registry
                options.setdefault("metavar", "{" + ",".join(choices) + "}" if choices else field.name.upper())
                options.setdefault("type", _converter(hints[field.name]))
            text = field.metadata["help"] + (f": {registry.help()}" if registry else "")
            text = text.replace("%", "%%")
            if field.default not in (None, False, ()):
                text += f" (default: {field.default})"
            # a flag that is not given leaves no trace, so that a resumed run's own settings can show through
            group.add_argument(flag(field.name), default=argparse.SUPPRESS, help=text, **options)
    return parser


def flag(setting: str) -> str:
    """The flag of a setting; what is none, such as a data set or a variable of the environment, has none."""
    return "--" + setting.replace("_", "-") if setting in FLAGS else setting


def _converter(hint: Any) -> Any:
    """Makes a setting's value of its text; a text of no value is left as it is, for the dataclass to refuse."""
    kinds = (
        [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        if isinstance(hint, types.UnionType)
        else [hint]
    )
    kind = kinds[0]
    items = {str: _words, float: _floats}
    convert = kind if kind in (int, float, str, Path) else items.get((*typing.get_args(kind), int)[0], _numbers)
    if str in kinds and int in kinds:
        convert = _number_or_word

    def parse(text: str) -> Any:
        try:
            return convert(text)
        except ValueError:
            return text

    return parse


def _number_or_word(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(item) for item in text.split(",")) if text else ()


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(item) for item in text.split(","))


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, *configs: type) -> list[Any]:
    """One object of each dataclass from the command line; where it resumes a run, from that run's settings and it.

    Raises `ConfigError`.
    """
    given = vars(parser.parse_args(arguments))
    return made_of(given, read_config(given), *configs)


def made_of(given: dict[str, Any], resumed: str | None, *configs: type) -> list[Any]:
    """One object of each dataclass, of what the command line gives, and of the config.json of a run that is gone on with.

    Raises `ConfigError`.
    """
    values = given if resumed is None else {**resumed_settings(resumed, given), **given}
    load_plugins(values.get("plugin", ()))  # a resumed run's, too
    made = []
    for config in configs:
        hints = typing.get_type_hints(config)
        names = [field.name for field in dataclasses.fields(config) if field.name in values]
        made.append(config(**{name: from_json(values[name], hints[name]) for name in names}))
    return made


def named_plugins(arguments: Sequence[str] | None) -> tuple[str, ...]:
    """The plugins that a command line names: they come before all else, as its help text lists what they add."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--plugin", type=_words, default=())
    try:
        plugins: tuple[str, ...] = parser.parse_known_args(arguments)[0].plugin
    except argparse.ArgumentError:
        return ()  # whoever parses the whole says what is wrong
    return plugins


def load_plugins(names: Sequence[str]) -> None:
    """Import modules that register something, also from the working directory. Raises `ConfigError`."""
    if allowed := words(names):  # they may be of a run's config.json
        raise ConfigError("plugin", names, allowed)
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # workers get the path, too
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise ConfigError("plugin", name, f"it can't be imported ({reason(error)})") from error


def read_config(given: dict[str, Any]) -> str | None:
    """The config.json of the run that is gone on with, if one is. Raises `ConfigError`."""
    if not given.get("resume"):
        return None
    path = Path(given["resume"])
    config = RunDir.of(path).config
    try:
        return str(config.read_text())
    except (OSError, ValueError):
        raise ConfigError("resume", path, f"allowed: a run directory; {config} can't be read") from None


def resumed_settings(text: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of the run that is resumed, without those that the given ones replace. Raises `ConfigError`."""
    try:
        stored = json.loads(text)
        split, workers = stored["used"]["split"], stored["workers"]
    except (ValueError, KeyError, TypeError, RecursionError):
        path = Path(given["resume"])
        config = RunDir.of(path).config
        raise ConfigError("resume", path, f"allowed: a run directory; {config} can't be read") from None
    replaced = {"resume", "run_dir"}
    replaced |= {"epochs", "steps"} if {"epochs", "steps"} & set(given) else set()
    if given.get("workers", workers) != workers:
        replaced |= {"split", "device_map"}
    else:
        stored["split"] = split or None
    return {name: value for name, value in stored.items() if name not in replaced}


def from_json(value: Any, hint: Any) -> Any:
    """A setting's value as JSON keeps it, as its type."""
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if isinstance(value, str) and Path in typing.get_args(hint) else value


def make_optimizer(experiment: ExperimentConfig) -> OptimizerFactory:
    """The optimizer that the settings name; fused, where there is such a one: it is the fastest on the CPU too.

    `nadam` is that of Ajanthan et al. (Nesterov Method for Asynchronous Pipeline Parallel Optimization, ICML 2025).
    """
    settings: dict[str, Any] = {"lr": experiment.lr, "weight_decay": experiment.weight_decay}
    if experiment.optimizer == "nadam":
        return partial(torch.optim.NAdam, betas=(0.99, 0.999), decoupled_weight_decay=True, **settings)
    settings["fused"] = True
    if experiment.optimizer == "sgd":
        return partial(torch.optim.SGD, momentum=experiment.momentum, **settings)
    return partial(torch.optim.Adam, **settings)


def refuse(program: str, error: ConfigError) -> int:
    """Say what was wrong with a setting; exit status 2."""
    print(one_line(f"{program}: {flag(error.setting)}: got {cut(error.shown)}; {error.allowed}"), file=sys.stderr)
    return 2

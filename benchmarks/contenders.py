"""Ours: the methods, with settings of `Trainer`, by the names that the benchmarks print; and more of them, from the command line.

Those of a method or a synthesizer that this version of the package does not have are left out. Without a synthesizer's name it is
the default one for the shape of the outputs.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from workloads import MAPS, POSITIONS, ROWS, Workload

from async_dni import METHODS, SYNTHESIZERS, ConfigError, TrainerConfig
from async_dni.runtime.machine.compiler import no_compiler

LOCKED = "backprop, same workers"
FREE = ("cdni", "local", "delayed")  # that wait for nothing
EVERYWHERE = (ROWS, MAPS, POSITIONS)
_OF_KINDS: list[tuple[str, dict[str, Any], Sequence[str]]] = [
    ("cdni", {"method": "cdni"}, EVERYWHERE),
    ("cdni, float32", {"method": "cdni", "synthesizer_matmul_precision": "highest"}, EVERYWHERE),
    ("cdni, every 2nd", {"method": "cdni", "synthesizer_every": 2}, EVERYWHERE),
    ("cdni, every 4th", {"method": "cdni", "synthesizer_every": 4}, EVERYWHERE),
    ("cdni, linear", {"method": "cdni", "synthesizer": "linear"}, (ROWS,)),
    ("cdni, convolutional", {"method": "cdni", "synthesizer": "convolutional"}, (MAPS,)),
    *(
        (f"cdni, rank {rank}", {"method": "cdni", "synthesizer": f"low-rank:rank={rank}"}, EVERYWHERE)
        for rank in (16, 32, 64)
    ),
    ("dni", {"method": "dni"}, EVERYWHERE),
    ("dni, linear", {"method": "dni", "synthesizer": "linear"}, (ROWS,)),
    ("dni, rank 32", {"method": "dni", "synthesizer": "low-rank:rank=32"}, (ROWS,)),
    ("local", {"method": "local"}, EVERYWHERE),
    ("delayed", {"method": "delayed"}, EVERYWHERE),
    (LOCKED, {"method": "backprop"}, EVERYWHERE),
    *((f"{method}, compiled", {"method": method, "compile": True}, EVERYWHERE) for method in FREE),
    *(
        (f"{method}, {more}channels last", {"method": method, "channels_last": True, "compile": bool(more)}, (MAPS,))
        for method in FREE
        for more in ("", "compiled, ")
    ),
]


def is_there(settings: Mapping[str, Any]) -> bool:
    """Whether the package has the method, and the synthesizer, and the machine a compiler, where that is wanted."""
    synthesizer = settings.get("synthesizer")
    if settings.get("compile") and no_compiler() is not None:
        return False
    return settings["method"] in METHODS and (synthesizer is None or synthesizer.split(":")[0] in SYNTHESIZERS)


def named(workload: Workload, more: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """Those for a workload, and `more`, each with its settings."""
    ours = {name: settings for name, settings, kinds in _OF_KINDS if workload.kind in kinds and is_there(settings)}
    return {**ours, **{name: dict(settings) for name, settings in (more or {}).items()}}


def contender(text: str) -> tuple[str, dict[str, Any]]:
    """A type for `add_argument`: `NAME: setting=value setting=value …`; the method is the name's first word, else cdni."""
    name, colon, given = text.partition(": ")
    fields = {field.name for field in dataclasses.fields(TrainerConfig)}
    settings: dict[str, Any] = {}
    for item in given.split():
        key, equals, value = item.partition("=")
        if not equals or key not in fields:
            raise argparse.ArgumentTypeError(f"got {item}; allowed: setting=value, of the settings of Trainer")
        settings[key] = as_value(value)
    if not colon or not name.strip() or not settings:
        raise argparse.ArgumentTypeError(f"got {text}; allowed: NAME: setting=value setting=value …")
    first = name.split()[0].rstrip(",")
    settings.setdefault("method", first if first in METHODS else "cdni")
    try:
        TrainerConfig(**settings)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name, settings


def as_value(text: str) -> Any:
    """A number, a tuple, True, None; else the text."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def add_contender_option(parser: argparse.ArgumentParser) -> None:
    """For one of the user's own."""
    parser.add_argument(
        "--contender",
        type=contender,
        action="append",
        default=[],
        metavar="TEXT",
        help='one more of ours, "NAME: setting=value …" with settings of Trainer, such as "cdni rank 8: '
        'synthesizer=low-rank:rank=8"; may be repeated',
    )

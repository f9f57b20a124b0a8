"""The command that does a run again, by the settings that it kept."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from ...config import TrainerConfig
from ...experiment import DATASET, ExperimentConfig

PLACES = ("run_dir", "resume", "quiet")  # where it wrote, and what it said


def command(config: Mapping[str, Any]) -> str | None:
    """The command; None for a run of the library, whose network and data are in a program."""
    if "model" not in config or "dataset" not in config:
        return None
    words = ["python", "launch.py"]
    fields = [field for kind in (ExperimentConfig, TrainerConfig) for field in dataclasses.fields(kind)]
    for field in fields:
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        value = config.get(field.name, default)
        if field.name in PLACES or value in (default, None) or (field.name == "dataset" and value == DATASET):
            continue
        flag = "--" + field.name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif isinstance(value, list):
            words += [flag, ",".join(map(str, value))]
        else:
            words += [flag, str(value)]
    return shlex.join(words)

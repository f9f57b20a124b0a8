"""A group of processes that torchrun has started again goes on with its own run, from the newest checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
from itertools import count
from pathlib import Path

import psutil

from ..foundation.error import ConfigError
from ..foundation.torchrun_agent import agent_marks, agent_name
from ..record.checkpoint import list_checkpoints
from ..record.run_dir import RunDir
from ..runtime.hosts.group import Hosts
from .job import Job


def gone_on_with(job: Job, runs: Path | None, hosts: Hosts) -> tuple[Job, Path | None]:
    """The job, resumed where torchrun has started this group again and there is a checkpoint.

    A run without a name gets one that is the same each time: of when torchrun's agent began. A directory that is another run's
    is left alone; it is refused later, as at any start.
    """
    config = job.config
    if hosts.environment is None or config.resume is not None:
        return job, runs
    run_dir = config.run_dir or (runs / agent_name() if runs is not None else None)
    if run_dir is None:
        return job, runs
    config = dataclasses.replace(config, run_dir=run_dir)
    is_own = run_dir.is_dir() if job.config.run_dir is None else _is_own(run_dir)  # by the agent's name
    if hosts.restarts and is_own:
        if list_checkpoints(run_dir / "checkpoints"):
            config = dataclasses.replace(config, run_dir=None, resume=run_dir)
            job.progress.on_note(f"torchrun has started this run again ({hosts.restarts}): going on with {run_dir}")
        else:
            _put_aside(run_dir)
    return dataclasses.replace(job, config=config), runs


def _is_own(run_dir: Path) -> bool:
    """Whether an earlier start of this group has begun in it."""
    try:
        begun_by = json.loads(RunDir(run_dir).config.read_text())["environment"]["torchrun"]
        return any(begun_by.get(name) == mark for name, mark in agent_marks().items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _put_aside(run_dir: Path) -> None:
    """What is left of a start that came to no checkpoint, under the next name that is free."""
    names = (run_dir.with_name(f"{run_dir.name}-before-restart-{number}") for number in count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    try:
        run_dir.rename(aside)
    except OSError as error:
        raise ConfigError("run_dir", run_dir, f"it can't be put aside ({error.strerror})") from None


def is_alive(pid: int) -> bool:
    """Whether there is a process of that number."""
    return psutil.pid_exists(pid)

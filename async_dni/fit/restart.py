"""A group of processes that torchrun has started again goes on with its own run, from the newest checkpoint."""

from __future__ import annotations

import dataclasses
import os
from datetime import datetime
from pathlib import Path

import psutil

from ..foundation.error import ConfigError
from ..record.checkpoint import list_checkpoints
from ..runtime.hosts.group import Hosts
from .job import Job


def gone_on_with(job: Job, runs: Path | None, hosts: Hosts) -> tuple[Job, Path | None]:
    """The job, resumed where torchrun has started this group again and there is a checkpoint.

    A run without a name gets one that is the same each time: of when torchrun's agent began.
    """
    config = job.config
    if hosts.environment is None or config.resume is not None:
        return job, runs
    run_dir = config.run_dir or (runs / _name_by_agent() if runs is not None else None)
    if run_dir is None:
        return job, runs
    config = dataclasses.replace(config, run_dir=run_dir)
    if hosts.restarts and run_dir.is_dir():
        if list_checkpoints(run_dir / "checkpoints"):
            config = dataclasses.replace(config, run_dir=None, resume=run_dir)
            job.progress.on_note(f"torchrun has started this run again ({hosts.restarts}): going on with {run_dir}")
        else:
            _put_aside(run_dir, hosts.restarts)
    return dataclasses.replace(job, config=config), runs


def _name_by_agent() -> str:
    """The date and time when the process that has started this one began, and its number."""
    agent = psutil.Process(os.getppid())
    return f"{datetime.fromtimestamp(agent.create_time()):%Y%m%d-%H%M%S}-{agent.pid}"


def _put_aside(run_dir: Path, restarts: int) -> None:
    """What is left of a start that came to no checkpoint."""
    if not any(run_dir.iterdir()):
        return
    aside = run_dir.with_name(f"{run_dir.name}-before-restart-{restarts}")
    try:
        run_dir.rename(aside)
    except OSError as error:
        raise ConfigError("run_dir", run_dir, f"it can't be put aside ({error.strerror})") from None


def is_alive(pid: int) -> bool:
    """Whether there is a process of that number."""
    return psutil.pid_exists(pid)

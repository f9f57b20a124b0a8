"""The agent of torchrun that has started this process: by it a group that is started again knows what is its own."""

from __future__ import annotations

import os
from datetime import datetime

import psutil

NOBODYS = ("", "none")  # torchrun's default of --rdzv-id


def agent_name() -> str:
    """The date and time when the process that has started this one began, and its number."""
    agent = psutil.Process(os.getppid())
    return f"{datetime.fromtimestamp(agent.create_time()):%Y%m%d-%H%M%S}-{agent.pid}"


def agent_marks() -> dict[str, str]:
    """What stays the same when torchrun starts its processes again: the agent, and the job's id, where it was given one.

    Empty where torchrun has not started this process.
    """
    job = os.environ.get("TORCHELASTIC_RUN_ID")
    if job is None:
        return {}
    return {"agent": agent_name(), **({} if job in NOBODYS else {"job": job})}

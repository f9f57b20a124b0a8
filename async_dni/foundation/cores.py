"""How many processors there are for this process."""

from __future__ import annotations

import os
from pathlib import Path

from .cpu_quota import cpu_quota


def available_cores() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def usable_cores(root: Path = Path("/")) -> int:
    """How many threads can compute all the time: the cores that this process may run on, or fewer by its container's quota.

    Of a quota of 1.5 cores, 1: of two threads that wait for each other after each product of matrices, the kernel would
    stop both for a part of each tenth of a second, and with them all workers. Files are looked for below `root`.
    """
    cores, quota = len(available_cores()), cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota)))

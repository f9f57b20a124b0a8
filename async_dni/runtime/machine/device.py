"""Which device each worker computes on, and with how many threads and on which cores."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from ...config import TrainerConfig
from ...foundation.cores import usable_cores
from ...foundation.error import ConfigError
from ...settings.processes import MOST_THREADS
from .environment import variable


def assign_devices(device_map: str, workers: int, others: int = 0) -> list[str]:
    """One device a worker from `auto`, `cpu`, `cuda` (devices in turn) or a comma-separated list of `workers` devices.

    `others`: workers of other processes on this machine, which have the devices before.
    Raises `ConfigError` for a device that is not there, naming those that are, and for a list of another length.
    """
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    available = ["cpu", *cuda]
    if device_map == "auto":
        device_map = "cuda" if cuda else "cpu"
    if device_map == "cuda" and cuda:
        return [cuda[(others + i) % len(cuda)] for i in range(workers)]
    devices = device_map.split(",")
    if devices == ["cpu"]:
        return ["cpu"] * workers
    for device in devices:
        if device not in available:
            raise ConfigError(
                "device_map", device_map, f"{device!r} is not here; available: auto, {', '.join(available)}"
            )
    if len(devices) != workers:
        raise ConfigError("device_map", device_map, f"{len(devices)} devices for {workers} workers; give one a worker")
    return devices


def omp_num_threads() -> int | None:
    """Threads as OMP_NUM_THREADS has them; None where it is not set, or says nothing, which OpenMP passes over too.

    Of a list, which has a number for each level of nesting, the first.
    """
    first = re.match(r"\s*0*([1-9]\d{0,8})\s*(,|$)", variable("OMP_NUM_THREADS"), re.ASCII)
    return min(int(first[1]), MOST_THREADS) if first else None


def assign_cores(workers: int, threads: int, cores: Sequence[int]) -> list[tuple[int, ...]]:
    """`threads` cores for each worker, in turn; they are shared where there are too few."""
    return [tuple(sorted({cores[(k * threads + i) % len(cores)] for i in range(threads)})) for k in range(workers)]


def crowded(config: TrainerConfig, workers: int) -> str | None:
    """What to say of more threads than there are cores, where the user has not asked for them in so many words.

    `workers`: those that share them.
    """
    threads, cores = threads_per_worker(config, workers), usable_cores()
    if config.threads_per_worker is not None or threads == 1 or workers * threads <= cores:
        return None
    found = f"{workers} workers of {threads} threads (OMP_NUM_THREADS) share {cores} cores"
    return f"{found}, which can be many times slower than --threads-per-worker 1"


def threads_per_worker(config: TrainerConfig, workers: int) -> int:
    """As set, else as OMP_NUM_THREADS has it, else the cores shared out to so many workers, at least 1."""
    return config.threads_per_worker or omp_num_threads() or max(1, usable_cores() // workers)

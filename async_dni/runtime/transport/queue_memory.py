"""Whether queues fit in memory, known before any of it is taken."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
from torch import Tensor

from ...foundation.error import ConfigError
from .tensor_queue import TensorSpec


def check_queues(capacity: int, rows: int, activations: Sequence[Tensor], target: Tensor) -> None:
    """Raise `ConfigError` where queues between stages with these outputs `[batch, ...]` would take more memory than is free."""
    sizes = [2 * TensorSpec.like(h, rows).nbytes + TensorSpec.like(target, rows).nbytes for h in activations[:-1]]
    needed, free = capacity * sum(sizes), psutil.virtual_memory().available
    if needed > free:
        most = free // sum(sizes)
        found = f"the queues would take {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free"
        raise ConfigError("queue_capacity", capacity, f"{found}; allowed: at most {most}")

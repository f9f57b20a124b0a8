"""What the queues between two stages hold, and whether they fit in memory, known before any of it is taken."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
from torch import Tensor

from ...foundation.error import ConfigError
from ...learning.structure import Output
from .tensor_queue import TensorSpec, queue_bytes


def queue_specs(h: Output, target: Tensor, rows: int) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """The tensors of a message down, h's parts and the targets, and of one up: the gradients of those that carry one."""
    down = [TensorSpec.like(part, rows, dim) for part, dim in zip(h.parts, h.batch_dims, strict=True)]
    up = [TensorSpec.like(part, rows, dim) for part, dim in h.carrying]
    return [*down, TensorSpec.like(target, rows)], up


def check_queues(
    capacity: int, rows: int, activations: Sequence[Output], target: Tensor, gradients: bool = True
) -> None:
    """Raise `ConfigError` where queues between stages with these outputs would take more memory than is free.

    `gradients`: whether there are gradient queues.
    """

    def needed(capacity: int) -> int:
        total = 0
        for h in activations[:-1]:
            down, up = queue_specs(h, target, rows)
            total += queue_bytes(capacity, down)
            total += queue_bytes(capacity, up) if gradients else 0
        return total

    free = psutil.virtual_memory().available
    if needed(capacity) > free:
        most = free // (needed(3) - needed(2))  # a batch more in each
        allowed = f"allowed: at most {most}" if needed(1) <= free and most else "allowed: smaller batches or outputs"
        found = f"the queues would take {needed(capacity) / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free"
        raise ConfigError("queue_capacity", capacity, f"{found}; {allowed}")

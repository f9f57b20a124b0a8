"""Schedules: how the learning rate changes from batch to batch.

A schedule makes a scheduler of PyTorch's for an optimizer, which is stepped once a batch. Those that have a name here know
how many batches there are, and begin with a warmup: the rate grows evenly to the optimizer's own over so many batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

SchedulerFactory = Callable[[Optimizer], LRScheduler]


@dataclass(frozen=True)
class ScheduleSpec:
    """A schedule, as it says of itself. Picklable, as workers get it."""

    name: str
    help: str  # a few words
    make: Callable[..., LRScheduler]  # of an optimizer, and as keywords `steps`, all there are, and `warmup`, of those


def of_progress(factor: Callable[[float], float], optimizer: Optimizer, steps: int, warmup: int) -> LambdaLR:
    """The optimizer's own rate times a function of the progress after the warmup, from 0 to 1."""

    def factor_at(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return factor((step - warmup) / max(1, steps - warmup))

    return LambdaLR(optimizer, factor_at)

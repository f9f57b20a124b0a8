"""`constant`: the optimizer's own rate."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .schedule import ScheduleSpec, of_progress


def make_constant(optimizer: Optimizer, steps: int, warmup: int) -> LRScheduler:
    """After the warmup, if there is one, the same for all batches."""
    return of_progress(lambda progress: 1.0, optimizer, steps, warmup)


CONSTANT = ScheduleSpec("constant", "the optimizer's own rate", make_constant)

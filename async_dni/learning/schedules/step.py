"""`step`: a tenth of the rate after a half of the run, a hundredth after three quarters."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .schedule import ScheduleSpec, of_progress


def make_step(optimizer: Optimizer, steps: int, warmup: int) -> LRScheduler:
    """1, 0.1 and 0.01 times the optimizer's own rate."""
    return of_progress(lambda progress: 0.1 ** ((progress >= 0.5) + (progress >= 0.75)), optimizer, steps, warmup)


STEP = ScheduleSpec("step", "a tenth after a half of the run, a hundredth after three quarters", make_step)

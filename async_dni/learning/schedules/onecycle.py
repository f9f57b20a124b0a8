"""`onecycle`: up from a 25th of the rate to it, and down to almost nothing, with the momentum the other way round.

PyTorch's `OneCycleLR`. (Smith and Topin, *Super-convergence*, 2019.)
"""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from .schedule import ScheduleSpec

RISING = 0.3  # of the run, where no warmup says how long


def make_onecycle(optimizer: Optimizer, steps: int, warmup: int) -> LRScheduler:
    """The optimizer's own rate is the largest. The momentum is cycled where the optimizer has one."""
    has_momentum = bool(optimizer.defaults.get("betas") or optimizer.defaults.get("momentum"))
    return OneCycleLR(
        optimizer,
        max_lr=[float(group["lr"]) for group in optimizer.param_groups],
        total_steps=max(2, steps),
        pct_start=warmup / steps if warmup else RISING,
        cycle_momentum=has_momentum,
    )


ONECYCLE = ScheduleSpec("onecycle", "up to the rate and down to almost nothing, in one cycle", make_onecycle)

"""`cosine`: half a wave, from the optimizer's own rate to zero.

Without its restarts, that of Loshchilov and Hutter, *SGDR: Stochastic gradient descent with warm restarts*, 2017.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .schedule import ScheduleSpec, of_progress


def make_cosine(optimizer: Optimizer, steps: int, warmup: int) -> LRScheduler:
    """½ (1 + cos(π · progress))."""
    return of_progress(lambda progress: (1 + math.cos(math.pi * progress)) / 2, optimizer, steps, warmup)


COSINE = ScheduleSpec("cosine", "half a wave down to zero", make_cosine)

"""A layer that takes a random time, unlike in any other run: schedules that no test could write down."""

from __future__ import annotations

import random
import time

from torch import Tensor, nn


class SlowedAtRandom(nn.Module):
    """The identity, late by up to `seconds`; about every other batch is late."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        if self.training and random.random() < 0.5:
            time.sleep(random.random() * self.seconds)
        return x


def slowed(model: nn.Sequential, seconds: float = 0.01) -> nn.Sequential:
    """The network with every block slowed; the names of its parameters change, their order does not."""
    return nn.Sequential(*(nn.Sequential(SlowedAtRandom(seconds), block) for block in model))

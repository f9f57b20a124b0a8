"""Learning rates: of an optimizer, a function of the batch index alone.

Before the update of batch b the scheduler has been stepped b times, whatever updates were dropped, passed over or late.
So nothing of it is in a checkpoint: after a restart it is made anew, and stepped to the batch in hand.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn, zeros
from torch.optim import SGD, Optimizer

from ..schedules import SchedulerFactory


class Rates:
    """An optimizer's, as a scheduler sets them."""

    def __init__(self, optimizer: Optimizer, scheduler: SchedulerFactory) -> None:
        self._optimizer, self._make_scheduler = optimizer, scheduler
        self._given = [settings_of(group) for group in optimizer.param_groups]
        self._begin()

    def _begin(self) -> None:
        for group, given in zip(self._optimizer.param_groups, self._given, strict=True):
            parameters = group["params"]
            group.clear()
            group.update(settings_of(given), params=parameters)
        self._scheduler, self._steps = self._make_scheduler(self._optimizer), 0

    def at(self, index: int) -> None:
        """Set the rates of a batch."""
        if index < self._steps:
            self._begin()
        if index > self._steps:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the optimizer need not have made a step before
                while self._steps < index:
                    self._scheduler.step()
                    self._steps += 1

    @property
    def factor(self) -> float:
        """What the rate is multiplied by, of what the optimizer was made with: in the first group where that is not 0."""
        pairs = zip(self._optimizer.param_groups, self._given, strict=True)
        rates = [(float(group["lr"]), float(given["lr"])) for group, given in pairs]
        return next((now / first for now, first in rates if first), 1.0)


class FollowingRates:
    """Those of another optimizer, a synthesizer's, which are multiplied by the same factor as the layers' at that batch.

    It is learnt from other batches than the layers are updated on, so it has a scheduler of its own, of an optimizer that
    is `like` the layers', and holds nothing.
    """

    def __init__(self, optimizer: Optimizer, like: Optimizer, scheduler: SchedulerFactory) -> None:
        groups = [{**settings_of(group), "params": [nn.Parameter(zeros(1))]} for group in like.param_groups]
        self._rates = Rates(SGD(groups, lr=1.0, momentum=0.9), scheduler)
        self._optimizer, self._given = optimizer, [group["lr"] for group in optimizer.param_groups]

    def at(self, index: int) -> None:
        """Set the rates of a batch."""
        self._rates.at(index)
        for group, given in zip(self._optimizer.param_groups, self._given, strict=True):
            group["lr"] = given * self._rates.factor


def settings_of(group: dict[str, Any]) -> dict[str, Any]:
    """A group's settings, without its parameters."""
    return {
        name: value.clone() if isinstance(value, Tensor) else value for name, value in group.items() if name != "params"
    }

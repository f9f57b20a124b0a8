"""How a stage's weights change, when it has the gradients of a batch.

    rates         of that batch, set before the step (`rates.py`)
    accumulation  the gradients of N batches in a row are summed, and the step is made on their mean
    average       of the weights, after each step (`averaging.py`)

The batches from N·g on are group g. The step is made with the group's last batch, or the run's. Where that one's update was
passed over, or it never came, the step is made before the forward pass of the next batch that comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .averaging import Average
from .rates import FollowingRates, Rates


class Updater:
    """Steps a stage's optimizer. `optimizer` is None where no layer has a parameter."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer | None,
        *,
        rates: Rates | None = None,
        model_rates: Sequence[FollowingRates] = (),
        accumulate: int = 1,
        steps: int | None = None,
        average: Average | None = None,
    ) -> None:
        self.optimizer, self.average = optimizer, average
        self._rates, self._model_rates, self._every, self._steps = rates, model_rates, accumulate, steps
        self._parameters = dict(module.named_parameters())
        self._sums: dict[str, Tensor] = {}  # of the gradients of the group's batches
        self._batches = 0  # of the group, so far
        self._newest = -1  # of those

    def before_forward(self, index: int) -> None:
        """A batch is begun: make the step of a group before it that was not made."""
        if self._batches and self._newest // self._every < index // self._every:
            self._step_on_mean()

    def before_learning(self, index: int) -> None:
        """The method's own model is about to learn from the gradient of a batch."""
        for rates in self._model_rates:
            rates.at(index)

    def step(self, index: int) -> bool:
        """The gradients of a batch are there: make a step, or keep them; returns whether one was made."""
        if self._every == 1:
            self._step(index)
            return True
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                continue
            if name in self._sums:
                self._sums[name] += parameter.grad
            else:
                self._sums[name] = parameter.grad.clone()
        self._batches, self._newest = self._batches + 1, index
        is_last = (index + 1) % self._every == 0 or index + 1 == self._steps
        if is_last:
            self._step_on_mean()
        return is_last

    def _step_on_mean(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.grad = self._sums[name].div_(self._batches) if name in self._sums else None
        self._sums, self._batches = {}, 0
        self._step(self._newest)

    def _step(self, index: int) -> None:
        if self.optimizer is not None:
            if self._rates is not None:
                self._rates.at(index)
            self.optimizer.step()
        if self.average is not None:
            self.average.update()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the weights, the optimizer's state and the average; empty between groups."""
        if not self._batches:
            return {}
        return {"sums": dict(self._sums), "batches": self._batches, "newest": self._newest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._sums = {name: value.clone() for name, value in state.get("sums", {}).items()}
        self._batches, self._newest = state.get("batches", 0), state.get("newest", -1)


def recut(states: Sequence[dict[str, Any]], blocks: tuple[str, ...]) -> dict[str, Any]:
    """What an updater of other blocks, `("0.", "1.", …)`, takes up, from what all of a checkpoint's gave."""
    begun = [state for state in states if state]
    if not begun:
        return {}
    sums = {name: value for state in begun for name, value in state["sums"].items() if name.startswith(blocks)}
    return {"sums": sums, **{key: max(state[key] for state in begun) for key in ("batches", "newest")}}

"""How a stage's weights change, when it has the gradients of a batch.

    rates         of that batch, set before the step (`rates.py`)
    accumulation  the gradients of N batches in a row are summed, and the step is made on their mean, which is clipped
    loss scale    of what is backpropagated in float16 (`loss_scale.py`)
    average       of the weights, after each step (`averaging.py`)

The batches from N·g on are group g. The step is made with the group's last batch, or the run's. Where that one's update was
passed over, or it never came, the step is made before the forward pass of the next batch that comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .averaging import Average
from .clipping import norm_of
from .loss_scale import LossScale
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
        loss_scale: LossScale | None = None,
        clip_grad_norm: float | None = None,  # of the mean of several batches; a batch's own is the stage's affair
    ) -> None:
        self.optimizer, self.average, self.loss_scale = optimizer, average, loss_scale
        self._clip_grad_norm, self.is_accumulating = clip_grad_norm, accumulate > 1
        self._rates, self._model_rates, self._every, self._steps = rates, model_rates, accumulate, steps
        self._parameters = dict(module.named_parameters())
        self._sums: dict[str, Tensor] = {}  # of the gradients of the group's batches
        self._batches = 0  # of the group, so far
        self._newest = -1  # of those
        self.made = 0  # steps, by this object: of no state

    def before_forward(self, index: int) -> bool:
        """A batch is begun: make the step of a group before it that was not made; returns whether there was one."""
        is_left = self._batches > 0 and self._newest // self._every < index // self._every
        if is_left:
            self._step_on_mean()
        return is_left

    def before_learning(self, index: int) -> None:
        """The method's own model is about to learn from the gradient of a batch."""
        for rates in self._model_rates:
            rates.at(index)

    def scaled(self, gradient: Tensor, dtype: torch.dtype) -> Tensor:
        """A gradient of the output, as it is to be backpropagated: in the output's type."""
        return gradient.to(dtype) if self.loss_scale is None else self.loss_scale.scaled(gradient, dtype)

    def unscaled(self, x: Sequence[Tensor]) -> list[Tensor]:
        """What came of that for the input's parts, if gradients go upstream: zeros where one has no part in the output.

        The parameters' gradients are changed in place. Without its scale, float16 is too small for what goes upstream, so
        that is float32 then. Raises `Float16OverflowError`.
        """
        found = [torch.zeros_like(part) if part.grad is None else part.grad for part in x if part.requires_grad]
        if self.loss_scale is None:
            return found
        found = [gradient.float() for gradient in found]
        own = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        self.loss_scale.unscale([*own, *found])
        return found

    def unscaled_alone(self, found: Sequence[Tensor]) -> list[Tensor]:
        """What came of `scaled` gradients with no regard to the parameters' gradients; float32 where there is a scale.

        Raises `Float16OverflowError`.
        """
        if self.loss_scale is None:
            return list(found)
        found = [gradient.float() for gradient in found]
        self.loss_scale.unscale(found)
        return found

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
        if self._clip_grad_norm is not None:
            parameters = list(self._parameters.values())
            nn.utils.clip_grads_with_norm_(parameters, self._clip_grad_norm, norm_of(parameters))
        self._step(self._newest)

    def _step(self, index: int) -> None:
        self.made += 1
        if self.optimizer is not None:
            if self._rates is not None:
                self._rates.at(index)
            self.optimizer.step()
        if self.average is not None:
            self.average.update()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the weights, the optimizer's state and the average."""
        scale = {} if self.loss_scale is None else {"loss_scale": self.loss_scale.state_dict()}
        if not self._batches:
            return scale
        return {**scale, "sums": dict(self._sums), "batches": self._batches, "newest": self._newest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._sums = {name: value.clone() for name, value in state.get("sums", {}).items()}
        self._batches, self._newest = state.get("batches", 0), state.get("newest", -1)
        if self.loss_scale is not None and "loss_scale" in state:
            self.loss_scale.load_state_dict(state["loss_scale"])


def recut(states: Sequence[dict[str, Any]], blocks: tuple[str, ...]) -> dict[str, Any]:
    """What an updater of other blocks, `("0.", "1.", …)`, takes up, from what all of a checkpoint's gave."""
    scales = [state["loss_scale"] for state in states if "loss_scale" in state]
    scale = {"loss_scale": min(scales, key=lambda scale: scale["scale"])} if scales else {}
    begun = [state for state in states if any(name.startswith(blocks) for name in state.get("sums", {}))]
    if not begun:
        return scale
    sums = {name: value for state in begun for name, value in state["sums"].items() if name.startswith(blocks)}
    return {**scale, "sums": sums, **{key: max(state[key] for state in begun) for key in ("batches", "newest")}}

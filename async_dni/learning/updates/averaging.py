"""The average of a stage's weights over its updates: a = d·a + (1 − d)·w after each, from the first one's weights on.

As `torch.optim.swa_utils.AveragedModel` has it with `get_ema_multi_avg_fn(d)`, to the last bit. Buffers, such as a batch
norm's statistics, are not averaged.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """Of the parameters of a stage's layers that are numbers with a fraction."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        named = module.named_parameters(remove_duplicate=False)  # a state dict has a weight under each of its names
        self._weights = {name: weight for name, weight in named if weight.is_floating_point()}
        self._average: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an update."""
        if not self._average:
            self._average = {name: weight.detach().clone() for name, weight in self._weights.items()}
        elif self._weights:
            weights = [self._weights[name].detach() for name in self._average]
            torch._foreach_lerp_(list(self._average.values()), weights, 1 - self._decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The average, by the weights' names; empty before the first update."""
        return dict(self._average)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state_dict` gave."""
        self._average = {name: state[name].clone() for name in self._weights} if state else {}

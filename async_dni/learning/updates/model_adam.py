"""The optimizer of a method's own model: a synthesizer, an auxiliary head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.adam import adam


class ModelAdam(Adam):
    """A fused `torch.optim.Adam`, in the same bits, without what `Adam.step` does around its kernel.

    A small model's step is mostly that: hooks, profiling, and lists made anew (docs/performance.md). It has one group of
    parameters, and no hooks.
    """

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr, fused=True)
        self._lists: list[list[Tensor]] = []  # parameters, and their state; none before the first step

    def __setstate__(self, state: Any) -> None:
        """Of a copy, and of `load_state_dict`."""
        super().__setstate__(state)
        self._lists = []

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Of the gradients that are there."""
        group = self.param_groups[0]
        grads = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
        if len(grads) < len(group["params"]) or not self._lists:
            super().step()
            states = [self.state[parameter] for parameter in group["params"] if parameter.grad is not None]
            keys = ("exp_avg", "exp_avg_sq", "step")
            if len(states) == len(group["params"]):
                self._lists = [group["params"], *([state[key] for state in states] for key in keys)]
            return
        params, averages, squares, steps = self._lists
        beta1, beta2 = group["betas"]
        settings = {name: group[name] for name in ("amsgrad", "lr", "weight_decay", "eps", "maximize")}
        adam(params, grads, averages, squares, [], steps, fused=True, beta1=beta1, beta2=beta2, **settings)

    step.hooked = True  # type: ignore[attr-defined]  # by which `Optimizer` knows that it need not wrap it for a profiler

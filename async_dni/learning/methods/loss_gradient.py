"""The last stage's gradient, with every method: that of the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ..autocast import autocast
from ..divergence import DivergenceError, check_loss
from ..losses import OF_LABELS, as_module
from .method import Loss, Method


class LossGradient(Method):
    """∂L/∂h, from the loss itself, computed under autocast to `half`. Nothing comes back to learn from."""

    def __init__(self, loss_fn: Loss, half: str | None = None) -> None:
        self.loss_fn, self.half = loss_fn, half

    def now(self, h: Tensor, target: Tensor) -> Tensor:
        # the gradient has no scale yet that would suit float16
        leaf, self.loss = (h.float() if self.half == "float16" else h).detach().requires_grad_(), None
        with autocast(self.half, h.device):
            loss = self.loss_fn(leaf, target)
        try:
            check_loss(loss.detach(), "loss")
        except DivergenceError:
            if not counts_nothing(self.loss_fn, target):
                raise
            return torch.zeros_like(h)  # a mean over nothing
        self.loss = loss.detach()
        (grad,) = torch.autograd.grad(loss, leaf)
        return grad

    def learn(self, h: Tensor, target: Tensor, grad_output: Tensor) -> None:
        raise RuntimeError("no stage comes after the last")


def counts_nothing(loss_fn: Loss, target: Tensor) -> bool:
    """Whether a loss of labels ignores all of a batch's, or weighs them with 0."""
    loss = as_module(loss_fn)
    if not isinstance(loss, OF_LABELS) or target.is_floating_point():
        return False
    counted = target[target != loss.ignore_index]
    return not counted.numel() or (loss.weight is not None and not bool(loss.weight[counted].any()))

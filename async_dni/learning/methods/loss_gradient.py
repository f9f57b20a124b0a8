"""The last stage's gradient, with every method: that of the loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..divergence import check_loss
from .method import Loss, Method


class LossGradient(Method):
    """∂L/∂h, from the loss itself. Nothing comes back to learn from."""

    def __init__(self, loss_fn: Loss) -> None:
        self.loss_fn = loss_fn

    def now(self, h: Tensor, target: Tensor) -> Tensor:
        leaf, self.loss = h.detach().requires_grad_(), None
        loss = self.loss_fn(leaf, target)
        if not torch.isfinite(loss.detach()) and counts_nothing(self.loss_fn, target):
            return torch.zeros_like(h)  # a mean over nothing
        check_loss(loss.detach(), "loss")
        self.loss = loss.detach()
        (grad,) = torch.autograd.grad(loss, leaf)
        return grad

    def learn(self, h: Tensor, target: Tensor, grad_output: Tensor) -> None:
        raise RuntimeError("no stage comes after the last")


def counts_nothing(loss_fn: Loss, target: Tensor) -> bool:
    """Whether a loss of labels ignores all of a batch's, or weighs them with 0."""
    if not isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss) or target.is_floating_point():
        return False
    counted = target[target != loss_fn.ignore_index]
    return not counted.numel() or (loss_fn.weight is not None and not bool(loss_fn.weight[counted].any()))

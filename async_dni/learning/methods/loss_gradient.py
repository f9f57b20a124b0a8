"""The last stage's gradient, with every method: that of the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ..divergence import check_loss
from .method import Loss, Method


class LossGradient(Method):
    """∂L/∂h, from the loss itself. Nothing comes back to learn from."""

    def __init__(self, loss_fn: Loss) -> None:
        self.loss_fn = loss_fn

    def now(self, h: Tensor, target: Tensor) -> Tensor:
        leaf, self.loss = h.detach().requires_grad_(), None
        loss = self.loss_fn(leaf, target)
        check_loss(loss.detach(), "loss")
        self.loss = loss.detach()
        (grad,) = torch.autograd.grad(loss, leaf)
        return grad

    def learn(self, h: Tensor, target: Tensor, grad_output: Tensor) -> None:
        raise RuntimeError("no stage comes after the last")

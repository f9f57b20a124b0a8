"""`local`: the gradient of a loss of each stage's own, of what an auxiliary head says of its output; nothing comes back.

    L_k = loss(head_k(h_k), y)      the stage is updated with ∂L_k/∂h_k, and head_k with its own gradient, at once

(Belilovsky, Eickenberg and Oyallon, *Decoupled Greedy Learning of CNNs*, arXiv 1901.08164, algorithm 1; with queues between the
stages, algorithm 2.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..divergence import DivergenceError, check_loss
from ..optimizer_state import clear_gradients, load_optimizer_state, optimizer_state
from ..precision import matmul_precision
from ..structure import Gradient, all_of, one_or_all
from ..updates.model_adam import ModelAdam
from .loss_gradient import counts_nothing
from .method import Loss, Method, MethodParts, MethodSpec, rate_of_model


class LocalGradient(Method):
    """∂L_k/∂h_k; `now` steps the head, too. A head without parameters has no optimizer. `precision`: of its products."""

    model: nn.Module
    model_name = "auxiliary head"

    def __init__(
        self, head: nn.Module, optimizer: Optimizer | None, loss_fn: Loss, *, precision: str | None = None
    ) -> None:
        self.model, self.optimizer, self.loss_fn, self.precision = head, optimizer, loss_fn, precision
        self._parameters = list(head.parameters())

    def now(self, h: Gradient, target: Tensor) -> Gradient:
        """Zeros for what the head does not see."""
        leaves, self.loss = [part.detach().requires_grad_() for part in all_of(h)], None
        clear_gradients(self._parameters)
        with matmul_precision(self.precision, target.device):
            loss = self.loss_fn(self.model(one_or_all(leaves)), target)
            try:
                check_loss(loss.detach(), "auxiliary loss")
            except DivergenceError:
                if not counts_nothing(self.loss_fn, target):
                    raise
                return one_or_all([torch.zeros_like(leaf) for leaf in leaves])  # a mean over nothing
            loss.backward()
        self.loss = loss.detach()
        if self.optimizer is not None:
            self.optimizer.step()
        return one_or_all([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves])

    def state_dict(self) -> dict[str, Any]:
        optimizer = None if self.optimizer is None else optimizer_state(self.optimizer, self.model)
        return {"auxiliary_head": self.model.state_dict(), "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["auxiliary_head"])
        if self.optimizer is not None:
            load_optimizer_state(self.optimizer, self.model, state["optimizer"])


def make_local_gradient(parts: MethodParts) -> LocalGradient:
    """Of a stage's auxiliary head, with an Adam of its own."""
    assert parts.auxiliary_head is not None
    assert parts.loss_fn is not None
    learnt = [parameter for parameter in parts.auxiliary_head.parameters() if parameter.requires_grad]
    optimizer = ModelAdam(learnt, lr=rate_of_model(parts)) if learnt else None
    return LocalGradient(parts.auxiliary_head, optimizer, parts.loss_fn, precision=parts.matmul_precision)


LOCAL = MethodSpec(
    name="local",
    help="of a loss of each stage's own, by an auxiliary head",
    make=make_local_gradient,
    gradients=False,
    auxiliary_head=True,
)

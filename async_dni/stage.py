"""One stage's arithmetic: messages in, messages out. It knows no process and no queue.

For a batch b, in stage k with layers f, input x = h_{k-1} and output h = h_k:

    forward(b)      h = f(x)                                        h goes downstream
    update(b)       δ̂ = the method's gradient now (synthetic, or the loss's)
                    backpropagate δ̂ through f, step f's optimizer    ∂/∂x goes upstream
    learn(b, δ)     δ came back from stage k+1:
                    the method regresses its synthesizer on δ; or, where `update` had nothing to update with,
                    backpropagate δ through f, step f's optimizer    ∂/∂x goes upstream

`worker.Worker` drives one from queues, in a process of its own; `serial.Serial` drives all of them in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from .data import Batch
from .method import Loss, LossGradient, Method, SyntheticGradient, TrueGradient

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass
class Pending:
    """A batch whose gradient has not come back yet."""

    x: Tensor
    h: Tensor  # with its graph, until the stage has updated on it
    target: Tensor
    updated: bool = False


class Stage:
    """Some consecutive layers of the network, their optimizer, and the method that finds their gradient.

    `optimizer` is None where no layer has a parameter. A stage is on one device; what it is given must be there.
    """

    def __init__(
        self, module: nn.Module, optimizer: Optimizer | None, method: Method, *, is_first: bool, is_last: bool
    ) -> None:
        self.module, self.optimizer, self.method = module, optimizer, method
        self.is_first, self.is_last = is_first, is_last
        self.pending: dict[int, Pending] = {}  # by batch index, oldest first
        self.weight_version = 0  # updates made so far
        self.loss: Tensor | None = None  # of the newest batch; the last stage's only
        self.synthesizer_loss: Tensor | None = None  # of the newest gradient learnt from

    def forward(self, batch: Batch) -> Tensor:
        """The stage's output h for a batch, `[batch, *features]`, detached."""
        x = batch.x if self.is_first else batch.x.detach().requires_grad_()
        h = self.module(x)
        self.pending[batch.index] = Pending(x, h, batch.target)
        return h.detach()

    def update(self, index: int) -> Tensor | None:
        """Update on a batch with the gradient that can be had now; returns ∂/∂x, or None where there is none yet."""
        pending = self.pending[index]
        grad_output = self.method.now(pending.h.detach(), pending.target)
        if self.is_last:
            self.loss = self.method.loss  # type: ignore[attr-defined]
            del self.pending[index]  # nothing comes back from behind the last stage
        return None if grad_output is None else self._backward(pending, grad_output)

    def learn(self, index: int, grad_output: Tensor) -> Tensor | None:
        """Take the gradient that came back for a batch, shaped like its h; returns ∂/∂x where the update had waited."""
        pending = self.pending.pop(index)
        if not pending.updated:
            return self._backward(pending, grad_output)
        self.synthesizer_loss = self.method.learn(pending.h, pending.target, grad_output)
        return None

    def holds_input(self, index: int) -> bool:
        """Whether a batch's x is still needed: its update waits for the true gradient."""
        return index in self.pending and not self.pending[index].updated

    def forget(self, index: int) -> None:
        """No gradient will come back for this batch: its activation was not sent."""
        del self.pending[index]

    def _backward(self, pending: Pending, grad_output: Tensor) -> Tensor | None:
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)
        if pending.h.requires_grad:
            torch.autograd.backward(pending.h, grad_output)
        if self.optimizer is not None:
            self.optimizer.step()
        self.weight_version += 1
        pending.h, pending.updated = pending.h.detach(), True
        if self.is_first:
            return None
        return torch.zeros_like(pending.x) if pending.x.grad is None else pending.x.grad

    def state_dict(self) -> dict[str, Any]:
        """Everything the stage would need to go on from here, but for the batches under way."""
        return {
            "module": self.module.state_dict(),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "method": self.method.state_dict(),
            "weight_version": self.weight_version,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.module.load_state_dict(state["module"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.method.load_state_dict(state["method"])
        self.weight_version = state["weight_version"]


@dataclass(frozen=True)
class StageSpec:
    """All that a stage is made from; picklable, so that it can be made in another process."""

    index: int
    num_stages: int
    module: nn.Sequential
    method: str
    optimizer: OptimizerFactory
    loss_fn: Loss
    synthesizer: nn.Module | None  # None in the last stage, and for backprop
    synthesizer_lr: float | None  # None: that of the stage's optimizer
    classes: int  # of the labels that the synthesizer sees, 0 where it sees none

    @property
    def layers(self) -> list[str]:
        """Names of the stage's blocks in the network."""
        return [name for name, _ in self.module.named_children()]

    def build(self, device: torch.device) -> Stage:
        """The stage, on `device`."""
        module = self.module.to(device).train()
        parameters = list(module.parameters())
        optimizer = self.optimizer(parameters) if parameters else None
        is_first, is_last = self.index == 0, self.index == self.num_stages - 1
        return Stage(module, optimizer, self._build_method(device, optimizer), is_first=is_first, is_last=is_last)

    def _build_method(self, device: torch.device, optimizer: Optimizer | None) -> Method:
        if self.index == self.num_stages - 1:
            loss_fn = self.loss_fn.to(device) if isinstance(self.loss_fn, nn.Module) else self.loss_fn
            return LossGradient(loss_fn)
        if self.synthesizer is None:
            return TrueGradient()
        synthesizer = self.synthesizer.to(device).train()
        lr = self.synthesizer_lr
        if lr is None:
            lr = optimizer.param_groups[0]["lr"] if optimizer is not None else 1e-3
        return SyntheticGradient(synthesizer, Adam(synthesizer.parameters(), lr=lr, fused=True), self.classes)

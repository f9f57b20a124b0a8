"""How a stage comes by the gradient that it updates with.

`now` answers with the gradient of the loss with respect to the stage's output h, or with None where the stage has to
wait for the true one. `learn` is told the gradient that came back from the next stage, for a batch that `now` answered.

    last stage             LossGradient       ∂L/∂h, from the loss itself
    backprop               TrueGradient       None: the update waits
    dni, cdni              SyntheticGradient  M(h) or M(h, y), and M learns ‖M(h) − δ‖²

(Jaderberg et al., *Decoupled Neural Interfaces using Synthetic Gradients*, arXiv 1608.05343, section 2.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .synthesizer import one_hot

Loss = Callable[[Tensor, Tensor], Tensor]
"""`CrossEntropyLoss`'s signature: outputs `[batch, ...]`, targets `[batch, ...]` → a scalar, a mean over the batch."""


class Method(Protocol):
    """What a stage asks of its method."""

    def now(self, h: Tensor, target: Tensor) -> Tensor | None:
        """The gradient to update with at once, shaped like h, or None: wait for the true one."""

    def learn(self, h: Tensor, target: Tensor, grad_output: Tensor) -> Tensor | None:
        """Learn from the gradient that came back; returns the loss of what was learnt, a scalar."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""


class LossGradient:
    """The last stage's: the gradient of the loss. Keeps the loss of the newest batch in `loss`, a scalar tensor."""

    def __init__(self, loss_fn: Loss) -> None:
        self.loss_fn = loss_fn
        self.loss = torch.tensor(0.0)

    def now(self, h: Tensor, target: Tensor) -> Tensor:
        leaf = h.detach().requires_grad_()
        loss = self.loss_fn(leaf, target)
        self.loss = loss.detach()
        (grad,) = torch.autograd.grad(loss, leaf)
        return grad

    def learn(self, h: Tensor, target: Tensor, grad_output: Tensor) -> Tensor | None:
        raise RuntimeError("no stage comes after the last")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class TrueGradient:
    """Locked backpropagation: nothing is known until the true gradient comes, and there is nothing to learn from it."""

    def now(self, h: Tensor, target: Tensor) -> None:
        return None

    def learn(self, h: Tensor, target: Tensor, grad_output: Tensor) -> None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class SyntheticGradient:
    """DNI and cDNI: a synthesizer predicts the gradient, and learns from the one that comes back.

    `classes` is the number of classes of the labels that the synthesizer sees, 0 where it sees none. Predictions and
    targets are per-sample gradients; those of stages are of a batch mean, so they differ by the number of rows.
    """

    def __init__(self, synthesizer: nn.Module, optimizer: Optimizer, classes: int = 0) -> None:
        self.synthesizer, self.optimizer, self.classes = synthesizer, optimizer, classes

    def now(self, h: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            return self._predict(h, target).div_(len(h))

    def learn(self, h: Tensor, target: Tensor, grad_output: Tensor) -> Tensor:
        """One step on the squared error, summed over features and averaged over the batch, of a fresh prediction.

        The prediction made by `now` would save a product of matrices, but regressing on what older weights said is a
        delayed feedback loop, and oscillates.
        """
        rows = len(h)
        # Σ (M(h) − rows·δ)² / rows has the gradient 2 (M(h) − rows·δ) / rows with respect to the prediction, which is
        # handed to autograd as it is: one pass over the features instead of four.
        self.optimizer.zero_grad(set_to_none=True)
        prediction = self._predict(h, target)
        with torch.no_grad():
            error = torch.sub(prediction, grad_output, alpha=rows)
            loss = error.square().sum() / rows
        prediction.backward(error.mul_(2 / rows))
        self.optimizer.step()
        return loss

    def _predict(self, h: Tensor, target: Tensor) -> Tensor:
        return self.synthesizer(h, one_hot(target, self.classes) if self.classes else None)

    def state_dict(self) -> dict[str, Any]:
        return {"synthesizer": self.synthesizer.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.synthesizer.load_state_dict(state["synthesizer"])
        self.optimizer.load_state_dict(state["optimizer"])

"""How a stage comes by the gradient that it updates with.

`now` answers with the gradient of the loss with respect to the stage's output h, or with None where the stage has to
wait for the true one. `learn` is told the gradient that came back from the next stage, for a batch that `now` answered.

    last stage             LossGradient       ∂L/∂h, from the loss itself
    backprop, delayed      TrueGradient       None: the update waits (backprop: for each batch; delayed: some batches)
    dni, cdni              SyntheticGradient  M(h) or M(h, y), and M learns ‖M(h) − δ‖²

(Jaderberg et al., *Decoupled Neural Interfaces using Synthetic Gradients*, arXiv 1608.05343, section 2.)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .divergence import check_loss
from .optimizer_state import clear_gradients, load_optimizer_state, optimizer_state
from .precision import matmul_precision, prediction_precision

Loss = Callable[[Tensor, Tensor], Tensor]
"""`CrossEntropyLoss`'s signature: outputs `[batch, ...]`, targets `[batch, ...]` → a scalar, a mean over the batch."""


class Method(Protocol):
    """What a stage asks of its method."""

    waits: bool  # whether `now` answers None
    late: bool  # whether the stage updates on other batches between a batch's forward and backward pass
    loss: Tensor | None  # of the newest batch that `now` or `learn` saw, a scalar; None where there is none

    def now(self, h: Tensor, target: Tensor) -> Tensor | None:
        """The gradient to update with at once, shaped like h, or None: wait for the true one."""

    def learn(self, h: Tensor, target: Tensor, grad_output: Tensor) -> None:
        """Learn from the gradient that came back."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""


class LossGradient:
    """The last stage's: the gradient of the loss."""

    waits = late = False

    def __init__(self, loss_fn: Loss) -> None:
        self.loss_fn = loss_fn
        self.loss: Tensor | None = None

    def now(self, h: Tensor, target: Tensor) -> Tensor:
        leaf, self.loss = h.detach().requires_grad_(), None
        loss = self.loss_fn(leaf, target)
        check_loss(loss.detach(), "loss")
        self.loss = loss.detach()
        (grad,) = torch.autograd.grad(loss, leaf)
        return grad

    def learn(self, h: Tensor, target: Tensor, grad_output: Tensor) -> None:
        raise RuntimeError("no stage comes after the last")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class TrueGradient:
    """The update waits for the true gradient, and there is nothing else to learn from it."""

    waits = True
    loss: Tensor | None = None

    def __init__(self, *, late: bool = False) -> None:
        self.late = late  # whether other updates come between a batch's forward pass and its own

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

    `conditioned`: the synthesizer sees the labels (cDNI). Predictions and targets are per-sample gradients; those of
    stages are of a batch mean, so they differ by the number of rows. `precision`: of the synthesizer's products
    (`precision.py`), None: by their size. A prediction's own error is far larger than what is rounded off.
    """

    waits = late = False

    def __init__(
        self, synthesizer: nn.Module, optimizer: Optimizer, *, conditioned: bool, precision: str | None
    ) -> None:
        self.synthesizer, self.optimizer, self.conditioned = synthesizer, optimizer, conditioned
        self.precision = precision
        self._parameters = list(synthesizer.parameters())
        self._set_gradients = getattr(synthesizer, "set_gradients", None)  # of one that needs no autograd
        self.loss: Tensor | None = None

    def now(self, h: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad(), self._multiplying(h):
            prediction = self._predict(h, target)
            return torch.div(prediction, len(h), out=self._room(prediction))

    def learn(self, h: Tensor, target: Tensor, grad_output: Tensor) -> None:
        """One step on the squared error, summed over features and averaged over the batch, of a fresh prediction.

        The prediction made by `now` would save a product of matrices, but regressing on what older weights said is a
        delayed feedback loop, and oscillates.
        """
        rows = len(h)
        # Σ (M(h) − rows·δ)² / rows has the gradient 2 (M(h) − rows·δ) / rows with respect to the prediction, which is
        # handed on as it is: one pass over the features instead of four.
        clear_gradients(self._parameters)
        self.loss = None
        with self._multiplying(h):
            with torch.set_grad_enabled(self._set_gradients is None):
                prediction = self._predict(h, target)
            with torch.no_grad():
                error = torch.sub(prediction, grad_output, alpha=rows, out=self._room(prediction))
                loss = torch.linalg.vector_norm(error).square_().div_(rows)
            check_loss(loss, "synthesizer's loss")
            self.loss = loss
            error.mul_(2 / rows)
            if self._set_gradients is None:
                prediction.backward(error)
            else:
                self._set_gradients(h, self._labels(target), error)
        self.optimizer.step()

    def _room(self, prediction: Tensor) -> Tensor | None:
        """Where what is made of a prediction goes: into it, unless autograd, or somebody else, may want it as it is."""
        return None if self._set_gradients is None else prediction

    def _multiplying(self, h: Tensor) -> AbstractContextManager[None]:
        return matmul_precision(prediction_precision(self.precision, h), h.device)

    def _predict(self, h: Tensor, target: Tensor) -> Tensor:
        return self.synthesizer(h, self._labels(target))

    def _labels(self, target: Tensor) -> Tensor | None:
        return target if self.conditioned else None

    def state_dict(self) -> dict[str, Any]:
        return {
            "synthesizer": self.synthesizer.state_dict(),
            "optimizer": optimizer_state(self.optimizer, self.synthesizer),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.synthesizer.load_state_dict(state["synthesizer"])
        load_optimizer_state(self.optimizer, self.synthesizer, state["optimizer"])

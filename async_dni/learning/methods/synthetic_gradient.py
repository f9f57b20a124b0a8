"""DNI's gradient: predicted by a synthesizer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..divergence import check_loss
from ..optimizer_state import clear_gradients, load_optimizer_state, optimizer_state
from ..precision import matmul_precision
from ..updates.model_adam import ModelAdam
from .method import Method, MethodParts, rate_of_model


class SyntheticGradient(Method):
    """DNI and cDNI: a synthesizer predicts the gradient, and learns from the one that comes back.

    `conditioned`: the synthesizer sees the labels (cDNI), or what `condition` makes of the targets. Predictions and targets
    are per-sample gradients; those of stages are of a batch mean, so they differ by the number of rows. `precision`: of the
    synthesizer's products (`precision.py`), None: as PyTorch is set. A prediction's own error is far larger than what is
    rounded off.
    """

    predicts = True
    model: nn.Module
    optimizer: Optimizer

    def __init__(
        self,
        synthesizer: nn.Module,
        optimizer: Optimizer,
        *,
        conditioned: bool,
        precision: str | None,
        condition: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.model, self.optimizer, self.conditioned, self.condition = synthesizer, optimizer, conditioned, condition
        self.precision = precision
        self._parameters = list(synthesizer.parameters())
        self._set_gradients = getattr(synthesizer, "set_gradients", None)  # of one that needs no autograd

    def now(self, h: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad(), self._multiplying(h):
            prediction = self.model(h, self._labels(target))
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
        labels = self._labels(target)
        with self._multiplying(h):
            with torch.set_grad_enabled(self._set_gradients is None):
                prediction = self.model(h, labels)
            with torch.no_grad():
                error = torch.sub(prediction, grad_output, alpha=rows, out=self._room(prediction))
                loss = torch.linalg.vector_norm(error).square_().div_(rows)
            check_loss(loss, "synthesizer's loss")
            self.loss = loss
            error.mul_(2 / rows)
            if self._set_gradients is None:
                prediction.backward(error)
            else:
                self._set_gradients(h, labels, error)
        self.optimizer.step()

    def _room(self, prediction: Tensor) -> Tensor | None:
        """Where what is made of a prediction goes: into it, unless autograd, or somebody else, may want it as it is."""
        return None if self._set_gradients is None else prediction

    def _multiplying(self, h: Tensor) -> AbstractContextManager[None]:
        return matmul_precision(self.precision, h.device)

    def _labels(self, target: Tensor) -> Tensor | None:
        if not self.conditioned:
            return None
        return target if self.condition is None else self.condition(target)

    def state_dict(self) -> dict[str, Any]:
        return {
            "synthesizer": self.model.state_dict(),
            "optimizer": optimizer_state(self.optimizer, self.model),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["synthesizer"])
        load_optimizer_state(self.optimizer, self.model, state["optimizer"])


def make_synthetic_gradient(parts: MethodParts) -> SyntheticGradient:
    """Of a stage's synthesizer, with an Adam of its own."""
    assert parts.synthesizer is not None
    return SyntheticGradient(
        parts.synthesizer,
        ModelAdam(parts.synthesizer.parameters(), lr=rate_of_model(parts)),
        conditioned=parts.classes > 0,
        precision=parts.synthesizer_matmul_precision,
        condition=parts.condition,
    )

"""A method in a stage that computes in half precision."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..autocast import widened
from .method import Method


class InFloat32(Method):
    """Another method, which sees outputs, and gradients that come back, in float32, and answers in it."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self.waits, self.late, self.predicts = method.waits, method.late, method.predicts
        self.model, self.optimizer, self.model_name = method.model, method.optimizer, method.model_name

    @property
    def loss(self) -> Tensor | None:  # type: ignore[override]
        """The method's own."""
        return self._method.loss

    def now(self, h: Any, target: Tensor) -> Any:
        return self._method.now(widened(h), target)

    def learn(self, h: Any, target: Tensor, grad_output: Any) -> None:
        self._method.learn(widened(h), target, widened(grad_output))

    def state_dict(self) -> dict[str, Any]:
        return self._method.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._method.load_state_dict(state)

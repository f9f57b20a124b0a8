"""A method for an output of several tensors: one of its kind for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..structure import Gradient, all_of
from .method import Method


class Several(Method):
    """`now` and `learn` of each carrying part of an output, by a method of its own.

    A method takes the samples in rows, so they are moved to the front of a part, and back of what it predicts. `dims`:
    which dimension of each part counts the samples. The loss is the sum of the parts'.
    """

    def __init__(self, methods: Sequence[Method], dims: Sequence[int]) -> None:
        self.methods, self.dims = list(methods), list(dims)
        self.waits, self.late, self.predicts = (
            any(getattr(method, name) for method in methods) for name in ("waits", "late", "predicts")
        )
        models = [method.model for method in methods if method.model is not None]
        self.model = nn.ModuleList(models) if models else None

    def now(self, h: Gradient, target: Tensor) -> Gradient | None:
        self.loss = None
        found = []
        for method, dim, part in zip(self.methods, self.dims, all_of(h), strict=True):
            gradient = method.now(part.movedim(dim, 0), target)
            if gradient is None:
                return None
            assert isinstance(gradient, Tensor)
            found.append(gradient.movedim(0, dim))
        return tuple(found)

    def learn(self, h: Gradient, target: Tensor, grad_output: Gradient) -> None:
        every = zip(self.methods, self.dims, all_of(h), all_of(grad_output), strict=True)
        for method, dim, part, gradient in every:
            method.learn(part.movedim(dim, 0), target, gradient.movedim(dim, 0))
        losses = [method.loss for method in self.methods if method.loss is not None]
        self.loss = sum(losses[1:], losses[0]) if losses else None

    def state_dict(self) -> dict[str, Any]:
        return {str(index): method.state_dict() for index, method in enumerate(self.methods)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for index, method in enumerate(self.methods):
            method.load_state_dict(state[str(index)])

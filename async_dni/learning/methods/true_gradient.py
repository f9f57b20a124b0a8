"""The gradient that comes back from the loss."""

from __future__ import annotations

from torch import Tensor

from .method import Method


class TrueGradient(Method):
    """The update waits for the true gradient, and there is nothing else to learn from it."""

    waits = True

    def __init__(self, *, late: bool = False) -> None:
        self.late = late  # whether other updates come between a batch's forward pass and its own

    def now(self, h: Tensor, target: Tensor) -> None:
        return None

"""A batch whose gradient has not come back yet, as a stage keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .structure import Gradient, all_of, one_or_all


@dataclass
class Deferred:
    """What a ∂/∂x is made of that goes upstream when the batch is learnt from."""

    x: list[Tensor]  # all parts of the input, copied: the slot it came in is another's by then
    grad_input: Sequence[Tensor] | None = None  # the bootstrapped ∂/∂x; None where the update gave none

    def mixed(self, true: Sequence[Tensor], share: float) -> Sequence[Tensor]:
        """(1 − share)·bootstrapped + share·true; true alone where there is no other."""
        if self.grad_input is None:
            return true
        return [torch.lerp(own, other, share) for own, other in zip(self.grad_input, true, strict=True)]


@dataclass
class Pending:
    """A batch whose gradient has not come back yet."""

    # the parts of the input; None when the stage has updated on the batch: the slot it came in is another's by then
    x: list[Tensor] | None
    h: list[Tensor]  # the parts of the output that carry gradients, with their graph, until the stage has updated on it
    target: Tensor
    deferred: Deferred | None = None  # where ∂/∂x has not gone upstream with the update

    @property
    def grad_input(self) -> Gradient | None:
        """The bootstrapped ∂/∂x, if there is one that has not gone upstream."""
        found = None if self.deferred is None else self.deferred.grad_input
        return one_or_all(found) if found else None

    def as_dict(self, index: int) -> dict[str, Any]:
        """For a checkpoint."""
        state = {"index": index, "h": one_or_all(self.h), "target": self.target}
        if self.deferred is None:
            return state
        found = self.deferred.grad_input
        return {
            **state,
            "deferred": {"x": list(self.deferred.x), "grad_input": None if found is None else list(found)},
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> Pending:
        """What `as_dict` gave."""
        deferred = Deferred(**state["deferred"]) if "deferred" in state else None
        return cls(None, list(all_of(state["h"])), state["target"], deferred)

"""The scale of the gradients in a stage that computes in float16, whose smallest number is 6e-8.

What the stage backpropagates is multiplied by it, and what comes out of that is divided again, in float32. As
`torch.amp.GradScaler` does, it halves the scale where a gradient was not finite, and passes that update over; after 2,000
in a row that were, it doubles the scale. Each stage has one of its own. A gradient that is not finite under the least scale
either is wrong by itself, and is what `on_divergence` is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..divergence import DivergenceError, is_finite

FIRST, LEAST, INTERVAL = 2.0**16, 2.0**-16, 2000


class Float16OverflowError(DivergenceError):
    """A gradient was too large for float16 under this scale: the update is passed over, and the next has a smaller one."""


class LossScale:
    """A stage's; a power of two, so that nothing is rounded by it."""

    def __init__(self) -> None:
        self.scale, self._finite = FIRST, 0

    def scaled(self, gradient: Tensor, dtype: torch.dtype) -> Tensor:
        """What is to be backpropagated, in the type of the output."""
        return (gradient.float() * self.scale).to(dtype)

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divide what came of it, in float32, in place.

        Raises `Float16OverflowError` where a number is not finite, `DivergenceError` where no scale can help that.
        """
        for gradient in gradients:
            gradient.mul_(1 / self.scale)
        if all(map(is_finite, gradients)):
            self._finite += 1
            if self._finite == INTERVAL:
                self.scale, self._finite = self.scale * 2, 0
            return
        was, self.scale, self._finite = self.scale, self.scale / 2, 0
        if was <= LEAST:
            self.scale = FIRST  # for the batches after those, if they are passed over
            raise DivergenceError(f"a gradient is not finite, in float16 with a scale of {was:g} either")
        raise Float16OverflowError(f"a gradient is too large for float16 with a scale of {was:g}")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"scale": self.scale, "finite": self._finite}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.scale, self._finite = state["scale"], state["finite"]

"""A batch, as a stage takes it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a stage takes: the activation of the stage before (stage 0: the samples) and the targets."""

    index: int
    x: Tensor  # [batch, *features]
    target: Tensor  # [batch, ...]

"""A batch, as a stage takes it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .structure import Structure, mapped


@dataclass(frozen=True)
class Batch:
    """What a stage takes: what the stage before puts out (stage 0: the samples) and the targets."""

    index: int
    x: Structure  # [batch, *features]
    target: Tensor  # [batch, ...]

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(self.index, mapped(lambda part: part.to(device), self.x), self.target.to(device))

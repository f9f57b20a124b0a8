"""What is to be trained, and how; checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from ..config import TrainerConfig
from ..learning.condition import OwnCondition
from ..learning.methods import METHODS, Loss, MethodSpec
from ..learning.stage import OptimizerFactory
from ..record.progress import Progress

OwnSynthesizer = Callable[[Sequence[int], int], nn.Module]
"""Shape of one sample of the stage's output, classes of the labels that it sees, or numbers in a row (0: it sees none)."""


@dataclass(frozen=True)
class Job:
    """What a `Trainer` was made with."""

    model: nn.Sequential
    config: TrainerConfig
    optimizer: OptimizerFactory
    loss_fn: Loss
    synthesizer: OwnSynthesizer | None  # a user's own
    devices: list[str]  # one a stage
    progress: Progress
    condition: OwnCondition | None = None  # a user's own

    @property
    def method(self) -> MethodSpec:
        """How stages come by their gradients."""
        return METHODS[self.config.method]

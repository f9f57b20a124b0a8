"""What is to be trained, and how; checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..config import TrainerConfig
from ..learning.condition import OwnCondition
from ..learning.methods import METHODS, Loss, MethodSpec
from ..learning.schedules import SchedulerFactory
from ..learning.stage import OptimizerFactory
from ..learning.updates.habits import ParamGroups
from ..record.callback import Callback
from ..record.progress import Progress
from ..runtime.hosts.place import Place
from ..runtime.machine.device import threads_per_worker

OwnSynthesizer = Callable[[Sequence[int], int], nn.Module]
"""Shape of one sample of the stage's output, classes of the labels that it sees, or numbers in a row (0: it sees none)."""

OwnHead = Callable[[Sequence[int], Sequence[int]], nn.Module]
"""Shapes of one sample of the stage's output and of the network's."""


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
    place: Place  # which stages are on this host
    addresses: Sequence[str]  # of the hosts; of one alone, nothing
    condition: OwnCondition | None = None  # a user's own
    metrics: Mapping[str, Any] = field(default_factory=dict)  # a user's own, by name
    callbacks: Sequence[Callback] = ()
    scheduler: SchedulerFactory | None = None
    param_groups: ParamGroups | None = None
    auxiliary_head: OwnHead | None = None  # a user's own

    @property
    def threads(self) -> int:
        """Of each worker's arithmetic on this host."""
        return threads_per_worker(self.config, self.place.workers_beside)

    @property
    def method(self) -> MethodSpec:
        """How stages come by their gradients."""
        return METHODS[self.config.method]

"""How the stages of a run are trained, beside their method: groups of parameters, rates, accumulation, averages, autocast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..methods.in_float32 import InFloat32
from ..methods.method import Method
from ..schedules import SchedulerFactory
from ..structure import Output
from .averaging import Average
from .loss_scale import LossScale
from .rates import FollowingRates, Rates
from .updater import Updater

ParamGroups = Callable[[nn.Module], Sequence[dict[str, Any]]]
"""A stage's layers, whose parameters have the names that they have in the network → groups, as optimizers take them."""


@dataclass(frozen=True)
class Habits:
    """What all stages have in common, and `lr`, which each may have its own of. Picklable."""

    scheduler: SchedulerFactory | None = None
    schedules_model: bool = True  # whether the method's own model, a synthesizer, has the schedule, too
    param_groups: ParamGroups | None = None
    lr: float | None = None  # None: the optimizer's own
    accumulate: int = 1  # batches a step
    steps: int | None = None  # of the whole stream
    ema: float | None = None  # decay of the average of the weights
    autocast: str | None = None  # "bfloat16" or "float16"
    output_dtypes: tuple[torch.dtype, ...] | None = (
        None  # of the output's parts under autocast, whatever the device's rules
    )

    def make_optimizer(self, optimizer: Callable[[Iterable[Any]], Optimizer], module: nn.Module) -> Optimizer | None:
        """The optimizer of a stage's layers; None where none has a parameter to train."""
        parameters: list[Any] = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not parameters:
            return None
        made = optimizer(parameters if self.param_groups is None else list(self.param_groups(module)))
        if self.lr is not None:
            own = made.defaults["lr"]
            for group in made.param_groups:  # those with a rate of their own keep their share
                group["lr"] = self.lr if group["lr"] == own else group["lr"] * (self.lr / own)
        return made

    def typed(self, output: Output) -> Habits:
        """Those of a stage with this output."""
        return (
            self if self.autocast is None else replace(self, output_dtypes=tuple(part.dtype for part in output.parts))
        )

    def seen(self, method: Method) -> Method:
        """The method, as it sees what the stage puts out."""
        return method if self.autocast is None or method.waits else InFloat32(method)

    def make_updater(
        self,
        factory: Callable[[Iterable[Any]], Optimizer],
        module: nn.Module,
        optimizer: Optimizer | None,
        method: Method,
        clip_grad_norm: float | None = None,
    ) -> Updater:
        """Of a stage's layers, their optimizer, and those of the method's own models, if it has any."""
        rates, following = None, list[FollowingRates]()
        if self.scheduler is not None:
            models = [each.optimizer for each in getattr(method, "methods", [method]) if each.optimizer is not None]
            if models and self.schedules_model:
                like = optimizer or factory([nn.Parameter(torch.zeros(1))])
                following = [FollowingRates(model, like, self.scheduler) for model in models]
            rates = None if optimizer is None else Rates(optimizer, self.scheduler)
        return Updater(
            module,
            optimizer,
            rates=rates,
            model_rates=following,
            accumulate=self.accumulate,
            steps=self.steps,
            average=None if self.ema is None else Average(module, self.ema),
            loss_scale=LossScale() if self.autocast == "float16" else None,
            clip_grad_norm=clip_grad_norm,
        )

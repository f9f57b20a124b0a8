"""How the stages are trained, beside their method: of what the settings and a user's own functions say; tried out."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..config import TrainerConfig
from ..foundation.error import ConfigError, reason
from ..learning.schedules import SCHEDULES, SchedulerFactory
from ..learning.stage import StageSpec
from ..learning.updates.habits import Habits
from ..learning.updates.rates import FollowingRates, Rates
from .job import Job


def make_habits(job: Job, steps: int) -> list[Habits]:
    """Of each stage, in a run of so many steps in all. Raises `ConfigError`."""
    config = job.config
    common = Habits(
        scheduler=_scheduler(job, steps),
        schedules_model=config.synthesizer_lr_schedule == "same",
        param_groups=job.param_groups,
        accumulate=config.accumulate,
        steps=steps,
        ema=config.ema,
        autocast=config.autocast,
    )
    return [dataclasses.replace(common, lr=lr) for lr in config.stage_lr or [None] * config.workers]


def changed_schedule(job: Job, start: int, steps: int, planned: int | None) -> str | None:
    """A sentence where a run that goes on from batch `start` has another rate there than it had planned: a named schedule
    goes by the number of steps in all, which was `planned`."""
    if planned is None or planned <= job.config.warmup or job.scheduler is not None:
        return None
    rates = [_rate_at(_scheduler(job, length), start) for length in (planned, steps)]
    if rates[0] == rates[1]:
        return None
    name = job.config.lr_schedule
    return f"the learning rate jumps: the schedule {name} is that of {steps} steps now, and was that of {planned}"


def _rate_at(scheduler: SchedulerFactory | None, index: int) -> float:
    """What the rate of a batch is multiplied by."""
    if scheduler is None:
        return 1.0
    rates = Rates(SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9), scheduler)
    rates.at(index)
    return rates.factor


def _scheduler(job: Job, steps: int) -> SchedulerFactory | None:
    name, warmup = job.config.lr_schedule, job.config.warmup
    is_constant = name == TrainerConfig.lr_schedule and not warmup
    if job.scheduler is not None:
        if not is_constant:
            setting, given = ("warmup", warmup) if warmup else ("lr_schedule", name)
            raise ConfigError(setting, given, "a scheduler is given, too; allowed: one of the two")
        return job.scheduler
    if is_constant:
        return None
    if warmup >= steps:
        raise ConfigError("warmup", warmup, f"the run has {steps} steps in all; allowed: fewer than that")
    return partial(SCHEDULES[name].make, steps=steps, warmup=warmup)


def check_habits(stages: Sequence[StageSpec]) -> None:
    """Raise `ConfigError`, naming the stage's blocks, where its optimizer or its schedule can't be made."""
    for stage in stages:
        where = f"of the stage with blocks {', '.join(stage.layers)}"
        optimizer = _make_optimizer(stage, where)
        if optimizer is not None and stage.habits.param_groups is not None:
            _check_groups(stage.module, optimizer, stage.habits.param_groups, where)
        if optimizer is not None and stage.habits.scheduler is not None:
            _check_scheduler(stage.habits.scheduler, optimizer, stage.habits.steps or 0)
        model = "synthesizer" * (stage.synthesizer is not None) or "auxiliary head" * (stage.auxiliary_head is not None)
        if stage.habits.scheduler is not None and stage.habits.schedules_model and model:
            like = _make_optimizer(stage, where) or stage.optimizer([nn.Parameter(torch.zeros(1))])
            _check_following(stage.habits.scheduler, like, model, where)


def _make_optimizer(stage: StageSpec, where: str) -> Optimizer | None:
    habits = stage.habits
    if habits.lr is None and habits.param_groups is None and habits.scheduler is None:
        return None
    try:
        return habits.make_optimizer(stage.optimizer, stage.module)
    except Exception as error:
        if habits.param_groups is not None:
            name, setting = _name(habits.param_groups), "param_groups"
        elif habits.lr is not None:
            name, setting = str(habits.lr), "stage_lr"
        else:
            name, setting = _name(stage.optimizer), "optimizer"
        raise ConfigError(setting, name, f"no optimizer {where} can be made with it ({reason(error)})") from error


def _check_groups(module: nn.Module, optimizer: Optimizer, given: Any, where: str) -> None:
    """Optimizers refuse a parameter that is in two groups; one that is in none would not be trained."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    grouped = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if not grouped <= set(names):
        raise ConfigError("param_groups", _name(given), f"it gives what is no parameter {where}; allowed: its own")
    left = [name for parameter, name in names.items() if parameter.requires_grad and parameter not in grouped]
    if left:
        found = f"{', '.join(left)} {where} {'is' if len(left) == 1 else 'are'} in no group"
        raise ConfigError("param_groups", _name(given), f"{found}; allowed: each that is trained in one")


def _check_scheduler(factory: SchedulerFactory, optimizer: Optimizer, steps: int) -> None:
    """Raise `ConfigError` unless it makes a scheduler that is stepped batch by batch, to the end."""
    allowed = "allowed: a function of an optimizer, such as partial(StepLR, step_size=1000)"
    name = _name(factory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made: Any = factory(optimizer)
            if isinstance(made, LRScheduler) and not isinstance(made, ReduceLROnPlateau):
                made.step()
        except Exception as error:
            raise ConfigError("scheduler", name, f"{allowed} ({reason(error)})") from error
    if isinstance(made, ReduceLROnPlateau):
        why = "it waits for an evaluation, and rates are to depend on the batch index alone"
        raise ConfigError("scheduler", name, f"{why}; allowed: schedulers that are stepped once a batch")
    if not isinstance(made, LRScheduler):
        raise ConfigError("scheduler", name, f"it gives {type(made).__name__}; {allowed}")
    total = getattr(made, "total_steps", None)
    if isinstance(total, int) and total < steps:
        raise ConfigError(
            "scheduler", name, f"it ends after {total} steps, and the run has {steps} in all; allowed: no fewer"
        )


def _check_following(factory: SchedulerFactory, like: Optimizer, model: str, where: str) -> None:
    """Raise `ConfigError` unless the rate of the optimizer of a method's own model can go with that of its layers."""
    theirs = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        FollowingRates(theirs, like, factory).at(1)
    except Exception as error:
        took = f"the {model}'s rate {where} can't go with it ({reason(error)})"
        raise ConfigError(
            "scheduler", _name(factory), f"{took}; allowed: synthesizer_lr_schedule='constant'"
        ) from error


def _name(function: Any) -> str:
    if isinstance(function, partial):
        return _name(function.func)
    return str(getattr(function, "__name__", type(function).__name__))

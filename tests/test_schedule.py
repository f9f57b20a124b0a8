"""Schedules of learning rates: a function of the batch index, whoever asks when."""

from __future__ import annotations

import math
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from async_dni import SCHEDULES
from async_dni.learning.updates.rates import FollowingRates, Rates

STEPS = 20


def sequential(optimizer: Optimizer) -> LRScheduler:
    first, second = LinearLR(optimizer, 0.1, total_iters=4), ExponentialLR(optimizer, 0.8)
    return SequentialLR(optimizer, [first, second], milestones=[4])


FACTORIES = {
    "step": partial(StepLR, step_size=3, gamma=0.5),
    "cosine": partial(CosineAnnealingLR, T_max=7),
    "onecycle": partial(OneCycleLR, max_lr=0.3, total_steps=STEPS),
    "lambda": partial(LambdaLR, lr_lambda=math.cos),
    "sequential": sequential,
    **{f"{name}, by name": partial(SCHEDULES[name].make, steps=STEPS, warmup=3) for name in SCHEDULES},
}


def optimizer(name: str = "adam", lr: float = 0.1) -> Optimizer:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    if name == "adam":
        return Adam([{"params": parameters[:1]}, {"params": parameters[1:], "lr": lr / 10}], lr=lr)
    return SGD(parameters, lr=lr, momentum=0.9) if name == "sgd" else Adagrad(parameters, lr=lr)


def settings(made: Optimizer) -> list[tuple[object, ...]]:
    return [(group["lr"], group.get("betas"), group.get("momentum")) for group in made.param_groups]


def by_hand(kind: str, factory: object) -> list[list[tuple[object, ...]]]:
    """What PyTorch's own loop trains each batch with."""
    made = optimizer(kind)
    scheduler, found = factory(made), []  # type: ignore[operator]
    for _ in range(STEPS):
        found.append(settings(made))
        made.step()
        scheduler.step()
    return found


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize(
    ("name", "kind"),  # PyTorch's OneCycleLR asks for a momentum
    [
        (name, kind)
        for name in FACTORIES
        for kind in ("adam", "sgd", "adagrad")
        if (name, kind) != ("onecycle", "adagrad")
    ],
)
def test_rates_of_a_batch_are_those_of_a_loop(name: str, kind: str) -> None:
    expected = by_hand(kind, FACTORIES[name])
    made = optimizer(kind)
    rates = Rates(made, FACTORIES[name])
    for index in (0, 1, 1, 5, 19, 3, 3, 4, 0, 18):
        rates.at(index)
        assert settings(made) == expected[index]


def rates_of(name: str, steps: int, warmup: int) -> list[float]:
    made = SGD([nn.Parameter(torch.ones(1))], lr=2.0)
    rates = Rates(made, partial(SCHEDULES[name].make, steps=steps, warmup=warmup))
    found = []
    for index in range(steps):
        rates.at(index)
        found.append(made.param_groups[0]["lr"])
    return found


def test_schedules_by_name() -> None:
    assert list(SCHEDULES) == ["constant", "cosine", "step", "onecycle"]
    assert rates_of("constant", 5, 0) == [2] * 5
    assert rates_of("constant", 6, 4) == [0.5, 1, 1.5, 2, 2, 2]
    assert rates_of("cosine", 4, 0) == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)])
    assert rates_of("cosine", 6, 2) == pytest.approx(
        [1, 2, 2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)][:2] + rates_of("cosine", 4, 0)
    )
    assert rates_of("step", 8, 0) == pytest.approx([2] * 4 + [0.2] * 2 + [0.02] * 2)
    cycle = rates_of("onecycle", 11, 0)
    assert max(cycle) == pytest.approx(2, rel=0.1)
    assert cycle[0] == pytest.approx(2 / 25)
    assert cycle[-1] < 1e-4
    assert rates_of("onecycle", 20, 5).index(max(rates_of("onecycle", 20, 5))) == 4
    assert len(rates_of("onecycle", 1, 0)) == 1
    assert all(pickle.loads(pickle.dumps(SCHEDULES[name])) == SCHEDULES[name] for name in SCHEDULES)


@pytest.mark.parametrize("name", FACTORIES)
def test_a_synthesizer_s_rate_is_multiplied_by_the_same_factor(name: str) -> None:
    expected = by_hand("adam", FACTORIES[name])
    theirs, ours = optimizer(), Adam([nn.Parameter(torch.ones(1))], lr=0.5)
    following = FollowingRates(ours, theirs, FACTORIES[name])
    rates = Rates(theirs, FACTORIES[name])
    for layers, model in ((3, 1), (9, 7), (10, 4)):  # it learns from older batches
        rates.at(layers)
        following.at(model)
        assert settings(theirs) == expected[layers]
        assert ours.param_groups[0]["lr"] == pytest.approx(0.5 * expected[model][0][0] / 0.1)  # type: ignore[operator]
        assert ours.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(("first", "expected"), [(0.0, 0.25), (0.2, 0.25)])
def test_a_group_without_a_rate_has_no_factor(first: float, expected: float) -> None:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (first, 0.4)]
    ours = Adam([nn.Parameter(torch.ones(1))], lr=1.0)
    following = FollowingRates(ours, SGD(groups, lr=1.0), partial(StepLR, step_size=2, gamma=0.5))
    following.at(5)
    assert ours.param_groups[0]["lr"] == expected


def test_no_group_with_a_rate_leaves_the_synthesizer_its_own() -> None:
    ours = Adam([nn.Parameter(torch.ones(1))], lr=1.0)
    following = FollowingRates(ours, SGD([nn.Parameter(torch.ones(1))], lr=0.0), partial(StepLR, step_size=2))
    following.at(5)
    assert ours.param_groups[0]["lr"] == 1.0

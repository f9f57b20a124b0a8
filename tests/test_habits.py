"""Schedules, groups of parameters, accumulation and averages: to the bit what PyTorch's own loop does, in any process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from slow import slowed
from test_parity import assert_same_bits, everything, seeded_fcn, train
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from async_dni import ConfigError, Trainer, fcn
from async_dni.data.stream import BatchStream
from async_dni.learning.updates.updater import Updater
from async_dni.record.checkpoint import load_checkpoint

STEPS, SIZE = 10, 300
SCHEDULERS = {
    "step": partial(StepLR, step_size=3, gamma=0.5),
    "cosine": partial(CosineAnnealingLR, T_max=STEPS),
    "onecycle": partial(OneCycleLR, max_lr=0.01, total_steps=STEPS),
}
OPTIMIZERS = {"sgd": partial(SGD, lr=0.05, momentum=0.9), "adam": partial(Adam, lr=1e-3)}
ALL = {"scheduler": SCHEDULERS["onecycle"], "accumulate": 3, "ema": 0.8}


def decayed(module: nn.Module) -> list[dict[str, Any]]:
    """Weights decay, biases don't, and those of the first block have a rate of their own."""
    named = list(module.named_parameters())
    weights = [weight for name, weight in named if weight.dim() > 1 and not name.startswith("0.")]
    own = [weight for name, weight in named if weight.dim() > 1 and name.startswith("0.")]
    biases = [weight for _, weight in named if weight.dim() == 1]
    return [{"params": weights, "weight_decay": 0.1}, {"params": own, "lr": 1e-4}, {"params": biases}]


def by_hand(
    data: Any,
    optimizer: Callable[[Any], Optimizer],
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    groups: Callable[[nn.Module], Any] = lambda model: model.parameters(),
    accumulate: int = 1,
) -> Iterator[nn.Sequential]:
    """The network after each batch of PyTorch's own loop."""
    model = seeded_fcn(6)
    made = optimizer(groups(model))
    schedule = scheduler and scheduler(made)
    batches = list(BatchStream(data, SIZE, STEPS, seed=0))
    for batch in batches:
        nn.functional.cross_entropy(model(batch.x), batch.target).backward()
        place = batch.index % accumulate
        if place == accumulate - 1 or batch is batches[-1]:
            for parameter in model.parameters():
                parameter.grad /= place + 1
            made.step()
            made.zero_grad()
        if schedule is not None:
            schedule.step()
        yield model


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("workers", [3])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_locked_with_a_schedule_equals_autograd_after_every_step(
    name: str, kind: str, workers: int, small_mnist: tuple, tmp_path: Path
) -> None:
    settings = {"method": "backprop", "batch_size": SIZE, "checkpoint_every": 1, "workers": workers}
    more = {"optimizer": OPTIMIZERS[kind], "scheduler": SCHEDULERS[name]}
    checkpoints = train(tmp_path, seeded_fcn(6), small_mnist[0], STEPS, **settings, **more)
    for model, checkpoint in zip(by_hand(small_mnist[0], **more), checkpoints, strict=True):
        assert_same_bits(dict(model.state_dict()), checkpoint.model)


@pytest.mark.parametrize("accumulate", [3, 20])
@pytest.mark.parametrize("workers", [3])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_locked_accumulation_equals_autograd_after_every_batch(
    accumulate: int, workers: int, small_mnist: tuple, tmp_path: Path
) -> None:
    settings = {"method": "backprop", "batch_size": SIZE, "checkpoint_every": 1, "workers": workers}
    more = {"optimizer": OPTIMIZERS["adam"], "accumulate": accumulate, "scheduler": SCHEDULERS["step"]}
    checkpoints = train(tmp_path, seeded_fcn(6), small_mnist[0], STEPS, **settings, **more)
    for model, checkpoint in zip(by_hand(small_mnist[0], **more), checkpoints, strict=True):
        assert_same_bits(dict(model.state_dict()), checkpoint.model)
    steps = [step for step in range(1, STEPS + 1) if step % accumulate == 0 or step == STEPS]
    assert all(stage["weight_version"] == len(steps) for stage in checkpoints[-1].stages)


@pytest.mark.parametrize("workers", [1, 3])
def test_locked_groups_of_parameters_equal_autograd(workers: int, small_mnist: tuple, tmp_path: Path) -> None:
    settings = {"method": "backprop", "batch_size": SIZE, "workers": workers, "optimizer": OPTIMIZERS["adam"]}
    checkpoints = train(tmp_path, seeded_fcn(6), small_mnist[0], STEPS, param_groups=decayed, **settings)
    *_, model = by_hand(small_mnist[0], OPTIMIZERS["adam"], groups=decayed)
    assert_same_bits(dict(model.state_dict()), checkpoints[-1].model)


def test_a_rate_a_stage(small_mnist: tuple, tmp_path: Path) -> None:
    def groups(model: nn.Sequential) -> list[dict[str, Any]]:
        stages = ((model[:2], 1e-3), (model[2:4], 5e-4), (model[4:], 2e-3))
        return [{"params": list(stage.parameters()), "lr": lr} for stage, lr in stages]

    settings = {"method": "backprop", "batch_size": SIZE, "split": (2, 4), "stage_lr": (1e-3, 5e-4, 2e-3)}
    more = {"scheduler": SCHEDULERS["step"], "optimizer": partial(Adam, lr=0.7)}
    checkpoints = train(tmp_path, seeded_fcn(6), small_mnist[0], STEPS, **settings, **more)
    *_, model = by_hand(small_mnist[0], groups=groups, **more)
    assert_same_bits(dict(model.state_dict()), checkpoints[-1].model)


def test_functions_may_be_of_any_place(small_mnist: tuple, tmp_path: Path) -> None:
    def groups(module: nn.Module) -> list[dict[str, Any]]:
        return [{"params": [parameter]} for parameter in module.parameters()]

    settings = {
        "method": "backprop",
        "batch_size": SIZE,
        "workers": 2,
        "optimizer": lambda groups: Adam(groups, lr=1e-3),
    }
    settings |= {"scheduler": lambda optimizer: StepLR(optimizer, 3, 0.5), "param_groups": groups}
    checkpoints = train(tmp_path, seeded_fcn(6), small_mnist[0], STEPS, **settings)
    *_, model = by_hand(small_mnist[0], OPTIMIZERS["adam"], SCHEDULERS["step"])
    assert_same_bits(dict(model.state_dict()), checkpoints[-1].model)


def test_groups_keep_their_share_of_a_stage_s_rate() -> None:
    from async_dni.learning.updates.habits import Habits

    layer = nn.Linear(2, 2)
    groups = [{"params": [layer.weight]}, {"params": [layer.bias], "lr": 0.4}]
    made = Habits(param_groups=lambda module: groups, lr=0.05).make_optimizer(partial(SGD, lr=0.1), layer)
    assert made is not None
    assert [group["lr"] for group in made.param_groups] == [0.05, 0.2]


@pytest.mark.parametrize(("method", "lag"), [("cdni", 4), ("delayed", 3), ("backprop", None)])
def test_fixed_lag_is_serial_and_resumes_to_the_bit(
    method: str, lag: int | None, small_mnist: tuple, tmp_path: Path
) -> None:
    hidden = {"synthesizer_hidden": (16,)} if "dni" in method else {}
    settings = {"method": method, "lag": lag, "batch_size": SIZE, "queue_capacity": 3, **hidden}
    more = {**ALL, "checkpoint_every": 5, "param_groups": decayed, "optimizer": OPTIMIZERS["adam"]}
    model = slowed(seeded_fcn(3))
    serial = train(tmp_path, model, small_mnist[0], STEPS, serial=True, **settings, **more)
    ours = train(tmp_path, model, small_mnist[0], STEPS, **settings, **more)
    assert [checkpoint.step for checkpoint in serial] == [5, 10]
    assert all("sums" in stage["updates"] for stage in serial[0].stages), "it was cut inside a group"
    for a, b in zip(serial, ours, strict=True):
        assert_same_bits(everything(a), everything(b))
    for run, is_serial in (("run-0", True), ("run-1", False)):
        path = tmp_path / run / "checkpoints" / "step-000000005.pt"
        for other in path.parent.glob("step-000000010.pt"):
            other.unlink()
        Trainer(model, resume=path, serial=is_serial, threads_per_worker=1, **settings, **more).fit(
            small_mnist[0], steps=STEPS
        )
        resumed = load_checkpoint(path.parent / "step-000000010.pt")
        assert_same_bits(everything(resumed), everything(serial[1]))


def test_synthesizers_may_keep_their_rate(small_mnist: tuple, tmp_path: Path) -> None:
    settings = {"lag": 1, "batch_size": SIZE, "serial": True, "synthesizer_hidden": (), "optimizer": OPTIMIZERS["sgd"]}
    found = []
    for more in (
        {},
        {"scheduler": partial(StepLR, step_size=1, gamma=0.0), "synthesizer_lr_schedule": "constant"},
        {"scheduler": partial(StepLR, step_size=1, gamma=0.0)},
    ):
        (checkpoint,) = train(tmp_path, seeded_fcn(3), small_mnist[0], 2, **settings, **more)
        found.append([stage["method"]["synthesizer"] for stage in checkpoint.stages[:1]])
    (plain,), (constant,), (same,) = found
    # the layers stand still from batch 1 on, and the synthesizer learns from batches 0 and 1
    assert any(not torch.equal(value, same[name]) for name, value in constant.items())
    assert any(not torch.equal(value, same[name]) for name, value in plain.items())


def test_another_partition_takes_up_sums_and_averages(small_mnist: tuple, tmp_path: Path) -> None:
    settings = {"method": "backprop", "batch_size": SIZE, **ALL, "checkpoint_every": 5, "optimizer": OPTIMIZERS["adam"]}
    whole = train(tmp_path, seeded_fcn(6), small_mnist[0], STEPS, workers=3, split=(2, 4), **settings)
    path = tmp_path / "run-0" / "checkpoints" / "step-000000005.pt"
    trainer = Trainer(seeded_fcn(6), workers=2, split=(3,), resume=path, threads_per_worker=1, **settings)
    result = trainer.fit(small_mnist[0], steps=STEPS)
    assert_same_bits(dict(result.model.state_dict()), whole[1].model)
    averages = {name: value for stage in whole[1].stages for name, value in stage["average"].items()}
    assert result.averaged_model is not None
    assert_same_bits(dict(result.averaged_model.named_parameters()), averages)


class Tied(nn.Module):
    """Two layers that share a weight, and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.first(x)))


@pytest.mark.parametrize("serial", [True, False], ids=["serial", "workers"])
def test_average_is_that_of_pytorch_and_is_evaluated(serial: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    data = torch.randn(60, 8), torch.randint(3, (60,))
    model = nn.Sequential(Tied(), nn.Linear(8, 3))
    settings = {"method": "backprop", "batch_size": 20, "workers": 2, "optimizer": OPTIMIZERS["sgd"], "ema": 0.7}
    trainer = Trainer(model, run_dir=tmp_path / "run", serial=serial, threads_per_worker=1, **settings)
    result = trainer.fit(data, steps=6, eval_set=data)

    optimizer = OPTIMIZERS["sgd"](model.parameters())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7))
    losses = []
    for batch in BatchStream(torch.utils.data.TensorDataset(*data), 20, 6, seed=0):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch.x), batch.target).backward()
        optimizer.step()
        average.update_parameters(model)
        if batch.index in (2, 5):
            shared = dict(average.module.named_parameters(remove_duplicate=False))
            average.module.load_state_dict({**model.state_dict(), **shared})
            with torch.no_grad():
                losses.append(float(nn.functional.cross_entropy(average.module.eval()(data[0]), data[1])))
    assert result.averaged_model is not None
    assert_same_bits(dict(result.model.state_dict()), dict(model.state_dict()))
    assert_same_bits(dict(result.averaged_model.state_dict()), dict(average.module.state_dict()))
    assert [found.test_loss for found in result.history] == pytest.approx(losses, rel=1e-6)
    written = torch.load(tmp_path / "run" / "model-ema.pt", weights_only=True)
    assert_same_bits(dict(written), dict(result.averaged_model.state_dict()))


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


def test_average_of_a_network_that_is_split_is_the_user_s_own_module(tmp_path: Path) -> None:
    data = torch.randn(60, 8), torch.randint(3, (60,))
    settings = {"split_points": ("second",), "workers": 2, "batch_size": 20, "serial": True, "ema": 0.9}
    result = Trainer(Chain(), run_dir=tmp_path / "run", **settings).fit(data, steps=6)
    ours, average = result.model, result.averaged_model
    assert type(ours) is type(average) is Chain
    assert all(not torch.equal(a, b) for a, b in zip(ours.parameters(), average.parameters(), strict=True))
    written = torch.load(tmp_path / "run" / "model-ema.pt", weights_only=True)
    assert_same_bits(dict(average.state_dict()), dict(written))


def test_no_average_where_none_is_asked_for(small_mnist: tuple, tmp_path: Path) -> None:
    result = Trainer(seeded_fcn(3), serial=True, run_dir=tmp_path / "run").fit(small_mnist[0], steps=1)
    assert result.averaged_model is None
    assert not (tmp_path / "run" / "model-ema.pt").exists()


def test_a_step_whose_last_batch_never_came_is_made_before_the_next() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    updater = Updater(layer, SGD(layer.parameters(), lr=1.0), accumulate=3)

    def learn(index: int, gradient: float) -> bool:
        updater.before_forward(index)
        layer.weight.grad = torch.full((1, 1), gradient)
        return updater.step(index)

    assert [learn(0, 1.0), learn(1, 3.0), learn(4, 5.0)] == [False, False, False]  # batches 2 and 3 were dropped
    assert layer.weight.item() == -2
    assert learn(5, 15.0)
    assert layer.weight.item() == -12


@pytest.mark.parametrize("serial", [True, False], ids=["serial", "workers"])
def test_updates_that_are_counted_are_steps(serial: bool, small_mnist: tuple) -> None:
    settings = {"batch_size": SIZE, "accumulate": 4, "serial": serial, "lag": 1}
    workers = Trainer(seeded_fcn(3), workers=2, **settings).fit(small_mnist[0], steps=10).summary["workers"]
    assert [worker["updates"] for worker in workers] == [3, 3]


def loses_some(module: nn.Module) -> list[dict[str, Any]]:
    return [{"params": [weight for weight in module.parameters() if weight.dim() > 1]}]


def others(module: nn.Module) -> list[dict[str, Any]]:
    return [{"params": [*module.parameters(), nn.Parameter(torch.zeros(1))]}]


def twice(module: nn.Module) -> list[dict[str, Any]]:
    return [{"params": list(module.parameters())}] * 2


def of_adam_only(optimizer: Optimizer) -> LRScheduler:
    return StepLR(optimizer, step_size=2, gamma=optimizer.defaults["betas"][0])


REFUSED = {
    "plateau": (
        {"scheduler": ReduceLROnPlateau},
        "scheduler: got ReduceLROnPlateau; it waits for an evaluation, and rates",
    ),
    "no scheduler": (
        {"scheduler": lambda optimizer: 3},
        "scheduler: got <lambda>; it gives int; allowed: a function of an",
    ),
    "raises": (
        {"scheduler": StepLR},
        "scheduler: got StepLR; allowed: a function of an optimizer, such as partial(StepLR, ",
    ),
    "too short": (
        {"scheduler": partial(OneCycleLR, max_lr=1.0, total_steps=7)},
        "scheduler: got OneCycleLR; it ends after 7 steps, and the run has 8 in all; allowed: no fewer",
    ),
    "both": (
        {"scheduler": SCHEDULERS["step"], "lr_schedule": "cosine"},
        "lr_schedule: got cosine; a scheduler is given, too; allowed: one of the two",
    ),
    "both, warmup": ({"scheduler": SCHEDULERS["step"], "warmup": 2}, "warmup: got 2; a scheduler is given, too"),
    "unknown": ({"lr_schedule": "wave"}, "lr_schedule: got wave; allowed: constant, cosine, step, onecycle"),
    "long warmup": ({"warmup": 8}, "warmup: got 8; the run has 8 steps in all; allowed: fewer than that"),
    "rates": ({"stage_lr": (0.1, 0.2, 0.3)}, "stage_lr: got 0.1,0.2,0.3; 2 workers need 2, one each"),
    "no rate": (
        {"stage_lr": (0.1, -0.2)},
        "stage_lr: got 0.1,-0.2; allowed: finite numbers above 0, separated by commas",
    ),
    "accumulate": ({"accumulate": 0}, "accumulate: got 0; allowed: a whole number of at least 1"),
    "ema": ({"ema": 1.0}, "ema: got 1.0; allowed: a finite number above 0 and below 1"),
    "left out": (
        {"param_groups": loses_some},
        "param_groups: got loses_some; 0.2.weight, 0.2.bias of the stage with blocks 0 are in no group; allowed: ",
    ),
    "others": (
        {"param_groups": others},
        "param_groups: got others; it gives what is no parameter of the stage with blocks 0",
    ),
    "for layers only": (
        {"method": "cdni", "scheduler": of_adam_only},
        "scheduler: got of_adam_only; the synthesizer's rate of the stage with blocks 0 can't go with it (KeyError: ",
    ),
    "twice": (
        {"param_groups": twice},
        "param_groups: got twice; no optimizer of the stage with blocks 0 can be made with it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    settings, sentence = REFUSED[name]
    with pytest.raises(ConfigError) as raised:
        Trainer(fcn(2, 8, input_shape=(6,), num_classes=3), workers=2, batch_size=10, serial=True, **settings).fit(
            (torch.randn(20, 6), torch.randint(3, (20,))), steps=8
        )
    assert sentence in str(raised.value)


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from async_dni import train as command

    found = []
    monkeypatch.setattr(Trainer, "fit", lambda self, *_, **__: found.append(self.config) or 1 / 0)
    arguments = [
        "--lr-schedule",
        "cosine",
        "--warmup",
        "7",
        "--stage-lr",
        "1e-3,5e-4,2",
        "--accumulate",
        "2",
        "--ema",
        "0.9",
    ]
    with pytest.raises(ZeroDivisionError):
        command.main(arguments, "launch.py")
    (config,) = found
    assert (config.lr_schedule, config.warmup, config.accumulate, config.ema) == ("cosine", 7, 2, 0.9)
    assert config.stage_lr == (0.001, 0.0005, 2.0)

"""Autocast: what PyTorch's own loop does under it, to the last bit, in any process; and the scale of float16."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from slow import slowed
from test_parity import assert_same_bits, everything, seeded_fcn, train
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from async_dni import ConfigError, Trainer
from async_dni.data.stream import BatchStream
from async_dni.learning.autocast import widened
from async_dni.learning.divergence import DivergenceError
from async_dni.learning.updates.loss_scale import FIRST, INTERVAL, Float16OverflowError, LossScale
from async_dni.record.checkpoint import load_checkpoint

STEPS, SIZE = 6, 300
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def steep(output: Tensor, target: Tensor) -> Tensor:
    """A loss whose gradients, under the first scale, are too large for float16."""
    return 3000 * F.cross_entropy(output, target)


def by_hand(data: Any, half: str, loss_fn: Any) -> list[dict[str, Tensor]]:
    model = seeded_fcn(6)
    optimizer = Adam(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=half == "float16")
    found = []
    for batch in BatchStream(data, SIZE, STEPS, seed=0):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=TYPES[half]):
            loss = loss_fn(model(batch.x), batch.target)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        found.append({name: value.clone() for name, value in model.state_dict().items()})
    return found


@pytest.mark.parametrize("half", TYPES)
@pytest.mark.parametrize("workers", [1, 3])
def test_locked_equals_autograd_after_every_step(half: str, workers: int, small_mnist: tuple, tmp_path: Path) -> None:
    settings = {"method": "backprop", "batch_size": SIZE, "checkpoint_every": 1, "workers": workers, "autocast": half}
    checkpoints = train(tmp_path, seeded_fcn(6), small_mnist[0], STEPS, **settings)
    for expected, checkpoint in zip(by_hand(small_mnist[0], half, F.cross_entropy), checkpoints, strict=True):
        assert_same_bits(expected, checkpoint.model)
    dtypes = {tensor.dtype for tensor in checkpoints[-1].model.values() if tensor.is_floating_point()}
    assert dtypes == {torch.float32}


def test_updates_with_too_large_a_scale_are_passed_over_in_one_stage(small_mnist: tuple, tmp_path: Path) -> None:
    settings = {"method": "backprop", "batch_size": SIZE, "checkpoint_every": 1, "workers": 1, "autocast": "float16"}
    checkpoints = train(tmp_path, seeded_fcn(6), small_mnist[0], STEPS, loss_fn=steep, **settings)
    for expected, checkpoint in zip(by_hand(small_mnist[0], "float16", steep), checkpoints, strict=True):
        assert_same_bits(expected, checkpoint.model)
    assert checkpoints[-1].stages[0]["updates"]["loss_scale"]["scale"] < FIRST


CASES = [("cdni", 3), ("dni", 2), ("delayed", 2), ("backprop", None)]


@pytest.mark.parametrize(
    ("half", "loss_fn"), [("bfloat16", F.cross_entropy), ("float16", steep)], ids=["bfloat16", "float16, overflow"]
)
@pytest.mark.parametrize(("method", "lag"), CASES)
def test_fixed_lag_is_serial_and_resumes_to_the_bit(
    method: str, lag: int | None, half: str, loss_fn: Any, small_mnist: tuple, tmp_path: Path
) -> None:
    hidden = {"synthesizer_hidden": (16,)} if "dni" in method else {}
    settings = {"method": method, "lag": lag, "batch_size": SIZE, "queue_capacity": 3, "autocast": half, **hidden}
    settings |= {"checkpoint_every": 3, "loss_fn": loss_fn, "accumulate": 2, "ema": 0.5}
    model = slowed(seeded_fcn(3))
    serial = train(tmp_path, model, small_mnist[0], STEPS, serial=True, **settings)
    ours = train(tmp_path, model, small_mnist[0], STEPS, **settings)
    for a, b in zip(serial, ours, strict=True):
        assert_same_bits(everything(a), everything(b))
    if half == "float16" and loss_fn is steep:
        assert serial[-1].stages[-1]["updates"]["loss_scale"]["scale"] < FIRST
    path = tmp_path / "run-1" / "checkpoints" / "step-000000003.pt"
    (path.parent / "step-000000006.pt").unlink()
    Trainer(model, resume=path, threads_per_worker=1, **settings).fit(small_mnist[0], steps=STEPS)
    assert_same_bits(everything(load_checkpoint(path.parent / "step-000000006.pt")), everything(serial[-1]))


@pytest.mark.parametrize("serial", [True, False], ids=["serial", "workers"])
def test_what_is_passed_over_is_counted(serial: bool, small_mnist: tuple) -> None:
    settings = {"method": "backprop", "batch_size": SIZE, "autocast": "float16", "serial": serial, "loss_fn": steep}
    result = Trainer(seeded_fcn(3), **settings).fit(small_mnist[0], steps=STEPS)
    skipped = [worker["skipped"] for worker in result.summary["workers"]]
    updates = [worker["updates"] for worker in result.summary["workers"]]
    assert skipped[0] >= skipped[1] >= skipped[2] > 0, "where a stage has no gradient, those before it have none"
    assert [sum(both) for both in zip(skipped, updates, strict=True)] == [STEPS] * 3


def test_synthesizers_are_float32_and_see_float32(small_mnist: tuple, tmp_path: Path) -> None:
    settings = {"lag": 2, "batch_size": SIZE, "serial": True, "autocast": "bfloat16"}
    (checkpoint,) = train(tmp_path, seeded_fcn(3), small_mnist[0], 2, **settings)
    assert checkpoint.stages[0]["pending"][0]["h"].dtype == torch.bfloat16
    assert {value.dtype for value in checkpoint.stages[0]["method"]["synthesizer"].values()} == {torch.float32}


def test_networks_are_evaluated_in_float32(small_mnist: tuple) -> None:
    settings = {"batch_size": SIZE, "serial": True, "autocast": "bfloat16", "optimizer": partial(SGD, lr=0.01)}
    result = Trainer(seeded_fcn(3), **settings).fit(small_mnist[0], steps=2, eval_set=small_mnist[1])
    x, target = small_mnist[1].tensors
    with torch.no_grad():
        expected = float(F.cross_entropy(result.model.eval()(x), target))
    assert result.history[-1].test_loss == pytest.approx(expected, rel=1e-5)


def test_scale_grows_after_many_finite_gradients_and_halves_at_one_that_is_not() -> None:
    scale = LossScale()
    for _ in range(INTERVAL):
        assert scale.scale == FIRST
        gradient = scale.scaled(torch.full((2,), 2.0**-30), torch.float16)
        assert gradient.dtype == torch.float16
        found = gradient.float()
        scale.unscale([found])
        assert torch.equal(found, torch.full((2,), 2.0**-30)), "float16 itself is 0 there"
    assert scale.scale == 2 * FIRST
    with pytest.raises(Float16OverflowError, match="a gradient is too large for float16 with a scale of 131072"):
        scale.unscale([torch.ones(1), torch.tensor([1.0, torch.inf])])
    assert scale.scale == FIRST
    other = LossScale()
    other.load_state_dict(scale.state_dict())
    assert other.state_dict() == {"scale": FIRST, "finite": 0}


def test_no_scale_helps_a_gradient_that_is_never_finite() -> None:
    # the scale was halved to 0, and divided by
    scale = LossScale()
    for power in range(16, -16, -1):
        with pytest.raises(Float16OverflowError):
            scale.unscale([torch.tensor([torch.nan])])
        assert scale.scale == 2.0 ** (power - 1)
    with pytest.raises(DivergenceError, match="a gradient is not finite, in float16 with a scale of") as caught:
        scale.unscale([torch.tensor([torch.nan])])
    assert not isinstance(caught.value, Float16OverflowError)
    assert scale.scale == FIRST


def test_widened() -> None:
    half, whole, label = torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.float64), torch.ones(1).long()
    found = widened({"a": [half, whole], "b": (label,), "c": None})
    assert [part.dtype for part in found["a"]] == [torch.float32, torch.float64]
    assert found["b"][0] is label
    assert found["c"] is None


class OnlyFloat32(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError(f"not {x.dtype}")
        return x


def test_layers_that_take_no_half_precision_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(6, 8), OnlyFloat32(), nn.Linear(8, 2))
    data = torch.randn(20, 6), torch.randint(2, (20,))
    with pytest.raises(
        ConfigError, match=r"model: got block '1'; it does not take what comes before it, \[10, 8\] torch.bf"
    ):
        Trainer(model, workers=2, batch_size=10, autocast="bfloat16").fit(data, steps=1)
    with pytest.raises(ConfigError, match="autocast: got half; allowed: bfloat16, float16"):
        Trainer(model, workers=2, autocast="half")


class Split(nn.Module):
    """Puts out two tensors, and a mask."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.linear(x), x, x > 0


class Joined(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width + 16, 5)

    def forward(self, parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        h, x, mask = parts
        return self.linear(torch.cat([h, x * mask], 1))


@pytest.mark.parametrize("half", ["float16"])
@pytest.mark.parametrize(("method", "lag"), CASES)
def test_several_tensors_between_stages(method: str, lag: int | None, half: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    data = torch.utils.data.TensorDataset(torch.randn(60, 6), torch.randint(5, (60,)))
    model = nn.Sequential(nn.Linear(6, 8), Split(8), Joined(8))
    settings = {"method": method, "lag": lag, "batch_size": 20, "workers": 3, "autocast": half, "lr_schedule": "cosine"}
    settings |= {"accumulate": 2, "ema": 0.5, "checkpoint_every": 3, "queue_capacity": 3}
    serial = train(tmp_path, model, data, 6, serial=True, **settings)
    ours = train(tmp_path, model, data, 6, **settings)
    for a, b in zip(serial, ours, strict=True):
        assert_same_bits(everything(a), everything(b))
    assert not torch.equal(serial[-1].model["2.linear.weight"], model.state_dict()["2.linear.weight"])


class Spikes(nn.Module):
    """A layer whose output is not finite in the fifth training batch, nor when that is computed again."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(16, 16), 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training and torch.is_grad_enabled()
        return self.layer(x) * (float("inf") if self.seen == 5 and self.training else 1.0)


def fit_spikes(half: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Sequential(nn.Linear(16, 16), Spikes()), nn.Linear(16, 3))
    data = torch.randn(60, 8), torch.arange(60) % 3
    return Trainer(model, workers=3, method="backprop", batch_size=20, autocast=half, **settings).fit(data, steps=9)


@pytest.mark.parametrize("half", TYPES)
def test_an_output_that_is_not_finite_is_told_by_its_block(half: str) -> None:
    # blocks were computed again outside autocast, whose half precision they then refused with a traceback
    with pytest.raises(DivergenceError, match="stage 1 diverged on batch 4: the output of block '1' is not finite"):
        fit_spikes(half, serial=True)


def test_an_output_that_is_not_finite_is_passed_over_in_workers() -> None:
    workers = fit_spikes("bfloat16", on_divergence="skip").summary["workers"]
    assert [(worker["updates"], worker["skipped"]) for worker in workers] == [(8, 1)] * 3


class Halved(nn.Module):
    """What follows takes its output under autocast alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16)


@pytest.mark.parametrize(("method", "size"), [("backprop", 19), ("cdni", 20), ("delayed", 20)])
def test_a_network_that_runs_under_autocast_alone_is_tried_out_under_it(method: str, size: int) -> None:
    # with 19, the last of 39 samples is tried as a batch of its own
    model = nn.Sequential(nn.Linear(8, 16), Halved(), nn.Linear(16, 3))
    data = torch.randn(39, 8), torch.arange(39) % 3
    settings = {"workers": 2, "serial": True, "autocast": "bfloat16"}
    assert Trainer(model, method=method, batch_size=size, **settings).fit(data, steps=3).summary["steps"] == 3

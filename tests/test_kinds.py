"""Networks of all kinds that people bring: trained to the right values, not only without an error.

The reference for locked training is autograd on the whole network; for a fixed lag, `serial`; to the last bit each time.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from test_parity import assert_same_bits
from torch import Tensor, nn

from async_dni import ConfigError, Trainer
from async_dni.data.stream import BatchStream

SAMPLES, WIDTH, CLASSES, TIME, VOCABULARY = 90, 6, 3, 5, 11
STEPS, BATCH = 8, 20  # the last batch of an epoch is of 10


class AddInPlace(nn.Module):
    """Writes into its input."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x += self.bias
        return x


class Rows(nn.Module):
    """A view, then in place: what it writes into is not its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1).mul_(0.5)


class Masked(nn.Module):
    """A residual stream and a mask of positions for each sample, which goes along."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Any) -> Any:
        stream, mask = x if isinstance(x, tuple) else (x, x[..., 0] > 0)
        return stream + torch.tanh(self.linear(stream)) * mask.unsqueeze(-1), mask


class OfMasked(nn.Module):
    """The mean over the positions that the mask keeps."""

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        stream, mask = x
        return (stream * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


class Recurrent(nn.Module):
    """One LSTM of several, of which each begins with the states of the one before: `[layers, batch, width]`."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return self.lstm(x)
        return self.lstm(*x)


class Last(nn.Module):
    """Of what an LSTM gives: its last output."""

    def forward(self, x: Any) -> Tensor:
        return x[0][:, -1] + x[1][1][0]


class Named(nn.Module):
    """Tensors by name, one of them the same for every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Any) -> dict[str, Tensor]:
        x = x if isinstance(x, dict) else {"first": x, "second": 2 * x}
        ones = torch.ones(2, 3, dtype=torch.bool)
        return {"first": torch.relu(self.linear(x["first"])), "second": x["second"] - x["first"], "kept": ones}


class Sum(nn.Module):
    def forward(self, x: dict[str, Tensor]) -> Tensor:
        assert x["kept"].shape == (2, 3)
        return x["first"] + x["second"]


def rows(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, WIDTH, generator=generator)
    return x.to(dtype), (x[:, :CLASSES]).argmax(1)


def sequences() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(SAMPLES, TIME, WIDTH, generator=generator)
    return x, x.sum(1)[:, :CLASSES].argmax(1)


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, 1, 6, 6, generator=generator)
    return x, (x[:, 0, 0, :CLASSES]).argmax(1)


def characters() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    text = torch.randint(0, VOCABULARY, (SAMPLES, TIME + 1), generator=generator)
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


class ClassesSecond(nn.Module):
    """`[batch, time, classes]` → `[batch, classes, time]`, as CrossEntropyLoss wants it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def mlp(*more: nn.Module, last: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *more, nn.ReLU(), last or nn.Linear(WIDTH, CLASSES))


def frozen() -> nn.Sequential:
    block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)).eval().requires_grad_(False)
    block[1].running_mean.fill_(0.5)
    return nn.Sequential(block, nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, CLASSES))


def old_weight_norm() -> nn.Sequential:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mlp(nn.utils.weight_norm(nn.Linear(WIDTH, WIDTH)))


NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], Callable[[], Any]]] = {
    "in place at the start of a stage": (lambda: mlp(AddInPlace()), rows),
    "in place in a view": (lambda: mlp(nn.Identity(), Rows(), AddInPlace()), rows),
    "in place in every block": (lambda: nn.Sequential(AddInPlace(), AddInPlace(), nn.Linear(WIDTH, CLASSES)), rows),
    "float64": (lambda: mlp(nn.BatchNorm1d(WIDTH)).double(), partial(rows, torch.float64)),
    "bfloat16": (lambda: mlp(nn.LayerNorm(WIDTH)).bfloat16(), partial(rows, torch.bfloat16)),
    "convolutions in float64": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
        ).double(),
        lambda: (images()[0].double(), images()[1]),
    ),
    "spectral norm": (lambda: mlp(nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))), rows),
    "orthogonal": (lambda: mlp(nn.utils.parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH))), rows),
    "weight norm": (lambda: mlp(nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))), rows),
    "weight norm, old": (old_weight_norm, rows),
    "frozen batch norm": (frozen, rows),
    "a stream and a mask": (
        lambda: nn.Sequential(Masked(), Masked(), Masked(), nn.Sequential(OfMasked(), nn.Linear(WIDTH, CLASSES))),
        sequences,
    ),
    "LSTMs": (
        lambda: nn.Sequential(Recurrent(), Recurrent(), nn.Sequential(Last(), nn.Linear(WIDTH, CLASSES))),
        sequences,
    ),
    "a dict": (lambda: nn.Sequential(Named(), Named(), Sum(), nn.Linear(WIDTH, CLASSES)), rows),
    "a class a position": (
        lambda: nn.Sequential(
            nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, VOCABULARY), ClassesSecond()
        ),
        characters,
    ),
    "a class a pixel": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, CLASSES, 1)),
        lambda: (images()[0], (images()[0][:, 0] > 0).long()),
    ),
    "a signal": (
        lambda: nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(136, CLASSES))),
        lambda: (images()[0].flatten(2), images()[1]),
    ),
}


def made(name: str) -> tuple[nn.Sequential, Any]:
    torch.manual_seed(5)
    make, data = NETWORKS[name]
    return make(), data()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def trained(model: nn.Module, data: Any, **settings: Any) -> nn.Module:
    settings = {"workers": min(3, len(list(model.children()))), "batch_size": BATCH, "optimizer": sgd, **settings}
    return Trainer(model, threads_per_worker=1, **settings).fit(data, steps=STEPS).model  # type: ignore[arg-type]


def by_autograd(model: nn.Module, data: Any, loss_fn: Any = nn.functional.cross_entropy) -> nn.Module:
    """Modes are the blocks' own, so nothing sets them here."""
    model = copy.deepcopy(model)
    optimizer = sgd([parameter for parameter in model.parameters() if parameter.requires_grad])
    for batch in BatchStream(torch.utils.data.TensorDataset(*data), BATCH, STEPS, seed=0):
        optimizer.zero_grad()
        loss_fn(model(batch.x), batch.target).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"weight norm, old"}))
def test_locked_training_is_that_of_autograd(name: str) -> None:
    model, data = made(name)
    expected = by_autograd(model, data)
    assert_same_bits(dict(trained(model, data, method="backprop").state_dict()), dict(expected.state_dict()))


def test_locked_training_of_the_old_weight_norm_is_that_of_autograd() -> None:
    model, data = made("weight norm, old")
    ours = trained(model, data, method="backprop")
    again, _ = made("weight norm, old")  # it can't be copied, as it keeps a tensor with its history
    optimizer = sgd(again.parameters())
    for batch in BatchStream(torch.utils.data.TensorDataset(*data), BATCH, STEPS, seed=0):
        optimizer.zero_grad()
        nn.functional.cross_entropy(again(batch.x), batch.target).backward()
        optimizer.step()
    assert_same_bits(dict(ours.state_dict()), dict(again.state_dict()))


LATE = ("in place in a view", "LSTMs", "spectral norm")
OF_CDNI = sorted(
    set(NETWORKS) - {"in place in a view", "float64", "orthogonal", "weight norm", "in place in every block"}
)


@pytest.mark.parametrize(
    ("name", "method"), [*((name, "cdni") for name in OF_CDNI), *((name, "delayed") for name in LATE)]
)
def test_a_fixed_lag_is_serial(name: str, method: str) -> None:
    model, data = made(name)
    runs = [trained(model, data, method=method, lag=2, serial=serial) for serial in (True, False)]
    assert_same_bits(dict(runs[0].state_dict()), dict(runs[1].state_dict()))
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    moved = [parameter for parameter in runs[0].parameters() if parameter.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(learnt, moved, strict=True))
    assert all(bool(torch.isfinite(parameter).all()) for parameter in runs[0].parameters())


@pytest.mark.parametrize("name", ["LSTMs", "a dict"])
def test_a_resumed_run_goes_on_the_same(name: str, tmp_path: Any) -> None:
    model, data = made(name)
    settings = {"workers": 3, "batch_size": BATCH, "optimizer": sgd, "lag": 2, "threads_per_worker": 1}
    whole = Trainer(model, **settings).fit(data, steps=STEPS).model
    Trainer(model, run_dir=tmp_path / "run", **settings).fit(data, steps=STEPS // 2)
    resumed = Trainer(model, resume=tmp_path / "run", **settings).fit(data, steps=STEPS).model
    assert_same_bits(dict(whole.state_dict()), dict(resumed.state_dict()))


def test_blocks_in_evaluation_mode_stay_as_they_were() -> None:
    model, data = made("frozen batch norm")
    result = trained(model, data, method="cdni")
    assert_same_bits(dict(result[0].state_dict()), dict(model[0].state_dict()))
    assert not torch.equal(result[1].running_mean, model[1].running_mean)  # type: ignore[arg-type]
    whole, data = made("float64")
    drifted = trained(whole.eval(), data)  # evaluated before, say
    assert not torch.equal(drifted[1].running_mean, whole[1].running_mean)  # type: ignore[arg-type]


def test_lazy_layers_are_initialized_by_the_seed_and_trained() -> None:
    def lazy() -> nn.Sequential:
        return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(CLASSES))

    first, second, other = (trained(lazy(), rows(), lag=1, seed=seed) for seed in (0, 0, 1))
    assert_same_bits(dict(first.state_dict()), dict(second.state_dict()))
    assert not torch.equal(first[0].weight, other[0].weight)  # type: ignore[arg-type]
    assert first[0].weight.shape == (8, WIDTH)  # type: ignore[union-attr]
    model = lazy()
    trained(model, rows())
    assert torch.nn.parameter.is_lazy(model[0].weight), "the one that was given is not changed"


def test_what_only_this_process_knows_is_sent_by_value() -> None:
    class Local(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return scale * x

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scale * output, target)

    scale = 2.0
    model = mlp(Local())
    ours = trained(
        model, rows(), method="backprop", loss_fn=loss, optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)
    )
    assert_same_bits(dict(ours.state_dict()), dict(by_autograd(model, rows(), loss).state_dict()))


def test_an_optimizer_that_takes_matrices_only() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, 8, bias=False), nn.Linear(8, CLASSES, bias=False))
    result = trained(model, rows(), optimizer=lambda parameters: torch.optim.Muon(list(parameters), lr=0.02))
    assert not torch.equal(result[0].weight, model[0].weight)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="optimizer: got Muon; allowed: a function of a stage's parameters"):
        trained(mlp(), rows(), optimizer=partial(torch.optim.Muon, lr=0.02))


def test_a_batch_of_which_every_label_is_ignored_changes_nothing() -> None:
    x, labels = rows()
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES))
    for method in ("backprop", "cdni"):
        settings: dict[str, Any] = {"method": method, "workers": 2, "loss_fn": nn.CrossEntropyLoss(ignore_index=7)}
        ours = trained(model, (x, torch.full_like(labels, 7)), **settings)
        assert_same_bits(dict(ours.state_dict()), dict(model.state_dict()))
    weights = nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0, 1.0]))
    ours = trained(model, (x, torch.zeros_like(labels)), method="backprop", workers=2, loss_fn=weights)
    assert_same_bits(dict(ours.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("method", ["backprop", "cdni", "dni"])
def test_labels_that_a_function_ignores_are_ignored_as_by_the_module(method: str) -> None:
    x, labels = rows()
    labels = labels.where(labels > 0, -100)
    labels[:40] = -100  # so that some batches have none
    model, models = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)), []
    for loss_fn in (nn.CrossEntropyLoss(), nn.functional.cross_entropy):
        settings: dict[str, Any] = {"method": method, "workers": 2, "batch_size": 3, "lag": 1, "serial": True}
        trainer = Trainer(
            model, loss_fn=loss_fn, optimizer=sgd, threads_per_worker=1, synthesizer_hidden=(), **settings
        )
        models.append(trainer.fit((x, labels), steps=30).model)
    assert_same_bits(dict(models[0].state_dict()), dict(models[1].state_dict()))
    assert not torch.equal(models[0][0].weight, model[0].weight)  # type: ignore[arg-type]


class Noisy(nn.Module):
    """Noise of numpy and of Python, in a layer."""

    def forward(self, x: Tensor) -> Tensor:
        import random

        return x + float(np.random.randn()) + random.random()


def test_layers_may_draw_from_numpy_and_from_python(tmp_path: Any) -> None:
    model, data = mlp(Noisy()), rows()
    settings = {"workers": 3, "batch_size": BATCH, "optimizer": sgd, "lag": 2, "threads_per_worker": 1}
    runs = []
    for seed in (1, 2):
        np.random.seed(seed)
        runs.append(Trainer(model, **settings).fit(data, steps=STEPS).model)
    runs.append(Trainer(model, serial=True, **settings).fit(data, steps=STEPS).model)
    Trainer(model, run_dir=tmp_path / "run", **settings).fit(data, steps=STEPS // 2)
    runs.append(Trainer(model, resume=tmp_path / "run", **settings).fit(data, steps=STEPS).model)
    for other in runs[1:]:
        assert_same_bits(dict(runs[0].state_dict()), dict(other.state_dict()))

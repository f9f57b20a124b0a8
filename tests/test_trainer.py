"""The library as a user meets it: any `nn.Sequential`, any data, any optimizer, loss and synthesizer."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from noisy import Noisy
from slow import slowed
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from async_dni import ConfigError, LinearSynthesizer, Trainer, fcn
from async_dni.learning.random_state import RandomState
from async_dni.record.run_dir import read_json_lines


class Pairs(Dataset):
    """A data set that is neither tensors nor one of ours."""

    def __init__(self, samples: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(samples, 6, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], int(self.x[index].sum() > 0)


class Half(nn.Module):
    """A synthesizer of a user's own; never learns to do better than zero, but is asked."""

    def __init__(self, features: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(features))

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        return h * self.scale


class TwoOutputs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def mlp(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in zip(widths[:-1], widths[1:-1], strict=False)]
    return nn.Sequential(*blocks, nn.Linear(widths[-2], widths[-1]))


@pytest.mark.parametrize("method", ["cdni", "dni", "delayed", "backprop"])
@pytest.mark.parametrize("capacity", [1, 4])
def test_every_method_learns(method: str, capacity: int) -> None:
    data = Pairs(640)
    trainer = Trainer(
        mlp(6, 32, 32, 2),
        method=method,
        batch_size=60,  # the last batch of an epoch is of 40
        queue_capacity=capacity,
        synthesizer_hidden=(),
        optimizer=partial(torch.optim.Adam, lr=3e-3),
    )
    result = trainer.fit(data, epochs=12, eval_set=Pairs(400))
    assert result.test_error is not None
    assert result.test_error < 20  # by chance: 50
    assert result.summary["samples"] == 12 * 640
    assert [evaluation.epoch for evaluation in result.history] == list(range(1, 13))
    assert result.history[-1].test_loss < result.history[0].test_loss


def test_the_model_that_was_given_is_not_changed() -> None:
    model = mlp(6, 8, 2)
    before = copy.deepcopy(model.state_dict())
    result = Trainer(model, workers=2, batch_size=50, lag=1).fit(Pairs(100), epochs=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not torch.equal(value, before[name]) for name, value in result.model.state_dict().items())
    assert result.test_error is None
    assert result.history == []


def test_regression_with_tensors_and_another_loss() -> None:
    x = torch.randn(400, 6)
    y = x @ torch.randn(6, 3)
    result = Trainer(
        mlp(6, 32, 32, 3),
        method="dni",
        batch_size=50,
        synthesizer_hidden=(),
        loss_fn=nn.MSELoss(),
        optimizer=partial(torch.optim.Adam, lr=3e-3),
    ).fit((x, y), epochs=30, eval_set=(x, y))
    assert result.test_error is None
    assert result.history[-1].test_loss < 0.3 * result.history[0].test_loss


def test_feature_maps_of_a_convolutional_network() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 1, 8, 8, generator=generator)
    y = (x[:, 0, :4].sum((1, 2)) > 0).long()
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
        nn.Flatten(),  # a stage without parameters, whose output is a view of its input
        nn.Linear(256, 2),
    )
    result = Trainer(model, workers=4, batch_size=20).fit((x, y), epochs=8, eval_set=(x, y))
    assert result.test_error is not None
    assert result.test_error < 20


def test_a_synthesizer_of_the_users_own() -> None:
    result = Trainer(mlp(6, 8, 8, 2), batch_size=50, synthesizer=Half).fit(Pairs(100), epochs=2)
    assert [worker["synthesizer_updates"] for worker in result.summary["workers"]] == [4, 4, 0]
    seen = []

    def make(features: tuple[int, ...], classes: int) -> nn.Module:
        seen.append((features, classes))
        return LinearSynthesizer(features, classes)

    Trainer(mlp(6, 8, 9, 2), batch_size=50, synthesizer=make).fit(Pairs(100), epochs=1)
    assert seen == [((8,), 2), ((9,), 2)]


def test_drop_trains_on_and_counts_what_it_dropped(tmp_path: Path) -> None:
    model = mlp(6, 8, 8, 2)
    model[1] = slowed(nn.Sequential(model[1]), seconds=0.02)[0]
    trainer = Trainer(
        model, batch_size=10, queue_capacity=1, overflow="drop", run_dir=tmp_path / "run", checkpoint_every=50
    )
    result = trainer.fit(Pairs(1000), epochs=2, eval_set=Pairs(100))
    first, second, third = result.summary["workers"]
    assert first["steps"] == first["updates"] == 200
    assert first["dropped"] > 0
    assert second["steps"] == 200 - first["dropped"]
    assert third["steps"] == second["steps"] - second["dropped"]
    assert first["synthesizer_updates"] == second["steps"], "a gradient comes for every batch that was sent"
    assert [evaluation.step for evaluation in result.history] == [100, 200], "cuts fall on dropped batches too"
    assert [line["step"] for line in read_json_lines(tmp_path / "run" / "metrics.jsonl")] == [100, 200]


def test_stages_are_balanced_by_cost() -> None:
    torch.manual_seed(0)
    sizes = [6, 500, 500, 8, 8, 8, 2]
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)))
    result = Trainer(model, workers=2, batch_size=100, lag=1, method="delayed").fit(Pairs(100), epochs=1)
    layers = [worker["layers"] for worker in result.summary["workers"]]
    assert layers in ([["0"], ["1", "2", "3", "4", "5"]], [["0", "1"], ["2", "3", "4", "5"]])
    split = Trainer(model, workers=2, batch_size=100, split=(4,)).fit(Pairs(100), epochs=1)
    assert [worker["layers"] for worker in split.summary["workers"]] == [["0", "1", "2", "3"], ["4", "5"]]


def test_cut_says_what_fit_would_train() -> None:
    split, stages, outputs = Trainer(mlp(6, 8, 9, 2), batch_size=50, split=(1, 2)).cut(Pairs(100))
    assert split == [1, 2]
    assert [stage.layers for stage in stages] == [["0"], ["1"], ["2"]]
    assert [tuple(output.shape) for output in outputs] == [(50, 8), (50, 9), (50, 2)]


def test_serial_reports_as_workers_do(tmp_path: Path) -> None:
    trainer = Trainer(mlp(6, 8, 8, 2), batch_size=50, serial=True, run_dir=tmp_path / "run")
    result = trainer.fit(Pairs(100), epochs=2, eval_set=Pairs(100))
    assert [evaluation.step for evaluation in result.history] == [2, 4]
    assert [worker["steps"] for worker in result.summary["workers"]] == [4, 4, 4]
    for k in range(3):
        assert read_json_lines(tmp_path / "run" / "workers" / f"{k}.jsonl")[-1]["step"] == 4
        assert "step 4" in (tmp_path / "run" / "workers" / f"{k}.log").read_text()


@pytest.mark.parametrize(
    ("model", "data", "settings", "sentence"),
    [
        (mlp(6, 8, 2), Pairs(100), {"batch_size": 101}, "batch_size: got 101; the data set has 100 samples"),
        (fcn(), Pairs(100), {}, "model: got block '0'; it does not take what comes before it"),
        (
            nn.Sequential(TwoOutputs(), nn.Linear(6, 2)),
            Pairs(100),
            {"workers": 2},
            "model: got block '1'; it does not take what comes before it, ([10, 6] torch.float32, [10, 6] torch.float32)",
        ),
        (nn.Linear(6, 2), Pairs(100), {"workers": 1}, "model: got Linear; allowed: an nn.Sequential"),
        (mlp(6, 8, 2), Pairs(100), {"workers": 3}, "workers: got 3; the network has 2 blocks"),
        (
            nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)), nn.Linear(8, 2)),
            TensorDataset(torch.randn(11, 6), torch.zeros(11, dtype=torch.int64)),
            {"batch_size": 10},
            "batch_size: got 10; batch norm needs two samples",
        ),
        (
            mlp(6, 8, 2),
            TensorDataset(torch.randn(11, 6), torch.zeros(11, dtype=torch.int64)),
            {"batch_size": 10, "workers": 2, "synthesizer_hidden": (4,)},
            "batch_size: got 10; batch norm needs two samples",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(
    model: nn.Module, data: object, settings: dict, sentence: str, tmp_path: Path
) -> None:
    settings = {"workers": 2, "batch_size": 10, "run_dir": tmp_path / "run"} | settings
    with pytest.raises(ConfigError) as caught:
        Trainer(model, **settings).fit(data, epochs=1)
    assert sentence in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_unknown_settings_and_lengths_are_refused() -> None:
    with pytest.raises(TypeError, match="Trainer has no setting wrokers"):
        Trainer(mlp(6, 8, 2), wrokers=2)
    trainer = Trainer(mlp(6, 8, 2), workers=2, batch_size=10)
    for lengths in ({}, {"epochs": 1, "steps": 1}, {"epochs": 0}, {"steps": -1}):
        with pytest.raises(ConfigError, match=r"epochs|steps"):
            trainer.fit(Pairs(100), **lengths)


@pytest.mark.parametrize("serial", [False, True])
def test_gradients_of_every_other_batch_are_learnt_from_and_no_other_is_sent(serial: bool) -> None:
    settings = {"batch_size": 10, "synthesizer_every": 2, "lag": 3, "serial": serial}
    result = Trainer(mlp(6, 8, 8, 2), **settings).fit(Pairs(110), steps=22)
    workers = result.summary["workers"]
    assert [worker["updates"] for worker in workers] == [22, 22, 22]
    # batches 0, 2, … 18; that of 20 is not due before batch 23
    assert [worker["synthesizer_updates"] for worker in workers] == [10, 10, 0]


def test_evaluations_of_a_serial_run_change_nothing_and_are_the_same_each_time() -> None:
    """They drew from the same random states, in a thread beside the training."""
    found = []
    for eval_set in (Noisy(), Noisy(), None):
        torch.manual_seed(2)
        network = nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5)), nn.Linear(8, 2))
        before = RandomState.capture().as_dict()
        trainer = Trainer(network, workers=2, batch_size=10, serial=True)
        found.append(trainer.fit(Noisy(), epochs=3, eval_set=eval_set))
        assert all(torch.equal(state, before[name]) for name, state in RandomState.capture().as_dict().items())
    weights = [list(result.model.parameters()) for result in found]
    assert all(map(torch.equal, weights[0], weights[1]))
    assert all(map(torch.equal, weights[0], weights[2]))
    losses = [[evaluation.test_loss for evaluation in result.history] for result in found]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3


def test_synthesizer_of_one_s_own_is_refused_where_a_method_has_none() -> None:
    with pytest.raises(ConfigError, match="synthesizer: got a function; local has no synthesizers; allowed: none"):
        Trainer(fcn(3, 8), workers=3, method="local", synthesizer=LinearSynthesizer)

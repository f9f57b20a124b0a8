"""The benchmarks that train to an error: what they compute from courses, what they keep, and that they run."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_benchmarks import ROOT, run
from torch import nn
from torch.utils.data import TensorDataset

from async_dni import Trainer, fcn, load_dataset
from async_dni.data.stream import BatchStream
from benchmarks import harness
from benchmarks.courses import Point, best_rate, fastest_rate, lowest_error, time_to, times_to, why_missing


@pytest.fixture
def weight_history(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module as the scripts import it: workers find its class by that name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("weight_history")


def course(*errors: float, seconds: float = 1.0) -> Sequence[Point]:
    """An evaluation every ten steps, each of which takes so many seconds."""
    return [Point(10 * i, 10 * i * seconds, error) for i, error in enumerate(errors)]


def test_time_is_that_of_the_first_evaluation_at_the_target() -> None:
    points = course(90.0, 3.1, 2.5, 2.6, 1.9)
    assert time_to(3.0, points) == 20
    assert time_to(2.5, points) == 20
    assert time_to(2.4, points) == 40
    assert time_to(1.8, points) is None
    assert lowest_error(points) == 1.9


def test_a_target_that_one_round_misses_is_not_reached() -> None:
    rounds = [course(90, 3, 2), course(90, 4, 3), course(90, 2, 2)]
    assert times_to(3, rounds) == [10, 20, 10]
    assert times_to(2, rounds) is None
    assert why_missing(2, rounds) == "not reached in 1 of 3 rounds"
    assert why_missing(1, rounds) == "not reached"


def test_best_rate_is_the_fastest_to_the_lowest_target_that_is_reached() -> None:
    courses = {
        1e-4: [course(90, 4, 3, 2.5)],  # reaches 3 late
        3e-4: [course(90, 5, 2.9, 2.4), course(90, 5, 2.9, 2.4)],
        1e-3: [course(90, 2.0), course(90, 9.0)],  # reaches all, in one round of two
    }
    assert fastest_rate(5, courses) == 1e-4
    assert fastest_rate(2.4, courses) == 3e-4
    assert fastest_rate(2.0, courses) is None
    assert best_rate([5, 2.0], courses) == 1e-4
    assert best_rate([5, 2.4], courses) == 3e-4
    assert best_rate([1.0], courses) == 3e-4  # none is reached: the lowest median error


def test_snapshots_are_the_weights_of_plain_training(
    weight_history: Any, small_mnist: tuple[TensorDataset, TensorDataset]
) -> None:
    train_set, steps = small_mnist[0], (0, 3, 7)
    settings = {"workers": 2, "method": "backprop", "split": (1,), "batch_size": 50, "eval_every": 0}
    network = weight_history.keeping(fcn(3, 16), steps)
    sgd = partial(torch.optim.SGD, lr=0.1)
    trained = Trainer(network, optimizer=sgd, threads_per_worker=1, **settings).fit(train_set, steps=8).model

    plain, expected = fcn(3, 16), []
    plain.load_state_dict(nn.Sequential(*(block.block for block in network)).state_dict())
    optimizer = sgd(plain.parameters())
    for batch in BatchStream(train_set, 50, 8, seed=0):
        expected.append({name: value.clone() for name, value in plain.state_dict().items()})
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(batch.x), batch.target).backward()
        optimizer.step()

    seconds = []
    for (step, second), wanted in zip(weight_history.replay(trained), steps, strict=True):
        found = nn.Sequential(*(block.block for block in trained)).state_dict()
        assert step == wanted
        assert all(torch.equal(found[name], value) for name, value in expected[step].items())
        seconds.append(second)
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0


def test_time_to_accuracy(tmp_path: Path) -> None:
    options = ("--layers", "3", "--steps", "40", "--eval-every-steps", "20", "--contenders", "cdni (,locked (1")
    content = run("time_to_accuracy", tmp_path / "time.json", *options, "--targets", "95,0.001")
    harness.check(content)
    by_metric = {case["metric"]: case for case in content["cases"] if "each at its best" not in case["name"]}
    # 3 layers can't be cut for 4 workers
    names = {"cdni (2 workers), lr 0.001", "cdni (3 workers), lr 0.001", "locked (1 thread), lr 0.001"}
    reached, missed = by_metric["time to 95 %"], by_metric["time to 0.001 %"]
    assert set(reached["contenders"]) == names
    assert missed["missing"] == dict.fromkeys(names, "not reached")
    assert not missed["contenders"]
    assert {"best test error", "test error at the end", "whole training"} < set(by_metric)
    at_best = {case["metric"]: case for case in content["cases"] if "each at its best" in case["name"]}
    assert set(at_best["time to 0.001 %"]["missing"]) == {"cdni (2 workers)", "cdni (3 workers)", "locked (1 thread)"}
    assert {len(points) for curves in at_best["test error"]["curves"].values() for points in curves} == {3}


def test_a_contenders_settings_are_those_of_its_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = importlib.import_module("time_to_accuracy")
    train_set, test_set = load_dataset("mnist")
    training = benchmark.Training(4, 250, 10, 5, 3.0, train_set, test_set)
    made = {
        label: benchmark.make_trainer(name, workers, training, 1e-3, 7).config
        for label, (name, workers) in benchmark.ASYNC.items()
    }
    assert {made[label].workers for label in made if "(3 workers)" in label} == {3}
    assert {config.method for label, config in made.items() if label.startswith("cdni")} == {"cdni"}
    assert made["delayed (2 workers)"].method == "delayed"
    every = {label: made[f"{label} (2 workers)"].synthesizer_every for label in benchmark.SETTINGS}
    assert every == {"cdni": 1, "cdni every 2nd": 2, "cdni every 4th": 4, "delayed": 1}
    assert {config.synthesizer_lr for config in made.values()} == {3.0 * 1e-3}
    assert {config.seed for config in made.values()} == {7}


def test_staleness_is_the_same_in_workers_and_in_one_process(tmp_path: Path) -> None:
    options = ("--steps", "30", "--lags", "1,8")
    content = run("staleness", tmp_path / "workers.json", *options)
    harness.check(content)
    assert [case["settings"]["lag"] for case in content["cases"]] == [1, 8]
    assert all(set(case["contenders"]) == {"cdni", "delayed"} for case in content["cases"])
    serial = run("staleness", tmp_path / "serial.json", *options, "--serial")
    assert [case["contenders"] for case in serial["cases"]] == [case["contenders"] for case in content["cases"]]


def test_a_rows_settings_are_those_of_its_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    accuracy = importlib.import_module("accuracy")
    trainers = []

    def fit(trainer: Trainer, *_: Any) -> Any:
        trainers.append(trainer)
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy, "fit", fit)
    for name in ("dni-3", "cdni-6"):
        with pytest.raises(KeyboardInterrupt):
            accuracy.train(accuracy.ROWS[name], {28: (None, None)}, 1)
    dni, cdni = (trainer.config for trainer in trainers)
    assert (dni.method, dni.workers, dni.hidden, dni.lag) == ("dni", 3, (256, 256), None)
    assert (cdni.method, cdni.workers, cdni.hidden, cdni.lag) == ("cdni", 6, (), 3)
    sgd, adam = (trainer.optimizer([torch.zeros(1, requires_grad=True)]) for trainer in trainers)
    assert (type(sgd), sgd.defaults["lr"], sgd.defaults["momentum"]) == (torch.optim.SGD, 0.005, 0.9)
    assert (type(adam), adam.defaults["lr"]) == (torch.optim.Adam, 3e-4)


def test_accuracy(tmp_path: Path) -> None:
    rows = "lua-relu,cdni-3,paper-cdni-3"
    content = run("accuracy", tmp_path / "accuracy.json", "--rows", rows, "--steps", "20")
    harness.check(content)
    by_metric = {case["metric"]: case for case in content["cases"]}
    errors = by_metric["test error"]
    assert set(errors["contenders"]) == {"lua-relu", "cdni-3", "paper-cdni-3"}
    assert set(errors["published"]) == {"paper-cdni-3"}
    assert "as recalled, not checked against a copy" in errors["published"]["paper-cdni-3"]["source"]
    assert set(by_metric["training error"]["published"]) == {"lua-relu"}
    assert errors["settings"]["rows"]["cdni-3"]["steps"] == 20
    assert "steps 20 in place of each row's own" in errors["name"]

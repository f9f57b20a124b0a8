"""The benchmarks that train to an error: what they compute from courses, what they keep, and that they run."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from test_benchmarks import ROOT, run
from torch import nn
from torch.utils.data import TensorDataset

from async_dni import Trainer, fcn
from async_dni.data.stream import BatchStream
from benchmarks import harness
from benchmarks.courses import Point, best_rate, fastest_rate, lowest_error, time_to, times_to, why_missing

ENVIRONMENT = {"python": "3", "torch": "2", "platform": "", "processor": "", "cores": 2, "threads": 1}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules as the scripts import them."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def weight_history(benchmark: Any) -> Any:
    """The module as the scripts import it: workers find its class by that name."""
    return benchmark("weight_history")


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
    options = ("--workers", "2,3,4", "--steps", "40", "--locked-steps", "40", "--eval-every-steps", "20")
    chosen = ("--contenders", "cdni (,locked (1 thread)")
    content = run("time_to_accuracy", tmp_path / "time.json", *options, *chosen, "--targets", "95,0.001")
    harness.check(content)
    by_metric = {case["metric"]: case for case in content["cases"] if "as it was tuned" not in case["name"]}
    # 3 layers can't be cut for 4 workers
    names = {
        "cdni (2 workers), lr 0.001, models' lr ×2",
        "cdni (3 workers), lr 0.001, models' lr ×2",
        "locked (1 thread), lr 0.001",
    }
    reached, missed = by_metric["time to 95 %"], by_metric["time to 0.001 %"]
    assert set(reached["contenders"]) == names
    assert missed["missing"] == dict.fromkeys(names, "not reached")
    assert not missed["contenders"]
    assert {"best test error", "test error at the end", "whole training"} < set(by_metric)
    at_best = {case["metric"]: case for case in content["cases"] if "as it was tuned" in case["name"]}
    assert set(at_best["time to 0.001 %"]["missing"]) == {"cdni (2 workers)", "cdni (3 workers)", "locked (1 thread)"}
    assert {len(points) for curves in at_best["test error"]["curves"].values() for points in curves} == {3}


def test_a_contenders_settings_are_those_of_its_training(benchmark: Any) -> None:
    training, contenders, workloads = map(benchmark, ("training", "contenders", "workloads"))
    workload = workloads.WORKLOADS["3x256"]
    more = dict(
        [contenders.contender("cdni rank 8, slow: synthesizer=linear synthesizer_lr=0.5 synthesizer_hidden=()")]
    )
    field = training.racers(workload, [2, 3, 4], 3, contenders.named(workload, more))
    assert not any("(4 workers)" in name for name in field), "3 blocks can't be cut for 4"
    does = training.Training(workload, workload.load(), 5)
    setting = training.Setting(1e-3, "onecycle", 10, 3.0)
    made = {name: one.trainer(does, setting, 7).config for name, one in field.items() if isinstance(one, training.Ours)}
    assert {made[name].workers for name in made if "(3 workers)" in name} == {3}
    assert {config.method for name, config in made.items() if name.startswith("cdni")} == {"cdni"}
    assert made["backprop (2 workers)"].method == "backprop"
    every = ("cdni", "cdni every 2nd", "cdni every 4th", "delayed")
    assert [made[f"{name} (2 workers)"].synthesizer_every for name in every] == [1, 2, 4, 1]
    own = made.pop("cdni rank 8 slow (2 workers)")
    assert (own.synthesizer, own.synthesizer_lr, own.synthesizer_hidden) == ("linear", 0.5, ())
    made.pop("cdni rank 8 slow (3 workers)")
    assert {config.synthesizer_lr for config in made.values()} == {3.0 * 1e-3}
    assert {(config.seed, config.lr_schedule) for config in made.values()} == {(7, "onecycle")}


def test_what_is_held_out_is_the_end_of_the_training_set(benchmark: Any) -> None:
    workloads = benchmark("workloads")
    whole = workloads.WORKLOADS["3x256"].load()
    kept = whole.held_out()
    assert (len(kept.train_set), len(kept.test_set)) == (50_000, 10_000)
    assert torch.equal(torch.cat([kept.train_set.labels, kept.test_set.labels]), whole.train_set.labels)
    text = workloads.WORKLOADS["transformer"].load()
    kept = text.held_out()
    assert len(kept.train_set) + len(kept.test_set) == len(text.train_set)
    together = [part.get_batch(torch.arange(len(part))) for part in (kept.train_set, kept.test_set)]
    expected = text.train_set.get_batch(torch.arange(len(text.train_set)))
    assert all(
        torch.equal(torch.cat(parts), all_) for parts, all_ in zip(zip(*together, strict=True), expected, strict=True)
    )


def test_a_locked_course_is_that_of_plain_training(benchmark: Any) -> None:
    training, workloads, rivals = map(benchmark, ("training", "workloads", "rivals"))
    workload = dataclasses.replace(workloads.WORKLOADS["3x256"], network=partial(fcn, 3, 16), batch_size=300)
    data = workload.load().first(1000, 200)  # the last batch of an epoch is of 100
    does = training.Training(workload, data, 3)
    sent: list[Any] = []
    threads = torch.get_num_threads()
    try:
        results = SimpleNamespace(send=sent.append)
        training.locked(0, results, rivals.Plain(1), does, training.Setting(1e-2, "cosine", 7), seed=3)
    finally:
        torch.set_num_threads(threads)
    (course,) = sent
    assert [point.step for point in course] == [0, 3, 6, 7]

    model = workload.make(data, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    errors = []
    for batch in BatchStream(data.train_set, 300, 8, seed=3):
        if batch.index in (0, 3, 6, 7):
            errors.append(workload.evaluate(model, data.test_set))
            model.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch.x), batch.target).backward()
        optimizer.step()
        scheduler.step()
    assert [point.error for point in course] == errors


def test_what_is_compiled_is_left_as_it_was(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rivals, called = benchmark("rivals"), []
    monkeypatch.setattr(torch, "compile", lambda model, **settings: lambda x: called.append(len(x)) or model(x))
    model = fcn(3, 8).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads = torch.get_num_threads()
    try:
        batches = [(torch.randn(size, 784), torch.zeros(size, dtype=torch.int64)) for size in (6, 4)]
        rivals.Plain(1, compiled=True).prepare(model, batches)
    finally:
        torch.set_num_threads(threads)
    assert called == [6, 4]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class Toy:
    """A racer: how low it gets with a setting, and how often it was trained."""

    settings: ClassVar[dict[str, Any]] = {"method": "toy"}
    workers, is_locked = 2, False

    def __init__(self, ends: dict[float, Sequence[float]]) -> None:
        self.ends, self.trained = ends, 0

    def train(self, training: Any, setting: Any, seed: int) -> Sequence[Point]:
        self.trained += 1
        return course(*self.ends[setting.lr]) if self.ends[setting.lr] else []


def tuning_of(benchmark: Any, path: Path | None) -> Any:
    training, workloads, tuning = map(benchmark, ("training", "workloads", "tuning"))
    workload = workloads.WORKLOADS["3x256"]
    return tuning.Tuning(training.Training(workload, workload.load(), 10), path)


def test_tuning_keeps_its_courses_and_goes_on(benchmark: Any, tmp_path: Path) -> None:
    tuning, steps = benchmark("tuning"), benchmark("error_at_steps")
    settings = tuning.candidates([1e-3, 1e-2, 1e-1], ["constant"], [10, 20])
    assert [(setting.lr, setting.steps) for setting in settings] == [(1e-3, 20), (1e-2, 20), (1e-1, 20)]
    assert len(tuning.candidates([1e-3], ["constant", "cosine"], [10, 20])) == 3
    assert len(tuning.candidates([1e-3], ["constant", "cosine"], [10, 20], [1.0, 2.0])) == 6
    toy = Toy({1e-3: (90, 5), 1e-2: (90, 3), 1e-1: ()})
    path = tmp_path / "tuned.json"
    found, missing = tuning.tune(tuning_of(benchmark, path), {"toy": (toy, settings)}, float("inf"))
    assert not missing
    assert steps.choose(found) == {"toy": settings[1]}, "the one that came apart is not chosen"
    again, _ = tuning.tune(tuning_of(benchmark, path), {"toy": (toy, settings)}, 0.0)
    assert again == found
    assert toy.trained == 3, "the file has them"
    for always, trained in (((), 0), (("one",), 1)):
        one = Toy(toy.ends)
        found, _ = tuning.tune(tuning_of(benchmark, None), {"one": (one, settings[:1])}, float("inf"), always)
        assert (list(found["one"]), one.trained) == (settings[:1], trained), "there is nothing to choose"
    other = Toy(toy.ends)
    found, missing = tuning.tune(tuning_of(benchmark, None), {"toy": (other, settings)}, 0.0)
    assert (found, missing, other.trained) == ({}, {"toy": "not tuned"}, 0)


def test_a_race_is_chosen_on_what_is_held_out_and_locked_sets_a_target(benchmark: Any) -> None:
    race_of, training, workloads, rivals = map(benchmark, ("time_to_accuracy", "training", "workloads", "rivals"))
    workload = workloads.WORKLOADS["3x256"]
    does = training.Training(workload, workload.load(), 10)
    slow, fast = training.Setting(1e-3, "constant", 30), training.Setting(1e-2, "constant", 30)
    aims = [race_of.Aim(10.0), race_of.Aim(step=20)]
    ours = training.Ours(2, {"method": "cdni"})
    field = {"ours": ours, "locked": training.Locked(rivals.Plain(1))}
    race = race_of.Race(does, does.data, field, aims)
    tuned = {
        "ours": {slow: [course(90, 20, 9, 4)], fast: [course(90, 9, 8, 7)]},
        "locked": {slow: [course(90, 30, 5, 4)], fast: [course(90, 10, 8, 3)]},
    }
    chosen = race.choose(tuned)
    assert chosen["ours"] == {aims[0]: fast, aims[1]: slow}, "locked is at 5 after 20 steps"
    assert chosen["locked"][aims[0]] == fast
    careful = race_of.Race(does, does.data, field, aims[:1], 0.2).choose(tuned)
    assert careful["ours"] == {aims[0]: fast}, "8 % after 20 steps, before 4 % after 30"
    assert race_of.Race(does, does.data, field, aims[:1], 0.5).choose(tuned)["ours"] == {aims[0]: slow}
    assert race_of.Race(does, does.data, field, aims[:1], 0.9).choose(tuned)["ours"] == {aims[0]: fast}, "as without"
    measured = {
        ("ours", slow): [course(90, 20, 9, 6), course(90, 20, 9, 4)],
        ("ours", fast): [course(90, 9, 8, 7), course(90, 11, 8, 7)],
        ("locked", slow): [course(90, 30, 6, 5), course(90, 30, 4, 4)],
        ("locked", fast): [course(90, 10, 8, 3), course(90, 10, 8, 3)],
    }
    assert race.values(aims[1], chosen, measured) == [6, 4], "round by round"
    case = race.case_at_best("a race", {}, aims[1], chosen, measured)
    assert case.rounds["ours, lr 0.001"] == [30, 30]
    assert case.rounds["locked, lr 0.001"] == [20, 20]
    assert list(case.ratios.values()) == [[2 / 3, 2 / 3]]
    race.rivals = {"locked": {"DDP": 1.5, "GPipe, 2 microbatches": 3.0}, "locked (9 threads)": {"DDP": 0.1}}
    case = race.case_at_best("a race", {}, aims[1], chosen, measured)
    ddp, pipeline = "DDP, as many steps as locked", "GPipe, 2 microbatches, as many steps as locked"
    assert case.formulas == {ddp: 30.0, pipeline: 60.0}, "of what took part only"
    assert case.ratios[f"{ddp} (formula) / ours, lr 0.001"] == [1.0, 1.0]
    harness.check({"benchmark": "a", "environment": ENVIRONMENT, "cases": [case.as_dict()]})


def test_a_race_reckons_rivals_by_their_rates(
    benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates, race = benchmark("rival_rates"), benchmark("time_to_accuracy")
    found = {"locked, 2 threads, compiled": [30.0, 40.0, 50.0], "DDP": [20.0, 20.0, 10.0], "cdni": [9.0, 9.0, 9.0]}
    file = tmp_path / "throughput.json"

    def write(contenders: dict[str, list[float]], metric: str = "throughput") -> None:
        kept = {name: {"rounds": rounds} for name, rounds in contenders.items()}
        case = {"metric": metric, "settings": {"workload": "3x256"}, "contenders": kept}
        file.write_text(json.dumps({"cases": [{"metric": "computing"}, case]}))

    write(found)
    assert rates.slowness(file, "3x256") == {"locked (2 threads compiled)": {"DDP": 2.0}}
    for wrong, said in (
        ({"DDP": [1.0]}, "has no locked process, or"),
        ({"locked, 1 thread": [1.0]}, "or no rival of several"),
        (None, "has no throughput of 3x256"),
    ):
        if wrong is None:
            file.unlink()
        else:
            write(wrong)
        with pytest.raises(SystemExit) as ended:
            race.main(["--quick", "--rivals", str(file)])
        assert ended.value.code == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "--rivals" in told
        assert said in told
    for wrong in ("1", "-0.1", "much"):
        with pytest.raises(SystemExit) as ended:
            race.main(["--quick", "--margin", wrong])
        assert ended.value.code == 2
        assert f"got {wrong}; allowed: a number from 0, below 1" in capsys.readouterr().err


def test_error_at_steps(tmp_path: Path) -> None:
    tuned, chosen = ("--tuned", str(tmp_path / "tuned.json")), ("--contenders", "locked (1 thread)", "--steps", "20")
    content = run("error_at_steps", tmp_path / "steps.json", *tuned, *chosen, "--learning-rates", "1e-3,1e-9")
    harness.check(content)
    assert [case["metric"] for case in content["cases"]] == ["test error", "training"]
    case = content["cases"][0]
    assert set(case["contenders"]) == {"locked (1 thread), lr 0.001"}
    assert case["settings"]["chosen"] == {"locked (1 thread)": "lr 0.001, constant, 20 steps"}


def test_differences_are_taken_seed_by_seed(benchmark: Any) -> None:
    steps, workload = benchmark("error_at_steps"), benchmark("workloads").WORKLOADS["transformer"]
    found = {"a": [course(9, 3), course(9, 4)], "b": [course(9, 1), course(9, 3)], "c": [course(9, 1), []]}
    error, less, seconds = steps.cases_of(workload, {"steps": 10}, found, "b", {"d": "no compiler"})
    assert error.missing == {"c": "came apart in 1 of 2 rounds", "d": "no compiler"}
    assert (error.rounds, less.rounds) == ({"a": [3, 4], "b": [1, 3]}, {"a": [2, 1]})
    assert (error.metric.unit, less.metric.name) == ("bits", "test bits less that of b")
    assert seconds.rounds == {"a": [10, 10], "b": [10, 10]}


def test_share_of_a_synthesizer(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shares, workload = benchmark("synthesizer_share"), benchmark("workloads").WORKLOADS["3x256"]
    clock = iter(range(1000))  # every look at the clock is a second later
    data = workload.load().first(250, 250)
    threads = torch.get_num_threads()
    try:
        share = shares.Share(workload, data, 1, {"method": "cdni", "synthesizer": "linear"})
        monkeypatch.setattr(shares, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
        found = {metric.name: value for metric, value in share.measure(4).items()}
    finally:
        torch.set_num_threads(threads)
    # 4 batches, in each of which `now` and `learn` look twice; and the whole's own look at the end
    assert found == {"share": 100 * 8 / 17, "whole stage": 1e3 * 17 / 4, "now and learn": 1e3 * 8 / 4}


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
    data = importlib.import_module("workloads").Data(None, None, (1, 28, 28), 10)
    for name in ("dni-3", "cdni-6", "cnn-local"):
        with pytest.raises(KeyboardInterrupt):
            accuracy.train(accuracy.ROWS[name], data, 1)
    dni, cdni, local = (trainer.config for trainer in trainers)
    assert (local.method, local.workers, local.batch_size, local.lr_schedule) == ("local", 3, 128, "onecycle")
    assert (local.synthesizer_lr, local.seed) == (8e-3, 1)
    assert (dni.method, dni.workers, dni.hidden, dni.lag) == ("dni", 3, (256, 256), None)
    assert (cdni.method, cdni.workers, cdni.hidden, cdni.lag) == ("cdni", 6, (), 3)
    sgd, adam, tuned = (trainer.optimizer([torch.zeros(1, requires_grad=True)]) for trainer in trainers)
    assert (type(tuned), tuned.defaults["lr"]) == (torch.optim.Adam, 1.6e-2)
    assert (type(sgd), sgd.defaults["lr"], sgd.defaults["momentum"]) == (torch.optim.SGD, 0.005, 0.9)
    assert (type(adam), adam.defaults["lr"]) == (torch.optim.Adam, 3e-4)


def test_accuracy(tmp_path: Path) -> None:
    rows = "lua-relu,cdni-3,paper-cdni-3,transformer-local"
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
    bits = by_metric["test bits"]["contenders"]
    assert set(bits) == {"transformer-local"}
    assert 3 < bits["transformer-local"]["median"] < 8, "of about a hundred characters, a little learnt"

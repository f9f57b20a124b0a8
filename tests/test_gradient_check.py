"""Gradient checks find what autograd does, and leave a run as it would have been, to the last bit."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_launch import launch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from async_dni import METHODS, SYNTHESIZERS, Callback, Comparison, ConfigError, GradientCheck, Trainer, TrainResult
from async_dni.data.stream import BatchStream
from async_dni.learning.batch import Batch
from async_dni.learning.stage import Stage, StageSpec
from async_dni.record import run as run_module
from async_dni.record.checkpoint import load_checkpoint, newest_checkpoint
from async_dni.record.gradients.check import StageGradients, summary_of
from async_dni.record.gradients.checker import GradientChecker, find_gradients, stage_in
from async_dni.record.gradients.comparison import compare
from async_dni.record.progress import Progress
from async_dni.record.schedule import CutKind, Schedule
from async_dni.runtime.cuts.of_stage import state_of
from async_dni.runtime.serial import Serial

WIDTH, CLASSES, BATCH = 7, 3, 10


def network() -> nn.Sequential:
    """With what draws random numbers, and what keeps statistics."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Linear(5, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh()),
        nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(0.3)),
        nn.Linear(WIDTH, CLASSES),
    )


def data(count: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 5, generator=generator), torch.randint(CLASSES, (count,), generator=generator)


SETTINGS: dict[str, Any] = {
    "workers": 3,
    "batch_size": BATCH,
    "method": "cdni",
    "synthesizer": "linear",
    "split": (1, 2),
}


def trained(model: nn.Sequential, steps: int = 5, **settings: Any) -> tuple[list[StageSpec], list[dict[str, Any]]]:
    """What the stages of a network are made from, and their states after some steps."""
    specs = Trainer(model, serial=True, **{**SETTINGS, **settings}).cut(data())[1]
    stages = [spec.build(torch.device("cpu")) for spec in copy.deepcopy(specs)]
    serial = Serial(stages)
    serial.run(BatchStream(TensorDataset(*data()), BATCH, steps, 0), 0, lambda step: True)
    return specs, serial.cut(CutKind.MODELS)


def a_batch(index: int = 5) -> Batch:
    return BatchStream(TensorDataset(*data()), BATCH, index + 1, 0)[index]


def checker_of(specs: list[StageSpec], **more: Any) -> GradientChecker:
    stream = BatchStream(TensorDataset(*data()), BATCH, 8, 0)
    return GradientChecker(specs, stream, Schedule(0, 8, 0, 0, 1), a_batch(0))


# Values.


def test_gradients_are_those_of_autograd() -> None:
    specs, states = trained(network())
    assert all(state["method"]["synthesizer"]["linear.weight"].any() for state in states[:-1]), "they predict something"
    batch = a_batch()
    torch.manual_seed(7)
    found = find_gradients([stage_in(spec, state) for spec, state in zip(specs, states, strict=True)], batch)

    whole = network()
    whole.load_state_dict({name: value for state in states for name, value in state["model"].items()})
    torch.manual_seed(7)  # dropout
    outputs = [whole[0](batch.x)]
    outputs += [whole[1](outputs[0])]
    loss = F.cross_entropy(whole[2](outputs[1]), batch.target)
    true = torch.autograd.grad(loss, outputs, retain_graph=True)
    synthetic = []
    for state, output in zip(states, outputs, strict=False):
        weights = state["method"]["synthesizer"]
        prediction = output @ weights["linear.weight"].t() + weights["condition.weight"][batch.target]
        synthetic.append(prediction.detach() / BATCH)
    (back,) = torch.autograd.grad(outputs[1], outputs[0], synthetic[1])
    for name, wanted in (("true", true), ("synthetic", synthetic), ("bootstrapped", (back, true[1]))):
        torch.testing.assert_close(getattr(found, name), list(wanted), rtol=1e-5, atol=1e-8)
    assert not torch.allclose(back, true[0], rtol=0.1), "what is compared differs"


def test_record_is_of_the_next_batch() -> None:
    specs, states = trained(network()[:1].append(nn.Linear(WIDTH, WIDTH)).append(nn.Linear(WIDTH, CLASSES)))
    check = checker_of(specs).check(5, 2.5, states)
    assert (check.step, check.batch, check.wall_seconds, check.epoch) == (5, 5, 2.5, 5 / 6)
    stages = [stage_in(spec, state) for spec, state in zip(specs, states, strict=True)]
    found = find_gradients(stages, a_batch())  # nothing here is random
    for k, stage in enumerate(check.stages):
        a, b = found.synthetic[k].double(), found.true[k].double()
        assert stage.stage == k
        assert stage.norm == pytest.approx(float(b.norm()))
        cosines = F.cosine_similarity(a, b, dim=1)
        assert stage.synthetic.cosine == pytest.approx(float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0)))
        assert stage.synthetic.sample_cosine == pytest.approx(float(cosines.mean()))
        assert stage.synthetic.error == pytest.approx(float((a - b).norm() / b.norm()))
        assert stage.regression == compare(found.synthetic[k], found.bootstrapped[k], (0,))
    assert check.stages[1].bootstrapped == Comparison(pytest.approx(1), pytest.approx(1), 0.0), "the loss's own"
    assert check.stages[1].regression == check.stages[1].synthetic
    assert (check.stages[0].bootstrapped or Comparison()).error > 0  # type: ignore[operator]


class Exact(nn.Module):
    """The gradient of the squared error of a linear network, known."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, h: Tensor, labels: Tensor | None) -> Tensor:
        return h @ self.weight


def test_true_linear_synthesizer_has_no_error() -> None:
    """L = mean over the batch of ‖h W‖²: with h_1 = h_0 V, ∂L/∂h_0 = 2 h_0 V W Wᵀ Vᵀ, a row each."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(5, 5, bias=False) for _ in range(3))).double()
    trainer = Trainer(
        model,
        workers=3,
        method="dni",
        batch_size=BATCH,
        serial=True,
        loss_fn=lambda output, target: output.square().sum() / len(output),
        synthesizer=lambda features, classes: Exact(torch.zeros(5, 5, dtype=torch.float64)),
    )
    x = torch.randn(60, 5, dtype=torch.float64)
    specs = trainer.cut((x, torch.zeros(60, 1, dtype=torch.float64)))[1]
    stream = BatchStream(TensorDataset(x, torch.zeros(60, 1, dtype=torch.float64)), BATCH, 8, 0)
    v, w = (layer.weight.detach().t() for layer in list(model)[1:])
    exact = [2 * v @ w @ w.t() @ v.t(), 2 * w @ w.t()]
    states = [state_of(spec.build(torch.device("cpu")), CutKind.MODELS) for spec in copy.deepcopy(specs)]
    checker = GradientChecker(specs, stream, Schedule(0, 8, 0, 0, 1), stream[0])
    nothing = checker.check(3, 0.0, states)
    assert nothing.stages[0].synthetic == Comparison(None, None, 1.0), "zero has no direction"
    for state, weight in zip(states, exact, strict=False):
        state["method"]["synthesizer"]["weight"] = weight
    for stage in checker.check(3, 0.0, states).stages:
        for found in (stage.synthetic, stage.bootstrapped, stage.regression):
            assert found == Comparison(pytest.approx(1), pytest.approx(1), pytest.approx(0, abs=1e-12))


def test_several_parts_are_compared_together() -> None:
    """The second part counts the samples in its second dimension, as an LSTM's states do."""
    a, b = (torch.randn(4, 3), torch.randn(2, 4, 5)), (torch.randn(4, 3), torch.randn(2, 4, 5))
    rows = [torch.cat([one[0], one[1].movedim(1, 0).flatten(1)], 1).double() for one in (a, b)]
    found = compare(a, b, (0, 1))
    assert found.cosine == pytest.approx(float(F.cosine_similarity(rows[0].flatten(), rows[1].flatten(), dim=0)))
    assert found.sample_cosine == pytest.approx(float(F.cosine_similarity(*rows, dim=1).mean()))
    assert found.error == pytest.approx(float((rows[0] - rows[1]).norm() / rows[1].norm()))
    assert compare(a, b, (0, 0)).sample_cosine is None, "one has no samples"


def test_numbers_that_are_none() -> None:
    one, zero, tiny = torch.ones(2, 3), torch.zeros(2, 3), torch.full((2, 3), 1e-30)
    assert compare(one, zero, (0,)) == Comparison(None, None, None)
    assert compare(zero, one, (0,)) == Comparison(None, None, 1.0)
    assert compare(tiny, 2 * tiny, (0,)) == Comparison(pytest.approx(1), pytest.approx(1), pytest.approx(0.5))
    assert compare(one * torch.inf, one, (0,)) == Comparison(None, None, None)
    half = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert compare(half, one, (0,)).sample_cosine == pytest.approx(3**-0.5), "of the sample that has one"


@pytest.mark.parametrize("broken", [torch.inf, torch.nan])
def test_divergence_is_recorded_as_nothing(broken: float) -> None:
    specs, states = trained(network())
    predicts = copy.deepcopy(states)
    predicts[0]["method"]["synthesizer"]["linear.weight"][0, 0] = broken
    stages = checker_of(specs).check(5, 0.0, predicts).stages
    assert stages[0].synthetic == stages[0].regression == Comparison()
    assert stages[0].norm is not None
    assert (stages[0].bootstrapped or Comparison()).error is not None
    computes = copy.deepcopy(states)
    computes[0]["model"]["0.0.weight"][0, 0] = broken
    check = checker_of(specs).check(5, 0.0, computes)
    nothing = Comparison()
    assert check.stages == tuple(StageGradients(k, None, nothing, nothing, nothing) for k in range(2))
    json.dumps(check.as_dict(), allow_nan=False)


def test_states_and_random_states_stay_as_they_are() -> None:
    specs, states = trained(network())
    before, drawn = copy.deepcopy(states), torch.get_rng_state()
    modules = copy.deepcopy([spec.module.state_dict() for spec in specs])
    first, second = (checker_of(specs).check(5, 0.0, states) for _ in range(2))
    assert first == second, "what is drawn is seeded by the step"
    assert torch.equal(torch.get_rng_state(), drawn)
    assert_equal(states, before)
    assert_equal([spec.module.state_dict() for spec in specs], modules)
    assert all(parameter.grad is None for spec in specs for parameter in spec.module.parameters())


def test_autocast_is_left_out() -> None:
    specs, states = trained(network(), steps=0, autocast="bfloat16")
    stages = [stage_in(spec, state) for spec, state in zip(specs, states, strict=True)]
    assert {gradient.dtype for gradient in find_gradients(stages, a_batch()).true} == {torch.float32}  # type: ignore[union-attr]


# Runs.


class Checks(Callback):
    def __init__(self) -> None:
        self.found: list[GradientCheck] = []

    def on_gradient_check(self, check: GradientCheck) -> None:
        self.found.append(check)


def fit(run_dir: Path | None, steps: int = 8, train_set: Any = None, **settings: Any) -> TrainResult:
    given = {**SETTINGS, "lag": 1, "run_dir": run_dir, "checkpoint_every": 3, "threads_per_worker": 1, **settings}
    return Trainer(network(), **given).fit(data() if train_set is None else train_set, steps=steps, eval_set=data(40))


def assert_equal(a: Any, b: Any) -> None:
    """Nests of tensors and plain values, to the bit."""
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    else:
        assert a == b


def timeless(checks: list[GradientCheck]) -> list[GradientCheck]:
    return [replace(check, wall_seconds=0.0) for check in checks]


def read(run_dir: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def test_a_run_is_the_same_with_checks_in_workers_and_serial(tmp_path: Path) -> None:
    fit(tmp_path / "without", serial=True)
    serial = fit(tmp_path / "serial", serial=True, gradient_check_every=2)
    workers = fit(tmp_path / "workers", gradient_check_every=2)
    states = {}
    for name in ("without", "serial", "workers"):
        states[name] = load_checkpoint(newest_checkpoint(tmp_path / name)).__dict__
        del states[name]["wall_seconds"]
    assert states["without"]["step"] == 8
    assert_equal(states["serial"], states["without"])
    assert_equal(states["workers"], states["without"])
    assert [check.step for check in serial.gradient_checks] == [2, 4, 6, 8]
    assert timeless(serial.gradient_checks) == timeless(workers.gradient_checks)
    assert not serial.problems
    plain = [{**line, "wall_seconds": 0} for line in read(tmp_path / "without")]
    checked = [{**line, "wall_seconds": 0} for line in read(tmp_path / "workers")]
    assert [line for line in checked if "kind" not in line] == plain, "evaluations are as they were"
    assert "gradient_checks" not in json.loads((tmp_path / "without" / "summary.json").read_text())


def test_records_of_a_run(tmp_path: Path) -> None:
    told = Checks()
    result = fit(tmp_path / "run", serial=True, gradient_check_every=3, callbacks=told)
    assert told.found == result.gradient_checks
    lines = [line for line in read(tmp_path / "run") if line.get("kind") == "gradient_check"]
    assert [(line["step"], line["batch"]) for line in lines] == [(3, 3), (6, 6)], "at checkpoints, too"
    assert set(lines[0]) == {"kind", "step", "epoch", "wall_seconds", "batch", "stages"}
    for k, stage in enumerate(lines[0]["stages"]):
        assert stage["stage"] == k
        assert set(stage) == {"stage", "norm", "synthetic", "bootstrapped", "regression"}
        assert set(stage["synthetic"]) == {"cosine", "sample_cosine", "error"}
        assert -1 <= stage["synthetic"]["cosine"] <= 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["gradient_checks"]
    assert summary["checks"] == 2
    assert {"kind": "gradient_check", **summary["last"]} == lines[-1]
    errors = [line["stages"][0]["synthetic"]["error"] for line in lines]
    assert summary["mean"][0]["synthetic"]["error"] == pytest.approx(sum(errors) / 2)


def test_checks_go_on_at_the_same_steps(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", serial=True, gradient_check_every=2)
    first = fit(tmp_path / "half", steps=4, serial=True, gradient_check_every=2, early_stopping=5)
    second = fit(None, serial=True, gradient_check_every=2, resume=tmp_path / "half", early_stopping=5)
    assert timeless(first.gradient_checks + second.gradient_checks) == timeless(whole.gradient_checks)
    steps = [line["step"] for line in read(tmp_path / "half") if "kind" in line]
    assert steps == [2, 4, 6, 8]
    assert second.best is not None, "evaluations are read back from among them"
    assert second.best.step in {line["step"] for line in read(tmp_path / "half") if "kind" not in line}


def test_a_run_that_ends_after_a_check_is_not_checked_there_again(tmp_path: Path) -> None:
    class Ends(Callback):
        def on_gradient_check(self, check: GradientCheck) -> None:
            raise ZeroDivisionError("enough")

    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, serial=True, gradient_check_every=2, callbacks=Ends())
    assert [line["step"] for line in read(tmp_path) if "kind" in line] == [2]


def test_data_that_is_iterated_is_checked_on_its_first_batch() -> None:
    loader = DataLoader(TensorDataset(*data()), BATCH)
    checks = fit(None, serial=True, gradient_check_every=4, train_set=loader).gradient_checks
    assert [(check.step, check.batch) for check in checks] == [(4, 0), (8, 0)]


@pytest.fixture
def imitation() -> Iterator[str]:
    import toys

    METHODS.add(toys.IMITATION)  # as the import does, the first time
    SYNTHESIZERS.add(toys.BIAS)
    yield toys.IMITATION.name
    METHODS.remove(toys.IMITATION.name)
    SYNTHESIZERS.remove(toys.BIAS.name)


def test_method_that_sends_no_gradients(imitation: str) -> None:
    """What it answers is held against the true gradient; nothing comes back, so there is nothing else to compare."""
    settings = {"method": imitation, "synthesizer": None, "lag": None}
    (check,) = fit(None, steps=2, serial=True, gradient_check_every=2, **settings).gradient_checks
    for stage in check.stages:
        assert stage.synthetic.error is not None
        assert stage.bootstrapped is stage.regression is None
    assert summary_of([check, check])["mean"][0]["bootstrapped"] is None  # type: ignore[index]


def test_check_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(stages: list[Stage], batch: Batch) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("async_dni.record.gradients.checker.find_gradients", fail)
    result = fit(None, serial=True, gradient_check_every=2)
    assert result.summary["steps"] == 8
    assert not result.gradient_checks
    (problem,) = result.problems
    assert problem.startswith("the gradient check after step 8 failed (ZeroDivisionError: by nothing, in ")


def test_checks_that_come_too_fast_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that waits holds a network."""
    told, warnings = threading.Event(), []

    class Warned(Progress):
        def on_warning(self, text: str) -> None:
            warnings.append(text)
            told.set()

    check = GradientChecker.check
    monkeypatch.setattr(GradientChecker, "check", lambda *given: told.wait(60) and check(*given))
    monkeypatch.setattr(run_module.Run, "wait", lambda self: None)
    monkeypatch.setattr(run_module, "MOST_WAITING", 1)
    result = fit(None, serial=True, gradient_check_every=1, progress=Warned(), checkpoint_every=0, steps=3)
    assert [check.step for check in result.gradient_checks] == [1, 3], "the second came while the first was made"
    assert warnings == [
        "the gradient check after step 2 was passed over, as 1 were waiting; see --gradient-check-every"
    ]
    assert not result.problems, "nothing went wrong: the run's exit status is 0"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"gradient_check_every": -1}, "got -1; allowed: a whole number of at least 0"),
        ({"gradient_check_every": 1.5}, "got 1.5; allowed: a whole number of at least 0"),
        ({"gradient_check_every": 5, "method": "delayed"}, "got 5; delayed waits for true gradients; allowed: 0"),
        ({"gradient_check_every": 5, "method": "backprop"}, "got 5; backprop waits for true gradients; allowed: 0"),
        ({"gradient_check_every": 5, "workers": 1}, "got 5; one worker has the loss's own gradient; allowed: 0"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^gradient_check_every: {sentence}"):
        Trainer(network(), **settings)


def test_schedule_cuts_once_for_all_that_is_due() -> None:
    kinds = [Schedule(0, 13, 4, 6, 2).cut_after(step) for step in range(14)]
    models, full = CutKind.MODELS, CutKind.FULL
    assert kinds == [None, None, models, None, models, None, full, None, models, None, models, None, full, None]
    assert Schedule(0, 13, 4, 6).cut_after(4) is CutKind.LAYERS


def test_command_line_tells_of_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    flags = f"--steps 6 --width 8 --workers 3 --serial --eval-every 0 --gradient-check-every 3 --run-dir {run_dir}"
    assert launch(*flags.split()) == 0
    told = capsys.readouterr().out.splitlines()
    lines = [line for line in told if line.startswith("gradients    step")]
    assert [line.split("  stage")[0] for line in lines] == ["gradients    step 3/6", "gradients    step 6/6"]
    stages = read(run_dir)[0]["stages"]
    first, second = ({name: stage[name] for name in ("synthetic", "bootstrapped")} for stage in stages)
    assert lines[0].split("3/6  ")[1] == (
        f"stage 0 cos {first['synthetic']['cosine']:.2f} err {first['synthetic']['error']:.2f} "
        f"(bootstrapped cos {first['bootstrapped']['cosine']:.2f} err {first['bootstrapped']['error']:.2f})  "
        f"stage 1 cos {second['synthetic']['cosine']:.2f} err {second['synthetic']['error']:.2f}"
    )
    assert any(line.startswith("gradients, means of 2: stage 0 cos ") for line in told)

"""A run ends early when its evaluations get no better; and what evaluations find beside the loss."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from async_dni import ConfigError, Evaluation, Trainer, TrainResult, fcn
from async_dni.__main__ import main
from async_dni.record.early_stopping import EarlyStopping
from async_dni.record.progress import Progress
from async_dni.record.run_dir import RunDir, read_json_lines
from async_dni.view.cells import describe_evaluation


def evaluation(step: int, loss: float, error: float | None = None, **metrics: float) -> Evaluation:
    return Evaluation(step, step / 2, 1.0, error, loss, None, metrics)


def looked(stopping: EarlyStopping, *losses: float) -> list[bool]:
    return [stopping.look(evaluation(2 * i, loss)) for i, loss in enumerate(losses, 1)]


def test_patience_is_counted_from_the_best_evaluation() -> None:
    stopping = EarlyStopping(2)
    assert looked(stopping, 1.0, 0.5, 0.5, 0.4, math.nan, 0.45) == [False] * 5 + [True]
    assert stopping.best is not None
    assert stopping.best.step == 8
    assert stopping.sentence == "ended early after 2 evaluations without a better test loss than 0.4 (step 8)"
    assert not stopping.look(evaluation(14, 9.0)), "it is said once"


def test_no_patience_is_for_ever_and_knows_the_best() -> None:
    stopping = EarlyStopping(0)
    assert not any(looked(stopping, 1.0, 2.0, 3.0, 4.0))
    assert stopping.best is not None
    assert stopping.best.test_loss == 1


def test_better_may_be_more() -> None:
    stopping = EarlyStopping(1, "f1", higher_is_better=True)
    assert [stopping.look(evaluation(i, 1.0, f1=f1)) for i, f1 in enumerate([0.1, 0.3, 0.2])] == [False, False, True]
    assert stopping.sentence == "ended early after an evaluation without a better f1 than 0.3 (step 1)"


def test_error_that_there_is_none_of_is_never_better() -> None:
    stopping = EarlyStopping(1, "error")
    assert stopping.look(evaluation(1, 1.0))
    assert stopping.best is None
    assert stopping.sentence == "ended early after an evaluation without a better test error"


def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.randn(40, 6), torch.randint(3, (40,))


def fit(run_dir: Path | None = None, *, eval_set: Any = data, steps: int = 8, **settings: Any) -> TrainResult:
    settings = {"workers": 2, "batch_size": 20, "lag": 1, "serial": True, **settings}
    torch.manual_seed(5)
    trainer = Trainer(fcn(3, 8, input_shape=(6,), num_classes=3), run_dir=run_dir, **settings)
    return trainer.fit(data(), steps=steps, eval_set=eval_set and eval_set())


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)


# so large that the first evaluation is the best
WORSE = {"optimizer": partial(SGD, lr=3.0), "method": "backprop"}


@pytest.mark.parametrize("serial", [True, False], ids=["serial", "workers"])
def test_run_ends_early(serial: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Notes()
    more = {"early_stopping": 2, "serial": serial, "progress": progress}
    result = fit(tmp_path / "run", steps=10**8, **WORSE, **more)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["ended_early"].startswith("ended early after 2 evaluations without a better test loss than ")
    assert progress.notes == [summary["ended_early"]]
    assert 6 <= summary["steps"] < 10**8
    assert result.interrupted_by is None
    assert summary["interrupted_by"] is None
    assert result.best is not None
    assert result.best.test_loss == min(found.test_loss for found in result.history)
    assert summary["best"]["step"] == result.best.step
    assert summary["best"]["by"] == "loss"
    assert "confusion" not in summary["best"]
    assert main(["summary", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert f"best evaluation: step {result.best.step}, test loss {result.best.test_loss:.4f}, test error " in shown
    assert summary["ended_early"] in shown


def test_serial_run_ends_right_after_the_evaluation_that_ends_it() -> None:
    """It trained on in the meantime, and so for another number of batches each time."""
    result = fit(steps=10**8, early_stopping=2, **WORSE)
    assert result.best is not None
    last = result.best.step + 4  # an evaluation comes every two steps
    assert result.summary["steps"] == last
    assert [found.step for found in result.history] == list(range(2, last + 1, 2))


def test_run_that_comes_to_its_end_has_not_ended_early(tmp_path: Path) -> None:
    result = fit(tmp_path / "run", steps=6, early_stopping=2, **WORSE)
    assert result.summary["steps"] == 6
    assert result.summary["ended_early"] is None


def test_resumed_run_knows_the_best_of_before(tmp_path: Path) -> None:
    first = fit(tmp_path / "run", steps=2, early_stopping=3, **WORSE)
    second = fit(steps=4, resume=tmp_path / "run", early_stopping=3, **WORSE)
    assert first.best is not None
    assert second.best == min([*first.history, *second.history], key=lambda found: found.test_loss)
    lines = [Evaluation(**line) for line in read_json_lines(tmp_path / "run" / "metrics.jsonl")]
    assert lines == RunDir(tmp_path / "run").evaluations(4) == [*first.history, *second.history]
    assert RunDir(tmp_path / "run").evaluations(3) == first.history


def test_lines_of_older_runs_are_read(tmp_path: Path) -> None:
    line = {"step": 2, "epoch": 1.0, "wall_seconds": 0.5, "test_error": 2.5, "test_loss": 0.25, "confusion": None}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert RunDir(tmp_path).evaluations(2) == [evaluation(2, 0.25, 2.5).__class__(**line)]
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n{")
    assert RunDir(tmp_path).evaluations(2) == []


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float().mean()


class Streaming:
    """As of torchmetrics."""

    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.right += int((outputs.argmax(1) == targets).sum())
        self.total += len(targets)

    def compute(self) -> Tensor:
        return torch.tensor(self.right / self.total)

    def reset(self) -> None:
        self.right = self.total = 0


def test_metrics_are_recorded_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"accuracy": accuracy, "streamed": Streaming()}
    result = Trainer(
        fcn(3, 8, input_shape=(6,), num_classes=3),
        workers=2,
        batch_size=17,
        serial=True,
        run_dir=tmp_path / "run",
        early_stopping_metric="streamed",
        metrics=metrics,
    ).fit(data(), steps=6, eval_set=data())
    for found in result.history:
        assert found.metrics["accuracy"] == pytest.approx(1 - found.test_error / 100)
        assert found.metrics["streamed"] == pytest.approx(1 - found.test_error / 100)
    assert [line["metrics"] for line in read_json_lines(tmp_path / "run" / "metrics.jsonl")] == [
        found.metrics for found in result.history
    ]
    assert result.summary["metrics"] == result.history[-1].metrics
    assert result.best is not None
    assert result.best.metrics["streamed"] == max(found.metrics["streamed"] for found in result.history)
    line = describe_evaluation(result.history[-1], 6)
    assert f"  accuracy {result.history[-1].metrics['accuracy']:.5g}  streamed " in line
    main(["summary", str(tmp_path / "run")])
    assert f"accuracy {result.history[-1].metrics['accuracy']:.5g}  streamed " in capsys.readouterr().out


def test_metrics_by_name() -> None:
    result = fit(metrics=("top1", "bits", "perplexity"))
    found = result.history[-1]
    x, target = data()
    nats = float(F.cross_entropy(result.model.eval()(x).detach(), target))
    assert found.metrics["top1"] == 100 - found.test_error
    assert found.metrics["bits"] == pytest.approx(nats / math.log(2), rel=1e-6)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(nats), rel=1e-6)


def no_number(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs


class Columns(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1]


NO_NUMBER = "metrics: got mine; it finds no number in outputs [20, 3] and targets [20] torch.int64 (TypeError: a Tensor"
REFUSED = {
    "no number": ({"metrics": {"mine": no_number}}, f"{NO_NUMBER} [20, 3] is no number)"),
    "raises": (
        {"metrics": {"mine": lambda outputs, targets: 1 / 0}},
        "torch.int64 (ZeroDivisionError: division by zero)",
    ),
    "no metric": (
        {"metrics": {"mine": 3}},
        "metrics: got mine; int is neither a function of outputs and targets nor has",
    ),
    "a name that is taken": (
        {"metrics": {"loss": accuracy}},
        "metrics: got loss; allowed: names other than loss, error, ",
    ),
    "no eval_set": (
        {"metrics": {"a": accuracy}, "eval_set": None},
        "metrics: got a; they are of an eval_set, and none is given",
    ),
    "unknown": (
        {"metrics": ("top5", "top6")},
        "metrics: got top5,top6; allowed: top1, top5, perplexity, bits, r2, each once",
    ),
    "twice": ({"metrics": ("top5", "top5")}, "metrics: got top5,top5; allowed: "),
    "other shapes": (
        {"metrics": ("r2",)},
        "(ValueError: allowed: outputs shaped like targets, not outputs [20, 3], targets [20])",
    ),
    "nothing to stop by": (
        {"early_stopping": 2, "eval_set": None},
        "early_stopping: got 2; there is no eval_set; allowed: 0",
    ),
    "too late": ({"early_stopping": 2, "eval_every": 0}, "early_stopping: got 2; there is one evaluation, at the end"),
    "negative": ({"early_stopping": -1}, "early_stopping: got -1; allowed: a whole number of at least 0"),
    "no such metric": (
        {"metrics": ("top5",), "early_stopping_metric": "top1"},
        "early_stopping_metric: got top1; allowed: loss, error, top5",
    ),
    "which is better": (
        {"metrics": {"mine": accuracy}, "early_stopping_metric": "mine"},
        "early_stopping_metric: got mine; it does not say what is better; "
        "allowed: one with an attribute higher_is_better that is True or False (of a function, mine.higher_is_better = True)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    settings, sentence = REFUSED[name]
    with pytest.raises(ConfigError) as raised:
        fit(**settings)
    assert sentence in str(raised.value)


def test_metrics_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = [
        "train",
        "--run-dir",
        str(tmp_path / "run"),
        "--steps",
        "2",
        "--batch-size",
        "20",
        "--serial",
        "--workers",
        "2",
    ]
    assert main([*run, "--metrics", "top5,perplexity", "--early-stopping", "3", "--early-stopping-metric", "top5"]) == 0
    (line,) = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert list(line["metrics"]) == ["top5", "perplexity"]
    assert f"top5 {line['metrics']['top5']:.5g}  perplexity " in capsys.readouterr().out


def test_cut_heeds_no_evaluations() -> None:
    settings = {"early_stopping": 3, "metrics": ("top1",), "early_stopping_metric": "top1", "warmup": 5}
    trainer = Trainer(fcn(3, 8, input_shape=(6,), num_classes=3), workers=2, batch_size=20, lag=1, **settings)
    assert len(trainer.cut(data())[1]) == 2

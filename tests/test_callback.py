"""Callbacks are told of a run; one that raises ends it, and costs nothing that was trained."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from async_dni import Callback, ConfigError, Evaluation, Trainer, TrainResult, fcn


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(40, 6), torch.randint(3, (40,))


def fit(callbacks: list[Any], run_dir: Path | None = None, steps: int = 8, **settings: Any) -> TrainResult:
    settings = {"workers": 2, "batch_size": 20, "lag": 1, "checkpoint_every": 4, **settings}
    model = fcn(3, 8, input_shape=(6,), num_classes=3)
    return Trainer(model, run_dir=run_dir, callbacks=callbacks, **settings).fit(data(), steps=steps, eval_set=data())


class Told(Callback):
    def __init__(self, fails: str | None = None) -> None:
        self.told: list[tuple[str, Any]] = []
        self.fails = fails

    def _note(self, name: str, what: Any) -> None:
        self.told.append((name, what))
        if name == self.fails:
            raise ArithmeticError(f"once too often, {name}")

    def on_begin(self, settings: dict[str, Any]) -> None:
        self._note("begin", settings)

    def on_step(self, record: dict[str, Any]) -> None:
        self._note("step", record)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._note("evaluation", evaluation)

    def on_checkpoint(self, path: Path) -> None:
        self._note("checkpoint", path)

    def on_end(self, result: TrainResult) -> None:
        self._note("end", result)

    def of(self, name: str) -> list[Any]:
        return [what for kind, what in self.told if kind == name]


@pytest.mark.parametrize("serial", [True, False], ids=["serial", "workers"])
def test_callbacks_are_told_of_all(serial: bool, tmp_path: Path) -> None:
    first, second = Told(), Told()
    result = fit([first, second], tmp_path / "run", serial=serial)
    assert first.told == second.told
    assert first.told[0][0] == "begin"
    assert first.of("begin")[0]["used"]["steps"] == 8
    assert [evaluation.step for evaluation in first.of("evaluation")] == [2, 4, 6, 8]
    assert [path.name for path in first.of("checkpoint")] == ["step-000000004.pt", "step-000000008.pt"]
    assert all(path.exists() for path in first.of("checkpoint"))
    assert first.of("end") == [result]
    assert first.told[-1][0] == "end"
    records = first.of("step")
    assert {record["worker"] for record in records} == {0, 1}
    assert max(record["step"] for record in records) == 8


@pytest.mark.parametrize("serial", [True, False], ids=["serial", "workers"])
@pytest.mark.parametrize("name", ["step", "evaluation", "checkpoint", "end"])
def test_callback_that_raises_ends_the_run_and_all_is_written(name: str, serial: bool, tmp_path: Path) -> None:
    first, second = Told(name), Told()
    with pytest.raises(ArithmeticError, match=f"once too often, {name}") as raised:
        fit([first, second], tmp_path / "run", serial=serial)
    assert "in _note" in "".join(traceback.format_exception(raised.value)), "where it was raised"
    assert len(first.of(name)) == 1
    assert not second.of(name), "none is called after it"
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files >= {"model.pt", "summary.json", "checkpoints"}


def test_callback_that_raises_ends_a_long_run_early(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError):
        fit([Told("evaluation")], steps=10**9, serial=True, checkpoint_every=0)


def test_callback_that_exits_loses_nothing(tmp_path: Path) -> None:
    class Exits(Callback):
        def on_evaluation(self, evaluation: Evaluation) -> None:
            raise SystemExit(3)

    with pytest.raises(SystemExit) as raised:
        fit([Exits()], tmp_path / "run", serial=True)
    assert raised.value.code == 3
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"model.pt", "summary.json", "checkpoints"}


def test_one_callback_needs_no_list() -> None:
    told: Any = Told()
    fit(told, serial=True)
    assert told.of("end")


def test_what_is_no_callback_is_refused() -> None:
    for given, kind in ((3, "int"), ("later", "str"), (Told, "the class Told"), ([Told], "the class Told")):
        with pytest.raises(ConfigError, match=f"callbacks: got {kind}; allowed: objects of subclasses of Callback"):
            fit(given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="callbacks: got function; allowed: objects of subclasses of Callback"):
        fit([fit])

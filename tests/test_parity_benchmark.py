"""`python benchmarks/parity.py`, as a reader runs it; and that it would notice."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_launch import ROOT

SCRIPT = ROOT / "benchmarks" / "parity.py"


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("parity", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["parity"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_every_promise_is_kept(parity: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "parity.json"
    assert parity.main(["--quick", "--steps", "36", "--json", str(path)]) == 0
    assert "all 7 promises kept" in capsys.readouterr().out
    rows = json.loads(path.read_text())["rows"]
    assert {row["method"] for row in rows} == {"backprop", "delayed", "cdni", "dni"}
    assert {row["reference"] for row in rows} == {"autograd", "serial", "second run"}
    assert {row["difference"] for row in rows} == {0}


def test_script_runs_from_anywhere(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--help"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert {"--steps", "--quick", "--json"} <= set(process.stdout.split())


def test_broken_promise_is_status_1(
    parity: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parity, "cases", lambda quick: [parity.Case("backprop", None, 1, "sgd")])
    monkeypatch.setattr(parity, "train", lambda case, data, steps: {"model": {"weight": torch.tensor([0.25])}})
    monkeypatch.setattr(parity, "train_plainly", lambda optimizer, data, steps: {"weight": torch.tensor([0.5])})
    assert parity.main([]) == 1
    output = capsys.readouterr().out
    assert "0.25        BROKEN" in output
    assert "1 of 1 promises broken" in output


@pytest.mark.parametrize(
    ("a", "b", "difference"),
    [
        ({"w": torch.ones(2), "n": [1, None]}, {"w": torch.ones(2), "n": [1, None]}, 0),
        ({"w": torch.tensor([1.0, -2.0])}, {"w": torch.tensor([1.5, 2.0])}, 4),
        ([{"step": 3}], [{"step": 5}], 2),
        ({"w": torch.tensor([math.nan, 1])}, {"w": torch.tensor([math.nan, 1])}, math.nan),
        ({"w": torch.ones(2)}, {"w": torch.ones(1)}, math.nan),
        ({"w": torch.ones(2)}, {"v": torch.ones(2)}, math.nan),
    ],
)
def test_difference_is_the_largest_of_all(parity: ModuleType, a: object, b: object, difference: float) -> None:
    assert parity.difference(a, b) == pytest.approx(difference, abs=0, nan_ok=True)


def test_all_cases_are_what_is_promised(parity: ModuleType) -> None:
    promised = {case for case in parity.cases(quick=False) if case.is_promised}
    assert {(case.method, case.lag) for case in promised} == {
        ("backprop", None),
        *((method, lag) for method in ("delayed", "cdni", "dni") for lag in (1, 4)),
    }
    assert {(case.workers, case.optimizer) for case in promised} == {
        (workers, optimizer) for workers in (1, 2, 3, 6) for optimizer in ("sgd", "adam")
    }
    assert len(promised) == 7 * 8
    assert set(parity.cases(quick=True)) <= set(parity.cases(quick=False))

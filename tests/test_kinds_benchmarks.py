"""`benchmarks/kinds.py`, `parity_kinds.py` and `gradient_quality.py`, as a reader runs them; figures are no test's business."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts import run_main, run_script

ROOT = Path(__file__).resolve().parents[1]


def run(script: str, json_file: Path, *arguments: str) -> list[dict[str, Any]]:
    ended = run_main(script, "--quick", "--json", str(json_file), *arguments)
    assert ended.returncode == 0, ended
    return json.loads(json_file.read_text())["rows"]


def test_kinds(tmp_path: Path) -> None:
    network = "own"
    rows = run("kinds", tmp_path / "kinds.json", "--only", network, "--methods", "backprop,cdni")
    assert [(row["network"], row["method"], row["workers"]) for row in rows] == [
        (network, method, 2) for method in ("backprop", "cdni")
    ]
    assert all(0 < figure < 100 for row in rows for figure in row["figures"])


def test_parity_kinds(tmp_path: Path) -> None:
    only = ("--only", "lstm", "--only", "autocast")
    rows = run("parity_kinds", tmp_path / "parity.json", "--steps", "10", *only)
    assert {row["kind"] for row in rows} == {"lstm", "autocast"}
    assert {row["reference"] for row in rows} == {"autograd", "serial", "resumed"}
    assert {row["difference"] for row in rows} == {0}


def test_gradient_quality(tmp_path: Path) -> None:
    only = ("--only", "fcn", "--methods", "cdni")
    rows = run("gradient_quality", tmp_path / "quality.json", *only, "--synthesizer", "default", "--synthesizer", "mlp")
    assert [(row["network"], row["method"], row["synthesizer"]) for row in rows] == [
        ("fcn", "cdni", "default"),
        ("fcn", "cdni", "mlp"),
    ]
    for row in rows:
        ((first, second),) = row["checks"]
        assert (first["step"], second["step"]) == (5, 10)
        assert len(first["stages"]) == row["workers"] - 1
        assert len(row["evaluations"]) == 1
    assert rows[0]["checks"] != rows[1]["checks"], "each has its own synthesizer"


def test_synthesizer_that_is_not_for_a_network_is_passed_over() -> None:
    chosen = ("--quick", "--only", "fcn", "--methods", "cdni", "--synthesizer", "convolutional")
    ended = run_script(ROOT / "benchmarks" / "gradient_quality.py", *chosen)
    assert ended.returncode == 2
    assert "--synthesizer: got convolutional; it is for outputs [channels, *positions]" in ended.stdout
    assert "Traceback" not in ended.stderr


def test_methods_that_are_none_are_refused() -> None:
    ended = run_script(ROOT / "benchmarks" / "kinds.py", "--methods", "cdni,none")
    assert ended.returncode == 2
    assert "--methods: got none; allowed: cdni, dni, delayed, backprop" in ended.stderr

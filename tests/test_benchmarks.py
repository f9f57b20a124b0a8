"""The benchmarks run, and what they write keeps to their schema. Their figures are no test's business."""

from __future__ import annotations

import ast
import copy
import importlib
import json
import os
import subprocess
import sys
import threading
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import run_main, run_script

from async_dni.foundation.cores import usable_cores
from async_dni.runtime.fork_server import worker_context
from benchmarks import harness, ranks
from benchmarks.case import Case, Metric, cases, spread
from benchmarks.ranks import run_ranks

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(
    path
    for path in (ROOT / "benchmarks").glob("*.py")
    if "    main()" in path.read_text() or "sys.exit(main())" in path.read_text()
)


def run(script: str, json_file: Path, *arguments: str) -> dict[str, Any]:
    """What a benchmark writes."""
    options = ("--quick", "--rounds", "1", "--json", str(json_file))
    ended = run_main(script, *options, *arguments)
    assert ended.returncode == 0, ended.stderr
    return json.loads(json_file.read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_says_what_it_measures(script: Path) -> None:
    ended = run_script(script, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    question = ast.get_docstring(ast.parse(script.read_text()))
    assert question is not None
    assert question.splitlines()[0] in ended.stdout


def test_transport(tmp_path: Path) -> None:
    """As a user starts it: ranks import the script."""
    json_file = tmp_path / "transport.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "transport.py"), "--quick", "--rounds", "1"]
    command += ["--json", str(json_file), "--size", "4 KB"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    content = json.loads(json_file.read_text())
    harness.check(content)
    assert {case["metric"] for case in content["cases"]} == {"round trip, p50", "round trip, p99", "bandwidth"}
    names = {"TensorQueue", "Queue, new", "Queue, reused", "SimpleQueue, new", "gloo"}
    assert all(set(case["contenders"]) == names for case in content["cases"])


def test_throughput(tmp_path: Path) -> None:
    only = ("cdni", "limit", "locked, 1 thread", "GPipe, 5", "zero-bubble", "DDP")
    chosen = [argument for name in only for argument in ("--only", name)]
    chosen += ["--except", "cdni, every", "--except", "cdni, float32"]
    content = run("throughput", tmp_path / "throughput.json", "--workload", "3x256", *chosen)
    harness.check(content)
    case, *of_stages = content["cases"]
    assert not any(name.startswith(("cdni, every", "cdni, float32")) for name in case["contenders"])
    assert "cdni, linear" in case["contenders"]
    names = {"limit of cdni", "locked, 1 thread", "GPipe, 5 microbatches", "zero-bubble, 5 microbatches", "DDP"}
    assert {name for name in case["contenders"] if not name.startswith("cdni")} == names
    too_few = "it has two stages a process; 3 blocks are too few for 3"
    assert case["missing"] == {
        "zero-bubble, 10 microbatches": "PyTorch makes 3 rounds of them in 3 processes, all alike",
        **{f"zero-bubble V, {microbatches} microbatches": too_few for microbatches in (5, 10)},
    }
    wanted = {"cdni / DDP", "cdni / best locked process (locked, 1 thread)", "limit of cdni / locked, 1 thread"}
    assert wanted < set(case["ratios"])
    stages = [(c["settings"]["stage"], c["metric"]) for c in of_stages]
    metrics = ("computing", "loading and sending", "snapshots", "waiting")
    assert sorted(stages) == [(stage, metric) for stage in range(3) for metric in metrics]
    computing = [c["contenders"] for c in of_stages if c["metric"] == "computing"]
    alone = [contenders["limit of cdni"]["median"] for contenders in computing]
    limit = case["contenders"]["limit of cdni"]["median"]
    cores = usable_cores()
    assert limit == pytest.approx(1e3 * 250 / max(sum(alone) * max(1, cores // 3) / cores, *alone))


def test_where_a_stages_time_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    throughput = importlib.import_module("throughput")
    phases = ("forward", "update", "learn", "load", "send", "snapshot", "wait_activation", "wait_gradient", "wait_room")
    seconds = {phase: 2.0**k for k, phase in enumerate(phases)}
    summary = {"workers": [{"index": 1, "steps": 500, "seconds": seconds}]}
    found = {metric.title: value for metric, value in throughput.where_time_goes(summary).items()}
    assert found == {
        "stage 1: computing": 2.0 * (1 + 2 + 4),  # 1,000 ms a second, 500 batches
        "stage 1: loading and sending": 2.0 * (8 + 16),
        "stage 1: snapshots": 2.0 * 32,
        "stage 1: waiting": 2.0 * (64 + 128 + 256),
    }


def test_matmul_precision_is_that_of_every_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    throughput = importlib.import_module("throughput")
    workload = throughput.WORKLOADS["3x256"]
    bench = throughput.Bench(workload, workload.load(), seconds=1.0, warm_up_steps=1, precision="medium")
    assert {bench._trainer(name).config.matmul_precision for name in bench.ours} == {"medium"}
    threads = torch.get_num_threads()
    try:
        bench._job(steps=1, threads=1).prepare()
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_num_threads() == 1
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.set_num_threads(threads)


SPEED = Metric("speed", "m/s")


def contender(name: str, family: str | None, *speeds: float) -> harness.Contender:
    """One that is unavailable when it has no more speeds."""
    left = list(speeds)

    def measure() -> dict[Metric, float]:
        if not left:
            raise harness.UnavailableError("it stopped")
        return {SPEED: left.pop(0)}

    return harness.Contender(name, measure, lambda: measure()[SPEED], family)


def compared(**settings: Any) -> Case:
    field = [
        contender("ours", None, 9.0, 9.0, 9.0),
        contender("slow", "theirs", 1.0, 2.0, 3.0),
        contender("fast", "theirs", 2.0, 2.0, 3.0),
        contender("stops", "others", 5.0, 4.0),
        contender("never", "theirs"),
    ]
    (case,) = harness.compare("a race", {}, field, 2, "ours", **settings)
    return case


def test_what_is_unavailable_is_missing_and_the_others_go_on() -> None:
    case = compared()
    assert case.missing == {"stops": "it stopped", "never": "it stopped"}
    assert case.rounds == {"ours": [9.0, 9.0], "slow": [2.0, 3.0], "fast": [2.0, 3.0]}
    assert set(case.ratios) == {"ours / slow", "ours / fast"}


def test_of_a_family_only_the_fastest_in_the_warm_up_goes_on() -> None:
    case = compared(best_of_families=True)
    assert set(case.rounds) == {"ours", "fast"}
    assert case.missing["slow"] == "slower than fast in the warm-up: 1"


def double(rank: int, results: Any, number: int) -> None:
    """A rank that does its work."""
    if rank == 0:
        results.send(2 * number)


def wait_for_nothing(rank: int, results: Any, said: Path, waiting: Any) -> None:
    """A rank that hangs; its standard error is a file."""
    os.dup2(os.open(said, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    waiting.release()
    threading.Event().wait()


class Clock:
    """Stands still until both ranks hang; then a minute has gone by."""

    def __init__(self, waiting: Any) -> None:
        self.waiting, self.calls = waiting, 0

    def monotonic(self) -> float:
        self.calls += 1
        if self.calls == 2:
            assert all(self.waiting.acquire(timeout=60) for _ in range(2))
        return 60.0 * (self.calls > 1)


def test_ranks_return_what_was_sent() -> None:
    assert run_ranks(double, 2, (21,)) == 42


def test_ranks_that_hang_say_where_and_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, said = worker_context().Semaphore(0), tmp_path / "said"
    monkeypatch.setattr(ranks, "time", Clock(waiting))
    with pytest.raises(TimeoutError, match="wait_for_nothing did not end within 15 seconds"):
        run_ranks(wait_for_nothing, 2, (said, waiting), timeout=15.0)
    assert said.read_text().count("in wait_for_nothing") == 2, "both say where they are"
    assert not active_children()


@pytest.fixture
def content() -> dict[str, Any]:
    metric = Metric("rate", "samples/s")
    results = {"ours": [{metric: 3.0}, {metric: 5.0}], "theirs": [{metric: 1.0}, {metric: 2.0}]}
    (case,) = cases("a case", {"batch_size": 8}, results, "ours")
    environment = {"python": "3", "torch": "2", "platform": "", "processor": "", "cores": 2, "threads": 1}
    return {"benchmark": "a", "environment": environment, "cases": [case.as_dict()]}


def test_what_some_cases_have_is_held_to_the_schema_too(content: dict[str, Any]) -> None:
    (case,) = content["cases"]
    case["published"] = {"ours": {"unit": "samples/s", "value": 2.0, "source": "a paper"}}
    case["missing"] = {"others": "not reached"}
    harness.check(content)
    case["contenders"], case["ratios"], case["published"] = {}, {}, {}
    harness.check(content)
    case["missing"] = {}
    with pytest.raises(ValueError, match="the same number of rounds"):
        harness.check(content)


def test_ratios_are_taken_round_by_round(content: dict[str, Any]) -> None:
    harness.check(content)
    (case,) = content["cases"]
    assert case["ratios"] == {"ours / theirs": {"median": 2.75, "min": 2.5, "max": 3.0, "rounds": [3.0, 2.5]}}
    assert case["contenders"]["ours"] == {"unit": "samples/s", "median": 4.0, "min": 3.0, "max": 5.0, "rounds": [3, 5]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("environment"), "'environment' should be"),
        (lambda content: content.update(cases=[]), "there are none"),
        (lambda content: content["environment"].pop("torch"), "'torch' should be"),
        (lambda content: content["cases"][0].pop("settings"), "'settings' should be"),
        (lambda content: content["cases"][0]["contenders"]["ours"].pop("unit"), "'unit' should be"),
        (lambda content: content["cases"][0]["contenders"]["ours"].update(median=9.0), "not those of the rounds"),
        (lambda content: content["cases"][0]["contenders"]["ours"].update(rounds=[float("nan")]), "finite numbers"),
        (lambda content: content["cases"][0]["contenders"].update(ours=short()), "the same number of rounds"),
        (lambda content: content["cases"][0].update(published={"ours": {"value": 2.0}}), "'unit' should be"),
        (lambda content: content["cases"][0].update(published={"others": figure()}), "no such contender"),
        (lambda content: content["cases"][0].update(missing={"ours": "not reached"}), "it has a number"),
    ],
)
def test_the_schema_is_held_to(content: dict[str, Any], change: Any, message: str) -> None:
    broken = copy.deepcopy(content)
    change(broken)
    with pytest.raises(ValueError, match=message):
        harness.check(broken)


def figure() -> dict[str, Any]:
    """A published one."""
    return {"unit": "samples/s", "value": 2.0, "source": "a paper"}


def short() -> dict[str, Any]:
    """A contender with one round only."""
    return {"unit": "samples/s", **spread([3.0])}


@pytest.mark.parametrize(
    ("script", "arguments", "told"),
    [
        (
            "throughput.py",
            ("--only", "nonsense"),
            "--only: got nonsense; allowed: the beginning of cdni, cdni, float32",
        ),
        ("throughput.py", ("--seconds", "-3"), "argument --seconds: got -3; allowed: a number above 0"),
        ("transport.py", ("--json", "/nowhere/x.json"), "--json: got /nowhere/x.json; allowed: a file in a directory"),
        ("time_to_accuracy.py", ("--learning-rates", "abc"), "--learning-rates: got abc; allowed: a number above 0"),
        ("time_to_accuracy.py", ("--contenders", "nonsense"), "--contenders: got nonsense; allowed: cdni (3 workers)"),
        ("error_at_steps.py", ("--part", "tune"), "--part: got tune; allowed: with --tuned FILE"),
        ("error_at_steps.py", ("--contender", "x: y=1"), "got y=1; allowed: setting=value, of the settings of Trainer"),
        ("synthesizer_share.py", ("--stage", "19"), "--stage: got 19; allowed: 0 to 18: the last has no synthesizer"),
    ],
)
def test_what_is_asked_wrongly_is_refused_before_anything_is_measured(
    script: str, arguments: tuple[str, ...], told: str
) -> None:
    ended = run_script(ROOT / "benchmarks" / script, "--quick", *arguments)
    assert ended.returncode == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not ended.stdout


def test_a_plot_without_matplotlib_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        harness.parse_arguments("", ["--plot", str(tmp_path / "x.png")])
    assert ended.value.code == 2
    assert "matplotlib is not installed; it comes with requirements-dev.txt" in capsys.readouterr().err

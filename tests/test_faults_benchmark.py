"""The benchmark of faults: what it counts, and that it injects what it says."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def faults() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    return importlib.import_module("faults")


def test_workers_are_stopped_and_come_back(faults: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        faults.main(["--quick", "--only", "hangs", "--json", str(tmp_path / "faults.json")])
    assert ended.value.code == 0
    cases = json.loads((tmp_path / "faults.json").read_text())["cases"]
    found = {case["metric"]: case["contenders"]["cdni"]["median"] for case in cases}
    assert found == {"injected": 2, "survived": 2, "leaked": 0, "messages left in queues": 0}


def test_what_is_missed_is_told(faults: ModuleType) -> None:
    def found(name: str, values: dict, **settings: int) -> list[str]:
        cases = [faults.Case(name, metric, settings, rounds, name) for metric, rounds in values.items()]
        return faults.missed(cases)

    def counts(injected: int, survived: int, leaked: int, left: int) -> list[str]:
        metrics = (faults.INJECTED, faults.SURVIVED, faults.LEAKED, faults.UNRELEASED)
        numbers = (injected, survived, leaked, left)
        return found("kills", {metric: {"cdni": [number]} for metric, number in zip(metrics, numbers, strict=True)})

    assert counts(3, 3, 0, 0) == []
    assert counts(3, 2, 1, 4) == [
        "kills: survived 2 of 3 faults",
        "kills: leaked: 1",
        "kills: messages left in queues: 4",
    ]
    errors = {"cdni": [1.9], faults.UNDISTURBED: [1.5]}
    assert found("kills", {faults.ERROR: errors}) == ["kills: test error 1.90 %, undisturbed 1.50 %"]
    assert found("kills", {faults.ERROR: {**errors, "cdni": [1.8]}}) == []
    assert found("soak", {faults.ERROR: {"cdni": [90.0]}}) == []

    for stage, during, said in ((0, 0.8, ["outage: stage 0 at 0.80 of its rate"]), (0, 0.9, []), (1, 0.0, [])):
        metric = faults.Metric(faults.RATE.name, faults.RATE.unit, stage)
        rates = {"during": [during], "after": [1.0]}
        assert found("outage", {metric: rates}, stage=stage, away=1) == said


def test_a_run_whose_disturber_fails_is_ended(faults: ModuleType) -> None:
    runs = threading.Event()

    def fail() -> None:
        runs.wait()
        raise RuntimeError("no such stage")

    def run() -> None:
        runs.set()
        for _ in range(6000):  # a signal that comes just before a sleep does not end that one
            time.sleep(0.1)

    with pytest.raises(RuntimeError, match="no such stage"), faults.meanwhile(fail), suppress(KeyboardInterrupt):
        run()


def test_growth_is_the_slope_of_the_later_half(faults: ModuleType) -> None:
    samples = [(60.0 * minute, 100.0 - minute if minute < 10 else 50.0 + 3 * minute) for minute in range(20)]
    case = faults.growth("memory", {}, 1, samples)
    assert case.rounds["cdni"] == pytest.approx([3.0])
    assert case.metric.stage == 1


def test_what_is_left_of_a_session_is_found_and_ended(faults: ModuleType) -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    leader = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    leader.wait()
    assert len(faults.left_of_session(leader.pid, patience=0.5)) == 1
    assert faults.left_of_session(leader.pid) == []


def test_a_checkpoint_that_is_cut_off_is_noticed(faults: ModuleType, tmp_path: Path) -> None:
    assert faults.newest_checkpoint_loads(tmp_path), "a run that came to no checkpoint has none to load"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000001.pt").write_bytes(b"PK\x03\x04")
    assert not faults.newest_checkpoint_loads(tmp_path)


def test_leftovers_count_descriptors(faults: ModuleType) -> None:
    before = faults.Leftovers.now()
    ends = os.pipe()
    assert faults.Leftovers.now().since(before) == 2
    for end in ends:
        os.close(end)
    assert faults.Leftovers.now().since(before) == 0


def test_a_signal_ends_launch_with_its_status(faults: ModuleType) -> None:
    ending = faults.launch_and_signal((signal.SIGTERM,), 0.5, faults.random.Random(0))
    assert ending.status in faults.SIGNALS["SIGTERM"][1]
    assert (ending.leaked, ending.checkpoint_loads, ending.tracebacks) == (0, True, 0)


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("twice", [False, True], ids=["start", "second"])
def test_interrupts_at_random_moments_leave_one_sentence(twice: bool, number: int, faults: ModuleType) -> None:
    ended = faults.interrupt(number, twice)
    assert ended.status == 130
    assert ended.said in faults.SENTENCES[faults.TWICE if twice else faults.WHILE_IT_STARTS]
    assert ended.left == []

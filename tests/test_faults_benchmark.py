"""The benchmark of faults: what it counts, and that it injects what it says."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def faults() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    return importlib.import_module("faults")


def test_workers_are_stopped_and_come_back(faults: ModuleType, tmp_path: Path) -> None:
    faults.main(["--quick", "--only", "hangs", "--json", str(tmp_path / "faults.json")])
    cases = json.loads((tmp_path / "faults.json").read_text())["cases"]
    found = {case["metric"]: case["contenders"]["cdni"]["median"] for case in cases}
    assert found == {"injected": 2, "survived": 2, "leaked": 0, "messages left in queues": 0}


def test_growth_is_the_slope_of_the_later_half(faults: ModuleType) -> None:
    samples = [(60.0 * minute, 100.0 - minute if minute < 10 else 50.0 + 3 * minute) for minute in range(20)]
    case = faults.growth("memory", {}, 1, samples)
    assert case.rounds["cdni"] == pytest.approx([3.0])
    assert case.metric.stage == 1


def test_what_is_left_of_a_session_is_found_and_ended(faults: ModuleType) -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    leader = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    leader.wait()
    assert faults.left_of_session(leader.pid) == 1
    assert faults.left_of_session(leader.pid) == 0


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

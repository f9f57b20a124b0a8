"""Workers that hang are found by their heartbeat, say where they are, and are replaced; those that wait or are slow are not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from deadly import condemn
from test_launch import start, wait_for_line
from test_parity import seeded_fcn
from test_restart import Told, check_result, fit
from torch import Tensor, nn

from async_dni import ConfigError, TrainerConfig, WorkerError
from async_dni.record.heartbeat import Heartbeat
from async_dni.runtime import supervisor
from async_dni.runtime.cuts.whole import WholeCuts
from async_dni.runtime.events import Finished
from async_dni.runtime.listener import Listener
from async_dni.runtime.machine.interruption import Interruption
from async_dni.runtime.supervisor import INTERVAL, Patience, Supervisor, _State
from async_dni.runtime.worker_spec import START


class Hangs(nn.Module):
    """Sleeps for ever in the third training batch of its process, unless one did so before."""

    def __init__(self, flag: Path) -> None:
        super().__init__()
        self.flag, self.seen = flag, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        if self.seen == 3 and not self.flag.exists():
            self.flag.touch()
            while True:
                time.sleep(0.01)
        return x


class Slow(nn.Module):
    """Takes a while in two training batches, forward and backward."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.seen = seconds, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        if self.training and self.seen in (3, 4):
            time.sleep(self.seconds)
            if x.requires_grad:
                x.register_hook(lambda gradient: time.sleep(self.seconds))
        return x


def with_layer(layer: nn.Module) -> nn.Sequential:
    """A network with a layer in its second block."""
    first, second, third = seeded_fcn(3, 16)
    return nn.Sequential(first, nn.Sequential(second, layer), third)


@pytest.mark.parametrize("method", ["cdni", "backprop"])
def test_layer_that_hangs_is_found_and_the_worker_replaced(method: str, small_mnist: tuple, tmp_path: Path) -> None:
    told, model = Told(), with_layer(Hangs(tmp_path / "hung"))
    settings = {"method": method, "heartbeat_timeout": 3, "run_dir": tmp_path / "run", "progress": told}
    result = fit(small_mnist, model, **settings)
    check_result(result, [0, 1, 0])
    (warning,) = told.warnings
    assert result.summary["workers"][1]["deaths"] == [warning]
    death = "stage 1 hung: it entered no phase for 3 seconds (in batch 2, forward)"
    assert warning == f"{death}; it is started again from the snapshot after batch 0 (restart 1 of 3)"
    log = (tmp_path / "run" / "workers" / "1.log").read_text()
    # a record may be written in the middle of the stack's line
    assert f'File "{__file__}"' in log, "the stack of the layer that hangs"
    assert "in forward" in log
    assert "in place of a worker that died (forward)" in log


def test_worker_that_is_stopped_is_replaced(
    small_mnist: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    condemn(monkeypatch, {1: ("send", 5)}, signal.SIGSTOP)
    told = Told()
    check_result(fit(small_mnist, heartbeat_timeout=3, run_dir=tmp_path, progress=told), [0, 1, 0])
    (warning,) = told.warnings
    assert warning.startswith("stage 1 hung: it entered no phase for 3 seconds (in batch ")


def test_worker_that_hangs_again_and_again_ends_the_run(small_mnist: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    condemn(monkeypatch, {2: ("forward", 2)}, signal.SIGSTOP, times=2)
    with pytest.raises(WorkerError, match=r"stage 2 hung: .* no restart is left \(--max-restarts 0\)"):
        fit(small_mnist, heartbeat_timeout=3, max_restarts=0)


def test_slow_worker_and_those_that_wait_for_it_are_left_alone(small_mnist: tuple, tmp_path: Path) -> None:
    # a batch takes the slow one longer than the timeout, in two phases that don't
    told = Told()
    result = fit(small_mnist, with_layer(Slow(1.6)), heartbeat_timeout=3, run_dir=tmp_path, progress=told)
    check_result(result, [0, 0, 0])
    assert not told.warnings


def test_all_workers_end_with_their_parent_also_one_that_is_stopped(tmp_path: Path) -> None:
    process = start("--epochs", "100", "--width", "16", "--run-dir", str(tmp_path / "run"))
    wait_for_line(process, "stage 2")
    family = psutil.Process(process.pid).children(recursive=True)
    worker = next(child for child in reversed(family) if child.num_threads() > 1)
    worker.suspend()
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


# The supervisor's looks, by a clock that stands still but for what a test says.


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: self.now))


def watch(is_started: bool = True, timeout: float = 1.0) -> tuple[Supervisor, _State, list[_State]]:
    """A supervisor of one worker that is ready, its state, and whom it kills."""
    flags = [0, 0]
    flags[START] = int(is_started)
    spec: Any = SimpleNamespace(index=0, heartbeat=Heartbeat(), flags=flags)
    nothing: Any = lambda *args: None  # noqa: E731
    listener = Listener(nothing, nothing, nothing, nothing, nothing)
    watcher = Supervisor(
        None, [spec], [], listener, Patience(5.0, timeout, 0), Interruption(), WholeCuts(1, 0, nothing)
    )
    state = _State(spec, None, nothing, ready_by=1005.0, pid=1)
    killed: list[_State] = []
    watcher._kill = killed.append  # type: ignore[method-assign]
    return watcher, state, killed


def look(watcher: Supervisor, state: _State, clock: Clock, seconds: float) -> None:
    clock.now += seconds
    watcher._look([state])


def test_a_heart_that_stands_still_is_waited_for_as_long_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watcher, state, killed = watch()
    look(watcher, state, clock, INTERVAL)
    look(watcher, state, clock, INTERVAL)
    look(watcher, state, clock, INTERVAL)
    assert not killed
    look(watcher, state, clock, 0.01)
    assert killed == [state]


def test_a_heart_that_beats_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watcher, state, killed = watch()
    for _ in range(20):
        state.spec.heartbeat.enter("wait_activation")
        look(watcher, state, clock, INTERVAL)
        look(watcher, state, clock, INTERVAL)
    assert not killed


def test_time_in_which_the_supervisor_itself_was_stopped_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watcher, state, killed = watch(timeout=10.0)
    look(watcher, state, clock, INTERVAL)
    for _ in range(9):
        look(watcher, state, clock, 3600.0)  # stopped, and the workers with it, by Ctrl-Z
    assert not killed


@pytest.mark.parametrize(("is_started", "timeout"), [(False, 1.0), (True, 0.0)])
def test_no_heart_is_listened_to_before_the_start_or_without_a_timeout(
    is_started: bool, timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    watcher, state, killed = watch(is_started, timeout)
    for _ in range(20):
        look(watcher, state, clock, INTERVAL)
    assert not killed


def test_worker_that_is_not_ready_in_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watcher, state, _ = watch(is_started=False)
    state.pid = None
    look(watcher, state, clock, 5.0)
    with pytest.raises(WorkerError, match="stage 0 was not ready within 5 seconds"):
        look(watcher, state, clock, 0.1)


def test_a_worker_that_was_replaced_is_not_looked_at(small_mnist: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that had stood still for a while when it died was looked at once more, in the same round, and taken for
    hanging: its process was closed by then, and the run ended with a ValueError."""
    look = Supervisor._look

    def check_and_look(self: Supervisor, workers: Any) -> None:
        assert {id(worker) for worker in workers} <= {id(worker) for worker in self._workers}
        look(self, workers)

    monkeypatch.setattr(Supervisor, "_look", check_and_look)
    condemn(monkeypatch, {1: ("forward", 3)})
    assert [worker["restarts"] for worker in fit(small_mnist).summary["workers"]] == [0, 1, 0]


def test_a_worker_that_finishes_while_it_is_killed_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    watcher, state, _ = watch()
    signals: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append(number))
    state.process = SimpleNamespace(pid=1, exitcode=0, join=lambda timeout=None: None, kill=lambda: None)
    state.events = SimpleNamespace(receive=lambda: iter([Finished({"steps": 3})]))  # type: ignore[assignment]
    Supervisor._kill(watcher, state)
    assert signals[0] == signal.SIGUSR1, "where are you?"
    assert state.totals == {"steps": 3}


@pytest.mark.parametrize("value", [-1.0, 0.5, float("inf"), float("nan"), "soon"])
def test_timeouts_that_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=f"heartbeat_timeout: got {value}; allowed: 0, or a finite number"):
        TrainerConfig(heartbeat_timeout=value)

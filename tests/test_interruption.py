"""SIGINT, SIGTERM and SIGHUP: the first ends a run in order, the second at once; a SIGHUP is never the second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_launch import ROOT, wait_for_line

from async_dni.record.checkpoint import newest_checkpoint
from async_dni.runtime.machine.interruption import SIGNALS, Interruption


@pytest.fixture(autouse=True)
def puts_handlers_back() -> Iterator[None]:
    """Fail where a test leaves a signal's handler behind."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_asks_for_an_end(number: signal.Signals) -> None:
    interruption, calls = Interruption(), []
    interruption.on_signal = lambda: calls.append(interruption.number)
    with interruption.handled():
        signal.raise_signal(number)
    assert calls == [number]
    assert interruption.number == number


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_at_once(first: signal.Signals, second: signal.Signals) -> None:
    interruption = Interruption()
    with interruption.handled():
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)
    assert interruption.number == first


@pytest.mark.parametrize("first", SIGNALS)
def test_terminal_that_is_closed_may_say_so_twice(first: signal.Signals) -> None:
    # once by its shell, once by the kernel when the shell ends
    interruption, calls = Interruption(), []
    interruption.on_signal = lambda: calls.append(interruption.number)
    with interruption.handled():
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    assert calls == [first]


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with (interruption := Interruption()).handled():
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
        assert interruption.number == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("whom", ["launcher", "all"])
def test_closed_terminal_ends_the_run_with_a_checkpoint(whom: str, tmp_path: Path) -> None:
    # a shell that ends sends SIGHUP to all processes of the job
    command = [sys.executable, str(ROOT / "launch.py"), "--epochs", "100", "--run-dir", str(tmp_path / "run")]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    wait_for_line(process, "stage 2")
    if whom == "all":
        os.killpg(process.pid, signal.SIGHUP)
    else:
        process.send_signal(signal.SIGHUP)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (129, "")
    assert newest_checkpoint(tmp_path / "run").stat().st_size
    assert (tmp_path / "run" / "model.pt").exists()

"""SIGINT, SIGTERM and SIGHUP: the first ends a run in order, the second at once; a SIGHUP is never the second."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
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


def run_with(interruption: Interruption, *numbers: signal.Signals) -> None:
    """A run that gets these signals in a callback, out of which no exception comes."""

    def raise_all() -> None:
        for number in numbers:
            signal.raise_signal(number)

    with interruption.handled():
        thing = Interruption()
        finalizer = weakref.finalize(thing, raise_all)
        del thing
        assert not finalizer.alive


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_is_raised_where_somebody_looks(first: signal.Signals, second: signal.Signals) -> None:
    interruption = Interruption()
    interruption.check()
    with pytest.raises(KeyboardInterrupt):  # at the end, too
        run_with(interruption, first, second)
    assert interruption.number == first
    with pytest.raises(KeyboardInterrupt):
        interruption.check()


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_a_process_that_has_said_how(second: signal.Signals) -> None:
    calls: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_with(Interruption(lambda: calls.append("ended")), signal.SIGINT, signal.SIGHUP, second)
    assert calls == ["ended"]


def test_second_signal_waits_until_what_is_made_is_whole() -> None:
    calls: list[str] = []
    interruption = Interruption(lambda: calls.append("ended"))
    with suppress(KeyboardInterrupt), interruption.handled():
        with interruption.held():
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
            calls.append("made")
        assert calls == ["made", "ended"]


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


@pytest.mark.parametrize("ignored", SIGNALS)
def test_signal_that_is_ignored_from_the_start_stays_so(ignored: signal.Signals) -> None:
    # SIGHUP by nohup; SIGINT by a shell without job control, in what it runs in the background
    other = signal.SIGINT if ignored == signal.SIGTERM else signal.SIGTERM
    before = signal.signal(ignored, signal.SIG_IGN)
    try:
        with (interruption := Interruption()).handled():
            signal.raise_signal(ignored)
            signal.raise_signal(other)
            signal.raise_signal(ignored)
        assert interruption.number == other
        assert signal.getsignal(ignored) == signal.SIG_IGN
    finally:
        signal.signal(ignored, before)


def test_run_in_the_background_of_a_script_goes_on(tmp_path: Path) -> None:
    # Ctrl-C at the script's terminal goes to the whole group, and what was started with & is not meant
    arguments = ["--serial", "--width", "8", "--steps", "400", "--run-dir", str(tmp_path / "run")]
    script = (
        shlex.join([sys.executable, str(ROOT / "launch.py"), *arguments]) + ' & pid=$!; wait $pid; echo "status $?"'
    )
    shell = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_line(shell, "starting 3 stages")
    (process,) = psutil.Process(shell.pid).children()
    process.send_signal(signal.SIGINT)
    output, errors = shell.communicate()
    assert (output.splitlines()[-1], errors) == ("status 0", "")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 400


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


@pytest.fixture(scope="module")
def forker() -> Iterator[subprocess.Popen[str]]:
    """interrupted_launch.py, which has loaded torch."""
    command, pipe = [sys.executable, str(ROOT / "tests" / "interrupted_launch.py")], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield process


LOST = "launch.py: ended at once; what was trained since the last checkpoint is lost\n"


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("import", "launch.py: ended before the run began\n"),  # the first
        ("start", LOST),
        ("weakref", LOST),
        ("__del__", LOST),
        ("evaluation", LOST),
        ("model", LOST),
        ("summary", "launch.py: ended before all was printed\n"),
        ("atexit", ""),
        ("end", ""),
    ],
)
def test_second_interrupt_of_a_launch_ends_it_wherever_it_lands(
    place: str, told: str, tmp_path: Path, forker: subprocess.Popen[str]
) -> None:
    # it came in a callback of multiprocessing's, and Python printed "Exception ignored in" and went on
    (tmp_path / "tmp").mkdir()
    arguments = [place, *["--serial"] * (place != "start"), "--steps", "3", "--width", "8"]
    arguments += ["--run-dir", str(tmp_path / "run")]
    if place == "import":
        process = subprocess.Popen(
            [*forker.args, *arguments],
            env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        _, errors = process.communicate()
        pid, status = process.pid, process.returncode
    else:
        assert forker.stdin is not None
        assert forker.stdout is not None
        print(json.dumps([str(tmp_path), *arguments]), file=forker.stdin, flush=True)
        pid, status = json.loads(forker.stdout.readline())
        errors = (tmp_path / "errors").read_text()
    assert (status, errors) == (130, told)
    session = [one for one in psutil.process_iter() if is_of_session(one, pid)]
    assert not psutil.wait_procs(session, timeout=10)[1], "what it has started ends with it"
    assert not list((tmp_path / "tmp").glob("pymp-*"))
    assert not list(Path("/dev/shm").glob(f"pym-{pid}-*"))
    assert not list((tmp_path / "run").rglob(".*")), "no half of a file"


def is_of_session(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session
    except ProcessLookupError:
        return False

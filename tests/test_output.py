"""What is printed to goes away: `| head`, a full disk, a closed terminal. Nobody sees a traceback."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from test_launch import ROOT, launch

from async_dni.view.output import Output, lasting_output

RUN = ["--serial", "--steps", "3", "--width", "8"]  # in one process, so that it is quick
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux's")


class Failing(io.StringIO):
    """A stream without a file that fails from the second write on."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.writes = number, 0

    def write(self, text: str) -> int:
        self.writes += 1
        if self.writes > 1:
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


def run(*arguments: str, stdout: int | io.IOBase, **options: object) -> subprocess.CompletedProcess[str]:
    """`launch.py` in a process of its own."""
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, **options)  # type: ignore[call-overload]


# The stream.


@pytest.mark.parametrize(("number", "failed"), [(errno.EPIPE, False), (errno.ENOSPC, True), (errno.EIO, True)])
def test_stream_that_fails_falls_silent(number: int, failed: bool) -> None:
    stream = Failing(number)
    output = Output(stream)
    for line in ("first", "second", "third"):
        assert output.write(line) == len(line)
        output.flush()
    assert stream.getvalue() == "first"
    assert stream.writes == 2, "it is not tried again"
    assert output.failed == failed


@needs_full
def test_stream_that_fell_silent_can_be_closed() -> None:
    stream = FULL.open("w")
    output = Output(stream)
    output.write("x" * 100_000)
    output.flush()
    assert output.failed
    stream.close()  # what was left in its buffer goes nowhere


def test_text_that_the_stream_cannot_encode_is_escaped() -> None:
    buffer = io.BytesIO()
    output = Output(io.TextIOWrapper(buffer, encoding="ascii", write_through=True))
    output.write("blocks 1…2 \udcff")
    assert buffer.getvalue() == rb"blocks 1\u20262 \udcff"
    assert output.encoding == "ascii"


def test_no_stream_at_all_is_a_stream() -> None:
    output = Output(None)
    output.write("text")
    output.flush()
    assert not output.failed


def print_and_fail() -> None:
    print("before")
    raise ZeroDivisionError


def test_streams_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with pytest.raises(ZeroDivisionError), lasting_output("program"):
        print_and_fail()
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("before\n", "")


# The command line.


def test_reader_that_has_gone_ends_no_training(tmp_path: Path) -> None:
    # as of `| head -1`, with a head that is quicker
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = run(*RUN, "--run-dir", str(tmp_path / "run"), stdout=write_end)
    os.close(write_end)
    assert (process.returncode, process.stderr) == (0, "")
    assert (tmp_path / "run" / "model.pt").exists()


@needs_full
@pytest.mark.parametrize("arguments", [RUN, ["--help"]], ids=["run", "help"])
def test_full_disk_is_told_in_one_sentence(arguments: list[str], tmp_path: Path) -> None:
    with FULL.open("w") as full:
        process = run(*arguments, stdout=full, cwd=tmp_path)
    assert process.returncode == 1
    told = "launch.py: standard output can't be written (No space left on device); the rest was not printed\n"
    assert process.stderr == told
    assert bool(list(tmp_path.glob("runs/*/model.pt"))) == (arguments is RUN)


@needs_full
def test_errors_that_cannot_be_printed_have_their_status(monkeypatch: pytest.MonkeyPatch) -> None:
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert launch("--workers", "0") == 2


def test_standard_streams_that_are_closed_are_missed_by_nobody(tmp_path: Path) -> None:
    # with workers: files of theirs must not take the numbers of the streams
    command = f'exec "{sys.executable}" "{ROOT}/launch.py" --steps 3 --width 8 --run-dir run <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False).returncode == 0
    assert "finished" in (tmp_path / "run" / "workers" / "2.log").read_text()
    assert (tmp_path / "run" / "model.pt").exists()


TAKES_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def test_terminal_that_is_closed_ends_the_run_in_order(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x18\x00\x80\x00" + bytes(4))  # 24 lines of 128
    command = [sys.executable, "-c", TAKES_TERMINAL, str(ROOT / "launch.py"), "--epochs", "100", "--width", "8"]
    errors = (tmp_path / "errors").open("w")
    process = subprocess.Popen(
        [*command, "--serial", "--run-dir", str(tmp_path / "run")], stdin=theirs, stdout=theirs, stderr=errors
    )
    os.close(theirs)
    seen = b""
    while b"epoch" not in seen:
        seen += os.read(ours, 65536)
    os.close(ours)
    assert process.wait() == 129
    errors.close()
    told = (tmp_path / "errors").read_text()
    assert told.count("\n") <= 1, "what could not be printed"
    assert "Traceback" not in told
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    assert (tmp_path / "run" / "summary.json").exists()

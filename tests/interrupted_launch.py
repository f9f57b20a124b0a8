"""Runs launch.py, and presses Ctrl-C at a place of the process that the first argument names; the others are launch.py's.

Without arguments it loads what launch.py will load, once, and forks a process for each line of its input, `[folder, place,
…]`: in a session of its own, with files in the folder for what it prints, and that for temporary files. It answers with the
process id and exit status of each.
"""

from __future__ import annotations

import atexit
import builtins
import json
import os
import runpy
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

LAUNCH = Path(__file__).resolve().parents[1] / "launch.py"


def press(times: int = 1) -> None:
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


class Finder(MetaPathFinder):
    def find_spec(self, name: str, *_: object) -> None:
        if name == "torch":
            press()


class Thing:
    pass


class Deleted:
    def __init__(self, times: int) -> None:
        self.times = times

    def __del__(self) -> None:
        press(self.times)


def in_a_weakref_callback() -> None:
    thing = Thing()
    reference = weakref.ref(thing, lambda _: press(2))
    del thing
    assert reference() is None


def before(owner: Any, name: str, do: Callable[[], None]) -> None:
    """From now on, do something before a function is called."""
    function = getattr(owner, name)

    def both(*arguments: Any, **more: Any) -> Any:
        do()
        return function(*arguments, **more)

    setattr(owner, name, both)


def arrange(place: str) -> None:
    """See to it that Ctrl-C is pressed at the place: a second time, or twice."""
    if place == "import":
        sys.meta_path.insert(0, Finder())
        return
    import torch

    from async_dni import train
    from async_dni.record import evaluator
    from async_dni.record.run_dir import RunDir
    from async_dni.runtime.serial import Serial
    from async_dni.runtime.wiring import Wiring

    def in_evaluation() -> None:
        os.kill(os.getpid(), signal.SIGINT)  # the process, of which this is not the main thread
        threading.Event().wait()  # an evaluation without an end

    within = {"weakref": in_a_weakref_callback, "__del__": lambda: Deleted(2) and None}
    before(Serial, "train", within.get(place, press if place != "start" else lambda: None))
    if place == "evaluation":
        before(evaluator, "score", in_evaluation)
    elif place == "model":
        before(RunDir, "write_model", lambda: before(torch, "save", press))  # its file has a name by then
    elif place == "summary":
        before(train, "print_summary", press)
    elif place == "atexit":
        atexit.register(press)
    elif place == "end":
        builtins.kept = Deleted(1)  # type: ignore[attr-defined]  # until the interpreter's end
    elif place == "start":
        before(Wiring, "connect", lambda: press(2))  # the server that workers are forked from is loading torch


def forked() -> bool:
    """Load, and fork for each line; whether this is a process that was forked, which has its arguments."""
    import torch

    from async_dni import train

    assert train
    torch.optim.Adam([torch.nn.Parameter(torch.empty(1))])  # loads PyTorch's compiler
    for line in sys.stdin:
        folder, *arguments = json.loads(line)
        if (pid := os.fork()) == 0:
            os.setsid()
            for number, name in enumerate(("output", "errors"), 1):
                os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
            os.environ["TMPDIR"] = f"{folder}/tmp"
            sys.argv += arguments
            return True
        print(json.dumps([pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]), flush=True)
    return False


if __name__ == "__main__":
    sys.path.insert(0, str(LAUNCH.parent))
    if len(sys.argv) == 1 and not forked():
        sys.exit()
    arrange(sys.argv.pop(1))
    sys.argv[0] = str(LAUNCH)
    runpy.run_path(str(LAUNCH), run_name="__main__")

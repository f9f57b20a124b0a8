"""The end of a program at a signal, wherever it finds it: before the run, at the second signal to it, after it.

Nothing here takes long to load, so that signals are handled before what does.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from .interruption import SIGNALS, Interruption

LOST = "ended at once; what was trained since the last checkpoint is lost"
SHOW_CURSOR = b"\x1b[?25h\n"


class Ending:
    """Ends this process at a signal, straight from its handler.

    An exception would come up wherever the signal finds Python: in a callback, which swallows and prints it, in the end of
    the interpreter, in a library. While the run goes on, its `Interruption` has the signals, and passes on the second.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.interruption: Interruption | None = None
        self.status: int | None = None  # when it is settled

    def install(self) -> None:
        """Handle the signals, but for those that are ignored from the start, until the interpreter ends."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)
        atexit.register(ignore_signals)  # the first that is registered is the last that is called

    def _handle(self, number: int, _frame: object) -> None:
        if self.status is not None:
            self._leave(self.status)
        has_begun = self.interruption is not None and self.interruption.has_begun
        sentence = "ended before all was printed" if has_begun else "ended before the run began"
        if self.interruption is None or self.interruption.number is None:
            self._end(128 + number, sentence)
        elif number != signal.SIGHUP:  # which a terminal may send twice
            self._end(130, sentence)

    def at_once(self) -> None:
        """End at the second signal to the run."""
        self._end(130, LOST)

    def _end(self, status: int, sentence: str) -> None:
        """Say so, and end; workers end when their parent does."""
        if os.isatty(1):
            write(1, SHOW_CURSOR)  # which a live table hides
        write(2, f"{self.program}: {sentence}\n".encode())
        with suppress(OSError):  # of other threads, nothing more
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        self._leave(status)

    def _leave(self, status: int) -> None:
        """End, and leave nothing behind."""
        if self.interruption is not None:
            self.interruption.discard()
        os._exit(status)


def write(descriptor: int, text: bytes) -> None:
    """Write a line, unless nobody takes it for a second: a terminal may be stopped, a pipe full."""
    with suppress(OSError, ValueError):
        if select.select([], [descriptor], [], 1.0)[1]:
            os.write(descriptor, text)


def ignore_signals() -> None:
    """The interpreter's end would put back what signals do by default."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def open_closed_streams() -> None:
    """Standard streams that were closed (`>&-`) lead nowhere: else the next file to be opened would be one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free


def run_and_exit(program: str, train: Callable[[Ending], int]) -> NoReturn:
    """Exit with the status of what trains. Signals end the process from here on."""
    os.environ.setdefault(
        "TORCH_CPP_LOG_LEVEL", "ERROR"
    )  # of sockets it has warnings of a page, which end in a sentence here
    ending = Ending(program)
    ending.install()
    open_closed_streams()
    ending.status = train(ending)
    sys.exit(ending.status)

"""SIGINT, SIGTERM and SIGHUP while a run goes on: the first asks for an early end, the second ends at once.

A handler runs wherever Python happens to be: in a callback of a weak reference, say, out of which no exception comes. So the
handler raises none. It notes the second signal, and those who wait `check`, where nobody swallows what they raise; or it
calls what ends the process there and then, for a program that has said how (`launch.py`).

A terminal that is closed may send SIGHUP twice, by its shell and by the kernel, so a SIGHUP is never the second. What is
ignored from the start stays ignored: SIGHUP under `nohup`, SIGINT where a script's shell started this with `&`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Which signal, if any, asked for an early end. `on_signal` is called at the first, `at_once` at the second.

    Where `at_once` ends the process, `discard` ends and removes what a process must not leave behind.
    """

    def __init__(self, at_once: Callable[[], object] = lambda: None) -> None:
        self.number: int | None = None
        self.is_ending = False  # whether an early end was asked for, by a signal or by `end_early`
        self.has_begun = False  # whether signals were ever handled here
        self.on_signal: Callable[[], None] = lambda: None
        self.discard: Callable[[], None] = lambda: None
        self._at_once = at_once
        self._is_second = self._holds = False

    def end_early(self) -> None:
        """Ask for an early end, in whatever thread; who trains looks every half second, or at each batch."""
        self.is_ending = True

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals inside; in a thread that is not the main one, which gets no signals, do nothing.

        Raises `KeyboardInterrupt` at the end where a second came that nobody has noticed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        previous = {number: signal.signal(number, self._handle) for number in handled}
        self.has_begun = True
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        self.check()

    def check(self) -> None:
        """Raise `KeyboardInterrupt` where there was a second signal."""
        if self._is_second:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """A second signal inside ends the process afterwards: what is half made could not be found and removed."""
        self._holds = True
        try:
            yield
        finally:
            self._holds = False
            if self._is_second:
                self._at_once()

    def _handle(self, number: int, _frame: object) -> None:
        if self.number is None:
            self.number, self.is_ending = number, True
            self.on_signal()
        elif number != signal.SIGHUP:
            self._is_second = True
            if not self._holds:
                self._at_once()

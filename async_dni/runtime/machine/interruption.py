"""SIGINT, SIGTERM and SIGHUP while a run goes on: the first asks for an early end, the second ends at once.

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
    """Which signal, if any, asked for an early end. `on_signal` is called at the first; the second raises."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.on_signal: Callable[[], None] = lambda: None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals inside; in a thread that is not the main one, which gets no signals, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        previous = {number: signal.signal(number, self._handle) for number in handled}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: object) -> None:
        if self.number is not None:
            if number != signal.SIGHUP:
                raise KeyboardInterrupt
            return
        self.number = number
        self.on_signal()

"""Listens for silence: who has not been heard for a time is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Heard(Protocol):
    """Something by which a host is heard."""

    @property
    def heard(self) -> int:
        """How much came so far."""


@dataclass
class _Watched:
    peer: int
    source: Heard
    heard: int
    silent: float = 0.0  # seconds

    def look(self, passed: float) -> None:
        before, self.heard = self.heard, self.source.heard
        self.silent = self.silent + passed if self.heard == before else 0.0


class Watch:
    """Calls `on_lost(peer, why)`, in a thread of its own, where nothing was heard of someone for so many seconds.

    Time in which this process itself stood still does not count.
    """

    def __init__(self, timeout: float, on_lost: Callable[[int, str], None]) -> None:
        self._timeout, self._on_lost = timeout, on_lost
        self._watched: dict[int, _Watched] = {}
        self._lock, self._is_over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def add(self, peer: int, source: Heard) -> None:
        """Watch a host by what comes of it here."""
        with self._lock:
            self._watched[id(source)] = _Watched(peer, source, source.heard)

    def set_timeout(self, seconds: float) -> None:
        """From now on silence may be so long."""
        self._timeout = seconds

    def close(self) -> None:
        """Watch nobody any more."""
        self._is_over.set()
        self._thread.join()
        self._watched.clear()

    def _run(self) -> None:
        looked = time.monotonic()
        while not self._is_over.wait(interval := self._timeout / 20):
            now = time.monotonic()
            passed, looked = min(now - looked, 2 * interval), now
            with self._lock:
                for key, one in list(self._watched.items()):
                    one.look(passed)
                    if one.silent > self._timeout:
                        del self._watched[key]
                        self._on_lost(one.peer, f"has said nothing for {self._timeout:g} seconds")

"""A worker that is killed, or stopped, where a test wants it: when its heartbeat enters a phase for the n-th time."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
from typing import Any

import pytest

from async_dni.record.heartbeat import Heartbeat
from async_dni.runtime import wiring


class DeadlyHeartbeat(Heartbeat):
    """Sends its own process a signal; `times` in all, counted in memory that outlives the process."""

    def __init__(self, memory: Any, step: int, phase: str, at: int, number: int, times: int) -> None:
        super().__init__(memory, step)
        self.fatal, self.at, self.number, self.entered = phase, at, number, 0
        self.left = memory.RawArray(ctypes.c_int64, 1)
        self.left[0] = times

    def enter(self, phase: str) -> None:
        super().enter(phase)
        self.entered += phase == self.fatal
        if self.entered == self.at and self.left[0]:
            self.left[0] -= 1
            os.kill(os.getpid(), self.number)


def condemn(
    monkeypatch: pytest.MonkeyPatch,
    deaths: dict[int, tuple[str, int]],  # by stage: the phase, and for the how manieth time in it
    number: int = signal.SIGKILL,
    times: int = 1,
) -> None:
    """In the next run, let the workers of these stages die (or, with SIGSTOP, stand still)."""
    stages = itertools.count()

    def make(memory: Any, step: int) -> Heartbeat:
        stage = next(stages)
        if stage in deaths:
            return DeadlyHeartbeat(memory, step, *deaths[stage], number, times)
        return Heartbeat(memory, step)

    monkeypatch.setattr(wiring, "Heartbeat", make)

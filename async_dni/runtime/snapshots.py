"""A stage's latest states, kept in memory that outlives its worker, for the one that is started in its place.

Two buffers: a state is written into the one that does not hold the newest, and a counter is raised when it is whole, so
that there is always a whole one, whenever the worker is killed.
"""

from __future__ import annotations

import ctypes
from typing import Any

from .transport.memory_file import MemoryFile
from .transport.shared_memory import SharedMemory
from .transport.state_file import read_state, write_state


class Snapshots:
    """Written by the worker, read by the supervisor and by the next worker, when that one has died."""

    def __init__(self, memory: SharedMemory) -> None:
        self._words = memory.RawArray(ctypes.c_int64, 3)  # snapshots made; the step of the one in each buffer
        self._buffers: list[MemoryFile] = []
        try:
            for _ in range(2):
                self._buffers.append(MemoryFile())
        except OSError:
            self.close()
            raise

    @property
    def count(self) -> int:
        """Snapshots made so far."""
        return int(self._words[0])

    @property
    def step(self) -> int | None:
        """Batches that the newest one was made after; None where there is none."""
        return int(self._words[1 + self.count % 2]) if self.count else None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keep a state: tensors and plain values."""
        number = self.count + 1
        file = self._buffers[number % 2].file
        file.seek(0)
        write_state(state, file)
        file.truncate()
        file.flush()
        self._words[1 + number % 2] = step
        self._words[0] = number

    def load(self) -> dict[str, Any] | None:
        """The newest state, on the CPU; None where there is none."""
        if not self.count:
            return None
        file = self._buffers[self.count % 2].file
        file.seek(0)
        return read_state(file)

    def close(self) -> None:
        """Close the buffers in this process."""
        for buffer in self._buffers:
            buffer.close()

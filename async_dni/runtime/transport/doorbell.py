"""What a worker sleeps on."""

from __future__ import annotations

import os
import select
from multiprocessing import reduction
from typing import Any


class Doorbell:
    """What a worker sleeps on: any process that holds it can ring it, and a ring is never lost.

    A pipe whose ends never block. Rings that come while nobody waits are kept, so `wait` after them returns at once.
    """

    def __init__(self) -> None:
        self._open(*os.pipe())

    def _open(self, read_end: int, write_end: int) -> None:
        self._read_end, self._write_end = read_end, write_end
        for end in (read_end, write_end):
            os.set_blocking(end, False)
        self._poll = select.poll()
        self._poll.register(read_end, select.POLLIN)

    def ring(self) -> None:
        """Wake whoever waits, now or at its next `wait`."""
        try:
            os.write(self._write_end, b"\0")
        except BlockingIOError:
            pass  # the pipe is full of rings

    def wait(self, timeout: float) -> None:
        """Sleep until rung, or `timeout` seconds."""
        if self._poll.poll(timeout * 1000):
            os.read(self._read_end, 65536)

    def fileno(self) -> int:
        """For `multiprocessing.connection.wait`: readable once it was rung."""
        return self._read_end

    def close(self) -> None:
        """Close both ends in this process."""
        for end in (self._read_end, self._write_end):
            os.close(end)

    def __getstate__(self) -> Any:
        return reduction.DupFd(self._read_end), reduction.DupFd(self._write_end)

    def __setstate__(self, ends: Any) -> None:
        self._open(*(end.detach() for end in ends))

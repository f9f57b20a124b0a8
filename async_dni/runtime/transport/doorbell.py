"""What a worker sleeps on."""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from multiprocessing import reduction
from typing import Any


class Doorbell:
    """What a worker sleeps on: any process that holds it can ring it, and a ring is never lost.

    A pipe whose ends never block. Rings that come while nobody waits are kept, so `wait` after them returns at once.
    Whoever rings one that was closed in this process rings nobody.
    """

    def __init__(self) -> None:
        self._open(*os.pipe())

    def _open(self, read_end: int, write_end: int) -> None:
        self._read_end, self._write_end = read_end, write_end
        for end in (read_end, write_end):
            os.set_blocking(end, False)
        self._poll = select.poll()
        self._poll.register(read_end, select.POLLIN)
        self._lock, self._is_closed = threading.RLock(), False  # a handler of signals may ring, too

    def ring(self) -> None:
        """Wake whoever waits, now or at its next `wait`."""
        with self._lock, suppress(BlockingIOError):  # the pipe may be full of rings
            if not self._is_closed:
                os.write(self._write_end, b"\0")

    def wait(self, timeout: float) -> None:
        """Sleep until rung, or `timeout` seconds."""
        if self._poll.poll(timeout * 1000):
            with self._lock, suppress(BlockingIOError):  # another thread may have read
                if not self._is_closed:
                    os.read(self._read_end, 65536)

    def fileno(self) -> int:
        """For `multiprocessing.connection.wait`: readable once it was rung."""
        return self._read_end

    def close(self) -> None:
        """Close both ends in this process."""
        with self._lock:
            for end in () if self._is_closed else (self._read_end, self._write_end):
                os.close(end)
            self._is_closed = True

    def __getstate__(self) -> Any:
        return reduction.DupFd(self._read_end), reduction.DupFd(self._write_end)

    def __setstate__(self, ends: Any) -> None:
        self._open(*(end.detach() for end in ends))

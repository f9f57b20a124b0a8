"""A file without a name, in memory, that processes share: it is gone with the last one that has it open, however that ends."""

from __future__ import annotations

import os
from multiprocessing import reduction
from typing import IO, Any


class MemoryFile:
    """Given to a process that is started, it is the same file there. `file` is open to read and write.

    The position in it is all processes' together: who reads or writes by it must be alone, or `seek` first.
    """

    def __init__(self, content: bytes = b"") -> None:
        self._open(os.memfd_create("async_dni"))
        self.file.write(content)
        self.file.flush()

    def _open(self, descriptor: int) -> None:
        self.file: IO[bytes] = os.fdopen(descriptor, "r+b")

    def read(self) -> bytes:
        """All that is in it, wherever the position is, which is left alone."""
        content, size = bytearray(), os.fstat(self.file.fileno()).st_size
        while len(content) < size:
            content += os.pread(self.file.fileno(), size - len(content), len(content))
        return bytes(content)

    def close(self) -> None:
        """Close the file in this process."""
        self.file.close()

    def __getstate__(self) -> Any:
        return reduction.DupFd(self.file.fileno())

    def __setstate__(self, descriptor: Any) -> None:
        self._open(descriptor.detach())

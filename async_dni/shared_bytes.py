"""Bytes that processes read when they need them, so that what a new process is sent is small.

What a process is made from goes through a pipe that holds 64 KB: its parent would wait for a process that does not read.
(It still does where stage 0 is sent a data set that is not made of tensors, and is larger.)
"""

from __future__ import annotations

import os
from multiprocessing import reduction
from typing import Any


class SharedBytes:
    """In a file without a name, in memory: it is gone with the last process that has it open, however that ends."""

    def __init__(self, content: bytes) -> None:
        self._descriptor = os.memfd_create("bytes")
        with open(self._descriptor, "wb", closefd=False) as file:
            file.write(content)

    def read(self) -> bytes:
        """All of them, as often as wanted. The position in the file is all processes' together, so it is left alone."""
        content, size = bytearray(), os.fstat(self._descriptor).st_size
        while len(content) < size:
            content += os.pread(self._descriptor, size - len(content), len(content))
        return bytes(content)

    def close(self) -> None:
        """Close the file in this process."""
        os.close(self._descriptor)

    def __getstate__(self) -> Any:
        return reduction.DupFd(self._descriptor)

    def __setstate__(self, descriptor: Any) -> None:
        self._descriptor = descriptor.detach()

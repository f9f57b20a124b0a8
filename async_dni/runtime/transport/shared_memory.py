"""Memory that the processes of a run share: arrays in files without a name, of which all is there from the start.

multiprocessing's own arrays are files in `/dev/shm`, which is small in a container (64 MB), or in the folder for temporary
files. Such a file has its size at once, but its memory only when it is written; where there is none left, the writer gets
SIGBUS. Files without a name are limited by the machine's memory alone, and here get all of theirs when they are made.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.sharedctypes import rebuild_ctype  # type: ignore[attr-defined]  # the stubs lack it
from typing import Any

_LINE = 64  # bytes: a cache line, and the alignment of arrays
_SMALL = 1 << 16  # bytes of a file for several arrays; a larger one has a file of its own


class SharedMemory:
    """Makes arrays of zeros that are the same memory in every process that is given them when it is started.

    They need no closing: each file goes away with the last array in it, in the last process.
    """

    def __init__(self) -> None:
        self._file = _File(_SMALL)
        self._used = 0

    def RawArray(self, kind: Any, length: int) -> Any:  # noqa: N802  (as multiprocessing's contexts have it)
        """An array of ctypes. Raises `OSError` where there is no memory for it."""
        size = ctypes.sizeof(kind) * length
        if has_own_file(size):
            return rebuild_ctype(kind, _Block(_File(size), 0, size), length)
        if self._used + size > _SMALL:
            self._file, self._used = _File(_SMALL), 0
        block = _Block(self._file, self._used, size)
        self._used += -(-size // _LINE) * _LINE
        return rebuild_ctype(kind, block, length)


def has_own_file(size: int) -> bool:
    """Whether an array of so many bytes shares its file, and so its pages, with no other."""
    return size > _SMALL


class _File:
    """A file of `size` bytes, mapped."""

    def __init__(self, size: int) -> None:
        descriptor = os.memfd_create("async_dni")
        try:
            os.posix_fallocate(descriptor, 0, size)
            self._open(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise

    def _open(self, descriptor: int, size: int) -> None:
        self.memory, self._descriptor, self._size = mmap.mmap(descriptor, size), descriptor, size
        weakref.finalize(self, os.close, descriptor)

    def __getstate__(self) -> Any:
        return reduction.DupFd(self._descriptor), self._size

    def __setstate__(self, state: Any) -> None:
        descriptor, size = state
        self._open(descriptor.detach(), size)


@dataclass(frozen=True)
class _Block:
    """An array's part of a file, in the form that multiprocessing's pickling of arrays asks for."""

    file: _File
    start: int
    size: int

    def create_memoryview(self) -> memoryview:
        return memoryview(self.file.memory)[self.start : self.start + self.size]

"""Arrays that processes share: zeros at first, the same in each, without a file in /dev/shm, and gone with their last user."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
from typing import Any

import pytest
from test_snapshots import in_another_process, open_files

from async_dni.runtime.transport.shared_memory import _SMALL, SharedMemory

SIZES = (0, 1, 2, 63, 64, 65, _SMALL - 1, _SMALL, _SMALL + 1, 3 * _SMALL)


def test_they_start_as_zeros_on_cache_lines_and_share_no_byte() -> None:
    memory = SharedMemory()
    arrays = [memory.RawArray(ctypes.c_uint8, size) for size in SIZES * 2]
    assert [len(array) for array in arrays] == list(SIZES * 2)
    for number, array in enumerate(arrays, start=1):
        assert ctypes.addressof(array) % 64 == 0
        assert bytes(array) == bytes(len(array))
        ctypes.memset(array, number, len(array))
    for number, array in enumerate(arrays, start=1):
        assert bytes(array) == bytes([number]) * len(array)


def double_and_die(arrays: list[Any]) -> None:
    for array in arrays:
        array[-1] *= 2
    os.kill(os.getpid(), signal.SIGKILL)


def test_they_are_one_memory_in_all_processes() -> None:
    memory = SharedMemory()
    arrays = [memory.RawArray(ctypes.c_int64, size) for size in (1, 3, _SMALL)]
    for array in arrays:
        array[len(array) - 1] = 21
    assert in_another_process(double_and_die, arrays) == -signal.SIGKILL
    assert [array[len(array) - 1] for array in arrays] == [42, 42, 42]


def test_nothing_is_left_with_the_last_array() -> None:
    gc.collect()
    before = open_files()
    arrays = [SharedMemory().RawArray(ctypes.c_byte, size) for size in (1, 3 * _SMALL)]
    assert len(open_files() - before) == 4, "each file, and the copy that its map holds"
    del arrays
    gc.collect()
    assert open_files() <= before


def test_all_of_their_memory_is_there_from_the_start() -> None:
    """What is allocated as it is written would be found missing by SIGBUS."""
    memory = SharedMemory()
    array = memory.RawArray(ctypes.c_byte, 3 * _SMALL)
    status = os.fstat(array._wrapper.file._descriptor)
    assert status.st_blocks * 512 >= status.st_size == 3 * _SMALL


def test_memory_that_is_not_there_is_an_error() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    memory, files = SharedMemory(), open_files()
    resource.setrlimit(resource.RLIMIT_FSIZE, (_SMALL, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            memory.RawArray(ctypes.c_byte, 2 * _SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert open_files() == files

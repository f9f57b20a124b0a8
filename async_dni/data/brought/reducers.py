"""How what data sets hold is sent to other processes, where its own way is none.

Arrays in files, `numpy.memmap`: another process opens the file, and gets no copy through a pipe. Generators of random
numbers: multiprocessing would share a tensor of theirs that is gone before it has come.
"""

from __future__ import annotations

import mmap
import os
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch


def register_reducers() -> None:
    """From now on multiprocessing sends these so from this process."""
    ForkingPickler.register(np.memmap, reduce_mapped)
    ForkingPickler.register(torch.Generator, reduce_generator)


def reduce_generator(generator: torch.Generator) -> tuple[Any, ...]:
    """How to pickle one: by its state, as bytes."""
    return make_generator, (str(generator.device), bytes(generator.get_state().tolist()))


def make_generator(device: str, state: bytes) -> torch.Generator:
    """The generator again."""
    generator = torch.Generator(device)
    generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return generator


def reduce_mapped(array: np.memmap[Any, Any]) -> tuple[Any, ...]:
    """How to pickle one: file, offset, shape, strides; as any array where there is no such file, or it may differ from it."""
    start = _start(array)
    if start is None or not array.size or array.mode == "c" or any(stride < 0 for stride in array.strides):
        return np.asarray(array).__reduce_ex__(2)  # type: ignore[return-value]
    mode = "r" if array.mode == "r" else "r+"
    return open_mapped, (str(array.filename), mode, start, array.dtype, array.shape, array.strides)


def open_mapped(
    filename: str, mode: Any, start: int, dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...]
) -> Any:
    """The array again, in another process."""
    span = dtype.itemsize + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    whole = np.memmap(filename, np.uint8, mode, start, (span,))
    first = whole[: dtype.itemsize].view(dtype)
    return np.lib.stride_tricks.as_strided(first, shape, strides, subok=True)


def _start(array: np.memmap[Any, Any]) -> int | None:
    """Where in its file an array begins; None where it can't be opened by its name. (A slice's `offset` is the whole's.)"""
    whole: Any = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    if not isinstance(whole.base, mmap.mmap) or array.filename is None or not os.path.isfile(array.filename):
        return None
    mapped = np.frombuffer(whole.base, np.uint8)
    before = array.__array_interface__["data"][0] - mapped.__array_interface__["data"][0]
    return int(array.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY + before)

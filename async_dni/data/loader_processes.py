"""Batches that are loaded ahead, in processes of their own, by PyTorch's `DataLoader`.

Which process loads a batch makes no difference: it is loaded with the random states, and the threads, that it would have
here. The processes are forked, so they start at once and nothing is pickled for them; that must be before this process has
threads or has computed anything, as threads do not survive a fork. Batches come through a pipe, as arrays: nothing lies in
`/dev/shm`, which may be small.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..learning.batch import Batch
from ..learning.structure import mapped
from .brought.loaders import GONE, deaths_unheard, is_death
from .samples import DataError

AHEAD = 2  # batches that each process loads ahead
_BYTES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


class LoaderError(Exception):
    """What was raised in another process: its traceback."""


@dataclass(frozen=True)
class _Failure:
    """A `DataError`, from another process."""

    where: str
    problem: str
    batch: int | None
    details: str  # the traceback of what caused it, if something did

    def error(self) -> DataError:
        error = DataError(self.where, self.problem, self.batch)
        error.__cause__ = LoaderError(f"\n{self.details}") if self.details else None
        return error


class _Loads(Dataset):
    """A batch for an index, as a loader process sends it."""

    def __init__(self, load: Callable[[int], Batch], indices: range) -> None:
        self.load, self.indices = load, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, Any] | _Failure:
        try:
            batch = self.load(index)
        except DataError as error:
            cause = error.__cause__
            details = "" if cause is None else "".join(traceback.format_exception(cause))
            return _Failure(error.where, error.problem, error.batch, details)
        return mapped(_packed, batch.x), _packed(batch.target)


class LoaderProcesses:
    """So many processes, which load the batches of some indices by `load`. What they raise is raised by `take`."""

    def __init__(
        self, load: Callable[[int], Batch], indices: range, workers: int, at_start: Callable[[], None]
    ) -> None:
        threads = torch.get_num_threads()

        def start(_: int) -> None:
            at_start()
            torch.set_num_threads(threads)  # PyTorch has set one; sums over several may differ in the last bit

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more than there are cores
            loader = DataLoader(
                _Loads(load, indices),
                batch_size=None,
                sampler=indices,
                num_workers=workers,
                collate_fn=_as_it_is,
                multiprocessing_context="fork",
                worker_init_fn=start,
                prefetch_factor=AHEAD,
            )
            with deaths_unheard():
                self._iterator: Any = iter(loader)
        self._next = indices.start

    def take(self, index: int) -> Batch:
        """The next batch, which is that of `index`. Raises `DataError`."""
        assert index == self._next, "batches are taken in order"
        try:
            loaded = next(self._iterator)
        except Exception as error:
            if not is_death(error, self._iterator):
                raise
            raise DataError("a batch", GONE, index) from error
        self._next += 1
        if isinstance(loaded, _Failure):
            raise loaded.error()
        x, target = loaded
        return Batch(index, mapped(_unpacked, x), _unpacked(target))

    def close(self) -> None:
        """End the processes, also those that are loading."""
        for process in self._iterator._workers:  # it would wait for them
            process.terminate()  # which PyTorch has them take for a good end
        del self._iterator


def _as_it_is(loaded: Any) -> Any:
    return loaded


@dataclass(frozen=True)
class _Packed:
    """A tensor as an array, which is pickled whole."""

    array: Any
    dtype: torch.dtype


def _packed(tensor: Tensor) -> _Packed:
    tensor = tensor.detach().contiguous()
    return _Packed(tensor.view(_BYTES[tensor.element_size()]).numpy(), tensor.dtype)


def _unpacked(packed: _Packed) -> Tensor:
    # copied to where PyTorch allocates: results may depend on alignment
    return torch.from_numpy(packed.array).view(packed.dtype).clone()

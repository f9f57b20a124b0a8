"""What a user's `DataLoader` says of itself and gives, and copies of it that load as a run does."""

from __future__ import annotations

import copy
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ...learning.random_state import seeded
from ...learning.structure import parts_of
from ..batches import ITERATING
from ..samples import DataError, has_rows, raised
from .parts import Parts, form, split

LOOKED_AT = 1000  # batches of a sampler that does not say how many it has, and may have no end

ANY_SIZE = 2**62  # of batches that come ready from the data set


def own(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A copy whose workers are new in each pass: those that persist draw other numbers than those of a run that goes on.

    They are started as this process would start them, whose own way may be another's.
    """
    copied = copy.copy(loader)
    copied.__dict__.update(persistent_workers=False, _iterator=None)
    if copied.num_workers and copied.multiprocessing_context is None:
        copied.multiprocessing_context = multiprocessing.get_context(multiprocessing.get_start_method())
    return copied


def in_process(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A copy that loads in this process."""
    copied = copy.copy(loader)
    copied.num_workers, copied.timeout, copied.pin_memory = 0, 0, False
    copied.__dict__.update(persistent_workers=False, prefetch_factor=None, _iterator=None)
    return copied


def generators_of(loader: DataLoader[Any]) -> list[torch.Generator]:
    """The user's own, each once."""
    holders = (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(generator): generator for generator in found if isinstance(generator, torch.Generator)}.values())


@contextmanager
def generators_kept(loader: DataLoader[Any]) -> Iterator[None]:
    """The user's generators are left as they were."""
    states = [generator.get_state() for generator in generators_of(loader)]
    try:
        yield
    finally:
        for generator, state in zip(generators_of(loader), states, strict=True):
            generator.set_state(state)


def batches_of(loader: DataLoader[Any]) -> int | None:
    """Batches of a pass, where they are known."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def samples_of(loader: DataLoader[Any]) -> int | None:
    """Samples of a pass, where they are known."""
    try:
        return len(loader.dataset if isinstance(loader.dataset, IterableDataset) else loader.sampler)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def sizes_of(loader: DataLoader[Any], seed: int) -> list[int]:
    """Rows of each batch that a batch sampler makes in its first pass: of the first ones, where it does not say how many."""
    sampler: Any = loader.batch_sampler
    most = LOOKED_AT
    if hasattr(sampler, "__len__") and (known := batches_of(loader)) is not None:
        most = known
    with generators_kept(loader), seeded(seed, ITERATING, 0):
        return [len(list(batch)) for batch in islice(iter(sampler), most)]


def largest_of(loader: DataLoader[Any], seed: int) -> int | None:
    """Rows of the largest batch; None of batches that come ready from the data set."""
    known = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    if isinstance(known, int) and known >= 1:
        return known
    return None if loader.batch_sampler is None else max(sizes_of(loader, seed), default=1)


def smallest_of(loader: DataLoader[Any], batch_size: int, steps: int, seed: int) -> int:
    """Rows of the smallest batch of a run of so many steps, as far as that is known; else `batch_size`."""
    samples, passes = samples_of(loader), batches_of(loader)
    is_iterable = isinstance(loader.dataset, IterableDataset)
    if loader.batch_sampler is None:
        return batch_size  # they come ready from the data set
    if loader.batch_size is None:
        return min(sizes_of(loader, seed)[:steps], default=batch_size)
    in_parts = is_iterable and loader.num_workers > 1  # each worker has a last batch of its own
    if loader.drop_last or in_parts or samples is None or passes is None or steps < passes:
        return batch_size
    return samples % batch_size or batch_size


def taken_apart(given: object, target: str | None, index: int, most: int | None = None) -> tuple[Parts, Tensor]:
    """x and targets of a batch that a loader gives; `most`: rows. Raises `DataError` for what is no batch."""
    try:
        x, y = split(given, target)
    except (TypeError, ValueError) as error:
        allowed = f"is {form(given)}, {error}; allowed: samples and targets that are tensors or arrays"
        raise DataError("what the DataLoader gives", allowed, index) from None
    rows = len(parts_of(x)[0]) if parts_of(x)[0].dim() else 0
    if not has_rows((x, y), rows) or not 1 <= rows <= (most or rows):
        if most is None or most == ANY_SIZE:
            allowed = "batches, with a row of each for each sample; with batch_size=None the data set makes them"
        else:
            allowed = f"1 to {most} rows, as many of each"
        raise DataError("what the DataLoader gives", f"is {form((x, y))}; allowed: {allowed}", index)
    return x, y


@contextmanager
def deaths_unheard() -> Iterator[None]:
    """PyTorch's processes are started, and not the handler of SIGCHLD that would raise where another of them dies: wherever
    Python is then, in a block's forward pass, say. Who waits for a batch looks every five seconds whether they live.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # where PyTorch sets none
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def is_death(error: BaseException, iterator: object) -> bool:
    """Whether this was raised by PyTorch, or by fetching a tensor from another process, as a process that loads is gone."""
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid"):
        return True
    workers = getattr(iterator, "_workers", ())
    is_lost = isinstance(error, ConnectionError | EOFError | FileNotFoundError) and not str(error).startswith("Caught ")
    return bool(workers) and is_lost and bool(connection.wait([worker.sentinel for worker in workers], timeout=1))


GONE = "could not be loaded: a process that loads was killed; the kernel does that where memory runs out"


@contextmanager
def named(index: int, iterator: object = None) -> Iterator[None]:
    """What is raised is raised by the data set, in this batch, or by the `iterator` of a loader whose process was killed."""
    try:
        yield
    except Exception as error:
        if is_death(error, iterator):
            raise DataError("the DataLoader's batch", GONE, index) from error
        lines = [line for line in str(error).splitlines() if line.strip()]
        in_worker = bool(lines) and lines[0].startswith("Caught ") and len(lines) > 1
        problem = f"raised {lines[-1].strip()}" if in_worker else raised(error)
        raise DataError("the DataLoader", problem, index) from error

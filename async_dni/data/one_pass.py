"""An evaluation set without indices: a pass over a `DataLoader` or an iterable data set, the same each time, in this process."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..learning.structure import mapped
from .brought.loaders import generators_kept, generators_of, in_process, named, taken_apart
from .brought.parts import Parts, cast
from .samples import DataError, get_batch

Taken = tuple[Tensor, Parts, Tensor]
"""The samples' numbers `[batch]`, x, targets."""


class OnePass(IterableDataset[Taken]):
    """Batches from the beginning to the end. A user's generators begin each pass as they were, and are left as they are.

    Raises `DataError` for a batch that can't be loaded or is none.
    """

    def __init__(self, loader: DataLoader[Any], target: str | None = None, dtype: torch.dtype | None = None) -> None:
        self._loader, self._target, self._dtype = in_process(loader), target, dtype
        self._states = [generator.get_state() for generator in generators_of(loader)]

    def __iter__(self) -> Generator[Taken, None, None]:
        end, first = object(), 0
        with generators_kept(self._loader):
            for generator, state in zip(generators_of(self._loader), self._states, strict=True):
                generator.set_state(state)
            with named(0):
                iterator = iter(self._loader)
            for batch in range(2**62):
                with named(batch):
                    given = next(iterator, end)
                if given is end:
                    return
                x, target = taken_apart(given, self._target, batch)
                rows = len(target)
                yield torch.arange(first, first + rows), *cast(x, target, self._dtype)
                first += rows


def in_batches(dataset: Dataset, batch_size: int) -> Generator[Taken, None, None]:
    """All samples of a data set, in order: in batches of this size where they have indices, else in its own."""
    if isinstance(dataset, OnePass):
        yield from dataset
        return
    for indices in torch.arange(len(dataset)).split(batch_size):  # type: ignore[arg-type]
        yield indices, *get_batch(dataset, indices)


def first_sample(dataset: Dataset) -> Taken:
    """A batch of the first sample. Raises `DataError` where there is none."""
    with closing(in_batches(dataset, 1)) as batches:
        for indices, x, target in batches:
            return indices[:1], mapped(lambda part: part[:1], x), target[:1]
    raise DataError("pass 1", "ended after 0 batches; allowed: at least one", 0)

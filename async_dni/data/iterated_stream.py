"""The batches of a `DataLoader`, as its user made it, or of an iterable data set: they come in order, pass after pass.

Each pass begins with the random states of its epoch, and each batch is taken with those of its index. So for a data set with
a length, whose samples can be had in any order, batch b is the same each time, with its workers, sampler and `collate_fn`;
one in the middle of an epoch is come to by a pass from the epoch's beginning. What an iterable data set gives is its own
affair: batch b of one is come to from the very beginning, and is the same if the data set gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from ..learning.batch import Batch
from ..learning.random_state import seeded
from .augment import Augment
from .batch_check import BatchCheck, Labels
from .batches import ITERATING, LOADING, Batches
from .brought.loaders import (
    batches_of,
    deaths_unheard,
    generators_of,
    in_process,
    named,
    own,
    samples_of,
    smallest_of,
    taken_apart,
)
from .brought.parts import cast
from .samples import DataError


class IteratedStream(Batches):
    """Batches of a `DataLoader`. `data`: what it was made of; `target`: as of `Source`.

    Raises `DataError` for a batch that can't be loaded or is not what it should be.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        data: object,
        batch_size: int,
        steps: int,
        seed: int,
        target: str | None = None,
        dtype: torch.dtype | None = None,
        augment: Augment | None = None,
    ) -> None:
        self.dataset, self.batch_size, self.steps, self.seed = data, batch_size, steps, seed
        self.target, self.dtype, self.augment = target, dtype, augment
        self._loader = own(loader)
        self._generators = [bytes(generator.get_state().tolist()) for generator in generators_of(loader)]
        passes = batches_of(loader)
        # of a data set with a length, batch b is known to be in this pass and at that place
        self._length = None if isinstance(loader.dataset, IterableDataset) else passes
        self.samples = samples_of(loader)
        self.steps_per_epoch = passes or steps
        self.smallest = smallest_of(loader, batch_size, steps, seed)
        self._check = BatchCheck()
        self._has_begun = False  # before that no process is started
        self._iterator: Iterator[Any] | None = None
        self._epoch = self._position = self._next = 0  # the pass; the next batch in it, and of all
        self._last: Batch | None = None  # before the beginning, what is looked at some times is loaded once

    def _get(self, index: int) -> Batch:
        if self._last is not None and self._last.index == index:
            return self._last
        self._go_to(index)
        batch = self._made(self._taken(), index)
        if not self._has_begun:
            self._last = batch
            self._end_pass()
        return batch

    def _go_to(self, index: int) -> None:
        """So that batch `index` is the next."""
        if (
            self._iterator is None
            or self._next > index
            or (self._length and self._next // self._length != index // self._length)
        ):
            epoch = 0 if self._length is None else index // self._length
            self._next = 0 if self._length is None else epoch * self._length
            self._begin_pass(epoch)
        while self._next < index:
            self._taken()

    def _begin_pass(self, epoch: int) -> None:
        self._end_pass()
        if epoch:  # the first is as its user made it
            for generator in generators_of(self._loader):
                generator.manual_seed(
                    int(np.random.SeedSequence((generator.initial_seed(), epoch)).generate_state(1)[0])
                )
        for part in (self._loader.dataset, self._loader.sampler, self._loader.batch_sampler):
            if callable(set_epoch := getattr(part, "set_epoch", None)):
                set_epoch(epoch)
        loader = self._loader if self._has_begun else in_process(self._loader)
        with seeded(self.seed, ITERATING, epoch), named(self._next), deaths_unheard():
            self._iterator = iter(loader)
        self._epoch, self._position = epoch, 0

    def _taken(self) -> Any:
        """The next batch, as the loader gives it."""
        assert self._iterator is not None
        while True:
            with seeded(self.seed, LOADING, self._next), named(self._next, self._iterator):
                given = next(self._iterator, _END)
            if given is not _END:
                self._position, self._next = self._position + 1, self._next + 1
                return given
            if self._position < (self._length or 1):
                ended = f"ended after {self._position} batches; allowed: {self._length or 'at least one'}"
                raise DataError(f"pass {self._epoch + 1}", ended, self._next)
            self._begin_pass(self._epoch + 1)

    def _made(self, given: Any, index: int) -> Batch:
        x, target = taken_apart(given, self.target, index, self.batch_size)
        rows = len(target)
        try:
            with seeded(self.seed, LOADING, index):
                self._check(x, target, torch.arange(rows))
                x = x if self.augment is None else self.augment(x)
        except DataError as error:
            raise DataError(error.where.replace("sample", "row", 1), error.problem, index) from None
        return Batch(index, *cast(x, target, self.dtype))

    def allow(self, labels: Labels | None, batch: Batch) -> None:
        self._check.labels = labels
        if labels is not None:
            labels.check(batch.target, torch.arange(len(batch.target)))

    def begin(self, start: int, at_start: Callable[[], None] = lambda: None) -> None:
        self._end_pass()
        self._last, self._has_begun = None, True

    def close(self) -> None:
        self._end_pass()

    def _end_pass(self) -> None:
        # its processes end when they have loaded what they are at, as they might leave shared memory; and they end now, as
        # the traceback of what they raised may keep the iterator
        getattr(self._iterator, "_shutdown_workers", _nothing)()
        self._iterator = None
        for generator, state in zip(generators_of(self._loader), self._generators, strict=True):
            generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))

    def __getstate__(self) -> dict[str, Any]:
        """Without the pass in hand."""
        return {**self.__dict__, "_iterator": None, "_last": None}


_END = object()


def _nothing() -> None:
    """What there is to end where no process loads."""

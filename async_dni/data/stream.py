"""The seeded stream of batches that stage 0 trains on, where any sample can be asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..learning.batch import Batch
from ..learning.random_state import seeded
from .augment import Augment
from .batch_check import BatchCheck, Labels, check_finite
from .batches import LOADING, Batches
from .brought.parts import cast
from .loader_processes import LoaderProcesses
from .samples import DataError
from .source import Source


class BatchStream(Batches):
    """Batches of a data set in a seeded order, anew in each epoch: a function of (seed, batch index) alone.

    Any batch can be asked for, so a stream is resumed by its index. An epoch's last batch may be smaller. A batch is loaded
    with the random states of its index, by whichever process: this one, or `loader_workers` of its own, from `begin` on.
    Raises `DataError`, naming the sample, where one can't be loaded or is not what it should be.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        steps: int,
        seed: int,
        augment: Augment | None = None,
        loader_workers: int = 0,
    ) -> None:
        self.source = Source.of(dataset)
        self.dataset, self.batch_size, self.steps, self.seed = self.source.dataset, batch_size, steps, seed
        self.samples = len(self.source)
        self.steps_per_epoch = -(-self.samples // batch_size)
        self.smallest = batch_size if steps < self.steps_per_epoch else self.samples % batch_size or batch_size
        self.augment, self.loader_workers = augment, loader_workers
        self._check = None  # what is in memory is checked by `allow`
        if self.source.in_memory is None:
            self._check = BatchCheck(self.source.find_misfit if self.source.is_of_samples else None)
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)
        self._processes: LoaderProcesses | None = None

    def _get(self, index: int) -> Batch:
        return self.load(index) if self._processes is None else self._processes.take(index)

    def load(self, index: int) -> Batch:
        """A batch, loaded by this process."""
        indices = self.indices(index)
        draws = self._check is not None or self.augment is not None
        try:
            with seeded(self.seed, LOADING, index) if draws else nullcontext():
                x, target = self.source.raw_batch(indices)
                if self._check is not None:
                    self._check(x, target, indices)
                x = x if self.augment is None else self.augment(x)
        except DataError as error:
            error.batch = index
            raise
        return Batch(index, *cast(x, target, self.source.dtype))

    def begin(self, start: int, at_start: Callable[[], None] = lambda: None) -> None:
        """From now on batches are asked for in order, from `start`. Processes that load them first call `at_start`."""
        if self.augment is not None:
            self.augment.load()
        if self.loader_workers:
            self._processes = LoaderProcesses(self.load, range(start, self.steps), self.loader_workers, at_start)

    def close(self) -> None:
        """End the processes that load."""
        if self._processes is not None:
            self._processes.close()
            self._processes = None

    def indices(self, index: int) -> Tensor:
        """Indices of a batch's samples in the data set."""
        self._check_index(index)
        epoch, position = divmod(index, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.source), generator=generator)
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]

    def __getstate__(self) -> dict[str, Any]:
        """Without the order of the epoch in hand, which would be one more tensor to share, and is a function of the seed."""
        return {**self.__dict__, "_epoch": -1, "_order": torch.empty(0, dtype=torch.int64)}

    def allow(self, labels: Labels | None, batch: Batch) -> None:
        """The loss takes these labels: checked here for what is in memory and for `batch`, else as batches come."""
        if self._check is None:
            check_in_memory(self.source, labels)
            return
        self._check.labels = labels
        if labels is not None:
            labels.check(batch.target, self.indices(batch.index))


def in_memory(dataset: Dataset) -> tuple[Tensor, ...] | None:
    """The tensors that hold all samples and targets of a data set; None of one that loads or makes them."""
    return Source.of(dataset).in_memory


def check_in_memory(dataset: Dataset, labels: Labels | None) -> None:
    """Raise `DataError` where a data set that is in memory holds a number that is not finite, or another label."""
    for tensor in (tensors := in_memory(dataset) or ()):
        check_finite(tensor, torch.arange(len(tensor)))
    if tensors and labels is not None:
        labels.check(tensors[-1], torch.arange(len(tensors[-1])))

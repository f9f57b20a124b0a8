"""The seeded stream of batches that stage 0 trains on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..learning.batch import Batch
from .image_dataset import ImageDataset
from .samples import BatchCheck, DataError, Labels, check_finite, get_batch, is_tensors


class BatchStream:
    """Batches of a data set in a seeded order, anew in each epoch: a function of (seed, batch index) alone.

    Any batch can be asked for, so a stream is resumed by its index. An epoch's last batch may be smaller.
    Raises `DataError`, naming the sample, where one can't be loaded or is not what it should be.
    """

    def __init__(self, dataset: Dataset, batch_size: int, steps: int, seed: int) -> None:
        self.dataset, self.batch_size, self.steps, self.seed = dataset, batch_size, steps, seed
        self.samples = len(dataset)  # type: ignore[arg-type]
        self.steps_per_epoch = -(-self.samples // batch_size)
        self._check = None if in_memory(dataset) else BatchCheck(dataset)  # what is in memory is checked by `allow`
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def __getitem__(self, index: int) -> Batch:
        indices = self.indices(index)
        try:
            x, target = get_batch(self.dataset, indices)
            if self._check is not None:
                self._check(x, target, indices)
        except DataError as error:
            error.batch = index
            raise
        return Batch(index, x, target)

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(self.steps))

    def indices(self, index: int) -> Tensor:
        """Indices of a batch's samples in the data set."""
        if not 0 <= index < self.steps:
            raise IndexError(f"batch {index} of a stream of {self.steps}")
        epoch, position = divmod(index, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(self.samples, generator=generator)
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]

    def __getstate__(self) -> dict[str, Any]:
        """Without the order of the epoch in hand, which would be one more tensor to share, and is a function of the seed."""
        return {**self.__dict__, "_epoch": -1, "_order": torch.empty(0, dtype=torch.int64)}

    def allow(self, labels: Labels | None, batch: Batch) -> None:
        """The loss takes these labels: checked here for what is in memory and for `batch`, else as batches come."""
        if self._check is None:
            check_in_memory(self.dataset, labels)
            return
        self._check.labels = labels
        if labels is not None:
            labels.check(batch.target, self.indices(batch.index))


def in_memory(dataset: Dataset) -> tuple[Tensor, ...] | None:
    """The tensors that hold all samples and targets of a data set; None of one that loads or makes them."""
    if isinstance(dataset, ImageDataset):
        return dataset.images, dataset.labels
    return dataset.tensors if is_tensors(dataset) else None


def check_in_memory(dataset: Dataset, labels: Labels | None) -> None:
    """Raise `DataError` where a data set that is in memory holds a number that is not finite, or another label."""
    for tensor in (tensors := in_memory(dataset) or ()):
        check_finite(tensor, torch.arange(len(tensor)))
    if tensors and labels is not None:
        labels.check(tensors[1], torch.arange(len(tensors[1])))

"""Where samples are taken from by their index: a data set, and how a batch is made of its samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .brought.arrays import Arrays
from .brought.parts import Parts, cast
from .image_dataset import ImageDataset
from .samples import DataError, get_batch, is_tensors, load, misfit


@dataclass(frozen=True)
class Source(Dataset):
    """A data set with a length. Its batches have the dtypes that a network takes."""

    dataset: Any
    target: str | None = None  # which entry of a sample that is a dictionary is its target; None: found by its name
    collate: Callable[[list[Any]], Any] | None = None  # makes a batch of samples; None: PyTorch's
    rows: Tensor | None = None  # the samples to take, in order; None: all
    dtype: torch.dtype | None = None  # of the network's parameters

    @classmethod
    def of(cls, dataset: Dataset) -> Source:
        """The data set itself, where it is one."""
        return dataset if isinstance(dataset, cls) else cls(dataset)

    def __len__(self) -> int:
        return len(self.dataset) if self.rows is None else len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return load(self.dataset, index if self.rows is None else int(self.rows[index]))

    def get_batch(self, indices: Tensor) -> tuple[Parts, Tensor]:
        """x and targets of these samples. Raises `DataError`."""
        return cast(*self.raw_batch(indices), self.dtype)

    def raw_batch(self, indices: Tensor) -> tuple[Parts, Tensor]:
        """The same with the dtypes that the data set has."""
        rows = indices if self.rows is None else self.rows[indices]
        return get_batch(self.dataset, rows, self.collate, self.target)

    @property
    def is_of_samples(self) -> bool:
        """Whether batches are made of single samples, here: then the one that is not like the others can be found."""
        return self.collate is None and not hasattr(self.dataset, "get_batch")

    def find_misfit(self, indices: Tensor, reason: str) -> DataError:
        """The sample that is not like the others; `reason`: what a batch of them is like."""
        return misfit(self.dataset, [load(self.dataset, index) for index in indices.tolist()], indices, reason)

    @property
    def in_memory(self) -> tuple[Tensor, ...] | None:
        """The tensors that hold all samples, and last the targets; None of a data set that loads or makes them."""
        if self.collate is not None:
            return None
        if isinstance(self.dataset, Arrays):
            return self.dataset.in_memory
        if isinstance(self.dataset, ImageDataset):
            return self.dataset.images, self.dataset.labels
        return self.dataset.tensors if is_tensors(self.dataset) else None

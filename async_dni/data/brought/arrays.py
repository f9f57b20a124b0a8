"""A data set of whole arrays: a row of each makes a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...learning.structure import mapped, parts_of
from .parts import Parts, as_tensor

Column = Any
"""A tensor, or a `numpy.memmap`: rows of that are read from its file when they are wanted."""


class Arrays(Dataset):
    """`x`: one column, or a tuple or a dict of them; `target`: a column with as many rows."""

    def __init__(self, x: Parts, target: Column) -> None:
        self.x, self.target = x, target

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> tuple[Parts, Tensor]:
        x, target = self.get_batch(torch.tensor([index]))
        return mapped(lambda part: part[0], x), target[0]

    def get_batch(self, indices: Tensor) -> tuple[Parts, Tensor]:
        """Rows of all columns."""

        def rows(column: Column) -> Tensor:
            return as_tensor(column[indices.numpy()]) if is_mapped(column) else column.index_select(0, indices)

        return mapped(rows, self.x), rows(self.target)

    @property
    def in_memory(self) -> tuple[Tensor, ...] | None:
        """All columns, targets last; None where some are in files."""
        columns = (*parts_of(self.x), self.target)
        return None if any(map(is_mapped, columns)) else columns


def is_mapped(column: Column) -> bool:
    """Whether a column is in a file."""
    return isinstance(column, np.memmap) and column.filename is not None


def as_column(array: object) -> Column:
    """A tensor of what is in memory; what is in a file stays there. Raises `TypeError` for what holds no numbers."""
    if not is_mapped(array):
        return as_tensor(array)
    as_tensor(array[:1])  # type: ignore[index]
    return array

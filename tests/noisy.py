"""Data sets whose samples are drawn when they are loaded; in a file of their own, as other processes load them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

SAMPLES = 45  # an epoch's last batch of 10 is half a one


def noise() -> float:
    """Of all three sources of random numbers."""
    return float(torch.rand(())) + float(np.random.rand()) + random.random()


class Noisy(Dataset):
    """Sample i is `[i, noise, …]`, with label i mod 2; one raises."""

    def __init__(self, bad: int | None = None, samples: int = SAMPLES) -> None:
        self.bad, self.samples = bad, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == self.bad:
            raise OSError("gone")
        return torch.tensor([float(index), *(noise() for _ in range(5))]) / SAMPLES, index % 2


class Stream(IterableDataset):
    """The same samples, in order, from the `first` on."""

    def __init__(self, first: int = 0, length: int | None = None) -> None:
        self.first, self.length = first, length
        if length is not None:
            self.__class__ = Measured

    def __iter__(self) -> Iterator[Any]:
        return map(Noisy().__getitem__, range(self.first, SAMPLES))


class Measured(Stream):
    """… which has a length."""

    def __len__(self) -> int:
        assert self.length is not None
        return self.length

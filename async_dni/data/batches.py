"""The batches that stage 0 trains on, in order: what is asked of them, whichever data set they are of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from ..learning.batch import Batch
from .batch_check import Labels

LOADING, ITERATING, EVALUATING, CHECKING = 1, 2, 3, 4
"""What is seeded: the random states of (seed, `LOADING`, batch index), of (seed, `ITERATING`, epoch), or, of an evaluation,
(seed, `EVALUATING`, its batch), or, of a gradient check, (seed, `CHECKING`, step)."""


class Batches(ABC):
    """A run's batches. `BatchStream`: any can be asked for at any time; `IteratedStream`: going back costs a new pass."""

    dataset: Any  # as it was given
    batch_size: int  # rows of the largest
    smallest: int  # rows of the smallest, as far as that is known
    steps: int  # batches
    seed: int
    samples: int | None  # in an epoch; None: nobody knows how many there are
    steps_per_epoch: int  # where nobody knows, all are one epoch

    def __getitem__(self, index: int) -> Batch:
        """Batch `index`. Raises `DataError`."""
        self._check_index(index)
        return self._get(index)

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(self.steps))

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self.steps:
            raise IndexError(f"batch {index} of a stream of {self.steps}")

    @abstractmethod
    def _get(self, index: int) -> Batch: ...

    @abstractmethod
    def allow(self, labels: Labels | None, batch: Batch) -> None:
        """The loss takes these labels; `batch` was taken before. Raises `DataError` for others, now or as they come."""

    @abstractmethod
    def begin(self, start: int, at_start: Callable[[], None] = lambda: None) -> None:
        """From now on batches are asked for in order, from `start`.

        Before that nothing is started for a batch or two that are looked at. Processes of ours that load first call
        `at_start`; a user's look by themselves, every five seconds, whether this one still lives.
        """

    @abstractmethod
    def close(self) -> None:
        """End what `begin` started."""

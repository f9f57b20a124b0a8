"""Functions of all outputs and targets of a set, which come a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

MOST_BYTES = 2**28  # of outputs and targets that are kept


class Collected:
    """Keeps outputs and targets, and calls each function once on all of them.

    Where they are more than `most` bytes, or don't fit together (sequences of other lengths), a function is called for
    each batch instead, and its value is the mean of what it gives, weighted by the batches' samples.
    """

    def __init__(self, functions: Mapping[str, Callable[[Tensor, Tensor], Any]], most: int = MOST_BYTES) -> None:
        self.functions, self._most = functions, most
        self._batches: list[tuple[Any, Any]] = []
        self._bytes = self._samples = 0
        self._sums = dict.fromkeys(functions, 0.0)
        self.is_whole = True  # whether a function will see all at once

    def add(self, output: Any, target: Any) -> None:
        """Take in a batch."""
        if not self.functions:
            return
        self._batches.append((output, target))
        parts = (output, target)
        if not all(isinstance(part, Tensor) for part in parts):
            self.is_whole = False
        else:
            self._bytes += sum(part.nbytes for part in parts)
            is_alike = all(
                part.shape[1:] == first.shape[1:] and part.dim()
                for part, first in zip(parts, self._batches[0], strict=True)
            )
            self.is_whole = self.is_whole and is_alike and self._bytes <= self._most
        if not self.is_whole:
            self._reduce()

    def _reduce(self) -> None:
        for output, target in self._batches:
            rows = len(target)
            self._samples += rows
            for name, function in self.functions.items():
                self._sums[name] += as_number(function(output, target)) * rows
        self._batches.clear()

    def values(self) -> dict[str, float]:
        """Each function's."""
        if not self.is_whole:
            return {name: total / self._samples for name, total in self._sums.items()}
        if not self._batches:
            return {}
        output, target = (torch.cat(parts) for parts in zip(*self._batches, strict=True))
        return {name: as_number(function(output, target)) for name, function in self.functions.items()}


def as_number(value: Any) -> float:
    """A number, or a tensor or array of one. Raises `TypeError` for anything else."""
    try:
        return float(value)
    except Exception:
        shape = f" {list(value.shape)}" if hasattr(value, "shape") else ""
        raise TypeError(f"a {type(value).__name__}{shape} is no number") from None

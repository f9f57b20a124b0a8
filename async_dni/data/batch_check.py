"""Batches are checked, so that a sample that can't be trained on is named.

What costs little is looked at for every batch, and the sample looked for only where that fails:

    shape and dtype    those of a batch, against the first batch's
    not finite         the sum of a batch of floats is finite unless one of them isn't (or it overflows)
    labels             the least and the greatest

Data sets that are tensors are checked once, whole, and their batches not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..learning.losses import ignored_label
from ..learning.structure import mapped, parts_of
from .brought.parts import Parts, differ_in_length, form_of_one
from .samples import ONE_LENGTH, DataError, names


@dataclass(frozen=True)
class Labels:
    """The labels that a loss takes: 0 to `classes` - 1, and `ignored`, where there is one."""

    classes: int
    ignored: int | None = None

    @classmethod
    def of(cls, loss_fn: object, output: Tensor, target: Tensor) -> Labels | None:
        """Those of a loss that is known to take labels, by the network's output `[batch, classes, ...]`; else None."""
        ignored = ignored_label(loss_fn)
        if ignored is None or target.is_floating_point() or output.dim() != target.dim() + 1:
            return None
        return cls(output.shape[1], ignored)

    def check(self, target: Tensor, indices: Tensor) -> None:
        """Raise `DataError` where one of the targets `[batch, ...]` of these samples is another label."""
        if not target.numel():
            return
        low, high = target.aminmax()
        if low >= 0 and high < self.classes:
            return
        wrong = (target < 0) | (target >= self.classes)
        if self.ignored is not None:
            wrong &= target != self.ignored
        if wrong.any():
            label = int(target[wrong][0])
            raise DataError(_first(wrong, indices), f"has label {label}; allowed: 0 to {self.classes - 1}")


def check_finite(tensor: Tensor, indices: Tensor) -> None:
    """Raise `DataError` where one of these samples' numbers `[batch, ...]` is NaN or infinite."""
    if not tensor.is_floating_point() or torch.isfinite(tensor.sum()):
        return
    wrong = ~torch.isfinite(tensor)
    if wrong.any():
        number = float(tensor[wrong][0])
        raise DataError(_first(wrong, indices), f"holds the number {number}; allowed: finite numbers")


def _first(wrong: Tensor, indices: Tensor) -> str:
    row = int(wrong.flatten(1).any(1).nonzero()[0]) if wrong.dim() > 1 else int(wrong.nonzero()[0])
    return f"sample {int(indices[row])}"


class BatchCheck:
    """Holds batches against the first, and their labels against those that the loss takes.

    `misfit(indices, reason)` finds the sample that is not like the others, where batches are made of single samples.
    """

    def __init__(self, misfit: Callable[[Tensor, str], DataError] | None = None) -> None:
        self.labels: Labels | None = None  # None: the loss takes none, or it is not known which
        self._misfit = misfit
        self._like: tuple[Parts, Tensor] | None = None  # the first batch, without its numbers
        self._form = ""  # of a sample of it

    def __call__(self, x: Parts, target: Tensor, indices: Tensor) -> None:
        """Raise `DataError` where a sample of this batch is not like the first batch's, or holds what it may not."""
        found = f"{form_of_one(x)} and {form_of_one(target)}"
        if self._like is None:
            self._like, self._form = (mapped(_empty, x), _empty(target)), found
        if found != self._form:
            reason = f"{found}, where the first batch had {self._form}"
            if self._misfit is not None:
                raise self._misfit(indices, reason)
            raise _another(indices, reason, differ_in_length((x, target), self._like))
        for part in (*parts_of(x), target):
            check_finite(part, indices)
        if self.labels is not None:
            self.labels.check(target, indices)


def _empty(part: Tensor) -> Tensor:
    return torch.empty(part.shape, dtype=part.dtype, device="meta")


def _another(indices: Tensor, reason: str, in_length: bool) -> DataError:
    if in_length:
        return DataError(names(indices), f"make a batch of {reason}; allowed: one shape for all batches: {ONE_LENGTH}")
    return DataError(names(indices), f"don't make a batch ({reason}); allowed: tensors, arrays and numbers of one form")

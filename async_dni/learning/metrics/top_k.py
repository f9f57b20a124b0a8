"""How often the true label is among the k largest outputs."""

from __future__ import annotations

import math

from torch import Tensor

from .metric import labelled


class TopK:
    """The share of labels among the k largest outputs of their sample, or position, in per cent."""

    def __init__(self, k: int, ignored: int | None = None) -> None:
        self.k, self.ignored = k, ignored
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.right = self.labels = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in outputs `[batch, classes, ...]` and labels `[batch, ...]`."""
        rows, labels = labelled(outputs, targets, self.ignored)
        largest = rows.topk(min(self.k, rows.shape[1]), dim=1).indices
        self.right += int((largest == labels[:, None]).any(1).sum())
        self.labels += len(labels)

    def compute(self) -> float:
        """In per cent."""
        return 100 * self.right / self.labels if self.labels else math.nan

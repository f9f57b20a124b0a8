"""What labels cost: the mean of −log p of the true ones, in nats, by the softmax of the outputs."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from .metric import labelled


class Surprise:
    """Mean of −log p(label). Outputs may be logits or logarithms of probabilities: a softmax changes nothing of those."""

    def __init__(self, ignored: int | None = None) -> None:
        self.ignored = ignored
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.total, self.labels = 0.0, 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in outputs `[batch, classes, ...]` and labels `[batch, ...]`."""
        rows, labels = labelled(outputs, targets, self.ignored)
        self.total += float(F.cross_entropy(rows.float(), labels.long(), reduction="none").double().sum())
        self.labels += len(labels)

    def compute(self) -> float:
        """In nats a label."""
        return self.total / self.labels if self.labels else math.nan

"""The loss of a whole set, from batches: what one call on all of it would give.

Of PyTorch's own losses the sum is known, and what it is divided by, so batch after batch is added up, in float64:

    CrossEntropyLoss, NLLLoss   labels: Σ w[y]·(…) / Σ w[y], without those that are ignored; soft targets: / positions
    MSELoss, BCELoss, …         Σ over elements / elements
    MultiMarginLoss, …          Σ over samples / samples
    KLDivLoss, batchmean        Σ / samples
    reduction="sum"             Σ
"""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import Tensor, nn

from ...learning.losses import OF_LABELS, as_module

OF_ELEMENTS = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.SoftMarginLoss,
    nn.PoissonNLLLoss,
    nn.KLDivLoss,
    nn.MultiLabelMarginLoss,
    nn.MultiLabelSoftMarginLoss,
)
OF_SAMPLES = (nn.MultiMarginLoss,)


class StreamedLoss:
    """Sum and divisor of a loss, as batches come."""

    def __init__(self, loss_fn: Any) -> None:
        self.loss_fn, self.reduction = copy.copy(loss_fn), loss_fn.reduction
        self.loss_fn.reduction = "none"
        self._sum = self._divisor = 0.0

    @classmethod
    def of(cls, loss_fn: object, output: Any, target: Any) -> StreamedLoss | None:
        """That of a loss that is one of PyTorch's, for outputs and targets like these; else None."""
        loss = as_module(loss_fn)
        if type(loss) not in (*OF_LABELS, *OF_ELEMENTS, *OF_SAMPLES) or loss.reduction == "none":
            return None
        if not isinstance(output, Tensor) or not isinstance(target, Tensor) or output.dim() < 1:
            return None
        if type(loss) in OF_ELEMENTS:
            weight = getattr(loss, "weight", None)  # one a sample is of this batch only
            if output.shape != target.shape or (weight is not None and weight.dim() >= output.dim()):
                return None
        return cls(loss)

    def add(self, output: Tensor, target: Tensor) -> None:
        """Take in a batch."""
        each = self.loss_fn(output, target)
        self._sum += float(each.double().sum())
        self._divisor += self._weight(each, target)

    def _weight(self, each: Tensor, target: Tensor) -> float:
        if self.reduction == "batchmean":
            return len(target)
        if not isinstance(self.loss_fn, OF_LABELS) or target.is_floating_point():
            return each.numel()
        counted = target[target != self.loss_fn.ignore_index]
        weight = self.loss_fn.weight
        return counted.numel() if weight is None else float(weight[counted].double().sum())

    @property
    def value(self) -> float:
        """The loss so far; not a number where nothing counts, as every label is ignored."""
        if self.reduction == "sum":
            return self._sum
        return self._sum / self._divisor if self._divisor else math.nan

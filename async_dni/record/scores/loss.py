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
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

OF_LABELS = (nn.CrossEntropyLoss, nn.NLLLoss)
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
FUNCTIONS: dict[Any, type[nn.Module]] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.kl_div: nn.KLDivLoss,
}


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


def as_module(loss_fn: object) -> Any:
    """The module of PyTorch's that does what this function of PyTorch's, or a partial of it, does; else what is given."""
    function, keywords = loss_fn, {}
    if isinstance(loss_fn, partial) and not loss_fn.args:
        function, keywords = loss_fn.func, loss_fn.keywords
    try:
        return FUNCTIONS[function](**keywords)
    except (KeyError, TypeError):  # another's, or what can't be hashed
        return loss_fn


def ignored_label(loss_fn: object) -> int | None:
    """The label that a loss ignores, where it is known to ignore one."""
    loss = as_module(loss_fn)
    return loss.ignore_index if isinstance(loss, OF_LABELS) else None

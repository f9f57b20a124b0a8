"""Test error, loss and confusion matrix of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from ..data.batch_check import Labels
from ..data.samples import get_batch
from ..learning.methods import Loss


@dataclass(frozen=True)
class Evaluation:
    """What a network came to on a data set, after `step` batches of training."""

    step: int
    epoch: float
    wall_seconds: float  # since the workers began
    test_error: float | None  # per cent; None where the targets are not classes
    test_loss: float
    confusion: list[list[int]] | None  # [true class][predicted class]

    def as_dict(self) -> dict[str, Any]:
        """As an object of metrics.jsonl."""
        return asdict(self)


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    loss_fn: Loss,
    batch_size: int = 1000,
    before_batch: Callable[[], None] = lambda: None,
) -> tuple[float, list[list[int]] | None]:
    """Mean loss and, where outputs are logits `[batch, classes]` and targets int64 labels, the confusion matrix.

    Raises `DataError`, naming the sample, for one that can't be loaded and for a label that the loss does not take.
    `before_batch` may raise to end it.
    """
    model.eval()
    samples: int = len(dataset)  # type: ignore[arg-type]
    loss, confusion = 0.0, None
    with torch.no_grad():
        for indices in torch.arange(samples).split(batch_size):
            before_batch()
            x, target = get_batch(dataset, indices)
            output = model(x)
            if labels := Labels.of(loss_fn, output, target):
                labels.check(target, indices)
            loss += float(loss_fn(output, target)) * len(indices)
            if output.dim() == 2 and target.dim() == 1 and not target.is_floating_point():
                classes = output.shape[1]
                cells = target * classes + output.argmax(1)
                counted = (target >= 0) & (target < classes)  # the others are those that the loss ignores
                cells = torch.bincount(cells[counted], minlength=classes**2)
                confusion = cells if confusion is None else confusion + cells
    table = None if confusion is None else confusion.view(classes, classes).tolist()
    return loss / samples, table


def error_percent(confusion: list[list[int]] | None) -> float | None:
    """The share of a confusion matrix off its diagonal, in per cent; None where nothing was counted."""
    total = sum(map(sum, confusion or []))
    if confusion is None or not total:
        return None
    return 100 * (total - sum(row[i] for i, row in enumerate(confusion))) / total

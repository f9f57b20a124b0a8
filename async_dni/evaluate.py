"""Test error, loss and confusion matrix of a network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from .data import get_batch
from .method import Loss


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
    model: nn.Module, dataset: Dataset, loss_fn: Loss, batch_size: int = 1000
) -> tuple[float, list[list[int]] | None]:
    """Mean loss and, where outputs are logits `[batch, classes]` and targets int64 labels, the confusion matrix."""
    model.eval()
    samples: int = len(dataset)  # type: ignore[arg-type]
    loss, confusion = 0.0, None
    with torch.no_grad():
        for indices in torch.arange(samples).split(batch_size):
            x, target = get_batch(dataset, indices)
            output = model(x)
            loss += float(loss_fn(output, target)) * len(indices)
            if output.dim() == 2 and target.dim() == 1 and not target.is_floating_point():
                classes = output.shape[1]
                cells = torch.bincount(target * classes + output.argmax(1), minlength=classes**2)
                confusion = cells if confusion is None else confusion + cells
    table = None if confusion is None else confusion.view(classes, classes).tolist()
    return loss / samples, table


def error_percent(confusion: list[list[int]] | None) -> float | None:
    """The share of a confusion matrix off its diagonal, in per cent."""
    if confusion is None:
        return None
    total = sum(map(sum, confusion))
    return 100 * (total - sum(row[i] for i, row in enumerate(confusion))) / total

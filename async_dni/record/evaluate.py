"""Test error, loss, confusion matrix and metrics of a network.

The loss of a set is what one call on all of it would give: PyTorch's own losses are added up (`scores/loss.py`); for any
other function, outputs and targets are kept as long as they fit (`scores/collected.py`), and so they are for metrics that
are functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from ..data.batch_check import Labels
from ..data.batches import EVALUATING
from ..data.one_pass import in_batches
from ..learning.losses import ignored_label
from ..learning.methods import Loss
from ..learning.metrics import Metric, MetricFunction
from ..learning.random_state import seeded
from .scores.collected import Collected, as_number
from .scores.confusion import Confusion
from .scores.loss import StreamedLoss

_LOSS = ""  # among functions of outputs and targets; no metric has that name


@dataclass(frozen=True)
class Evaluation:
    """What a network came to on a data set, after `step` batches of training."""

    step: int
    epoch: float
    wall_seconds: float  # since the workers began
    test_error: float | None  # per cent of samples, or of positions; None where the targets are not classes
    test_loss: float
    confusion: list[list[int]] | None  # [true class][predicted class]; None also where there are over 1,000 classes
    metrics: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As an object of metrics.jsonl."""
        return asdict(self)


@dataclass(frozen=True)
class Scores:
    """What a network came to on a data set."""

    loss: float
    error: float | None
    confusion: list[list[int]] | None
    metrics: dict[str, float]


class _Tally:
    """Takes in batches of outputs and targets, and gives the scores of all."""

    def __init__(self, loss_fn: Loss, metrics: Mapping[str, Metric | MetricFunction]) -> None:
        self._loss_fn, self._metrics = loss_fn, metrics
        self._streamed: StreamedLoss | None = None
        self._confusion = Confusion(ignored_label(loss_fn))
        self._objects = {name: metric for name, metric in metrics.items() if isinstance(metric, Metric)}
        functions: dict[str, Any] = {name: metric for name, metric in metrics.items() if name not in self._objects}
        self._collected = Collected(functions)
        self._has_begun = False
        for metric in self._objects.values():
            metric.reset()

    def add(self, output: Any, target: Any) -> None:
        """Take in a batch."""
        if not self._has_begun:
            self._has_begun = True
            self._streamed = StreamedLoss.of(self._loss_fn, output, target)
            if self._streamed is None:
                self._collected = Collected({**self._collected.functions, _LOSS: self._loss_fn})
        if self._streamed is not None:
            self._streamed.add(output, target)
        self._confusion.add(output, target)
        self._collected.add(output, target)
        for metric in self._objects.values():
            metric.update(output, target)

    def scores(self) -> Scores:
        """Of all batches."""
        found = self._collected.values()
        loss = found.pop(_LOSS) if self._streamed is None else self._streamed.value
        found |= {name: as_number(metric.compute()) for name, metric in self._objects.items()}
        metrics = {name: found[name] for name in self._metrics}
        return Scores(loss, self._confusion.error, self._confusion.table, metrics)


def score(
    model: nn.Module,
    dataset: Dataset,
    loss_fn: Loss,
    metrics: Mapping[str, Metric | MetricFunction],
    *,
    batch_size: int = 1000,
    seed: int = 0,
    before_batch: Callable[[], None] = lambda: None,
) -> Scores:
    """Loss, error and metrics of a network on a data set; errors as of `evaluate`.

    What is drawn (random augmentation, say) depends on the seed and the batch alone; random states are left as they were.
    """
    model.eval()
    tally = _Tally(loss_fn, metrics)
    with torch.no_grad(), closing(in_batches(dataset, batch_size)) as batches:
        for number in count():
            before_batch()
            with seeded(seed, EVALUATING, number):
                if (taken := next(batches, None)) is None:
                    break
                indices, x, target = taken
                output = model(x)
            if labels := Labels.of(loss_fn, output, target):
                labels.check(target, indices)
            tally.add(output, target)
        return tally.scores()


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    loss_fn: Loss,
    batch_size: int = 1000,
    before_batch: Callable[[], None] = lambda: None,
) -> tuple[float, list[list[int]] | None]:
    """The loss of the whole set and, where outputs are logits `[batch, classes, ...]` and targets labels `[batch, ...]`,
    the confusion matrix (of at most 1,000 classes).

    Raises `DataError`, naming the sample, for one that can't be loaded and for a label that the loss does not take.
    `before_batch` may raise to end it.
    """
    found = score(model, dataset, loss_fn, {}, batch_size=batch_size, before_batch=before_batch)
    return found.loss, found.confusion


def error_percent(confusion: list[list[int]] | None) -> float | None:
    """The share of a confusion matrix off its diagonal, in per cent; None where nothing was counted."""
    total = sum(map(sum, confusion or []))
    if confusion is None or not total:
        return None
    return 100 * (total - sum(row[i] for i, row in enumerate(confusion))) / total

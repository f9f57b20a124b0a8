"""Metrics: numbers that an evaluation finds beside the loss.

A metric is a function of all outputs and targets of a set, or an object that is shown one batch after the other, as
those of torchmetrics are. Those that have a name here are such objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

MetricFunction = Callable[[Tensor, Tensor], Any]
"""Outputs `[samples, ...]`, targets `[samples, ...]` → a number."""


@runtime_checkable
class Metric(Protocol):
    """Shown the batches of a set: `reset`, `update` for each, `compute`."""

    def update(self, outputs: Tensor, targets: Tensor) -> Any:
        """Take in a batch."""

    def compute(self) -> Any:
        """The number for all batches since the last `reset`."""

    def reset(self) -> Any:
        """Begin anew."""


@dataclass(frozen=True)
class MetricSpec:
    """A metric, as it says of itself. `make` gets the label that the loss ignores, or None."""

    name: str
    help: str  # a few words
    make: Callable[[int | None], Metric]
    higher_is_better: bool


def labelled(outputs: Tensor, targets: Tensor, ignored: int | None) -> tuple[Tensor, Tensor]:
    """Logits `[labels, classes]` and labels `[labels]` of outputs `[batch, classes, ...]`, without the ignored ones.

    Raises `ValueError` where the targets are not a label a sample, or a position.
    """
    if not takes_labels(outputs, targets):
        found = f"outputs {list(outputs.shape)}, targets {list(targets.shape)} {targets.dtype}"
        raise ValueError(f"allowed: outputs [batch, classes, ...] and labels [batch, ...], not {found}")
    rows, labels = (
        outputs.movedim(1, -1).reshape(-1, outputs.shape[1]),
        targets.reshape(-1).long(),
    )  # bytes would overflow
    if ignored is None:
        return rows, labels
    counted = labels != ignored
    return rows[counted], labels[counted]


def takes_labels(outputs: Tensor, targets: Tensor) -> bool:
    """Whether targets `[batch, ...]` can be labels of outputs `[batch, classes, ...]`."""
    is_whole = not targets.is_floating_point() and not targets.is_complex()
    return is_whole and outputs.dim() == targets.dim() + 1 and outputs.shape[:1] + outputs.shape[2:] == targets.shape

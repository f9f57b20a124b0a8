"""What a conditioned synthesizer (cDNI) sees of the target, made to fit the stage's output h.

    target                                       h [batch, features]      h with positions (time; height and width)
    labels [batch] int64                         as they are              as they are
    labels [batch, *positions] int64             their shares, [batch,    as they are, where the positions are h's; else their
                                                 classes]                 shares at h's positions, [batch, *positions, classes]
    numbers [batch] or [batch, width] (several   [batch, width]           [batch, width]
    labels, soft labels, real numbers)
    numbers [batch, channels, *positions] (soft  all of them in a row,    their means at h's positions,
    labels or numbers a position, images)        if few; else the means   [batch, *positions, channels]

So a synthesizer gets either labels, int64, or rows of numbers, of h's type; either one for each sample, or one for each
position of each sample, in the order of h's positions. A label of -1 is none: a label that the loss ignores. Where the
target has more positions than h, shares and means are pooled (each over the positions that fall on one of h's), where it
has fewer, they are repeated.

With a function of the user's own, a synthesizer sees what that makes of the target instead: numbers `[batch, width]` or
`[batch, *positions, width]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

OwnCondition = Callable[[Tensor], Tensor]
"""Targets `[batch, ...]` → numbers `[batch, width]` or `[batch, *positions, width]`."""

MOST_IN_A_TABLE = 512  # classes
MOST_IN_A_ROW = 1024  # numbers of a sample that are given one by one, where h has no positions for them


@dataclass(frozen=True)
class Condition:
    """Makes what a synthesizer sees of a target. `width`: classes of the labels, or numbers in a row."""

    width: int
    labels: bool  # whether targets are labels, else numbers
    ignored: int | None = None  # a label that the loss ignores
    channels_last: bool = False  # of targets that are numbers with positions: whether a row's numbers stand last
    positions: tuple[int, ...] = ()  # of the stage's output
    own: OwnCondition | None = None

    def __call__(self, target: Tensor) -> Tensor:
        """What the synthesizer gets for targets `[batch, ...]`."""
        if self.own is not None:
            return self._rows(self.own(target))
        if not self.labels:
            return self._rows(_numbers(target, self.channels_last))
        labels = (
            target.clamp(min=-1) if self.ignored is None else target.where(target != self.ignored, -1).clamp(min=-1)
        )
        if labels.dim() == 1 or tuple(labels.shape[1:]) == self.positions:
            return labels
        return self._rows(hot(labels, self.width, torch.get_default_dtype()))

    def fitted(self, positions: Sequence[int], target: Tensor) -> Condition:
        """The one for outputs with these positions; `target`: an example."""
        found = replace(self, positions=tuple(positions))
        if self.labels and self.own is None:
            return found
        return replace(found, width=found(target).shape[-1])

    def _rows(self, rows: Tensor) -> Tensor:
        """Numbers `[batch, *positions, width]` at the positions of h."""
        own = tuple(rows.shape[1:-1])
        if not own or own == self.positions:
            return rows
        if not self.positions and not self.labels and math.prod(rows.shape[1:]) <= MOST_IN_A_ROW:
            return rows.flatten(1)
        if len(own) != len(self.positions) or len(own) > 3:
            return rows.flatten(1, -2).mean(1)
        pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(own) - 1]
        pooled: Tensor = pool(rows.movedim(-1, 1), self.positions)
        return pooled.movedim(1, -1)


def _numbers(target: Tensor, channels_last: bool) -> Tensor:
    """Targets that are numbers as `[batch, *positions, width]`."""
    numbers = target if target.is_floating_point() else target.to(torch.get_default_dtype())
    if numbers.dim() < 2:
        return numbers.unsqueeze(-1)
    return numbers if channels_last or numbers.dim() == 2 else numbers.movedim(1, -1)


def condition_of(
    output: Tensor, target: Tensor, *, ignored: int | None, classes_first: bool, own: OwnCondition | None = None
) -> Condition:
    """That of a network's output `[batch, ...]` and targets `[batch, ...]`, for a stage's output without positions.

    Integers are labels where the network's output has one more dimension, whose size is the number of classes.
    `classes_first`: whether the loss takes `[batch, classes, *positions]`, as `CrossEntropyLoss` does; else three dimensions
    are taken for `[batch, time, numbers]`, and four for `[batch, channels, height, width]`.
    """
    if own is not None:
        return Condition(0, labels=False, own=own).fitted((), target)
    classes = classes_of(output, target)
    if classes is None:
        channels_last = target.dim() == 3 and not classes_first
        return Condition(0, labels=False, channels_last=channels_last).fitted((), target)
    return Condition(classes, labels=True, ignored=ignored)


def classes_of(output: Tensor, target: Tensor) -> int | None:
    """How many classes a network's output has for targets that are labels; None where they are none."""
    if target.is_floating_point() or target.dtype == torch.bool or output.dim() != target.dim() + 1:
        return None
    if output.shape[2:] == target.shape[1:]:
        return output.shape[1]
    return output.shape[-1] if output.shape[1:-1] == target.shape[1:] else None


def hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Labels `[...]` int64 as rows `[..., classes]` of zeros and a one; those that are none, of zeros."""
    if classes <= MOST_IN_A_TABLE:
        found = _rows_of_labels(classes, dtype, labels.device).index_select(0, labels.flatten() + 1)
        return found.view(*labels.shape, classes)
    rows = torch.zeros(*labels.shape, classes, dtype=dtype, device=labels.device)
    return rows.scatter_(-1, labels.clamp(min=0).unsqueeze(-1), (labels >= 0).to(dtype).unsqueeze(-1))


@cache
def _rows_of_labels(classes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Row 0 for a label that is none, then one for each; to take rows of takes a third of the time to make them."""
    return torch.cat((torch.zeros(1, classes), torch.eye(classes))).to(device, dtype)


def embedded(condition: Tensor, weight: Tensor) -> Tensor:
    """What a condition `[..., ]` of labels, or `[..., width]` of numbers, picks of a matrix `[width, size]`: `[..., size]`."""
    if condition.is_floating_point():
        return condition.to(weight.dtype) @ weight
    if _all_are(condition):
        return F.embedding(condition, weight)
    return F.embedding(condition.clamp(min=0), weight) * (condition >= 0).unsqueeze(-1)


def in_rows(condition: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """A condition of labels or numbers as numbers `[..., width]`."""
    return condition.to(dtype) if condition.is_floating_point() else hot(condition, width, dtype)


def _all_are(labels: Tensor) -> bool:
    """Whether none of them is missing."""
    return labels.numel() == 0 or bool(labels.min() >= 0)


def layout_of_features(features: Sequence[int], channels_first: bool) -> tuple[int, tuple[int, ...]]:
    """Channels and positions of one sample of an output: `[features]`, `[*positions, features]`, `[channels, *positions]`."""
    if channels_first and len(features) > 1:
        return features[0], tuple(features[1:])
    return features[-1], tuple(features[:-1])

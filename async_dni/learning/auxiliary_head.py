"""Auxiliary heads: from a stage's output, what the network's output is taken for by the loss.

A head is any `nn.Module` called as `head(h)`: h `[batch, *features]`, a stage's output (with its samples in rows). It returns
`[batch, *outputs]`, shaped like the network's output, so that the run's loss takes it. By default it is a linear classifier,
by the shape of both:

    h                            the network's output [*outputs]      its head
    [features]                   any                                  Linear, to all numbers of an output
    [*positions, features],      [classes]: one a sample              averages, at most 8 a dimension of positions, Linear
    [channels, *positions]       [classes, *positions], in either     Linear, the same at each position; where there are other
                                 order: one a position                positions, averages over them, or repeats

(Belilovsky, Eickenberg and Oyallon, *Decoupled Greedy Learning of CNNs*, arXiv 1901.08164. Their heads average over 2×2
positions and have convolutions or hidden layers before or after; linear ones need to see more: docs/performance.md.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .condition import layout_of_features
from .structure import Gradient, all_of

MOST_AVERAGES = 8  # a dimension of positions, where the network's output has none
MOST_DIMENSIONS = 3  # of positions that averages are made of


class AuxiliaryHead(nn.Module):
    """Linear, or with hidden layers and ReLU where `hidden` has widths; for shapes that `is_known` says it is for.

    `features`, `outputs`: shapes of one sample of h and of the network's output; `channels_first`, `classes_first`: whether
    those with positions are `[channels, *positions]`, else `[*positions, channels]`.
    """

    def __init__(
        self,
        features: Sequence[int],
        outputs: Sequence[int],
        hidden: Sequence[int] = (),
        *,
        channels_first: bool = True,
        classes_first: bool = True,
    ) -> None:
        super().__init__()
        size, positions = layout_of_features(features or (1,), channels_first)
        classes, places = layout_of_features(outputs or (1,), classes_first)
        self.outputs, self.channels_first, self.classes_first = tuple(outputs), channels_first, classes_first
        self.places = places if positions else ()  # that classes are told at, each by itself
        if self.places:
            self.grid = tuple(map(min, positions, places))
        else:
            kept = positions if len(positions) <= MOST_DIMENSIONS else (math.prod(positions),)
            # as many of each as fall on an average, where they can be divided so: 28 → 7 of 4
            self.grid = tuple(count // -(-count // MOST_AVERAGES) for count in kept)
            size, classes = size * math.prod(self.grid), math.prod(outputs)
        widths = [size, *hidden]
        layers = [
            layer
            for n_in, n_out in zip(widths, widths[1:], strict=False)
            for layer in (nn.Linear(n_in, n_out), nn.ReLU())
        ]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    def forward(self, h: Tensor) -> Tensor:
        """`[batch, *features]` → `[batch, *outputs]`."""
        if self.grid:
            h = h if self.channels_first else h.movedim(-1, 1)
            h = _averaged(h if h.dim() - 2 == len(self.grid) else h.flatten(2), self.grid)
        if not self.places:
            return self.layers(h.reshape(len(h), -1)).view(len(h), *self.outputs)
        out = _averaged(self.layers(h.movedim(1, -1)).movedim(-1, 1), self.places)
        return out if self.classes_first else out.movedim(1, -1)


class SumOfHeads(nn.Module):
    """That of an output of several carrying parts: the sum of what a head of each says; `dims`: which dimension of each
    counts the samples. A part without one (None) has no head: it is the same for every batch, or its shape is not known."""

    def __init__(self, heads: Sequence[nn.Module | None], dims: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({str(place): head for place, head in enumerate(heads) if head is not None})
        self.dims = tuple(dims)

    def forward(self, h: Gradient) -> Tensor:
        """The parts, as a tuple where there are several → `[batch, *outputs]`."""
        parts = all_of(h)
        first, *rest = [head(parts[int(place)].movedim(self.dims[int(place)], 0)) for place, head in self.heads.items()]
        return sum(rest, start=first)


def positions_of(features: Sequence[int], channels_first: bool) -> tuple[int, ...]:
    """Those of an output of these features; a number a sample, `[]`, has none."""
    return layout_of_features(features or (1,), channels_first)[1]


def is_known(positions: Sequence[int], places: Sequence[int]) -> bool:
    """Whether there is a head for an output with these positions, of a network whose output has those."""
    if not positions or not places or tuple(positions) == tuple(places):
        return True
    return len(positions) == len(places) <= MOST_DIMENSIONS


def _averaged(h: Tensor, size: Sequence[int]) -> Tensor:
    """`[batch, channels, *positions]` at other positions: averages where there are more, repeats where there are fewer."""
    if tuple(h.shape[2:]) == tuple(size):
        return h
    pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(size) - 1]
    averages: Tensor = pool(h, tuple(size))
    return averages

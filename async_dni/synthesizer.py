"""Synthesizers: models of the gradient that a stage's output will receive.

A synthesizer is any `nn.Module` called as `synthesizer(h, condition)`: h `[batch, *features]`, the stage's output;
condition `[batch, classes]`, the labels as one-hot rows (cDNI), or None (DNI). It returns `[batch, *features]`: for
each sample, the gradient of *that sample's* loss with respect to h. A batch-mean loss divides gradients by the batch
size; predicting the undivided ones keeps the targets of one scale for every batch size.

The last layer starts at zero, so that the first synthetic gradients are zero and do no harm (section 4 of
Jaderberg et al., *Decoupled Neural Interfaces using Synthetic Gradients*, arXiv 1608.05343).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LinearSynthesizer(nn.Module):
    """δ̂ = h A + y C, or, not conditioned, δ̂ = h A + b; A, C and b start at zero.

    A row of y has a single one, so C holds a bias for each class, and b would add nothing to it.
    h: `[batch, *features]`; condition y: `[batch, classes]`, or None where `classes` is 0.
    """

    def __init__(self, features: Sequence[int], classes: int = 0) -> None:
        super().__init__()
        size = math.prod(features)
        self.linear = _zeroed(nn.Linear(size, size, bias=not classes))
        self.condition = _zeroed(nn.Linear(classes, size, bias=False)) if classes else None

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        """Predict `[batch, *features]`."""
        flat = h.flatten(1)
        out = self.linear(flat)
        if self.condition is not None and condition is not None:
            out = torch.addmm(out, condition, self.condition.weight.t())
        return out.view_as(h)


class MLPSynthesizer(nn.Module):
    """Hidden layers of Linear, BatchNorm1d, ReLU and a Linear output that starts at zero; sees [h, y].

    h: `[batch, *features]`; condition y: `[batch, classes]`, or None where `classes` is 0.
    """

    def __init__(self, features: Sequence[int], hidden: Sequence[int], classes: int = 0) -> None:
        super().__init__()
        size = math.prod(features)
        sizes = [size + classes, *hidden]
        blocks = [
            nn.Sequential(nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU())
            for n_in, n_out in zip(sizes, sizes[1:], strict=False)
        ]
        self.layers = nn.Sequential(*blocks, _zeroed(nn.Linear(sizes[-1], size)))

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        """Predict `[batch, *features]`."""
        flat = h.flatten(1)
        if condition is not None:
            flat = torch.cat((flat, condition), dim=1)
        return self.layers(flat).view_as(h)


class ConvSynthesizer(nn.Module):
    """5×5 convolutions for feature maps, the last starting at zero; the labels enter as constant planes.

    h: `[batch, channels, height, width]`; condition: `[batch, classes]`, or None where `classes` is 0.
    """

    def __init__(self, features: Sequence[int], hidden: Sequence[int] = (), classes: int = 0) -> None:
        super().__init__()
        channels = features[0]
        sizes = [channels + classes, *hidden]
        blocks = [
            nn.Sequential(nn.Conv2d(n_in, n_out, 5, padding=2, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())
            for n_in, n_out in zip(sizes, sizes[1:], strict=False)
        ]
        self.layers = nn.Sequential(*blocks, _zeroed(nn.Conv2d(sizes[-1], channels, 5, padding=2)))

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        """Predict `[batch, channels, height, width]`."""
        if condition is not None:
            planes = condition[:, :, None, None].expand(-1, -1, *h.shape[2:])
            h = torch.cat((h, planes), dim=1)
        return self.layers(h)


def make_synthesizer(features: Sequence[int], hidden: Sequence[int], classes: int) -> nn.Module:
    """The default synthesizer for outputs `[batch, *features]`: convolutional for feature maps, else linear or MLP."""
    if len(features) == 3:
        return ConvSynthesizer(features, hidden, classes)
    return MLPSynthesizer(features, hidden, classes) if hidden else LinearSynthesizer(features, classes)


def one_hot(target: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Labels `[batch]` int64 as rows `[batch, classes]`, what a conditioned synthesizer sees."""
    return F.one_hot(target, classes).to(dtype)


def _zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer

"""Synthesizers: models of the gradient that a stage's output will receive.

A synthesizer is any `nn.Module` called as `synthesizer(h, labels)`: h `[batch, *features]`, the stage's output; labels
`[batch]` int64 (cDNI), or None (DNI). It returns `[batch, *features]`: for
each sample, the gradient of *that sample's* loss with respect to h. A batch-mean loss divides gradients by the batch
size; predicting the undivided ones keeps the targets of one scale for every batch size.

One that knows its own gradients may have `set_gradients(h, labels, grad_output)`, which is called in place of autograd;
what it returns is then changed in place, so it must be a new tensor.

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

    y, the label as a one-hot row, picks a row of C: a bias for each class, to which b would add nothing.
    h: `[batch, *features]`; labels: `[batch]`, or None where `classes` is 0.
    """

    def __init__(self, features: Sequence[int], classes: int = 0) -> None:
        super().__init__()
        size = math.prod(features)
        self.linear = nn.Linear(size, size, bias=not classes)
        self.condition = nn.Embedding(classes, size) if classes else None
        _zeroed(self)

    def forward(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Predict `[batch, *features]`."""
        flat = h.flatten(1)
        if self.condition is None:
            return self.linear(flat).view_as(h)
        return torch.addmm(self.condition(labels), flat, self.linear.weight.t()).view_as(h)

    @torch.no_grad()
    def set_gradients(self, h: Tensor, labels: Tensor | None, grad_output: Tensor) -> None:
        """Set the parameters' gradients to what autograd would, for the gradient of the output; without its bookkeeping."""
        flat, weight = grad_output.flatten(1), self.linear.weight
        weight.grad = torch.mm(flat.t(), h.flatten(1))
        if self.condition is None:
            self.linear.bias.grad = flat.sum(0)
        elif labels is not None:
            # a product, as adding up rows by index is in no defined order on CUDA
            hot = flat.new_zeros(len(flat), self.condition.num_embeddings).scatter_(1, labels.unsqueeze(1), 1)
            self.condition.weight.grad = torch.mm(hot.t(), flat)


class MLPSynthesizer(nn.Module):
    """Hidden layers of Linear, BatchNorm1d, ReLU and a Linear output that starts at zero; sees [h, y].

    h: `[batch, *features]`; labels: `[batch]`, or None where `classes` is 0.
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
        self.classes = classes

    def forward(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Predict `[batch, *features]`."""
        flat = h.flatten(1)
        if labels is not None:
            flat = torch.cat((flat, one_hot(labels, self.classes, h.dtype)), dim=1)
        return self.layers(flat).view_as(h)


class ConvSynthesizer(nn.Module):
    """5×5 convolutions for feature maps, the last starting at zero; the labels enter as constant planes.

    h: `[batch, channels, height, width]`; labels: `[batch]`, or None where `classes` is 0.
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
        self.classes = classes

    def forward(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Predict `[batch, channels, height, width]`."""
        if labels is not None:
            planes = one_hot(labels, self.classes, h.dtype)[:, :, None, None].expand(-1, -1, *h.shape[2:])
            h = torch.cat((h, planes), dim=1)
        return self.layers(h)


def make_synthesizer(features: Sequence[int], hidden: Sequence[int], classes: int) -> nn.Module:
    """The default synthesizer for outputs `[batch, *features]`: convolutional for feature maps, else linear or MLP."""
    if len(features) == 3:
        return ConvSynthesizer(features, hidden, classes)
    return MLPSynthesizer(features, hidden, classes) if hidden else LinearSynthesizer(features, classes)


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Labels `[batch]` int64 as rows `[batch, classes]`."""
    return F.one_hot(labels, classes).to(dtype)


def _zeroed(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer

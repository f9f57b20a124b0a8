"""A linear synthesizer, which needs no autograd."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..condition import embedded, in_rows
from .synthesizer import VECTOR, SynthesizerSpec, zeroed


class LinearSynthesizer(nn.Module):
    """δ̂ = h A + y C, or, not conditioned, δ̂ = h A + b; A, C and b start at zero.

    y, the label as a one-hot row, picks a row of C: a bias for each class, to which b would add nothing.
    h: `[batch, *features]`; labels: `[batch]`, or numbers `[batch, classes]`, or None where `classes` is 0.
    """

    def __init__(self, features: Sequence[int], classes: int = 0) -> None:
        super().__init__()
        size = math.prod(features)
        self.linear = nn.Linear(size, size, bias=not classes)
        self.condition = nn.Embedding(classes, size) if classes else None
        zeroed(self)

    def forward(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Predict `[batch, *features]`."""
        flat = h.flatten(1)
        if self.condition is None or labels is None:
            return self.linear(flat).view_as(h)
        return torch.addmm(embedded(labels, self.condition.weight), flat, self.linear.weight.t()).view_as(h)

    @torch.no_grad()
    def set_gradients(self, h: Tensor, labels: Tensor | None, grad_output: Tensor) -> None:
        """Set the parameters' gradients to what autograd would, for the gradient of the output; without its bookkeeping."""
        flat, weight = grad_output.flatten(1), self.linear.weight
        weight.grad = torch.mm(flat.t(), h.flatten(1))
        if self.condition is None:
            self.linear.bias.grad = flat.sum(0)
        elif labels is not None:
            # a product, as adding up rows by index is in no defined order on CUDA
            rows = in_rows(labels, self.condition.num_embeddings, flat.dtype)
            self.condition.weight.grad = torch.mm(rows.t(), flat)


LINEAR = SynthesizerSpec(
    name="linear",
    help="a product and a bias for each class",
    make=lambda features, hidden, classes: LinearSynthesizer(features, classes),
    has_hidden=False,
    layout=VECTOR,
)

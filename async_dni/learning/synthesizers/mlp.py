"""A synthesizer with hidden layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..condition import in_rows
from .synthesizer import VECTOR, SynthesizerSpec, zeroed


class MLPSynthesizer(nn.Module):
    """Hidden layers of Linear, BatchNorm1d, ReLU and a Linear output that starts at zero; sees [h, y].

    h: `[batch, *features]`; labels: `[batch]`, or numbers `[batch, classes]`, or None where `classes` is 0.
    """

    def __init__(self, features: Sequence[int], hidden: Sequence[int], classes: int = 0) -> None:
        super().__init__()
        size = math.prod(features)
        sizes = [size + classes, *hidden]
        blocks = [
            nn.Sequential(nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU())
            for n_in, n_out in zip(sizes, sizes[1:], strict=False)
        ]
        self.layers = nn.Sequential(*blocks, zeroed(nn.Linear(sizes[-1], size)))
        self.classes = classes

    def forward(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Predict `[batch, *features]`."""
        flat = h.flatten(1)
        if labels is not None:
            flat = torch.cat((flat, in_rows(labels, self.classes, h.dtype)), dim=1)
        return self.layers(flat).view_as(h)


MLP = SynthesizerSpec(
    name="mlp",
    help="hidden layers of --synthesizer-hidden, with batch norm and ReLU",
    make=MLPSynthesizer,
    layout=VECTOR,
)

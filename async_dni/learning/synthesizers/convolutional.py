"""A synthesizer for feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..condition import in_rows
from .synthesizer import CHANNELS_FIRST, SynthesizerSpec, zeroed


class ConvSynthesizer(nn.Module):
    """Convolutions for feature maps, the last starting at zero; what it sees of the target enters as planes.

    h: `[batch, channels, *positions]`, of one to three dimensions; labels: `[batch]` or `[batch, *positions]`, or numbers
    `[batch, classes]` or `[batch, *positions, classes]`, or None where `classes` is 0.
    """

    def __init__(self, features: Sequence[int], hidden: Sequence[int] = (), classes: int = 0, kernel: int = 5) -> None:
        super().__init__()
        channels, dims = features[0], len(features) - 1
        conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        norm: Any = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
        sizes = [channels + classes, *hidden]
        blocks = [
            nn.Sequential(conv(n_in, n_out, kernel, padding=kernel // 2, bias=False), norm(n_out), nn.ReLU())
            for n_in, n_out in zip(sizes, sizes[1:], strict=False)
        ]
        self.layers = nn.Sequential(*blocks, zeroed(conv(sizes[-1], channels, kernel, padding=kernel // 2)))
        self.classes = classes

    def forward(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Predict `[batch, channels, *positions]`."""
        if labels is not None:
            rows = in_rows(labels, self.classes, h.dtype)  # [batch, classes] or [batch, *positions, classes]
            planes = rows.view(*rows.shape, *[1] * (h.dim() - 2)) if rows.dim() == 2 else rows.movedim(-1, 1)
            h = torch.cat((h, planes.expand(-1, -1, *h.shape[2:])), dim=1)
        return self.layers(h)


CONVOLUTIONAL = SynthesizerSpec(
    name="convolutional",
    help="5×5 convolutions, for feature maps",
    make=ConvSynthesizer,
    takes="[channels, *positions], of one to three dimensions",
    fits=lambda features: 2 <= len(features) <= 4,
    layout=CHANNELS_FIRST,
    settings={"kernel": 5},
)

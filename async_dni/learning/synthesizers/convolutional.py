"""A synthesizer for feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .synthesizer import SynthesizerSpec, one_hot, zeroed


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
        self.layers = nn.Sequential(*blocks, zeroed(nn.Conv2d(sizes[-1], channels, 5, padding=2)))
        self.classes = classes

    def forward(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Predict `[batch, channels, height, width]`."""
        if labels is not None:
            planes = one_hot(labels, self.classes, h.dtype)[:, :, None, None].expand(-1, -1, *h.shape[2:])
            h = torch.cat((h, planes), dim=1)
        return self.layers(h)


CONVOLUTIONAL = SynthesizerSpec(
    name="convolutional",
    help="5×5 convolutions, for feature maps",
    make=ConvSynthesizer,
    takes="[channels, height, width]",
    fits=lambda features: len(features) == 3,
)

"""A small VGG."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ...foundation.option import one_of
from .model import ModelSpec, check_images, share

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # between poolings
WIDTHS = (1, 2, 4, 8, 8)


def vgg(
    depth: int = 11,
    width: int = 16,
    dropout: float = 0.0,
    *,
    input_shape: Sequence[int] = (3, 32, 32),
    num_classes: int = 10,
) -> nn.Sequential:
    """VGG (Simonyan and Zisserman, arXiv 1409.1556) with batch norm, and one Linear in place of three.

    `depth`: that of the paper's networks, 11, 13, 16 or 19. `width`: channels of the first layer, 64 in the paper. Each
    convolution, with its norm, ReLU and, where it is the last of its size, pooling, is a block; so is the output, before which
    a share `dropout` of the features is left out.
    Input `[batch, channels, height, width]`, output: logits `[batch, num_classes]`.
    """
    check_images("vgg", input_shape)
    channels, blocks = input_shape[0], []
    for count, factor in zip(CONVOLUTIONS[depth], WIDTHS, strict=True):
        for convolution in range(count):
            conv = nn.Conv2d(channels, channels := width * factor, 3, padding=1, bias=False)
            # a row or column that is left over is pooled, too, so that images of any size come through
            pool = [nn.MaxPool2d(2, ceil_mode=True)] if convolution == count - 1 else []
            blocks.append(nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(), *pool))
    drops = [nn.Dropout(dropout)] if dropout else []
    output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *drops, nn.Linear(channels, num_classes))
    return nn.Sequential(*blocks, output)


VGG = ModelSpec(
    name="vgg",
    help="3x3 convolution, BatchNorm, ReLU blocks; depth 11, 16 to 128 channels",
    make=vgg,
    settings={"depth": 11, "width": 16, "dropout": 0.0},
    checks={"depth": one_of(tuple(CONVOLUTIONS)), "dropout": share},
)

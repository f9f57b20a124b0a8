"""The paper's convolutional network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .model import ModelSpec, check_images, share


def cnn(
    layers: int = 3,
    width: int = 32,
    dropout: float = 0.0,
    *,
    input_shape: Sequence[int] = (1, 28, 28),
    num_classes: int = 10,
) -> nn.Sequential:
    """The paper's convolutional network (arXiv 1608.05343): 5x5 convolution, batch norm, ReLU, pooling; a Linear output.

    `layers` counts the output layer, so `layers=3` has two hidden blocks of `width` channels, each of which halves the image.
    Before the output, a share `dropout` of the features is left out. The paper's has 128 channels.
    Input `[batch, channels, height, width]`, output: logits `[batch, num_classes]`.
    """
    check_images("cnn", input_shape)
    channels = [input_shape[0]] + [width] * (layers - 1)
    hidden = [
        # batch norm follows, so a bias would be subtracted again
        nn.Sequential(
            nn.Conv2d(c_in, c_out, 5, padding=2, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        for c_in, c_out in zip(channels, channels[1:], strict=False)
    ]
    features = channels[-1]
    for size in input_shape[1:]:
        for _ in hidden:
            size = -(-size // 2)
        features *= size
    drops = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*hidden, nn.Sequential(nn.Flatten(), *drops, nn.Linear(features, num_classes)))


CNN = ModelSpec(
    name="cnn",
    help="5x5 convolution, BatchNorm, ReLU, pooling blocks; 3 layers of 32 channels",
    make=cnn,
    settings={"layers": 3, "width": 32, "dropout": 0.0},
    checks={"dropout": share},
)

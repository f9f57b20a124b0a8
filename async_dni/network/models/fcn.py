"""The paper's fully connected network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from .model import ModelSpec


def fcn(
    layers: int = 3, width: int = 256, *, input_shape: Sequence[int] = (1, 28, 28), num_classes: int = 10
) -> nn.Sequential:
    """The paper's fully connected network (arXiv 1608.05343): Linear, BatchNorm1d, ReLU, and a Linear output.

    `layers` counts the output layer, so `layers=3` has two hidden blocks of `width` units.
    Input `[batch, *input_shape]`, output: logits `[batch, num_classes]`.
    """
    sizes = [math.prod(input_shape)] + [width] * (layers - 1)
    hidden = [
        # batch norm follows, so a bias would be subtracted again
        nn.Sequential(*_flatten(i), nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU())
        for i, (n_in, n_out) in enumerate(zip(sizes, sizes[1:], strict=False))
    ]
    return nn.Sequential(*hidden, nn.Sequential(*_flatten(layers - 1), nn.Linear(sizes[-1], num_classes)))


def _flatten(block: int) -> list[nn.Module]:
    return [nn.Flatten()] if block == 0 else []


FCN = ModelSpec(
    name="fcn", help="Linear, BatchNorm, ReLU blocks; 3 layers of 256", make=fcn, settings={"layers": 3, "width": 256}
)

"""A network of one hidden layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from .model import ModelSpec


def tanh(width: int = 2048, *, input_shape: Sequence[int] = (1, 28, 28), num_classes: int = 10) -> nn.Sequential:
    """One hidden layer of tanh units: the stock MNIST demo that the seed of this project started from.

    Input `[batch, *input_shape]`, output: logits `[batch, num_classes]`.
    """
    hidden = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), width), nn.Tanh())
    return nn.Sequential(hidden, nn.Linear(width, num_classes))


TANH = ModelSpec(name="tanh", help="one hidden layer of 2048", make=tanh, settings={"width": 2048}, fixed={"layers": 2})

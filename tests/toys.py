"""A method and a synthesizer of another package, as `--plugin toys` adds them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from async_dni import METHODS, SYNTHESIZERS, Method, MethodParts, MethodSpec, SynthesizerSpec


class Imitation(Method):
    """Each stage by itself: its first outputs are to be the label, one-hot. ∂/∂h of ½‖h − y‖², averaged over the batch."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def now(self, h: Tensor, target: Tensor) -> Tensor:
        error = h - F.pad(F.one_hot(target, self.classes), (0, h.shape[1] - self.classes))
        self.loss = error.square().sum() / 2 / len(h)
        return error / len(h)


class Bias(nn.Module):
    """δ̂ = b."""

    def __init__(self, features: Sequence[int], hidden: Sequence[int], classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(*features))

    def forward(self, h: Tensor, labels: Tensor | None) -> Tensor:
        return self.bias.expand_as(h)


def make_imitation(parts: MethodParts) -> Imitation:
    return Imitation(parts.classes)


IMITATION = METHODS.add(
    MethodSpec(
        name="imitation", help="of a loss of each stage's own", make=make_imitation, gradients=False, conditioned=True
    )
)
BIAS = SYNTHESIZERS.add(SynthesizerSpec(name="bias", help="the mean gradient", make=Bias, has_hidden=False))

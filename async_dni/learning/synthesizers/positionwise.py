"""A synthesizer for sequences: the same for every position, so that its size doesn't depend on how many there are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .low_rank import LowRankSynthesizer
from .mlp import MLPSynthesizer
from .synthesizer import CHANNELS_LAST, SynthesizerSpec


class PositionwiseSynthesizer(nn.Module):
    """A synthesizer of low rank, or an MLP where `hidden` has widths, of each position by itself.

    h: `[batch, *positions, features]`; labels: `[batch]` or `[batch, *positions]`, or numbers `[batch, classes]` or
    `[batch, *positions, classes]`, or None where `classes` is 0. What is of a sample holds for all its positions.
    """

    def __init__(
        self, features: Sequence[int], hidden: Sequence[int] = (), classes: int = 0, rank: int | None = None
    ) -> None:
        super().__init__()
        self.positions, of_one = math.prod(features[:-1]), features[-1:]
        self.each: nn.Module = (
            MLPSynthesizer(of_one, hidden, classes) if hidden else LowRankSynthesizer(of_one, classes, rank)
        )
        # of the newest prediction: h and labels, and what `each` got for them, by which that remembers it
        self._newest: tuple[Tensor, Tensor | None, Tensor, Tensor | None] | None = None

    def forward(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Predict `[batch, *positions, features]`."""
        flat, of_each = h.flatten(0, -2), self._of_each(h, labels)
        self._newest = None if torch.is_grad_enabled() else (h, labels, flat, of_each)
        prediction: Tensor = self.each(flat, of_each)
        return prediction.view_as(h)

    @property
    def set_gradients(self) -> object:
        """That of all positions; an MLP has none."""
        return self._set_gradients if isinstance(self.each, LowRankSynthesizer) else None

    @torch.no_grad()
    def _set_gradients(self, h: Tensor, labels: Tensor | None, grad_output: Tensor) -> None:
        assert isinstance(self.each, LowRankSynthesizer)
        newest, self._newest = self._newest, None
        if newest is not None and newest[0] is h and newest[1] is labels:
            _, _, flat, of_each = newest
        else:
            flat, of_each = h.flatten(0, -2), self._of_each(h, labels)
        self.each.set_gradients(flat, of_each, grad_output.flatten(0, -2))

    def _of_each(self, h: Tensor, labels: Tensor | None) -> Tensor | None:
        """What the synthesizer sees at each position of each sample, one after the other."""
        if labels is None:
            return None
        of_samples = labels.dim() == (2 if labels.is_floating_point() else 1)
        if of_samples:
            return labels.repeat_interleave(self.positions, 0)
        return labels.flatten(0, h.dim() - 2)


POSITIONWISE = SynthesizerSpec(
    name="positionwise",
    help="for sequences: of low rank, or with hidden layers, the same at each position",
    make=PositionwiseSynthesizer,
    takes="[*positions, features]",
    fits=lambda features: len(features) >= 2,
    layout=CHANNELS_LAST,
    settings={"rank": None},  # by the number of features
)

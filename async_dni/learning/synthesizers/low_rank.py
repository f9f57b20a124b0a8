"""A synthesizer whose product is of low rank: cheaper than the linear one, and better, where an output is not tiny."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..condition import in_rows
from .synthesizer import VECTOR, SynthesizerSpec, zeroed

LOWEST_RANK, HIGHEST_RANK = 16, 64  # by default, where an output is large enough
MOST_WEIGHTS = 2**24  # of a default rank's two products: what a map of 131,072 numbers has with rank 64


class LowRankSynthesizer(nn.Module):
    """δ̂ = [h A, y] B: h in a code of `rank` numbers, what is seen of the target beside it, and back to h's size.

    y, the label as a one-hot row, picks a row of B: a bias for each class. Not conditioned, y is 1: a bias. A starts as in any
    `nn.Linear`, B at zero. All that a sample has is taken as one vector, so a map's prediction may differ by position.
    h: `[batch, *features]`; labels: `[batch]`, or numbers `[batch, classes]`, or None where `classes` is 0. `rank`: None
    for that of `default_rank`.
    """

    def __init__(self, features: Sequence[int], classes: int = 0, rank: int | None = None) -> None:
        super().__init__()
        size, self.classes = math.prod(features), classes
        self.rank = rank or default_rank(size)
        self.down = nn.Linear(size, self.rank, bias=False)
        self.up = zeroed(nn.Linear(self.rank + max(classes, 1), size, bias=False))
        # of the newest prediction without autograd: h, labels, and their code
        self._newest: tuple[Tensor, Tensor | None, Tensor] | None = None

    def forward(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Predict `[batch, *features]`."""
        code = self._code(h.flatten(1), labels)
        self._newest = None if torch.is_grad_enabled() else (h, labels, code)
        prediction: Tensor = self.up(code)
        return prediction.view_as(h)

    @torch.no_grad()
    def set_gradients(self, h: Tensor, labels: Tensor | None, grad_output: Tensor) -> None:
        """Set the parameters' gradients to what autograd would, for the gradient of the output; without its bookkeeping."""
        flat, grad, newest, self._newest = h.flatten(1), grad_output.flatten(1), self._newest, None
        # no version of A is looked at: a fused optimizer's step changes A, and not its version
        is_known = newest is not None and newest[0] is h and newest[1] is labels
        code = newest[2] if newest is not None and is_known else self._code(flat, labels)
        self.up.weight.grad = torch.mm(grad.t(), code)
        self.down.weight.grad = torch.mm(torch.mm(grad, self.up.weight[:, : self.rank]).t(), flat)

    def _code(self, flat: Tensor, labels: Tensor | None) -> Tensor:
        """`[batch, rank + classes]`."""
        seen = flat.new_ones(len(flat), 1) if labels is None else in_rows(labels, self.classes, flat.dtype)
        return torch.cat((self.down(flat), seen), dim=1)


def default_rank(size: int) -> int:
    """For outputs of `size` numbers: the power of two below the root of it, or 16; at most 64, the size, what memory bears."""
    most = min(size, HIGHEST_RANK, max(LOWEST_RANK, math.isqrt(size)), max(1, MOST_WEIGHTS // (2 * size)))
    return 2 ** (most.bit_length() - 1)


LOW_RANK = SynthesizerSpec(
    name="low-rank",
    help="a product of low rank and a bias for each class",
    make=lambda features, hidden, classes, rank=None: LowRankSynthesizer(features, classes, rank),
    has_hidden=False,
    takes="of any shape, as one vector",
    layout=VECTOR,
    settings={"rank": None},  # by the size of the output
)

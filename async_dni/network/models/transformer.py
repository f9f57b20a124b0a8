"""A decoder-only transformer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...foundation.error import ConfigError
from .model import ModelSpec, share


class Embedded(nn.Module):
    """Tokens and their positions, embedded: `[batch, time]` int64 → `[batch, time, width]`; `time` is at most `length`."""

    def __init__(self, tokens: int, length: int, width: int, dropout: float) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.dropout = nn.Dropout(dropout)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        positions = self.positions.weight[: x.shape[1]]
        return self.dropout(self.tokens(x) + positions)


class Decoder(nn.Module):
    """A pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)); `[batch, time, width]`, no step sees a later one."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.out(self._attention(self.norm1(x))))
        return x + self.dropout(self.mlp(self.norm2(x)))

    def _attention(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [batch, heads, time, …]
        drops = self.dropout.p if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=drops).transpose(1, 2).flatten(2)


class Output(nn.Module):
    """Logits of the next token: `[batch, time, width]` → `[batch, tokens, time]`, as `CrossEntropyLoss` wants them."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.norm(x))
        return logits.transpose(1, 2)


def transformer(
    depth: int = 4,
    width: int = 128,
    heads: int = 4,
    dropout: float = 0.0,
    *,
    input_shape: Sequence[int] = (64,),
    num_classes: int = 256,
) -> nn.Sequential:
    """A decoder-only transformer with learned positions and pre-norm blocks, as GPT-2 has them, for tokens of a vocabulary.

    The embedding, each of `depth` decoder blocks, and the output are one block each; the weights of embedding and output are
    not shared, as they lie in two stages. Input `[batch, time]` int64, output: logits `[batch, num_classes, time]`.
    """
    if len(input_shape) != 1:
        raise ConfigError("model", "transformer", f"it is for sequences of tokens [time], not {list(input_shape)}")
    if width % heads:
        raise ConfigError("heads", heads, f"allowed: a divisor of the width, {width}")
    decoders = [Decoder(width, heads, dropout) for _ in range(depth)]
    with torch.no_grad():
        for decoder in decoders:  # so that the sum over the blocks has the size of one at first
            for linear in (decoder.out, decoder.mlp[2]):
                linear.weight.mul_((2 * depth) ** -0.5)  # type: ignore[operator]
    return nn.Sequential(Embedded(num_classes, input_shape[0], width, dropout), *decoders, Output(width, num_classes))


TRANSFORMER = ModelSpec(
    name="transformer",
    help="decoder blocks for tokens; depth 4, width 128, 4 heads",
    make=transformer,
    settings={"depth": 4, "width": 128, "heads": 4, "dropout": 0.0},
    checks={"dropout": share},
)

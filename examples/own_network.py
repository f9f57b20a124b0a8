"""A network of one's own: blocks that pass a residual stream and a mask along, cut between them.

    python examples/own_network.py
    python launch.py --model examples/own_network.py:make --data examples/own_network.py:data --workers 4 --batch-size 100

Sequences of different lengths are padded to one; the mask says what is padding. Is the largest number of a sequence in its
first half? A few seconds on 2 cores.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from async_dni import Trainer

LENGTH, WIDTH = 12, 32


class Embed(nn.Module):
    """`[batch, length]`, numbers from 0 to 1, and -1 for padding → a stream `[batch, length, WIDTH]` and its mask."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.positions = nn.Linear(1, WIDTH), nn.Parameter(torch.randn(LENGTH, WIDTH) / 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x.unsqueeze(-1)) + self.positions, x >= 0


class Attend(nn.Module):
    """Takes the stream and the mask, and gives both: the mask goes along without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(WIDTH), nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, WIDTH))

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        stream, mask = inputs
        x = self.norm(stream)
        stream = stream + self.attention(x, x, x, key_padding_mask=~mask, need_weights=False)[0]
        return stream + self.mlp(stream), mask


class Decide(nn.Module):
    """The mean of the stream where the mask is, and a class of two: `[batch, 2]`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 2)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        stream, mask = inputs
        return self.linear((stream * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))


def sequences(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples `[count, LENGTH]` and whether the largest number stands in the first half of each."""
    generator = torch.Generator().manual_seed(seed)
    x, lengths = (
        torch.rand(count, LENGTH, generator=generator),
        torch.randint(4, LENGTH + 1, (count, 1), generator=generator),
    )
    x[torch.arange(LENGTH) >= lengths] = -1
    return x, (x.argmax(1) < LENGTH // 2).long()


def make() -> nn.Sequential:
    """The network: four blocks."""
    return nn.Sequential(Embed(), Attend(), Attend(), Decide())


def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The training set and the test set."""
    return sequences(4000, seed=0), sequences(1000, seed=1)


def main() -> None:
    """Train it in three processes."""
    torch.manual_seed(0)
    train_set, test_set = data()
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    # synthesizers (method="cdni") learn this network, too, but not from every start, nor where gradients come late
    trainer = Trainer(make(), workers=3, split=(1, 2), method="delayed", batch_size=100, optimizer=optimizer)
    result = trainer.fit(train_set, epochs=12, eval_set=test_set)
    print(f"test error {result.test_error:.1f} % (23 % by always saying the first half)")


if __name__ == "__main__":  # workers are processes that import this file again
    main()

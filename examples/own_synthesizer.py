"""A synthesizer of one's own: of low rank like the default, its code scaled by the label, δ̂ = ((h A) ⊙ G[y]) B + C[y].

    python examples/own_synthesizer.py

It is registered under a name, too, by which the command line could take it (--plugin). About 10 seconds on 2 cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from async_dni import SYNTHESIZERS, SynthesizerSpec, Trainer, fcn, load_dataset


class Gated(nn.Module):
    """Called with h `[batch, features]` and labels `[batch]` int64; gives the gradient of each sample's loss, shaped as h."""

    def __init__(self, features: Sequence[int], classes: int, rank: int = 16) -> None:
        super().__init__()
        (size,) = features
        self.down, self.up = nn.Linear(size, rank, bias=False), nn.Linear(rank, size, bias=False)
        self.gate, self.condition = nn.Embedding(classes, rank), nn.Embedding(classes, size)
        nn.init.ones_(self.gate.weight)
        for weight in (self.up.weight, self.condition.weight):
            nn.init.zeros_(weight)  # so that the first gradients are zero, and do no harm

    def forward(self, h: Tensor, labels: Tensor) -> Tensor:
        return self.up(self.down(h) * self.gate(labels)) + self.condition(labels)


def make_gated(features: Sequence[int], hidden: Sequence[int], classes: int, rank: int = 16) -> Gated:
    """As a registered one is made; `rank` is a setting: `--synthesizer gated:rank=32`."""
    return Gated(features, classes, rank)


SYNTHESIZERS.add(
    SynthesizerSpec("gated", "low rank, gated", make_gated, has_hidden=False, layout="vector", settings={"rank": 16})
)


def main() -> None:
    """Train with it, and with the default one."""
    train_set, test_set = load_dataset("mnist")
    optimizer = partial(torch.optim.Adam, lr=1e-3, fused=True)
    for name, synthesizer in (("default", None), ("own, rank 16", Gated), ("by name, rank 32", "gated:rank=32")):
        torch.manual_seed(0)
        trainer = Trainer(fcn(layers=3, width=256), workers=3, optimizer=optimizer, synthesizer=synthesizer)
        result = trainer.fit(train_set, epochs=1, eval_set=test_set)
        rate = result.summary["samples_per_second"]
        print(f"{name:16}  test error {result.test_error:.2f} %  {rate:,.0f} samples/s")


if __name__ == "__main__":  # workers are processes that import this file again
    main()
